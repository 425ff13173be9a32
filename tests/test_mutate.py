"""The tool that asks whether a test would notice: its mutants are faults, and it tells who survived."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tools.mutants import mutants
from tools.mutate import Candidate, candidates, changed, judged

PROGRAM = '''\
"""A module – with one statement of each kind."""
from typing import TYPE_CHECKING, overload
if TYPE_CHECKING:
    limit: int = 1
@overload
def way(n: "int < 3") -> None: ...
def way(n, eager=False):
    """Say where to go."""
    if n < 2 and not eager:
        self.seen += 1
        self.left = "é", n; log(f"{n < 3}")
        return
    place = n + 1
    return place if n in self.known else None
'''

FAULTS = [
    "def way(n, eager=True):",
    "    if (not (n < 2 and not eager)):",
    "    if ((n < 2) or (not eager)):",
    "    if ((n < 2)):",
    "    if ((not eager)):",
    "    if (n) <= (2) and not eager:",
    "    if n < 3 and not eager:",
    "    if n < 2 and (eager):",
    "        pass",
    "        self.seen += 2",
    '        pass; log(f"{n < 3}")',
    '        self.left = "é", n; pass',
    "        pass",
    "    place = ((n) - (1))",
    "    place = n + 2",
    "    return place if (not (n in self.known)) else None",
    "    return place if (n) not in (self.known) else None",
]


def test_each_mutant_is_one_fault_in_code_that_runs() -> None:
    """Comments, types, docstrings and format strings stay; every mutant is a program, and another one."""
    found = [(mutant.line, mutant.apply(PROGRAM)) for mutant in mutants(PROGRAM)]
    assert sorted(program.splitlines()[line - 1] for line, program in found) == sorted(FAULTS)
    for _, program in found:
        assert ast.dump(ast.parse(program)) != ast.dump(ast.parse(PROGRAM))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose test runs all its code, and notices half of it."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "__init__.py").write_text("")
    (tmp_path / "tiny" / "code.py").write_text("def half(n, log):\n    log.append(n)\n    return n / 2\n")
    (tmp_path / "test_tiny.py").write_text(
        "from tiny import code\n\ndef test_half():\n    assert code.half(4, []) == 2\n"
        "\ndef test_elsewhere():\n    assert True\n"
    )
    return tmp_path


@pytest.mark.thorough
def test_survivors_are_told(project: Path) -> None:
    """A fault that the tests of its line notice is killed; one that they run and do not notice survives."""
    chosen = candidates(project, "tiny", ["code"])
    assert [(mutant.line, mutant.text) for _, mutant in chosen] == [(2, "pass"), (3, "((n) * (2))"), (3, "3")]
    assert list(judged(project, "tiny", chosen, jobs=2)) == [
        (chosen[0], True),
        (chosen[1], False),
        (chosen[2], False),
    ]
    assert changed(project, chosen[0]) == "-    log.append(n)\n+    pass"


@pytest.mark.thorough
def test_a_suite_that_fails_by_itself_tells_nothing(project: Path) -> None:
    """Otherwise every mutant would count as killed."""
    (project / "test_tiny.py").write_text("def test_broken():\n    assert False\n")
    chosen: list[Candidate] = candidates(project, "tiny", [])
    with pytest.raises(RuntimeError, match="fail without any mutant"):
        list(judged(project, "tiny", chosen))
