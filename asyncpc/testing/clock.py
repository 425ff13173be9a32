"""Virtual time: an event loop whose clock jumps to the next timer instead of sleeping, and which finds deadlocks.

::

    from asyncpc.testing.clock import EAGER, Deadlock, idle, now, run_virtual

    @pytest.mark.parametrize("eager", EAGER)
    def test_something(eager: bool) -> None:
        async def main() -> str:
            await asyncio.sleep(3600)        # takes no real time; now() is 3600.0 exactly
            return "done"

        assert run_virtual(main, eager=eager) == "done"

The test function is a plain one: :func:`run_virtual` makes a fresh loop, runs ``main`` in it and closes it. It raises

- what ``main`` raised;
- :class:`Deadlock`, listing who waits where, as soon as nothing is ready, no timer is set and ``main`` is not done;
- :class:`LeftBehind` if ``main`` ended but a task is still pending or a timer is still set, or the loop's exception
  handler was told of something ("Task exception was never retrieved" and the like).

``await idle()`` returns when everything that could run has run, without moving the clock: afterwards every other
task waits for a timer, for you, or for ever.

Nothing outside the loop is waited for: no threads, processes, sockets or signals in virtual time (a task waiting for
one looks like a deadlock, or sees time jump).
"""

from __future__ import annotations

import asyncio
import gc
import math
import selectors
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any, Final, TypeVar

import pytest

from ..graph.pipeline import Pipeline
from ..run.report import Report
from ..wording import shown

__all__ = [
    "EAGER",
    "Deadlock",
    "LeftBehind",
    "VirtualLoop",
    "both",
    "idle",
    "measuring_with",
    "now",
    "ran",
    "run_virtual",
]

T = TypeVar("T")

EAGER: Final = [False, True] if sys.version_info >= (3, 12) else [False]
"""Values for ``run_virtual(eager=...)`` that this Python has, for ``pytest.mark.parametrize``."""

both = pytest.mark.parametrize("eager", EAGER)
"""Run a test with lazy and with eager tasks."""


class Deadlock(AssertionError):
    """Nothing is ready, no timer is set, and the main task is not done."""


class LeftBehind(AssertionError):
    """The main task ended, but something of it did not."""


class _JumpingSelector(selectors.DefaultSelector):
    """Asks the operating system without waiting; where the loop would sleep, its clock jumps."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and timeout != 0:
            self.loop._nothing_is_ready()
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop that starts at 0.0 seconds and never sleeps."""

    def __init__(self) -> None:
        self._now = 0.0
        self._idlers: deque[asyncio.Future[None]] = deque()
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        """Seconds since it was made."""
        return self._now

    async def idle(self) -> None:
        """Return once nothing else is ready; several callers return one at a time, first come first served."""
        idler: asyncio.Future[None] = self.create_future()
        self._idlers.append(idler)
        await idler

    def timers(self, of: str = "") -> list[str]:
        """The timers still set, a line each; with ``of``, those whose callback is defined in that package.

        Who sets a timer has to cancel it. (Those of ``asyncio.sleep`` and ``asyncio.timeout`` end with their tasks.)
        """
        heap: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]  # asyncio's heap of timers
        still_set = [(timer.when(), _function(timer)) for timer in sorted(heap) if not timer.cancelled()]
        return [
            f"a timer is still set: {getattr(function, '__qualname__', function)} at {when:g} s"
            for when, function in still_set
            if str(getattr(function, "__module__", "")).startswith(of)
        ]

    def _nothing_is_ready(self) -> None:
        while self._idlers:
            idler = self._idlers.popleft()
            if not idler.done():
                idler.set_result(None)
                return
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]  # asyncio's heap of timers
        if not timers:
            raise Deadlock("nothing can go on:\n" + "\n".join(_where(task) for task in _pending(self)))
        self._now = max(self._now, timers[0].when())  # asyncio has removed the cancelled ones from the top
        self._clock_resolution = math.ulp(self._now)  # so that exactly the timers due now are due


def now() -> float:
    """The running loop's time in seconds; a virtual loop starts at 0.0."""
    return asyncio.get_running_loop().time()


async def idle() -> None:
    """Let everything run that can run, without moving the clock; in a virtual loop only."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop), "idle() needs a virtual loop"
    await loop.idle()


@contextmanager
def measuring_with(clock: Callable[[], float]) -> Iterator[None]:
    """Let asyncpc measure with ``clock`` what it measures in real time: how long calls and loop iterations take.

    Inside another such block it changes nothing.
    """
    modules = [module for name, module in sys.modules.items() if name.startswith("asyncpc.")]
    measuring: list[Any] = [module for module in modules if getattr(module, "perf_counter", None) is time.perf_counter]
    for module in measuring:
        module.perf_counter = clock
    try:
        yield
    finally:
        for module in measuring:
            module.perf_counter = time.perf_counter


def run_virtual(main: Callable[..., Coroutine[Any, Any, T]], *args: Any, debug: bool = False, eager: bool = False) -> T:
    """Run ``main(*args)`` in a fresh virtual loop and return its result; see the module for what it raises.

    ``debug`` is asyncio's debug mode; ``eager`` uses ``asyncio.eager_task_factory`` (Python 3.12 and later).

    What asyncpc measures in real time takes a microsecond a look, or a busy machine would decide how many items a
    source gives before others have their turn.
    """
    looks = count()
    told: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=VirtualLoop, debug=debug) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        loop.set_exception_handler(lambda _, context: told.append(context))
        if eager and sys.version_info >= (3, 12):
            loop.set_task_factory(asyncio.eager_task_factory)
        with measuring_with(lambda: loop.time() + 1e-6 * next(looks)):
            result = runner.run(main(*args))
        tasks = [_where(task) for task in _pending(loop)]
        left = [*tasks, *loop.timers()]
        if not tasks:
            gc.collect(0)  # a failed task whose result nobody asked for says so when it is collected
    if left or told:
        raise LeftBehind("\n".join([*left, *(f"the loop was told: {context}" for context in told)]))
    return result


def _function(timer: asyncio.TimerHandle) -> Any:
    """What a timer calls, without the arguments bound to it."""
    callback: Any = timer._callback  # type: ignore[attr-defined]  # asyncio's own name for it
    while isinstance(callback, partial):
        callback = callback.func
    return callback


def _pending(loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[Any]]:
    return sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())


def _where(task: asyncio.Task[Any]) -> str:
    """``task`` and the place of its innermost ``await``, on one line."""
    waiting: Any = task.get_coro()
    place = "not started"
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "ag_frame", None)
        if frame is not None:
            place = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "ag_await", None)
    return f"pending: task {shown(task.get_name())} at {place}"


def ran(pipeline: Pipeline[Any, Any], *, eager: bool = False) -> Report:
    """The pipeline awaited, in virtual time."""

    async def main() -> Report:
        return await pipeline

    return run_virtual(main, eager=eager)
