"""What the tests share: every loop they run on, the search for what a test left behind, small stages and figures."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import pytest
import uvloop

from asyncpc import Consumer, Pipeline, PipelineError, Report, StageStatistics, consumer, producer, testing
from asyncpc.failure import FAILURES_KEPT

__all__ = [
    "BUSY",
    "EAGER",
    "LOOP_FACTORIES",
    "PATIENCE",
    "AnyStage",
    "Broken",
    "Odd",
    "balanced",
    "both",
    "cancelled_with",
    "counts",
    "counts_by_stage",
    "cut_short",
    "endless",
    "error_types",
    "hung_after",
    "ignore",
    "left",
    "left_after_cancel",
    "lines_run",
    "named",
    "no_wait",
    "pending",
    "places",
    "refuse_odd",
    "same",
    "switching_often",
    "timeout_of",
    "until",
    "workers",
]

BUSY = 10.0
"""Seconds that a busy machine may add to what is over at once; without what such a limit protects it takes for ever,
or the 30 s of a drain. Promises to the millisecond are tested in virtual time."""

EAGER: Final = [False, True] if sys.version_info >= (3, 12) else [False]
"""Values for ``testing.run(eager=...)`` that this Python has."""

both = pytest.mark.parametrize("eager", EAGER)
"""Run a test with lazy and with eager tasks."""


class _DebugLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, in debug mode whatever its runner says."""

    def set_debug(self, enabled: bool) -> None:
        super().set_debug(True)


def _debug_loop() -> asyncio.AbstractEventLoop:
    loop = _DebugLoop()
    loop.set_debug(True)
    return loop


def _eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.SelectorEventLoop()
    if sys.version_info >= (3, 12):
        loop.set_task_factory(asyncio.eager_task_factory)
    return loop


LOOP_FACTORIES: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "debug": _debug_loop,
    **({"eager": _eager_loop} if sys.version_info >= (3, 12) else {}),
    "uvloop": uvloop.new_event_loop,
}
"""Every async test runs once on each."""


def pending(loops: Iterable[asyncio.AbstractEventLoop]) -> set[asyncio.Task[object]]:
    """The unfinished tasks of ``loops``, none of which is running."""
    return {task for loop in loops for task in asyncio.all_tasks(loop)}


def timeout_of(item: pytest.Item) -> float:
    """Seconds pytest-timeout gives a test: its marker, the command line, or pyproject.toml."""
    marker = item.get_closest_marker("timeout")
    if marker is not None:
        return float(marker.args[0])
    return float(item.config.getoption("timeout") or item.config.getini("timeout"))


def hung_after(limit: float) -> float:
    """Seconds after which a test that may take so long counts as hung; a busy machine needs a second to cancel it."""
    return max(limit / 3, min(0.9 * limit, limit - 1.0))


@contextmanager
def switching_often() -> Iterator[None]:
    """Threads that take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


# -- stages ---------------------------------------------------------------------------------------


class Odd(Exception):
    """What handlers and functions of an item raise, mostly for odd items."""


def refuse_odd(item: int) -> int:
    """A function of an item that raises for odd ones."""
    if item % 2:
        raise Odd(item)
    return 0


AnyStage = Consumer[Any, Any, ..., Any]
"""A stage whose types do not matter."""


def named(name: str, function: Any, **options: Any) -> AnyStage:
    """A stage of that name, whatever the function is."""
    made: AnyStage = consumer(name=name, **options)(function)
    return made


async def same(item: Any) -> Any:
    """Pass an item on."""
    return item


@consumer
async def ignore(item: object) -> None:
    """Take everything, at once."""


@producer
async def endless() -> AsyncIterator[int]:
    """A number every 10 ms."""
    for n in itertools.count():
        yield n
        await asyncio.sleep(0.01)


def no_wait(attempt: int) -> float:
    """A back-off of no time."""
    return 0.0


places = pytest.mark.parametrize("how", ["branches", "chain"])
"""How one consumer comes to be in two places of a pipeline."""


# -- what a run came to ---------------------------------------------------------------------------


def cut_short(pipeline: Pipeline[Any, Any]) -> Report:
    """What is told of a run that is cancelled after a second."""

    async def main() -> Report:
        async with pipeline as running:
            await asyncio.sleep(1)
            return await running.drain(timeout=0)

    return testing.run(main())


async def cancelled_with(awaitable: Callable[[], Any], cancels: int = 1) -> asyncio.CancelledError:
    """What comes out of ``awaitable`` when its task is cancelled after a second."""
    found: list[asyncio.CancelledError] = []

    async def work() -> None:
        try:
            await awaitable()
        except asyncio.CancelledError as error:
            found.append(error)
            raise

    task = asyncio.create_task(work())
    await asyncio.sleep(1)
    for _ in range(cancels):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([task])
    assert task.cancelled()
    return found[0]


def counts(stage: StageStatistics) -> tuple[int, int, int]:
    """Received, done and failed."""
    return stage.received, stage.done, stage.failed


def counts_by_stage(report: Report) -> dict[str, tuple[int, int, int]]:
    """Received, done and failed by stage."""
    return {stage.name: (stage.received, stage.done, stage.failed) for stage in report.stages}


def left(report: Report) -> list[tuple[Any, str]]:
    """What a run left, and in which stage."""
    return [(one.item, one.stage) for one in report.unfinished]


def left_after_cancel(error: BaseException | None) -> dict[str, int]:
    """What the report of a cancelled run says was left, by stage."""
    report = getattr(error, "report", None)
    assert isinstance(report, Report)
    assert balanced(report)
    assert sorted(one.item for one in report.unfinished) == list(range(6))
    return report.left_by_stage()


def balanced(report: Report) -> bool:
    """Whether each stage accounts for all that it received, and the report names what failed."""
    left = report.left_by_stage()
    named = len(report.failures) == min(report.failed, FAILURES_KEPT)
    return named and all(s.received == s.done + s.failed + s.dropped + left.get(s.name, 0) for s in report.stages)


class Broken(RuntimeError):
    """Raised by what breaks, but should break nothing else."""


def error_types(error: PipelineError) -> list[type[BaseException]]:
    """The types of what a run failed with."""
    return [type(one) for one in error.exceptions]


def workers() -> dict[str, asyncio.Task[Any]]:
    """The tasks of all runs in this loop, by name."""
    tasks = {task.get_name().removeprefix("asyncpc:"): task for task in asyncio.all_tasks()}
    return {name: task for name, task in tasks.items() if task.get_name() == f"asyncpc:{name}"}


def lines_run(work: Callable[[], object]) -> int:
    """How many lines of the package run in ``work``: a measure of cost that knows no noise."""
    count = 0

    def line(frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        nonlocal count
        count += event == "line"
        return line

    def call(frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        return line if "/asyncpc/" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


# -- threads --------------------------------------------------------------------------------------


PATIENCE = 20.0
"""Seconds after which a thread that should have gone on fails its test."""


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what a thread does and tells nobody."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)
