"""``WorkerThreads``: threads that make blocking calls for coroutines.

Why not a library's pool? A call cannot be interrupted, so what matters is who waits for it, and how long. These threads
end with their run, not later. They are daemons, so one that is stuck cannot keep the program from ending (fault D4). A
call that exceeded its timeout keeps its thread and its worker until it ends, so a stage never has more calls under way
than it may (fault C11), nor two of one key. Calls that finish in one iteration of the loop wake it once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import suppress
from contextvars import Context, copy_context
from itertools import count
from queue import Empty, SimpleQueue
from threading import Lock, Thread, current_thread
from time import perf_counter
from types import CoroutineType
from typing import Any, Final

from ..errors import LeftBehind
from ..logs import ERROR, WARNING, log
from ..wording import place_of_thread
from .calls import Job, ThreadCaller
from .outside import OwnClock, announce, listed
from .steps import Steps, StepTimer

__all__ = ["Returns", "WorkerThreads", "until_ended"]

IDLE: Final = 1.0
"""Seconds between two looks of an idle thread whether the loop is still there."""


class WorkerThreads:
    """At most ``size`` threads that make calls, for one run; they start when there are calls to make.

    ``make_caller`` makes the :class:`ThreadCaller` of a thread, and ``timeout`` is in seconds per call. Each coroutine
    that uses the threads enters them; when the last one leaves, the threads end.
    """

    def __init__(
        self,
        name: str,
        size: int,
        timeout: float | None = None,
        make_caller: Callable[[], ThreadCaller] = ThreadCaller,
        numbers: Iterator[int] | None = None,
        returns: Returns | None = None,
    ) -> None:
        self._name = name
        self._size = size
        self._timeout = timeout
        self._make_caller = make_caller
        self._members = 0
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads: list[tuple[Thread, ThreadCaller]] = []
        self._numbers = count(1) if numbers is None else numbers
        self._leaving = 0  # how many of them are to end, since there are too many
        self._under_way = 0
        self._lock = Lock()  # between a call that ends and who interrupts it
        self._returns = Returns() if returns is None else returns
        self._step_timer = StepTimer()
        self._free: asyncio.Future[None] | None = None  # who waits until no call is under way
        self._loop: asyncio.AbstractEventLoop | None = None
        announce(self)

    def at_work(self, loop: asyncio.AbstractEventLoop) -> Iterable[tuple[str, int | None]]:
        """See ``Employer``."""
        is_at_work = self._loop is loop and (self._under_way or self._leaving)
        return listed([thread for thread, _ in self._threads]) if is_at_work else ()

    async def __aenter__(self) -> WorkerThreads:
        self._loop = asyncio.get_running_loop()
        self._members += 1
        return self

    async def __aexit__(self, *details: object) -> None:
        """When the last member leaves, end the threads. A call under way is interrupted if possible, else awaited.

        *Cancel safety*: a cancel leaves such a call behind in its thread, and logs its name.
        """
        self._members -= 1
        if self._members == 0:
            threads, self._threads = self._threads, []
            self._step_timer.close()
            for _, caller in threads:
                if self._under_way:
                    caller.interrupt()
                self._jobs.put(None)
            try:
                await until_ended(*[thread for thread, _ in threads])
            except asyncio.CancelledError:
                stuck = [thread.name for thread, _ in threads if thread.is_alive()]
                if stuck and self.is_busy:  # an idle thread may only be slow to end on a busy machine
                    message = "stage %r: left behind, still in a call: %s"
                    log(ERROR, message, self._name, ", ".join(stuck), stage=self._name)
                    raise LeftBehind from None
                raise

    @property
    def is_busy(self) -> bool:
        """Whether a call is under way, awaited or not."""
        return self._under_way > 0

    async def until_free(self) -> None:
        """Wait until no call is under way."""
        while self.is_busy:
            self._free = asyncio.get_running_loop().create_future()
            await self._free

    def place(self) -> str:
        """Where a call under way is, in the user's code: ``app.py:12 in fetch``; empty if none is or nobody can say."""
        places = [place_of_thread(thread.ident) for thread, _ in self._threads] if self.is_busy else []
        return next(filter(None, places), "")

    def resize(self, size: int) -> None:
        """Change the number of threads to ``size``; surplus threads end after the calls that wait already."""
        self._size = size
        while len(self._threads) - self._leaving > size:
            self._leaving += 1
            self._jobs.put(None)

    async def call(self, function: Callable[..., Any], *args: Any, context: Context | None = None) -> Any:
        """Call ``function(*args)`` in one of the threads, in ``context`` (by default a copy of the caller's).

        Raises what the call raises, and ``TimeoutError`` when it exceeds the timeout.

        *Cancel safety*: a call that has not begun is not made; a call that has begun goes on, and its value is dropped.
        """
        job = self._begin(context or copy_context(), function, args, self._timeout)
        try:
            await job.future
        except BaseException:
            job.leave()
            raise
        if job.timer is not None:
            job.timer.cancel()
        value = job.value if job.error is None and not job.overdue else self._value(job)
        if type(value) is CoroutineType:
            value.close()  # or Python warns that it was never awaited
            raise TypeError(
                f"stage {self._name!r} gave a coroutine: write its function as 'async def', "
                "or see whether a decorator around it hides that it is"
            )
        return value

    async def values(self, function: Callable[..., Any], *args: Any) -> AsyncGenerator[Any, None]:
        """The values of a generator function, which is called and read in one of the threads.

        They come as they are given; fast ones come together, a moment later. The thread is at most 128 values ahead.
        Raises what the generator raises, and ``TimeoutError`` when it has worked longer than the timeout in all; both
        after the values before. Its time does not run while it is ahead and waits for its values to be taken.

        *Cancel safety*: the generator is closed in its thread; values that it was ahead are dropped.
        """
        steps, context = Steps(function, *args), copy_context()
        job: Job | None = None
        try:
            while not steps.ended:
                job = self._begin(context, steps.step, (), self._time_left(steps.seconds))
                self._step_timer.watch(steps, job.wake)
                over = False
                while not over:
                    await job.future
                    if not (over := job.over):
                        job.future = job.future.get_loop().create_future()
                    while steps.values:
                        yield steps.values.popleft()
                job.leave()
                self._value(job)
        finally:
            self._step_timer.forget()
            if job is not None:
                job.leave()
                steps.left = True
                if job.overdue:  # closed when the call has ended: its failure is told now
                    self._begin(context, steps.close, (), None)
                elif not steps.ended:
                    await self.call(steps.close, context=context)

    def _begin(self, context: Context, function: Callable[..., Any], args: tuple[Any, ...], limit: float | None) -> Job:
        """Let one of the threads make a call, which may take ``limit`` seconds."""
        loop = self._loop
        assert loop is not None  # it was entered
        if len(self._threads) - self._leaving < min(self._size, self._under_way + 1):
            self._start_thread()  # first, since the system may refuse one: then the call is not made
        job = Job(loop.create_future(), context, function, args)
        self._under_way += 1
        self._jobs.put(job)
        if limit is not None:
            job.timer = loop.call_later(limit, self._look, job, limit)
        return job

    def _value(self, job: Job) -> Any:
        """What a call gave that has ended, or is overdue; raises what it raised."""
        if job.overdue:
            raise TimeoutError(self._too_long())
        if job.error is not None:
            try:
                raise job.error
            finally:
                job.error = None  # its traceback leads here: no circle, which would keep the item alive
        return job.value

    def _time_left(self, seconds: float) -> float | None:
        """Seconds that a call may still take that has taken so many; raises ``TimeoutError`` if that is none."""
        if self._timeout is None:
            return None
        if seconds >= self._timeout:
            raise TimeoutError(self._too_long())
        return self._timeout - seconds

    def _start_thread(self) -> None:
        caller = self._make_caller()
        name = f"asyncpc:{self._name}-{next(self._numbers)}"
        thread = Thread(target=self._work, args=(caller,), name=name, daemon=True)
        thread.start()
        self._threads.append((thread, caller))

    # -- in the threads -----------------------------------------------------------------------

    def _work(self, caller: ThreadCaller) -> None:
        try:
            while self._work_once(caller):  # in a frame of its own: an idle thread keeps nothing alive
                assert self._loop is not None
                self._returns.notify(self._loop)
        finally:
            caller.close()
            with suppress(RuntimeError):  # the loop is closed, so nobody waits any more
                assert self._loop is not None
                self._loop.call_soon_threadsafe(self._left, current_thread())

    def _work_once(self, caller: ThreadCaller) -> bool:
        """Wait for calls and make them; whether there were any."""
        if (first := self._get()) is None:
            return False
        jobs = self._with_more(first, caller)
        wanted = [job for job in jobs if not job.future.done()]
        for job in wanted:
            job.caller = caller
        if wanted:
            self._make(caller, wanted)
        with self._lock:
            for job in jobs:
                job.ended = True
        self._returns.add(self, jobs)
        return True

    def _make(self, caller: ThreadCaller, jobs: list[Job]) -> None:
        try:
            caller.make(jobs)
        except BaseException as error:  # or the thread would end, and these calls would be awaited for ever
            for job in jobs:
                job.error = job.error or error

    def _with_more(self, first: Job, caller: ThreadCaller) -> list[Job]:
        """A job, and some that wait after it, but no more than this thread's share."""
        jobs, most = [first], caller.most()
        if most > 1:
            most = min(most, 1 + self._jobs.qsize() // self._size)
        while len(jobs) < most:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                break
            if job is None:
                self._jobs.put(None)  # the end is for the next thread
                break
            jobs.append(job)
        return jobs

    def _get(self) -> Job | None:
        """Wait for a job, or the end; a loop that was closed under its run gives neither (fault D6)."""
        while True:
            try:
                return self._jobs.get(timeout=IDLE)
            except Empty:
                assert self._loop is not None
                if self._loop.is_closed():
                    return None

    # -- in the loop --------------------------------------------------------------------------

    def _ended(self, jobs: list[Job]) -> None:
        """These calls have ended."""
        self._under_way -= len(jobs)
        for job in jobs:
            job.over = True
            job.wake()
        if self._free is not None and not self._under_way and not self._free.done():
            self._free.set_result(None)

    def _left(self, thread: Thread) -> None:
        staying = [one for one in self._threads if one[0] is not thread]
        self._leaving -= len(self._threads) - len(staying)
        self._threads = staying

    def _look(self, job: Job, limit: float) -> None:
        """Check the limit of a call, which runs from its beginning: a wait for a thread does not count."""
        if job.over or job.future.cancelled():
            return
        left = limit if job.began is None else job.began + limit - perf_counter()
        if left > 0:
            job.timer = asyncio.get_running_loop().call_later(left, self._look, job, limit)
            return
        assert job.caller is not None
        with self._lock:
            if job.ended:  # its thread may be at another call already
                return
            job.overdue = job.over = True
            job.wake()  # before the interrupt, after which a call that is still awaited is made again
            interrupted = job.caller.interrupt()
        if not interrupted:
            log(
                WARNING,
                "%s; a thread cannot be interrupted, so its worker waits until the call ends",
                self._too_long(),
                stage=self._name,
            )

    def _too_long(self) -> str:
        return f"stage {self._name!r}: the call took longer than timeout={self._timeout:g} seconds"


class Returns:
    """Brings calls that have ended back to the loop: of all threads of a stage, so that they wake it once."""

    __slots__ = ("_called", "_done")

    def __init__(self) -> None:
        self._done: deque[tuple[WorkerThreads, list[Job]]] = deque()
        self._called = False  # whether the loop will look at what is done

    def add(self, threads: WorkerThreads, jobs: list[Job]) -> None:
        """Some calls have ended; :meth:`notify` follows."""
        self._done.append((threads, jobs))

    def notify(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake the loop once for all calls that end before it looks (fault D8)."""
        if not self._called:
            self._called = True
            try:
                loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the loop is closed, so nobody waits any more
                self._done.clear()

    def _deliver(self) -> None:
        self._called = False
        while self._done:
            threads, jobs = self._done.popleft()
            threads._ended(jobs)


async def until_ended(*threads: Thread) -> None:
    """Wait until threads that are about to end have ended; a ``join`` would block the loop."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, OwnClock):
        await loop.until_ended(threads)
        return
    looks = 0
    while any(thread.is_alive() for thread in threads):
        looks += 1
        await asyncio.sleep(0 if looks < 10 else 0.001 if looks < 100 else 0.01)
