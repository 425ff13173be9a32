"""``Latency``: how long calls take, in bounded memory; ``LoopProbe``: whether they let the event loop go on."""

from __future__ import annotations

import asyncio
import math
import struct
import sys
from collections import Counter

__all__ = ["Latency", "LoopProbe"]


class Latency:
    """Percentiles of durations in bounded memory: counts in 128 buckets per doubling, so within 1 %.

    Log-linear buckets, as in Gil Tene's HdrHistogram: the upper half of a 32-bit float is its exponent and the first
    seven bits of its fraction.
    """

    __slots__ = ("_counts", "_recent", "computed", "count", "seconds")

    def __init__(self) -> None:
        self.count: int = 0
        self.seconds: float = 0.0  # of all together
        self.computed: tuple[float, float, float] = 0.0, 0.0, 0.0
        """What half of the durations, nine of ten, and 99 of a hundred did not exceed when that was computed last."""
        self._counts: Counter[int] | None = None  # None: there are only the recent ones
        self._recent: list[float] = []

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self._recent.append(seconds)
        self.count += 1
        self.seconds += seconds
        if len(self._recent) == 64:
            self._count()

    def _count(self) -> None:
        """Find the buckets of many at once: that is several times as fast as one by one."""
        floats = memoryview(struct.pack(f"={len(self._recent)}f", *map(abs, self._recent)))
        self._recent.clear()
        if self._counts is None:
            self._counts = Counter()
        self._counts.update(floats.cast("H")[sys.byteorder == "little" :: 2])

    def compute(self) -> None:
        """Compute those three anew; it takes some 40 µs."""
        p50, p90, p99 = self.percentiles(0.50, 0.90, 0.99)
        self.computed = p50, p90, p99

    def percentiles(self, *shares: float) -> list[float]:
        """What each of ``shares`` (above 0, at most 1, rising) of the durations did not exceed; 0 before the first."""
        if self._counts is None:  # of so few, those themselves
            ordered = sorted(map(abs, self._recent)) or [0.0]
            return [ordered[math.ceil(share * len(ordered)) - 1] for share in shares]
        if self._recent:
            self._count()
        found: list[float] = []
        total, seen = self.count, 0
        for bucket, count in sorted(self._counts.items()):
            seen += count
            while len(found) < len(shares) and seen >= shares[len(found)] * total:
                low, high = struct.unpack(">2f", struct.pack(">4H", bucket, 0, bucket + 1, 0))
                found.append((low + high) / 2)
        return found


class LoopProbe:
    """Distinguishes calls that hold up the event loop from calls that wait and let others run.

    It watches a call after a slow one only: who found that a call took long calls :meth:`watch` before the next, and
    :meth:`ended` after it, with what :meth:`watch` gave; several may be watched at once.
    """

    __slots__ = ("_armed", "_ticks", "held")

    def __init__(self) -> None:
        self.held: float = 0.0
        """Seconds in which slow calls let nothing else run."""
        self._ticks = 0  # iterations of the loop that were seen
        self._armed = False  # whether the next iteration will be seen

    def watch(self) -> int:
        """A call begins that may be slow."""
        if not self._armed:
            self._armed = True
            asyncio.get_running_loop().call_soon(self._tick)
        return self._ticks

    def ended(self, before: int, seconds: float) -> bool:
        """The call took so long; whether it has let others run."""
        if self._ticks != before:
            return True
        self.held += seconds
        return False

    def _tick(self) -> None:
        self._ticks += 1
        self._armed = False
