"""The rules of the house: imports go down, walls hold, all that runs has an owner, public names are what they seem.

Each rule is tried on the package and on a planted sample that breaks it, so that a rule that sees nothing is noticed.
"""

from __future__ import annotations

import ast
import gc
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Final

import pytest
from children import UNMEASURED
from house import (
    PACKAGE,
    House,
    Module,
    attributes_read,
    called,
    circles,
    code_lines,
    foreign_privates,
    functions,
    imports,
    keys_read,
    libraries,
    nodes,
    planted,
    shown_whole,
    slots,
    the_house,
)

import asyncpc
from asyncpc.options import ORDER
from asyncpc.run.statistics import StageStatistics

TESTS = Path(__file__).parent

HOUSE: Final = the_house()


@pytest.fixture(autouse=True, scope="module")
def parsed_before() -> None:
    """Keep the syntax trees out of the collections that end each test; many rules look at all of them."""
    for module in HOUSE.values():
        nodes(module)
    gc.freeze()


# -- the map --------------------------------------------------------------------------------------


def levels_in(text: str) -> dict[str, int]:
    """The level of each wing or module on the map, from the ground floor (0) up."""
    text = text[text.index("The package is divided into wings") :]
    rows = re.findall(r"^    (\w+(?:, \w+)*)(?:: |  +)\S", text, re.MULTILINE)
    return {name: level for level, row in enumerate(reversed(rows)) for name in row.split(", ")}


LEVELS: Final = levels_in(asyncpc.__doc__ or "")

ROOF: Final = len(LEVELS)
"""Above all: what may import anything."""


def level(module: str) -> int:
    return ROOF if module in ("", "__main__") else LEVELS[module.partition(".")[0]]


def test_the_map_shows_every_wing() -> None:
    """Somebody who reads ``asyncpc/__init__.py`` knows all wings, all modules beside them, and nothing that is gone."""
    sample = "The package is divided into wings\n\n    high      said\n    low       said\n    one, two: said\n"
    assert levels_in(sample) == {"one": 0, "two": 0, "low": 1, "high": 2}
    assert set(LEVELS) == {module.wing for module in HOUSE.values()} - {"", "__main__"}
    assert LEVELS["core"] == 1
    assert LEVELS["cli"] == max(LEVELS.values())


VERSION: Final = ("cli.main", "")
"""The command says the version of the package, which is beside all wings."""


def upward(house: House) -> set[tuple[str, str]]:
    """The imports that go up from one wing to another."""
    pairs = {(name, other) for name, module in house.items() for other in imports(house, module)} - {VERSION}
    return {(name, other) for name, other in pairs if level(other) > level(name)}


def test_wings_import_downwards_only() -> None:
    """A wing can be read, and changed, without those above it; imports for type checkers count."""
    sample = planted(
        core__a="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..run.b import B",
        run__b="from ..core import a\nfrom .. import errors",
        errors="def late():\n    from .run.b import B",
    )
    assert upward(sample) == {("core.a", "run.b"), ("errors", "run.b")}
    assert upward(HOUSE) == set()


def test_no_module_imports_those_that_import_it() -> None:
    """No circle, not even of imports for type checkers: each module can be understood from the ground up."""
    sample = planted(
        core__a="from .b import B",
        core__b="def late():\n    from . import c",
        core__c="if TYPE_CHECKING:\n    from .a import A",
        core__d="from .a import A",
    )
    assert circles(sample) == [("core.a", "core.b", "core.c")]
    assert circles(HOUSE) == []


@pytest.mark.parametrize("line", ["import asyncpc", "from asyncpc.core import queue", "import asyncpc.core as core"])
def test_no_module_imports_the_package_itself(line: str) -> None:
    """``from asyncpc import …`` inside the package would be an import of everything, which no rule here could see."""
    sample = planted(core__a=line)
    with pytest.raises(AssertionError, match="imports the package itself"):
        list(imports(sample, sample["core.a"]))
    assert sum([len(list(imports(HOUSE, module))) for module in HOUSE.values()]) > 200


# -- the core -------------------------------------------------------------------------------------

CORE_LIBRARIES: Final = {
    *("__future__", "asyncio", "collections", "contextlib", "contextvars", "functools", "heapq", "itertools", "math"),
    *("operator", "struct", "sys", "time", "types", "typing", "threading.get_ident"),
}
"""What the core may import from outside: no threads (but for the question which one this is), processes or networks."""

SCREEN: Final = {"print", "input", "stdout", "stderr", "stdin", "isatty"}

STATISTICS: Final = set(StageStatistics._fields)
"""Words of the report; ``concurrency`` and ``rate`` are also the names of options, and do not count as reading them."""

ARGUMENTS: Final = {name for _, names in ORDER for name in names} - STATISTICS
"""The arguments of a consumer that ask for an option."""


def strange_to_the_core(house: House, module: Module) -> set[str]:
    """What a module of the core knows that it should not."""
    ground = {name for name, at in LEVELS.items() if at == 0}
    return {
        *(other for other in imports(house, module) if other.partition(".")[0] not in {*ground, "core"}),
        *(one for one in libraries(module) if not any(f"{one}.".startswith(f"{own}.") for own in CORE_LIBRARIES)),
        *((attributes_read(module) | keys_read(module)) & (ARGUMENTS | SCREEN)),
        *(called(module) & SCREEN),
    }


CORE: Final = sorted(name for name, module in HOUSE.items() if module.wing == "core")


@pytest.mark.parametrize("name", CORE)
def test_the_core_knows_no_option_thread_process_broker_or_screen(name: str) -> None:
    """An item's way can be read alone, and a new option, broker or screen does not change it."""
    assert not strange_to_the_core(HOUSE, HOUSE[name])


def test_what_is_strange_to_the_core_is_seen() -> None:
    """The rule above sees an import, an option that is read by any means, a thread and a screen."""
    sample = planted(
        core__a="""
            import socket
            from threading import Thread, get_ident
            from ..options.rate import Rate
            def retry(handler, given, rate, timeout=None):
                print(handler.retry, given["on_error"], given.get("batch"), "key" in given, getattr(given, "breaker"))
                return handler.concurrency, rate.rate, timeout
        """,
        options__rate="",
    )
    assert strange_to_the_core(sample, sample["core.a"]) == {
        *("socket", "threading.Thread", "options.rate", "print", "retry", "on_error", "batch", "key", "breaker"),
    }


def words_of_pipelines(source: str) -> list[str]:
    """The lines that speak of pipelines, but for the paragraph that points to ``Channel``."""
    paragraphs = [part for part in source.split("\n\n") if "asyncpc.core.channel.Channel" not in part]
    lines = "\n\n".join(paragraphs).splitlines()
    return [line for line in lines if re.search(r"stage|worker|pipeline", line, re.IGNORECASE)]


def test_the_public_queue_knows_nothing_of_pipelines() -> None:
    """``BoundedQueue`` is asyncio's queue with an end and counts; what workers need is in ``Channel``."""
    queue = HOUSE["core.queue"]
    assert words_of_pipelines("# a\n\nof a stage: asyncpc.core.channel.Channel\n\n# of\n# a Worker") == ["# a Worker"]
    assert words_of_pipelines(queue.source) == []
    assert set(imports(HOUSE, queue)) == {"errors", "core.waiting"}


def test_a_stage_stays_small() -> None:
    """What the workers of a stage share fits on a page; what is special belongs to an option or a part of its own."""
    assert slots(planted(a="class Stage:\n    __slots__ = ('a', 'b')")["a"], "Stage") == ["a", "b"]
    assert len(slots(HOUSE["core.stage"], "Stage")) <= 14


# -- options --------------------------------------------------------------------------------------


def knowing(house: House, file: str, arguments: Set[str]) -> set[str]:
    """The modules that know an option, apart from its own file and the package, which shows its policy to users.

    A module knows it that imports anything from its file, or reads it by the name of one of its arguments: as an
    attribute (``handler.retry``), by ``getattr``, or as a key (``given["retry"]``, ``"key" in handler.kept_by``).

    Not counted: names that are fields of the statistics too (``stage.rate``), keyword arguments such as ``timeout=`` of
    ``put``, and names of functions such as ``running.set_rate``.
    """
    wanted = arguments - STATISTICS
    return {
        name
        for name, module in house.items()
        if name not in ("", file)
        and (file in imports(house, module) or wanted & (attributes_read(module) | keys_read(module)))
    }


FILES: Final[Mapping[str, Set[str]]] = {
    kind.__module__.removeprefix("asyncpc."): frozenset(arguments) for kind, arguments in ORDER
}


@pytest.mark.parametrize("file", sorted(FILES))
def test_an_option_has_one_room(file: str) -> None:
    """A new option is one file and a line in two others; no more than four modules know of any."""
    assert len(knowing(HOUSE, file, FILES[file])) <= 4


def test_every_file_of_options_is_an_option() -> None:
    """The rule above is asked about all of them."""
    assert set(FILES) == {name for name in HOUSE if name.startswith("options.")}


def test_who_knows_an_option_is_seen() -> None:
    """The rule above sees each way of knowing an option, and nothing else."""
    sample = planted(
        **{"": "from .options.retry import Retry"},
        options__retry="def install(self): return self.retry",
        a="def late():\n    from .options import retry",
        b="if TYPE_CHECKING:\n    from .options.retry import Retry",
        c="def read(handler): return handler.retry",
        d="def read(given): return given['retry']",
        e="def read(given): return given.get('retry')",
        f="def read(given): return 'retry' in given",
        g="def wait(retry=3): return run(retry=retry).set_retry(retry)",
        h="def read(stage): return stage.rate",
    )
    assert knowing(sample, "options.retry", {"retry", "rate"}) == {"a", "b", "c", "d", "e", "f"}


# -- owners ---------------------------------------------------------------------------------------

MAKERS: Final = {
    "tasks": {
        *("create_task", "ensure_future", "gather", "TaskGroup", "create_task_group", "wait_for", "as_completed"),
        *("Task", "run_coroutine_threadsafe", "start_soon"),
    },
    "threads": {
        *("Thread", "Timer", "start_new_thread", "ThreadPoolExecutor", "to_thread", "run_in_executor"),
        *("to_thread.run_sync", "start_blocking_portal"),
    },
    "processes": {
        *("Process", "Popen", "ProcessPoolExecutor", "fork", "forkpty", "system", "posix_spawn", "open_process"),
        *("run_process", "create_subprocess_exec", "create_subprocess_shell", "to_process.run_sync", "Pool", "Manager"),
    },
    "interpreters": {"to_interpreter.run_sync", "InterpreterPoolExecutor"},
    "loops": {"Runner", "new_event_loop", "run_forever", "run_until_complete"},
}
"""The names by which each is made."""


def owners_in(text: str) -> dict[str, set[str]]:
    """Who may make what, as a table tells it: ``tasks       run.supervisor``."""
    rows = re.findall(rf"^    ({'|'.join(MAKERS)})  +([\w.]+(?:,\s+[\w.]+)*)", text, re.MULTILINE)
    return {what: set(re.split(r",\s+", modules)) for what, modules in rows}


def makers(house: House, what: str) -> set[str]:
    return {name for name, module in house.items() if called(module) & MAKERS[what]}


OWNERS: Final = owners_in(ast.get_docstring(HOUSE["run"].tree, clean=False) or "")


@pytest.mark.parametrize("what", sorted(MAKERS))
def test_all_that_runs_has_an_owner(what: str) -> None:
    """Each task, thread and process has one owner that waits for its end (invariant 6): ``asyncpc.run`` names them."""
    assert makers(HOUSE, what) == OWNERS[what]


def test_only_the_supervisor_makes_tasks() -> None:
    """No line of the table lets anybody else make a task that a stop would have to know of (invariant 6).

    The tasks of a session are inside one that the supervisor has made, or belong to no run, as those of a parent of
    processes do.
    """
    beside = {name for name in OWNERS["tasks"] if name.startswith("remote.")}
    assert OWNERS["tasks"] == {"run.supervisor", *beside}
    others = {name for what in ("threads", "processes", "interpreters") for name in OWNERS[what]}
    telling = {"cli", "remote", "live", "run", "testing", "web"}  # they belong to no run
    assert {name.partition(".")[0] for name in others} == {"offload", *telling}


def test_who_makes_something_is_seen() -> None:
    """The rule above sees a call by any way of writing it, and the table is read as it is written."""
    sample = planted(
        a="import asyncio\nasync def f(): await asyncio.gather()",
        b="async def f(group): group.create_task(x)",
        c="from threading import Thread\nThread(target=print).start()",
        d="def f(worker): return worker.task",
        e="from anyio import to_interpreter\nasync def f(): await to_interpreter.run_sync(print)",
    )
    assert makers(sample, "interpreters") == {"e"}
    assert (makers(sample, "tasks"), makers(sample, "threads"), makers(sample, "loops")) == ({"a", "b"}, {"c"}, set())
    assert owners_in("\n    tasks      a, b.c\n    loops  d\n") == {"tasks": {"a", "b.c"}, "loops": {"d"}}


# -- walls and sizes ------------------------------------------------------------------------------


def test_modules_keep_to_themselves() -> None:
    """What has an underscore is its module's own: at most five reaches for another's in a thousand lines of code."""
    sample = planted(
        a="""
            class A:
                def __init__(self): self._mine = self._own() or row._replace(b=1)
                def _own(self): ...
        """,
        b="""
            from .a import _hidden
            def f(a): a._mine = a._own, a._b
            class B: _b: int
        """,
    )
    assert sorted(foreign_privates(sample)) == ["b:2 _hidden", "b:3 _mine", "b:3 _own"]
    lines = sum(map(code_lines, HOUSE.values()))
    said = "'Said.'\n\n# why\nx = 1  # yes\ndef f():\n    '''Said\n    so.'''\n    return 1\n"
    assert code_lines(planted(a=said)["a"]) == 3
    assert lines > 4000
    assert 1000 * len(foreign_privates(HOUSE)) / lines <= 5


def test_functions_fit_a_screen() -> None:
    """A function that is longer, or parts more often, is two."""
    sample = planted(
        a="""
            def f(x):
                'Said.'
                if x and x > 1:
                    return 1 if x else 2
                def g():
                    for _ in x: ...
        """
    )
    assert list(functions(sample["a"])) == [("a:f", 5, 4), ("a:g", 2, 1)]
    every = [one for module in HOUSE.values() for one in functions(module)]
    assert len(every) > 500
    assert [name for name, lines, parts in every if lines > 60 or parts > 20] == []


# -- names and texts ------------------------------------------------------------------------------


def test_public_names_are_there() -> None:
    """``__all__`` is the promise; it lists what exists, classes and functions alike, once each."""
    assert len(set(asyncpc.__all__)) == len(asyncpc.__all__)
    for name in asyncpc.__all__:
        assert getattr(asyncpc, name) is not None
    public = {name for name in vars(asyncpc) if not name.startswith("_")}
    assert public - (set(LEVELS) - {"run"}) == set(asyncpc.__all__)


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


def fields(tree: ast.Module) -> dict[str, bool]:
    """The fields of each named tuple in a module, and whether a text stands under each."""
    found: dict[str, bool] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "NamedTuple" for base in node.bases):
            for one, following in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(one, ast.AnnAssign):
                    told = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                    found[f"{node.name}.{ast.unparse(one.target)}"] = told
    return found


def test_public_fields_are_documented() -> None:
    """A number without its unit is no answer: every field that a user gives or reads says what it is."""
    sample = planted(a="class A(NamedTuple):\n    a: int\n    b: int\n    'said'")
    assert fields(sample["a"].tree) == {"A.a": False, "A.b": True}
    told = {name: told for module in HOUSE.values() for name, told in fields(module.tree).items()}
    public = {name: told for name, told in told.items() if name.partition(".")[0] in asyncpc.__all__}
    assert len(public) > 50
    assert [name for name, told in public.items() if not told] == []


def test_what_users_give_is_never_shown_whole() -> None:
    """A value in a message may be a million rows, or hold a password: ``shown`` cuts and redacts it."""
    sample = planted(a="raise E(f'stage {stage.name!r}: {x!r} of {self._label!r}, {shown(x)}') from F(repr(x.y))")
    assert sorted(shown_whole(sample["a"])) == ["a:1 x", "a:1 x.y"]
    may = {
        "wording": "it cuts and redacts",
        "cli.target": "what is typed is short, and printed without passwords",
        "cli.factory": "likewise",
        "cli.output": "likewise",
    }
    found = [one for name, module in HOUSE.items() if name not in may for one in shown_whole(module)]
    assert found == []


def test_import_brings_in_nothing_optional() -> None:
    """``import asyncpc`` stays cheap: what an extra or a command needs is imported where it is used."""
    program = "import sys, asyncpc; print(*sorted(sys.modules))"
    environment = os.environ | UNMEASURED
    output = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "asyncpc" in output
    others = {
        "argparse",
        "multiprocessing",
        "anyio",
        "rich",
        "uvloop",
        "httpx",
        "starlette",
        "pytest",
        "prometheus_client",
        "shtab",
        "watchfiles",
    }
    ours = {"cli", "watch", "offload", "metrics", "live", "testing", "web"}
    assert not (others | {f"asyncpc.{name}" for name in ours}) & set(output)


def test_every_test_says_what_it_protects() -> None:
    """A test without a docstring cannot be judged when it fails."""
    silent = [
        f"{path.relative_to(TESTS)}:{node.lineno} {node.name}"
        for path in sorted(TESTS.rglob("test_*.py"))
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
