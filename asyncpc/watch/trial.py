"""One trial of ``asyncpc profile``: a stage alone, run once on recorded input, and what was measured meanwhile."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import reduce
from itertools import cycle, islice
from operator import rshift
from time import perf_counter, process_time
from typing import Any, Final, NamedTuple

from ..core.plan import Handler, Origin, Plan
from ..errors import DrainTimeout
from ..failure import Failure
from ..graph.definitions import define_handler
from ..graph.layout import Layout
from ..graph.pipeline import Consumer, Pipeline, Source, run_beside
from ..options.failures import Failures
from ..options.overflow import Overflowing
from ..run.report import PipelineError
from ..run.running import Running, opening
from ..run.statistics import StageStatistics
from ..wording import described

__all__ = ["Trial", "now", "seconds_between"]

MEASURED: Final = 2.0
"""Seconds in which a trial begins calls."""

LONGEST: Final = 10.0
"""Seconds that a trial may take, resources and unfinished calls included; then what is left is cancelled."""

ROUNDS: Final = 4
"""Items (or batches) that each worker gets at least; the recorded items repeat if they are fewer."""

STEP: Final = 0.002
"""Seconds by which two clocks may differ: uvloop's has steps of a millisecond."""

LOOK: Final = 0.001
"""Seconds between two looks whether a stage is ready to be measured."""

Moment = tuple[float, float]
"""A moment on the real clock and on the loop's, in seconds."""


class _Recorded(NamedTuple):
    """An item of the input, to distinguish it from items that handlers feed."""

    item: Any


class Trial:
    """One run of one stage, between an intake that starts and stops the clock, and a stage that keeps the values."""

    def __init__(self, plan: Plan, handler: Handler, inputs: list[Any], room: int) -> None:
        bound = plan.bound(handler)
        if not handler.kept_by:  # such a queue chooses from the items that it holds
            bound = min(bound or room, room)  # or the end would wait for all that is queued
        self.failures: list[Failure] = []
        self.handler: Handler = _with_failures(handler._replace(maxsize=bound), "skip")
        self.plan = plan
        self.inputs = inputs
        self.values: list[Any] = []
        self.stage: StageStatistics
        self.trouble: str | None = None
        self.seconds: float = 0.0
        self.busy: float = 0.0
        self._running: Running[Any, Any]
        self._rounds = ROUNDS
        self._warm = handler.concurrency if handler.run_in == "process" and not handler.takes_lists else 0
        self._until = math.inf  # loop time after which nothing new begins
        self._settled_before = 0

    @property
    def settled(self) -> int:
        """Items done or failed while the clock ran."""
        return self.stage.done + self.stage.failed - self._settled_before

    @property
    def rate(self) -> float:
        """Items done or failed per second."""
        return self.settled / self.seconds if self.seconds > 0 else 0.0

    @property
    def values_per_item(self) -> float:
        """Values emitted per item."""
        return self.stage.emitted / max(1, self.stage.done + self.stage.failed)

    @property
    def calls(self) -> int:
        """About how many times the handler was called."""
        items = self.stage.done + self.stage.failed + self.stage.in_flight
        size = min(self.handler.items_per_call, max(1, items))
        return math.ceil(items / size) + self.stage.retried

    async def run(self, keep: int = 0, *, feeds: bool = False) -> None:
        """Run the stage. With ``keep``, run each input once, and keep up to so many values, and the first failure.

        With ``feeds``, also keep items that the handler feeds, up to so many inputs in all.
        """
        if keep:
            self._rounds = 0
            self.handler = _with_failures(self.handler, self._keep_failure)
        stages = [self._intake(keep if feeds else 0), self.handler, *([self._keeper(keep)] if keep else [])]
        trial = Pipeline[Any, Any](
            Source(Layout((Origin("recorded", self._inputs_again),))),
            reduce(rshift, map(Consumer[Any, Any, ..., Any], stages)),
            maxsize=self.plan.default_bound,
            drain_timeout=LONGEST,
            name=self.plan.name,
        )
        try:
            report = await run_beside(trial, self._limited)
        except PipelineError as error:
            report = error.report
            self.trouble = _trouble(error)
        self.stage = report.stages[1]
        if not self.trouble and not self.settled:
            self.trouble = f"no item was done after {LONGEST:g} s"
        elif not self.trouble and self.stage.done == 0:
            first = f", the first with {self.failures[0].error}" if self.failures else ""
            self.trouble = f"every item failed{first}"

    @contextmanager
    def _limited(self, running: Running[Any, Any]) -> Iterator[None]:
        """Stop the run after ``LONGEST`` seconds."""
        self._running = running
        timer = asyncio.get_running_loop().call_later(LONGEST, running.stop, 0)
        try:
            yield
        finally:
            timer.cancel()

    def _inputs_again(self) -> Iterator[_Recorded]:
        """The input, repeated if it is too short to keep the workers busy."""
        size = self.handler.items_per_call
        count = max(len(self.inputs), self._rounds * self.handler.concurrency * size + self._warm)
        return map(_Recorded, islice(cycle(list(self.inputs)), count))

    def _intake(self, most: int) -> Handler:
        """The stage in front: passes on the input while there is time, and fed items up to ``most`` inputs."""
        loop, passed = asyncio.get_running_loop(), 0

        async def intake(item: Any, start_clock: Callable[[], None]) -> AsyncIterator[Any]:
            nonlocal passed
            if type(item) is _Recorded:
                if passed == self._warm:
                    await _until(lambda: self._has_settled(self._warm))  # by then its processes have started
                    start_clock()
                passed += 1
                if loop.time() < self._until:
                    yield item.item
            elif len(self.inputs) < most and loop.time() < self._until:
                self.inputs.append(item)
                yield item

        return define_handler(intake, context=self._timed, name="intake")

    @asynccontextmanager
    async def _timed(self) -> AsyncIterator[Callable[[], None]]:
        """Run the clock until END, which the intake sees when everything is handled."""
        loop = asyncio.get_running_loop()
        began: Moment | None = None
        worked = 0.0

        def begin() -> None:
            nonlocal began, worked
            began, worked = now(), process_time()
            self._until = loop.time() + MEASURED
            if self._warm:
                stage = self._running.statistics().stages[1]
                self._settled_before = stage.done + stage.failed

        await asyncio.sleep(0)  # an eager task begins before the run is known
        await _until(lambda: not opening(self._running, 1))
        try:
            yield begin
        finally:
            if began is not None:
                self.seconds = seconds_between(began, now())
                self.busy = (process_time() - worked) / self.seconds if self.seconds > 0 else 0.0

    def _has_settled(self, count: int) -> bool:
        stage = self._running.statistics().stages[1]
        return stage.done + stage.failed >= count

    def _keeper(self, most: int) -> Handler:
        async def keep(value: Any) -> None:
            if len(self.values) < most:
                self.values.append(value)

        return define_handler(keep, name="keep")

    def _keep_failure(self, failure: Failure) -> None:
        if not self.failures:
            self.failures.append(failure)


def _with_failures(handler: Handler, on_error: Any) -> Handler:
    """The handler with another policy for failures, a queue that drops nothing, and a concurrency that stays."""
    options = [one for one in handler.options if not isinstance(one, (Failures, Overflowing))]
    own = handler.concurrency
    return handler._replace(options=(*options, Failures(on_error, None)), dead_letters=None, most_concurrency=own)


async def _until(ready: Callable[[], bool]) -> None:
    """Wait until ``ready``, which nobody announces."""
    looks = 0
    while looks == 0 or not ready():
        looks += 1
        await asyncio.sleep(LOOK)


def now() -> Moment:
    """This moment."""
    return perf_counter(), asyncio.get_running_loop().time()


def seconds_between(began: Moment, ended: Moment) -> float:
    """The seconds on the loop's clock if they are more, as in simulated time; else on the finer real clock."""
    real, loop = ended[0] - began[0], ended[1] - began[1]
    return loop if loop > real + STEP else real


def _trouble(failed: PipelineError) -> str | None:
    """Why a run failed, in words; None if it was only cut short."""
    errors = [error for error in failed.exceptions if not isinstance(error, DrainTimeout)]
    if errors:
        return described(errors[0])
    if failed.report.abandoned:
        return "its handler ignores cancellation, and still runs"
    return None
