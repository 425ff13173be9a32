"""Virtual time: an event loop whose clock jumps to the next timer instead of sleeping, and which finds deadlocks."""

from __future__ import annotations

import asyncio
import gc
import math
import selectors
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import count
from threading import Thread, get_ident
from typing import Any, Final, TypeVar, TypeVarTuple

from ..errors import StateError
from ..offload import handlers, into_loop, outside
from ..wording import shown
from .places import place_of

__all__ = ["Deadlock", "LeftBehind", "VirtualLoop", "idle", "measuring_with", "now", "pause", "run", "running_loop"]

T = TypeVar("T")
Given = TypeVarTuple("Given")

MOMENT: Final = 0.001
"""Seconds of real time between two looks whether a thread has come to wait for the loop, which it need not say."""

PATIENCE: Final = 20.0
"""Seconds of real time after which a thread that works for the loop counts as stuck."""


class Deadlock(AssertionError):
    """Nothing can go on: nothing is ready, no timer is set, and nobody outside the loop works for it.

    The message names each task and the line of your code, or else of asyncpc's, in which it waits. It is raised where
    the loop was run: by :func:`run`, or by the test, and not in a task, so nothing can catch it by mistake.
    """


class LeftBehind(AssertionError):
    """Something was not ended, and the message names it: a task, a timer, a thread, a socket, an async generator."""


class _JumpingSelector(selectors.DefaultSelector):
    """Asks the operating system without waiting; where the loop would sleep, its clock jumps."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        __tracebackhide__ = True  # pytest then shows the line of the test, and not this one
        events = super().select(0)
        if events or timeout == 0:
            return events
        threads = self.loop._at_work()
        if self.loop._threads_have_ended():  # asked last, or one might end in between
            return events
        if threads:  # time stands still for what takes none that the clock knows
            events = super().select(MOMENT)
            self.loop._looked(bool(events), threads)
            return events
        events = super().select(0)  # for a thread that has called the loop before it went home
        if not events:
            self.loop._nothing_is_ready()
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop that starts at 0.0 seconds and never sleeps: when nothing can run, it is the next timer's time.

    Time stands still while a thread works for the loop, or a process or an interpreter of a stage: in a handler, in a
    source, in ``asyncio.to_thread`` or ``run_in_executor``. It passes while such a thread waits for the loop. Of all
    else outside it knows nothing, such as sockets, subprocesses and threads of other libraries. A test that waits for
    one of these needs a real loop.

    When nothing can go on, it raises :class:`Deadlock`, also when a thread has worked for 20 s of real time.

    What asyncpc measures in real time takes a microsecond a look, or a busy machine would decide how many items a
    source gives before others have their turn.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._idlers: deque[asyncio.Future[None]] = deque()
        self._ending: list[tuple[Sequence[Thread], asyncio.Future[None]]] = []  # and who waits for their end
        self._in_vain = 0  # looks at what comes from threads, one after the other
        self._measured = count()
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        """Seconds since it was made."""
        return self._now

    @property
    def _heap(self) -> list[asyncio.TimerHandle]:
        # The clock jumps to the next timer, so it has to know which that is. A loop does not tell in public, and
        # typeshed knows no private name. If CPython chooses another one, every test in virtual time fails at once.
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]  # as said above
        return timers

    async def idle(self) -> None:
        """See :func:`idle`; several callers return one at a time, first come first served."""
        idler: asyncio.Future[None] = self.create_future()
        self._idlers.append(idler)
        await idler

    def timers(self, of: str = "") -> list[str]:
        """The timers still set, a line each; with ``of``, those whose callback is defined in that package.

        Who sets a timer has to cancel it. (Those of ``asyncio.sleep`` and ``asyncio.timeout`` end with their tasks.)
        """
        still_set = [(timer.when(), _function(timer)) for timer in sorted(self._heap) if not timer.cancelled()]
        return [
            f"a timer is still set: {getattr(function, '__qualname__', function)} at {when:g} s"
            for when, function in still_set
            if function is not _end and str(getattr(function, "__module__", "")).startswith(of)
        ]

    def run_forever(self) -> None:
        """Run until it is stopped."""
        global _running
        before, _running = _running, self
        try:
            with measuring_with(lambda: self._now + 1e-6 * next(self._measured)):
                super().run_forever()
        finally:
            _running = before

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Given], T], *args: *Given
    ) -> asyncio.Future[T]:
        """Call it in a thread; time stands still meanwhile."""
        call = outside.Call(getattr(func, "__qualname__", "a function"), self)

        def work(*args: *Given) -> T:
            call.thread = get_ident()
            return func(*args)

        in_thread = executor is None or isinstance(executor, ThreadPoolExecutor)
        try:
            future = super().run_in_executor(executor, work if in_thread else func, *args)
        except BaseException:  # such as that the executor was shut down
            call.end()
            raise
        future.add_done_callback(lambda _: call.end())
        return future

    async def shutdown_default_executor(self, *timeout: float | None) -> None:
        """End the threads of ``asyncio.to_thread``; a thread waits for them."""
        with outside.working("the end of asyncio's executor"):
            await super().shutdown_default_executor(*timeout)

    async def until_ended(self, threads: Sequence[Thread]) -> None:
        """Wait for the end of threads, without time passing."""
        if any(thread.is_alive() for thread in threads):
            ended = self.create_future()
            self._ending.append((threads, ended))
            await ended

    def _threads_have_ended(self) -> bool:
        """Let those go on who wait for the end of threads that have ended; whether there were any."""
        waits = [(threads, ended) for threads, ended in self._ending if not ended.done()]
        self._ending = [one for one in waits if any(thread.is_alive() for thread in one[0])]
        over = [one for one in waits if one not in self._ending]
        for _, ended in over:
            ended.set_result(None)
        return bool(over)

    def _at_work(self) -> list[str]:
        """Who works for this loop."""
        ending = [thread for threads, _ in self._ending for thread in threads if thread.is_alive()]
        return outside.at_work(self, ending)

    def _looked(self, anything: bool, threads: list[str]) -> None:
        """It has waited a moment for threads; raises ``Deadlock`` if nothing has come for long."""
        __tracebackhide__ = True
        self._in_vain = 0 if anything else self._in_vain + 1
        if self._in_vain * MOMENT > PATIENCE:
            raise Deadlock("\n".join([f"no answer in {PATIENCE:g} s of: {', '.join(threads)}", *waiting(self)]))

    def _nothing_is_ready(self) -> None:
        __tracebackhide__ = True
        self._in_vain = 0
        while self._idlers:
            idler = self._idlers.popleft()
            if not idler.done():
                idler.set_result(None)
                return
        timers = self._heap
        if not timers:
            raise Deadlock("\n".join([f"nothing can go on, at {self._now:g} s:", *waiting(self)]))
        self._now = max(self._now, timers[0].when())  # asyncio has removed the cancelled ones from the top
        self._clock_resolution = math.ulp(self._now)  # so that exactly the timers due now are due


_running: VirtualLoop | None = None
"""For the threads that work for it."""


def running_loop() -> VirtualLoop | None:
    """The virtual loop that runs, also for a thread that works for it."""
    return _running


def now() -> float:
    """The time of the loop in seconds: in virtual time, since the beginning of the test; in a thread, too."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic() if _running is None else _running.time()


async def idle() -> None:
    """Let everything go on that can, without time passing: afterwards all wait for a timer, for the test, or for ever.

    That includes what threads and processes do for the loop. It raises ``StateError`` in a loop whose time is real.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise StateError("idle() needs virtual time: in a real loop nobody knows whether something is still to come")
    await loop.idle()


def pause(seconds: float) -> None:
    """Let time pass, in a thread that works for the loop: virtual time if that has one."""
    loop = _running
    if loop is None:
        time.sleep(seconds)  # in a thread of its own, which has no loop; the docstring says so
        return
    over: Future[None] = Future()
    loop.call_soon_threadsafe(loop.call_later, seconds, _end, over)
    into_loop.result_of(loop, over, "the test is over")


def _end(over: Future[None]) -> None:
    """The timer of a pause. If the pause is cut off, it is the thread that was left, not its timer."""
    over.set_result(None)


@contextmanager
def measuring_with(clock: Callable[[], float]) -> Iterator[None]:
    """Let asyncpc measure with ``clock`` what it measures in real time: how long calls and loop iterations take.

    Inside another such block it changes nothing.
    """
    assert handlers  # imported by then, with the modules that measure calls in threads: a stage imports them late
    measuring = [one for one in _measuring(len(sys.modules)) if one.perf_counter is time.perf_counter]
    for module in measuring:
        module.perf_counter = clock
    try:
        yield
    finally:
        for module in measuring:
            module.perf_counter = time.perf_counter


@lru_cache(maxsize=1)
def _measuring(imported: int) -> list[Any]:
    """The modules of asyncpc that measure, until more is imported: to find them takes as long as a small run."""
    modules: list[Any] = [module for name, module in list(sys.modules.items()) if name.startswith("asyncpc.")]
    return [module for module in modules if hasattr(module, "perf_counter")]


def run(main: Awaitable[T], *, eager: bool = False, debug: bool = False) -> T:
    """Run a coroutine or a pipeline in a fresh :class:`VirtualLoop`, and return its result.

    ::

        report = testing.run(numbers >> show)
        testing.run(main())

    ``eager``
        Whether tasks begin at once (``asyncio.eager_task_factory``; Python 3.12 and later).
    ``debug``
        asyncio's debug mode.

    Raises what it raises; :class:`Deadlock` when nothing can go on; and :class:`LeftBehind` if a task is still pending
    or a timer is still set when it ends, or the loop was told of an exception that nobody asked for.
    """
    told: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=VirtualLoop, debug=debug) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        loop.set_exception_handler(lambda _, context: told.append(context))
        if eager and sys.version_info >= (3, 12):
            loop.set_task_factory(asyncio.eager_task_factory)
        result = runner.run(_awaited(main))
        tasks = waiting(loop)
        left = [*tasks, *loop.timers()]
        if not tasks:
            gc.collect(0)  # a failed task whose result nobody asked for says so when it is collected
    if left or told:
        raise LeftBehind("\n".join([*left, *(f"the loop was told: {context}" for context in told)]))
    return result


async def _awaited(main: Awaitable[T]) -> T:
    return await main


def _function(timer: asyncio.TimerHandle) -> Any:
    """What a timer calls, without the arguments bound to it."""
    handle: Any = timer
    callback = handle._callback  # asyncio's own name for it
    while isinstance(callback, partial):
        callback = callback.func
    return callback


def waiting(loop: asyncio.AbstractEventLoop) -> list[str]:
    """The tasks of a loop that have not ended, and where each waits, a line each."""
    tasks = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())
    return [f"pending: task {shown(task.get_name())} at {place_of(task)}" for task in tasks]
