"""``docs/adding-an-option.md`` is true: with its files and lines a copy of the package has an option that works."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from children import Ended, run_pytest

from asyncpc import options
from asyncpc.graph.definitions import OPTIONS

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = (ROOT / "docs" / "adding-an-option.md").read_text()

ELSEWHERE: Final = {"context", "batch"}
"""Arguments whose types change those of the handler: the overloads of ``consumer`` have them, not ``Options``."""


class Change(NamedTuple):
    """A piece of a file, and what it becomes."""

    path: str
    before: str
    after: str


def files() -> dict[str, str]:
    """The new files of the page: each program stands in a section whose heading names its file."""
    found: dict[str, str] = {}
    for section in PAGE.split("\n### ")[1:]:
        heading, _, text = section.partition("\n")
        if program := re.search(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            found[heading.split("`")[1]] = program[1]
    return found


def changes() -> Iterator[Change]:
    """The changes of files that are there, piece by piece: each names its file, then has lines with ' ', '+' or '-'."""
    for path, pieces in re.findall(r"^```diff\n--- ([\w/.-]+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        for piece in pieces.split("@@\n"):
            lines = piece.splitlines(keepends=True)
            before, after = ([line[1:] for line in lines if line[0] in f" {sign}"] for sign in "-+")
            yield Change(path, "".join(before), "".join(after))


def copied(folder: Path, changes: Sequence[Change], files: dict[str, str]) -> None:
    """Put a copy of the package and its documents into ``folder``, with these changes and files."""
    for part in ("asyncpc", "docs"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for change in changes:
        text = (folder / change.path).read_text()
        assert text.count(change.before) == 1, f"{change.path} has this not once:\n{change.before}"
        (folder / change.path).write_text(text.replace(change.before, change.after))
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


def run_tests(folder: Path, *tests: str) -> Ended:
    """Run the page's tests, and ``tests`` of ours, against the copy in ``folder``."""
    for path in "README.md", "tests/pages.py", *(test.partition("::")[0] for test in tests):
        shutil.copy(ROOT / path, folder / path)  # where it looks for the documents
    page = "tests/options/test_dedupe.py"
    paths = f"{folder}:{folder / 'tests'}:{ROOT / 'tests'}"
    return run_pytest(folder, page, *tests, PYTHONPATH=paths)


def typed_options(source: str) -> set[str]:
    """The fields of ``Options`` in a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and node.name == "Options":
            return {ast.unparse(one.target) for one in node.body if isinstance(one, ast.AnnAssign)}
    return set()


RULES: Final = (
    "tests/test_docs.py::test_the_map_is_complete",
    "tests/test_docs.py::test_the_reference_describes_every_public_name_once",
    "tests/test_architecture.py::test_an_option_has_one_room",
)
"""What the house asks of every option."""


@pytest.mark.thorough
def test_the_option_of_the_page_works_and_keeps_the_rules_of_the_house(tmp_path: Path) -> None:
    """Protects whoever follows the page: with its files and changes, and nothing else, its tests and ours pass."""
    copied(tmp_path, list(changes()), files())
    ended = run_tests(tmp_path, *RULES)
    assert ended.status == 0, ended.out + ended.err
    assert f"{10 + 2 + len(options.ORDER) + 1} passed" in ended.out


@pytest.mark.thorough
def test_the_page_s_tests_need_the_option(tmp_path: Path) -> None:
    """Protects the test above: without the line in the ordered list, the page's tests fail, and say why."""
    left_out = [one for one in changes() if "ORDER" not in one.after and "(Deduping" not in one.after]
    assert len(left_out) == len(list(changes())) - 1
    copied(tmp_path, left_out, files())
    ended = run_tests(tmp_path)
    assert ended.status == 1
    assert "consumer has no option dedupe" in ended.out


def test_four_places_are_touched() -> None:
    """Protects the promise of the page: one file, the ordered list, the typed options, the map; and the public name."""
    assert sorted(files()) == ["asyncpc/options/dedupe.py", "tests/options/test_dedupe.py"]
    assert [one.path for one in changes()] == [
        *["asyncpc/options/__init__.py"] * 2,
        *["asyncpc/graph/decorators.py"] * 3,
        "docs/how-it-works.md",
        *["asyncpc/__init__.py"] * 2,
        "docs/reference/options.md",
    ]


def test_every_option_is_typed_and_documented(tmp_path: Path) -> None:
    """Protects the third place: what the ordered list takes, type checkers and ``help(consumer)`` know too."""
    source = (ROOT / "asyncpc" / "graph" / "decorators.py").read_text()
    assert typed_options("class Options:\n    retry: int\n    rate: float") == {"retry", "rate"}
    assert typed_options(source) == set(OPTIONS) - ELSEWHERE
    assert [name for name in options.ARGUMENTS if f"``{name}``" not in source] == []
    copied(tmp_path, list(changes()), {})
    changed = (tmp_path / "asyncpc" / "graph" / "decorators.py").read_text()
    assert typed_options(changed) - typed_options(source) == {"dedupe"}
    assert "``dedupe``" in changed
