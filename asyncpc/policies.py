"""Policies: frozen descriptions of what a user allows, without tasks or loops.

All times are float seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .errors import DefinitionError

__all__ = ["Restart", "exponential"]


def exponential(attempt: int, *, first: float = 0.1, cap: float = 30.0) -> float:
    """Seconds to wait before ``attempt`` (1, 2, …): uniform in 0 … min(cap, first · 2^(attempt-1)).

    "Full jitter", from Marc Brooker, *Exponential Backoff And Jitter*, AWS Architecture Blog, 2015: it spreads
    those who failed together, and the cap bounds the longest wait.
    """
    import random  # here, since it is slow to import and seldom needed

    return random.uniform(0.0, min(cap, first * 2.0 ** min(attempt - 1, 60)))


@dataclass(frozen=True, slots=True)
class Restart:
    """How often a producer that raised is started again: at most ``times`` within any ``within`` seconds.

    ``backoff`` gives the seconds to wait before restart 1, 2, …; any ``attempt -> seconds`` callable will do. One
    failure more than allowed is a failure of the run, so a restart storm ends (fault C5).
    """

    times: int = 3
    within: float = 60.0
    backoff: Callable[[int], float] = exponential

    def __post_init__(self) -> None:
        if self.times < 1:
            raise DefinitionError(f"Restart(times={self.times}): times must be at least 1; leave restart= out for none")
        if not self.within > 0:
            raise DefinitionError(f"Restart(within={self.within}): within must be more than 0 seconds")
        if not callable(self.backoff):
            raise DefinitionError("Restart(backoff=…): backoff must be a callable, attempt -> seconds")
