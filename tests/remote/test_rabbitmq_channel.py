"""What a channel of RabbitMQ waits for ends: with the answer, with the connection, or when the server is silent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from remote.brokers import not_whole
from remote.servers import client_of

from asyncpc import testing
from asyncpc.remote.broker import Disconnected
from asyncpc.remote.contract import outgoing

client_of("rabbitmq")

from pamqp.body import ContentBody  # noqa: E402  # it may be missing
from pamqp.commands import Basic  # noqa: E402  # likewise
from pamqp.commands import Channel as On  # noqa: E402  # likewise
from pamqp.header import ContentHeader  # noqa: E402  # likewise

from asyncpc.remote.engines.rabbitmq.broker import RabbitBroker  # noqa: E402  # needs them
from asyncpc.remote.engines.rabbitmq.channel import PATIENCE, Line  # noqa: E402  # likewise
from asyncpc.remote.engines.rabbitmq.intake import Intake  # noqa: E402  # likewise
from asyncpc.remote.engines.rabbitmq.outlet import Outlet, Parcel  # noqa: E402  # likewise

pytestmark = pytest.mark.thorough  # for its client, which only that step has


class Wire:
    """A connection on which nothing comes but what the test puts there."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.is_blocked = False
        line = Line(lambda frame: self.sent.append(frame.payload), 1000, Disconnected, self._is_blocked)
        self.intake = Intake(line, 1)
        self.outlet = Outlet(line, 2)

    async def _is_blocked(self) -> bool:
        return self.is_blocked

    def calls(self) -> list[Awaitable[Any]]:
        """One of each kind."""
        return [self.intake.take("queue", 10, 60.0), self.intake.sync(), self.put()]

    def put(self) -> Awaitable[Any]:
        """Of one message."""
        return self.outlet.publish([Parcel("queue", Basic.Properties(), b"body")])


async def ended(*calls: Awaitable[Any]) -> tuple[list[Any], float]:
    """What became of them, and after how many seconds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    return await asyncio.gather(*calls, return_exceptions=True), loop.time() - began


def test_a_silent_server_ends_every_call() -> None:
    """Protects a worker against waiting for ever: no call can be without a limit."""

    async def main() -> None:
        errors, seconds = await ended(*Wire().calls())
        assert [type(one) for one in errors] == [Disconnected] * 3
        assert seconds == pytest.approx(PATIENCE)

    testing.run(main())


def test_the_limit_counts_from_the_last_word() -> None:
    """Protects slow servers, and the 15 seconds in which a dead one is to be noticed: neither sooner nor later."""

    async def main() -> None:
        wire = Wire()
        asyncio.get_running_loop().call_later(9.0, lambda: asyncio.ensure_future(wire.intake.put((0, Basic.QosOk()))))
        errors, seconds = await ended(wire.intake.call(Basic.Qos(), Basic.Qos()))
        assert isinstance(errors[0], Disconnected)
        assert seconds == pytest.approx(9.0 + PATIENCE)

    testing.run(main())


def test_a_lost_connection_ends_every_call_at_once() -> None:
    """Protects the next connection: nothing still waits on the last one, and what is called then is refused."""

    async def main() -> None:
        wire = Wire()
        for channel in (wire.intake, wire.outlet):
            asyncio.get_running_loop().call_later(1.0, channel.end, Disconnected("lost"))
        errors, seconds = await ended(*wire.calls())
        assert [str(one) for one in errors] == ["lost"] * 3
        assert seconds == pytest.approx(1.0)
        errors, seconds = await ended(*wire.calls())
        assert [str(one) for one in errors] == ["lost"] * 3
        assert seconds == 0

    testing.run(main())


def test_a_channel_that_the_server_closes_ends_every_call() -> None:
    """Protects all that wait on it, not only the one whose command was refused."""

    async def main() -> None:
        wire = Wire()
        calls = asyncio.gather(wire.intake.take("queue", 10, 60.0), wire.intake.sync(), return_exceptions=True)
        await asyncio.sleep(1.0)
        await wire.intake.put((0, On.Close(reply_code=404, reply_text="gone", class_id=0, method_id=0)))
        assert [str(one) for one in await calls] == ["gone"] * 2

    testing.run(main())


def test_a_server_that_says_it_takes_nothing_is_waited_for() -> None:
    """Protects puts while it is short of memory; once it no longer says so, silence counts again."""

    async def main() -> None:
        wire = Wire()
        wire.is_blocked = True
        task = asyncio.ensure_future(wire.put())
        await asyncio.sleep(100.0)
        assert not task.done()
        wire.is_blocked = False
        errors, seconds = await ended(task)
        assert isinstance(errors[0], Disconnected)
        assert seconds <= PATIENCE

    testing.run(main())


def test_only_a_message_longer_than_all_that_were_taken_goes_alone() -> None:
    """Protects those put with one that is too long; and the pace of others, which need not wait for each other."""

    async def main() -> None:
        wire = Wire()
        bodies = [b"x" * length for length in (10, 2000, 1500, 2000, 3000, 10)]
        put = asyncio.ensure_future(wire.outlet.publish([Parcel("queue", Basic.Properties(), one) for one in bodies]))
        sent = []
        while not put.done():
            await asyncio.sleep(1.0)
            sent.append(b"".join(wire.sent).count(b"x"))
            wire.sent.clear()
            await wire.outlet.put((0, Basic.Ack(delivery_tag=len(bodies), multiple=True)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert await put == []
        assert sent == [10, 2000, 3500, 3000, 10]

    testing.run(main())


def test_what_no_queue_got_is_not_confirmed() -> None:
    """Protects a put into a queue that somebody deleted: the server sends it back, then confirms it all the same."""

    async def main() -> None:
        wire = Wire()
        putting = asyncio.ensure_future(wire.put())
        await asyncio.sleep(0)
        returned = Basic.Return(reply_code=312, reply_text="NO_ROUTE", exchange="", routing_key="queue")
        for frame in returned, ContentHeader(body_size=4), ContentBody(b"body"), Basic.Ack(1):
            await wire.outlet.put((0, frame))
        errors, _ = await ended(putting)
        assert "no queue 'queue'" in str(errors[0])

    testing.run(main())


CALLS: list[Callable[[RabbitBroker], Awaitable[Any]]] = [
    lambda broker: broker.receive(1, 5.0, 1),
    lambda broker: broker.publish([outgoing(b"1")]),
    lambda broker: broker.depth(),
    lambda broker: broker.dead(1, ""),
    lambda broker: broker.ack([]),
]


async def test_nothing_goes_by_a_connection_that_is_not_whole() -> None:
    """Protects a call that comes while another connects again: it took the half of a connection, and ended the run."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    await not_whole(RabbitBroker, "amqp://127.0.0.1:{port}/jobs", greet, CALLS)
