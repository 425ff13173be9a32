"""``rate=``: calls begin no faster than a :class:`Rate` allows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Any, Final, NamedTuple

from ..checks import at_least_1, check_item_function, is_positive
from ..core.plan import Handler
from ..core.seams import Call
from ..core.stage import ConsumerWorker, Staff, Stage
from ..errors import DefinitionError
from ..mistakes import explained
from ..wording import shown

__all__ = ["Rate", "RateLimit", "set_rate"]

PORTIONS: Final = 64
"""Keys are kept in so many portions, so that looking through one, or making it larger, takes hardly any time."""


@explained
class Rate(NamedTuple):
    """At most ``n`` calls of a handler in ``per`` seconds, evenly spaced, of which ``burst`` may come at once.

    At most ``n + burst`` calls begin in any window of ``per`` seconds. With ``key``, each key has a rate of its own.
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
    """The option; every stage has it, since one without a rate may be given one while it runs."""

    rate: Rate | None

    @classmethod
    def made_from(cls, where: str, rate: Any = None) -> RateLimit:
        """Take a :class:`Rate`."""
        return cls(rate)

    def check(self, where: str, handler: Handler) -> Handler:
        """Numbers that can hold, and a key only where calls get items."""
        if self.rate is None:
            return handler
        _check(where, self.rate, handler)
        return handler if self.rate.key is None else handler._replace(needs_single="Rate(key=)")

    def install(self, stage: Stage) -> None:
        """Limit all places of the consumer together."""
        throttle = stage.run.machines.setdefault(id(self), Throttle(self.rate))
        throttle.staffs.append(stage.staff)
        stage.wraps.append(throttle.limit)

    def words(self) -> str:
        """How many calls in which time."""
        return "" if self.rate is None else f"at most {self.rate.n:g} calls in {self.rate.per:g} s"


def set_rate(stage: Stage, rate: Rate) -> None:
    """Let calls of the consumer begin at that rate from now on; raises ``DefinitionError`` for anything but a rate."""
    _check(f"stage {stage.handler.name!r}", rate, stage.handler)
    (option,) = [option for option in stage.handler.options if isinstance(option, RateLimit)]
    stage.run.machines[id(option)].set(rate)


def _check(where: str, rate: Any, handler: Handler) -> None:
    if not isinstance(rate, Rate):
        raise DefinitionError(f"{where}: rate={shown(rate)} must be Rate(n, per=seconds)")
    if not is_positive(rate.n) or not is_positive(rate.per):
        raise DefinitionError(f"{where}: {shown(rate)}: n and per must be more than 0")
    at_least_1(where, "Rate burst", rate.burst)
    check_item_function(where, "rate key", rate.key)
    if rate.key is not None and handler.takes_lists:
        raise DefinitionError(
            f"{where}: Rate(key=) is a function of an item, but with batch= a call gets several; leave key= out, or "
            "limit a stage before the one with batch="
        )


class Throttle:
    """Lets calls begin no faster than its rate, if it has one, which may be changed at any time.

    Its clock counts calls: it goes on by one in the time that the rate has for each. So what is due by it stays due by
    it when the rate is changed, and nothing that was used up before comes back.
    """

    __slots__ = ("_changes", "_portions", "_rate", "_set_at", "_showed", "_waiting", "staffs")

    def __init__(self, rate: Rate | None) -> None:
        self._rate = rate
        self._set_at = 0.0  # when the rate was set (loop time)
        self._showed = 0.0  # what the clock showed then
        self._changes = 0  # of the rate
        self._portions: dict[int, _Keys] = {}
        self._waiting: dict[asyncio.Future[bool], Hashable] = {}  # calls that wait to begin, in their order; their keys
        self.staffs: list[Staff] = []
        """The workers whose calls it limits."""

    def __str__(self) -> str:
        """What it limits calls to, for those that are held back."""
        return "" if self._rate is None else f"its rate of {self._rate.n:g} calls in {self._rate.per:g} s"

    def set(self, rate: Rate) -> None:
        """Change the rate, also for calls that wait to begin: they reserve again, in their order."""
        if rate == self._rate:
            return
        now = asyncio.get_running_loop().time()
        if self._rate is None:
            for staff in self.staffs:
                staff.changes += 1
                staff.interrupt()
        else:
            self._showed = self._clock(self._rate, now)
        self._rate, self._set_at = rate, now
        self._changes += 1
        for waiter, key in self._waiting.items():
            if not waiter.done():
                self._portions[hash(key) % PORTIONS][key] -= 1
                waiter.set_result(False)
        self._waiting.clear()

    def limit(self, call: Call, worker: ConsumerWorker) -> Call:
        """``call``, begun no earlier than the rate allows."""
        if self._rate is None:
            return call
        stage = worker.stage

        async def limited(item: Any) -> Any:
            key, seconds = self._reserve(item)
            if seconds > 0:
                await stage.hold_back(worker, self, self._wait_to_begin(item, key, seconds))
            return await call(item)

        return limited

    async def _wait_to_begin(self, item: Any, key: Hashable, seconds: float) -> None:
        """Wait for ``seconds``, or as long as a new rate asks for; a cancelled call leaves its moment unused."""
        loop, is_due = asyncio.get_running_loop(), False
        while seconds > 0 and not is_due:
            waiter: asyncio.Future[bool] = loop.create_future()
            self._waiting[waiter] = key
            timer = loop.call_later(seconds, _set_due, waiter)
            try:
                is_due = await waiter
            finally:
                timer.cancel()
                self._waiting.pop(waiter, None)
            if not is_due:
                key, seconds = self._reserve(item)

    def _reserve(self, item: Any) -> tuple[Hashable, float]:
        """Take the next free moment of the item's key, and return that key and the seconds until then."""
        rate = self._rate
        assert rate is not None
        now = self._clock(rate, asyncio.get_running_loop().time())
        key = None if rate.key is None else rate.key(item)
        keys = self._keys(key)
        due = keys.get(key, now)
        begin = max(now, due - (rate.burst - 1))
        keys[key] = max(due, begin) + 1
        if len(keys) > keys.sweep_at:
            keys.sweep(now)
        return key, (begin - now) * rate.per / rate.n

    def _keys(self, key: Hashable) -> _Keys:
        """The portion that the key belongs to."""
        portion = hash(key) % PORTIONS
        keys = self._portions.get(portion)
        if keys is None:
            keys = self._portions[portion] = _Keys(self._changes)
        if keys.changes != self._changes:
            assert self._rate is not None
            keys.limit(self._showed + self._rate.burst, self._changes)
        return keys

    def _clock(self, rate: Rate, now: float) -> float:
        return self._showed + (now - self._set_at) * rate.n / rate.per


class _Keys(dict[Hashable, float]):
    """Some of the keys: when the next call of each is due if none comes early."""

    __slots__ = ("changes", "sweep_at")

    def __init__(self, changes: int) -> None:
        super().__init__()
        self.changes: int = changes  # of the rate that they know
        self.sweep_at: int = 16

    def limit(self, latest: float, changes: int) -> None:
        """The rate was changed, and perhaps has a smaller burst: no more than that can be used up."""
        self.changes = changes
        for key, due in self.items():
            self[key] = min(due, latest)

    def sweep(self, now: float) -> None:
        """Forget keys that rest: they are as good as new."""
        kept = {key: due for key, due in self.items() if due > now}
        self.clear()
        self.update(kept)
        self.sweep_at = 16 + 2 * len(self)


def _set_due(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(True)
