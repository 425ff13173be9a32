"""The views of several processes as one: sums of what can be added up, and the worst of the rest."""

from __future__ import annotations

import json
from typing import Any

from asyncpc.remote.processes.views import view_together
from asyncpc.run.health import Health
from asyncpc.run.statistics import SourceStatistics, StageStatistics, Statistics
from asyncpc.run.verdict import Held, Verdict
from asyncpc.watch.failures import FailuresAlike
from asyncpc.watch.snapshot import as_dict, view_of
from asyncpc.watch.watcher import StageView, View

WELL = Health(live=True, ready=True, stalled=(), why="2 of 2 processes running")


def stage(**more: Any) -> StageStatistics:
    needed = [name for name in StageStatistics._fields if name not in StageStatistics._field_defaults]
    counts: dict[str, Any] = dict.fromkeys(needed, 0)
    return StageStatistics(**counts | {"name": "fetch", "concurrency": 2, "held_back": (), "last_failure": ""} | more)


def statistics(*stages: StageStatistics, elapsed: float = 9.0) -> Statistics:
    return Statistics("running", elapsed, (), stages, 0, 0, ("fetch",), stop_asked=False)


def view(verdict: str = "fetch: busy", alarm: bool = False, failures: Any = (), now: Any = None, **more: Any) -> View:
    now = now or stage(in_flight=1)
    shares = {"at_work": 1.0, "waits_for_room": 0.0, "waits_for_items": 0.0, "held_back": 0.0}
    told = {"busy": 1, "rate": 2.0, "failing": 0.5, "oldest": None, "held": None} | shares | more
    return View(statistics(now), Verdict(verdict, alarm), 0.0, (StageView(now, **told),), "jobs", None, failures)


def together(*views: View, health: Health = WELL, before: Statistics | None = None) -> View:
    now = statistics(stage(concurrency=2 * len(views), in_flight=len(views)))
    return view_together("jobs", now, before, [(place + 1, one) for place, one in enumerate(views)], health)


def test_figures_are_added_and_shares_weighed() -> None:
    """Four busy workers and one idle one are no half."""
    large = view(now=stage(concurrency=8), at_work=1.0, oldest=3.0, rates=(1.0, 2.0, 3.0), fills=(4, 5, 6))
    small = view(now=stage(concurrency=2), at_work=0.0, oldest=1.0, rates=(10.0,), fills=(1,))
    (both,) = together(large, small).stages
    assert (both.rate, both.failing, both.busy, both.oldest) == (4.0, 1.0, 2, 3.0)
    assert both.at_work == 0.8
    assert both.rates == (1.0, 2.0, 13.0)  # both end now
    assert both.fills == (4, 5, 7)


def test_counts_of_another_pipeline_are_not_compared() -> None:
    """A process that was replaced may run new code, with another source: the page goes on."""
    before = statistics(stage())._replace(sources=(SourceStatistics("jobs", 1, 0, 0.0),))
    assert not together(view(), before=before).verdict.is_alarm


def test_the_worst_is_told_and_where() -> None:
    """The process that has an alarm is named; a place without a process is an alarm too."""
    held = Held("fetch", 2, 2, 1, 70.0, "app.py:7 in fetch", False, 10.0)
    stuck = view("fetch: 1 of 2 workers are stuck", True, held=held)
    short = view(held=held._replace(stuck=0, seconds=80.0, place=""))
    both = together(short, stuck)
    assert both.verdict == ("process 2: fetch: 1 of 2 workers are stuck", True)
    assert both.stages[0].held == Held("fetch", 4, 4, 1, 70.0, "app.py:7 in fetch", False, 10.0)
    assert together(stuck, stuck).verdict.text.endswith("stuck (1 more processes have an alarm)")
    missing = WELL._replace(ready=False, why="1 of 2 processes running")
    assert together(view(), health=missing).verdict == ("1 of 2 processes running", True)


def test_what_limits_all_is_told_over_the_last_seconds() -> None:
    """Not over the whole run; other stages than before, as after a roll to new code, are no error."""
    before = statistics(stage(concurrency=4, get_waited=0.0), elapsed=1.0)
    assert together(view(), view(), before=before).verdict == ("fetch: busy 100% of 4 workers", False)
    other = statistics(stage(name="other"), elapsed=1.0)
    assert not together(view(), view(), before=other).verdict.is_alarm


def test_failures_alike_are_counted_together() -> None:
    """Of all processes; the last one is told, and the kind seen last comes first."""
    early = FailuresAlike("fetch", "ValueError", 3, 1.0, "app.py:1 in fetch", "")
    late = early._replace(times=4, at=3.0, place="app.py:2 in fetch")
    other = early._replace(kind="KeyError", times=1, at=2.0)
    both = together(view(failures=(late, other)), view(failures=(early,)))
    assert both.failures == (late._replace(times=7), other)


def test_it_goes_through_json() -> None:
    """The page of the parent gets what was told over the pipe."""
    both = together(view(), view())
    assert view_of(json.loads(json.dumps(as_dict(both)))) == both
