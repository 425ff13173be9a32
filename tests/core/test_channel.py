"""``Channel``: what workers do with the queue before a stage, and what is left in it when they are cancelled."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, cast

import pytest
from queues import cancelled, full, lines, ready, spin
from support import EAGER, both, named

from asyncpc import END, Batch, Pipeline, QueueShutDown, Running, consumer, source, testing
from asyncpc.core.channel import AT_ONCE, Channel
from asyncpc.core.seams import Container
from asyncpc.testing import idle


async def test_a_cancelled_push_leaves_its_item_one_above_the_bound_per_writer() -> None:
    """Protects accepted items (invariants 1 and 2): the hand is emptied into the queue, and nothing else is."""
    queue = full(1, 2)
    writers = [asyncio.create_task(queue.put_or_leave(n)) for n in (3, 4, 5)]
    await spin()
    assert queue.qsize() == 2
    for writer in writers:
        writer.cancel()
    await asyncio.gather(*writers, return_exceptions=True)
    assert await queue.get_many(9) == [1, 2, 3, 4, 5]
    assert queue.accepted == 2
    assert queue.statistics().peak_queued == 5
    assert lines(queue) == 0


async def test_a_cancelled_push_wakes_a_getter_for_the_item_it_leaves() -> None:
    """Protects the item given back: a worker that waits at the then empty queue hears of it."""
    queue = full(1)
    writer = asyncio.create_task(queue.put_or_leave(2))
    await spin()
    queue.get_nowait()
    getter = asyncio.create_task(queue.get())
    writer.cancel()
    await spin()
    assert getter.done()
    assert getter.result() == 2
    await cancelled(writer)


async def test_the_room_trap() -> None:
    """Protects from a deadlock: a producer woken for room whose source then ends passes the wake-up on."""
    queue = full("old")

    async def ends_at_once() -> None:
        await queue.wait_for_room()

    async def gives() -> None:
        await queue.wait_for_room()
        await queue.put_or_leave("new")

    idle_one, busy_one = asyncio.create_task(ends_at_once()), asyncio.create_task(gives())
    outside = asyncio.create_task(queue.put("outside"))
    await spin()
    queue.get_nowait()
    await spin()
    got = {await asyncio.wait_for(queue.get(), 1), await asyncio.wait_for(queue.get(), 1)}
    assert got == {"new", "outside"}
    await asyncio.gather(idle_one, busy_one, outside)


async def test_a_writer_looks_again_with_the_item_in_hand() -> None:
    """Protects the bound in the room trap: several may ask their sources for the same slot, one may use it."""
    queue = full(0)

    async def write(item: int) -> None:
        await queue.wait_for_room()
        await asyncio.sleep(0)  # the source takes its time
        await queue.put_or_leave(item)

    writers = [asyncio.create_task(write(n)) for n in (1, 2, 3)]
    await spin()
    got = []
    for _ in range(4):
        await spin()
        assert queue.qsize() == 1
        got.append(queue.get_nowait())
    await asyncio.gather(*writers)
    assert sorted(got) == [0, 1, 2, 3]
    assert queue.statistics().peak_queued == 1


@pytest.mark.parametrize("call", ["wait_for_room", "put_or_leave"])
async def test_a_cancelled_writer_passes_its_wake_up_on(call: str) -> None:
    """Protects the next writer when one is cancelled in the tick it was woken (fault A3 in a pipeline)."""
    queue = full(0, 0)
    first = asyncio.create_task(queue.wait_for_room() if call == "wait_for_room" else queue.put_or_leave(1))
    second = asyncio.create_task(queue.put_or_leave(2))
    await spin()
    await queue.get_many(2)
    first.cancel()
    await spin()
    assert second.done()
    assert queue.get_nowait() == (2 if call == "wait_for_room" else 1)
    await cancelled(first)
    assert lines(queue) == 0


async def test_a_cancelled_worker_passes_its_wake_up_on() -> None:
    """Protects the next worker (fault A2 in a pipeline), and the count of idle workers."""
    queue = Channel[Any](128)
    first, second = asyncio.create_task(ready(queue)), asyncio.create_task(ready(queue))
    await spin()
    queue.put_nowait(1)
    first.cancel()
    await spin()
    assert second.done()
    assert second.result() is None
    await cancelled(first)
    assert queue._getters.waiting == 0


async def test_who_waits_last_may_close_the_queue() -> None:
    """Protects the end of a run: the last worker to go idle may close the queue, and is then told END itself."""
    queue, asked = Channel[Any](128), []

    def on_wait() -> None:
        asked.append(queue._getters.waiting)
        queue.close()

    queue._getters.on_wait = on_wait
    assert await ready(queue) is END
    assert asked == [1]


async def test_workers_wake_each_other_for_a_backlog() -> None:
    """Protects concurrency: one wake-up for a run of items spreads to as many workers as there is work for."""
    queue = Channel[Any](0)
    workers = [asyncio.create_task(ready(queue)) for _ in range(20)]
    await spin()
    queue._queue.extend(range(10))  # as a pipeline's writer does: many items, one wake-up
    queue.came_from_outside(10)
    queue.getters.wake()
    await spin(20)
    assert sum(worker.done() for worker in workers) >= 10
    queue.close()
    await queue.get_many(20)
    await asyncio.gather(*workers)


async def test_end_is_told_once_to_each_worker() -> None:
    """Protects the pipeline's own way to END."""
    queue = full(1)
    assert await ready(queue) is None
    queue.get_nowait()
    workers = [asyncio.create_task(ready(queue)) for _ in range(4)]
    await spin()
    assert queue._getters.waiting == 4
    queue.close()
    assert await asyncio.gather(*workers) == [END] * 4
    assert queue.statistics().ends == 4
    assert queue._getters.waiting == 0


@pytest.mark.parametrize("eager", EAGER)
def test_a_cancelled_put_does_not_swallow_the_room_of_a_source(eager: bool) -> None:
    """Protects from a stall: the only putter is cancelled in the tick in which room is made, and a source waits too."""

    async def main() -> None:
        gate = asyncio.Event()

        @consumer
        async def handle(n: object) -> None:
            await gate.wait()

        async with Pipeline(range(5), handle, maxsize=1) as running:
            await idle()
            putting = asyncio.create_task(running.put(99))
            await idle()
            gate.set()
            putting.cancel()
            report = await running.wait()
        assert report.done == 5

    testing.run(main(), eager=eager)


# -- a put that raises ----------------------------------------------------------------------------


OPTIONS: list[Callable[[Callable[[Any], Any]], dict[str, Any]]] = [
    lambda of: {"key": of},
    lambda of: {"priority": of},
    lambda of: {"batch": Batch(1, key=of)},
    lambda of: {"batch": Batch(1, weigh=of)},
]


@both
@pytest.mark.parametrize("option", OPTIONS, ids=["key", "priority", "batch key", "weigh"])
def test_a_put_that_raises_passes_the_room_on(option: Any, eager: bool) -> None:
    """Fault A3: one bad request that had waited for room must not leave the next one waiting at an empty queue."""

    async def slow(item: object) -> None:
        await asyncio.sleep(1)

    handle = named("handle", slow, maxsize=1, **option(lambda item: item["n"]))

    async def put(running: Running[Any, None], item: object) -> str:
        try:
            await running.put(item)
        except KeyError:
            return "refused"
        return "in"

    async def main() -> list[str]:
        async with Pipeline(handle) as running:
            await running.put({"n": 1})
            await asyncio.sleep(0.1)
            await running.put({"n": 1})
            return await asyncio.gather(*[put(running, item) for item in ({}, {"n": 1}, {}, {"n": 1})])

    assert testing.run(main(), eager=eager) == ["refused", "in", "refused", "in"]


# -- what waits for more --------------------------------------------------------------------------


class Triples(deque[Any]):
    """A container that gives nothing before it has three items, or is full."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def __bool__(self) -> bool:
        return len(self) >= 3 or len(self) == self.limit

    def available(self) -> int:
        return len(self)


@pytest.mark.parametrize("writers", [1, 2, 5])
async def test_writers_are_woken_for_each_place_when_nothing_can_be_taken(writers: int) -> None:
    """Protects from a hang: what is left, more than half of the bound, can be taken only with what they have."""
    queue = Channel[Any](3)
    queue.keep_in(cast(Container, Triples(3)))
    for n in range(3):
        queue.put_nowait(n)
    waiting = [asyncio.create_task(queue.put_or_leave(n)) for n in range(writers)]
    await spin()
    assert queue.get_nowait() == 0
    assert not queue.items
    await spin()
    assert sum(one.done() for one in waiting) == 1  # there was one place
    assert list(queue.items) == [1, 2, 0]
    for one in waiting:
        one.cancel()
    await asyncio.wait(waiting)


@pytest.mark.parametrize("seed", range(20))
async def test_the_short_way_in_does_what_the_long_one_does(seed: int) -> None:
    """Protects ``try_put``, which is ``put_nowait`` in one piece: the same items, counts, wake-ups and refusals."""
    short: Channel[int] = Channel(3)
    long: Channel[int] = Channel(3)
    for channel in short, long:
        channel.check_caller()
    draw, accepted, getters = Random(seed), 0, []
    for n in range(60):
        what = draw.randrange(4)
        if what == 0:
            getters.append([asyncio.create_task(channel.get()) for channel in (short, long)])
        elif what == 1:
            await spin()
        elif n == 50:
            for channel in short, long:
                channel.refuse(lambda: QueueShutDown("over"))
        else:
            outcomes = [_outcome(put, n) for put in (short.try_put, _put_if_room(long))]
            assert outcomes[0] == outcomes[1]
            accepted += outcomes[0] == "True"
        assert short.statistics()[:8] == long.statistics()[:8]
        assert list(short.items) == list(long.items)
        assert (short.mark, short.getters.waking) == (long.mark, long.getters.waking)
    assert accepted == short.accepted
    await spin()
    for one, other in getters:
        assert one.done() == other.done()
        assert not one.done() or one.result() == other.result()
        one.cancel()
        other.cancel()


def _put_if_room(channel: Channel[int]) -> Callable[[int], bool]:
    def put(item: int) -> bool:
        if channel.is_full():
            return False
        channel.put_nowait(item)
        return True

    return put


def _outcome(put: Callable[[int], bool], item: int) -> str:
    try:
        return str(put(item))
    except QueueShutDown as error:
        return f"raised {error}"


@pytest.mark.parametrize("cancelled_ones", [0, 1, 16, 17, 30])
async def test_callers_of_put_are_woken_some_at_a_time_and_none_is_forgotten(cancelled_ones: int) -> None:
    """Protects the wake-ups of many callers: few at once, since one may take all the room, but always another."""
    queue: Channel[int] = Channel(40)
    for n in range(40):
        queue.put_nowait(n)
    callers = [asyncio.create_task(queue.put(n)) for n in range(40, 80)]
    await spin()
    for _ in range(40):
        queue.get_nowait()
    assert queue.putters.waking == AT_ONCE
    for caller in callers[:cancelled_ones]:
        caller.cancel()
    await spin(20)
    assert [caller.done() for caller in callers] == [True] * 40
    assert list(queue.items) == list(range(40 + cancelled_ones, 80))


@pytest.mark.parametrize("writers", [0, 30])
@pytest.mark.parametrize("maxsize", [1, 15, 17, 40])
async def test_callers_of_put_get_their_places_in_the_order_they_came(maxsize: int, writers: int) -> None:
    """Protects the order: a caller woken for a place that another takes would wait again, behind all who came later."""
    queue: Channel[int] = Channel(maxsize)
    for _ in range(maxsize):
        queue.put_nowait(-1)
    writing = [asyncio.create_task(queue.put_or_leave(-1)) for _ in range(writers)]
    callers = [asyncio.create_task(queue.put(n)) for n in range(100)]
    await spin()
    got: list[int] = []
    while len(got) < 100:
        got += [n for n in [queue.get_nowait() for _ in range(len(queue.items))] if n >= 0]
        await spin(20)
    assert got == list(range(100))
    await asyncio.gather(*callers, *writing)


@pytest.mark.parametrize("items", [1, 2, 8, 9, 10, 11, 40])
def test_the_peak_of_a_growing_queue_is_the_most_there_ever_was(items: int) -> None:
    """Writers do not ask for room while a queue only grows longer than ever, but each new peak is counted."""

    @consumer(maxsize=10)
    async def hand_on(n: int) -> int:
        return n

    @consumer(maxsize=5)
    async def take(n: int) -> None: ...

    report = testing.run(source(range(items)) >> hand_on >> take)
    assert [stage.peak_queued for stage in report.stages] == [min(items, 10), min(items, 5)]
    assert report.done == items


async def test_a_queue_grows_up_to_its_last_slot() -> None:
    """Protects the bound: the last slot is taken on the way on which a writer waits for room next."""
    queue = Channel[int](4)
    grown = []
    while len(queue.items) < 4:
        grown.append(queue.grow() > len(queue.items))
        queue.items.append(0) if grown[-1] else queue.enqueue(0)
    assert grown == [True, True, True, False]
    assert (queue.peak, queue.mark, queue.grow()) == (4, 3, 3)
