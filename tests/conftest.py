"""The harness: three event loops for the async tests of the core, and nothing may be left behind by any test.

Warnings are errors (pyproject.toml), and pytest turns what ``__del__`` complains of (a coroutine never awaited, a
socket or loop never closed) into warnings of the test that collected it; so each test ends with a garbage collection.
``test_harness.py`` proves that each of these can fail a test.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import os
import re
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Mapping

import pytest
from blockbuster import BlockBuster
from coverage import Coverage
from hypothesis import HealthCheck, settings
from pytest_asyncio import is_async_test
from remote.servers import PLACES
from support import LOOP_FACTORIES, hung_after, pending, timeout_of

from asyncpc.testing import leak_check

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so begins what a shell runs in the background, and its children
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # and so begins what nohup runs
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A run starts hundreds of processes. Without bytecode each compiles the package again: a quarter of all CPU time.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Each test ends with a collection; those that Python makes meanwhile cost an eighth of the time to find all tests.
gc.set_threshold(20_000, 10, 10)

settings.register_profile(
    "asyncpc", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("asyncpc")


@pytest.hookimpl(wrapper=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int | None, int | None]:
    """Two workers more than processors: a third of the time, a test waits for a process or for a second to pass."""
    processors = yield
    chosen = os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS")
    return processors if chosen or not processors else processors + 2


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let each worker import its share of a folder's modules first, so that on a first run each is compiled once.

    In the same order, all workers would rewrite the assertions of the same module at the same time.
    """
    report = yield
    worker = getattr(collector.config, "workerinput", None)
    if worker is not None and isinstance(collector, pytest.Directory):
        modules = [node for node in report.result if isinstance(node, pytest.Module)]
        for module in modules[int(worker["workerid"].removeprefix("gw")) :: worker["workercount"]]:
            with contextlib.suppress(Exception, pytest.skip.Exception):  # again, and reported, when it is collected
                _ = module.obj
    return report


def pytest_sessionstart(session: pytest.Session) -> None:
    """Say which engines of remote queues the tests have, and how to get the others, also under ``-q``."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and not hasattr(session.config, "workerinput"):
        lacking = {name: kind.lacks() for name, kind in PLACES.items()}
        found = [name for name in lacking if not lacking[name]]
        rest = [f"{name} ({' && '.join(how)})" for name, how in lacking.items() if how]
        servers = "servers with -m thorough"
        terminal.write_line(
            f"remote queues: memory, {', '.join(found)} ({servers}); not here: {', '.join(rest) or 'none'}"
        )


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, obj: object) -> list[pytest.Item] | None:
    """Make no tests of a thorough function or class in a quick run: there are thousands, each made to be left out.

    A test that is asked for by its name is made, and left out, so that pytest does not say that there is none.
    """
    config = collector.config
    if config.option.markexpr != "not thorough" or any("::" in one for one in config.args):
        return None
    marks = [*collector.iter_markers("thorough")]
    if inspect.isfunction(obj):
        marks += [mark for mark in getattr(obj, "pytestmark", ()) if mark.name == "thorough"]
    return [] if marks else None


_loops: list[asyncio.AbstractEventLoop] = []  # that pytest-asyncio made for the test that runs


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Make every async test on each loop; the loops made are remembered, to look for their tasks."""

    def remembered(make: Callable[[], asyncio.AbstractEventLoop]) -> Callable[[], asyncio.AbstractEventLoop]:
        def factory() -> asyncio.AbstractEventLoop:
            loop = make()
            _loops.append(loop)
            return loop

        return factory

    return {name: remembered(make) for name, make in LOOP_FACTORIES.items()}


OUTER_WINGS = {"offload", "remote", "watch", "web"}  # they are built on the core, which is tried on each loop
OUTER_LOOP = "eager" if "eager" in LOOP_FACTORIES else "debug"


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is marked
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave all loops but one to the thorough run outside the core, and where a test waits for its processes.

    With eager tasks where Python has them: 3.11 has none, so that all Pythons together try both kinds of tasks. The
    thorough run of the gate is on 3.11, so what is thorough and has eager tasks is marked, to be run on another.
    """
    others = "|".join(name for name in LOOP_FACTORIES if name != OUTER_LOOP)
    for item in items:
        is_outer = item.path.parent.name in OUTER_WINGS or item.get_closest_marker("processes")
        is_thorough = item.get_closest_marker("thorough")
        if is_outer and not is_thorough and is_async_test(item) and re.search(rf"\[({others})\b", item.name):
            item.add_marker("thorough")
            item.add_marker("other_loops")
        if isinstance(item, pytest.Function) and getattr(item, "callspec", None) and item.callspec.params.get("eager"):
            item.add_marker("eager")


@pytest.fixture(autouse=True, scope="module")
def what_was_there_before() -> None:
    """Keep what exists before a module out of the collections that end each of its tests: they then take about 1 ms.

    By the last modules, what earlier ones imported and cached would make them 80 ms, for each of 1,500 tests.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that leaves a pending task in its loop; the tasks of its fixtures are theirs to end.

    The tasks of brokers are those of the fixture ``connect``, which closes them after the test and looks itself.

    Cancel one that hangs shortly before its timeout: pytest-timeout's signal cannot interrupt uvloop.
    """
    before = pending(_loops)
    hung: list[str] = []

    def cancel(loop: asyncio.AbstractEventLoop) -> None:
        for task in asyncio.all_tasks(loop):
            hung.append(repr(task))
            task.cancel()

    after = hung_after(timeout_of(item))
    timers = [loop.call_later(after, cancel, loop) for loop in _loops]
    try:
        yield
    except asyncio.CancelledError:
        if not hung:
            raise
    finally:
        for timer in timers:
            timer.cancel()
    if hung:
        pytest.fail("the test hung; its tasks were:\n" + "\n".join(hung), pytrace=False)
    is_connected = "connect" in getattr(item, "fixturenames", ())
    if not is_connected and (left := pending(_loops) - before):
        pytest.fail("tasks were left pending:\n" + "\n".join(map(repr, left)), pytrace=False)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a thread or an open socket, or makes asyncio log an error; ends after its loop."""
    _loops.clear()
    with leak_check():
        yield
        _loops.clear()
        gc.collect()


_blockbuster = BlockBuster("asyncpc", excluded_modules=["asyncpc.testing"])  # which runs most tests
_blockbuster.functions["threading.Lock.acquire"].can_block_in("scenarios/program.py", "_in_thread")  # of a handler
_blockbuster.functions["threading.Lock.acquire"].can_block_in("asyncpc/run/turns.py", "let_in")  # that is its purpose


@pytest.fixture(autouse=True)
def nothing_blocks(nothing_left_behind: None) -> Iterator[None]:
    """Fail a blocking call (sleep, file, lock, socket) in a running loop with asyncpc on the stack."""
    _blockbuster.activate()
    if Coverage.current() is not None:  # its tracer waits for a lock of its own where threads run loops side by side
        _blockbuster.functions["threading.Lock.acquire"].deactivate()
    yield
    _blockbuster.deactivate()
