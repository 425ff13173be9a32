"""``Outcome``: how all processes have ended, as the end of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ...failure import FAILURES_KEPT
from ...run.report import Report
from ...run.statistics import Statistics
from .pipe import Message
from .spawned import Child

__all__ = ["Ending", "Outcome", "outcome_of"]


class Outcome(NamedTuple):
    """How it ended."""

    report: Report | None
    """The sum of the reports; None if nothing has run. The items that are left are only counted."""
    failures: Sequence[Any]
    """The last failures, as in ``--json``."""
    errors: Sequence[str]
    """What the runs failed with, a line each."""
    exit_status: int
    lines: Sequence[str]
    """What to show of a start that failed."""
    crashes: int
    """Processes that ended though nobody had asked them to."""


class Elsewhere:
    """Stands in a report for an item that a child was left with."""

    def __repr__(self) -> str:
        return "<an item of another process>"


class Ending:
    """Why all of it ends, as far as the parent knows."""

    def __init__(self) -> None:
        self.signals: list[int] = []
        self.failure: tuple[int, list[str]] | None = None
        """Of the start: the exit status, and what to show."""
        self.trouble: list[str] = []
        """What was wrong, a line each."""
        self.crashes: int = 0
        self.errors: list[str] = []
        self.failures: list[Any] = []
        """Of those that were replaced, the last ones."""

    def keep(self, report: Message) -> None:
        """Keep what a process has reported that was replaced."""
        self.errors = [*self.errors, *report["errors"]][-FAILURES_KEPT:]
        self.failures = [*self.failures, *report["failures"]][-FAILURES_KEPT:]


def outcome_of(ending: Ending, ended: Sequence[Child], total: Statistics | None) -> Outcome:
    """How it ended, when all have."""
    reports = [one.report for one in ended if one.report is not None]
    died = [one for one in ended if one.is_running and one.report is None]
    report = _report(ending, total, reports, died)
    errors = [*ending.errors, *[error for one in reports for error in one["errors"]], *ending.trouble]
    errors += [f"process {one.process.pid} {one.how()}" for one in died]
    failures = [*ending.failures, *[failure for one in reports for failure in one["failures"]]][-FAILURES_KEPT:]
    if ending.failure is not None:
        status, lines = ending.failure
    else:
        status, lines = _status(ending, report, ended, is_failed=bool(died or ending.trouble)), []
    return Outcome(report, failures, errors, status, lines, ending.crashes)


def _status(ending: Ending, report: Report | None, ended: Sequence[Child], *, is_failed: bool) -> int:
    """As for one process: what the sum says, unless a process had a reason of its own."""
    by_signal = 128 + ending.signals[0] if ending.signals else 0
    status = by_signal if report is None else report.exit_status
    for one in ended:
        code = one.process.returncode or 0
        is_explained = one.report is None or (code == one.report["exit_status"] and code in (1, by_signal))
        if code > 0 and not is_explained:  # a file that is not complete, a sys.exit()
            status = code
    return 1 if is_failed and status in (0, by_signal) else status


def _report(
    ending: Ending, total: Statistics | None, reports: Sequence[Message], died: Sequence[Child]
) -> Report | None:
    """The reports as one; of a child that died, what it had when it was last heard of."""
    if total is None:
        return None
    left: dict[str, int] = {}
    for report in reports:
        for stage, count in report["unfinished"].items():
            left[stage] = left.get(stage, 0) + count
    for child in died:
        for one in child.statistics.stages if child.statistics is not None else ():
            left[one.name] = left.get(one.name, 0) + one.in_flight + one.queued
    is_failed = bool(died or ending.trouble) or any(report["state"] == "failed" for report in reports)
    return Report(
        total._replace(state="failed" if is_failed else "closed"),
        tuple([(stage, (Elsewhere(),) * count) for stage, count in left.items() if count]),
        tuple([name for report in reports for name in report["abandoned"]]),
        ending.signals[0] if ending.signals else None,
    )
