"""A trace goes on: what is made of a message and put into a queue has the trace context of the message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from itertools import count
from typing import Any

import pytest

from asyncpc import Batch, Failure, Pipeline, consumer, feed, merge, source, testing
from asyncpc.remote import Message, OpenQueue
from asyncpc.remote.queue import RemoteQueue, remote_queue

_names = count()


def fresh() -> RemoteQueue[int]:
    """A queue in memory of its own."""
    return remote_queue(f"memory://trace-{next(_names)}", int)


def trace(number: int) -> dict[str, str]:
    return {"traceparent": f"00-{number:032x}-{number:016x}-01", "tracestate": f"vendor={number}"}


async def put_traced(queue: RemoteQueue[int], *numbers: int) -> None:
    async with queue.open() as opened:
        for number in numbers:
            await opened.put(number, headers=trace(number) | {"x-tenant": "a"})


async def came(queue: RemoteQueue[int]) -> dict[int, Mapping[str, str]]:
    """The trace context of what is in the queue, by item."""
    async with queue.open() as opened:
        messages: list[Message] = await opened.broker.receive(100, 0.1, 1)
    assert not any("x-tenant" in one.headers for one in messages)  # a trace goes on; what a program has added does not
    return {
        int(one.body): {name: value for name, value in one.headers.items() if name != "content-type"}
        for one in messages
    }


async def until_ready(queue: RemoteQueue[int] | OpenQueue[int], count: int) -> None:
    ready = 0
    async with asyncio.timeout(60):
        while ready < count:
            await asyncio.sleep(0.01)
            ready = (await queue.depth()).ready


@consumer(concurrency=2)
async def times_ten(number: int) -> int:
    await asyncio.sleep(0.1 / number)
    return 10 * number


@consumer
async def two_of_each(number: int) -> AsyncIterator[int]:
    yield 10 * number
    yield 10 * number + 1


@consumer(batch=Batch(2, within=1))
async def times_ten_at_once(numbers: list[int]) -> list[int]:
    return [10 * number for number in numbers]


@consumer(run_in="thread")
def times_ten_in_a_thread(number: int) -> int:
    return 10 * number


@consumer
async def feeds_first(number: int) -> int:
    if number < 10:
        feed(10 * number)
    return number


@pytest.mark.parametrize(
    ("stage", "traced"),
    [
        (times_ten, {10: 1, 20: 2, 30: 3}),
        (two_of_each, {10: 1, 11: 1, 20: 2, 21: 2, 30: 3, 31: 3}),
        (times_ten_at_once, {10: 1, 20: 2, 30: 3}),
        (two_of_each >> times_ten_at_once, {100: 1, 110: 1, 200: 2, 210: 2, 300: 3, 310: 3}),
        (feeds_first, {1: 1, 10: 1, 2: 2, 20: 2, 3: 3, 30: 3}),
    ],
    ids=["plain", "generator", "batch", "generator and batch", "feed"],
)
def test_what_a_pipeline_makes_of_a_message_keeps_its_trace(stage: Any, traced: dict[int, int]) -> None:
    """Protects a trace over several queues: each value has the context of its own message, whatever made it."""
    jobs, done = fresh(), fresh()

    async def main() -> None:
        await put_traced(jobs, 1, 2, 3)
        async with Pipeline(jobs >> stage >> done) as running:
            await until_ready(done, len(traced))
            await running.drain(5)
        assert await came(done) == {item: trace(number) for item, number in traced.items()}

    testing.run(main())


def test_a_thread_keeps_the_trace() -> None:
    """Protects a handler outside the loop: neither its results nor what it puts itself begin a new trace."""
    jobs, done, beside = fresh(), fresh(), fresh()

    async def main() -> None:
        await put_traced(jobs, 1, 2)
        async with beside.open() as opened:

            @consumer(run_in="thread")
            def put_and_return(number: int) -> int:
                opened.put_from_thread(10 * number)
                return number

            async with Pipeline(jobs >> put_and_return >> done) as running:
                await until_ready(done, 2)
                await running.drain(5)
        assert await came(done) == {1: trace(1), 2: trace(2)}
        assert await came(beside) == {10: trace(1), 20: trace(2)}

    asyncio.run(main())


def handlers_that_put(opened: OpenQueue[int]) -> dict[str, Any]:
    async def one(number: int) -> None:
        await opened.put(number)

    async def many(number: int) -> None:
        await opened.put_many([number])

    async def in_a_task(number: int) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(opened.put(number))

    async def after_a_wait(number: int) -> None:
        await asyncio.sleep(1 / number)
        await opened.put(number)

    return {handler.__name__: consumer(concurrency=3)(handler) for handler in (one, many, in_a_task, after_a_wait)}


@pytest.mark.parametrize("how", ["one", "many", "in_a_task", "after_a_wait"])
def test_what_a_handler_puts_has_the_trace_of_its_message(how: str) -> None:
    """Protects a trace where a handler puts by hand: that of its own message, however many are handled at once."""
    jobs, done = fresh(), fresh()

    async def main() -> None:
        await put_traced(jobs, 1, 2, 3)
        async with done.open() as opened, Pipeline(jobs >> handlers_that_put(opened)[how]) as running:
            await until_ready(opened, 3)
            await running.drain(5)
        assert await came(done) == {number: trace(number) for number in (1, 2, 3)}

    testing.run(main())


@pytest.mark.parametrize(("second", "expected"), [(1, trace(1)), (2, {})], ids=["one trace", "two traces"])
def test_what_is_made_of_several_messages_has_the_trace_that_they_share(
    second: int, expected: Mapping[str, str]
) -> None:
    """Protects a trace from a wrong parent: of messages of two traces, what is made of both belongs to neither."""
    jobs, put, given = fresh(), fresh(), fresh()

    async def main() -> None:
        async with jobs.open() as opened:
            for number, of in (1, 1), (2, second):
                await opened.put(number, headers=trace(of))
        async with put.open() as opened:

            @consumer(batch=Batch(2, within=1))
            async def total(numbers: list[int]) -> AsyncIterator[int]:
                await opened.put(sum(numbers))
                yield sum(numbers)

            async with Pipeline(jobs >> total >> given) as running:
                await until_ready(given, 1)
                await running.drain(5)
        assert await came(put) == {3: expected}
        assert await came(given) == {3: expected}

    testing.run(main())


def test_items_without_a_trace_get_none_from_their_neighbours() -> None:
    """Protects a batch of messages with and without a trace, and of items from elsewhere: each keeps to itself."""
    jobs, done = fresh(), fresh()

    async def main() -> None:
        await put_traced(jobs, 1)
        async with jobs.open() as opened:
            await opened.put(2)
        async with Pipeline(merge(jobs, source([3])) >> done) as running:
            await until_ready(done, 3)
            await running.drain(5)
        assert await came(done) == {1: trace(1), 2: {}, 3: {}}

    testing.run(main())


def test_a_trace_that_is_given_comes_first() -> None:
    """Protects a program that makes spans: its own ``traceparent`` is put, without the state of the other."""
    jobs, done = fresh(), fresh()
    own = {"traceparent": trace(7)["traceparent"]}

    async def main() -> None:
        await put_traced(jobs, 1)
        async with done.open() as opened:

            @consumer
            async def put(number: int) -> None:
                await opened.put(number, headers=own)

            async with Pipeline(jobs >> put) as running:
                await until_ready(opened, 1)
                await running.drain(5)
            await opened.put(2)  # in no handler
        assert await came(done) == {1: own, 2: {}}

    testing.run(main())


@pytest.mark.parametrize("count", [1, 3])
def test_a_run_in_a_handler_has_no_part_in_the_trace(count: int) -> None:
    """Protects what an inner run puts: it is made of its own items, and however many those are, they are put."""
    jobs, done = fresh(), fresh()

    @consumer
    async def expand(number: int) -> None:
        await (source([10 * number + one for one in range(count)]) >> done)

    async def main() -> None:
        await put_traced(jobs, 1, 2)
        async with Pipeline(jobs >> expand) as running:
            await until_ready(done, 2 * count)
            await running.drain(5)
        assert await came(done) == {10 * number + one: {} for number in (1, 2) for one in range(count)}

    testing.run(main())


def test_what_an_inner_run_feeds_stays_in_it() -> None:
    """Protects both runs: what is fed belongs to the run that feeds, and the message of the outer one is settled."""
    jobs = fresh()
    handled, over = list[int](), asyncio.Event()

    @consumer
    async def inner(number: int) -> None:
        handled.append(number)
        if number < 100:
            feed(number + 100)

    @consumer
    async def outer(number: int) -> None:
        await (source([number]) >> inner)
        over.set()

    async def main() -> None:
        await put_traced(jobs, 1)
        async with Pipeline(jobs >> outer) as running:
            await over.wait()
            report = await running.drain(5)
        assert (handled, report.done, report.failed) == ([1, 101], 1, 0)
        assert (await jobs.depth())[:4] == (0, 0, 0, 0)

    testing.run(main())


def test_what_each_failure_of_a_batch_puts_has_its_trace() -> None:
    """Protects the dead letters that a program keeps itself: each belongs to the message that failed, in any place."""
    jobs, failed = fresh(), fresh()

    async def main() -> None:
        await put_traced(jobs, 1, 2, 3)
        async with failed.open() as opened:

            async def keep(failure: Failure) -> None:
                await opened.put(failure.item)

            @consumer(batch=Batch(3, within=1), on_error=keep)
            async def fails(numbers: list[int]) -> None:
                raise ValueError("no")

            async with Pipeline(jobs >> fails) as running:
                await until_ready(failed, 3)
                await running.drain(5)
        assert await came(failed) == {number: trace(number) for number in (1, 2, 3)}

    testing.run(main())


def test_items_without_a_message_leave_a_batch_its_trace() -> None:
    """Protects the one answer to whose a batch is: what it puts and what it gives have the same trace."""
    jobs, done, beside = fresh(), fresh(), fresh()

    async def main() -> None:
        await put_traced(jobs, 1)
        async with beside.open() as opened:

            @consumer(batch=Batch(2, within=60))
            async def sums(numbers: list[int]) -> AsyncIterator[int]:
                await opened.put(sum(numbers))
                yield sum(numbers)

            async with Pipeline(merge(jobs, source([20])) >> sums >> done) as running:
                await until_ready(done, 1)
                await running.drain(5)
        assert await came(beside) == await came(done) == {21: trace(1)}

    testing.run(main())


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"traceparent": "00-1-2-01", "tracestate": "a=1"}, {}),
        ({"traceparent": trace(1)["traceparent"].upper() + "-A"}, {}),
        ({"traceparent": "ff" + trace(1)["traceparent"][2:]}, {}),
        ({"traceparent": f"00-{0:032x}-{1:016x}-01"}, {}),
        ({"traceparent": f"00-{1:032x}-{0:016x}-01"}, {}),
        ({"tracestate": "a=1"}, {}),
        *(
            (trace(1) | {"tracestate": state}, {"traceparent": trace(1)["traceparent"]})
            for state in ("a=" + "x" * 600, "secret", "a=1,Bad Key=2", "=1", ",".join(f"a{n}=1" for n in range(33)))
        ),
        (trace(1) | {"tracestate": "a=1, 2b@c=d e"},) * 2,
    ],
    ids=[
        *("no trace", "too long", "no version", "no trace id", "no parent id", "state alone", "long state"),
        *("no member", "bad key", "no key", "too many", "fine"),
    ],
)
def test_a_false_trace_is_not_passed_on(sent: dict[str, str], expected: dict[str, str]) -> None:
    """Protects who comes next from headers that anyone may have sent."""
    jobs, done = fresh(), fresh()

    async def main() -> None:
        async with jobs.open() as opened:
            await opened.put(1, headers=sent)
        async with Pipeline(jobs >> done) as running:
            await until_ready(done, 1)
            await running.drain(5)
        assert await came(done) == {1: expected}

    testing.run(main())
