"""The documents in ``docs`` are true: what they name is there, and their map of the package is complete."""

from __future__ import annotations

import re
import signal
import tomllib
from pathlib import Path
from typing import Final

import pytest
from children import PATIENCE, UNMEASURED, Child, Ended, run_child
from pages import CTRL_C, DOCS, PAGES, README, Program, differs, files, programs, unmeasured

import asyncpc
import asyncpc.remote
import asyncpc.testing

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = Path(asyncpc.__file__).parent
BESIDE: Final = ("runner", "metrics", "live")
"""Modules that are a wing by themselves."""
HOW: Final = (DOCS / "how-it-works.md").read_text()
MADE_THERE: Final = {"options/dedupe.py", "tests/options/test_dedupe.py"}
"""Files that a page tells its reader to write."""


def anchors(text: str) -> set[str]:
    """The names by which its headings are linked to."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def files_named(text: str) -> set[str]:
    """The Python files that a text names, as from the top of the package or of the project."""
    return {name.removeprefix("asyncpc/") for name in re.findall(r"`((?:\w+/)+\w+\.py|runner\.py)`", text)}


def map_of(text: str) -> dict[str, list[str]]:
    """The modules that the map names, by wing; "" is the ground floor."""
    section = text.partition("## The map")[2].partition("\n## ")[0]
    rows = [row.strip("|").split(" | ") for row in section.splitlines() if row.startswith("| ")]
    return {
        row[0].strip(" `/"): re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", row[2]))
        for row in rows
        if not row[0].startswith(" wing")
    }


@pytest.mark.parametrize("path", [*PAGES, README], ids=lambda path: path.stem)
def test_links_and_files_are_there(path: Path) -> None:
    """A reader who follows a link, or looks for a file that is named, finds it."""
    text = path.read_text()
    for link in re.findall(r"\]\(([^):]+)\)", text):
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link
    missing = {
        name for name in files_named(text) - MADE_THERE if not ((PACKAGE / name).exists() or (ROOT / name).exists())
    }
    assert not missing


# -- the programs ---------------------------------------------------------------------------------

ELSEWHERE: Final = {"adding-an-option.md", "messages.md", "notebooks.md"}
"""Pages whose programs only a test of its own can run."""

SERVES: Final = "app.py"
"""The title of a program that waits for requests; ``test_web_pages.py`` makes them."""

NOT_HERE: Final = {
    *("streamable", "FastStream", "FastStream with asyncpc", "FastStream with Redis", "Celery", "taskiq", "arq"),
    "an engine of your own",
}
"""Titles of programs that need another library, or a broker beside it. They are compiled here, and tried by hand."""

NEED_A_SERVER: Final = {"remote-redis.md", "remote-postgresql.md", "remote-nats.md", "remote-rabbitmq.md"}
"""Pages whose programs are compiled here; what they do is tested with the engines."""

RUNNABLE: Final = [page for page in [*PAGES, README] if programs(page) and page.name not in ELSEWHERE]

ALL: Final = 1000
"""Runs of programs, more than a page has."""


def run_as_shown(program: Program, folder: Path, arguments: list[str]) -> Ended:
    """Run a program to its end, which is a Ctrl-C if the page shows one, after the line above it."""
    before, is_stopped, _ = program.output.partition(CTRL_C)
    if not is_stopped:
        return run_child(folder, *arguments, **UNMEASURED)
    environment = UNMEASURED | {"PYTHONUNBUFFERED": "1"}
    child = Child(folder, *arguments, own_group=False, patience=PATIENCE, **environment)
    child.line_with(before.splitlines()[-1])
    child.send(signal.SIGINT)
    return child.end()


@pytest.mark.realtime
@pytest.mark.parametrize("most", [1, pytest.param(ALL, marks=pytest.mark.thorough)], ids=["first", "all"])
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.stem)
def test_the_programs_of_a_page_run(page: Path, most: int, tmp_path: Path) -> None:
    """Who copies a program from a page can run it as it is, and sees what the page shows, a traceback included.

    A quick run runs the first that can be run, and compiles the others.
    """
    runs = 0
    for name, text in files(page).items():
        (tmp_path / name).write_text(text)
    tested = [one.title for one in programs(page) if one.title.startswith("test_")]
    for program in programs(page):
        name = program.title or "app.py"
        if program.language == "python":
            (tmp_path / name).write_text(program.text)
            compile(program.text, name, "exec")
        if program.title == SERVES or name in tested or name in NOT_HERE or page.name in NEED_A_SERVER:
            continue
        fails = "Traceback" in program.output
        for arguments in (program.commands() or [[name]])[: most - runs]:
            runs += 1
            ended = run_as_shown(program, tmp_path, arguments)
            assert ended.status == fails, ended.err
            assert fails or "Traceback" not in ended.err
            written = (ended.out + ended.err * fails).replace(f"{tmp_path}/", "")
            assert not program.output or not (wrong := differs(written, program.output)), wrong
    if tested and most == ALL:
        ended = run_child(tmp_path, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:faker", *tested, **UNMEASURED)
        assert ended.status == 0, ended.out + ended.err


def test_outputs_are_compared() -> None:
    """Protects the test above: another figure or another line is noticed, another rate or duration is not."""
    table = (
        "a     done  peak queued  rate\n----  ----  -----------  ----\nshow     {}            {}    {}\nshow in {} s\n"
    )
    promised = table.format(9, 1, 30, 0.1)
    assert unmeasured(promised) == "a done peak queued rate\nshow 9\nshow in # s\n"
    assert not differs(table.format(9, 2, 31, 0.2), promised)
    assert differs(table.format(8, 1, 30, 0.1), promised)
    assert not differs("1\n2\n3\n4\n", "1\n...\n4\n")
    assert differs("1\n2\n3\n4\n", "1\n...\n5\n")
    assert differs("1\n2\n", "1\n")
    assert not differs("1\n2\n", "1\n^C\n2\n")


# -- the site -------------------------------------------------------------------------------------


def test_the_site_has_every_page() -> None:
    """A page that the navigation leaves out is not found; one that is gone breaks the build."""
    with (ROOT / "zensical.toml").open("rb") as file:
        navigation = tomllib.load(file)["project"]["nav"]
    assert sorted(re.findall(r"'([\w/-]+\.md)'", repr(navigation))) == [
        path.relative_to(DOCS).as_posix() for path in PAGES
    ]


def test_the_reference_describes_every_public_name_once() -> None:
    """Who looks a name up finds it, whatever is added to the package."""
    pages = "".join(path.read_text() for path in (DOCS / "reference").glob("*.md"))
    assert sorted(re.findall(r"^::: asyncpc\.(?:runner\.)?(\w+)$", pages, re.MULTILINE)) == sorted(asyncpc.__all__)
    for package in (asyncpc.remote, asyncpc.testing):
        told = re.findall(rf"^::: {package.__name__}\.(\w+)$", pages, re.MULTILINE)
        assert sorted(told) == sorted(package.__all__)


def test_the_map_is_complete() -> None:
    """Who looks for a thing finds its module on the map; each module is there once, and none that is gone."""
    wings = {path.name: path for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    there = {wing: sorted(file.stem for file in path.glob("[!_]*.py")) for wing, path in wings.items()}
    ground = sorted(file.stem for file in PACKAGE.glob("[!_]*.py") if file.stem not in BESIDE)
    assert {wing: sorted(modules) for wing, modules in map_of(HOW).items()} == {
        **there,
        **{wing: [] for wing in BESIDE},
        "": ground,
    }


def test_what_is_looked_for_is_found() -> None:
    """Protects the tests above: a search that finds nothing proves nothing."""
    assert anchors("# A map\n## What `x=` is, and why\n") == {"a-map", "what-x-is-and-why"}
    assert files_named("`core/emit.py`, `asyncpc/options/key.py`, `runner.py`, `a.b`, x/y.py") == {
        *("core/emit.py", "options/key.py", "runner.py")
    }
    assert map_of("## The map\n| wing | for | its |\n| `a/` | x | `b` (`no`) · `c` (d) |\n| | y | `e` |\n") == {
        "a": ["b", "c"],
        "": ["e"],
    }
    assert len(files_named(HOW)) > 20
