"""Policies: frozen descriptions of what a user allows, without tasks or loops.

All times are float seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

__all__ = ["Adaptive", "Batch", "Breaker", "Failure", "Rate", "Restart", "Retry", "exponential"]


def exponential(attempt: int, *, first: float = 0.1, cap: float = 30.0) -> float:
    """Seconds to wait before ``attempt`` (1, 2, …): uniform in 0 … min(cap, first · 2^(attempt-1)).

    "Full jitter", from Marc Brooker, *Exponential Backoff And Jitter*, AWS Architecture Blog, 2015: it spreads
    those who failed together, and the cap bounds the longest wait.
    """
    import random  # here, since it is slow to import and seldom needed

    return random.uniform(0.0, min(cap, first * 2.0 ** min(attempt - 1, 60)))


class Restart(NamedTuple):
    """How often a producer that raised is started again: at most ``times`` within any ``within`` seconds.

    ``backoff`` gives the seconds to wait before restart 1, 2, …; any ``attempt -> seconds`` callable will do. One
    failure more than allowed is a failure of the run, so a restart storm ends.
    """

    times: int = 3
    """Restarts, at least 1."""
    within: float = 60.0
    """Seconds."""
    backoff: Callable[[int], float] = exponential
    """Seconds before restart 1, 2, …"""


# The item keeps its worker while it waits, so that items that wait count against the bounds (fault C7).
class Retry(NamedTuple):
    """How often a handler that raised is called again with its item; while the item waits it occupies its worker."""

    attempts: int = 3
    """The most calls for one item, the first included."""
    on: type[Exception] | tuple[type[Exception], ...] = Exception
    """What is worth another attempt; anything else fails at once."""
    wait: Callable[[int], float] = exponential
    """Seconds before attempt 2, 3, …, asked for with 1, 2, …; any ``attempt -> seconds`` callable."""


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


class Adaptive(NamedTuple):
    """A concurrency that follows the latency of the calls: as high as it can be while they take at most ``target``.

    Every ``every`` seconds the mean of the calls since is compared with ``target`` (seconds). Above it the stage gets a
    quarter fewer workers, but at least ``min``; below it one more, at most ``max``, if those it has are all at work.

    Additive increase, multiplicative decrease: Dah-Ming Chiu and Raj Jain, *Analysis of the Increase and Decrease
    Algorithms for Congestion Avoidance in Computer Networks*, 1989.
    """

    min: int
    """Workers, also at the start."""
    max: int
    """Workers."""
    target: float
    """Seconds that a call should take on average."""
    every: float = 0.5
    """Seconds between two looks."""


class Batch(NamedTuple):
    """Gather ``size`` items for one call of the handler, or as many as came ``within`` seconds of the first.

    Whatever is gathered is handled when the run drains, and when the queue is full. The handler gets a list; it gives
    a list with one result per item, or nothing. ``weigh`` gives an item's weight, such as its bytes: then ``size`` is
    the most a batch may weigh (an item heavier than that comes alone). ``key`` gathers each key by itself.

    A batch fails as one: it is retried, skipped or given up whole. ``split_on_error`` handles the items of a batch that
    has failed at last one by one, so that only those fail which are the reason.
    """

    size: float
    """Items, or with ``weigh`` the most that they may weigh together."""
    within: float | None = None
    """Seconds after its first item; None: as long as it takes."""
    weigh: Callable[[Any], float] | None = None
    """A function of an item."""
    key: Callable[[Any], Hashable] | None = None
    """A function of an item."""
    split_on_error: bool = False
    """Whether a batch that failed is tried again one by one."""


class Breaker(NamedTuple):
    """After ``failures`` failed calls in a row a stage rests for ``reset_after`` seconds, then tries with one item.

    If that fails too it rests again. A circuit breaker as in Michael Nygard, *Release It!*, 2007.
    """

    failures: int
    """Calls in a row."""
    reset_after: float
    """Seconds."""


# An exception would keep its frames alive, and all that is in them (fault C8).
class Failure(NamedTuple):
    """What ``on_error=`` gets for an item that was given up; of the error only texts, so that nothing is kept alive."""

    item: Any
    """The item as the stage got it."""
    error: str
    """Type and message."""
    attempts: int
    """Calls that were made with it."""
    stage: str
    """The stage that gave it up, by name."""
    traceback: str
    """The traceback of the last call."""
