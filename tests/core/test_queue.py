"""``BoundedQueue``, fault by fault (the ids are those of the project's list of faults), then by random schedules.

Tests without timers run on every loop; tests with timers, or that must find a deadlock, run in virtual time.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from operator import length_hint
from types import new_class
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from queues import Queue, cancelled, full, lines, ready, spin
from support import EAGER

from asyncpc import DEFAULT_MAXSIZE, END, BoundedQueue, QueueShutDown, StateError, testing
from asyncpc.core.channel import Channel
from asyncpc.core.waiting import BUDGET
from asyncpc.testing import idle, now


def virtual(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[bool], None]:
    """Run an async test in virtual time, with lazy and with eager tasks."""

    def run(eager: bool) -> None:
        testing.run(test(), eager=eager, debug=True)

    run.__name__, run.__qualname__, run.__doc__ = test.__name__, test.__qualname__, test.__doc__
    return pytest.mark.parametrize("eager", EAGER)(run)


class Odd:
    """An item that cannot be compared, counted or tested for truth."""

    __hash__ = None  # type: ignore[assignment]  # Python's own mark of what has no hash; typeshed says that all have one

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("compared")

    def __bool__(self) -> bool:
        raise RuntimeError("tested")

    def __len__(self) -> int:
        raise RuntimeError("measured")


# -- use as asyncio's -----------------------------------------------------------------------------


@virtual
async def test_put_many_passes_on_the_room_that_it_does_not_use() -> None:
    """Fault A3: what has no length may have ended when there is room at last; then that is for the next in line."""
    queue = Queue(1)
    first = asyncio.create_task(queue.put_many(item for item in ["a"]))
    await asyncio.sleep(0)
    second = asyncio.create_task(queue.put("b"))
    assert [await queue.get(), await queue.get()] == ["a", "b"]
    await asyncio.gather(first, second)


@virtual
async def test_put_many_of_a_source_that_raises_passes_the_room_on() -> None:
    """The same when the source fails after it has waited."""

    def items() -> Iterator[str]:
        yield "a"
        raise ValueError("no more")

    queue = Queue(1)
    first = asyncio.create_task(queue.put_many(items()))
    await asyncio.sleep(0)
    second = asyncio.create_task(queue.put("b"))
    assert [await queue.get(), await queue.get()] == ["a", "b"]
    with pytest.raises(ValueError, match="no more"):
        await first
    await second


@pytest.mark.parametrize("call", ["close", "shutdown", "task_done"])
async def test_a17_what_wakes_others_is_refused_in_another_thread(call: str) -> None:
    """It would wake nobody: they would sleep on in their own loop."""
    queue = full("a")
    await spin(1)
    queue.get_nowait()
    with pytest.raises(StateError, match="another event loop or thread"):
        await asyncio.get_running_loop().run_in_executor(None, getattr(queue, call))
    getattr(queue, call)()
    await asyncio.get_running_loop().shutdown_default_executor()


@pytest.mark.parametrize("bases", [(Queue,), (Queue, asyncio.LifoQueue), (Queue, asyncio.PriorityQueue)])
def test_a_subclass_with_another_order_is_refused(bases: tuple[type, ...]) -> None:
    """It would be ignored in silence, for items do not pass through these methods."""
    body: dict[str, Any] = {"_put": lambda self, item: None} if len(bases) == 1 else {}
    with pytest.raises(TypeError, match="a BoundedQueue is FIFO and does not call _"):
        new_class("Odd", bases, exec_body=lambda namespace: namespace.update(body))
    assert issubclass(new_class("Fine", (Queue,)), BoundedQueue)


def test_put_many_does_not_believe_a_wrong_length_hint() -> None:
    """An iterator that says it has no more, and has, is read to its end."""

    class Modest:
        def __init__(self) -> None:
            self.left = iter(range(10))

        def __iter__(self) -> Iterator[int]:
            return self

        def __next__(self) -> int:
            return next(self.left)

        def __length_hint__(self) -> int:
            return 0

    async def main() -> None:
        queue: BoundedQueue[int] = BoundedQueue(3)

        async def read() -> list[int]:
            return [item async for item in queue]

        reading = asyncio.create_task(read())
        await queue.put_many(Modest())
        queue.close()
        assert await reading == list(range(10))
        assert queue.statistics().peak_queued <= 4
        assert now() == 0

    testing.run(main())


def test_a_queue_can_be_joined_in_one_loop_after_another() -> None:
    """A queue whose loop has been closed belongs to the next one, ``join`` included."""
    queue: BoundedQueue[int] = BoundedQueue()

    async def use() -> None:
        await queue.put(1)
        joining = asyncio.create_task(queue.join())
        await asyncio.sleep(0)
        await queue.get()
        queue.task_done()
        await joining

    testing.run(use())
    testing.run(use())


# -- faults A1 to A18 -----------------------------------------------------------------------------


async def test_a1_a_getter_cancelled_after_its_wake_up_leaves_the_item() -> None:
    """Protects the item: it is not handed to the waiter's future, so a cancelled getter cannot take it along."""
    queue = Queue()
    getter = asyncio.create_task(queue.get())
    await spin()
    queue.put_nowait("item")
    getter.cancel()
    await cancelled(getter)
    assert queue.get_nowait() == "item"


async def test_a2_a_cancelled_getter_passes_its_wake_up_on() -> None:
    """Protects the next getter from sleeping beside an item."""
    queue = Queue()
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await spin()
    queue.put_nowait("item")
    first.cancel()
    await spin()
    assert second.done()
    assert second.result() == "item"
    await cancelled(first)


async def test_a3_a_cancelled_putter_passes_its_wake_up_on() -> None:
    """Protects the next putter from sleeping beside room."""
    queue = full(0)
    first, second = asyncio.create_task(queue.put(1)), asyncio.create_task(queue.put(2))
    await spin()
    queue.get_nowait()
    first.cancel()
    await spin()
    assert second.done()
    assert queue.get_nowait() == 2
    await cancelled(first)


@virtual
async def test_a5_a_timeout_and_an_item_in_the_same_tick() -> None:
    """Protects the item: it is returned, or TimeoutError comes and it is kept; never both or neither."""
    for item_at in (0.9, 1.0, 1.1):
        for item_first in (True, False):
            queue, loop, began = Queue(), asyncio.get_running_loop(), now()
            if item_first:
                loop.call_at(began + item_at, queue.put_nowait, "item")
            getter = asyncio.create_task(queue.get(timeout=1.0))
            await asyncio.sleep(0)
            if not item_first:
                loop.call_at(began + item_at, queue.put_nowait, "item")
            await asyncio.sleep(2)
            returned = getter.exception() is None
            assert returned != (queue.qsize() == 1)
            assert returned or isinstance(getter.exception(), TimeoutError)
            assert lines(queue) == 0


@virtual
async def test_a6_a_timeout_and_room_in_the_same_tick() -> None:
    """Protects the putter: its item is accepted, or TimeoutError comes and it is not; never both or neither."""
    for room_first in (True, False):
        queue, loop, began = full("old"), asyncio.get_running_loop(), now()
        if room_first:
            loop.call_at(began + 1.0, queue.get_nowait)
        putter = asyncio.create_task(queue.put("new", timeout=1.0))
        await asyncio.sleep(0)
        if not room_first:
            loop.call_at(began + 1.0, queue.get_nowait)
        await asyncio.sleep(2)
        assert (putter.exception() is None) == (queue.qsize() == 1)
        assert lines(queue) == 0


async def test_a7_a_put_that_raised_left_nothing_behind() -> None:
    """Protects from duplicates: a caller whose put was cancelled may put the item again."""
    queue = full("old")
    putter = asyncio.create_task(queue.put("new"))
    await spin()
    queue.get_nowait()  # room, and the putter is woken
    putter.cancel()
    await cancelled(putter)
    assert queue.empty()
    assert queue.statistics().received == 1


async def test_a8_put_and_get_yield_before_they_move_an_item() -> None:
    """Protects from yield after take: cancelled in the yield of the budget, get has taken and put has put nothing."""
    queue = full(1, 2)
    queue._budget = 0
    coroutine: Any = queue.get()
    coroutine.send(None)  # it yields
    assert queue.qsize() == 2
    with pytest.raises(asyncio.CancelledError):
        coroutine.throw(asyncio.CancelledError)
    assert queue.qsize() == 2
    queue.get_nowait()
    queue._budget = 0
    coroutine = queue.put(3)
    coroutine.send(None)
    with pytest.raises(asyncio.CancelledError):
        coroutine.throw(asyncio.CancelledError)
    assert queue.qsize() == 1


async def test_a9_put_and_get_make_no_tasks() -> None:
    """Protects from helper tasks, which outlive a cancelled call and take items for nobody."""
    empty, busy = Queue(), full(0)
    waiting = {asyncio.create_task(empty.get(timeout=60)), asyncio.create_task(busy.put(1, timeout=60))}
    await spin()
    assert asyncio.all_tasks() == waiting | {asyncio.current_task()}
    for task in waiting:
        task.cancel()
        await cancelled(task)


@pytest.mark.parametrize("maxsize", [1, 2, 3])
async def test_a10_racing_putters_keep_the_bound(maxsize: int) -> None:
    """Protects the bound: who is woken for room looks again, since another may have been faster."""
    queue = Queue(maxsize)
    putters = [asyncio.create_task(queue.put(n)) for n in range(50)]
    await spin()
    got: list[int] = []
    while len(got) < 100:
        with suppress(asyncio.QueueEmpty):
            got.append(queue.get_nowait())
        if len(got) <= 50:
            with suppress(asyncio.QueueFull):
                queue.put_nowait(-1)  # steals the room a putter was woken for
        assert queue.qsize() <= maxsize
        await asyncio.sleep(0)
        if all(putter.done() for putter in putters) and queue.empty():
            break
    assert sorted(n for n in got if n >= 0) == list(range(50))
    assert queue.statistics().peak_queued == maxsize


async def test_a12_join_counts_what_was_accepted_not_what_was_tried() -> None:
    """Protects join from hanging after a cancelled put."""
    queue = full("old")
    putter = asyncio.create_task(queue.put("new"))
    await spin()
    putter.cancel()
    await cancelled(putter)
    queue.get_nowait()
    queue.task_done()
    await asyncio.wait_for(queue.join(), 1)
    with pytest.raises(ValueError, match="too many times"):
        queue.task_done()


async def test_a12_join_waits_for_every_accepted_item() -> None:
    """Protects join from returning while an item is queued or being worked on."""
    queue = full(1, 2)
    joiner = asyncio.create_task(queue.join())
    for _ in range(2):
        await spin()
        assert not joiner.done()
        queue.get_nowait()
        await spin()
        assert not joiner.done()
        queue.task_done()
    await joiner


async def test_a12_items_dropped_at_shutdown_do_not_hold_up_join() -> None:
    """Protects join when no consumer is alive: what is thrown away is settled, and counted."""
    queue = full(1, 2)
    joiner = asyncio.create_task(queue.join())
    await spin()
    queue.shutdown(immediate=True)
    await joiner
    statistics = queue.statistics()
    assert (statistics.dropped, statistics.settled, statistics.queued) == (2, 2, 0)


async def test_a14_close_while_putters_wait() -> None:
    """Protects putters: each hears that the queue is closed, and its item was not taken."""
    queue = full("old")
    putters = [asyncio.create_task(queue.put(n)) for n in range(3)]
    many = asyncio.create_task(queue.put_many(iter([7, 8])))
    await spin()
    queue.close()
    for task in (*putters, many):
        with pytest.raises(QueueShutDown):
            await task
    assert [item async for item in queue] == ["old"]
    assert queue.statistics().received == 1


async def test_a14_a_putter_woken_for_room_when_the_queue_closes() -> None:
    """Protects the promise of close when it comes between a putter's wake-up and its turn."""
    queue = full("old")
    putter = asyncio.create_task(queue.put("new"))
    await spin()
    queue.get_nowait()
    queue.close()
    with pytest.raises(QueueShutDown):
        await putter
    assert queue.empty()


@pytest.mark.parametrize("verb", ["put", "get", "get_many", "async for"])
async def test_a15_a_backlog_does_not_hold_the_loop(verb: str) -> None:
    """Protects the other tasks: put and get let them run at least once per 128 items."""
    queue = Queue(0)
    if verb != "put":
        await queue.put_many(range(2000))
    moved, gaps = 0, [0]

    async def move() -> None:
        nonlocal moved
        for moved in range(2000):
            match verb:
                case "put":
                    await queue.put(moved)
                case "get":
                    await queue.get()
                case "get_many":
                    await queue.get_many(1)
                case _:
                    await anext(queue)

    task = asyncio.create_task(move())
    while not task.done():
        before = moved
        await asyncio.sleep(0)
        gaps.append(moved - before)
    await task
    assert max(gaps) <= BUDGET


@pytest.mark.parametrize("eager", EAGER)
def test_a16_timed_out_waiters_leave_the_line(eager: bool) -> None:
    """Protects memory: 4,000 calls that timed out leave nobody in line."""

    async def main() -> None:
        empty, busy = Queue(), full(0)
        for _ in range(2_000):
            with pytest.raises(TimeoutError):
                await empty.get(timeout=0.001)
            with pytest.raises(TimeoutError):
                await busy.put(1, timeout=0.001)
        assert lines(empty) == lines(busy) == 0

    testing.run(main(), eager=eager)  # without debug mode: it would take seconds


@virtual
async def test_a16_all_at_once() -> None:
    """Protects the same when hundreds wait and leave together, by timeout and by cancel."""
    queue = Queue()
    timed = [asyncio.create_task(queue.get(timeout=1)) for _ in range(100)]
    others = [asyncio.create_task(queue.get()) for _ in range(100)]
    await idle()
    assert queue.statistics().waiting_get == 200
    for task in others:
        task.cancel()
    await asyncio.gather(*timed, *others, return_exceptions=True)
    assert lines(queue) == 0
    assert queue.statistics().waiting_get == 0


async def test_a17_another_loop_or_thread_is_told() -> None:
    """Protects from a race that nobody sees: the wrong thread gets a clear error, at the call, with its way in."""
    queue: Queue = BoundedQueue(1)
    await queue.put(1)
    assert await queue.get() == 1
    errors = []

    def outside() -> None:
        for call in (lambda: queue.put_nowait(2), queue.get_nowait, lambda: asyncio.run(queue.put(2))):
            try:
                call()
            except StateError as error:
                errors.append(error)

    await asyncio.to_thread(outside)
    assert len(errors) == 3
    assert "run_coroutine_threadsafe" in str(errors[0])
    assert queue.empty()


def test_a17_a_queue_outlives_a_closed_loop() -> None:
    """Protects those who make a queue once and run twice: asyncio's queue allows it."""
    queue = Queue()
    testing.run(queue.put(1))
    assert testing.run(queue.get()) == 1


ODD = [None, False, 0, "", (), END, Odd(), StopIteration(), StopAsyncIteration(), QueueShutDown(), ..., NotImplemented]


async def test_a18_any_object_is_an_item() -> None:
    """Protects payloads that look like an end, or that break when they are looked at."""
    queue = Queue()
    for odd in ODD:
        await queue.put(odd)
        assert await queue.get() is odd
    await queue.put_many(ODD)
    assert all(a is b for a, b in zip(await queue.get_many(100), ODD, strict=True))
    await queue.put_many(ODD)
    queue.close()
    rest = [item async for item in queue]
    assert all(a is b for a, b in zip(rest, ODD, strict=True))
    assert queue.statistics().ends == 1


# -- cancellation at every await ------------------------------------------------------------------


CALLS: dict[str, tuple[Callable[[Channel[Any]], Coroutine[Any, Any, Any]], int]] = {  # call, and items before
    "put": (lambda queue: queue.put("new"), 1),
    "put with timeout": (lambda queue: queue.put("new", timeout=9), 1),
    "put_many": (lambda queue: queue.put_many(["new"]), 1),
    "push": (lambda queue: queue.put_or_leave("new"), 1),
    "room": (lambda queue: queue.wait_for_room(), 1),
    "get": (lambda queue: queue.get(), 0),
    "get with timeout": (lambda queue: queue.get(timeout=9), 0),
    "get_many": (lambda queue: queue.get_many(5), 0),
    "async for": (lambda queue: queue.__anext__(), 0),
    "ready": (lambda queue: ready(queue), 0),
    "join": (lambda queue: queue.join(), 1),
}


@pytest.mark.parametrize("change", ["nothing", "wake-up", "close"])
@pytest.mark.parametrize("name", CALLS)
async def test_cancelled_at_every_await(name: str, change: str) -> None:
    """Protects all or nothing: cancelled after any number of turns, before or after what it waits for came."""
    for turns in range(4):
        await _cancelled_after(turns, name, change)


async def _cancelled_after(turns: int, name: str, change: str) -> None:
    call, items = CALLS[name]
    queue = Channel[Any](1)
    for _ in range(items):
        queue.put_nowait("old")
    queue._budget = 0  # so that the first await of put and get is the yield of the budget
    task = asyncio.create_task(call(queue))
    await spin(turns)
    taken: list[Any] = []
    if change == "wake-up":
        if items:
            taken.append(queue.get_nowait())
        else:
            with suppress(asyncio.QueueFull):
                queue.put_nowait("new")
    elif change == "close":
        queue.close()
    task.cancel()
    (result,) = cast(list[Any], await asyncio.gather(task, return_exceptions=True))
    raised = isinstance(result, BaseException)
    if not raised and not items and name not in ("ready",):
        taken += result if isinstance(result, list) else [result]
    while not queue.empty():
        taken.append(queue.get_nowait())
    count = Counter(taken)
    written = count["new"] if name == "push" else 0  # who writes in a pipeline counts that itself
    assert count.total() == queue.statistics().received + written  # nothing vanished, nothing twice
    assert count["new"] <= 1
    if raised and items and name != "push":
        assert count["new"] == 0  # a put that raised left nothing behind
    assert lines(queue) == 0


# -- times ----------------------------------------------------------------------------------------


@virtual
async def test_a_timeout_is_exact_and_counts_from_the_call() -> None:
    """Protects deadlines: also one that was woken in vain keeps its first deadline."""
    queue = Queue(1)

    async def tease() -> None:
        while now() < 4:
            await asyncio.sleep(1)
            queue.put_nowait("gone")  # wakes the getter ...
            queue.get_nowait()  # ... in vain

    teasing = asyncio.create_task(tease())
    with pytest.raises(TimeoutError):
        await queue.get(timeout=3.5)
    assert now() == 3.5
    await teasing


@virtual
async def test_a_timeout_of_zero_or_less_takes_what_is_there() -> None:
    """Protects polling: no time to wait is not an error when there is no need to wait."""
    queue = Queue(1)
    for timeout in (0, -1):
        with pytest.raises(TimeoutError):
            await queue.get(timeout=timeout)
        await queue.put(1, timeout=timeout)
        with pytest.raises(TimeoutError):
            await queue.put(2, timeout=timeout)
        assert await queue.get(timeout=timeout) == 1
    assert now() == 0


@virtual
async def test_put_many_has_one_deadline_for_all() -> None:
    """Protects put_many's timeout: it is for the whole call, and what was not accepted is still in the iterator."""
    queue, items = Queue(1), iter(range(10))

    async def slowly() -> list[int]:
        got = []
        with suppress(TimeoutError):
            while True:
                await asyncio.sleep(1)
                got.append(await queue.get(timeout=5))
        return got

    consumer = asyncio.create_task(slowly())
    with pytest.raises(TimeoutError):
        await queue.put_many(items, timeout=3.5)
    assert now() == 3.5
    accepted = await consumer
    assert [*accepted, *items] == list(range(10))
    assert len(accepted) == 4


# -- END ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("consumers", [1, 2, 5])
@pytest.mark.parametrize("items", [0, 1, 7])
async def test_end_is_told_once_to_each_consumer(consumers: int, items: int) -> None:
    """Protects every consumer: not one END too few (it would hang) nor one too many, after the last item."""
    queue, got = Queue(0), []

    async def consume() -> None:
        async for item in queue:
            got.append(item)
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(consume()) for _ in range(consumers)]
    await spin()
    await queue.put_many(range(items))
    queue.close()
    queue.close()
    await asyncio.gather(*tasks)
    assert got == list(range(items))
    assert queue.statistics().ends == consumers


async def test_every_way_of_getting_tells_end() -> None:
    """Protects the verbs alike: each raises QueueShutDown, or ends the loop, when closed and empty; put refuses."""
    queue = full(1)
    queue.close()
    assert await queue.get() == 1
    for call in (queue.get, lambda: queue.get_many(2)):
        with pytest.raises(QueueShutDown):
            await call()
    with pytest.raises(QueueShutDown):
        queue.get_nowait()
    assert [item async for item in queue] == []
    assert queue.statistics().ends == 4
    for put in (partial(queue.put, 1), partial(queue.put_many, [1])):
        with pytest.raises(QueueShutDown):
            await put()
    with pytest.raises(QueueShutDown):
        queue.put_nowait(1)


async def test_a_cancelled_getter_is_not_told_end() -> None:
    """Protects the count of ENDs from a consumer that was cancelled in the tick of the close."""
    queue = Queue()
    getters = [asyncio.create_task(queue.get()) for _ in range(2)]
    await spin()
    queue.close()
    getters[0].cancel()
    results = await asyncio.gather(*getters, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, QueueShutDown]
    assert queue.statistics().ends == 1


# -- put_many and get_many ------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    items=st.lists(st.integers(), max_size=400),
    maxsize=st.sampled_from([0, 1, 2, 3, 128, 1000]),
    limit=st.sampled_from([1, 2, 3, 200]),
    shape=st.sampled_from([list, iter, tuple, lambda items: (item for item in items)]),
)
def test_the_fast_paths_equal_the_slow_ones(
    items: list[int], maxsize: int, limit: int, shape: Callable[[list[int]], Any]
) -> None:
    """Protects put_many and get_many: the same items, order and counts as put and get one by one."""

    async def move(many: bool) -> tuple[Any, ...]:
        queue, got = Queue(maxsize), []

        async def put() -> None:
            if many:
                await queue.put_many(shape(items))
            else:
                for item in items:
                    await queue.put(item)
            queue.close()

        putter = asyncio.create_task(put())
        with suppress(QueueShutDown):
            while True:
                got += await queue.get_many(limit) if many else [await queue.get()]
                queue.task_done()
        await putter
        statistics = queue.statistics()
        assert 0 < maxsize >= statistics.peak_queued or maxsize == 0
        return got, statistics.received, statistics.queued, statistics.ends

    assert testing.run(move(True)) == testing.run(move(False)) == (items, len(items), 0, 1)


async def test_get_many_takes_no_more_than_asked_and_wakes_putters_for_all() -> None:
    """Protects get_many's limit, and those who wait for the several slots that it frees at once."""
    queue = full(1, 2, 3)
    putters = [asyncio.create_task(queue.put(n)) for n in (4, 5, 6)]
    await spin()
    assert await queue.get_many(2) == [1, 2]
    await spin()
    assert [putter.done() for putter in putters] == [True, True, False]
    assert await queue.get_many(9) == [3, 4, 5]
    await putters[2]
    with pytest.raises(ValueError, match="at least 1"):
        await queue.get_many(0)


async def test_put_many_wakes_a_getter_for_each_item() -> None:
    """Protects getters: a run of items wakes as many as there is work for."""
    queue = Queue()
    getters = [asyncio.create_task(queue.get()) for _ in range(5)]
    await spin()
    await queue.put_many([1, 2, 3])
    await spin()
    assert sum(getter.done() for getter in getters) == 3
    queue.close()
    results = await asyncio.gather(*getters, return_exceptions=True)
    assert results[:3] == [1, 2, 3]


async def test_put_many_into_an_overfull_queue_waits() -> None:
    """Protects put_many behind a cancelled writer, whose item lies one above the bound."""
    queue = full(1)
    writer = asyncio.create_task(queue.put_or_leave(2))
    await spin()
    writer.cancel()
    await cancelled(writer)
    assert queue.qsize() == 2
    many = asyncio.create_task(queue.put_many([3, 4]))
    await spin()
    assert not many.done()
    assert [await queue.get() for _ in range(4)] == [1, 2, 3, 4]
    await many


async def test_put_many_from_a_source_that_fails_keeps_what_it_gave() -> None:
    """Protects items read before the failure: put one by one they would have been accepted."""

    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the source broke")

    queue = Queue()
    with pytest.raises(OSError, match="broke"):
        await queue.put_many(source())
    assert [queue.get_nowait() for _ in range(queue.qsize())] == [1, 2]


# What an iterator may do beside, in the same queue, when it is asked for an item.


@virtual
async def test_what_an_iterator_puts_beside_is_counted_once() -> None:
    """Protects ``join``: it waits for what was put, and not for ever."""
    queue = Queue(10)

    def rows() -> Iterator[Any]:
        yield 1
        queue.put_nowait("beside")
        yield 2

    await queue.put_many(rows())
    assert [queue.get_nowait() for _ in range(queue.qsize())] == [1, "beside", 2]
    assert queue.statistics().received == 3
    for _ in range(3):
        queue.task_done()
    await queue.join()


async def test_what_an_iterator_takes_beside_is_counted() -> None:
    """An iterator that makes its items of those before them, as in a search: each was put, each is done."""
    queue = Queue(10)

    def rows() -> Iterator[int]:
        yield 1
        for _ in range(300):
            number = queue.get_nowait()
            queue.task_done()
            yield number + 1

    await queue.put_many(rows())
    assert [queue.get_nowait() for _ in range(queue.qsize())] == [301]
    assert (queue.statistics().received, queue.statistics().settled, queue.statistics().peak_queued) == (301, 300, 1)


@virtual
async def test_what_an_iterator_puts_beside_takes_room() -> None:
    """The bound holds: the iterator waits, with the one item above it that had been read."""
    queue = Queue(3)

    def rows() -> Iterator[Any]:
        yield 1
        queue.put_nowait("beside")
        queue.put_nowait("too")
        yield 2
        yield 3

    putting = asyncio.create_task(queue.put_many(rows()))
    await spin()
    assert (queue.qsize(), queue.statistics().peak_queued) == (4, 4)
    assert [await queue.get() for _ in range(5)] == [1, "beside", "too", 2, 3]
    await putting


async def test_an_iterator_that_closes_the_queue_puts_nothing_more() -> None:
    """END was told: what came later would be handled by nobody."""
    queue = Queue(10)

    def rows() -> Iterator[int]:
        yield 1
        queue.close()
        yield 2

    with pytest.raises(QueueShutDown):
        await queue.put_many(rows())
    assert queue.get_nowait() == 1
    assert queue.statistics().received == 1


# -- statistics -----------------------------------------------------------------------------------


@virtual
async def test_every_field_of_the_statistics_is_exact() -> None:
    """Protects what operators see: counts and seconds, while calls wait and after they did."""
    queue = Queue(2)
    getters = [asyncio.create_task(queue.get()) for _ in range(2)]
    await asyncio.sleep(3)
    before = queue.statistics()
    assert (before.waiting_get, before.get_waited, before.received, before.closed) == (2, 6.0, 0, False)
    await queue.put_many([1, 2])
    await asyncio.gather(*getters)
    await queue.put_many([3, 4])
    putter = asyncio.create_task(queue.put(5))
    await asyncio.sleep(4)
    assert queue.statistics().put_waited == 4.0
    assert queue.statistics().waiting_put == 1
    await queue.get()
    await putter
    queue.task_done()
    queue.shutdown(immediate=True)
    with pytest.raises(QueueShutDown):
        await queue.get()
    await asyncio.sleep(5)
    after = queue.statistics()
    expected = {
        "maxsize": 2, "queued": 0, "peak_queued": 2, "received": 5, "settled": 3, "dropped": 2, "waiting_put": 0,
        "waiting_get": 0, "put_waited": 4.0, "get_waited": 6.0, "ends": 1, "closed": True,
    }  # fmt: skip
    assert after._asdict() == expected
    with pytest.raises(AttributeError):
        after.queued = 1  # type: ignore[misc]  # that checkers refuse it too is half of what is tested


def test_a_new_queue_is_bounded_and_needs_no_loop() -> None:
    """Protects the default bound, and making queues (and asking them) before any loop runs."""
    queue = Queue()
    assert queue.maxsize == DEFAULT_MAXSIZE == queue.statistics().maxsize
    assert queue.statistics().peak_queued == 0
    assert Queue(0).statistics().maxsize == 0
    assert repr(END) == "END"


async def test_peak_queued_is_the_most_there_ever_was() -> None:
    """Protects the peak: it is kept while the queue shrinks and grows below it."""
    queue = Queue(0)
    for size in (3, 1, 5, 2):
        await queue.put_many(range(size))
        assert queue.qsize() == size
        await queue.get_many(100)
    assert queue.statistics().peak_queued == 5


# -- random schedules -----------------------------------------------------------------------------


class Chaos:
    """Producers and consumers of every kind at one small queue, and somebody who cancels them at random.

    A producer whose put raised puts the same item again; a writer whose push was cancelled has delivered.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.maxsize = self.random.choice([1, 1, 2, 3])
        self.queue = Channel[Any](self.maxsize)
        self.put: list[tuple[int, int]] = []
        self.got: list[tuple[int, int]] = []
        self.writers = 0
        self.written = 0
        self.consumers = self.random.randint(1, 3)

    async def run(self) -> None:
        kinds = [self.random.choice(["put", "timeout", "many", "push"]) for _ in range(self.random.randint(1, 3))]
        self.writers = kinds.count("push")
        producers = [asyncio.create_task(self.produce(n, kind)) for n, kind in enumerate(kinds)]
        consumers = [asyncio.create_task(self.consume()) for _ in range(self.consumers)]
        chaos = asyncio.create_task(self.cancel_some([*producers, *consumers]))
        await asyncio.gather(*producers)
        self.queue.close()
        await asyncio.gather(*consumers)
        chaos.cancel()
        await asyncio.gather(chaos, return_exceptions=True)

    async def cancel_some(self, tasks: list[asyncio.Task[None]]) -> None:
        for _ in range(self.random.randint(0, 60)):
            await asyncio.sleep(0)
            if self.random.random() < 0.5:
                self.random.choice(tasks).cancel()
            assert self.queue.qsize() <= self.maxsize + self.writers

    async def produce(self, producer: int, kind: str) -> None:
        items = [(producer, n) for n in range(12)]
        if kind == "many":
            return await self.produce_many(items)
        for item in items:
            while not await self.give(item, kind):
                pass
            self.put.append(item)
            self.written += kind == "push"
        return None

    async def give(self, item: tuple[int, int], kind: str) -> bool:
        """Try to put ``item``; whether it was accepted."""
        pushing = False
        try:
            if self.random.random() < 0.3:
                await asyncio.sleep(0)
            if kind == "push":
                await self.queue.wait_for_room()
                pushing = True
                await self.queue.put_or_leave(item)
            else:
                await self.queue.put(item, timeout=1 if kind == "timeout" else None)
        except (asyncio.CancelledError, TimeoutError):
            return pushing
        return True

    async def produce_many(self, items: list[tuple[int, int]]) -> None:
        source = iter(items)
        while length_hint(source):
            with suppress(asyncio.CancelledError):
                await self.queue.put_many(source)
        self.put += items

    async def consume(self) -> None:
        timeouts = 3  # then without, so that a deadlock shows
        while True:
            try:
                if self.random.random() < 0.3:
                    await asyncio.sleep(0)
                await self.take(timeout=1 if timeouts else None)
            except asyncio.CancelledError:
                pass
            except TimeoutError:
                timeouts -= 1
            except QueueShutDown:
                return

    async def take(self, timeout: float | None) -> None:
        kind = self.random.choice(["get", "timeout", "many", "ready"])
        if kind == "many":
            self.got += await self.queue.get_many(2)
        elif kind == "ready":
            if await ready(self.queue) is END:
                self.queue._ends -= 1  # get_nowait tells it
            with suppress(asyncio.QueueEmpty):
                self.got.append(self.queue.get_nowait())
        else:
            self.got.append(await self.queue.get(timeout=timeout if kind == "timeout" else None))


@pytest.mark.parametrize("eager", EAGER)
@pytest.mark.parametrize("schedules", [75, pytest.param(300, marks=pytest.mark.thorough)])
def test_random_schedules_with_cancellations(schedules: int, eager: bool) -> None:
    """Protects everything at once: nothing lost or duplicated, FIFO per producer, the bound kept, no deadlock."""

    @settings(max_examples=schedules)
    @given(seed=st.integers(0, 2**32))
    def kept(seed: int) -> None:
        _all_is_kept(seed, eager)

    kept()


def _all_is_kept(seed: int, eager: bool) -> None:
    chaos = Chaos(seed)
    testing.run(chaos.run(), eager=eager)
    assert Counter(chaos.got) == Counter(chaos.put)
    for producer in {producer for producer, _ in chaos.put}:
        assert [n for p, n in chaos.got if p == producer] == list(range(12))
    statistics = chaos.queue.statistics()
    assert statistics.received == len(chaos.put) - chaos.written
    assert statistics.queued == statistics.waiting_put == statistics.waiting_get == 0
    assert statistics.ends == chaos.consumers
    assert statistics.peak_queued <= chaos.maxsize + chaos.writers


@settings(max_examples=100)
@given(steps=st.lists(st.sampled_from(["put", "get", "done", "close"]), max_size=30), maxsize=st.integers(0, 2))
def test_without_waiting_it_is_a_bounded_list(steps: list[str], maxsize: int) -> None:
    """Protects the plain verbs against a model: a list, two counts and a flag."""

    async def main() -> None:
        queue, received, settled, closed = Queue(maxsize), 0, 0, False
        model: list[int] = []
        for step in steps:
            match step:
                case "put" if closed:
                    with pytest.raises(QueueShutDown):
                        queue.put_nowait(received)
                case "put" if 0 < maxsize <= len(model):
                    with pytest.raises(asyncio.QueueFull):
                        queue.put_nowait(received)
                case "put":
                    queue.put_nowait(received)
                    model.append(received)
                    received += 1
                case "get" if model:
                    assert queue.get_nowait() == model.pop(0)
                case "get":
                    with pytest.raises(QueueShutDown if closed else asyncio.QueueEmpty):
                        queue.get_nowait()
                case "done" if settled == received:
                    with pytest.raises(ValueError, match="too many"):
                        queue.task_done()
                case "done":
                    queue.task_done()
                    settled += 1
                case "close":
                    queue.close()
                    closed = True
            statistics = queue.statistics()
            assert (statistics.queued, statistics.received, statistics.settled) == (len(model), received, settled)
            assert queue.full() == (0 < maxsize <= len(model))
            assert queue.empty() == (not model)

    testing.run(main())
