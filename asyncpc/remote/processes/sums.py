"""The statistics of several processes that run one pipeline, as those of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from ...core.seams import RemoteCounts
from ...run.statistics import SourceStatistics, StageStatistics, Statistics

__all__ = ["sum_of", "without_present"]

MOST: Final = {"peak_queued", "loop_held", "latency_p50", "latency_p90", "latency_p99"}
"""What cannot be added up: the highest of any process counts."""

PRESENT: Final[Mapping[str, Any]] = {"concurrency": 0, "in_flight": 0, "queued": 0, "maxsize": 0, "rate": 0.0}
"""What a process has of a stage only while it lives."""

SEEN: Final = {"depth", "seen"}
"""What a process saw of a remote queue, which is the same for all; the rest are counts of its own."""

Part = TypeVar("Part", SourceStatistics, StageStatistics)


def without_present(ended: Statistics) -> Statistics:
    """What is left of a process that has ended and was replaced: its counts."""
    return ended._replace(
        stages=tuple([_without_connection(stage)._replace(**PRESENT) for stage in ended.stages]),
        sources=tuple([_without_connection(source) for source in ended.sources]),
    )


def _without_connection(part: Part) -> Part:
    return part if part.remote is None else part._replace(remote=part.remote._replace(disconnected=0.0))


def sum_of(parts: Sequence[Statistics], state: str, elapsed: float) -> Statistics:
    """All parts as one, by the names of sources and stages; there must be one at least.

    Latencies, the peaks of queues and the time for which the loop was held are those of the process with the highest.
    Rates are over ``elapsed``, the seconds since the first process began.
    """
    stages = _by_name([part.stages for part in parts])
    return Statistics(
        state=state,
        elapsed=elapsed,
        sources=_by_name([part.sources for part in parts]),
        stages=tuple([stage._replace(rate=stage.done / elapsed if elapsed > 0 else 0.0) for stage in stages]),
        put=sum([part.put for part in parts]),
        fed=sum([part.fed for part in parts]),
        ends=parts[-1].ends,
        stop_asked=any(part.stop_asked for part in parts),
    )


def _by_name(rows: Sequence[Sequence[Part]]) -> tuple[Part, ...]:
    found: dict[str, Part] = {}
    for row in rows:
        for one in row:
            before = found.get(one.name)
            found[one.name] = one if before is None else _added(before, one)
    return tuple(found.values())


def _added(one: Part, other: Part) -> Part:
    values = {name: _both(name, getattr(one, name), getattr(other, name)) for name in one._fields}
    return one._replace(**values)


def _both(name: str, one: Any, other: Any) -> Any:
    """A field of two processes as one."""
    if one is None or other is None:  # what is known of a remote queue
        return other if one is None else one
    if isinstance(one, RemoteCounts):
        return _together(one, other)
    if isinstance(one, str):  # the name, which is the same, or the last failure
        return other or one
    if isinstance(one, bool):
        return one and other if name == "is_fifo" else one or other
    if name == "writes_to":
        return one
    if isinstance(one, tuple):
        seconds = dict(one)
        for words, more in other:
            seconds[words] = seconds.get(words, 0.0) + more
        return tuple(seconds.items())
    return max(one, other) if name in MOST else one + other


def _together(one: RemoteCounts, other: RemoteCounts) -> RemoteCounts:
    """The counts of both; all see the same queue, so of its depth the last look counts."""
    last = max(one, other, key=lambda counts: counts.seen or 0.0)
    added = {name: getattr(one, name) + getattr(other, name) for name in one._fields if name not in SEEN}
    return last._replace(**added | {"disconnected": max(one.disconnected, other.disconnected)})
