"""The findings of ``asyncpc profile`` about a pipeline, and what they mean in words."""

from __future__ import annotations

import math
import os
import sys
from typing import Final, NamedTuple

from ..core.plan import Handler

__all__ = ["Measurement", "Profile", "Record", "verdict"]

GAIN: Final = 1.1
"""A concurrency with less than so many times the rate is not a gain."""

WORTH: Final = 1.25
"""A setting with less than so many times the rate is not advised: measurements vary."""

BUSY: Final = 0.6
"""A stage that uses at least this share of one processor counts as bound by it; other programs need some too."""

ONE_CORE: Final = 1.3
"""Threads that together use no more processors than this are taken to be kept apart by the GIL."""

PROCESS: Final = "run_in='process' would use more processors"

HELD_BACK: Final = 0.5
"""A stage whose calls are held back for at least this share of its workers' time counts as bound by that."""


class Record(NamedTuple):
    """What was recorded from the sources."""

    source: str
    items: int
    seconds: float

    @property
    def rate(self) -> float:
        """Items per second."""
        return self.items / self.seconds if self.seconds > 0 else math.inf

    def __str__(self) -> str:
        """Format the record as a line."""
        recorded = f"{_items(self.items)} recorded from {self.source} in {self.seconds:.2f} s"
        return f"{recorded}; each stage's handler was called with them, many times over" if self.items else recorded


class Measurement(NamedTuple):
    """What a stage alone did at one concurrency."""

    concurrency: int
    rate: float
    """Items handled per second, those that failed included."""
    latency_p50: float
    """Half of the sampled calls took no longer, in seconds; the wait for a rate or breaker included."""
    latency_p99: float
    failed: int
    """Items that failed."""
    calls: int
    """Calls of the handler, with an item or a batch; retries, and further trials for a better figure, included."""
    busy: float
    """How many processors this process kept busy meanwhile."""
    held: float
    """The share of the time in which its calls held up the event loop."""
    held_back: tuple[str, float] = ("", 0.0)
    """What held its calls back most, such as its rate, and for which share of its workers' time."""


class Profile(NamedTuple):
    """The measurements of a stage, or the items that failed in a route."""

    handler: Handler
    items: int
    """How many different items it was measured with."""
    share: float
    """Items that reach it for each item that comes into the pipeline."""
    measurements: tuple[Measurement, ...]
    """At rising concurrency; empty if it could not be measured."""
    calls: int
    """How many times the handler was called in all."""
    trouble: str | None = None
    """Why it could not be measured, or not to the end; or how items failed in a route."""
    refused: int = 0
    """Items that failed in a route, which is not measured."""

    @property
    def failed(self) -> bool:
        """Whether there were items, but no measurement; in a route, whether all of them failed."""
        if self.handler.branches is not None:
            return 0 < self.items == self.refused
        return self.items > 0 and not self.measurements

    @property
    def present(self) -> Measurement:
        """The measurement at its own concurrency."""
        return next(one for one in self.measurements if one.concurrency == self.handler.concurrency)

    @property
    def enough(self) -> Measurement:
        """The measurement at the lowest concurrency beyond which there is no gain."""
        measured = self.measurements
        return next(
            one for at, one in enumerate(measured) if all(more.rate < GAIN * one.rate for more in measured[at + 1 :])
        )

    def capacity(self, measurement: Measurement) -> float:
        """How many items per second may come into the pipeline before the stage falls behind."""
        return measurement.rate / self.share

    def __str__(self) -> str:
        """Format the measurements as a table."""
        per_item = f", {self.share:.3g} for each that comes in" if self.items and self.share != 1 else ""
        recorded = f"{_items(self.items)} recorded{per_item}"
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
    """Say which stage limits the pipeline, which setting would help, and how many times each handler was called."""
    called = ", ".join(f"{one.handler.name} {one.calls:,} times" for one in profiles)
    note = f"Each stage was measured alone; together they share the processors. Called: {called}."
    if any(one.failed for one in profiles):
        return f"not all stages could be measured, see above\n{note}"
    measured = [one for one in profiles if one.measurements]
    if not measured:
        return f"nothing was measured: {'no item came to a stage' if record.items else 'the sources produced no item'}"
    limit = min(measured, key=lambda one: one.capacity(one.present))
    capacity = limit.capacity(limit.present)
    if record.rate < capacity:
        name = limit.handler.name
        slow = f"{record.source} limits: {_number(record.rate)} items/s came while it was recorded"
        return f"{slow}; {name}, the slowest stage, could handle {_number(capacity)}\n{note}"
    others = [(one.capacity(one.present), one.handler.name) for one in measured if one is not limit]
    return f"{_limits(limit)}{_then(limit, [*others, (record.rate, record.source)])}\n{note}"


def _limits(limit: Profile) -> str:
    """``fetch limits: 40 items/s at concurrency 4; 16 would give 150``."""
    present, enough = limit.present, limit.enough
    words = f"{limit.handler.name} limits: {_number(present.rate)} items/s at concurrency {present.concurrency}"
    if abs(limit.share - 1) >= 0.005:
        words += f", which is {_number(limit.capacity(present))} of those that come in"
    if enough.rate >= WORTH * present.rate:
        more = ""
        if enough is limit.measurements[-1]:
            more = ", and more may give more"
        elif _is_bound_by_gil(limit.handler, enough) and not limit.handler.context:
            more = f", and beyond that the GIL binds it; {PROCESS}"
        return f"{words}; {enough.concurrency} would give {_number(enough.rate)}{more}"
    return f"{words}; raising it does not help: {_bound(limit)}"


def _then(limit: Profile, others: list[tuple[float, str]]) -> str:
    """Say what would limit next, after that setting."""
    capacity, name = min(others)
    if limit.enough.rate < WORTH * limit.present.rate or capacity >= limit.capacity(limit.enough):
        return ""
    return f" (but then {name} limits, at {_number(capacity)} of those that come in)"


def _bound(limit: Profile) -> str:
    """Say what binds a stage that more workers do not help."""
    handler, present = limit.handler, limit.present
    why, share = present.held_back
    if share >= HELD_BACK:
        return f"it is bound by {why}"
    if handler.run_in == "process":
        return f"its processes share {os.cpu_count()} processors, or wait for the same thing"
    if _is_bound_by_gil(handler, present):
        advice = "" if handler.context else f"; {PROCESS}"
        return f"it is bound by the GIL, which lets one thread compute at a time{advice}"
    if present.busy >= BUSY:
        what = "run_in='process' would use more of them"
        advice = "" if handler.context else f"; {'as a plain function, ' if handler.run_in == 'loop' else ''}{what}"
        return f"it is bound by the processor{advice}"
    if present.held >= BUSY:
        return "its calls hold up the event loop; written without 'async', they would run in threads"
    if "key" in handler.kept_by:
        return "its key= handles items of one key one at a time"
    return "its calls wait for the same thing: a lock, a server, a rate elsewhere"


def _is_bound_by_gil(handler: Handler, one: Measurement) -> bool:
    """Whether its threads keep one processor busy, and no more, since only one of them can compute at a time."""
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()  # CPython 3.13 and later may be built without
    return handler.run_in == "thread" and BUSY <= one.busy <= ONE_CORE and has_gil


def _items(count: int) -> str:
    return "1 item" if count == 1 else f"{count:,} items"


def _number(number: float) -> str:
    """A number with three digits, or as a whole number from a hundred on: ``1,234``, ``56.7``, ``0.0123``."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _time(seconds: float) -> str:
    for unit, size in ("s", 1.0), ("ms", 1e-3):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows with all columns but the last aligned to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    ruled = [rows[0], (*("-" * width for width in widths), ""), *rows[1:]]
    return [
        "  ".join([*(cell.rjust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in ruled
    ]
