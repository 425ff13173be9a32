"""A session settles each delivery once, as its run ended it, and never holds more than it may."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any

import pytest

from asyncpc import testing
from asyncpc.core.tracked import Tracked
from asyncpc.errors import DefinitionError
from asyncpc.failure import KeptFailure
from asyncpc.remote.broker import (
    SUSPECT_AFTER,
    Broker,
    Disconnected,
    Message,
    NotAllowed,
    Outgoing,
    PublishError,
    Settings,
)
from asyncpc.remote.codec import codec_for
from asyncpc.remote.engines.memory.broker import MemoryBroker
from asyncpc.remote.session import Session, Terms

_names = count()


def memory(name: str | None = None, lease: float = 60.0) -> MemoryBroker:
    return MemoryBroker(f"memory://{name or f'session-{next(_names)}'}", Settings(lease, "dead", {}))


class Flaky:
    """A broker whose calls fail as told, before or after they did their work."""

    def __init__(self, broker: Broker, faults: Sequence[str]) -> None:
        self._broker = broker
        self._faults = list(faults)
        self.opened = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def open(self) -> None:
        self.opened += 1
        await self._broker.open()

    async def _call(self, name: str, *args: Any) -> Any:
        if f"{name} before" in self._faults:
            self._faults.remove(f"{name} before")
            raise Disconnected("lost before it began")
        result = await getattr(self._broker, name)(*args)
        if f"{name} after" in self._faults:
            self._faults.remove(f"{name} after")
            raise Disconnected("lost before it answered")
        return result

    async def ack(self, messages: Sequence[Message]) -> int:
        result: int = await self._call("ack", messages)
        return result

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        await self._call("publish", messages)

    async def release(self, messages: Sequence[Message], delay: float, counted: bool) -> None:
        await self._call("release", messages, delay, counted)


@asynccontextmanager
async def running(broker: Any, at_once: int = 4, **terms: Any) -> AsyncIterator[Session]:
    """A session as a run has it."""
    asked = {"prefetch": None, "lease": 60.0, "attempts": 5, **terms}
    session = Session(broker, codec_for("queue", int, "json", 1000), Terms(**asked), "queue", at_once)
    task = asyncio.create_task(session.run())
    try:
        await asyncio.wait({task, asyncio.ensure_future(session.opened.wait())}, return_when="FIRST_COMPLETED")
        yield session
    finally:
        session.finish()
        await task


async def put(session: Session, *numbers: int) -> None:
    await session.publisher.publish([Outgoing(f"id-{n}", b"%d" % n) for n in numbers], None)


async def taken(session: Session, number: int) -> list[Tracked]:
    """So many items, as a source gives them."""
    found: list[Tracked] = []
    items = session.items()
    async for item in items:
        found.append(item)
        if len(found) == number:
            break
    await items.aclose()  # type: ignore[attr-defined]  # it is a generator
    return found


@pytest.mark.parametrize("eager", [False, True])
def test_what_is_received_together_ends_each_on_its_own(eager: bool) -> None:
    """Protects every message of a receive: it is read as its own headers say, and comes or dies as if it came alone."""
    sent = [
        Outgoing("json", b"1", {"content-type": "application/json"}),
        Outgoing("packed", b"\x02", {"content-type": "application/msgpack"}),
        Outgoing("other", b"3", {"content-type": "text/plain"}),
        Outgoing("again", b"\x04", {"content-type": "application/msgpack"}),
        Outgoing("wrong", b'"x"', {"content-type": "application/json"}),
        Outgoing("usual", b"6", {}),
    ]

    async def main() -> None:
        broker = memory()
        async with running(broker, prefetch=10) as session:
            await session.publisher.publish(sent, None)
            found = await taken(session, 4)
            assert [one.item for one in found] == [1, 2, 4, 6]
            for one in found:
                one.ticket.settle()
        counts = session.counts
        assert (counts.received, counts.acknowledged, counts.buried) == (6, 4, 2)
        assert [dead.message.id for dead in await broker.dead(10, "")] == ["other", "wrong"]

    testing.run(main(), eager=eager)


@pytest.mark.parametrize("eager", [False, True])
def test_what_ends_while_a_flush_is_under_way_is_flushed_next(eager: bool) -> None:
    """Protects the wake-up of the settler, which is asked for only while it is idle: nothing waits for the next end."""

    async def main() -> None:
        broker = memory()
        flushed: list[list[str]] = []
        under_way, go_on = asyncio.Event(), asyncio.Event()

        class Slow(Flaky):
            async def ack(self, messages: Sequence[Message]) -> int:
                flushed.append([one.id for one in messages])
                under_way.set()
                await go_on.wait()
                return await super().ack(messages)

        async with running(Slow(broker, [])) as session:
            await put(session, *range(4))
            first, *others, last = await taken(session, 4)
            first.ticket.settle()
            await under_way.wait()
            for one in others:
                one.ticket.settle()
            go_on.set()
            await asyncio.sleep(1)  # then it is idle again
            assert session.counts.acknowledged == 3
            last.ticket.settle()
            await asyncio.sleep(1)
            assert session.counts.acknowledged == 4
        assert flushed == [["id-0"], ["id-1", "id-2"], ["id-3"]]

    testing.run(main(), eager=eager)


def test_what_ends_at_every_turn_is_flushed_together() -> None:
    """Protects the broker from a call for each of many messages that end one after the other, at once."""
    flushed: list[list[str]] = []

    class Noting(Flaky):
        async def ack(self, messages: Sequence[Message]) -> int:
            flushed.append([one.id for one in messages])
            return await super().ack(messages)

    async def main() -> None:
        async with running(Noting(memory(), [])) as session:
            await put(session, *range(4))
            for one in await taken(session, 4):
                one.ticket.settle()
                await asyncio.sleep(0)
            await asyncio.sleep(1)
        assert flushed == [["id-0", "id-1", "id-2", "id-3"]]

    testing.run(main())


@pytest.mark.parametrize("eager", [False, True])
def test_what_has_ended_is_settled_as_it_ended(eager: bool) -> None:
    """Protects every way in which a delivery can end: each is told to the broker once."""

    async def main() -> None:
        broker = memory()
        async with running(broker) as session:
            await put(session, *range(5))
            done, failed, skipped, stopped, released = await taken(session, 5)
            error = ValueError("no")
            done.ticket.settle()
            failed.ticket.fail(error, KeptFailure.of(1, error, 3, "stage"))
            skipped.ticket.skip(error)
            stopped.ticket.stop(error)
            released.ticket.release()
            session.end_intake()
        counts = session.counts
        assert (counts.received, counts.acknowledged, counts.buried, counts.released) == (5, 2, 1, 2)
        (dead,) = await broker.dead(10, "")
        assert dead.message.body == b"1"
        assert b"ValueError: no" in dead.failure
        assert b'"stage": "stage"' in dead.failure
        depth = await broker.depth()
        assert (depth.ready, depth.unacknowledged, depth.delayed, depth.dead) == (1, 0, 1, 1)

    testing.run(main(), eager=eager)


@pytest.mark.parametrize("eager", [False, True])
def test_a_message_is_acknowledged_when_the_last_value_made_of_it_has_ended(eager: bool) -> None:
    """Protects the promise: never before, whatever order the values end in; one that is left takes all back."""

    async def main() -> None:
        broker = memory()
        async with running(broker) as session:
            await put(session, 1, 2)
            one, two = await taken(session, 2)
            one.ticket.hold(2)
            two.ticket.hold()
            for _ in range(2):
                one.ticket.settle()
                await asyncio.sleep(1)
                assert session.counts.acknowledged == 0
            one.ticket.settle()
            two.ticket.release()
            await asyncio.sleep(1)
            assert (session.counts.acknowledged, session.counts.released) == (1, 0)
            two.ticket.settle()
            one.ticket.hold()  # a call that goes on after its timeout feeds: the message has ended already
            one.ticket.settle()
            session.end_intake()
        assert session.counts.acknowledged == 1
        assert [one.body for one in await broker.peek(10)] == [b"2"]

    testing.run(main(), eager=eager)


def test_never_more_than_the_prefetch_is_unacknowledged() -> None:
    """Protects backpressure through the engine; it asks again when half has ended."""

    async def main() -> None:
        broker = memory()
        async with running(broker, prefetch=10) as session:
            await put(session, *range(100))
            items = await taken(session, 10)
            await asyncio.sleep(1)
            assert (await broker.depth()).unacknowledged == 10
            for item in items[:4]:
                item.ticket.settle()
            await asyncio.sleep(1)
            assert (await broker.depth()).unacknowledged == 6
            items[4].ticket.settle()
            await asyncio.sleep(1)
            assert (await broker.depth()).unacknowledged == 10
            for item in items[5:]:
                item.ticket.release()
            session.end_intake()
        assert (await broker.depth()).ready == 95

    testing.run(main())


def test_the_prefetch_follows_the_pace() -> None:
    """Protects throughput: what ends in 0.2 s is received ahead, at most 1,000, at least twice what is at work."""

    async def main() -> None:
        broker = memory()
        async with running(broker, at_once=3) as session:
            await put(session, *range(3000))
            first = await taken(session, 6)
            await asyncio.sleep(1)
            assert (await broker.depth()).unacknowledged == 6
            for item in first:
                item.ticket.settle()
            for _ in range(300):
                for item in await taken(session, min(5, len(session._arrived)) or 1):
                    item.ticket.settle()
                await asyncio.sleep(0.01)
            assert 90 <= session._prefetch <= 110  # five in 0.01 s
            session.end_intake()

    testing.run(main())


@pytest.mark.parametrize(("at_once", "parts"), [(4, [500] * 3), (600, [600] * 2)])
def test_a_large_prefetch_is_received_in_parts(at_once: int, parts: list[int]) -> None:
    """Protects throughput: while a part is handled, the next is received; no part is too small for all workers."""
    asked: list[int] = []

    class Noted(Flaky):
        async def receive(self, limit: int, wait: float, suspects: int) -> list[Message]:
            asked.append(limit)
            messages: list[Message] = await self._call("receive", limit, wait, suspects)
            return messages

    async def main() -> tuple[list[int], ...]:
        async with running(Noted(memory(), []), at_once, prefetch=1500) as session:
            await put(session, *range(3000))
            items = await taken(session, sum(parts))
            seen = []
            for left in sum(parts), 1001, 1000:
                while len(items) > left:
                    items.pop().ticket.settle()
                await asyncio.sleep(1)
                seen.append(list(asked))
            session.end_intake()
            for item in items:
                item.ticket.release()
        return tuple(seen)

    assert testing.run(main()) == (parts, parts, [*parts, 500])


def test_the_pace_is_seen_as_soon_as_all_of_the_prefetch_has_ended() -> None:
    """Protects the beginning of a run, and of a rush: its first messages do not wait for a tenth of a second."""

    async def main() -> None:
        broker = memory()
        async with running(broker, at_once=3) as session:
            await put(session, *range(3000))
            first = await taken(session, 6)
            await asyncio.sleep(0.02)
            for item in first:
                item.ticket.settle()
            await asyncio.sleep(0.01)
            assert session._prefetch == 60  # six in 0.02 s
            session.end_intake()

    testing.run(main())


def test_what_was_not_begun_is_given_back_at_once_and_in_order() -> None:
    """Protects a drain: others go on with it while this run ends what it has."""

    async def main() -> None:
        broker = memory()
        async with running(broker, prefetch=6) as session:
            await put(session, *range(6))
            (first,) = await taken(session, 1)
            session.end_intake()
            await asyncio.sleep(0.1)
            assert [one.body for one in await broker.peek(10)] == [b"1", b"2", b"3", b"4", b"5"]
            assert [one.attempt for one in await broker.peek(10)] == [0] * 5
            first.ticket.settle()

    testing.run(main())


def test_what_is_given_back_together_is_named_in_the_order_of_receipt() -> None:
    """Protects the order on engines where what is given back goes to the end: handlers end in any order."""
    released: list[list[str]] = []

    class Noting(Flaky):
        async def release(self, messages: Sequence[Message], delay: float, counted: bool) -> None:
            released.append([one.id for one in messages])
            await super().release(messages, delay, counted)

    async def main() -> None:
        async with running(Noting(memory(), [])) as session:
            await put(session, *range(6))
            items = await taken(session, 6)
            session.end_intake()
            for place in (4, 0, 5, 2, 1, 3):
                items[place].ticket.release()
        assert released == [[f"id-{number}" for number in range(6)]]

    testing.run(main())


def test_a_slow_handler_keeps_its_message() -> None:
    """Protects against a second handling: leases are extended until the last handler has ended (fault E21)."""

    async def main() -> None:
        broker, other = memory("slow", lease=3.0), memory("slow", lease=3.0)
        await other.open()
        async with running(broker, lease=3.0) as session:
            await put(session, 1)
            (item,) = await taken(session, 1)
            assert await other.receive(1, 30.0, 1) == []
            session.end_intake()
            assert await other.receive(1, 30.0, 1) == []
            item.ticket.settle()
        assert session.counts.acknowledged == 1
        await other.close()

    testing.run(main())


def test_a_lease_that_was_lost_is_counted_and_not_acknowledged(caplog: pytest.LogCaptureFixture) -> None:
    """Protects the other process: its delivery is not acknowledged by the one who was too late."""

    async def main() -> None:
        broker, other = memory("lost", lease=3.0), memory("lost", lease=3.0)
        await other.open()
        async with running(broker, prefetch=1, lease=15.0) as session:  # it extends too late, every 5 s
            await put(session, 1)
            (item,) = await taken(session, 1)
            await other.receive(1, 10.0, 1)
            await asyncio.sleep(2.2)
            item.ticket.settle()
            await asyncio.sleep(0.1)
            assert session.counts.overtaken == 1
            session.end_intake()
        assert session.counts.acknowledged == 0
        await other.close()

    testing.run(main())


def test_what_is_being_settled_is_not_lost(caplog: pytest.LogCaptureFixture) -> None:
    """Protects whoever reads the counts: while an ack is under way, the leases of what has ended are nobody's."""

    class Slow(MemoryBroker):
        async def ack(self, messages: Sequence[Message]) -> int:
            acknowledged = await super().ack(messages)
            await asyncio.sleep(2)  # the answer is on its way
            return acknowledged

    async def main() -> None:
        async with running(Slow("memory://slow-to-answer", Settings(3.0, "dead", {})), lease=3.0) as session:
            await put(session, 1, 2)
            one, two = await taken(session, 2)
            one.ticket.settle()
            error = ValueError("no")
            two.ticket.fail(error, KeptFailure.of(2, error, 1, "stage"))
            await asyncio.sleep(4)
        counts = session.counts
        assert (counts.acknowledged, counts.buried, counts.overtaken) == (1, 1, 0)
        assert not caplog.messages

    testing.run(main())


def test_what_was_lost_before_it_began_makes_room() -> None:
    """Protects the intake: after a lost connection somebody else has all that waits, and none of it holds up more.

    What waited for the end of the run instead filled the prefetch, and a worker that had lost enough got nothing more.
    """

    class Forgetful(MemoryBroker):
        async def extend(self, messages: Sequence[Message]) -> list[Message]:
            return list(messages)

    async def main() -> None:
        broker = Forgetful("memory://forgetful", Settings(60.0, "dead", {}))
        async with running(broker, prefetch=4, lease=3.0) as session:
            await put(session, *range(12))
            await asyncio.sleep(1.1)  # then the first four are lost
            found = await taken(session, 4)
            assert [one.item for one in found] == [4, 5, 6, 7]
            assert session.counts.overtaken == 4
            for one in found:
                one.ticket.settle()

    testing.run(main())


@pytest.mark.parametrize("fault", ["ack before", "ack after", "release before", "publish before", "publish after"])
def test_a_lost_connection_loses_and_doubles_nothing(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    """Protects against a lost answer: each call is made again on the next connection."""

    async def main() -> None:
        broker = memory()
        flaky = Flaky(broker, [fault])
        async with running(flaky) as session:
            await put(session, 1, 2, 3)
            one, two, three = await taken(session, 3)
            one.ticket.settle()
            two.ticket.settle()
            three.ticket.release()
            session.end_intake()
        assert flaky.opened == 2
        depth = await broker.depth()
        assert (depth.ready, depth.unacknowledged) == (1, 0)
        assert session.counts.overtaken == 0
        assert "the connection is lost" in caplog.text

    testing.run(main())


def test_a_first_connection_that_fails_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """Protects whoever mistyped a host: it does not look like a slow server."""

    class Nowhere(MemoryBroker):
        async def open(self) -> None:
            raise Disconnected("nobody listens there")

    async def main() -> None:
        session = Session(
            Nowhere("memory://nowhere", Settings(1.0, "dead", {})),
            codec_for("q", int, "json", 9),
            Terms(1, 1.0, 1),
            "q",
        )
        with pytest.raises(Disconnected, match="nobody listens there"):
            await session.run()

    testing.run(main())
    assert "cannot connect" in caplog.text


class Crowded(MemoryBroker):
    """Has no room for the dead letters of some messages."""

    full_for: Collection[bytes] = ()

    async def bury(self, dead: Sequence[tuple[Message, bytes]]) -> None:
        await super().bury([one for one in dead if one[0].body not in self.full_for])
        if refused := [message for message, _ in dead if message.body in self.full_for]:
            raise PublishError("full", refused)


def test_what_cannot_be_buried_is_kept_until_there_is_room(caplog: pytest.LogCaptureFixture) -> None:
    """Protects a run whose dead letters are full: it goes on, nothing is lost, and nothing is handled twice."""

    async def main() -> None:
        broker = Crowded(f"memory://session-{next(_names)}", Settings(3.0, "dead", {}))
        broker.full_for = {b"1", b"2"}
        async with running(broker, lease=3.0) as session:
            await put(session, *range(4))
            items = await taken(session, 4)
            error = ValueError("no")
            for one in items[:3]:
                one.ticket.fail(error, KeptFailure.of(1, error, 1, "stage"))
            items[3].ticket.settle()
            await asyncio.sleep(22)  # four tries, and seven leases
            assert (await broker.depth())[:4] == (0, 2, 0, 1)
            assert (session.counts.acknowledged, session.counts.buried, session.counts.received) == (1, 1, 4)
            broker.full_for = {b"2"}
            await asyncio.sleep(5)
            assert (await broker.depth())[:4] == (0, 1, 0, 2)
            broker.full_for = ()
        assert (await broker.depth())[:4] == (0, 0, 0, 3)  # tried once more at the end
        assert (session.counts.buried, session.counts.overtaken) == (3, 0)

    testing.run(main())
    told = [one.message for one in caplog.records if "queue: no room for 2 dead letters: PublishError" in one.message]
    assert len(told) == 3  # of five
    assert all(one.endswith("they are kept, and tried again: make room, or take old dead letters away") for one in told)


def test_what_cannot_be_buried_to_the_end_comes_again(caplog: pytest.LogCaptureFixture) -> None:
    """Protects the end of a run from waiting for room; and the message, which is not acknowledged."""

    async def main() -> None:
        broker = Crowded(f"memory://session-{next(_names)}", Settings(3.0, "dead", {}))
        broker.full_for = {b"1"}
        async with running(broker, lease=3.0) as session:
            await put(session, 1)
            (item,) = await taken(session, 1)
            error = ValueError("no")
            item.ticket.fail(error, KeptFailure.of(1, error, 1, "stage"))
            await asyncio.sleep(1)
            ended = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() == ended
        await broker.open()
        (again,) = await broker.receive(1, 10.0, 1)
        assert again.attempt == 2

    testing.run(main())
    assert "the messages come again" in caplog.text


def test_a_login_that_is_refused_ends_the_first_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    """Protects a typing error from 15 seconds of trying, and a run from a server that restarts and knows nobody yet."""

    class Guarded(MemoryBroker):
        refusals = 1

        async def open(self) -> None:
            if self.refusals:
                self.refusals -= 1
                raise NotAllowed("wrong password at nats://user:secret@host")
            await super().open()

    async def main() -> None:
        broker = Guarded(f"memory://session-{next(_names)}", Settings(60.0, "dead", {}))
        began = asyncio.get_running_loop().time()
        session = Session(broker, codec_for("q", int, "json", 9), Terms(1, 1.0, 1), "queue 'q'")
        with pytest.raises(DefinitionError, match=r"queue 'q': access is refused: wrong .*user:\*\*\*@host; check the"):
            await session.run()
        assert asyncio.get_running_loop().time() == began
        async with running(Flaky(broker, ["publish before"])) as later:
            broker.refusals = 3
            await put(later, 1)
        assert broker.refusals == 0

    testing.run(main())
    assert "cannot connect (attempt 1): NotAllowed: wrong password" in caplog.text
    assert "secret" not in caplog.text


def test_a_put_that_is_not_confirmed_says_so() -> None:
    """Protects the sender: it knows whether nothing was sent, or something may have been."""

    class Slow(MemoryBroker):
        async def publish(self, messages: Sequence[Outgoing]) -> None:
            await asyncio.sleep(10)
            await super().publish(messages)

    async def main() -> None:
        async with running(Slow("memory://not-confirmed", Settings(60.0, "dead", {})), at_once=0) as session:
            sent = asyncio.create_task(session.publisher.publish([Outgoing("a", b"1")], 1.0))
            await asyncio.sleep(0.5)
            with pytest.raises(TimeoutError, match="took no message within"):
                await session.publisher.publish([Outgoing("b", b"2")], 0.1)
            with pytest.raises(PublishError) as raised:
                await sent
            assert [one.id for one in raised.value.unconfirmed] == ["a"]
            cancelled = asyncio.create_task(session.publisher.publish([Outgoing("c", b"3")], None))
            await asyncio.sleep(0.1)
            cancelled.cancel()
            with suppress(asyncio.CancelledError):
                await cancelled
        assert [one.body for one in await memory("not-confirmed").peek(10)] == [b"1"]

    testing.run(main())


def test_what_was_taken_is_not_put_again_for_what_was_refused() -> None:
    """Protects callers whose messages go together: where no id is known, a second time they would be in twice."""
    put_so_far: list[str] = []

    class Choosy(MemoryBroker):
        async def publish(self, messages: Sequence[Outgoing]) -> None:
            await asyncio.sleep(1)
            put_so_far.extend(one.id for one in messages if one.id != "bad")
            if refused := [one for one in messages if one.id == "bad"]:
                raise PublishError("full", refused)

    async def main() -> None:
        async with running(Choosy("memory://choosy", Settings(60.0, "dead", {})), at_once=0) as session:
            names = "first", "good", "bad", "better"
            puts = [session.publisher.publish([Outgoing(name, b"1")], None) for name in names]
            results = await asyncio.gather(*puts, return_exceptions=True)
        assert [type(one) for one in results] == [type(None), type(None), PublishError, type(None)]

    testing.run(main())
    assert put_so_far == ["first", "good", "better"]


def test_a_poisonous_message_dies_alone() -> None:
    """Protects its neighbours: of 200 messages received together, one kills its process each time it is handled."""
    handled: set[int] = set()

    async def life(name: str) -> bool:
        """A process: it handles until the poison kills it; whether it lived."""
        broker = memory(name, lease=1.0)
        session = Session(broker, codec_for("q", int, "json", 99), Terms(200, 1.0, 5), "q", 200)
        task = asyncio.create_task(session.run())
        try:
            async with asyncio.timeout(20):
                async for item in session.items():
                    if item.item == 100:
                        return False
                    handled.add(item.item)
                    await asyncio.sleep(0.001)
                    item.ticket.settle()
        except TimeoutError:
            return True
        finally:
            task.cancel()
            await asyncio.wait({task})
        raise AssertionError

    async def main() -> None:
        broker = memory("poison", lease=1.0)
        await broker.open()
        await broker.publish([Outgoing(f"id-{n}", b"%d" % n) for n in range(200)])
        deaths = 0
        while not await life("poison"):
            deaths += 1
        assert deaths == 5
        dead = await broker.dead(1000, "")
        assert [one.message.body for one in dead] == [b"100"]
        assert b"may kill its process" in dead[0].failure
        assert handled == set(range(200)) - {100}
        await broker.close()

    testing.run(main())


def test_suspects_that_the_engine_cannot_hold_back_are_given_back() -> None:
    """Protects innocents on NATS: what waits is not in this process when it dies."""

    class Unselective(MemoryBroker):
        guarantees = MemoryBroker.guarantees._replace(selects=False)

        async def receive(self, limit: int, wait: float, suspects: int) -> list[Message]:
            return await super().receive(limit, wait, limit)

    async def main() -> None:
        broker = Unselective("memory://unselective", Settings(60.0, "dead", {}))
        await broker.open()
        await broker.publish([Outgoing(f"id-{n}", b"%d" % n) for n in range(5)])
        for _ in range(SUSPECT_AFTER):
            await broker.release(await broker.receive(5, 1.0, 5), 0.0, counted=True)
        async with running(broker) as session:
            for _ in range(5):
                (item,) = await taken(session, 1)
                await asyncio.sleep(0.5)
                assert (await broker.depth()).unacknowledged == 1
                item.ticket.settle()
            session.end_intake()
        assert session.counts.acknowledged == 5

    testing.run(main())


def test_a_cancelled_session_drops_the_connection() -> None:
    """Protects a deadline: nothing waits for an answer any more, and the leases bring back what was received."""

    async def main() -> None:
        broker = memory("cancelled", lease=2.0)
        session = Session(broker, codec_for("q", int, "json", 9), Terms(5, 2.0, 5), "q", 1)
        task = asyncio.create_task(session.run())
        await session.opened.wait()
        await put(session, 1)
        await taken(session, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await broker.open()
        assert len(await broker.receive(1, 10.0, 1)) == 1
        await broker.close()

    testing.run(main())


def test_a_cancelled_session_is_forgotten_with_what_it_held() -> None:
    """Protects memory: the garbage collector does not look at deliveries, so no circle may lead through one."""

    async def main() -> list[weakref.ref[Session]]:
        session = Session(memory(), codec_for("q", int, "json", 9), Terms(5, 2.0, 5), "q", 1)
        task = asyncio.create_task(session.run())
        await session.opened.wait()
        await put(session, 1, 2, 3)
        first, _ = await taken(session, 2)
        task.cancel()
        first.ticket.settle()
        with pytest.raises(asyncio.CancelledError):
            await task
        return [weakref.ref(session)]

    (session,) = testing.run(main())
    gc.collect()
    assert session() is None
