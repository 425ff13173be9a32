"""The house rules: imports only go down, one module makes tasks, the public names are what they seem."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from children import UNMEASURED

import asyncpc

PACKAGE = Path(asyncpc.__file__).parent
TESTS = Path(__file__).parent

FLOORS = {
    module: int(floor) for floor, module in re.findall(r"^ +(-?\d+)  ([\w.]+) +\S", asyncpc.__doc__ or "", re.MULTILINE)
} | {"__init__": 13}
"""Each module's floor, as the docstring of the package tells it; those on one floor do not know each other."""

MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
)
WINGS = {"cli", "core", "graph", "offload", "options", "run", "watch"}


def tree(module: str) -> ast.Module:
    path = PACKAGE.joinpath(*module.split("."))
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())


def imported_at_run_time(module: str) -> set[str]:
    """The modules of this package that ``module`` imports, those for type checkers left out."""
    found: set[str] = set()
    pending: list[ast.AST] = [tree(module)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom):
            absolute = (node.module or "").split(".")[0] == "asyncpc"
            assert not absolute, f"{module} imports the package itself, line {node.lineno}"
            if node.level:
                inside = module.split(".")[:-1] if "." in module else []
                base = inside[: len(inside) - node.level + 1] + ([node.module] if node.module else [])
                found |= {".".join(base)} if node.module else {".".join([*base, alias.name]) for alias in node.names}
        if isinstance(node, ast.Import):
            assert all(alias.name.split(".")[0] != "asyncpc" for alias in node.names), f"{module} imports the package"
        pending += ast.iter_child_nodes(node)
    return found


def test_every_module_has_a_floor() -> None:
    """The map of the house is complete, and names nothing that is gone; the rule below holds for every module."""
    assert sorted({*FLOORS, *WINGS}) == MODULES


@pytest.mark.parametrize("module", [module for module in MODULES if module not in WINGS])
def test_imports_only_go_down(module: str) -> None:
    """No cycle can arise, and a floor can be understood without those above it."""
    upward = {other for other in imported_at_run_time(module) if FLOORS[other] >= FLOORS[module]}
    assert not upward


@pytest.mark.parametrize("module", [module for module in MODULES if module != "run.supervisor"])
def test_only_the_supervisor_makes_tasks(module: str) -> None:
    """Every task has one owner that waits for it (invariant 6)."""
    makers = {"create_task", "ensure_future", "gather", "TaskGroup", "create_task_group", "wait_for", "as_completed"}
    called = {
        node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call) and isinstance(node.func, (ast.Attribute, ast.Name))
    }
    assert not called & makers


def test_public_names_are_there() -> None:
    """``__all__`` is the promise; it lists what exists, classes and functions alike, once each."""
    assert len(set(asyncpc.__all__)) == len(asyncpc.__all__)
    for name in asyncpc.__all__:
        assert getattr(asyncpc, name) is not None
    public = {name for name in vars(asyncpc) if not name.startswith("_")}
    assert public - ({*MODULES, *WINGS} - {"run"}) == set(asyncpc.__all__)


def test_public_names_are_documented() -> None:
    """Whatever a user can call says what it promises."""
    silent = [
        f"{name}.{method}"
        for name in asyncpc.__all__
        if isinstance(thing := getattr(asyncpc, name), type) and thing.__module__.startswith("asyncpc")
        for method, value in vars(thing).items()
        if not method.startswith("_") and callable(value) and not value.__doc__
    ]
    silent += [
        name for name in asyncpc.__all__ if callable(getattr(asyncpc, name)) and not getattr(asyncpc, name).__doc__
    ]
    assert not silent


def fields(source: str) -> list[tuple[str, bool]]:
    """The fields of each named tuple in a module, and whether a text stands under each."""
    found: list[tuple[str, bool]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "NamedTuple" for base in node.bases):
            for one, following in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(one, ast.AnnAssign):
                    told = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                    found.append((f"{node.name}.{ast.unparse(one.target)}", told))
    return found


@pytest.mark.parametrize("module", ["options/retry", "run/report", "core/queue"])
def test_public_fields_are_documented(module: str) -> None:
    """A number without its unit is no answer: every field that a user gives or reads says what it is."""
    silent = [name for name, told in fields((PACKAGE / f"{module}.py").read_text()) if not told]
    assert fields("class A(NamedTuple):\n    a: int\n    b: int\n    'said'") == [("A.a", False), ("A.b", True)]
    assert silent == []


def test_import_brings_in_nothing_optional() -> None:
    """``import asyncpc`` stays cheap: what an extra or a command needs is imported where it is used."""
    program = "import sys, asyncpc; print(*sorted(sys.modules))"
    environment = os.environ | UNMEASURED
    output = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "asyncpc" in output
    others = {"argparse", "multiprocessing", "anyio", "rich", "uvloop", "httpx", "starlette", "pytest"}
    ours = {"cli", "watch", "offload"}
    assert not (others | {f"asyncpc.{name}" for name in ours}) & set(output)


def test_every_test_says_what_it_protects() -> None:
    """A test without a docstring cannot be judged when it fails."""
    silent = [
        f"{path.name}:{node.lineno} {node.name}"
        for path in sorted(TESTS.glob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert not silent


def test_the_version_is_said_once() -> None:
    """The package, its metadata and the changelog agree; between releases the version says so."""
    root = PACKAGE.parent
    sections = re.findall(r"^## \[(.+)\]", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = ".dev" not in asyncpc.__version__
    assert f'version = "{asyncpc.__version__}"' in (root / "pyproject.toml").read_text()
    assert sections[0] == (asyncpc.__version__ if released else "Unreleased")
