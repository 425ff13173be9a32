"""How a run ended: its report, or the errors that it failed with, and what the log says of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from ..core.stage import Worker
from ..errors import ConservationError, DrainTimeout, QueueShutDown, WorkerCancelled
from ..logs import ERROR, log
from ..wording import annotate, begin_at_user_code, item_of, summary
from .report import PipelineError, Report

__all__ = ["Outcome"]

MOST_ERRORS: Final = 100
"""How many errors of a run are kept: the first ones."""


class Outcome:
    """What went wrong in one run so far, and its report once it has ended."""

    __slots__ = ("_name", "breach", "errors", "interrupt", "is_delivered", "report", "signal")

    def __init__(self, name: str) -> None:
        self._name = name  # of the pipeline
        self.errors: list[Exception] = []
        self.interrupt: BaseException | None = None
        """KeyboardInterrupt or SystemExit of a handler; the run raises it as it is (fault B13)."""
        self.breach: ConservationError | None = None
        self.report: Report | None = None
        self.signal: int | None = None
        """The first signal that asked the run to stop."""
        self.is_delivered: bool = False
        """Whether the caller has got the result already, so that leaving the block does not raise it again."""

    def keep(self, error: BaseException, where: str) -> None:
        """Keep an error that ends the run."""
        if not isinstance(error, Exception):
            self.interrupt = self.interrupt or error
            return
        if len(self.errors) == MOST_ERRORS:
            return
        self.errors.append(error)
        annotate(error, "in ", where, f" of pipeline {self._name!r}")
        begin_at_user_code(error)

    def judge(self, worker: Worker) -> Sequence[BaseException]:
        """Keep what a worker failed with that has ended, and return it; a cancel from outside is a failure too."""
        errors: Sequence[BaseException] = worker.failures
        if not errors and not worker.completed and not worker.cancelled:
            errors = [
                WorkerCancelled(
                    f"{worker.name}: its task was cancelled from outside the run, or its handler raised "
                    "CancelledError; the item it had is listed as unfinished"
                )
            ]
        for error in errors:
            self.keep(error, worker.name)
        return errors

    def hang_on(self, cancelled: asyncio.CancelledError) -> None:
        """Attach the report to a cancel that the run raises, and the errors, which nobody else would raise."""
        vars(cancelled)["report"] = self.report  # asyncio needs its own class, so there is no attribute for it
        if self.errors and cancelled.__cause__ is None and self.report is not None:
            cancelled.__cause__ = PipelineError(f"pipeline {self._name!r} failed", self.errors, self.report)

    def note_signal(self, number: int) -> None:
        """Keep the first signal that asked the run to stop, also in a report that is written already."""
        self.signal = self.signal or number
        if self.report is not None:
            self.report.signal = self.signal

    def is_clean(self) -> bool:
        """Whether nothing went wrong so far."""
        return not self.errors and self.interrupt is None

    def result(self) -> Report:
        """The report of a run that has ended; raises the errors that it failed with."""
        if self.interrupt is not None:
            raise self.interrupt
        if self.breach is not None:
            raise self.breach
        assert self.report is not None
        if self.errors:
            raise PipelineError(f"pipeline {self._name!r} failed", self.errors, self.report)
        return self.report

    def complete_result(self) -> Report:
        """The report of a run in which nothing failed and nothing was left; raises ``PipelineError`` otherwise."""
        report = self.result()
        if not report.complete:
            raise PipelineError(f"pipeline {self._name!r} could not finish", [_left(report)], report)
        return report

    def raise_with(self, error: Exception) -> None:
        """Add the ``error`` that the block raised: if the run failed too, raise one group of both, else nothing."""
        try:
            self.result()
        except PipelineError as failed:
            errors = [*failed.exceptions, *([] if isinstance(error, QueueShutDown) else [error])]
            raise PipelineError(failed.message, errors, failed.report) from error

    def log_failures(self, errors: Sequence[BaseException], how: str, stage: str = "") -> None:
        """Log errors that the run failed with."""
        for error in errors:
            if isinstance(error, Exception):
                what = summary(error) + item_of(error)
                message = "pipeline %r failed %s: %s"
                log(ERROR, message, self._name, how, what, error=error, pipeline=self._name, stage=stage)

    def log_left(self, level: int) -> None:
        """Log how many items each stage has left; never an item itself."""
        if self.report is None or not self.report.left:
            return
        counts = {stage.name: stage for stage in self.report.stages}
        for name, left in self.report.left_by_stage().items():
            one = counts[name]
            message = "pipeline %r: stage %r left %d of %d items unfinished (%d done, %d failed, %d dropped)"
            numbers = left, one.received, one.done, one.failed, one.dropped
            log(level, message, self._name, name, *numbers, pipeline=self._name, stage=name)


def _left(report: Report) -> DrainTimeout:
    left = ", ".join(f"{count} in {stage}" for stage, count in report.left_by_stage().items())
    parts = ([f"items left: {left}"] if left else []) + [f"{name} left behind" for name in report.abandoned]
    return DrainTimeout(f"stopped before it was done; {'; '.join(parts)}")
