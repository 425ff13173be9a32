"""What ``asyncpc profile`` has found out about a pipeline, and what that means in words."""

from __future__ import annotations

import math
import os
from typing import Final, NamedTuple

from ..core.plan import Handler

__all__ = ["Measurement", "Profile", "Record", "verdict"]

GAIN: Final = 1.1
"""A concurrency that gives less than so many times as much is no gain."""

WORTH: Final = 1.25
"""A setting that gives less than so many times as much is not advised: measurements differ by themselves."""

BUSY: Final = 0.6
"""The share of one processor from which on a stage is taken to be bound by it; other programs need some as well."""

HELD_BACK: Final = 0.5
"""The share of its workers' time from which on a stage is taken to be bound by what holds its calls back."""


class Record(NamedTuple):
    """What the sources gave."""

    source: str
    items: int
    seconds: float

    @property
    def rate(self) -> float:
        """Items per second."""
        return self.items / self.seconds if self.seconds > 0 else math.inf

    def __str__(self) -> str:
        """A line that people can read."""
        told = f"{_items(self.items)} recorded from {self.source} in {self.seconds:.2f} s"
        return f"{told}; now each stage's handler is called with them, many times over" if self.items else told


class Measurement(NamedTuple):
    """A stage alone at one concurrency."""

    concurrency: int
    rate: float
    """Items handled per second, those that failed included."""
    latency_p50: float
    """Half of the calls sampled took no longer, in seconds; the waiting for a rate or breaker included."""
    latency_p99: float
    failed: int
    """Items that failed."""
    calls: int
    """Calls of the handler, for an item or batch; those repeated and those tried for a better figure included."""
    busy: float
    """Processors that this process kept busy meanwhile."""
    held: float
    """Share of the time in which its calls let nothing else run."""
    held_back: tuple[str, float] = ("", 0.0)
    """What held its calls back most, such as its rate, and for which share of its workers' time."""


class Profile(NamedTuple):
    """What was found out about a stage, or which items a route has refused."""

    handler: Handler
    items: int
    """How many it was tried with, again and again."""
    share: float
    """Items it gets for each that comes in."""
    measurements: tuple[Measurement, ...]
    """At rising concurrency; empty if it could not be measured."""
    calls: int
    """How often the handler was called in all."""
    trouble: str | None = None
    """Why it could not be measured, or not to the end; or why a route refused items."""
    refused: int = 0
    """Items that failed in a route, which is not measured."""

    @property
    def failed(self) -> bool:
        """Whether it could not be measured although there were items; of a route, whether it refused all of them."""
        if self.handler.branches is not None:
            return 0 < self.items == self.refused
        return self.items > 0 and not self.measurements

    @property
    def present(self) -> Measurement:
        """At the concurrency it has."""
        return next(one for one in self.measurements if one.concurrency == self.handler.concurrency)

    @property
    def enough(self) -> Measurement:
        """At the lowest concurrency beyond which there is no gain worth the name."""
        measured = self.measurements
        return next(
            one for at, one in enumerate(measured) if all(more.rate < GAIN * one.rate for more in measured[at + 1 :])
        )

    def capacity(self, measurement: Measurement) -> float:
        """Items coming in per second that it keeps up with."""
        return measurement.rate / self.share

    def __str__(self) -> str:
        """A table that people can read."""
        of_each = f", {self.share:.3g} for each that comes in" if self.items and self.share != 1 else ""
        recorded = f"{_items(self.items)} recorded{of_each}"
        if self.handler.branches is not None:
            return f"{self.handler.name}: {recorded}\n{self.trouble}"
        lines = [f"{self.handler.name}: concurrency {self.handler.concurrency}, {recorded}"]
        if self.measurements:
            head = ("concurrency", "items/s", "p50", "p99", "failed", "")
            lines += _table([head, *(self._row(one) for one in self.measurements)])
        return "\n".join([*lines, *([f"not measured: {self.trouble}"] if self.trouble else [])])

    def _row(self, one: Measurement) -> tuple[str, ...]:
        remarks = ["its setting"] if one.concurrency == self.handler.concurrency else []
        if one is self.enough:
            remarks.append("enough: more gains less than 10 %")
        times = _time(one.latency_p50), _time(one.latency_p99)
        return str(one.concurrency), _number(one.rate), *times, str(one.failed), ", ".join(remarks)


def verdict(record: Record, profiles: list[Profile]) -> str:
    """Which stage limits the pipeline as it is set, and which setting would help; then what was called how often."""
    called = ", ".join(f"{one.handler.name} {one.calls:,} times" for one in profiles)
    note = f"Each stage was measured alone; together they share the processors. Called: {called}."
    if any(one.failed for one in profiles):
        return f"not all stages could be measured, see above\n{note}"
    measured = [one for one in profiles if one.measurements]
    if not measured:
        return f"nothing was measured: {'no item came to a stage' if record.items else 'the sources gave no item'}"
    limit = min(measured, key=lambda one: one.capacity(one.present))
    capacity = limit.capacity(limit.present)
    if record.rate < capacity:
        name = limit.handler.name
        slow = f"{record.source} limits: {_number(record.rate)} items/s came while it was recorded"
        return f"{slow}; {name}, the slowest stage, would take {_number(capacity)}\n{note}"
    others = [(one.capacity(one.present), one.handler.name) for one in measured if one is not limit]
    return f"{_limits(limit)}{_then(limit, [*others, (record.rate, record.source)])}\n{note}"


def _limits(limit: Profile) -> str:
    """``fetch limits: 40 items/s at concurrency 4; 16 would give 150``."""
    present, enough = limit.present, limit.enough
    told = f"{limit.handler.name} limits: {_number(present.rate)} items/s at concurrency {present.concurrency}"
    if abs(limit.share - 1) >= 0.005:
        told += f", which is {_number(limit.capacity(present))} of those that come in"
    if enough.rate >= WORTH * present.rate:
        more = ", and more may give more" if enough is limit.measurements[-1] else ""
        return f"{told}; {enough.concurrency} would give {_number(enough.rate)}{more}"
    return f"{told}; raising it does not help: {_bound(limit)}"


def _then(limit: Profile, others: list[tuple[float, str]]) -> str:
    """Who would limit if the advice was taken."""
    capacity, name = min(others)
    if limit.enough.rate < WORTH * limit.present.rate or capacity >= limit.capacity(limit.enough):
        return ""
    return f" (but then {name} limits, at {_number(capacity)} of those that come in)"


def _bound(limit: Profile) -> str:
    """What holds a stage up that more workers do not help."""
    handler, present = limit.handler, limit.present
    why, share = present.held_back
    if share >= HELD_BACK:
        return f"it is bound by {why}"
    if handler.run_in == "process":
        return f"its processes share {os.cpu_count()} processors, or wait for one and the same thing"
    if present.busy >= BUSY:
        what = "run_in='process' would use more of them"
        cure = "" if handler.context else f"; {'as a plain function, ' if handler.run_in == 'loop' else ''}{what}"
        return f"it is bound by the processor{cure}"
    if present.held >= BUSY:
        return "its calls hold up the event loop; written without 'async', they are made in threads"
    if "key" in handler.kept_by:
        return "its key= lets items of one key be handled one at a time"
    return "its calls wait for one and the same thing: a lock, a server, a rate elsewhere"


def _items(count: int) -> str:
    return "1 item" if count == 1 else f"{count:,} items"


def _number(number: float) -> str:
    """Three figures at most below a thousand: ``1,234``, ``56.7``, ``0.0123``."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _time(seconds: float) -> str:
    for unit, size in ("s", 1.0), ("ms", 1e-3):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows with their columns aligned to the right, but for the last."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    ruled = [rows[0], (*("-" * width for width in widths), ""), *rows[1:]]
    return [
        "  ".join([*(cell.rjust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in ruled
    ]
