"""The shape of a pipeline: definitions joined into an acyclic graph, by pure functions of frozen values (invariant 9).

A :class:`Layout` is what has been joined so far; its ends are open. A :class:`Plan` is what a run is made from: the
layout with a name for everything, its numbers, and a stage for each consumer that is told of failures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final, NamedTuple, TypeVar

from ..graph.definitions import Handler, Origin
from .queue import DEFAULT_MAXSIZE

__all__ = ["Layout", "Node", "Plan", "beside", "branching", "complete"]

DRAIN_TIMEOUT: Final = 30.0
"""Seconds a drain may take by default: what Kubernetes grants a pod between SIGTERM and SIGKILL."""


class Node(NamedTuple):
    """A stage of a layout or plan; the others are told by their places in it."""

    handler: Handler
    following: tuple[int, ...] = ()
    """The stages its values go on to; none: they are results."""
    failures_to: int | None = None
    """The stage of the consumer that ``on_error`` names."""

    def moved(self, by: int) -> Node:
        """The same where every place is so many further."""
        return self._replace(following=tuple([place + by for place in self.following]))


class Layout(NamedTuple):
    """Sources and stages as far as they are joined. What gives to nothing yet is an open end."""

    origins: tuple[Origin, ...] = ()
    nodes: tuple[Node, ...] = ()
    """Each before those it gives to."""
    drain_timeout: float | None = None
    """Seconds a drain may take, if a part of it says so."""

    def then(self, following: Layout) -> Layout:
        """This, and ``following``: all open ends give to its first stage."""
        first = len(self.nodes)
        origins = [one._replace(into=first) if one.into is None else one for one in self.origins]
        nodes = [node if node.following else node._replace(following=(first,)) for node in self.nodes]
        drain_timeout = _first_said(self, following)
        return Layout(tuple(origins), (*nodes, *(node.moved(first) for node in following.nodes)), drain_timeout)


def beside(layouts: Sequence[Layout], before: int = 0) -> Layout:
    """The layouts side by side, behind ``before`` other stages; their ends stay open."""
    origins: list[Origin] = []
    nodes: list[Node] = []
    for layout in layouts:
        by = before + len(nodes)
        origins += [one if one.into is None else one._replace(into=one.into + by) for one in layout.origins]
        nodes += [node.moved(by) for node in layout.nodes]
    return Layout(tuple(origins), tuple(nodes), _first_said(*layouts))


def branching(handler: Handler, branches: Sequence[Layout]) -> Layout:
    """A stage, and the branches it gives to."""
    firsts = accumulate([len(branch.nodes) for branch in branches[:-1]], initial=1)
    inside = beside(branches, 1)
    return inside._replace(nodes=(Node(handler, tuple(firsts)), *inside.nodes))


def _first_said(*layouts: Layout) -> float | None:
    return next((one.drain_timeout for one in layouts if one.drain_timeout is not None), None)


class Plan(NamedTuple):
    """What a run is made from: sources, stages, and the numbers that hold for all of them."""

    name: str
    made_from: Layout
    """With the names that were written."""
    origins: tuple[Origin, ...]
    nodes: tuple[Node, ...]
    """Each before those it gives to; those that are told of failures come last."""
    main: int
    """How many of them are no such."""
    entries: tuple[int, ...]
    """The stages that items come into from outside."""
    ends: tuple[int, ...]
    """The stages whose values are results."""
    shared: tuple[int, ...]
    """The stages that several others, or sources, give to."""
    maxsize: int | None
    """Items each queue holds whose stage does not say otherwise; 0 is unbounded, None the default."""
    drain_timeout: float
    """Seconds a drain may take, unless it is told otherwise."""

    @property
    def handlers(self) -> tuple[Handler, ...]:
        """What the stages do."""
        return tuple([node.handler for node in self.nodes])

    def bound(self, handler: Handler) -> int:
        """Items that the queue before ``handler`` holds; 0 is unbounded."""
        return handler.bound(self.default_bound)

    @property
    def default_bound(self) -> int:
        """Items a queue holds whose stage does not say otherwise, and that of the results; 0 is unbounded."""
        return DEFAULT_MAXSIZE if self.maxsize is None else self.maxsize

    @property
    def layout(self) -> Layout:
        """What it was made from, to be joined with more; where it has a ``maxsize``, that still holds."""
        if self.maxsize is None:
            return self.made_from
        nodes = self.made_from.nodes
        bound = [node._replace(handler=node.handler._replace(maxsize=self.bound(node.handler))) for node in nodes]
        return self.made_from._replace(nodes=tuple(bound))


def complete(name: str, layout: Layout, maxsize: int | None) -> Plan:
    """The plan of a layout: with a stage for each consumer that is told of failures, and names that differ."""
    nodes, told = layout.nodes, _told_of_failures(layout.nodes)
    place = {id(handler): len(nodes) + at for at, handler in enumerate(told)}
    every = [node._replace(failures_to=place.get(id(node.handler.on_error))) for node in (*nodes, *map(Node, told))]
    named = _unique([node.handler for node in every])
    return Plan(
        name=name,
        made_from=layout,
        origins=_unique(layout.origins),
        nodes=tuple([node._replace(handler=handler) for node, handler in zip(every, named, strict=True)]),
        main=len(nodes),
        entries=tuple(sorted({origin.into or 0 for origin in layout.origins})) or (0,),
        ends=tuple([place for place, node in enumerate(nodes) if not node.following]),
        shared=_shared(layout.origins, every),
        maxsize=maxsize,
        drain_timeout=DRAIN_TIMEOUT if layout.drain_timeout is None else layout.drain_timeout,
    )


def _shared(origins: Sequence[Origin], nodes: Sequence[Node]) -> tuple[int, ...]:
    """The places that are given to more than once."""
    given = Counter([origin.into or 0 for origin in origins])
    for node in nodes:
        given.update(node.following)
        given.update([] if node.failures_to is None else [node.failures_to])
    return tuple(sorted([place for place, times in given.items() if times > 1]))


def _told_of_failures(nodes: Sequence[Node]) -> list[Handler]:
    """The consumers that ``on_error`` names, each once, and behind all that tell it."""
    told: list[Handler] = []
    for node in nodes:
        handler = node.handler
        while isinstance(handler.on_error, Handler):
            handler = handler.on_error
            told = [*(one for one in told if one is not handler), handler]
    return told


Named = TypeVar("Named", Origin, Handler)


def _unique(parts: Iterable[Named]) -> tuple[Named, ...]:
    """The parts with names that differ, so that a report can tell them apart: a, a#2, a#3."""
    named: dict[str, Named] = {}
    for part in parts:
        name, number = part.name, 2
        while name in named:
            name, number = f"{part.name}#{number}", number + 1
        named[name] = part._replace(name=name)
    return tuple(named.values())
