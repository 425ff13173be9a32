"""Definitions joined into an acyclic graph, by pure functions of frozen values.

A :class:`Layout` is what has been joined so far; its ends are open. :func:`complete` makes a plan of it: each name
becomes unique, and each consumer that receives failures becomes a stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple, TypeVar

from ..core.plan import Handler, Node, Origin, Plan
from ..errors import DefinitionError

__all__ = ["Layout", "OnUnfinished", "branching", "complete", "side_by_side"]

DRAIN_TIMEOUT: Final = 30.0
"""Seconds a drain may take by default: what Kubernetes allows a pod between SIGTERM and SIGKILL."""


OnUnfinished = Callable[[Any], object]
"""Gets the items that a run has left, a tuple of ``Unfinished``; may be a coroutine function."""


class Layout(NamedTuple):
    """Sources and stages, as far as they are joined. One that writes to no stage yet is an open end."""

    origins: tuple[Origin, ...] = ()
    nodes: tuple[Node, ...] = ()
    """Each stage comes before those it writes to."""
    drain_timeout: float | None = None
    """Seconds a drain may take, if one of the parts sets it."""
    on_unfinished: OnUnfinished | None = None
    """What gets the items that a run has left, if one of the parts sets it."""
    maxsize: int | None = None
    """Items that each queue of the parts after this one holds, if this one is a pipeline that sets it."""

    def bounded(self, maxsize: int) -> Layout:
        """The same, with queues of ``maxsize`` items unless their stages set their own; more parts can follow."""
        nodes = [
            node._replace(handler=node.handler._replace(maxsize=node.handler.bound(maxsize))) for node in self.nodes
        ]
        return self._replace(nodes=tuple(nodes), maxsize=maxsize)

    def then(self, following: Layout) -> Layout:
        """This and ``following``: all open ends write to the first stage of that."""
        first = len(self.nodes)
        for node in self.nodes:
            if not node.following and node.handler.nothing_follows:
                raise DefinitionError(f"nothing can come after {node.handler.name!r}: {node.handler.nothing_follows}")
        origins = [one._replace(into=first) if one.into is None else one for one in self.origins]
        nodes = [node if node.following else node._replace(following=(first,)) for node in self.nodes]
        nodes += [node.moved(first) for node in following.nodes]
        return Layout(tuple(origins), tuple(nodes), *_first_settings(self, following))


def side_by_side(layouts: Sequence[Layout], before: int = 0) -> Layout:
    """The layouts side by side, after ``before`` other stages; their ends stay open."""
    origins: list[Origin] = []
    nodes: list[Node] = []
    for layout in layouts:
        by = before + len(nodes)
        origins += [one if one.into is None else one._replace(into=one.into + by) for one in layout.origins]
        nodes += [node.moved(by) for node in layout.nodes]
    return Layout(tuple(origins), tuple(nodes), *_first_settings(*layouts))


def branching(handler: Handler, branches: Sequence[Layout]) -> Layout:
    """A stage, and the branches it writes to."""
    firsts = accumulate([len(branch.nodes) for branch in branches[:-1]], initial=1)
    inside = side_by_side(branches, 1)
    return inside._replace(nodes=(Node(handler, tuple(firsts)), *inside.nodes))


def _first_settings(*layouts: Layout) -> tuple[float | None, OnUnfinished | None]:
    """The ``drain_timeout`` and ``on_unfinished`` of the first layouts that set them."""
    drain_timeouts = [one.drain_timeout for one in layouts if one.drain_timeout is not None]
    receivers = [one.on_unfinished for one in layouts if one.on_unfinished is not None]
    return drain_timeouts[0] if drain_timeouts else None, receivers[0] if receivers else None


def complete(name: str, layout: Layout, maxsize: int | None) -> Plan:
    """The plan of a layout: each consumer that receives failures becomes a stage, and each name becomes unique."""
    nodes, receivers = layout.nodes, _failure_receivers(layout.nodes)
    _check_attended(name, layout)
    place = {id(handler): len(nodes) + at for at, handler in enumerate(receivers)}
    all_nodes = (*nodes, *map(Node, receivers))
    named = _unique([node.handler for node in all_nodes])
    every = [
        Node(handler, node.following, place.get(id(handler.dead_letters)))
        for node, handler in zip(all_nodes, named, strict=True)
    ]
    return Plan(
        name=name,
        origins=_unique(layout.origins),
        nodes=tuple(every),
        main=len(nodes),
        entries=tuple(sorted({origin.into or 0 for origin in layout.origins})) or (0,),
        ends=tuple([place for place, node in enumerate(nodes) if not node.following]),
        shared=_shared(layout.origins, every),
        maxsize=maxsize,
        drain_timeout=DRAIN_TIMEOUT if layout.drain_timeout is None else layout.drain_timeout,
        on_unfinished=layout.on_unfinished,
    )


def _check_attended(name: str, layout: Layout) -> None:
    """Refuse a stage that could keep the items of a source for ever, if the source gives so many and no more."""
    for node in layout.nodes:
        if node.handler.waits_for_more and any(origin.attended is not None for origin in layout.origins):
            raise DefinitionError(
                f"pipeline {name!r}: stage {node.handler.name!r} waits until its batch is full, and a remote queue "
                "gives no more messages while those wait: write Batch(…, within=seconds)"
            )


def _shared(origins: Sequence[Origin], nodes: Sequence[Node]) -> tuple[int, ...]:
    """The places that more than one stage or source writes to."""
    written = [origin.into or 0 for origin in origins]
    for node in nodes:
        written += node.following
        if node.failures_to is not None:
            written.append(node.failures_to)
    once = set(written)
    return () if len(once) == len(written) else tuple(sorted([place for place in once if written.count(place) > 1]))


def _failure_receivers(nodes: Sequence[Node]) -> list[Handler]:
    """The consumers that ``on_error`` names, each once, and after all that send it failures."""
    receivers: list[Handler] = []
    for node in nodes:
        handler = node.handler
        while handler.dead_letters is not None:
            handler = handler.dead_letters
            receivers = [*(one for one in receivers if one is not handler), handler]
    return receivers


Named = TypeVar("Named", Origin, Handler)


def _unique(parts: Iterable[Named]) -> tuple[Named, ...]:
    """The parts with unique names, so that a report can tell them apart: a, a#2, a#3."""
    named: dict[str, Named] = {}
    for part in parts:
        name, number = part.name, 2
        while name in named:
            name, number = f"{part.name}#{number}", number + 1
        named[name] = part if name == part.name else part._replace(name=name)
    return tuple(named.values())
