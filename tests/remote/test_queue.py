"""A pipeline is cut at a remote queue and nothing else changes; each message ends as all that was made of it ended."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
from support import until

from asyncpc import (
    Batch,
    DefinitionError,
    Failure,
    Pipeline,
    PipelineError,
    StateError,
    broadcast,
    consumer,
    feed,
    source,
    testing,
)
from asyncpc.remote import Depth, Message, PayloadError
from asyncpc.remote.broker import Outgoing
from asyncpc.remote.codec import new_ids
from asyncpc.remote.engines.memory.broker import MemoryBroker
from asyncpc.remote.queue import RemoteQueue, remote_queue

_names = count()


@dataclass
class Job:
    number: int
    text: str = ""


def fresh(**options: Any) -> RemoteQueue[Job]:
    """A queue in memory of its own."""
    return remote_queue(f"memory://queue-{next(_names)}", Job, **options)


async def put(queue: RemoteQueue[Job], *numbers: int) -> None:
    async with queue.open() as opened:
        await opened.put_many([Job(number) for number in numbers])


def counts(depth: Depth) -> tuple[int, int, int, int]:
    return depth.ready, depth.unacknowledged, depth.delayed, depth.dead


EMPTY = (0, 0, 0, 0)

eager = pytest.mark.parametrize("eager", [False, True])


@eager
def test_the_same_consumers_run_on_both_sides_of_a_queue(eager: bool) -> None:
    """Protects what a remote queue is for: one process publishes what the other handles."""
    queue, shown = fresh(), []

    @consumer
    async def scan(number: int) -> Job:
        return Job(number)

    @consumer(concurrency=3)
    async def resize(job: Job) -> str:
        await asyncio.sleep(0.01)
        return f"<{job.number}>"

    @consumer
    async def upload(text: str) -> None:
        shown.append(text)

    async def main() -> None:
        report = await (source(range(1000)) >> scan >> queue)
        assert report.stages[-1].done == 1000
        assert counts(await queue.depth()) == (1000, 0, 0, 0)
        async with queue >> resize >> upload as running:
            await asyncio.sleep(10)
            report = await running.drain()
        assert report.done == 1000
        assert sorted(shown) == sorted(f"<{number}>" for number in range(1000))
        assert counts(await queue.depth()) == EMPTY

    testing.run(main(), eager=eager)


def test_a_thousand_messages_are_published_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects throughput: an engine that keeps messages on a disk waits for it in each call."""
    queue, published, publish = fresh(), [], MemoryBroker.publish

    async def noted(broker: MemoryBroker, messages: Sequence[Outgoing]) -> None:
        published.append(len(messages))
        await asyncio.sleep(1)  # meanwhile, others come
        await publish(broker, messages)

    monkeypatch.setattr(MemoryBroker, "publish", noted)

    async def main() -> None:
        assert (await (source([Job(n) for n in range(5000)]) >> queue)).complete
        async with queue.open() as opened:
            await asyncio.gather(*[opened.put_many([Job(n)] * 400) for n in range(3)])

    testing.run(main())
    *piped, first, second = published
    assert max(piped) == 1000
    assert (first, second) == (800, 400)


@eager
def test_a_message_is_acknowledged_after_everything_made_of_it(eager: bool) -> None:
    """Protects the promise: generators, branches, feed and a batch at the end all count."""
    queue = fresh()
    under_way = 0

    @consumer
    async def split(job: Job) -> AsyncIterator[int]:
        if job.number < 100:
            feed(Job(100 + job.number))
        for part in range(3):
            yield part

    @consumer
    async def left(part: int) -> int:
        await asyncio.sleep(5)
        return part

    @consumer
    async def right(part: int) -> int:
        return part

    @consumer(batch=Batch(4, within=3.0))
    async def store(parts: list[int]) -> None:
        nonlocal under_way
        under_way -= len(parts)

    async def main() -> None:
        nonlocal under_way
        under_way = 12
        await put(queue, 1)
        async with queue >> split >> broadcast(left, right) >> store as running:
            for _ in range(100):
                await asyncio.sleep(0.5)
                if not under_way:
                    break
                assert counts(await queue.depth()) == (0, 1, 0, 0) or not under_way
            await asyncio.sleep(0.5)
            assert counts(await queue.depth()) == EMPTY
            await running.drain()

    testing.run(main(), eager=eager)


def test_feed_from_a_thread_counts_too() -> None:
    """Protects plain handlers: what they feed holds the message, though another thread told it."""
    queue, seen = fresh(), []
    go_on = asyncio.Event()

    @consumer
    def crawl(job: Job) -> Job:
        if job.number < 3:
            feed(Job(job.number + 1))
        return job

    @consumer(concurrency=4)
    async def keep(job: Job) -> None:
        seen.append(job.number)
        if job.number == 3:
            await go_on.wait()

    async def main() -> None:
        await put(queue, 0)
        async with queue >> crawl >> keep:
            await until(lambda: len(seen) == 4)
            assert counts(await queue.depth()) == (0, 1, 0, 0)
            go_on.set()
        assert counts(await queue.depth()) == EMPTY

    asyncio.run(main())


@pytest.mark.parametrize("batch", [None, Batch(2, within=0.1)])
@eager
def test_what_fails_goes_to_the_dead_letters_and_the_run_goes_on(batch: Batch | None, eager: bool) -> None:
    """Protects a worker from one bad message; nothing has to be written for it."""
    queue = fresh()

    async def handle(job: Any) -> Any:
        if any(one.number == 2 for one in (job if isinstance(job, list) else [job])):
            raise ValueError("two")

    stage: Any = consumer(retry=2)(handle) if batch is None else consumer(batch=batch)(handle)

    async def main() -> None:
        await put(queue, *range(5))
        async with queue >> stage as running:
            await asyncio.sleep(5)
            report = await running.drain()
        assert report.failed == (1 if batch is None else 2)
        assert report.complete
        async with queue.open() as opened:
            dead = await opened.broker.dead(10, "")
        assert b'{"number":2,"text":""}' in [one.message.body for one in dead]
        assert b"ValueError: two" in dead[0].failure
        assert counts(await queue.depth())[:3] == (0, 0, 0)

    testing.run(main(), eager=eager)


@pytest.mark.parametrize("on_error", ["skip", "function", "consumer"])
def test_a_policy_that_is_written_is_obeyed(on_error: str) -> None:
    """Protects what the user wrote: then the queue's dead letters stay empty, and the message is done with."""
    queue, told = fresh(), []

    @consumer
    async def tell(failure: Failure) -> None:
        await asyncio.sleep(1)
        told.append(failure)

    policy: Any = {"skip": "skip", "function": told.append, "consumer": tell}[on_error]

    @consumer(on_error=policy)
    async def handle(job: Job) -> None:
        raise ValueError(job.number)

    async def main() -> None:
        await put(queue, *range(3))
        async with queue >> handle as running:
            await asyncio.sleep(10)
            await running.drain()
        assert len(told) == (0 if on_error == "skip" else 3)
        assert counts(await queue.depth()) == EMPTY

    testing.run(main())


def test_stop_written_out_gives_the_message_back() -> None:
    """Protects ``on_error="stop"``: the run fails, the message comes again after a pause, and that was an attempt."""
    queue = fresh()

    @consumer(on_error="stop")
    async def handle(job: Job) -> None:
        if job.number == 1:
            raise ValueError("one")
        await asyncio.sleep(100)

    async def main() -> None:
        await put(queue, 1, 2, 3)
        with pytest.raises(PipelineError):
            async with queue >> handle as running:
                await running.wait()
        depth = await queue.depth()
        assert counts(depth) == (2, 0, 1, 0)
        await asyncio.sleep(2)
        async with queue.open() as opened:
            assert [one.attempt for one in await opened.broker.receive(3, 1.0, 1)] == [1, 1, 2]

    testing.run(main())


@eager
def test_a_drain_gives_back_what_it_cannot_finish(eager: bool) -> None:
    """Protects a deadline: what was cancelled comes again, no attempt counted, in its order, before the time is up."""
    queue = fresh(prefetch=10)

    @consumer(concurrency=2)
    async def handle(job: Job) -> None:
        await asyncio.sleep(1000)

    async def main() -> None:
        await put(queue, *range(20))
        loop = asyncio.get_running_loop()
        async with queue >> handle as running:
            await asyncio.sleep(1)
            began = loop.time()
            report = await running.drain(timeout=5)
            assert loop.time() - began <= 5.1
            assert len(report.unfinished) >= 2
            async with queue.open() as opened:
                again = await opened.broker.receive(20, 1.0, 1)
            assert [one.body[10:12].strip(b",") for one in again] == [b"%d" % n for n in range(20)]
            assert {one.attempt for one in again} == {1}
            running._run.outcome.is_delivered = True

    testing.run(main(), eager=eager)


def test_a_reader_of_results_acknowledges_as_it_reads() -> None:
    """Protects ``stream()``: what a reader did not come to is given back; so is what it failed with."""
    queue = fresh(prefetch=10)

    @consumer
    async def double(job: Job) -> int:
        return 2 * job.number

    async def main() -> None:
        await put(queue, *range(10))
        async with (queue >> double).stream() as values:
            async for value in values:
                if value == 8:
                    break
                await asyncio.sleep(1)
                assert counts(await queue.depth())[:2] == (0, 10 - value // 2)
        assert counts(await queue.depth()) == (5, 0, 0, 0)
        with suppress(KeyError):
            async with (queue >> double).stream() as values:
                async for value in values:
                    if value == 12:
                        raise KeyError(value)
        assert counts(await queue.depth()) == (4, 0, 0, 0)

    testing.run(main())


def test_payloads_are_checked_when_they_arrive() -> None:
    """Protects the handlers: what is not as declared is buried at once, and never decoded if it is too large."""
    queue, seen = fresh(max_bytes=100), []

    @consumer
    async def handle(job: Job) -> None:
        seen.append(job)

    async def main() -> None:
        from asyncpc.remote.broker import Outgoing

        bodies = [
            b'{"number": 1}',
            b'{"number": "one"}',
            b"\xff\xfe",
            b"[" * 50 + b"]" * 50,
            b"[" * 99,
            b'{"number": 1' + b"0" * 80 + b"}",
            b'{"number": 1, "text": "' + b"x" * 1000,
            b"",
            b"null",
        ]
        async with queue.open() as opened:
            await opened.broker.publish([Outgoing(f"p{at}", body) for at, body in enumerate(bodies)])
            await opened.broker.publish([Outgoing("pickle", b"{}", {"content-type": "application/python-pickle"})])
            async with queue >> handle:
                await asyncio.sleep(5)
            dead = await opened.broker.dead(100, "")
        assert seen[0].number == 1
        assert len(dead) + len(seen) == 10
        assert len(seen) <= 2  # a huge number is one
        assert b"allows no more" in b"".join(one.failure for one in dead)

    testing.run(main())


def test_a_put_says_what_cannot_be_put() -> None:
    """Protects the sender: the item is refused where it is put, not where it arrives."""
    queue = fresh(max_bytes=40)

    async def main() -> None:
        async with queue.open() as opened:
            with pytest.raises(PayloadError, match="max_bytes=40 allows no more"):
                await opened.put(Job(1, "x" * 100))
            with pytest.raises(PayloadError, match="cannot be encoded"):
                await opened.put(object())  # type: ignore[arg-type]  # that is the mistake
            with pytest.raises(StateError, match="cannot do what key= asks for"):
                await opened.put(Job(1), key="a")
            with pytest.raises(StateError, match="cannot do what connection= asks for"):
                await opened.put(Job(1), connection=object())
            with pytest.raises(PayloadError, match="lone surrogate"):
                await opened.put(Job(1), id="\ud800")
            with pytest.raises(PayloadError, match="begin with 'x-'"):
                await opened.put(Job(1), headers={"content-type": "text/html"[:9], "cookie": "a"})
            await opened.put(Job(1), id="one", headers={"x-tenant": "a", "traceparent": "00-1-2-01"})
            await opened.put(Job(1), id="one")
            messages: list[Message] = await opened.broker.receive(9, 0.1, 1)
            assert [dict(one.headers) for one in messages] == [
                {"x-tenant": "a", "traceparent": "00-1-2-01", "content-type": "application/json"}
            ]
        with pytest.raises(StateError, match="is not open"):
            await opened.put(Job(1))

    testing.run(main())


def test_who_changes_the_headers_of_a_message_changes_no_other() -> None:
    """Protects what is put later: messages share their headers, and ``memory://`` gives them out as they are."""
    queue = fresh()

    async def main() -> None:
        async with queue.open() as opened:
            await opened.put_many([Job(1), Job(2)])
            for one in await opened.broker.peek(10):
                headers: Any = one.headers
                with pytest.raises(TypeError):
                    headers["x-of"] = one.id
            await opened.put(Job(3), headers={"x-of": "3"})
            await opened.put(Job(4))
            assert [one.headers.get("x-of") for one in await opened.broker.peek(10)] == [None, None, "3", None]

    testing.run(main())


def test_put_from_thread() -> None:
    """Protects a web server without a loop; in the loop's own thread it would wait for itself."""
    queue = fresh()

    async def main() -> None:
        async with queue.open() as opened:
            await asyncio.to_thread(opened.put_from_thread, Job(1))
            with pytest.raises(StateError, match="write await q"):
                opened.put_from_thread(Job(2))
        assert counts(await queue.depth()) == (1, 0, 0, 0)

    asyncio.run(main())


def test_mistakes_are_refused_where_they_are_written() -> None:
    """Protects a first hour: each wrong argument names itself and what would be right."""
    for url, message in [
        ("jobs", "names no engine; it has to begin with amqp://"),
        ("kafka://host/jobs", "names no engine"),
        ("memory://", "expected memory://name"),
        (7, "names no engine"),
        ("redis://[::1/jobs", "is no URL"),
    ]:
        with pytest.raises(DefinitionError, match=message):
            remote_queue(url, Job)  # type: ignore[arg-type]  # that is the mistake
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"prefetch": 0}, "prefetch"),
        ({"lease": -1}, "lease=-1 must be a number of seconds"),
        ({"lease": 0.01}, "lease=0.01 must be a number of seconds, from 0.1"),
        ({"lease": 1e300}, "to 3.1536e\\+07 \\(a year\\)"),
        ({"dead_letter": ""}, "dead_letter='' must be the name of another queue"),
        ({"codec": "pickle"}, "must be 'json' or 'msgpack'"),
        ({"host": "a"}, "takes no option"),
    ]
    for options, message in wrong:
        with pytest.raises(DefinitionError, match=message):
            fresh(**options)
    with pytest.raises(DefinitionError, match="dead_letter='mine' must be the name of another queue"):
        remote_queue("memory://mine", Job, dead_letter="mine")
    with pytest.raises(DefinitionError, match="no type of plain data"):
        remote_queue("memory://a", asyncio.Event)
    with pytest.raises(DefinitionError, match="://user:\\*\\*\\*@host/jobs' names no engine"):
        remote_queue("kafka://user:secret@host/jobs", Job)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delay": -1}, "delay=-1 must be a number of seconds, from 0"),
        ({"delay": math.nan}, "delay=nan must be"),
        ({"delay": math.inf}, "delay=inf must be"),
        ({"delay": 1e12}, "ten years"),
        ({"delay": "5"}, "delay='5' must be"),
        ({"delay": None}, "delay=None must be"),
        ({"id": 5}, "id=5 must be a string"),
        ({"headers": {"x-a": 5}}, "header 'x-a': 5: names and values must be strings"),
        ({"headers": {5: "a"}}, "header 5: 'a': names and values must be strings"),
    ],
)
def test_what_no_message_can_have_is_refused_before_it_is_sent(options: dict[str, Any], message: str) -> None:
    """Protects the caller: each engine made something else of it, such as a delay that never ends, or none at all."""
    queue = fresh()

    async def main() -> None:
        async with queue.open() as opened:
            with pytest.raises(PayloadError, match=message):
                await opened.put(Job(1), **options)
            assert counts(await opened.depth()) == (0, 0, 0, 0)

    testing.run(main())


def test_a_batch_without_a_limit_of_time_is_refused_behind_a_remote_queue() -> None:
    """Protects against a pipeline that waits for ever: its messages would fill the prefetch, and no more would come."""

    @consumer(batch=Batch(100))
    async def store(jobs: list[Job]) -> None: ...

    with pytest.raises(DefinitionError, match=r"Batch\(…, within=seconds\)"):
        fresh() >> store
    source([Job(1)]) >> store


def test_a_remote_queue_in_the_middle_is_refused() -> None:
    """Protects against a pipeline that publishes and never handles: it is two."""

    @consumer
    async def handle(job: Job) -> None: ...

    queue = fresh()
    pipeline = source([Job(1)]) >> queue
    assert isinstance(pipeline, Pipeline)
    with pytest.raises(DefinitionError, match="write two pipelines"):
        pipeline >> handle  # type: ignore[operator]  # checkers refuse it too


def test_a_queue_shows_no_password() -> None:
    """Protects logs: the address is shown without it (fault F7)."""
    assert "memory://" in repr(fresh())


def test_ids_are_uuids_that_sort_by_time() -> None:
    """Protects engines that keep ids in an index, and programs that read the time from them."""
    texts = [*new_ids(50), *(new_ids(1)[0] for _ in range(50))]
    assert texts[:50] == sorted(texts[:50])
    ids = [uuid.UUID(one) for one in texts]
    assert {one.version for one in ids} == {7}
    assert {one.variant for one in ids} == {uuid.RFC_4122}
    assert len(set(ids)) == 100
    assert abs((ids[0].int >> 80) / 1000 - time.time()) < 60


def test_failures_can_go_to_a_remote_queue() -> None:
    """Protects ``on_error=queue``: each failure is in the queue once, whichever stage names it; the run goes on."""
    failures = remote_queue(f"memory://queue-{next(_names)}", Failure)

    @consumer(on_error=failures)
    async def odd(number: int) -> int:
        if number % 2:
            raise ValueError(number)
        return number

    @consumer(on_error=failures)
    async def small(number: int) -> None:
        if number > 5:
            raise KeyError(number)

    async def main() -> None:
        report = await (source(range(10)) >> odd >> small)
        assert [stage.name for stage in report.stages] == ["odd", "small", failures._name]
        assert (report.stages[0].failed, report.stages[1].failed, report.stages[2].done) == (5, 2, 7)
        async with failures.open() as opened:
            told = [failures._codec.decoded(one.body, one.headers) for one in await opened.broker.peek(10)]
        assert sorted(one.item for one in told) == [1, 3, 5, 6, 7, 8, 9]
        assert {one.stage for one in told} == {"odd", "small"}

    testing.run(main())
