"""``asyncpc profile``: each stage alone, at rising concurrency, on input that was recorded; and what limits in words.

The sources run once, until enough is recorded. Then, stage by stage, the handler is run on that input by an ordinary
run, with one concurrency after the other, and what it gives at its own concurrency is the input of the next stage.
So the handlers really run, many times over; what they write, they write many times.

``rate``, ``retry``, ``timeout``, ``breaker``, ``batch`` and ``key`` hold as they are defined. An item that fails is
counted and nobody is told, whatever ``on_error`` says; nothing is dropped, whatever ``overflow`` says. What the first
stage ``feed``s is recorded too, as far as there is room; apart from that, what is fed is let go. A stage whose
concurrency is adaptive is measured as one that has its highest.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import cycle, islice
from time import perf_counter, process_time
from typing import Any, Final, NamedTuple

from ..core.plan import Handler, Node, Origin, Plan
from ..errors import DefinitionError, DrainTimeout
from ..graph.definitions import define_handler
from ..graph.layout import Layout
from ..graph.pipeline import Consumer, Pipeline, Source, plan_of, run_within
from ..offload.handlers import with_pools
from ..options.failures import Failure, Failures
from ..options.overflow import Overflowing
from ..run.report import PipelineError, StageStatistics
from ..run.running import Running, opening
from ..wording import described
from .findings import Measurement, Profile, Record

__all__ = ["profile"]

MEASURED: Final = 2.0
"""Seconds in which a measurement begins calls."""

LONGEST: Final = 10.0
"""Seconds a measurement may take, resources and unfinished calls included; then what is left is cancelled."""

SHORT: Final = 0.1
"""Seconds below which measurements are repeated, at most ``TRIES`` in all: the best counts."""

TRIES: Final = 3

ROUNDS: Final = 4
"""Items (or batches) that each worker gets at least; the recorded ones come again, if they are fewer."""

STEP: Final = 0.002
"""Seconds by which two clocks may differ: uvloop's has steps of a millisecond."""

Moment = tuple[float, float]
"""Of the real clock and the loop's, in seconds."""

LOOK: Final = 0.001
"""Seconds between two looks whether a stage is ready to be measured."""


def profile(pipeline: Pipeline[Any, Any], items: int = 200, seconds: float = 10.0) -> AsyncIterator[Record | Profile]:
    """Measure ``pipeline``: gives the record, then a profile for each stage as soon as it is there.

    At most ``items`` are recorded, for at most ``seconds``. Raises ``DefinitionError`` at once for a pipeline that
    cannot be run or has no source, ``PipelineError`` in the middle if a source fails. A stage that cannot be measured
    is no error: its ``trouble`` says why. A route or broadcast is not measured; it has a profile if items failed there.
    *Cancel safety*: the run under way is cancelled, and nothing is left running.
    """
    plan = plan_of(pipeline)
    if not plan.origins:
        raise DefinitionError(f"pipeline {plan.name!r} has no source, so there is nothing to record")
    with_pools(plan)  # so that what cannot run is refused at once
    return _profiles(plan, items, seconds)


async def _profiles(plan: Plan, most: int, seconds: float) -> AsyncIterator[Record | Profile]:
    record, recorded = await _record(plan, most, seconds)
    yield record
    inputs = [recorded.get(place, []) for place in range(plan.main)]
    shares = [len(given) / max(1, record.items) for given in inputs]
    if len(plan.entries) == 1:
        shares[plan.entries[0]] = 1.0  # also if nothing was recorded
    for place, node in enumerate(plan.nodes[: plan.main]):
        handler = node.handler
        if handler.branches is not None:
            found, given = await _choices(handler, inputs[place], shares[place])
            if found.refused:
                yield found
        else:
            handler = handler._replace(concurrency=handler.most_concurrency)
            feeds = plan.entries == (place,)
            found, values, gives = await _profile(plan, handler, inputs[place], most, shares[place], feeds=feeds)
            yield found
            given = [(values, gives)]
        for following, (values, gives) in zip(node.following, given, strict=False):  # an end gives to nobody
            inputs[following] += values
            shares[following] += shares[place] * gives


async def _choices(handler: Handler, inputs: list[Any], share: float) -> tuple[Profile, list[tuple[list[Any], float]]]:
    """What failed in a branching; and for each branch the items it gets, and how many that are for an item."""
    branches: list[list[Any]] = [[] for _ in handler.branches or ()]
    errors: list[Exception] = []
    for item in inputs:
        try:
            chosen = await handler.function(item)
        except Exception as error:  # whatever on_error says
            errors.append(error)
            continue
        for branch in chosen:
            branches[branch].append(item)
    told = f"{len(errors):,} of them failed, the first with {described(errors[0])}" if errors else None
    found = Profile(handler, len(inputs), share, (), len(inputs), told, refused=len(errors))
    return found, [(items, len(items) / len(inputs) if inputs else 0.0) for items in branches]


async def _record(plan: Plan, most: int, seconds: float) -> tuple[Record, dict[int, list[Any]]]:
    """The first items of the sources, which are closed then, by the stage they are for.

    Those that were on their way meanwhile are let go.
    """
    loop, items = asyncio.get_running_loop(), list[tuple[int, Any]]()
    began = last = _now()

    def recorder(entry: int) -> Handler:
        async def keep(item: Any) -> None:
            nonlocal last
            last = _now()
            items.append((entry, item))
            if len(items) == most:
                loop.call_soon(running.stop)  # not now: an eager task may run before there is one

        return define_handler(keep, name="record")

    def time_is_up() -> None:
        nonlocal last
        last = _now()
        running.stop()

    entries = plan.entries
    origins = tuple([one._replace(into=entries.index(one.into or 0)) for one in plan.origins])
    parts: list[Any] = [Source(Layout(origins, tuple([Node(recorder(entry)) for entry in entries])))]
    recording = Pipeline[Any, Any](*parts, maxsize=1, drain_timeout=plan.drain_timeout, name=plan.name)
    async with recording as running:
        timer = loop.call_later(seconds, time_is_up)
        try:
            await running.wait()
        finally:
            timer.cancel()
    name = " + ".join(origin.name for origin in plan.origins)
    recorded: dict[int, list[Any]] = {}
    for entry, item in items[:most]:
        recorded.setdefault(entry, []).append(item)
    return Record(name, len(items[:most]), _seconds(began, last)), recorded


async def _profile(
    plan: Plan, handler: Handler, inputs: list[Any], most: int, share: float, *, feeds: bool
) -> tuple[Profile, list[Any], float]:
    """The profile of a stage, at most so many of the values it gives, and how many it gives for an item."""
    if not inputs:
        return Profile(handler, 0, share, (), 0, "no item came to it"), [], 0.0
    first = _Trial(plan, handler, inputs, room=handler.concurrency)
    await first.run(keep=most, feeds=feeds)
    calls, found, trouble = first.calls, list[Measurement](), first.trouble
    for concurrency in () if trouble else _levels(handler):
        room = max(concurrency, int(concurrency * first.rate / handler.concurrency * SHORT))
        one, trouble = await _measure(plan, handler._replace(concurrency=concurrency), inputs, room)
        calls += one.calls
        if trouble:
            trouble = f"at concurrency {concurrency}, {trouble}"
            break
        found.append(one)
    measured = tuple(found) if any(one.concurrency == handler.concurrency for one in found) else ()
    return Profile(handler, len(inputs), share, measured, calls, trouble), first.values, first.gives


async def _measure(plan: Plan, handler: Handler, inputs: list[Any], room: int) -> tuple[Measurement, str | None]:
    """The best of several trials, if they are short."""
    trials: list[_Trial] = []
    while not trials or (len(trials) < TRIES and not trials[-1].trouble and sum(t.seconds for t in trials) < SHORT):
        trials.append(_Trial(plan, handler, inputs, room))
        await trials[-1].run()
    best = max(trials, key=lambda trial: trial.rate)
    p50, p99, failed = best.stage.latency_p50, best.stage.latency_p99, best.stage.failed
    calls = sum(trial.calls for trial in trials)
    held = best.stage.loop_held / best.seconds if best.seconds > 0 else 0.0
    why, seconds = max(best.stage.held_back, key=lambda one: one[1], default=("", 0.0))
    held_back = why, seconds / (best.seconds * handler.concurrency) if best.seconds > 0 else 0.0
    found = Measurement(handler.concurrency, best.rate, p50, p99, failed, calls, best.busy, held, held_back)
    return found, trials[-1].trouble


class _Given(NamedTuple):
    """An item of the input, to be told from those that handlers feed."""

    item: Any


class _Trial:
    """One run of one stage, between an intake that begins and ends the time, and whoever keeps what it gives."""

    def __init__(self, plan: Plan, handler: Handler, inputs: list[Any], room: int) -> None:
        bound = plan.bound(handler)
        if not handler.kept_by:  # those choose from what their queue holds
            bound = min(bound or room, room)  # or all that is queued must be waited for at the end
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
        """Items done or failed while the time was taken."""
        return self.stage.done + self.stage.failed - self._settled_before

    @property
    def rate(self) -> float:
        """Items done or failed per second."""
        return self.settled / self.seconds if self.seconds > 0 else 0.0

    @property
    def gives(self) -> float:
        """Values given per item."""
        return self.stage.emitted / max(1, self.stage.done + self.stage.failed)

    @property
    def calls(self) -> int:
        """About how often the handler was called."""
        items = self.stage.done + self.stage.failed + self.stage.in_flight
        size = min(self.handler.items_per_call, max(1, items))
        return math.ceil(items / size) + self.stage.retried

    async def run(self, keep: int = 0, *, feeds: bool = False) -> None:
        """Run it. ``keep`` is for the first time: each input once, and so many values are kept, and an error.

        With ``feeds``, what it feeds is kept too, until there are so many inputs.
        """
        if keep:
            self._rounds = 0
            self.handler = _with_failures(self.handler, self._keep_failure)
        stages = [self._intake(keep if feeds else 0), self.handler, *([self._keeper(keep)] if keep else [])]
        parts: list[Any] = [
            Source(Layout((Origin("recorded", self._given),))),
            *map(Consumer[Any, Any, ..., Any], stages),
        ]
        trial = Pipeline[Any, Any](*parts, maxsize=self.plan.default_bound, drain_timeout=LONGEST, name=self.plan.name)
        try:
            report = await run_within(trial, self._beside)
        except PipelineError as error:
            report = error.report
            self.trouble = _trouble(error)
        self.stage = report.stages[1]
        if not self.trouble and not self.settled:
            self.trouble = f"no item was done after {LONGEST:g} s"
        elif not self.trouble and self.stage.done == 0:
            told = f", the first with {self.failures[0].error}" if self.failures else ""
            self.trouble = f"every item failed{told}"

    @contextmanager
    def _beside(self, running: Running[Any, Any]) -> Iterator[None]:
        self._running = running
        timer = asyncio.get_running_loop().call_later(LONGEST, running.stop, 0)
        try:
            yield
        finally:
            timer.cancel()

    def _given(self) -> Iterator[_Given]:
        """The input, more than once if there is too little to keep the workers busy."""
        size = self.handler.items_per_call
        count = max(len(self.inputs), self._rounds * self.handler.concurrency * size + self._warm)
        return map(_Given, islice(cycle(list(self.inputs)), count))

    def _intake(self, most: int) -> Handler:
        """The stage before: lets the input through while there is time, and what is fed up to ``most`` inputs."""
        loop, passed = asyncio.get_running_loop(), 0

        async def intake(given: Any, timed: Callable[[], None]) -> AsyncIterator[Any]:
            nonlocal passed
            if type(given) is _Given:
                if passed == self._warm:
                    await _when(lambda: self._has_settled(self._warm))  # by then its processes have begun
                    timed()
                passed += 1
                if loop.time() < self._until:
                    yield given.item
            elif len(self.inputs) < most and loop.time() < self._until:
                self.inputs.append(given)
                yield given

        return define_handler(intake, context=self._timed, name="intake")

    @asynccontextmanager
    async def _timed(self) -> AsyncIterator[Callable[[], None]]:
        """Take the time from when the intake begins to the END, which it sees when all is handled."""
        loop = asyncio.get_running_loop()
        began: Moment | None = None
        worked = 0.0

        def begin() -> None:
            nonlocal began, worked
            began, worked = _now(), process_time()
            self._until = loop.time() + MEASURED
            if self._warm:
                now = self._running.statistics().stages[1]
                self._settled_before = now.done + now.failed

        await asyncio.sleep(0)  # in an eager task, the run is not known yet
        await _when(lambda: not opening(self._running, 1))
        try:
            yield begin
        finally:
            if began is not None:
                self.seconds = _seconds(began, _now())
                self.busy = (process_time() - worked) / self.seconds if self.seconds > 0 else 0.0

    def _has_settled(self, count: int) -> bool:
        now = self._running.statistics().stages[1]
        return now.done + now.failed >= count

    def _keeper(self, most: int) -> Handler:
        async def keep(value: Any) -> None:
            if len(self.values) < most:
                self.values.append(value)

        return define_handler(keep, name="keep")

    def _keep_failure(self, failure: Failure) -> None:
        if not self.failures:
            self.failures.append(failure)


def _with_failures(handler: Handler, on_error: Any) -> Handler:
    """The handler with another policy for failures, whose queue drops nothing and whose concurrency stays as it is."""
    options = [one for one in handler.options if not isinstance(one, (Failures, Overflowing))]
    own = handler.concurrency
    return handler._replace(options=(*options, Failures(on_error, None)), dead_letters=None, most_concurrency=own)


async def _when(ready: Callable[[], bool]) -> None:
    """Wait until something is so that nobody tells of."""
    turns = 0
    while turns == 0 or not ready():
        turns += 1
        await asyncio.sleep(LOOK)


def _now() -> Moment:
    return perf_counter(), asyncio.get_running_loop().time()


def _seconds(began: Moment, ended: Moment) -> float:
    """Between two moments: the loop's, if they are ahead, as in simulated time; else its clock has coarser steps."""
    real, loop = ended[0] - began[0], ended[1] - began[1]
    return loop if loop > real + STEP else real


def _levels(handler: Handler) -> list[int]:
    """The concurrencies to be measured; more processes than twice the processors are no use to anybody."""
    own = handler.concurrency
    most = max(2 * own, 2 * (os.cpu_count() or 1) if handler.run_in == "process" else 32)
    return sorted({own, most, *(2**power for power in range(most.bit_length()))})


def _trouble(failed: PipelineError) -> str | None:
    """What a run failed with, in words; None if it was only cut short."""
    errors = [error for error in failed.exceptions if not isinstance(error, DrainTimeout)]
    if errors:
        return described(errors[0])
    if failed.report.abandoned:
        return "its handler ignores that it is cancelled, and still runs"
    return None
