"""``rate=``: calls begin no faster than a :class:`Rate` allows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from ..checks import at_least_1, check_item_function, is_positive
from ..core.plan import Handler
from ..core.seams import Call
from ..core.stage import ConsumerWorker, Stage
from ..errors import DefinitionError
from ..mistakes import explained

__all__ = ["Rate", "RateLimit", "set_rate"]


@explained
class Rate(NamedTuple):
    """At most ``n`` calls of a handler in ``per`` seconds, evenly spaced, of which ``burst`` may come at once.

    In no window of ``per`` seconds begin more than ``n + burst`` calls. With ``key``, each key has a rate of its own.
    The generic cell rate algorithm, ITU-T I.371: the virtual scheduling form of a leaky bucket.
    """

    n: float
    """Calls."""
    per: float = 1.0
    """Seconds."""
    burst: int = 1
    """Calls that may begin at once after a pause."""
    key: Callable[[Any], Hashable] | None = None
    """A function of an item."""


class RateLimit(NamedTuple):
    """The option."""

    rate: Rate

    @classmethod
    def made_from(cls, where: str, rate: Any = None) -> RateLimit | None:
        """Take a :class:`Rate`."""
        return None if rate is None else cls(rate)

    def check(self, where: str, handler: Handler) -> Handler:
        """Numbers that can hold, and a key only where calls get items."""
        _check(where, self.rate, handler)
        return handler if self.rate.key is None else handler._replace(needs_single="Rate(key=)")

    def install(self, stage: Stage) -> None:
        """Limit all places of the consumer together."""
        throttle = stage.run.machines.setdefault(id(self), Throttle(self.rate))
        stage.wraps.append(throttle.limit)

    def words(self) -> str:
        """How many calls in which time."""
        return f"at most {self.rate.n:g} calls in {self.rate.per:g} s"


def set_rate(stage: Stage, rate: Rate) -> None:
    """Let calls of the stage begin at that rate from now on; raises ``DefinitionError`` for what is no rate."""
    _check(f"stage {stage.handler.name!r}", rate, stage.handler)
    for wrap in stage.wraps:
        throttle = getattr(wrap, "__self__", None)
        if isinstance(throttle, Throttle):
            throttle.set(rate)
            return
    stage.wraps.append(Throttle(rate).limit)
    stage.staff.changes += 1
    stage.staff.interrupt()


def _check(where: str, rate: Any, handler: Handler) -> None:
    if not isinstance(rate, Rate):
        raise DefinitionError(f"{where}: rate={rate!r} must be Rate(n, per=seconds)")
    if not is_positive(rate.n) or not is_positive(rate.per):
        raise DefinitionError(f"{where}: {rate!r}: n and per must be more than 0")
    at_least_1(where, "Rate burst", rate.burst)
    check_item_function(where, "rate key", rate.key)
    if rate.key is not None and handler.takes_lists:
        raise DefinitionError(
            f"{where}: Rate(key=) is a function of an item, but with batch= a call gets several; leave key= out, or "
            "limit a stage before the one with batch="
        )


class Throttle:
    """Lets calls begin no faster than its rate, which may be changed at any time."""

    __slots__ = ("_due", "_rate", "_sweep_at", "_waiting", "_words")

    def __init__(self, rate: Rate) -> None:
        self._due: dict[Hashable, float] = {}  # by key, when the next call is due if none comes early (loop time)
        self._sweep_at = 1000
        self._waiting: dict[asyncio.Future[bool], None] = {}  # calls that wait to begin, in their order
        self._rate = rate
        self._words = ""
        self._name(rate)

    def set(self, rate: Rate) -> None:
        """Change the rate, also for calls that wait to begin: they reserve again, in their order."""
        self._rate = rate
        self._name(rate)
        self._due.clear()
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(False)
        self._waiting.clear()

    def limit(self, call: Call, worker: ConsumerWorker) -> Call:
        """``call``, begun no earlier than the rate allows."""
        stage = worker.stage

        async def limited(item: Any) -> Any:
            seconds = self._reserve(item)
            if seconds > 0:
                await stage.hold_back(self._words, self._wait_to_begin(item, seconds))
            return await call(item)

        return limited

    async def _wait_to_begin(self, item: Any, seconds: float) -> None:
        """Wait for ``seconds``, or as long as a new rate asks for; a cancelled call leaves its moment unused."""
        loop = asyncio.get_running_loop()
        while seconds > 0:
            waiter: asyncio.Future[bool] = loop.create_future()
            self._waiting[waiter] = None
            timer = loop.call_later(seconds, _set_due, waiter)
            try:
                is_due = await waiter
            finally:
                timer.cancel()
                self._waiting.pop(waiter, None)
            seconds = 0.0 if is_due else self._reserve(item)

    def _reserve(self, item: Any) -> float:
        """Take the next free moment, and return the seconds until then."""
        rate, now = self._rate, asyncio.get_running_loop().time()
        key = None if rate.key is None else rate.key(item)
        interval = rate.per / rate.n
        due = self._due.get(key, now)
        begin = max(now, due - (rate.burst - 1) * interval)
        self._due[key] = max(due, begin) + interval
        if len(self._due) > self._sweep_at:
            self._due = {key: due for key, due in self._due.items() if due > now}  # the others are as good as new
            self._sweep_at = 1000 + 2 * len(self._due)
        return begin - now

    def _name(self, rate: Rate) -> None:
        self._words = f"its rate of {rate.n:g} calls in {rate.per:g} s"


def _set_due(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(True)
