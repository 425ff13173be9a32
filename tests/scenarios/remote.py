"""Remote queues of a scenario: sources of messages and a sink for values, on the memory engine, each call judged.

A message is the *root* of all that is made of it: each :class:`~scenarios.ledger.Item` knows its roots, so that at
every call of the broker the ledger can say whether something made of a message is still under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from asyncpc.remote.broker import Message, Outgoing, Settings
from asyncpc.remote.codec import codec_for
from asyncpc.remote.engines.memory.broker import MemoryBroker
from asyncpc.remote.queue import RemoteQueue
from asyncpc.remote.session import Terms

from .ledger import Item
from .spec import SourceSpec

if TYPE_CHECKING:
    from .ledger import Ledger

__all__ = ["Deliveries", "make_remote_sink", "make_remote_source"]

_names: Final = count()


class Deliveries:
    """The messages of one remote source, and what was asked of its broker."""

    def __init__(self, name: str, spec: SourceSpec, ledger: Ledger) -> None:
        self.name = name
        self.spec = spec
        self.ledger = ledger
        self.url = f"memory://scenario-{next(_names)}"
        self.unsettled: dict[str, Message] = {}  # received, in this order
        self.ended: dict[str, str] = {}  # how each ended
        self.received: set[str] = set()

    def broker(self, judged: bool = True) -> MemoryBroker:
        """The broker of the session; or another process's, that nobody judges."""
        settings = Settings(1e6, "dead", {})
        return JudgedBroker(self.url, settings, self) if judged else MemoryBroker(self.url, settings)

    async def fill(self) -> None:
        """Put all messages."""
        bodies = [b'"%d"' % number for number in range(self.spec.count)]
        await self.broker(judged=False).publish([Outgoing(f"{self.name}:{n}", one) for n, one in enumerate(bodies)])

    def came(self, messages: Sequence[Message]) -> None:
        for one in messages:
            if one.id in self.received:
                self.wrong(one.id, "was delivered twice")
            self.received.add(one.id)
            self.unsettled[one.id] = one
        if self.spec.prefetch and len(self.unsettled) > self.spec.prefetch:
            self.ledger.problems.append(f"{len(self.unsettled)} messages unacknowledged, prefetch {self.spec.prefetch}")

    def ends(self, how: str, messages: Sequence[Message]) -> None:
        for one in messages:
            if self.unsettled.pop(one.id, None) is None:
                self.wrong(one.id, f"{how}, and before {self.ended.get(one.id, 'never received')}")
            self.ended[one.id] = how
            if how in ("acked", "buried"):
                self.ledger.gone.add(one.id)
                for where, item in self.ledger.under_way(one.id):
                    self.wrong(one.id, f"{how}, while {item} was under way in {where}")
                if self.ledger.sees_failures and (how == "buried") != self.ledger.has_failed(one.id):
                    self.wrong(one.id, f"{how}, and it should have been the other way")

    def gives_back(self, messages: Sequence[Message], delay: float, counted: bool) -> None:
        order = [one.receipt.number for one in messages]
        if order != sorted(order):
            self.wrong(str(order), "given back in another order than received")
        for one in messages:
            if (counted or delay) and self.ledger.sees_failures and not self.ledger.has_stopped(one.id):
                self.wrong(one.id, "counts as an attempt, though nothing stopped the run with it")
        self.ends("given back", messages)

    def wrong(self, message: str, what: str) -> None:
        self.ledger.problems.append(f"message {message}: {what}")


class JudgedBroker(MemoryBroker):
    """Takes its time as the scenario says, and tells what it was asked."""

    def __init__(self, url: str, settings: Settings, deliveries: Deliveries) -> None:
        super().__init__(url, settings)
        self._deliveries = deliveries

    async def _pause(self) -> None:
        delay = self._deliveries.spec.latency
        if delay and self._deliveries.ledger.rng.random() < 0.5:
            await asyncio.sleep(self._deliveries.ledger.rng.choice([0, 0, delay]))

    async def open(self) -> None:
        await self._pause()
        await super().open()

    async def receive(self, limit: int, wait: float, suspects: int) -> list[Message]:
        messages = await super().receive(limit, wait, suspects)
        self._deliveries.came(messages)
        await self._pause()
        return messages

    async def ack(self, messages: Sequence[Message]) -> int:
        self._deliveries.ends("acked", messages)
        await self._pause()
        return await super().ack(messages)

    async def release(self, messages: Sequence[Message], delay: float, counted: bool) -> None:
        self._deliveries.gives_back(messages, delay, counted)
        await self._pause()
        await super().release(messages, delay, counted)

    async def bury(self, dead: Sequence[tuple[Message, bytes]]) -> None:
        self._deliveries.ends("buried", [message for message, _ in dead])
        await self._pause()
        await super().bury(dead)

    async def extend(self, messages: Sequence[Message]) -> list[Message]:
        for one in messages:
            if one.id not in self._deliveries.unsettled:
                self._deliveries.wrong(one.id, "its lease was extended after its end")
        return await super().extend(messages)


def make_remote_source(place: int, spec: SourceSpec, name: str, ledger: Ledger) -> RemoteQueue[Any]:
    """A queue whose messages are the items of a source."""
    deliveries = Deliveries(name, spec, ledger)
    ledger.deliveries.append(deliveries)

    class Decoded(Item):
        """Made of a message, as a model of pydantic is."""

        @classmethod
        def model_validate(cls, value: object) -> Item:
            item = cls(name, (int(str(value)),))
            item.roots = frozenset({f"{name}:{value}"})
            ledger.give(ledger.entries[place], item)
            return item

    return _queue(name, Decoded, Terms(spec.prefetch, 1e6, 5), deliveries.broker, deliveries.url)


def make_remote_sink(ledger: Ledger) -> RemoteQueue[Any]:
    """A queue that takes the values of the last stages."""
    url = f"memory://scenario-{next(_names)}"
    settings = Settings(1e6, "dead", {})
    return _queue("out", Item, Terms(None, 1e6, 5), partial(_Sink, url, settings, ledger), url)


class _Sink(MemoryBroker):
    """Tells which values were published."""

    def __init__(self, url: str, settings: Settings, ledger: Ledger) -> None:
        super().__init__(url, settings)
        self._ledger = ledger

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        ledger, place = self._ledger, len(self._ledger.scenario.stages)
        values = [ledger.by_serial[int(one.body)] for one in messages]
        for value in values:
            ledger.start(place, value)
        if ledger.rng.random() < 0.3:
            await asyncio.sleep(0.001)
        await super().publish(messages)
        ledger.read.update(values)


def _queue(name: str, declared: type, terms: Terms, broker: Any, url: str) -> RemoteQueue[Any]:
    return RemoteQueue(name, broker, codec_for(name, declared, "json", 1000), terms, url, "it is a test")
