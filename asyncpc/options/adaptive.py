"""``concurrency=``: how many workers a stage has; with ``Adaptive``, as many as keep its calls quick."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..checks import at_least_1, is_positive
from ..core.plan import Handler
from ..core.stage import Stage
from ..errors import DefinitionError
from ..mistakes import explained
from ..wording import shown

__all__ = ["Adaptive", "Concurrency"]


@explained
class Adaptive(NamedTuple):
    """A concurrency that follows the latency of the calls: as high as it can be while they take at most ``target``.

    Every ``every`` seconds the mean duration of the calls since the last check is compared with ``target`` (seconds).
    If it is above, the stage gets a quarter fewer workers, but at least ``min``. If it is below, and all workers are
    busy, the stage gets one more, up to ``max``.

    Additive increase, multiplicative decrease: Dah-Ming Chiu and Raj Jain, *Analysis of the Increase and Decrease
    Algorithms for Congestion Avoidance in Computer Networks*, 1989.
    """

    min: int
    """The fewest workers; a run begins with this number."""
    max: int
    """The most workers."""
    target: float
    """Seconds that a call should take on average."""
    every: float = 0.5
    """Seconds between two checks."""


class Concurrency(NamedTuple):
    """The option; every stage has it."""

    concurrency: int | Adaptive

    @classmethod
    def made_from(cls, where: str, concurrency: Any = 1) -> Concurrency:
        """Take a number of workers, or an :class:`Adaptive`."""
        if not isinstance(concurrency, Adaptive):
            at_least_1(where, "concurrency", concurrency)
        return cls(concurrency)

    def check(self, where: str, handler: Handler) -> Handler:
        """Bounds that can hold, and times that can pass."""
        adaptive = self.concurrency
        if not isinstance(adaptive, Adaptive):
            return handler._replace(concurrency=adaptive, most_concurrency=adaptive)
        at_least_1(where, "Adaptive min", adaptive.min)
        if at_least_1(where, "Adaptive max", adaptive.max) < adaptive.min:
            raise DefinitionError(f"{where}: {shown(adaptive)}: max must not be less than min")
        if not is_positive(adaptive.target) or not is_positive(adaptive.every):
            raise DefinitionError(f"{where}: {shown(adaptive)}: target and every must be more than 0 seconds")
        if handler.run_in == "process":
            raise DefinitionError(f"{where}: concurrency= is a number of processes, which cannot be Adaptive")
        return handler._replace(concurrency=adaptive.min, most_concurrency=adaptive.max)

    def install(self, stage: Stage) -> None:
        """Look now and then, if it is to be adapted."""
        if isinstance(self.concurrency, Adaptive) and stage.handler.most_concurrency > self.concurrency.min:
            stage.staff.adjust = FollowLatency(self.concurrency)

    def words(self) -> str:
        """How many workers, and while what."""
        adaptive = self.concurrency
        if not isinstance(adaptive, Adaptive):
            return ""
        return f"up to {adaptive.max} workers while calls take at most {adaptive.target:g} s"


class FollowLatency:
    """What a stage's concurrency is to be, by the calls since the last look."""

    __slots__ = ("_calls", "_policy", "_seconds", "every")

    def __init__(self, policy: Adaptive) -> None:
        self.every: float = policy.every
        self._policy = policy
        self._calls = 0
        self._seconds = 0.0

    def __call__(self, stage: Stage) -> int:
        """Fewer workers if the calls since took too long, one more if they did not and all are at work."""
        latency, concurrency = stage.timing.latency, stage.staff.concurrency
        calls, seconds = latency.count - self._calls, latency.seconds - self._seconds
        self._calls, self._seconds = latency.count, latency.seconds
        if calls and seconds / calls > self._policy.target:
            return max(self._policy.min, concurrency * 3 // 4)
        if calls and stage.inbox.getters.waiting == 0:
            return min(self._policy.max, concurrency + 1)
        return concurrency
