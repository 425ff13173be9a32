"""The memory engine keeps the contract of all engines."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from asyncpc import testing
from asyncpc.remote.broker import Outgoing, Settings
from asyncpc.remote.contract import BrokerContract
from asyncpc.remote.engines.memory.broker import MemoryBroker

_names = count()


@pytest.mark.processes  # it waits for leases
class TestMemory(BrokerContract):
    """The contract."""

    engine = MemoryBroker
    lease = 0.3

    @pytest.fixture
    def url(self) -> str:
        """A queue of its own for each test."""
        return f"memory://contract-{next(_names)}"


def test_a_dead_letter_comes_back_beside_a_newer_message_of_its_id() -> None:
    """Protects the letter: its id was forgotten and given anew, and it was in neither queue, though counted as back."""

    async def main() -> None:
        broker = MemoryBroker("memory://given-anew", Settings(30.0, "dead", {}))
        await broker.open()
        await broker.publish([Outgoing("a", b"old")])
        await broker.bury([(message, b"{}") for message in await broker.receive(1, 1.0, 1)])
        await asyncio.sleep(4000)
        await broker.publish([Outgoing("a", b"new")])
        letters = await broker.dead(9, "")
        assert await broker.requeue([one.place for one in letters]) == 1
        messages = await broker.receive(9, 1.0, 1)
        assert sorted(one.body for one in messages) == [b"new", b"old"]
        assert await broker.ack(messages) == 2
        await broker.close()

    testing.run(main())
