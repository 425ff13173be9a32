"""``asyncpc profile``: measures each stage alone, at rising concurrency, on recorded input, and says what limits.

The sources run once, until enough input is recorded. Then, stage by stage, an ordinary run calls the handler with that
input, at one concurrency after the other. The values from its own concurrency are the input of the next stage. So the
handlers really run, many times over; what they write, they write many times.

``rate``, ``retry``, ``timeout``, ``breaker``, ``batch`` and ``key`` hold as they are defined. An item that fails is
only counted, whatever ``on_error`` says, and nothing is dropped, whatever ``overflow`` says. Items that the first stage
feeds are recorded too, as far as there is room; all other fed items are let go. A stage with adaptive concurrency is
measured as one that has its highest.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any, Final

from ..core.plan import Handler, Node, Plan
from ..errors import DefinitionError
from ..graph.definitions import define_handler
from ..graph.layout import Layout
from ..graph.pipeline import Pipeline, StageLike, plan_of
from ..offload.handlers import with_pools
from ..wording import described
from .findings import Measurement, Profile, Record
from .trial import Trial, now, seconds_between

__all__ = ["profile"]

SHORT: Final = 0.1
"""A measurement repeats trials until they took so many seconds together, at most ``TRIES`` of them; the best counts."""

TRIES: Final = 3


def profile(pipeline: Pipeline[Any, Any], items: int = 200, seconds: float = 10.0) -> AsyncIterator[Record | Profile]:
    """Measure ``pipeline``: yields the record, then the profile of each stage as soon as it is there.

    Records at most ``items`` items, for at most ``seconds``. Raises ``DefinitionError`` at once for a pipeline that
    cannot run or has no source, and ``PipelineError`` later if a source fails. A stage that cannot be measured is no
    error: its ``trouble`` says why. A route or broadcast is not measured; it has a profile if items failed there.
    *Cancel safety*: the current run is cancelled, and nothing is left running.
    """
    plan = plan_of(pipeline)
    if not plan.origins:
        raise DefinitionError(f"pipeline {plan.name!r} has no source, so there is nothing to record")
    with_pools(plan)  # refuses at once what cannot run
    return _profiles(plan, items, seconds)


async def _profiles(plan: Plan, most: int, seconds: float) -> AsyncIterator[Record | Profile]:
    record, recorded = await _record(plan, most, seconds)
    yield record
    inputs = [recorded.get(place, []) for place in range(plan.main)]
    shares = [len(items) / max(1, record.items) for items in inputs]
    if len(plan.entries) == 1:
        shares[plan.entries[0]] = 1.0  # also if nothing was recorded
    for place, node in enumerate(plan.nodes[: plan.main]):
        handler = node.handler
        if handler.branches is not None:
            found, emitted = await _choices(handler, inputs[place], shares[place])
            if found.refused:
                yield found
        else:
            handler = handler._replace(concurrency=handler.most_concurrency)
            feeds = plan.entries == (place,)
            found, values, per_item = await _profile(plan, handler, inputs[place], most, shares[place], feeds=feeds)
            yield found
            emitted = [(values, per_item)]
        for following, (values, per_item) in zip(node.following, emitted, strict=False):  # an end has no following
            inputs[following] += values
            shares[following] += shares[place] * per_item


async def _choices(handler: Handler, inputs: list[Any], share: float) -> tuple[Profile, list[tuple[list[Any], float]]]:
    """The failures of a branching; and for each branch its items, and how many they are per item of the input."""
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
    trouble = f"{len(errors):,} of them failed, the first with {described(errors[0])}" if errors else None
    found = Profile(handler, len(inputs), share, (), len(inputs), trouble, refused=len(errors))
    return found, [(items, len(items) / len(inputs) if inputs else 0.0) for items in branches]


async def _record(plan: Plan, most: int, seconds: float) -> tuple[Record, dict[int, list[Any]]]:
    """Record the first items of the sources, by the stage they enter; then close the sources.

    Items that are on their way at that moment are let go.
    """
    loop, items = asyncio.get_running_loop(), list[tuple[int, Any]]()
    began = last = now()

    def recorder(entry: int) -> Handler:
        async def keep(item: Any) -> None:
            nonlocal last
            last = now()
            items.append((entry, item))
            if len(items) == most:
                loop.call_soon(running.stop)  # not now: an eager task may run before it exists

        return define_handler(keep, name="record")

    def time_is_up() -> None:
        nonlocal last
        last = now()
        running.stop()

    entries = plan.entries
    origins = tuple([one._replace(into=entries.index(one.into or 0)) for one in plan.origins])
    parts = StageLike[Any, Any](Layout(origins, tuple([Node(recorder(entry)) for entry in entries])))
    recording = Pipeline(parts, maxsize=1, drain_timeout=plan.drain_timeout, name=plan.name)
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
    return Record(name, len(items[:most]), seconds_between(began, last)), recorded


async def _profile(
    plan: Plan, handler: Handler, inputs: list[Any], most: int, share: float, *, feeds: bool
) -> tuple[Profile, list[Any], float]:
    """The profile of a stage, up to ``most`` of its values, and how many values it emits per item."""
    if not inputs:
        return Profile(handler, 0, share, (), 0, "no item came to it"), [], 0.0
    first = Trial(plan, handler, inputs, room=handler.concurrency)
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
    return Profile(handler, len(inputs), share, measured, calls, trouble), first.values, first.values_per_item


async def _measure(plan: Plan, handler: Handler, inputs: list[Any], room: int) -> tuple[Measurement, str | None]:
    """Measure one concurrency: by one trial, or the best of several short ones."""
    trials: list[Trial] = []
    while not trials or (len(trials) < TRIES and not trials[-1].trouble and sum(t.seconds for t in trials) < SHORT):
        trials.append(Trial(plan, handler, inputs, room))
        await trials[-1].run()
    best = max(trials, key=lambda trial: trial.rate)
    p50, p99, failed = best.stage.latency_p50, best.stage.latency_p99, best.stage.failed
    calls = sum(trial.calls for trial in trials)
    held = best.stage.loop_held / best.seconds if best.seconds > 0 else 0.0
    why, seconds = max(best.stage.held_back, key=lambda one: one[1], default=("", 0.0))
    held_back = why, seconds / (best.seconds * handler.concurrency) if best.seconds > 0 else 0.0
    found = Measurement(handler.concurrency, best.rate, p50, p99, failed, calls, best.busy, held, held_back)
    return found, trials[-1].trouble


def _levels(handler: Handler) -> list[int]:
    """The concurrencies to measure; more processes than twice the processors are of no use."""
    own = handler.concurrency
    most = max(2 * own, 2 * (os.cpu_count() or 1) if handler.run_in == "process" else 32)
    return sorted({own, most, *(2**power for power in range(most.bit_length()))})
