"""The documents in ``docs`` are true: what they name is there, and their map of the package is complete."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

import pytest
from documents import blocks_of, run_as_written, unmeasured

import asyncpc

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = Path(asyncpc.__file__).parent
DOCS: Final = sorted((ROOT / "docs").rglob("*.md"))
ELSEWHERE: Final = {"adding-an-option.md", "messages.md"}
"""Pages with a test of their own: their blocks are parts of files, or programs that fail."""
PROGRAMS: Final = [path for path in DOCS if path.name not in ELSEWHERE and blocks_of(path.read_text())]
HOW: Final = (ROOT / "docs" / "how-it-works.md").read_text()
MADE_THERE: Final = {"options/dedupe.py", "tests/options/test_dedupe.py"}
"""Files that a page tells its reader to write."""
BESIDE: Final = ("runner", "metrics")
"""Modules that are a wing by themselves."""


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


@pytest.mark.parametrize("path", [*DOCS, ROOT / "README.md"], ids=lambda path: path.stem)
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


@pytest.mark.realtime
@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_the_programs_run_as_written(path: Path, tmp_path: Path) -> None:
    """Who copies a program from a page can run it as it is, sees what the page shows, and has no complaint to read."""
    run_as_written(blocks_of(path.read_text()), tmp_path)


def test_the_site_has_every_page() -> None:
    """A page that the navigation leaves out is not found; one that is gone breaks the build."""
    with (ROOT / "zensical.toml").open("rb") as file:
        navigation = tomllib.load(file)["project"]["nav"]
    assert sorted(re.findall(r"'([\w/-]+\.md)'", repr(navigation))) == [
        path.relative_to(ROOT / "docs").as_posix() for path in DOCS
    ]


def test_the_reference_describes_every_public_name_once() -> None:
    """Who looks a name up finds it, whatever is added to the package."""
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md"))
    assert sorted(re.findall(r"^::: asyncpc\.(\w+)$", pages, re.MULTILINE)) == sorted(asyncpc.__all__)


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
    assert {path.name for path in DOCS if path.parent.name == "how-to"} <= {path.name for path in PROGRAMS}
    assert blocks_of("```python\na\n```\n\n```text\nb\n```\n```sh\nasyncpc c\n```\n\nd\n") == [
        ("python", "a\n", "b\n"),
        ("sh", "asyncpc c\n", ""),
    ]
    assert unmeasured(
        "stage   done  queued   rate\n------  ----  ------  -----\na  3 of 4       7  1,234\n4 in 0.1 s\n"
    ) == ("stage done queued rate\n- - - -\na 3 of 4 #\n4 in # s\n")
