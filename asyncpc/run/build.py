"""Builds what runs from a plan: a channel and a stage for each node, a worker for each source."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..core.channel import Channel
from ..core.fairness import FairWriters
from ..core.plan import Plan
from ..core.source import ProducerWorker
from ..core.stage import RunLinks, Stage
from ..core.waiting import Waits
from ..errors import StateError
from .attending import AttendantWorker

__all__ = ["Parts", "build"]


class Parts(NamedTuple):
    """What a run consists of."""

    stages: list[Stage]
    """Each stage comes before those it writes to."""
    producers: list[ProducerWorker]
    attendants: list[AttendantWorker]
    """What attends the sources."""
    first: Channel[Any]
    """Takes the items that are put and fed: the channel of the first stage, if there is only one."""
    results: Channel[Any] | None
    """Takes the values of the last stages, if somebody reads them."""
    channels: list[Channel[Any]]
    """All channels of the run."""


def build(plan: Plan, streamed: bool, links: RunLinks) -> Parts:
    """Build the parts of a run.

    Raises ``DefinitionError`` for a function that cannot run where its stage asks for it.
    """
    if {node.handler.run_in for node in plan.nodes} != {"loop"}:
        from ..offload.handlers import with_pools  # here, since most programs have no such stage

        plan = with_pools(plan)
    default = plan.default_bound
    channels: list[Channel[Any]] = [Channel(node.handler.bound(default)) for node in plan.nodes]
    stages = [Stage(node.handler, inbox, links) for node, inbox in zip(plan.nodes, channels, strict=True)]
    results: Channel[Any] | None = None
    if streamed:
        results = Channel(default)
        channels.append(results)
    for place, (node, stage) in enumerate(zip(plan.nodes, stages, strict=True)):
        dead_letters = stages[node.failures_to] if node.failures_to is not None else None
        stage.connect([stages[one] for one in node.following], dead_letters, results if place < plan.main else None)
    for place in plan.shared:
        stage = stages[place]
        if not stage.handler.takes_lists:  # a batch may wait until the queue is full
            stage.inbox.sharing = FairWriters(stage.inbox)
        for before in stage.before:
            before.timing.out_waits = before.timing.out_waits or Waits()
    attendants: list[AttendantWorker] = []
    producers: list[ProducerWorker] = []
    for origin in plan.origins:
        attendant = None
        if origin.attended is not None:
            attendant = origin.attended(plan.at_once)
            attendants.append(AttendantWorker(attendant))
            origin = origin._replace(open=attendant.items)
        producer = ProducerWorker(origin.name, origin, stages[origin.into or 0].inbox, links)
        producer.attendant = attendant
        producers.append(producer)
    return Parts(stages, producers, attendants, _first(plan, stages), results, channels)


def _first(plan: Plan, stages: list[Stage]) -> Channel[Any]:
    if len(plan.entries) == 1:
        return stages[plan.entries[0]].inbox
    refusing = Channel[Any](0)
    several = f"pipeline {plan.name!r} merges several first stages, so it takes no put() and no feed()"
    refusing.refuse(lambda: StateError(several))
    return refusing
