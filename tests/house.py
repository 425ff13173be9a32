"""The package as a house that can be measured: its modules as syntax trees, what they import, read and call.

A house is read from the package, or planted from a few lines, so that each rule can be seen to fail.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import asyncpc

PACKAGE = Path(asyncpc.__file__).parent

Function = ast.FunctionDef | ast.AsyncFunctionDef

BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.BoolOp, ast.match_case)
"""What makes the way through a function part."""

NAMED_TUPLE = {"_asdict", "_fields", "_make", "_replace"}
"""Public names of named tuples, though they begin with an underscore."""


@cache
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


class Module(NamedTuple):
    """One module, by its name inside the package: ``core.queue``; a wing itself is ``core``, the package is empty."""

    name: str
    source: str
    is_package: bool

    @property
    def tree(self) -> ast.Module:
        """Its syntax tree, parsed when it is first asked for: each process of pytest imports the house."""
        return _parsed(self.source)

    @property
    def wing(self) -> str:
        """The folder that it is in, or the module itself where it is in none."""
        return self.name.partition(".")[0]


House = Mapping[str, Module]


def the_house() -> House:
    """The package as it is."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        source = path.read_text()
        found[name] = Module(name, source, is_package)
    return found


def planted(**sources: str) -> House:
    """A house of a few lines; ``core__queue`` is the module ``core.queue``, and ``core`` a package if it has one."""
    named = {name.replace("__", "."): dedent(source) for name, source in sources.items()}
    wings = {name.partition(".")[0] for name in named if "." in name}
    return {
        name: Module(name, source, name in wings) for name, source in (dict.fromkeys(sorted(wings), "") | named).items()
    }


@cache
def nodes(module: Module) -> list[ast.AST]:
    """All of its syntax tree; many rules look at it."""
    return list(ast.walk(module.tree))


# -- imports --------------------------------------------------------------------------------------


def imports(house: House, module: Module) -> Iterator[str]:
    """The modules of the house that ``module`` imports anywhere, those for type checkers included.

    ``from ..core import seams`` imports the module ``core.seams``, ``from ..core.seams import Call`` too.
    """
    for node in nodes(module):
        if isinstance(node, ast.Import):
            absolute = [alias.name for alias in node.names if alias.name.partition(".")[0] == "asyncpc"]
            assert not absolute, f"{module.name} imports the package itself, line {node.lineno}"
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] != "asyncpc", f"{module.name} imports the package itself"
            if node.level:
                base = _base(module, node)
                for alias in node.names:
                    inner = ".".join(filter(None, [base, alias.name]))
                    yield inner if inner in house else base


def _base(module: Module, node: ast.ImportFrom) -> str:
    """What an import with dots begins at."""
    parts = module.name.split(".") if module.name else []
    inside = parts if module.is_package else parts[:-1]
    return ".".join([*inside[: len(inside) - node.level + 1], *([node.module] if node.module else [])])


def libraries(module: Module) -> set[str]:
    """What ``module`` imports from outside the package; with the name where it imports single names."""
    found: set[str] = set()
    for node in nodes(module):
        if isinstance(node, ast.Import):
            found.update([alias.name for alias in node.names])
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.update([f"{node.module}.{alias.name}" for alias in node.names])
    return found


def circles(house: House) -> list[tuple[str, ...]]:
    """The groups of modules that import each other, directly or by way of others."""
    edges = {name: set(imports(house, module)) for name, module in house.items()}
    known = {name: _reachable(edges, name) for name in house}
    groups = {tuple(sorted(other for other in known[name] if name in known[other])) for name in house}
    return sorted(group for group in groups if group)


def _reachable(edges: Mapping[str, set[str]], name: str) -> set[str]:
    """All modules that one brings in, directly or by way of others."""
    found: set[str] = set()
    pending = [name]
    while pending:
        new = edges[pending.pop()] - found
        found |= new
        pending += new
    return found


# -- names that are read --------------------------------------------------------------------------


@cache
def attributes_read(module: Module) -> set[str]:
    """The attributes that ``module`` reads of anything: names after a dot, and those that ``getattr`` is given.

    Not those of asyncio, whose ``timeout`` is no option of ours.
    """
    found: set[str] = set()
    for node in nodes(module):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            if not (isinstance(node.value, ast.Name) and node.value.id == "asyncio"):
                found.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    return found


@cache
def keys_read(module: Module) -> set[str]:
    """The strings that ``module`` looks up or compares: ``x["retry"]``, ``x.get("retry")``, ``"retry" in x``."""
    found: set[str] = set()
    for node in nodes(module):
        looked_up: list[ast.expr] = []
        if isinstance(node, ast.Subscript):
            looked_up = [node.slice]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop"):
            looked_up = node.args[:1]
        elif isinstance(node, ast.Compare):
            looked_up = [node.left, *node.comparators]
        found |= {one.value for one in looked_up if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    return found


@cache
def called(module: Module) -> set[str]:
    """The names of what ``module`` calls: of ``a.b.c()`` both ``c`` and ``b.c``."""
    written = [ast.unparse(node.func).split(".") for node in nodes(module) if isinstance(node, ast.Call)]
    return {".".join(parts[-length:]) for parts in written for length in (1, 2)}


def shown_whole(module: Module) -> Iterator[str]:
    """What ``module`` shows by its own ``repr``, but for names, which are checked where they are given."""
    for node in nodes(module):
        shown: list[ast.expr] = []
        if isinstance(node, ast.FormattedValue) and node.conversion == ord("r"):
            shown = [node.value]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "repr":
            shown = node.args
        for one in shown:
            if not ast.unparse(one).endswith(("name", "label", "serving")):
                yield f"{module.name}:{one.lineno} {ast.unparse(one)}"


def foreign_privates(house: House) -> list[str]:
    """Each place where a module reaches for a private name of another: ``stage._inbox``, or imports one.

    A name belongs to the modules that define it: as a function, a class, an annotated field, or by writing to
    ``self._name``. What is reached through ``self`` or ``cls`` counts as the module's own.
    """
    owners: dict[str, set[str]] = {}
    for module in house.values():
        for name in _privates_of(module):
            owners.setdefault(name, set()).add(module.name)
    return [
        f"{module.name}:{line} {name}"
        for module in house.values()
        for line, name in _privates_used(module)
        if owners.get(name) != {module.name}
    ]


def _privates_of(module: Module) -> Iterator[str]:
    for node in nodes(module):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_own(node):
            yield node.attr


def _privates_used(module: Module) -> Iterator[tuple[int, str]]:
    for node in nodes(module):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield from [(node.lineno, alias.name) for alias in node.names if is_private(alias.name)]
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and not _is_own(node):
            yield node.lineno, node.attr


def _is_own(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def is_private(name: str) -> bool:
    """Whether a name is meant for its own module only."""
    return name.startswith("_") and not name.startswith("__") and name not in NAMED_TUPLE


# -- sizes ----------------------------------------------------------------------------------------


def code_lines(module: Module) -> int:
    """Lines with code: neither empty, nor a comment, nor a docstring."""
    documented: set[int] = set()
    for node in nodes(module):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            documented.update(_docstring_lines(node))
    lines = enumerate(module.source.splitlines(), 1)
    return sum(number not in documented and not re.match(r"\s*(#|$)", line) for number, line in lines)


def functions(module: Module) -> Iterator[tuple[str, int, int]]:
    """Each function by name, its lines without its docstring, and how many times its way parts, inner ones included."""
    for node in nodes(module):
        if isinstance(node, Function):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1 - len(_docstring_lines(node))
            yield f"{module.name}:{node.name}", lines, sum(isinstance(inner, BRANCHES) for inner in ast.walk(node))


def _docstring_lines(node: ast.Module | ast.ClassDef | Function) -> range:
    if ast.get_docstring(node, clean=False) is None:
        return range(0)
    text = node.body[0]
    return range(text.lineno, (text.end_lineno or text.lineno) + 1)


def slots(module: Module, name: str) -> list[str]:
    """The slots of a class."""
    for node in nodes(module):
        if isinstance(node, ast.ClassDef) and node.name == name:
            for one in node.body:
                if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == "__slots__":
                    return list(ast.literal_eval(one.value))
    raise AssertionError(f"{module.name} has no class {name} with __slots__")
