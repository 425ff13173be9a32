"""The tests that every adapter of :class:`~asyncpc.remote.broker.Broker` has to pass, for authors of engines.

In a test file of a project that has pytest and pytest-asyncio::

    from asyncpc.remote.contract import BrokerContract

    class TestMine(BrokerContract):
        engine = MyBroker

        @pytest.fixture
        def url(self, tmp_path):
            return f"mine://{tmp_path}/jobs"  # an empty queue for each test

A test of something that the engine does not guarantee is skipped, and says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from itertools import count
from typing import Any, ClassVar

import pytest

from ..errors import DefinitionError
from .broker import SUSPECT_AFTER, Broker, Disconnected, Engine, Message, Outgoing, PublishError, Settings

__all__ = ["BrokerContract", "Connect"]

Connect = Callable[[], Awaitable[Broker]]
"""Opens one more broker for the queue of the test, as another process would; it is closed after the test."""

_ids = count()

PATIENCE = 10.0
"""Seconds within which a server answers on a busy machine."""


@pytest.mark.asyncio
class BrokerContract:
    """What a session relies on; see the module for how to use it."""

    engine: ClassVar[Engine]
    """Makes a broker."""

    lease: ClassVar[float] = 1.0
    """Seconds; long enough for a busy machine, short enough for a test that waits for its end."""

    client: ClassVar[dict[str, Any]] = {}
    """Options of the client library."""

    misses_queues: ClassVar[bool] = False
    """Whether the engine can tell that a queue is not there, although others of its server, or file, are."""

    @pytest.fixture
    def url(self) -> str:
        """The URL of an empty queue."""
        # every engine has its own, and pytest has no abstract fixture: whoever forgets it reads this
        raise NotImplementedError("the fixture url gives the URL of an empty queue")

    @pytest.fixture
    def refused(self) -> Outgoing | None:
        """A message that the engine refuses, whatever is put with it; None: there is no such message.

        Make the server what it has to be for that here: this comes before the broker.
        """
        return None

    @pytest.fixture
    async def connect(self, url: str) -> AsyncIterator[Connect]:
        """See ``Connect``."""
        opened: list[Broker] = []
        before = asyncio.all_tasks()

        async def connected() -> Broker:
            broker = type(self).engine(url, Settings(self.lease, "dead", self.client))
            await broker.open()
            opened.append(broker)
            return broker

        yield connected
        for broker in opened:
            await broker.close()
        for _ in range(10):  # what a client has cancelled needs a turn or two
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        assert not left, f"close left tasks pending: {left}"

    @pytest.fixture
    async def broker(self, connect: Connect) -> Broker:
        """One broker, opened."""
        return await connect()

    async def test_a_look_makes_no_queue(self, url: str, connect: Connect) -> None:
        """Who mistyped a name is told so, where the engine can tell, and makes nothing; others see what is there."""

        def looking() -> Broker:
            return type(self).engine(url, Settings(self.lease, "dead", self.client, must_exist=True))

        for _ in range(2 * self.misses_queues):
            with pytest.raises(DefinitionError, match="there is no queue"):
                await looking().open()
        await (await connect()).publish([outgoing(b"there")])
        broker = looking()
        await broker.open()
        try:
            assert [one.body for one in await received(broker, 1)] == [b"there"]
        finally:
            await broker.close()

    # -- what goes in comes out -------------------------------------------------------------------

    async def test_a_message_comes_out_as_it_was_put(self, broker: Broker) -> None:
        """Body, id, headers and time survive the engine, whatever bytes the body has."""
        body, now = bytes(range(256)), time.time()
        await broker.publish([Outgoing("one", body, {"content-type": "application/json", "x-a": "b c"}, time=now)])
        (message,) = await received(broker, 1)
        assert (message.id, message.body, message.attempt) == ("one", body, 1)
        assert dict(message.headers) == {"content-type": "application/json", "x-a": "b c"}
        assert message.time == pytest.approx(now, abs=0.01)
        assert await broker.ack([message]) == 1

    async def test_an_empty_body_and_a_large_one(self, broker: Broker) -> None:
        """Neither is taken for the end of anything."""
        await broker.publish([outgoing(b""), outgoing(b"x" * 900_000)])
        messages = await received(broker, 2)
        assert [len(one.body) for one in messages] == [0, 900_000]

    async def test_messages_come_in_the_order_of_their_putting(self, broker: Broker) -> None:
        """First in, first out, over several publishes and receives."""
        sent = [str(number).encode() for number in range(1000)]
        for part in range(0, 1000, 250):
            await broker.publish([outgoing(body) for body in sent[part : part + 250]])
        messages = await received(broker, 1000, limit=300)
        assert [one.body for one in messages] == sent
        assert await broker.ack(messages) == 1000

    async def test_never_more_than_asked_for(self, broker: Broker) -> None:
        """The session counts on the limit: what it receives beyond it would exceed the prefetch."""
        await broker.publish([outgoing() for _ in range(20)])
        assert len(await broker.receive(7, PATIENCE, 1)) <= 7

    async def test_receive_returns_what_is_there_without_waiting_for_more(self, broker: Broker) -> None:
        """A message does not wait for its batch to fill."""
        await broker.publish([outgoing()])
        began = time.monotonic()
        assert len(await broker.receive(100, PATIENCE, 1)) == 1
        assert time.monotonic() - began < PATIENCE / 2

    async def test_receive_waits_for_a_message_and_gives_up_in_time(self, broker: Broker, connect: Connect) -> None:
        """It neither misses what another process puts meanwhile, nor waits for ever."""
        assert await broker.receive(10, 0.05, 1) == []
        waiting = asyncio.create_task(received(broker, 1))
        await asyncio.sleep(0.05)
        await (await connect()).publish([outgoing(b"late")])
        assert [one.body for one in await waiting] == [b"late"]

    async def test_wake_ends_a_receive_that_waits(self, broker: Broker) -> None:
        """A drain does not wait for the next message."""
        waiting = asyncio.create_task(broker.receive(10, 60.0, 1))
        await asyncio.sleep(0.1)
        broker.wake()
        async with asyncio.timeout(PATIENCE):
            assert await waiting == []
        broker.wake()  # nobody waits: nothing happens
        await broker.publish([outgoing()])
        assert len(await received(broker, 1)) == 1

    async def test_close_ends_a_receive_that_waits(self, broker: Broker) -> None:
        """The session that lost its connection waits for no answer on it."""
        waiting = asyncio.create_task(broker.receive(10, 60.0, 1))
        await asyncio.sleep(0.1)
        await broker.close()
        with suppress(Disconnected):
            async with asyncio.timeout(PATIENCE):
                assert await waiting == []

    async def test_calls_overlap_with_a_receive_that_waits(self, broker: Broker) -> None:
        """A receive that waits holds up no ack and no publish (fault E2)."""
        await broker.publish([outgoing()])
        (message,) = await received(broker, 1)
        waiting = asyncio.create_task(broker.receive(10, 60.0, 1))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(PATIENCE):
            assert await broker.ack([message]) == 1
            await broker.extend([message])
            await broker.publish([outgoing(b"next")])
            assert [one.body for one in await waiting] == [b"next"]

    # -- settling ---------------------------------------------------------------------------------

    async def test_an_acked_message_is_gone(self, broker: Broker, connect: Connect) -> None:
        """Nobody gets it again; a second ack changes nothing."""
        await broker.publish([outgoing()])
        messages = await received(broker, 1)
        assert await broker.ack(messages) == 1
        assert await broker.ack(messages) == 0
        other = await connect()
        assert await other.receive(10, 0.1, 1) == []
        depth = await broker.depth()
        assert depth.ready + depth.unacknowledged + depth.delayed + depth.dead == 0

    async def test_two_processes_share_the_messages(self, broker: Broker, connect: Connect) -> None:
        """Each message goes to one of them."""
        other = await connect()
        await broker.publish([outgoing(str(number).encode()) for number in range(100)])
        ours = await broker.receive(50, PATIENCE, 1)
        theirs = await received(other, 100 - len(ours))
        assert {one.body for one in [*ours, *theirs]} == {str(number).encode() for number in range(100)}

    async def test_what_is_released_comes_again_in_its_order(self, broker: Broker) -> None:
        """A drain gives back what it has not begun, before what was put later, and it is no attempt."""
        await broker.publish([outgoing(str(number).encode()) for number in range(6)])
        messages = await received(broker, 4, limit=4)
        await broker.release(messages, 0.0, counted=False)
        again = await received(broker, 6)
        assert sorted(one.body for one in again) == [str(number).encode() for number in range(6)]
        first = [one for one in again if one.body in (b"0", b"1", b"2", b"3")]
        assert [one.body for one in first] == [b"0", b"1", b"2", b"3"]
        assert [one.attempt for one in first] == [1, 1, 1, 1]
        assert await broker.ack(again) == 6

    async def test_a_counted_release_is_an_attempt(self, broker: Broker) -> None:
        """A message that failed, and is to be tried again, has been tried once more."""
        self._needs(broker, "counts")
        await broker.publish([outgoing()])
        for attempt in range(1, SUSPECT_AFTER + 2):
            (message,) = await received(broker, 1)
            assert message.attempt == attempt
            await broker.release([message], 0.0, counted=True)

    async def test_a_delay_holds_a_message_back(self, broker: Broker) -> None:
        """Both of a put and of a release; others are not held up."""
        self._needs(broker, "delays")
        began = time.monotonic()
        await broker.publish([outgoing(b"later", delay=1.5), outgoing(b"now")])
        (now,) = await received(broker, 1)
        assert now.body == b"now"
        assert (await broker.depth()).delayed == 1
        await broker.release([now], 0.3, counted=True)
        messages = await received(broker, 1)
        assert await broker.ack(messages) == 1  # or its lease runs out first
        messages += await received(broker, 1)
        assert [one.body for one in messages] == [b"now", b"later"]
        assert time.monotonic() - began >= 1.45

    async def test_an_id_that_is_known_is_not_taken_again(self, broker: Broker) -> None:
        """A put that is repeated, since its confirmation was lost, makes one message; also after its ack."""
        self._needs(broker, "dedupes")
        for _ in range(2):
            await broker.publish([Outgoing("same", b"1", time=time.time())])
        messages = await received(broker, 1)
        assert await broker.receive(10, 0.1, 1) == []
        assert await broker.ack(messages) == 1
        await broker.publish([Outgoing("same", b"1", time=time.time()), Outgoing("other", b"2", time=time.time())])
        assert [one.id for one in await received(broker, 1)] == ["other"]

    async def test_a_repeated_id_within_one_publish(self, broker: Broker) -> None:
        """It does not fail the others."""
        self._needs(broker, "dedupes")
        await broker.publish([Outgoing(one, b"", time=time.time()) for one in ("a", "b", "a", "c")])
        assert [one.id for one in await received(broker, 3)] == ["a", "b", "c"]

    async def test_a_publish_that_is_made_again_puts_nothing_twice(self, broker: Broker) -> None:
        """Also where the ids were made for its messages, which nobody else can put; others of such ids are taken."""
        self._needs(broker, "dedupes")
        first = [outgoing(str(number).encode())._replace(has_new_id=True) for number in range(4)]
        first[1] = first[1]._replace(id="given", has_new_id=False)
        second = [outgoing(body)._replace(has_new_id=True) for body in (b"4", b"5")]
        second.insert(1, Outgoing("given", b"again", time=time.time()))
        for _ in range(2):
            await broker.publish(first)
        messages = await received(broker, 4)
        assert [one.body for one in messages] == [b"0", b"1", b"2", b"3"]
        assert await broker.ack(messages) == 4
        await broker.publish(first)
        for _ in range(2):
            await broker.publish(second)
        assert [one.body for one in await received(broker, 2)] == [b"4", b"5"]
        assert await broker.receive(10, 0.1, 1) == []

    async def test_a_refusal_names_what_is_not_confirmed(self, refused: Outgoing | None, broker: Broker) -> None:
        """All of it, and nothing else: what is named is put again, and the rest would be in twice.

        What is put with the message that is refused, before it, after it, or long before, is in once then.
        """
        if refused is None:
            # no gap: an engine that takes all it is given, or nothing, confirms no part that could be named wrongly
            pytest.skip("the engine has no message that it always refuses, and so refuses no part")
        sent = [outgoing(str(number).encode()) for number in range(1500)]
        sent[1] = outgoing(b"x" * 200_000)
        for place in (1200, 0, len(sent)):
            with pytest.raises(PublishError) as caught:
                await broker.publish([*sent[:place], refused, *sent[place:]])
            unconfirmed = set(map(id, caught.value.unconfirmed))
            assert id(refused) in unconfirmed
            assert unconfirmed <= {id(refused), *map(id, sent)}, "each is one of the messages that were given"
            await broker.publish([one for one in sent if id(one) in unconfirmed])
            messages = await received(broker, len(sent))
            assert sorted(one.body for one in messages) == sorted(one.body for one in sent)
            assert await broker.ack(messages) == len(sent)
            assert await broker.receive(10, 0.1, 1) == []
            sent = [one._replace(id=f"{place}-{one.id}") for one in sent]

    # -- leases -----------------------------------------------------------------------------------

    async def test_a_lease_that_runs_out_passes_the_message_on(self, broker: Broker, connect: Connect) -> None:
        """What a killed process had comes to another, counted; the late ack of the first changes nothing."""
        self._needs(broker, "leases")
        other = await connect()
        await broker.publish([outgoing(b"a"), outgoing(b"b")])
        ours = await received(broker, 2)
        theirs = await received(other, 2, seconds=self.lease + PATIENCE)
        assert sorted(one.body for one in theirs) == [b"a", b"b"]
        if broker.guarantees.counts:
            assert [one.attempt for one in theirs] == [2, 2]
        assert await broker.ack(ours) == 0
        assert await other.ack(theirs) == 2

    async def test_an_extended_lease_keeps_the_message(self, broker: Broker, connect: Connect) -> None:
        """A slow handler keeps what it has, however long it takes; and loses nothing to itself."""
        other = await connect()
        await broker.publish([outgoing()])
        messages = await received(broker, 1)
        ends = time.monotonic() + 2 * self.lease
        while time.monotonic() < ends:
            assert await broker.extend(messages) == []
            assert await other.receive(1, self.lease / 5, 1) == []
        assert await broker.ack(messages) == 1

    async def test_extend_tells_what_was_lost(self, broker: Broker, connect: Connect) -> None:
        """So that the session can count it, and need not ack it."""
        self._needs(broker, "leases")
        other = await connect()
        await broker.publish([outgoing(b"lost")])
        lost = await received(broker, 1)
        theirs = await received(other, 1, seconds=self.lease + PATIENCE)
        await broker.publish([outgoing(b"ours")])
        ours = await received(broker, 1)
        told = await broker.extend([*lost, *ours])
        assert [one.body for one in told] == [b"lost"]
        assert told[0] is lost[0]  # the session knows it by that
        assert await other.ack(theirs) == 1

    async def test_the_next_process_gets_what_a_closed_one_had(self, connect: Connect) -> None:
        """At the latest when its lease has run out."""
        first = await connect()
        await first.publish([outgoing()])
        await received(first, 1)
        await first.close()
        second = await connect()
        assert len(await received(second, 1, seconds=self.lease + PATIENCE)) == 1

    async def test_it_can_be_opened_again_after_close(self, broker: Broker) -> None:
        """The session does so after a lost connection; what was put before is there."""
        await broker.publish([outgoing(b"kept")])
        await broker.close()
        await broker.close()  # a second close does nothing
        await broker.open()
        assert [one.body for one in await received(broker, 1)] == [b"kept"]

    # -- poison -----------------------------------------------------------------------------------

    async def test_suspects_are_received_one_at_a_time(self, broker: Broker) -> None:
        """What may kill its process does so alone, so that no neighbour is blamed for it."""
        self._needs(broker, "selects")
        await broker.publish([outgoing(str(number).encode()) for number in range(5)])
        for _ in range(SUSPECT_AFTER):
            await broker.release(await received(broker, 5), 0.0, counted=True)
        await broker.publish([outgoing(b"fresh")])
        assert [one.body for one in await received(broker, 1, suspects=0)] == [b"fresh"]
        assert await broker.receive(10, 0.1, 0) == []
        (suspect,) = await received(broker, 1, limit=10)
        assert suspect.attempt == SUSPECT_AFTER + 1
        assert await broker.ack([suspect]) == 1

    # -- dead letters -----------------------------------------------------------------------------

    async def test_a_dead_letter_is_kept_with_its_failure(self, broker: Broker) -> None:
        """It is out of the queue, and can be read with all that is known of it."""
        await broker.publish([Outgoing("bad", b"body", {"x-a": "1"}, time=time.time())])
        (message,) = await received(broker, 1)
        await broker.bury([(message, b'{"reason": "because"}')])
        assert await broker.receive(10, 0.1, 1) == []
        assert await broker.ack([message]) == 0
        (dead,) = await broker.dead(10, "")
        assert (dead.message.id, dead.message.body, dict(dead.message.headers)) == ("bad", b"body", {"x-a": "1"})
        assert dead.failure == b'{"reason": "because"}'
        assert (await broker.depth()).dead == 1

    async def test_dead_letters_are_read_page_by_page(self, broker: Broker) -> None:
        """The oldest first; reading changes nothing."""
        await broker.publish([outgoing(str(number).encode()) for number in range(5)])
        messages = await received(broker, 5)
        await broker.bury([(one, b"{}") for one in messages])
        first = await broker.dead(2, "")
        second = await broker.dead(2, first[-1].place)
        third = await broker.dead(2, second[-1].place)
        assert [one.message.body for one in [*first, *second, *third]] == [b"0", b"1", b"2", b"3", b"4"]

    async def test_a_dead_letter_goes_back_into_the_queue(self, broker: Broker) -> None:
        """As a message that was never tried, with its old id, even where that is known."""
        await broker.publish([Outgoing("a", b"1", time=time.time()), Outgoing("b", b"2", time=time.time())])
        messages = await received(broker, 2)
        await broker.bury([(one, b"{}") for one in messages])
        dead = await broker.dead(10, "")
        assert await broker.requeue([dead[1].place, dead[1].place.replace("0", "9")]) == 1
        (again,) = await received(broker, 1)
        assert (again.id, again.body, again.attempt) == ("b", b"2", 1)
        assert [one.message.id for one in await broker.dead(10, "")] == ["a"]
        assert await broker.ack([again]) == 1

    async def test_purge_forgets_one_of_the_two(self, broker: Broker) -> None:
        """The queue or its dead letters; what somebody works on stays."""
        await broker.publish([outgoing() for _ in range(5)])
        at_work, buried, *_ = await received(broker, 2, limit=2)
        await broker.bury([(buried, b"{}")])
        assert await broker.purge(dead=False) == 3
        assert (await broker.depth()).ready == 0
        assert (await broker.depth()).dead == 1
        assert await broker.purge(dead=True) == 1
        assert (await broker.depth()).dead == 0
        assert await broker.ack([at_work]) == 1

    # -- looking ----------------------------------------------------------------------------------

    async def test_depth_tells_what_is_where(self, broker: Broker) -> None:
        """Ready, under way and dead, each counted once."""
        await broker.publish([outgoing(time_ago=30.0), *(outgoing() for _ in range(9))])
        await received(broker, 4, limit=4)
        depth = await settled_depth(broker, 6)
        assert (depth.ready, depth.unacknowledged, depth.dead) == (6, 4, 0)
        assert depth.oldest is None or 0 <= depth.oldest < 3600

    async def test_peek_takes_nothing(self, broker: Broker) -> None:
        """Whoever only looks counts no attempt."""
        self._needs(broker, "peeks")
        await broker.publish([outgoing(str(number).encode()) for number in range(5)])
        assert [one.body for one in await broker.peek(3)] == [b"0", b"1", b"2"]
        messages = await received(broker, 5)
        assert [one.attempt for one in messages] == [1] * 5

    def _needs(self, broker: Broker, guarantee: str) -> None:
        if not getattr(broker.guarantees, guarantee):
            # no gap: an engine tells what it cannot do, and remote_queue refuses by name what would need it
            pytest.skip(f"the engine does not guarantee: {guarantee}")


def outgoing(body: bytes = b"", delay: float = 0.0, time_ago: float = 0.0) -> Outgoing:
    """A message with an id of its own."""
    return Outgoing(f"id-{next(_ids)}-{time.time_ns()}", body, delay=delay, time=time.time() - time_ago)


async def received(
    broker: Broker, number: int, *, limit: int = 1000, suspects: int = 1, seconds: float = PATIENCE
) -> list[Message]:
    """So many messages, from as many receives as it takes; fails if they do not come in time."""
    messages: list[Message] = []
    ends = time.monotonic() + seconds
    while len(messages) < number:
        left = ends - time.monotonic()
        assert left > 0, f"{len(messages)} of {number} messages came in {seconds} s"
        messages += await broker.receive(min(limit, number - len(messages)), left, suspects)
    return messages


async def settled_depth(broker: Broker, ready: int) -> Any:
    """The depth once the server, which may count late, tells so many as ready; or after 5 seconds, as it is then."""
    depth = await broker.depth()
    for _ in range(50):
        if depth.ready == ready:
            break
        await asyncio.sleep(0.1)
        depth = await broker.depth()
    return depth
