"""A whole job with real input: read, parse and measure every module of Python's standard library, and report.

Run it, on the standard library or on a folder of your own::

    python examples/stdlib_report.py [folder]      or        asyncpc run examples.stdlib_report:pipeline

Expect, after some seconds (here with Python 3.11)::

    734 modules, 327,340 lines, 16,539 functions, 0 unreadable
    longest functions:
         386  re/_parser.py:516 _parse
    ...
    longest modules:
      15,711  pydoc_data/topics.py
    ...
    most imported, by modules:
         239  sys
    ...
    734 files in 1.9 s

Plain functions find, read and parse the files: the first in a thread, the others in processes, twenty files to a call.
So the job uses two processors, and the loop stays free to hear a signal. A file that cannot be read or parsed is
counted and named, and the job goes on.
"""

import ast
import os
import sys
import sysconfig
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from asyncpc import Batch, Pipeline, consumer, producer, run

NOT_OURS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


@dataclass(frozen=True)
class Module:
    name: str
    lines: int = 0
    functions: tuple[tuple[int, str], ...] = ()  # (lines, place and name) of each
    imports: frozenset[str] = frozenset()
    problem: str = ""


@producer
def files(folder: Path) -> Iterator[tuple[str, Path]]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - NOT_OURS)
        for name in sorted(names):
            if name.endswith(".py"):
                path = Path(parent, name)
                yield path.relative_to(folder).as_posix(), path


@consumer(run_in="process", concurrency=2, batch=Batch(20))  # parsing keeps a processor busy
def measure(batch: list[tuple[str, Path]]) -> list[Module]:
    return [measured(name, path) for name, path in batch]


def measured(name: str, path: Path) -> Module:
    try:
        text = path.read_bytes()
        nodes = statements(ast.parse(text))
    except (OSError, SyntaxError, ValueError) as error:
        return Module(name, problem=f"{type(error).__name__}: {error}")
    functions = tuple(
        ((node.end_lineno or node.lineno) - node.lineno + 1, f"{name}:{node.lineno} {node.name}")
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return Module(name, len(text.splitlines()), functions, frozenset(imported(nodes)))


def statements(tree: ast.AST) -> list[ast.AST]:
    nodes = [tree]
    for node in nodes:  # the list grows meanwhile; expressions, most of all nodes, are left out
        nodes += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)]
    return nodes


@asynccontextmanager
async def summary() -> AsyncIterator[list[Module]]:
    modules: list[Module] = []
    yield modules
    print_report(modules)


@consumer(context=summary)  # one worker, so there is one list, from before the first module until after the last
async def collect(module: Module, modules: list[Module]) -> None:
    modules.append(module)


def imported(nodes: Iterable[ast.AST]) -> Iterable[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def print_report(modules: list[Module]) -> None:
    functions = [function for module in modules for function in module.functions]
    unreadable = [module for module in modules if module.problem]
    lines = sum(module.lines for module in modules)
    imports = Counter(name for module in modules for name in module.imports)
    print(f"{len(modules):,} modules, {lines:,} lines, {len(functions):,} functions, {len(unreadable)} unreadable")
    for module in unreadable:
        print(f"  {module.name}: {module.problem}")
    table("longest functions", sorted(functions, reverse=True))
    table("longest modules", sorted(((module.lines, module.name) for module in modules), reverse=True))
    table("most imported, by modules", [(count, name) for name, count in imports.most_common(5)])


def table(title: str, rows: list[tuple[int, str]]) -> None:
    print(f"{title}:", *(f"{number:8,}  {name}" for number, name in rows[:5]), sep="\n")


def report_on(folder: Path) -> Pipeline[tuple[str, Path], None]:
    return files(folder) >> measure >> collect


pipeline = report_on(Path(sysconfig.get_path("stdlib")))

if __name__ == "__main__":
    report = run(report_on(Path(sys.argv[1])) if len(sys.argv) > 1 else pipeline)
    print(f"{report.done:,} files in {report.elapsed:.1f} s")
    sys.exit(report.exit_status)
