"""Which pipelines a monitoring system is told of, and under which names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..checks import check_name
from ..errors import DefinitionError
from ..graph.pipeline import Pipeline, accompany, plan_of
from ..wording import shown
from .totals import Totals

__all__ = ["newly_watched"]


def newly_watched(
    pipeline: Pipeline[Any, Any], name: str | None, watched: Mapping[str, Pipeline[Any, Any] | None]
) -> tuple[str, Totals] | None:
    """The name of a pipeline, and the counts of its runs from now on, also of one that is under way.

    None if it is among those ``watched`` already. Raises ``DefinitionError`` if another one is, under that name.
    """
    if not isinstance(pipeline, Pipeline):
        raise DefinitionError(f"watch() takes a Pipeline, such as numbers >> show, not {shown(pipeline)}")
    if any(one is pipeline for one in watched.values()):
        return None
    plan = plan_of(pipeline)
    name = plan.name if name is None else check_name(name)
    if name in watched:
        raise DefinitionError(
            f"another pipeline is watched as {name!r}: give this one a name of its own, watch(pipeline, name='…')"
        )
    totals = Totals(plan)
    accompany(pipeline, totals.beside)
    return name, totals
