"""What a hostile hour found: each test failed before its fault was mended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
from support import PATIENCE, error_types

from asyncpc import Batch, DefinitionError, Pipeline, PipelineError, StateError, consumer, feed, merge, source, testing
from asyncpc.errors import WorkerCancelled
from asyncpc.remote.broker import Disconnected, Message, NotAllowed, Outgoing, PublishError, Settings
from asyncpc.remote.codec import codec_for
from asyncpc.remote.engines.memory.broker import MemoryBroker
from asyncpc.remote.queue import RemoteQueue, remote_queue
from asyncpc.remote.session import Terms

_names = count()


def remote(
    engine: Callable[[str, Settings], Any] = MemoryBroker, prefetch: int | None = None, lease: float = 60.0
) -> RemoteQueue[int]:
    """A queue of numbers on that engine."""
    url = f"memory://attacks-{next(_names)}"
    made = lambda: engine(url, Settings(lease, "dead", {}))  # noqa: E731  # as short as what it is for
    return RemoteQueue("jobs", made, codec_for("jobs", int, "json", 1000), Terms(prefetch, lease, 5), url, "")


def kill(loop: str) -> None:
    """Cancel one of a session's tasks, as a program does that cancels all tasks."""
    (task,) = [one for one in asyncio.all_tasks() if one.get_name() == f"remote queue 'jobs': {loop}"]
    task.cancel()


async def put(queue: RemoteQueue[int], *numbers: int) -> None:
    async with queue.open() as opened:
        await opened.put_many(numbers)


async def depth(queue: RemoteQueue[Any]) -> tuple[int, int, int, int]:
    """Ready, unacknowledged, delayed and dead."""
    return (await queue.depth())[:4]


def test_a_failure_of_what_a_batch_gave_together_buries_its_messages() -> None:
    """Protects a worker: the values of a generating batch, and what a batch feeds, belong to all of its messages."""
    queue = remote()

    @consumer(batch=Batch(2, within=1.0))
    async def split(numbers: list[int]) -> AsyncIterator[int]:
        if numbers[0] < 100:
            feed(1000)
        yield sum(numbers)

    @consumer
    async def handle(number: int) -> None:
        raise ValueError(number)

    async def main() -> None:
        await put(queue, 1, 2)
        async with queue >> split >> handle as running:
            await asyncio.sleep(10)
            report = await running.drain()
        assert report.failed == 2
        assert await depth(queue) == (0, 0, 0, 2)

    testing.run(main())


def test_what_is_given_back_does_not_come_again_at_once() -> None:
    """Protects the attempts of engines that count each delivery: the last receive gets none of it."""
    received: list[int] = []

    class Slow(MemoryBroker):
        async def receive(self, limit: int, wait: float, suspects: int) -> list[Message]:
            messages = await super().receive(limit, wait, suspects)
            received.extend(int(one.body) for one in messages)
            return messages

        def wake(self) -> None:
            asyncio.get_running_loop().call_later(0.05, super().wake)  # as a call to a server

    queue = remote(Slow, prefetch=10)

    @consumer(maxsize=1)
    async def handle(number: int) -> None:
        await asyncio.sleep(1000)

    async def main() -> None:
        await put(queue, 1, 2, 3, 4)
        with suppress(PipelineError):
            async with queue >> handle as running:
                await asyncio.sleep(1)
                await running.drain(timeout=5)
        assert received == [1, 2, 3, 4]
        assert await depth(queue) == (4, 0, 0, 0)
        await asyncio.sleep(1)

    testing.run(main())


def test_a_session_that_fails_leaves_no_worker_running() -> None:
    """Protects the end of a run: a worker is waited for, also if there are as many as sessions that have ended."""
    ended: list[str] = []

    class Broken(MemoryBroker):
        async def extend(self, messages: Sequence[Message]) -> list[Message]:
            raise RuntimeError("a bug of the engine")

    queue = remote(Broken, lease=3.0)

    @consumer
    async def handle(number: int) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0.01)
            ended.append("handler")

    async def main() -> None:
        await put(queue, 1)
        with pytest.raises(PipelineError) as raised:
            async with queue >> handle:
                await asyncio.sleep(0.5)  # then it drains, and its source has ended
        assert error_types(raised.value) == [RuntimeError]
        assert "in remote queue 'jobs' of pipeline" in raised.value.exceptions[0].__notes__[0]
        assert ended == ["handler"]
        assert raised.value.report.abandoned == ()

    testing.run(main())


# -- what the first stage, or a cancelled handler, does ---------------------------------------------


def refuse_two(number: int) -> int:
    """A function of an item that raises for one of them."""
    if number == 2:
        raise ValueError(number)
    return 0


@pytest.mark.parametrize("option", ["key", "priority", "batch"])
@pytest.mark.parametrize("several", [False, True])
def test_what_the_first_stage_refuses_is_buried(option: str, several: bool) -> None:
    """Protects a worker from one bad message; its ticket was lost, and the drain waited for it to its deadline."""
    queue, handled = remote(), list[int]()

    async def handle(given: Any) -> None:
        handled.extend(given if isinstance(given, list) else [given])

    given: Any = {option: Batch(1, within=0, key=refuse_two) if option == "batch" else refuse_two}
    stage = consumer(maxsize=2, **given)(handle)

    async def main() -> None:
        await put(queue, *range(6))
        first: Any = merge(queue, source([100])) if several else queue
        async with first >> stage as running:
            await asyncio.sleep(5)
            began = asyncio.get_running_loop().time()
            report = await running.drain()
        assert report.complete
        assert asyncio.get_running_loop().time() == began
        assert sorted(handled) == [0, 1, 3, 4, 5, *([100] if several else [])]
        assert await depth(queue) == (0, 0, 0, 1)

    testing.run(main())


def test_a_full_queue_that_refuses_loses_no_message() -> None:
    """Protects ``overflow="raise"``: the run fails, as with any source, and the message comes again."""
    queue = remote(prefetch=10)

    @consumer(maxsize=1, overflow="raise")
    async def handle(number: int) -> None:
        await asyncio.sleep(100)

    async def main() -> None:
        await put(queue, *range(6))
        loop = asyncio.get_running_loop()
        with pytest.raises(PipelineError) as raised:
            async with Pipeline(queue, handle, drain_timeout=5) as running:
                await running.wait()
        assert error_types(raised.value)[0] is asyncio.QueueFull
        assert loop.time() <= 5.1
        ready, unacknowledged, delayed, dead = await depth(queue)
        assert (ready + delayed, unacknowledged, dead) == (6, 0, 0)

    testing.run(main())


def test_what_a_cancelled_handler_raises_buries_nothing() -> None:
    """Protects a drain: a cancel is no failure of the message, whatever its handler makes of it."""
    queue = remote()

    @consumer
    async def handle(number: int) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            raise RuntimeError("interrupted") from None

    async def main() -> None:
        await put(queue, 1)
        async with queue >> handle as running:
            await asyncio.sleep(1)
            with pytest.raises(PipelineError) as raised:
                await running.drain(timeout=5)
        assert error_types(raised.value) == [RuntimeError]
        ready, unacknowledged, delayed, dead = await depth(queue)
        assert (ready + delayed, unacknowledged, dead) == (1, 0, 0)

    testing.run(main())


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("generates", [False, True])
def test_an_interrupt_in_a_function_of_an_item_keeps_no_message(ordered: bool, generates: bool) -> None:
    """Protects the end of an interrupted run: the hold of a value that was never taken kept it waiting."""
    queue = remote()

    def interrupt(number: int) -> int:
        raise KeyboardInterrupt

    async def plain(number: int) -> int:
        return number

    async def twice(number: int) -> AsyncIterator[int]:
        for _ in range(2):
            yield number

    given: Any = twice if generates else plain
    first: Any = consumer(ordered=ordered)(given)

    @consumer(key=interrupt)
    async def second(number: int) -> None: ...

    async def main() -> None:
        await put(queue, 1)
        began = asyncio.get_running_loop().time()
        with pytest.raises(KeyboardInterrupt):
            async with queue >> first >> second as running:
                await running.wait()
        assert asyncio.get_running_loop().time() - began < 0.1
        assert await depth(queue) == (1, 0, 0, 0)

    testing.run(main())


def test_pairs_of_a_remote_queue_are_refused() -> None:
    """Protects against a list that stays empty."""

    @consumer
    async def handle(number: int) -> int:
        return number

    async def main() -> None:
        with pytest.raises(DefinitionError, match="a remote queue does not"):
            await (remote() >> handle).collect(pairs=True)

    testing.run(main())


# -- how a run ends -------------------------------------------------------------------------------


class Stalls(MemoryBroker):
    """Never answers to the call of that name."""

    stalls = "ack"

    async def _stall(self, name: str) -> None:
        if name == self.stalls:
            await asyncio.Event().wait()

    async def ack(self, messages: Sequence[Message]) -> int:
        await self._stall("ack")
        return await super().ack(messages)

    async def release(self, messages: Sequence[Message], delay: float, counted: bool) -> None:
        await self._stall("release")
        await super().release(messages, delay, counted)

    async def receive(self, limit: int, wait: float, suspects: int) -> list[Message]:
        messages = await super().receive(limit, wait, suspects)
        if not messages:
            await self._stall("receive")
        return messages

    async def open(self) -> None:
        await self._stall("open")
        await super().open()

    async def close(self) -> None:
        await super().close()
        await self._stall("close")


def stalling(name: str) -> Any:
    """An engine of that kind."""
    return type("Stalling", (Stalls,), {"stalls": name})


@pytest.mark.parametrize("timeout", [0.0, 0.1, 1.0, 5.0, 100.0])
@pytest.mark.parametrize("deaf", [False, True])
@pytest.mark.parametrize("stalls", ["ack", "release", "receive", "open", "close"])
def test_a_drain_ends_in_time_whatever_stalls(stalls: str, deaf: bool, timeout: float) -> None:
    """Protects the deadline: the session that cannot flush is cut short, its connection dropped, and it is named."""
    queue = remote(stalling(stalls), prefetch=6)
    over = asyncio.Event()

    @consumer(maxsize=2)
    async def handle(number: int) -> None:
        while number and not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                if not deaf:
                    raise

    async def main() -> None:
        other = MemoryBroker(queue._address, Settings(60.0, "dead", {}))
        await other.open()
        await other.publish([Outgoing(str(n), b"%d" % n) for n in range(9)])
        loop = asyncio.get_running_loop()
        with suppress(PipelineError):
            async with queue >> handle as running:
                await asyncio.sleep(1)
                began = loop.time()
                report = await running.drain(timeout)
        assert began + timeout - 0.5 - 0.1 * timeout <= loop.time() <= began + timeout + 0.1
        named = "remote queue 'jobs'" in report.abandoned
        assert named or stalls in ("receive", "close")
        if stalls == "receive" and timeout >= 5:
            assert (await other.depth()).unacknowledged == 0
        over.set()
        await asyncio.sleep(10)
        await other.close()

    testing.run(main())


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_drain_while_the_broker_is_down(comes_back: bool) -> None:
    """Protects the deadline, and what was handled: it is acknowledged if the broker comes back in time."""
    down = False

    class Down(MemoryBroker):
        async def ack(self, messages: Sequence[Message]) -> int:
            if down:
                raise Disconnected("down")
            return await super().ack(messages)

        async def open(self) -> None:
            if down:
                raise Disconnected("down")
            await super().open()

    queue = remote(Down)

    @consumer
    async def handle(number: int) -> None:
        await asyncio.sleep(2)

    async def main() -> None:
        nonlocal down
        await put(queue, 1)
        other = MemoryBroker(queue._address, Settings(60.0, "dead", {}))
        loop = asyncio.get_running_loop()
        with suppress(PipelineError):
            async with queue >> handle as running:
                await asyncio.sleep(1)
                down = True
                began = loop.time()
                draining = asyncio.create_task(running.drain(30))
                await asyncio.sleep(8)
                down = not comes_back
                report = await draining
        assert loop.time() <= began + 30.1
        assert (loop.time() < began + 20) == comes_back
        assert report.abandoned == (() if comes_back else ("remote queue 'jobs'",))
        assert report.statistics.state == ("closed" if comes_back else "failed")
        assert (await other.depth()).unacknowledged == (0 if comes_back else 1)

    testing.run(main())


def test_a_second_abort_gives_a_stalled_session_no_more_time() -> None:
    """Protects whoever presses Ctrl-C twice."""
    queue = remote(stalling("release"))

    @consumer
    async def handle(number: int) -> None:
        await asyncio.sleep(1000)

    async def main() -> None:
        await put(queue, 1)
        loop = asyncio.get_running_loop()

        async def call() -> None:
            async with queue >> handle as running:
                await running.wait()

        caller = asyncio.create_task(call())
        await asyncio.sleep(1)
        caller.cancel()
        await asyncio.sleep(5)
        assert not caller.done()
        caller.cancel()
        await asyncio.wait([caller])
        assert loop.time() <= 6.1
        assert caller.cancelled()

    testing.run(main())


@pytest.mark.parametrize("name", ["receive", "ack", "release", "bury", "extend", "open", "wake", "close"])
def test_a_bug_of_the_engine_fails_the_run_by_name(name: str) -> None:
    """Protects against a silent dead consumer; what lets go of a connection, or wakes it, is only logged."""

    def broken(self: Any, *args: Any) -> Any:
        raise RuntimeError("a bug of the engine")

    async def broken_later(self: Any, *args: Any) -> Any:
        raise RuntimeError("a bug of the engine")

    engine: Any = type("Broken", (MemoryBroker,), {name: broken if name == "wake" else broken_later})
    queue = remote(engine, lease=3.0)

    @consumer
    async def handle(number: int) -> None:
        if number == 1:
            raise ValueError(number)
        await asyncio.sleep(number)

    async def main() -> None:
        other = MemoryBroker(queue._address, Settings(60.0, "dead", {}))
        await other.open()
        await other.publish([Outgoing(str(n), b"%d" % n) for n in (0, 1, 1000)])
        error: BaseException | None = None
        try:
            async with queue >> handle as running:
                await asyncio.sleep(5)
                await running.drain(5)
        except PipelineError as raised:
            error = raised
        harmless = name in ("wake", "close")
        told = [] if error is None else [str(one) for one in error.exceptions]  # type: ignore[attr-defined]
        assert ("a bug of the engine" in told) == (not harmless)
        assert asyncio.get_running_loop().time() <= 10.1
        await other.close()

    testing.run(main())


def test_a_task_of_a_session_that_anyone_cancels_fails_the_run() -> None:
    """Protects against a session that receives and never acknowledges (fault B1)."""
    queue = remote()

    @consumer
    async def handle(number: int) -> None: ...

    async def main() -> None:
        async with queue >> handle as running:
            await asyncio.sleep(1)
            kill("Settler.run")
            with pytest.raises(PipelineError) as raised:
                await asyncio.wait_for(running.wait(), 10)
        assert error_types(raised.value) == [WorkerCancelled]

    testing.run(main())


def test_a_reader_that_is_too_slow_for_a_drain_leaves_nothing_unacknowledged() -> None:
    """Protects the next process: what nobody has read when the time is up is given back, not kept until its lease."""
    queue = remote(prefetch=10)

    @consumer
    async def handle(number: int) -> int:
        return number

    async def main() -> None:
        await put(queue, *range(6))
        async with (queue >> handle).stream() as values:
            assert await anext(values) == 0
            values.running.stop(10)
            assert await anext(values) == 1
            await asyncio.sleep(20)
            assert (await depth(queue))[:2] == (4, 1)  # the reader still has one
            assert values.report is not None
            assert values.report.abandoned == ("remote queue 'jobs'",)

    with suppress(PipelineError):
        testing.run(main())


# -- putting --------------------------------------------------------------------------------------


class Mute(MemoryBroker):
    """Confirms nothing."""

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        await asyncio.Event().wait()


def test_no_put_waits_for_a_session_that_has_failed() -> None:
    """Protects the sender: both what was being sent and what waited end with an error, and so does the next put."""
    queue = remote(Mute)

    async def main() -> None:
        with suppress(WorkerCancelled):
            async with queue.open() as opened:
                first, second = asyncio.create_task(opened.put(1)), asyncio.create_task(opened.put(2))
                await asyncio.sleep(1)
                third = asyncio.create_task(opened.put(3))
                await asyncio.sleep(1)
                kill("Publisher.run")
                await asyncio.wait([first, second, third], timeout=10)
                assert [type(one.exception()) for one in (first, second, third)] == [PublishError] * 3
                with pytest.raises((PublishError, WorkerCancelled)):
                    await opened.put(3)

    testing.run(main())


def test_a_pipeline_into_a_session_that_has_failed_ends() -> None:
    """Protects a run from waiting for ever for its confirmations."""
    queue = remote(Mute)

    async def main() -> None:
        asyncio.get_running_loop().call_later(5, kill, "Publisher.run")
        with pytest.raises(PipelineError) as raised:
            async with asyncio.timeout(20):
                await (source(range(5)) >> queue)
        assert error_types(raised.value)[0] is PublishError

    testing.run(main())


def test_a_bug_in_a_new_connection_fails_the_put_alone() -> None:
    """Protects the others: each put tries again, and says what it met."""

    class Dies(MemoryBroker):
        opened = 0

        async def open(self) -> None:
            self.opened += 1
            if self.opened == 2:
                raise RuntimeError("a bug of the engine")
            await super().open()

        async def publish(self, messages: Sequence[Outgoing]) -> None:
            if self.opened < 3:
                raise Disconnected("lost")
            await super().publish(messages)

    queue = remote(Dies)

    async def main() -> None:
        async with queue.open() as opened:
            with pytest.raises(PublishError, match="a bug of the engine"):
                await opened.put(1)
            await opened.put(2)
        assert await depth(queue) == (1, 0, 0, 0)

    testing.run(main())


def test_the_error_of_a_block_is_not_hidden() -> None:
    """Protects whoever debugs: the block's own error comes out, not that of the connection."""
    queue = remote(Mute)

    async def main() -> None:
        told: list[BaseException] = []
        try:
            async with queue.open():
                await asyncio.sleep(1)
                kill("Publisher.run")
                await asyncio.sleep(1)
                raise KeyError(1)
        except Exception as error:
            told.append(error)
        assert [type(one) for one in told] == [KeyError]

    testing.run(main())


def test_what_is_not_confirmed_when_the_block_is_left_says_so() -> None:
    """Protects tasks of the block: a broker that stalls keeps neither them nor the block."""
    queue = remote(Mute)

    async def main() -> None:
        async with queue.open() as opened:
            first = asyncio.create_task(opened.put(1))
            await asyncio.sleep(1)
        assert asyncio.get_running_loop().time() <= 11.1
        with pytest.raises(PublishError, match="not confirmed before the connection was closed"):
            await first

    testing.run(main())


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("latency", [0.0, 1.0])
def test_a_cancel_at_any_time_leaves_no_connection(latency: float, eager: bool) -> None:
    """Protects against what is left behind: in the middle of opening, putting and closing."""
    live = 0

    class Slow(MemoryBroker):
        async def open(self) -> None:
            nonlocal live
            live += 1
            await asyncio.sleep(latency)
            await super().open()

        async def publish(self, messages: Sequence[Outgoing]) -> None:
            await asyncio.sleep(latency)
            await super().publish(messages)

        async def close(self) -> None:
            nonlocal live
            await asyncio.sleep(latency / 2)
            live = 0
            await super().close()

    async def main(at: int, cancels: int) -> bool:
        queue = remote(Slow)

        async def work() -> None:
            async with queue.open() as opened:
                await opened.put(1)

        task = asyncio.create_task(work())
        for _ in range(at):
            await asyncio.sleep(0.1 if latency else 0)
        for _ in range(cancels):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([task])
        assert live == 0
        return task.cancelled()

    for cancels in 1, 2:
        cancelled = [testing.run(main(at, cancels), eager=eager) for at in range(1, 15 if not latency else 32)]
        assert any(cancelled)


def test_a_queue_opened_in_another_loop_is_refused() -> None:
    """Protects against a put that never returns: an event of one loop wakes nobody in another."""
    queue = remote()

    async def main() -> None:
        async with queue.open() as opened:

            def elsewhere() -> None:
                with pytest.raises(StateError, match="was opened in another event loop"):
                    asyncio.run(opened.put(1))
                with pytest.raises(StateError, match="was opened in another event loop"):
                    asyncio.run(opened.put_many([1]))

            await asyncio.to_thread(elsewhere)

    asyncio.run(main())


def test_a_put_from_a_thread_does_not_outlive_its_loop() -> None:
    """Protects threads: when the loop is closed under them, they get an error."""
    from threading import Thread

    from asyncpc import QueueShutDown

    raised: list[BaseException] = []
    loop = asyncio.new_event_loop()
    opened = remote(Mute).open()
    loop.run_until_complete(opened.__aenter__())

    def put_one() -> None:
        try:
            opened.put_from_thread(1)
        except BaseException as error:
            raised.append(error)

    thread = Thread(target=put_one)
    thread.start()
    loop.run_until_complete(asyncio.sleep(0.1))
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.wait(tasks))
    loop.close()
    thread.join(PATIENCE)
    put_one()
    assert len(raised) == 2
    assert isinstance(raised[0], (Disconnected, PublishError))
    assert isinstance(raised[1], (QueueShutDown, Disconnected, WorkerCancelled))


def test_a_server_that_is_down_for_hours_ends_no_run() -> None:
    """Protects against a wait that doubles for ever: after a thousand attempts it was too large for a float."""
    down = False

    class Down(MemoryBroker):
        async def receive(self, limit: int, wait: float, suspects: int) -> list[Message]:
            if down:
                raise Disconnected("down")
            return await super().receive(limit, wait, suspects)

        async def open(self) -> None:
            if down:
                raise Disconnected("down")
            await super().open()

    queue, handled = remote(Down), list[int]()

    @consumer
    async def handle(number: int) -> None:
        handled.append(number)

    async def main() -> None:
        nonlocal down
        async with queue >> handle as running:
            await asyncio.sleep(1)
            down = True
            await asyncio.sleep(4 * 3600)
            down = False
            await put(queue, 1)
            await asyncio.sleep(20)
            assert handled == [1]
            await running.drain()

    testing.run(main())


def test_an_item_that_cannot_be_put_takes_no_other_with_it() -> None:
    """Protects the innocent: what is published together with it was buried with it, hundreds at a time."""
    numbers, texts = remote(), remote_queue("memory://short-texts", str, max_bytes=10)

    @consumer(concurrency=50)
    async def write(number: int) -> str:
        await asyncio.sleep(0.1)
        return "x" * (50 if number == 7 else 1)

    async def main() -> None:
        await put(numbers, *range(100))
        async with numbers >> write >> texts as running:
            await asyncio.sleep(10)
            await running.drain()
        assert await depth(numbers) == (0, 0, 0, 1)
        assert await depth(texts) == (99, 0, 0, 0)

    testing.run(main())


class RefusesSevens(MemoryBroker):
    """Takes what comes before the first seven, and after it what is even; no id is known, as on RabbitMQ."""

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        sevens = [place for place, one in enumerate(messages) if one.body == b"7"]
        first = min(sevens, default=len(messages))
        unconfirmed = [one for place, one in enumerate(messages) if place >= first and int(one.body) % 2]
        refused = set(map(id, unconfirmed))
        await asyncio.sleep(0.1)
        taken = [one for one in messages if id(one) not in refused]
        await super().publish([one._replace(id=f"{one.id}-{next(_names)}") for one in taken])
        if unconfirmed:
            raise PublishError("no sevens", unconfirmed)


async def bodies(queue: RemoteQueue[int]) -> list[int]:
    async with queue.open() as opened:
        return sorted(int(one.body) for one in await opened.broker.peek(1000))


@pytest.mark.parametrize("same", [False, True])
def test_what_a_batch_of_a_stage_has_put_is_not_put_again(same: bool) -> None:
    """Protects receivers: the items of a batch that was refused in part come again, one by one, and were doubled."""
    numbers, queue = remote(), remote(RefusesSevens)
    given = [*range(20), *range(20)] if same else [*range(20)]

    async def main() -> None:
        await put(numbers, *given)
        async with numbers >> queue as running:
            await asyncio.sleep(20)
            report = await running.drain()
        assert await depth(numbers) == (0, 0, 0, given.count(7))
        assert await bodies(queue) == sorted(number for number in given if number != 7)
        assert report.failed == given.count(7)

    testing.run(main())


def test_a_put_that_is_refused_in_part_names_what_is_not_confirmed() -> None:
    """Protects whoever puts that again: what is in already is not named, also of a call that was put with others."""
    queue = remote(RefusesSevens)

    async def main() -> None:
        async with queue.open() as opened:
            blocker = asyncio.create_task(opened.put(100))
            await asyncio.sleep(0.01)
            calls = [[1, 2], [3, 7, 5, 6, 9], [4, 11], [8]]
            puts = [asyncio.create_task(opened.put_many(call)) for call in calls]
            await asyncio.wait([blocker, *puts])
            errors = [one.exception() for one in puts]
            assert [type(one) for one in errors] == [type(None), PublishError, type(None), type(None)]
            assert isinstance(errors[1], PublishError)
            assert [int(one.body) for one in errors[1].unconfirmed] == [7, 5, 9]
            assert "refused 3 messages" in str(errors[1])
        assert await bodies(queue) == [1, 2, 3, 4, 6, 8, 11, 100]

    testing.run(main())


class Useless(MemoryBroker):
    """Connects, and then cannot receive, so often; after the first time its server is away until then (loop time)."""

    fails = 10**9
    away = 0.0
    error: type[Disconnected] = Disconnected
    opened = 0
    has_failed = False

    async def open(self) -> None:
        cls = type(self)
        cls.opened += 1
        if cls.has_failed and asyncio.get_running_loop().time() < self.away:
            raise Disconnected("nobody is there")
        await super().open()

    async def receive(self, limit: int, wait: float, suspects: int) -> list[Message]:
        cls = type(self)
        if cls.fails:
            cls.fails -= 1
            cls.has_failed = True
            raise self.error("there is no queue 'jobs' any more")
        return await super().receive(limit, wait, suspects)


def useless(**how: Any) -> tuple[RemoteQueue[int], type[Useless]]:
    engine: Any = type("Failing", (Useless,), how)
    return remote(engine), engine


@consumer
async def ignore(number: int) -> None:
    """Nothing."""


def test_a_queue_that_is_missing_whenever_it_was_opened_ends_the_run() -> None:
    """Protects from trying for ever what never worked: as where nobody is there, it ends after some 15 seconds."""
    queue, engine = useless()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        pipeline = queue >> ignore
        with pytest.raises(PipelineError) as raised:
            await pipeline
        assert 15 <= loop.time() < 15 + 5 + 1
        (error,) = raised.value.exceptions
        assert isinstance(error, Disconnected)
        assert str(error) == (
            "remote queue 'jobs': connected again and again for 15 s, and nothing could be done: there is no queue "
            "'jobs' any more; see whether the queue is there, and who deletes it"
        )
        assert 5 < engine.opened < 60

    testing.run(main())


def test_a_run_whose_queue_is_missing_is_not_ready() -> None:
    """Protects a rollout, and ``--processes``, which would start again without end what once counted as connected."""
    queue, _ = useless()

    async def main() -> None:
        with suppress(PipelineError):
            async with queue >> ignore as running:
                await asyncio.sleep(10)
                health = running.health()
                assert not health.ready
                assert health.why.endswith("not connected yet to each of its queues")
                await running.drain()

    testing.run(main())


def test_a_right_to_receive_that_is_missing_ends_the_run_at_once() -> None:
    """Protects a start: to be let in is not enough, and no later attempt does better."""
    queue, engine = useless(error=NotAllowed)

    async def main() -> None:
        pipeline = queue >> ignore
        with pytest.raises(PipelineError) as raised:
            await pipeline
        assert asyncio.get_running_loop().time() < 1
        (error,) = raised.value.exceptions
        assert isinstance(error, DefinitionError)
        assert "access is refused: there is no queue" in str(error)
        assert engine.opened == 1

    testing.run(main())


@pytest.mark.parametrize("how", [{"fails": 1, "away": 100.0}, {"fails": 3, "away": 40.0}])
def test_a_server_that_went_away_right_after_the_start_is_waited_for(how: dict[str, Any]) -> None:
    """Protects a service whose server is started again just then, for longer than a first connection may take."""
    queue, _ = useless(**how)

    async def main() -> None:
        await put(queue, 1)
        async with queue >> ignore as running:
            await asyncio.sleep(120)
            assert running.statistics().done == 1
            await running.drain()

    testing.run(main())


def test_a_queue_that_goes_missing_later_is_waited_for() -> None:
    """Protects a service that has worked: somebody may make the queue again, after minutes too."""
    queue, engine = useless(fails=0)

    async def main() -> None:
        await put(queue, 1)
        async with queue >> ignore as running:
            await asyncio.sleep(20)
            engine.fails = 30
            await asyncio.sleep(200)
            await put(queue, 2)
            await asyncio.sleep(20)
            assert (running.statistics().done, engine.fails) == (2, 0)
            await running.drain()

    testing.run(main())


def test_a_call_that_no_connection_survives_waits_between_two(caplog: pytest.LogCaptureFixture) -> None:
    """Protects the loop, the server and the log: it connects, the call fails, and that again and again, without end."""
    opened = 0

    class Refuses(MemoryBroker):
        async def publish(self, messages: Sequence[Outgoing]) -> None:
            raise Disconnected("not ready yet")

        async def open(self) -> None:
            nonlocal opened
            opened += 1
            await super().open()

    async def main() -> None:
        async with remote(Refuses).open() as queue:
            with pytest.raises(PublishError):
                await queue.put(1, timeout=60)
        assert 10 < opened < 60
        assert len(caplog.messages) < 16  # of both kinds, for a while and then ever less

    testing.run(main())
