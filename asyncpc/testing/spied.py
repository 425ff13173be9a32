"""``spied``: a pipeline as it is, with spies in place of its consumers, and with the items of a test."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from ..core.plan import Handler, Node
from ..errors import DefinitionError
from ..graph.layout import Layout
from ..graph.parts import source_layout, stage_layout
from ..graph.pipeline import Pipeline, Source, StageLike, handler_of, plan_of
from ..wording import shown
from .stages import Spy

__all__ = ["spied"]

A = TypeVar("A")
B = TypeVar("B")


def spied(pipeline: Pipeline[A, B], *spies: Spy[Any, Any], source: Source[A] | None = None) -> Pipeline[A, B]:
    """A pipeline with all its settings, and with ``spies`` in place of the consumers that they look at.

    ::

        charging = Spy(charge, Crash(7, Declined("no money")))
        await spied(orders_pipeline, charging, source=Feed(6, 7, 8))

    ``source`` takes the place of its sources. Raises ``DefinitionError`` for a spy on a consumer that is not in the
    pipeline, and for sources that give to several stages.
    """
    layout = _layout_of(pipeline)
    replaced: set[Spy[Any, Any]] = set()

    def handler(one: Handler) -> Handler:
        for spy in spies:
            if one.function is spy.spied:
                replaced.add(spy)
                one = one._replace(function=handler_of(spy).function)
        return one if one.dead_letters is None else one._replace(dead_letters=handler(one.dead_letters))

    def node(one: Node) -> Node:
        return one._replace(handler=handler(one.handler))

    layout = layout._replace(nodes=tuple([node(one) for one in layout.nodes]))
    if missing := [handler_of(spy).name for spy in spies if spy not in replaced]:
        raise DefinitionError(f"spied: {', '.join(missing)} is not in {shown(pipeline)}")
    if source is not None:
        layout = _fed(layout, source)
    part: Any = Source(layout) if layout.origins else StageLike(layout)
    return cast("Pipeline[A, B]", Pipeline(part, name=plan_of(pipeline).name))


def _layout_of(pipeline: Pipeline[Any, Any]) -> Layout:
    where = "the pipeline to be spied on"
    return source_layout(pipeline, where) if plan_of(pipeline).origins else stage_layout(pipeline, where)


def _fed(layout: Layout, source: Source[Any]) -> Layout:
    """The layout with ``source`` in place of its own sources."""
    into = {origin.into or 0 for origin in layout.origins} or {0}
    if len(into) > 1:
        raise DefinitionError("spied: its sources give to several stages: spy on each of its parts")
    origins = source_layout(source, "source").origins
    return layout._replace(origins=tuple([one._replace(into=min(into)) for one in origins]))
