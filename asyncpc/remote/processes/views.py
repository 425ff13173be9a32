"""What several processes tell of their runs, as one view: what can be added up is, of the rest the worst is told."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from ...run.health import Health
from ...run.statistics import StageStatistics, Statistics
from ...run.verdict import Held, Verdict, bottleneck
from ...watch.failures import FailuresAlike
from ...watch.watcher import StageView, View

__all__ = ["view_together"]


def view_together(
    name: str, now: Statistics, before: Statistics | None, views: Sequence[tuple[int, View]], health: Health
) -> View:
    """The view of all; each has the number of its process. ``now`` and ``before`` are the counts of all together."""
    parts = [{stage.now.name: stage for stage in view.stages} for _, view in views]
    return View(
        now,
        _verdict(now, before, views, health),
        max([view.silent for _, view in views], default=0.0),
        tuple([_stage(stage, [part[stage.name] for part in parts if stage.name in part]) for stage in now.stages]),
        name,
        None,
        _failures([view for _, view in views]),
    )


def _verdict(now: Statistics, before: Statistics | None, views: Sequence[tuple[int, View]], health: Health) -> Verdict:
    """That of the first process with an alarm, or else what limits all together."""
    alarms = [(number, view.verdict.text) for number, view in views if view.verdict.is_alarm]
    if alarms:
        number, text = alarms[0]
        others = f" ({len(alarms) - 1} more processes have an alarm)" if len(alarms) > 1 else ""
        return Verdict(f"process {number}: {text}{others}", True)
    if not health.ready and now.state == "running":
        return Verdict(health.why, True)
    is_same = before is not None and _names(before) == _names(now)  # new code may have other ones
    return Verdict(bottleneck(now.since(before) if before is not None and is_same else now), False)


def _names(run: Statistics) -> list[list[str]]:
    return [[source.name for source in run.sources], [stage.name for stage in run.stages]]


def _stage(now: StageStatistics, parts: Sequence[StageView]) -> StageView:
    ages = [part.oldest for part in parts if part.oldest is not None]
    workers = max(1, sum([part.now.concurrency for part in parts]))

    def share(of: Sequence[float]) -> float:
        return sum([one * part.now.concurrency for one, part in zip(of, parts, strict=True)]) / workers

    return StageView(
        now,
        busy=sum([part.busy for part in parts]),
        rate=sum([part.rate for part in parts]),
        failing=sum([part.failing for part in parts]),
        oldest=max(ages, default=None),
        at_work=share([part.at_work for part in parts]),
        waits_for_room=share([part.waits_for_room for part in parts]),
        waits_for_items=share([part.waits_for_items for part in parts]),
        held_back=share([part.held_back for part in parts]),
        held=_held([part.held for part in parts if part.held is not None], now.concurrency),
        rates=_added([part.rates for part in parts]),
        fills=_added([part.fills for part in parts]),
    )


def _held(parts: Sequence[Held], workers: int) -> Held | None:
    if not parts:
        return None
    longest = max(parts, key=lambda part: (part.stuck > 0, part.seconds))
    return longest._replace(
        workers=sum([part.workers for part in parts]), of=workers, stuck=sum([part.stuck for part in parts])
    )


def _added(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The sums of the last seconds, which all rows end with."""
    sums = [sum(column) for column in zip_longest(*[reversed(row) for row in rows], fillvalue=0.0)]
    return tuple(reversed(sums))


def _failures(views: Sequence[View]) -> tuple[FailuresAlike, ...]:
    kinds: dict[tuple[str, str], FailuresAlike] = {}
    for one in sorted([one for view in views for one in view.failures], key=lambda one: one.at):
        before = kinds.pop((one.stage, one.kind), None)
        kinds[one.stage, one.kind] = one._replace(times=one.times + (0 if before is None else before.times))
    return tuple(reversed(kinds.values()))
