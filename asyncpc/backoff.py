"""How long to wait before another attempt, and how often a producer is started again. All times are float seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .mistakes import explained

__all__ = ["Restart", "exponential"]


def exponential(attempt: int, *, first: float = 0.1, cap: float = 30.0) -> float:
    """Seconds to wait before ``attempt`` (1, 2, …): uniform in 0 … min(cap, first · 2^(attempt-1)).

    "Full jitter", from Marc Brooker, *Exponential Backoff And Jitter*, AWS Architecture Blog, 2015: it spreads
    out calls that failed together, and the cap bounds the longest wait.
    """
    import random  # here, since it is slow to import and seldom needed

    return random.uniform(0.0, min(cap, first * 2.0 ** min(attempt - 1, 60)))


@explained
class Restart(NamedTuple):
    """How often a producer that raised is started again: at most ``times`` within any ``within`` seconds.

    ``backoff`` returns the seconds to wait before restart 1, 2, …; any ``attempt -> seconds`` callable will do. One
    failure more than allowed fails the run, so a restart storm ends.
    """

    times: int = 3
    """Restarts, at least 1."""
    within: float = 60.0
    """Seconds."""
    backoff: Callable[[int], float] = exponential
    """Seconds before restart 1, 2, …"""
