"""Bad networks between a program and its server: no reply reaches the wrong caller, and no consumer dies silently."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import count

import pytest
from remote.proxy import Proxy
from remote.servers import PLACES, Place, client_of

from asyncpc import consumer
from asyncpc.remote import OpenQueue
from asyncpc.remote.address import engine_of
from asyncpc.remote.broker import Broker, Depth, Disconnected, Message, PublishError, Settings
from asyncpc.remote.contract import outgoing
from asyncpc.remote.queue import RemoteQueue, remote_queue

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(120)]

NOTICED = 15.0
"""Seconds within which a connection through which nothing passes is given up."""

LEASE = 2.0

DELAY = 0.01
"""Seconds that each piece waits at most in a network that cuts; half of it on average."""

TROUBLE = 6.0
"""Seconds for which it cuts."""

ATTEMPTS = int(TROUBLE / (4 * DELAY / 2))
"""More deliveries than there can be: on RabbitMQ each cut counts one of what is in hand, and until a connection can be
cut that has received something, at least four pieces have passed."""

BUSY = 5.0
"""Seconds that a busy machine, and the pauses between two attempts to connect, may add."""


@pytest.fixture(scope="module", params=[name for name in PLACES if name != "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A server of each engine that is reached by a network."""
    client_of(request.param)
    place = PLACES[request.param].place(tmp_path_factory.mktemp(request.param))
    place.start()
    yield place
    place.stop()


@dataclass
class Job:
    number: int
    text: str

    @staticmethod
    def of(number: int) -> Job:
        """One whose text tells whether it is whole, and its own."""
        return Job(number, sha256(b"%d" % number).hexdigest() * (1 + number % 40))


class Desk:
    """Two who work at one queue, each by an address of its own, and what became of the jobs."""

    def __init__(self, urls: list[str]) -> None:
        self.queues: list[RemoteQueue[Job]] = [
            remote_queue(url, Job, lease=LEASE, prefetch=50, attempts=ATTEMPTS) for url in urls
        ]
        self.numbers = count()
        self.confirmed: set[int] = set()
        self.handled: list[set[int]] = [set() for _ in urls]
        self.wrong: list[Job] = []

    async def put(self, opened: OpenQueue[Job]) -> None:
        """One more job."""
        number = next(self.numbers)
        await opened.put(Job.of(number))
        self.confirmed.add(number)

    async def work(self, place: int, until: Callable[[], Awaitable[None]]) -> None:
        """Handle jobs while something else goes on."""

        @consumer(concurrency=4)
        async def handle(job: Job) -> None:
            await asyncio.sleep(0.001)
            if job != Job.of(job.number):
                self.wrong.append(job)
            self.handled[place].add(job.number)

        async with self.queues[place] >> handle as running:
            await until()
            await running.drain(10)

    async def until_all_is_handled(self) -> Depth:
        """Wait for it, with a connection of its own; how many messages there are then."""
        ends = time.monotonic() + NOTICED + LEASE + BUSY
        while self.confirmed - set().union(*self.handled):
            assert time.monotonic() < ends, f"lost: {self.confirmed - set().union(*self.handled)}"
            await asyncio.sleep(0.05)
        return await self.at_rest(ends)

    async def at_rest(self, ends: float) -> Depth:
        """How many messages there are when none is pending."""
        while True:
            depth = await self.queues[-1].depth()
            if depth[:3] == (0, 0, 0) or time.monotonic() > ends:
                return depth
            await asyncio.sleep(0.1)


def addresses(place: Place, *ports: tuple[str, int]) -> list[str]:
    """The URLs of one queue by several addresses."""
    direct = place.url()
    return [direct.replace(f"127.0.0.1:{place.port}", f"{host}:{port}") for host, port in ports]


def test_delays_and_cuts_mix_up_nothing(place: Place) -> None:
    """While callers give up in the middle of their calls: each job and each answer reaches whom it is for."""

    async def call(opened: OpenQueue[Job], draw: random.Random, ends: float) -> None:
        while time.monotonic() < ends:
            with suppress(TimeoutError, PublishError, Disconnected):
                async with asyncio.timeout(draw.choice([0.001, 0.01, 0.05, 10.0])):
                    if draw.random() < 0.2:
                        depth = await opened.depth()
                        assert isinstance(depth, Depth)
                        assert min(depth[:4]) >= 0
                    else:
                        await desk.put(opened)

    proxy = Proxy(place.port)
    desk = Desk(addresses(place, (proxy.host, proxy.port), ("127.0.0.1", place.port)))

    async def main() -> None:
        async with proxy:

            async def trouble() -> None:
                async with desk.queues[0].open() as opened:
                    proxy.delay, proxy.cuts = DELAY, 0.01
                    ends = time.monotonic() + TROUBLE
                    async with asyncio.TaskGroup() as group:
                        for number in range(8):
                            group.create_task(call(opened, random.Random(number), ends))
                    proxy.delay = proxy.cuts = 0.0
                    assert (await desk.until_all_is_handled())[:4] == (0, 0, 0, 0)

            await desk.work(0, trouble)
        assert len(desk.confirmed) > 20
        assert proxy.has_cut > 3
        assert not desk.wrong

    asyncio.run(main())


def test_a_stalled_connection_is_noticed(place: Place) -> None:
    """Nothing passes and nothing is closed: a consumer that waits gives up and connects again; so does one who puts."""
    proxy = Proxy(place.port)
    desk = Desk(addresses(place, (proxy.host, proxy.port), ("127.0.0.1", place.port)))

    async def main() -> None:
        async with proxy:

            async def stalled() -> None:
                async with desk.queues[0].open() as opened, desk.queues[1].open() as direct:
                    await desk.put(opened)
                    await desk.until_all_is_handled()
                    proxy.stall()
                    began = time.monotonic()
                    await asyncio.gather(desk.put(direct), desk.put(opened))
                    assert time.monotonic() - began < NOTICED + BUSY
                    assert (await desk.until_all_is_handled())[:4] == (0, 0, 0, 0)
                    assert time.monotonic() - began < NOTICED + LEASE + BUSY

            await desk.work(0, stalled)

    asyncio.run(main())


async def everything(broker: Broker) -> AsyncIterator[Message]:
    """All messages that come within two leases."""
    ends = time.monotonic() + 2 * LEASE
    while time.monotonic() < ends:
        for message in await broker.receive(100, 0.5, 1):
            yield message


def test_what_was_under_way_when_a_connection_is_given_up_is_no_success(place: Place) -> None:
    """Clients end their calls then, some without an error, also if the network is back at that moment.

    A put that returns must have been taken, and no call may take what the client gives it for an answer.
    """
    proxy = Proxy(place.port)
    url, direct = addresses(place, (proxy.host, proxy.port), ("127.0.0.1", place.port))
    broker, other = (engine_of(one)(one, Settings(LEASE, "dead", {})) for one in (url, direct))

    async def main() -> None:
        confirmed = []
        async with proxy:
            for number in range(10):
                await broker.open()
                proxy.cut_off()
                calls = [broker.publish([outgoing(b"%d" % number)]), broker.receive(1, 60.0, 1), broker.depth()]
                tasks = [asyncio.ensure_future(call) for call in calls]
                await asyncio.sleep(0.1)
                closing = asyncio.create_task(broker.close())
                await asyncio.sleep(0.1 * number)
                proxy.heal()
                await closing
                ends = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(isinstance(one, list | Depth | Disconnected | None) for one in ends)
                if ends[0] is None:
                    confirmed.append(b"%d" % number)
        await other.open()
        bodies = [one.body async for one in everything(other)]
        assert set(confirmed) <= set(bodies)
        await other.close()

    asyncio.run(main())


def test_one_of_two_is_cut_off_for_ten_seconds(place: Place) -> None:
    """Its messages go to the other; when it is back, it works again, and nothing is lost."""
    one, other = Proxy(place.port, "127.0.0.2"), Proxy(place.port, "127.0.0.3")
    desk = Desk(addresses(place, (one.host, one.port), (other.host, other.port)))

    async def main() -> None:
        both: list[OpenQueue[Job]] = []
        async with one, other:

            async def some(seconds: float) -> None:
                ends = time.monotonic() + seconds
                while time.monotonic() < ends:
                    await asyncio.gather(*(desk.put(opened) for opened in both for _ in range(5)))
                    await asyncio.sleep(0.02)

            async def works(place: int) -> None:
                before = len(desk.handled[place])
                ends = time.monotonic() + NOTICED + BUSY
                while len(desk.handled[place]) == before:
                    assert time.monotonic() < ends
                    await some(0.1)

            async def cut_off() -> None:
                nonlocal both
                async with desk.queues[0].open() as first, desk.queues[1].open() as second:
                    both = [first, second]
                    await works(0)
                    one.cut_off()
                    waiting = asyncio.create_task(desk.put(first))
                    both = [second]
                    await some(10)
                    one.heal()
                    await waiting
                    both = [first, second]
                    await works(0)
                    assert (await desk.until_all_is_handled())[:4] == (0, 0, 0, 0)

            await desk.work(0, lambda: desk.work(1, cut_off))
        assert not desk.wrong

    asyncio.run(main())
