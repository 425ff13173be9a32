"""Items put, asked for and fed from any thread: nothing lost, the bound kept, no hang."""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest
from support import PATIENCE, ignore, named, switching_often, until

from asyncpc import (
    Batch,
    Consumer,
    Pipeline,
    PipelineError,
    QueueShutDown,
    Running,
    StateError,
    consumer,
    feed,
    merge,
    producer,
    source,
)
from asyncpc.offload.bridge import Bridge, bridge_to
from asyncpc.run.accounting import Accounts as Books_
from asyncpc.testing import collect

pytestmark = pytest.mark.realtime


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """What a thread that belongs to nobody gives."""
    result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()

    def work() -> None:
        try:
            value, error = function(*args), None
        except BaseException as raised:
            value, error = None, raised
        loop.call_soon_threadsafe(result.set_result, (value, error))

    thread = threading.Thread(target=work)
    thread.start()
    value, error = await result
    thread.join()
    if error is not None:
        raise error
    return value


def in_thread_at_once(function: Callable[..., Any], *args: Any) -> Any:
    """The same while the loop does not run."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result()


def taking(batch: Batch | None, take: Callable[[list[int]], object]) -> Consumer[int, None, ..., Any]:
    """A consumer that gives ``take`` its batches, or single items."""
    if batch is None:

        @consumer
        async def single(n: int) -> None:
            take([n])

        return single

    @consumer(batch=batch)
    async def several(items: list[int]) -> None:
        take(items)

    return several


# -- put_from_thread ------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [10_000, pytest.param(100_000, marks=pytest.mark.thorough)])
async def test_eight_threads_lose_nothing_and_keep_the_bound(most: int) -> None:
    """Items of threads that are switched as often as can be: each arrives once, in its thread's order."""
    each, threads, maxsize = most // 20 if asyncio.get_running_loop().get_debug() else most, 8, 64
    last = [-1] * threads

    @consumer
    async def note(item: int) -> None:
        thread, n = item % threads, item // threads
        assert n == last[thread] + 1
        last[thread] = n

    with switching_often():
        async with Pipeline(note, maxsize=maxsize) as running:

            def put(thread: int) -> None:
                for n in range(each):
                    running.put_from_thread(n * threads + thread)

            await asyncio.gather(*[in_thread(put, thread) for thread in range(threads)])
    report = running.report
    assert report is not None
    assert report.done == report.produced == each * threads
    assert last == [each - 1] * threads
    assert report.stages[0].peak_queued <= maxsize


async def test_what_a_thread_feeds_at_the_very_end_is_refused_or_told() -> None:
    """Invariant 2: a call left behind in its thread feeds while the report is made: it is too late, and is told."""
    begun, go, fed = threading.Event(), threading.Event(), threading.Event()
    said: list[str] = []

    @consumer(name="stuck")
    def stuck(n: int) -> None:
        begun.set()
        go.wait(PATIENCE)
        try:
            feed(99)
            said.append("accepted")
        except QueueShutDown:
            said.append("refused")
        fed.set()

    class Books(Books_):
        """The books as they are, which are read just before the thread feeds."""

        __slots__ = ()

        def left(self) -> Any:
            left = super().left()
            go.set()
            while not fed.is_set():
                pass
            return left

    async with Pipeline(stuck) as running:
        await running.put(1)
        await until(begun.is_set)
        running._run.accounts.__class__ = Books
        report = await running.drain(timeout=0)
    items = [one.item for one in report.unfinished]
    assert (said, items, report.fed) in ((["refused"], [1], 0), (["accepted"], [1, 99], 1))


async def test_a_full_pipeline_makes_threads_wait() -> None:
    """Backpressure reaches the thread: TimeoutError after its timeout, or the item goes in when there is room."""
    gate = asyncio.Event()

    @consumer
    async def wait(n: int) -> None:
        await gate.wait()

    async with Pipeline(wait, maxsize=1) as running:
        await in_thread(running.put_from_thread, 1)
        await until(lambda: running.statistics().stages[0].in_flight == 1)
        await in_thread(running.put_from_thread, 2)
        with pytest.raises(TimeoutError):
            await in_thread(running.put_from_thread, 3, 0.05)
        with pytest.raises(TimeoutError):
            await in_thread(running.put_from_thread, 3, 0)
        waiting = asyncio.ensure_future(in_thread(running.put_from_thread, 4))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        gate.set()
        await waiting
    assert running.report is not None
    assert running.report.done == 3


@pytest.mark.parametrize(
    "options", [{"key": abs}, {"priority": abs}, {"batch": Batch(1, weigh=abs)}, {"overflow": "drop_oldest"}], ids=str
)
async def test_a_put_that_the_loop_does_not_answer_in_time_left_nothing_behind(options: dict[str, Any]) -> None:
    """The loop, which must call the user's function, is busy: the thread is told in time, and its item not taken."""
    handled: list[Any] = []

    async def handle(item: Any) -> None:
        handled.extend(item if "batch" in options else [item])

    async with Pipeline(named("handle", handle, **options)) as running:
        with pytest.raises(TimeoutError, match="time is up"):
            in_thread_at_once(running.put_from_thread, 1, 0.05)
        await in_thread(running.put_from_thread, 2, 0)  # it has a moment to answer, though none to wait for room
        report = await running.drain()
    assert (handled, report.produced) == ([2], 1)


def interrupt(thread: threading.Thread) -> None:
    """As Ctrl-C would, if it were the main thread."""
    assert thread.ident is not None
    raised = ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Interrupted))
    assert raised == 1


class Interrupted(BaseException):
    """What comes in the midst of a put."""


def was_interrupted(thread: threading.Thread) -> bool:
    """Whether it knows, and still waits for what the loop is at."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and frame.f_code.co_name != "in_loop":
        frame = frame.f_back
    return frame is not None and "error" in frame.f_locals


@pytest.mark.parametrize("begun", [False, True])
async def test_a_put_that_is_interrupted_left_nothing_behind(begun: bool) -> None:
    """Its item is withdrawn before the loop comes to it. If the loop is at it, the thread waits for the outcome."""
    handled: list[int] = []
    called, looking, go_on, told = [threading.Event() for _ in range(4)]
    loop = asyncio.get_running_loop()

    class Telling:
        """The loop, and says when it is called."""

        def __getattr__(self, name: str) -> Any:
            return getattr(loop, name)

        def call_soon_threadsafe(self, *args: Any) -> Any:
            loop.call_soon_threadsafe(*args)
            called.set()

    def key(n: int) -> int:
        looking.set()
        while not go_on.is_set():
            pass  # the loop does not run meanwhile
        return n

    @consumer(key=key)
    async def handle(n: int) -> None:
        handled.append(n)

    def put() -> None:
        try:
            running.put_from_thread(1)
        except Interrupted:
            told.set()

    def disturb() -> None:
        assert (looking if begun else called).wait(PATIENCE)
        interrupt(putting)
        while not (was_interrupted(putting) if begun else told.is_set()):
            pass
        go_on.set()

    async with Pipeline(handle) as running:
        bridge_to(running._run.first)._loop = Telling()  # type: ignore[assignment]  # a loop that tells
        putting, disturbing = threading.Thread(target=put), threading.Thread(target=disturb)
        putting.start()
        disturbing.start()
        if not begun:
            while not told.is_set():
                pass  # the loop does not run meanwhile
        await until(lambda: not (putting.is_alive() or disturbing.is_alive()))
        report = await running.drain()
    assert (handled, report.produced) == (([1], 1) if begun else ([], 0))


async def test_threads_that_wait_for_long_look_seldom() -> None:
    """Two hundred of them, each awake twenty times a second, took a tenth of a core."""
    parked = 0

    class Counted(Bridge):
        """Counts how often a thread lay down."""

        __slots__ = ()

        def _park(self, *args: Any) -> Any:
            nonlocal parked
            parked += 1
            return super()._park(*args)

    @consumer(maxsize=1)
    async def never(n: int) -> None:
        await asyncio.Event().wait()

    async with Pipeline(never) as running:
        await running.put(0)
        await until(lambda: running.statistics().stages[0].in_flight == 1)
        await running.put(1)
        bridge_to(running._run.first).__class__ = Counted
        began = time.monotonic()
        waiting = [asyncio.ensure_future(in_thread(running.put_from_thread, n, 0.6)) for n in range(10)]
        for one in waiting:
            with pytest.raises(TimeoutError):
                await one
        elapsed = time.monotonic() - began  # 0.6 s, but for a busy machine
        await running.drain(timeout=0)
    assert parked <= 10 + elapsed / 0.05 + 10  # as they come, one each 0.05 s, and a last look; once it was twelve each


async def test_a_thread_whose_time_is_up_looks_once_more() -> None:
    """A place that became free since its last look is not passed over: it is woken when half of the room is free."""
    gate = asyncio.Semaphore(0)

    @consumer
    async def wait(n: int) -> None:
        await gate.acquire()

    async with Pipeline(wait, maxsize=4) as running:
        for n in range(5):
            await running.put(n)
        waiting = [asyncio.ensure_future(in_thread(running.put_from_thread, n, 0.3)) for n in range(5, 25)]
        await asyncio.sleep(0.1)
        gate.release()
        await asyncio.wait(waiting)
        assert sum(one.exception() is None for one in waiting) == 1
        for _ in range(10):
            gate.release()


async def test_a_drain_refuses_threads_that_wait() -> None:
    """Each waiting thread is told at once and its item was not taken; what was handed over before is handled."""
    gate = asyncio.Event()

    @consumer
    async def wait(n: int) -> None:
        await gate.wait()

    async with Pipeline(wait, maxsize=1) as running:
        for n in range(2):
            await running.put(n)
        waiting = [asyncio.ensure_future(in_thread(running.put_from_thread, n)) for n in range(10, 15)]
        await asyncio.sleep(0.02)
        running.stop()
        for one in waiting:
            with pytest.raises(QueueShutDown, match="is draining: the item was not taken"):
                await one
        gate.set()
    with pytest.raises(QueueShutDown):
        await in_thread(running.put_from_thread, 1)
    with pytest.raises(QueueShutDown):
        running.put_from_thread(1)  # after the end it is refused here as well, not called a mistake
    assert running.report is not None
    assert running.report.done == 2


@pytest.mark.parametrize("moment", [0, 1, 10, 100, 1000])
async def test_a_drain_in_the_midst_of_a_burst_balances(moment: int) -> None:
    """Whenever the drain comes: each put that returned is handled, each that was refused is not."""
    returned: list[int] = []
    handled: list[int] = []

    @consumer
    async def note(n: int) -> None:
        handled.append(n)

    async with Pipeline(note, maxsize=10) as running:

        def put() -> None:
            for n in range(10**6):
                running.put_from_thread(n)
                returned.append(n)

        putting = asyncio.ensure_future(in_thread(put))
        await until(lambda: len(handled) > moment)
        report = await running.drain()
        with pytest.raises(QueueShutDown):
            await putting
    assert handled == returned
    assert report.done == report.produced == len(returned)


@pytest.mark.parametrize("priority", [None, abs])
async def test_the_loops_own_thread_is_refused(priority: Callable[[int], int] | None) -> None:
    """It would wait for itself (fault D7); whatever the queue's order, and also when the run drains."""

    @consumer(priority=priority)
    async def handle(n: int) -> None: ...

    async with Pipeline(handle) as running:
        with pytest.raises(StateError, match=r"await running\.put"):
            running.put_from_thread(1)
        with pytest.raises(StateError, match=r"running\.call"):
            running.call_from_thread(1)
        running.stop()
        with pytest.raises(QueueShutDown):
            running.put_from_thread(1)


async def test_put_in_a_thread_names_the_way_in_for_threads() -> None:
    """A plain ``def`` endpoint of a web framework runs in a thread; what belongs to the loop says so there."""
    async with Pipeline(ignore) as running:
        for call in running.put_nowait, lambda item: asyncio.run(running.put(item)):
            with pytest.raises(StateError, match=r"another event loop or thread.*running\.put_from_thread\(item\)"):
                await in_thread(call, 1)
        await in_thread(running.put_from_thread, 1)


@pytest.mark.parametrize("priority", [None, abs])
async def test_a_handler_in_a_thread_does_not_wait_for_room_either(priority: Callable[[int], int] | None) -> None:
    """It may be the one that has to make it; with a timeout, with room and from elsewhere a thread puts as ever."""
    is_full, told = threading.Event(), list[str]()

    @consumer(maxsize=1, priority=priority)
    def handle(n: int) -> None:
        if n == 0:
            is_full.wait(PATIENCE)
            with pytest.raises(TimeoutError):
                running.put_from_thread(3, timeout=0.01)
            with pytest.raises(StateError, match=r"queue of stage 'handle' is full.*feed\(item\)"):
                running.put_from_thread(3)
            told.append("refused")
        elif n == 2:
            running.put_from_thread(4)

    async with Pipeline(handle) as running:
        for n in range(2):
            await in_thread(running.put_from_thread, n)
        is_full.set()
        await in_thread(running.put_from_thread, 2)
        await until(lambda: running.statistics().done == 4)
    assert told == ["refused"]


async def test_where_nothing_can_be_put_a_thread_is_told() -> None:
    """A pipeline with several first stages takes no items from outside, and says so as ``put`` does."""

    @consumer
    async def one(n: int) -> None: ...

    @consumer
    async def other(n: int) -> None: ...

    pipeline: Pipeline[Any, Any] = merge(source([1]) >> one, source([2]) >> other) >> ignore
    async with pipeline as running:
        for call in running.put_nowait, running.put_from_thread, running.call_from_thread:
            with pytest.raises(StateError, match="merges several first stages"):
                call(1)


@pytest.mark.parametrize("option", ["priority", "key", "batch key", "batch weigh", "key beside batch"])
async def test_functions_of_an_item_run_in_the_loop_for_a_thread_too(option: str) -> None:
    """They may use what belongs to the loop, and what they raise is told to the thread whose item it is."""
    ran_in: set[int] = set()

    def function(n: int) -> int:
        ran_in.add(threading.get_ident())
        if n == 0:
            raise ValueError("no zeros")
        return 1

    options: dict[str, Any] = {
        "priority": {"priority": function},
        "key": {"key": function},
        "batch key": {"batch": Batch(2, key=function)},
        "batch weigh": {"batch": Batch(2, weigh=function)},
        "key beside batch": {"key": function, "batch": Batch(2)},
    }
    got: list[Any] = []

    async def keep(taken: Any) -> None:
        got.append(taken)

    stage: Consumer[int, None, ..., Any] = consumer(**options[option])(keep)
    async with Pipeline(stage) as running:
        await in_thread(running.put_from_thread, 7)
        with pytest.raises(ValueError, match="no zeros"):
            await in_thread(running.put_from_thread, 0)
    assert got == [[7] if "batch" in option else 7]
    assert ran_in == {threading.get_ident()}


async def test_the_loop_does_not_stop_looking_while_a_thread_hands_over() -> None:
    """An item handed over in the moment in which the loop finds nothing more is seen, not left until the next one."""
    handled: list[int] = []
    stopped_looking = threading.Event()

    @consumer
    async def note(n: int) -> None:
        handled.append(n)

    async with Pipeline(note) as running:
        bridge = bridge_to(running._run.first)
        looks = 0

        def slowly() -> bool:
            nonlocal looks
            looks += 1
            if looks == 2:  # of the thread, at its second item
                stopped_looking.wait(0.2)  # unless that is what is prevented
            return False

        def put() -> None:
            running.put_from_thread(1)
            running.put_from_thread(2)

        bridge._is_dead = slowly
        putting = asyncio.ensure_future(in_thread(put))
        await asyncio.sleep(0)
        while looks < 2:
            pass  # the loop does not run meanwhile
        for _ in range(5):
            await asyncio.sleep(0)  # it finds the first item, and then nothing more
        stopped_looking.set()
        await putting
        await until(lambda: handled == [1, 2])


@pytest.mark.parametrize("full", [False, True])
def test_a_closed_loop_is_an_error_never_a_hang(full: bool) -> None:
    """A run whose loop was closed under it refuses, and wakes nobody to wait for ever (fault D6)."""
    loop = asyncio.new_event_loop()

    async def begin() -> Any:
        running = await Pipeline(ignore, maxsize=1).__aenter__()
        if full:
            running.put_nowait(1)
        return running

    running = loop.run_until_complete(begin())
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # that is what this is about
    loop.close()
    failed: list[BaseException] = []

    def put() -> None:
        try:
            running.put_from_thread(2)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=put)
    thread.start()
    thread.join(PATIENCE)
    assert isinstance(failed[0], QueueShutDown)


@pytest.mark.parametrize("batch", [None, Batch(50)], ids=["single", "batches"])
async def test_a_burst_wakes_the_loop_once(batch: Batch | None) -> None:
    """Not once per item (fault D8): a wake-up is a system call and a switch of threads."""
    loop = asyncio.get_running_loop()
    calls = 0
    call = loop.call_soon_threadsafe

    class Counting:
        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            self.loop = loop

        def __getattr__(self, name: str) -> Any:
            return getattr(self.loop, name)

        def call_soon_threadsafe(self, *args: Any) -> Any:
            nonlocal calls
            calls += 1
            return call(*args)

    async with Pipeline(taking(batch, lambda items: None), maxsize=1000) as running:
        bridge_to(running._run.first)._loop = Counting(loop)  # type: ignore[assignment]  # a loop that counts

        def put() -> None:
            for n in range(100):
                running.put_from_thread(n)

        threads = [threading.Thread(target=put) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)  # the loop does not run meanwhile
        assert calls == 1
    assert running.report is not None
    assert running.report.done == 400


async def test_h4_threads_that_wait_for_room_need_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes room wakes a thread; with a bound of 1 each item was half a millisecond late."""
    timers: list[Any] = []
    loop = asyncio.get_running_loop()
    if isinstance(loop, asyncio.BaseEventLoop):  # uvloop's methods cannot be replaced
        monkeypatch.setattr(loop, "call_later", lambda *args, **kwargs: timers.append(args))
    got: list[int] = []

    @consumer
    async def keep(n: int) -> None:
        got.append(n)

    async with Pipeline(keep, maxsize=1) as running:

        def put_all(first: int) -> None:
            for n in range(first, 400, 4):
                running.put_from_thread(n)

        await asyncio.gather(*(asyncio.to_thread(put_all, first) for first in range(4)))
        report = await running.drain()
    assert sorted(got) == list(range(400))
    assert report.stages[0].peak_queued <= 1
    assert timers == []


@pytest.mark.parametrize("threads", [2, 4, 16])
@pytest.mark.parametrize("maxsize", [1, 2, 8])
@pytest.mark.parametrize("batch", [None, Batch(2), Batch(3, within=0.01)], ids=["single", "pairs", "in time"])
async def test_no_item_of_a_thread_stays_on_its_way(threads: int, maxsize: int, batch: Batch | None) -> None:
    """An item that is taken of a thread that waits for room is moved, also if all threads have gone by then."""
    got: list[int] = []
    all_came = asyncio.Event()

    def keep(items: list[int]) -> None:
        got.extend(items)
        if len(got) == 240:
            all_came.set()

    with switching_often():
        async with Pipeline(taking(batch, keep), maxsize=maxsize) as running:

            def put_all(first: int) -> None:
                for n in range(first, 240, threads):
                    running.put_from_thread(n)

            pool = ThreadPoolExecutor(threads)
            try:
                calls = [asyncio.wrap_future(pool.submit(put_all, first)) for first in range(threads)]
                await asyncio.gather(*calls)
                async with asyncio.timeout(20):
                    await all_came.wait()
            finally:
                pool.shutdown()
    assert sorted(got) == list(range(240))


@pytest.mark.parametrize("maxsize", [1, 8])
@pytest.mark.parametrize("busy", ["source", "caller"])
async def test_h4_a_thread_gets_its_share_beside_who_puts_all_the_time(busy: str, maxsize: int) -> None:
    """The loop takes the item of a thread that waits; a thread that had to wake up first would always come too late."""
    given, put_from_thread = 0, 0
    done = threading.Event()

    @producer
    async def endless() -> AsyncIterator[int]:
        nonlocal given
        while not done.is_set():
            given += 1
            yield 1

    @consumer
    async def handle(n: int) -> None:
        nonlocal put_from_thread
        put_from_thread += n == 0

    def put_all() -> None:
        for _ in range(50):
            running.put_from_thread(0)
        done.set()

    parts: Any = (endless, handle) if busy == "source" else (handle,)
    async with Pipeline(*parts, maxsize=maxsize) as running:
        putting = asyncio.ensure_future(asyncio.to_thread(put_all))
        while busy == "caller" and not done.is_set():
            given += 1
            await running.put(1)
        await putting
    assert put_from_thread == 50
    assert given < 50 * 1_000


async def test_nothing_comes_between_a_look_and_a_put_in_the_loop() -> None:
    """Whoever has seen room in the loop will have it, though threads could run at any moment (fault H6)."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    @consumer
    async def wait(n: int) -> None:
        begun.set()
        await go_on.wait()

    async with Pipeline(wait, maxsize=1) as running:
        await running.put(0)
        await begun.wait()
        channel = running._run.first
        bridge_to(channel)
        assert not channel.is_full()
        with pytest.raises(TimeoutError):
            in_thread_at_once(running.put_from_thread, 1, 0)
        running._run.intake.feed(2, None)  # as if it had seen room
        with pytest.raises(TimeoutError):
            in_thread_at_once(running.put_from_thread, 1, 0)
        go_on.set()
    assert running.report is not None
    assert (running.report.done, running.report.stages[0].peak_queued) == (2, 1)


async def test_items_of_a_thread_are_begun_in_their_order() -> None:
    """A worker that takes an item makes room for one more; no other begins that first, not even an eager one."""
    begun: list[int] = []

    @consumer(concurrency=2)
    async def handle(n: int) -> None:
        begun.append(n)
        await asyncio.sleep(0)

    async with Pipeline(handle, maxsize=2) as running:
        await running.put(0)
        await until(lambda: running.statistics().done == 1)  # one worker is idle, the other has not started
        bridge = bridge_to(running._run.first)
        for n in 1, 2:
            in_thread_at_once(running.put_from_thread, n)
        waiting = threading.Thread(target=running.put_from_thread, args=(3,))
        waiting.start()
        while not bridge._parked:
            pass  # the loop does not run meanwhile
        await until(lambda: running.statistics().done == 4)
        waiting.join()
    assert begun == [0, 1, 2, 3]


@pytest.mark.parametrize("busy", ["source", "caller", "stage"])
async def test_h6_the_bound_holds_beside_whoever_puts_in_the_loop(busy: str) -> None:
    """What threads and the loop have put, and no worker has taken, is never more than the queue may hold."""
    accepted = Counter[str]()
    taken, most = 0, 0

    @producer
    async def numbers() -> AsyncIterator[int]:
        while accepted["thread"] < 500:
            accepted["loop"] += 1  # before it is in: it may wait for room with one in hand
            yield 1

    @producer
    def from_a_thread() -> Iterator[int]:
        for n in range(500):
            accepted["thread"] = n
            yield 0
        accepted["thread"] = 500

    @consumer
    async def same(n: int) -> int:
        return n

    @consumer
    async def handle(n: int) -> None:
        nonlocal taken, most
        most = max(most, accepted["loop"] + accepted["thread"] - taken)
        taken += 1

    def put_all() -> None:
        for n in range(500):
            running.put_from_thread(0)
            accepted["thread"] = n + 1

    parts: Any = {
        "source": (numbers, handle),
        "caller": (handle,),
        "stage": (merge(numbers >> same, from_a_thread), handle),
    }[busy]
    with switching_often():
        async with Pipeline(*parts, maxsize=4) as running:
            if busy == "stage":
                report = await running.wait()
            else:
                putting = asyncio.ensure_future(asyncio.to_thread(put_all))
                while busy == "caller" and not putting.done():
                    await running.put(1)
                    accepted["loop"] += 1
                await putting
                report = await running.drain()
    in_hand = {"source": 1, "caller": 0, "stage": 2 + 4 + 2}[busy]  # of the source, the stage and its queue
    assert most <= 4 + 1 + in_hand  # and one that the worker is about to count
    assert report.stages[-1].peak_queued <= 4


async def test_h6_a_place_is_claimed_for_one_put_only() -> None:
    """Also when a thread has made the bridge, but has not come to tell the channel that puts in the loop must ask."""
    gate = asyncio.Event()

    @consumer
    async def handle(n: int) -> None:
        await gate.wait()

    async with Pipeline(handle, maxsize=2) as running:
        for n in range(3):
            await running.put(n)
        channel = running._run.first
        channel.inlet = bridge = Bridge(channel)
        putting = asyncio.ensure_future(running.put(3))
        await until(lambda: bool(channel.putters))
        gate.set()
        await putting
        assert bridge.claimed == 0


async def test_h6_what_threads_have_on_their_way_counts_for_everybody() -> None:
    """Threads fill the queue while the loop is busy; ``put_nowait`` finds no room after that."""
    go_on = asyncio.Event()

    @consumer
    async def handle(n: int) -> None:
        await go_on.wait()

    async with Pipeline(handle, maxsize=100) as running:
        accepted = 0

        def put_all() -> None:
            nonlocal accepted
            for n in range(200):
                try:
                    running.put_from_thread(n, timeout=0)
                except TimeoutError:
                    return
                accepted += 1

        thread = threading.Thread(target=put_all)
        thread.start()
        thread.join()  # the loop is busy: nothing is moved
        for n in range(200):
            try:
                running.put_nowait(n)
            except asyncio.QueueFull:
                break
            accepted += 1
        assert accepted == 100
        go_on.set()
        report = await running.drain()
    assert (report.produced, report.done, report.stages[0].peak_queued) == (100, 100, 100)


# -- call_from_thread -----------------------------------------------------------------------------


@consumer(concurrency=3)
async def halve(n: int) -> float:
    if n < 0:
        raise ValueError(n)
    await asyncio.sleep(0)
    return n / 2


async def test_threads_ask_and_each_is_answered() -> None:
    """As ``call``: each thread gets the result of its own item, or its error alone, and the run goes on."""

    @consumer
    def describe(half: float) -> str:
        return f"half is {half}"

    async with Pipeline(halve, describe, maxsize=2) as running:

        def ask(first: int) -> None:
            for n in range(first, first + 50):
                assert running.call_from_thread(n) == f"half is {n / 2}"

        with switching_often():
            await asyncio.gather(*[in_thread(ask, 100 * thread) for thread in range(8)])
        with pytest.raises(ValueError, match="-1"):
            await in_thread(running.call_from_thread, -1)
        assert await in_thread(running.call_from_thread, 1) == "half is 0.5"
    report = running.report
    assert report is not None
    assert (report.done, report.failed) == (401, 1)


async def test_the_first_calls_of_several_threads_meet_workers_at_work() -> None:
    """Protects handlers from an envelope: workers that never met a call learn of the first before its item comes."""
    seen: set[type] = set()

    @consumer(concurrency=2)
    async def handle(n: int) -> int:
        seen.add(type(n))
        if n % 3 == 0:
            await asyncio.sleep(0)
        return -n

    with switching_often():
        for _ in range(30):
            async with Pipeline(handle, maxsize=4) as running:

                async def put(running: Running[int, int]) -> None:
                    for n in range(200):
                        await running.put(n)

                putting = asyncio.ensure_future(put(running))
                asking = [in_thread(running.call_from_thread, n) for n in range(4)]
                assert await asyncio.gather(*asking) == [0, -1, -2, -3]
                await putting
            assert running.report is not None
            assert running.report.done == 204
    assert seen == {int}


async def test_a_call_from_a_thread_is_refused_where_call_is() -> None:
    """The same errors, at once, and nothing was accepted; ``timeout`` is for the room."""
    gate = asyncio.Event()

    @consumer
    async def several(n: int) -> AsyncIterator[int]:
        yield n

    @consumer
    async def wait(n: int) -> int:
        await gate.wait()
        return n

    async with Pipeline(several) as running:
        with pytest.raises(StateError, match="may give more than one result"):
            await in_thread(running.call_from_thread, 1)
    async with Pipeline(wait, maxsize=1) as running:
        asking = [asyncio.ensure_future(in_thread(running.call_from_thread, n)) for n in range(2)]
        await until(lambda: running.statistics().stages[0].received == 2)
        with pytest.raises(TimeoutError, match="time is up"):
            await in_thread(running.call_from_thread, 2, 0.01)
        gate.set()
        assert await asyncio.gather(*asking) == [0, 1]
    with pytest.raises(QueueShutDown):
        await in_thread(running.call_from_thread, 1)
    assert running.report is not None
    assert running.report.done == 2


async def test_a_thread_that_asked_is_told_when_its_run_ends() -> None:
    """In a hand, in a queue, or waiting for room: each is told by name, and nobody hangs (fault D6)."""

    @consumer
    async def never(n: int) -> None:
        await asyncio.Event().wait()

    async with Pipeline(never, maxsize=1) as running:
        asking = [asyncio.ensure_future(in_thread(running.call_from_thread, n)) for n in range(3)]
        await until(lambda: running.statistics().stages[0].received == 2)
        report = await running.drain(timeout=0)
        for one in asking:
            with pytest.raises(QueueShutDown):
                await one
    assert len(report.unfinished) == 2


def test_a_thread_that_asked_is_told_that_the_loop_was_closed() -> None:
    """Its item was accepted, and nobody will ever answer (fault D6)."""
    loop = asyncio.new_event_loop()
    accepted = asyncio.Event()

    @consumer
    async def never(n: int) -> None:
        accepted.set()
        await asyncio.Event().wait()

    failed: list[BaseException] = []

    async def begin() -> threading.Thread:
        running = await Pipeline(never).__aenter__()

        def ask() -> None:
            try:
                running.call_from_thread(1)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        await accepted.wait()
        return thread

    thread = loop.run_until_complete(begin())
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # that is what this is about
    loop.close()
    thread.join(PATIENCE)
    assert isinstance(failed[0], QueueShutDown)
    assert "the loop of this run is closed: the result of this item is lost" in str(failed[0])


# -- feed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("priority", [None, abs])
async def test_threads_feed_and_the_run_ends_after_all_of_it(priority: Callable[[int], int] | None) -> None:
    """Invariant 3: a crawl in threads ends by itself and not before, over and over, with the bound in nobody's way."""
    seen: Counter[int] = Counter()

    @consumer(concurrency=3, maxsize=1, priority=priority)
    def crawl(n: int) -> int:
        for child in (2 * n, 2 * n + 1):
            if child < 32:
                feed(child)
        return n

    @consumer
    async def save(n: int) -> None:
        seen[n] += 1

    with switching_often():
        for _ in range(5):
            seen.clear()
            report = await (source([1]) >> crawl >> save)
            assert seen == Counter(range(1, 32))
            assert (report.produced, report.fed, report.done) == (1, 30, 31)


async def test_a_generator_in_a_thread_feeds() -> None:
    """Between its values as well: each step is a call of its own."""

    @consumer
    def crawl(n: int) -> Iterator[int]:
        yield n
        if n < 5:
            feed(n + 1)

    assert await collect(source([0]) >> crawl) == list(range(6))


async def test_what_a_thread_feeds_in_a_burst_wakes_the_loop_once() -> None:
    """And the books know it: all of a thousand items are there when the handler that fed them is done (fault D8)."""
    loop = asyncio.get_running_loop()
    calls = 0
    call = loop.call_soon_threadsafe

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(loop, name)

        def call_soon_threadsafe(self, *args: Any) -> Any:
            nonlocal calls
            calls += 1
            return call(*args)

    blocked = threading.Event()

    @consumer
    def handle(n: int) -> None:
        if n == 0:
            assert blocked.wait(PATIENCE)
            for child in range(1, 1001):
                feed(child)
            blocked.clear()

    async with Pipeline(handle, maxsize=1) as running:
        bridge_to(running._run.first)._loop = Counting()  # type: ignore[assignment]  # a loop that counts
        await running.put(0)
        await until(lambda: running.statistics().stages[0].in_flight == 1)
        blocked.set()
        while blocked.is_set():
            pass  # the loop does not run meanwhile
        assert calls == 1
    report = running.report
    assert report is not None
    assert (report.produced, report.fed, report.done) == (1, 1000, 1001)


async def test_a_thread_that_feeds_too_late_is_told() -> None:
    """A call that outlived its timeout or its run gets a named error in its thread, never silence (faults C11, D4)."""
    release, begun = threading.Event(), threading.Event()
    told: list[BaseException] = []

    @consumer(timeout=0.02, on_error="skip")
    def slow(n: int) -> None:
        begun.set()
        assert release.wait(PATIENCE)
        try:
            feed(n + 1)
        except BaseException as error:
            told.append(error)

    async with Pipeline([1], slow) as running:
        await until(lambda: running._run.first._is_shutdown)  # the call has failed, and nothing else is left
        release.set()
        report = await running.wait()
    assert (report.fed, report.failed) == (0, 1)
    await until(lambda: len(told) == 1)
    release.clear()
    begun.clear()
    async with Pipeline(slow) as running:
        await running.put(1)
        await until(begun.is_set)
        await running.drain(timeout=0)
    release.set()
    await until(lambda: len(told) == 2)
    for error in told:
        assert isinstance(error, QueueShutDown)
        assert "feed() after the end of its run" in str(error)


async def test_a_thread_sees_what_its_feed_did_wrong() -> None:
    """An order that fails is told to the handler that fed; so is a pipeline that nothing can be fed into."""

    @consumer(priority=lambda n: 1 / n)
    def handle(n: int) -> None:
        feed(0)

    with pytest.raises(PipelineError) as caught:
        await (source([1]) >> handle)
    assert isinstance(caught.value.exceptions[0], ZeroDivisionError)

    @consumer
    def feeds(n: int) -> None:
        feed(n)

    @consumer
    async def other(n: int) -> None: ...

    with pytest.raises(PipelineError) as caught:
        await (merge(source([1]) >> feeds, source([2]) >> other) >> ignore)
    assert isinstance(caught.value.exceptions[0], StateError)


async def test_an_item_on_its_way_is_moved_when_somebody_else_was_woken_for_its_place() -> None:
    """Protects promise 1: a caller that is woken finds the room taken by an item that is not in the queue yet."""
    handled: list[str] = []
    begin: queue.SimpleQueue[None] = queue.SimpleQueue()
    go_on, begun = asyncio.Event(), asyncio.Event()

    def put() -> None:
        begin.get()
        running.put_from_thread("from a thread")

    @consumer
    async def handle(item: str) -> None:
        if item == "first":
            begin.put(None)
            while thread.is_alive():
                pass  # the loop does not run meanwhile
            feed("fed")  # which takes the last place before the other item is in the queue
            begun.set()
            await go_on.wait()
        handled.append(item)

    async with Pipeline(handle, maxsize=1) as running:
        thread = threading.Thread(target=put)
        thread.start()
        await running.put("first")
        await begun.wait()
        caller = asyncio.ensure_future(running.put("from the loop"))
        for _ in range(3):
            await asyncio.sleep(0)  # it waits for room
        go_on.set()
        async with asyncio.timeout(PATIENCE):
            await caller
    assert sorted(handled) == ["fed", "first", "from a thread", "from the loop"]


# -- a loop that was closed -----------------------------------------------------------------------


def closed(loop: asyncio.AbstractEventLoop) -> None:
    """Close a loop under the run in it."""
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # that is what this is about
        work = task.get_coro()
        if inspect.iscoroutine(work) and inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
            work.close()  # or Python warns that it was never awaited
    loop.close()


def closed_under(prepare: Callable[[Running[Any, Any]], Any]) -> Running[Any, Any]:
    """A run whose loop was closed under it, right after ``prepare`` was awaited in it."""
    loop = asyncio.new_event_loop()

    async def begin() -> Running[Any, Any]:
        running = await Pipeline(ignore, maxsize=100).__aenter__()
        await prepare(running)
        return running

    running = loop.run_until_complete(begin())
    closed(loop)
    return running


def from_thread(function: Callable[..., Any], *args: Any) -> BaseException | None:
    """What ``function`` raises in a thread."""
    raised: list[BaseException] = []

    def call() -> None:
        try:
            function(*args)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    return raised[0] if raised else None


def test_a_loop_that_was_closed_before_it_looked_takes_nothing_more() -> None:
    """Fault D6: it was about to look for what threads put, so a thread would not call it, and nobody would know."""

    async def put_once(running: Running[Any, Any]) -> None:
        assert from_thread(running.put_from_thread, 1) is None  # the loop does not run meanwhile

    running = closed_under(put_once)
    for _ in range(3):
        error = from_thread(running.put_from_thread, 2)
        assert isinstance(error, QueueShutDown)
        assert "the loop of this run is closed" in str(error)


def test_the_thread_of_a_loop_that_was_closed_is_told_so() -> None:
    """Fault D6: no advice to await something in a loop that is no more."""

    async def nothing(running: Running[Any, Any]) -> None: ...

    running = closed_under(nothing)
    with pytest.raises(QueueShutDown, match="the loop of this run is closed"):
        running.put_from_thread(1)


def test_a_blocking_source_that_waits_for_room_ends_with_its_loop() -> None:
    """Fault D6: nobody will ever make room; its thread ends, and the source is closed in it."""
    loop, ended = asyncio.new_event_loop(), threading.Event()

    @producer
    def numbers() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            ended.set()

    @consumer(maxsize=1)
    async def never(n: int) -> None:
        await asyncio.Event().wait()

    async def begin() -> None:
        running = await Pipeline(numbers, never).__aenter__()
        await until(lambda: running.statistics().produced == 2)
        for _ in range(1000):  # until it waits for room, which it tells nobody
            await asyncio.sleep(0)

    loop.run_until_complete(begin())
    closed(loop)
    assert ended.wait(PATIENCE)


def test_an_idle_thread_of_a_stage_ends_with_its_loop() -> None:
    """Fault D6: nobody gives it a call any more, and nobody tells it to end."""
    before = set(threading.enumerate())
    loop = asyncio.new_event_loop()

    @consumer
    def handle(n: int) -> None: ...

    async def begin() -> None:
        running = await Pipeline(handle).__aenter__()
        await running.put(1)
        await until(lambda: running.statistics().done == 1)

    loop.run_until_complete(begin())
    closed(loop)
    (thread,) = set(threading.enumerate()) - before
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_what_a_thread_feeds_after_its_loop_was_closed_is_refused() -> None:
    """Fault D6: also when it fed something before that the loop did not come to take."""
    loop, fed = asyncio.new_event_loop(), threading.Event()
    goes_on = [threading.Event(), threading.Event()]
    told: list[str] = []
    threads: list[threading.Thread] = []

    def work() -> None:
        for turn in goes_on:
            turn.wait(PATIENCE)
            try:
                feed(2)
                told.append("taken")
            except QueueShutDown:
                told.append("refused")
            fed.set()

    @consumer
    async def handle(n: int) -> None:
        threads.append(threading.Thread(target=copy_context().run, args=(work,)))
        threads[0].start()
        await asyncio.Event().wait()

    async def begin() -> None:
        running = await Pipeline(handle).__aenter__()
        await running.put(1)
        await until(lambda: bool(threads))

    loop.run_until_complete(begin())
    goes_on[0].set()
    assert fed.wait(PATIENCE)
    closed(loop)
    goes_on[1].set()
    threads[0].join(PATIENCE)
    assert told == ["taken", "refused"]
