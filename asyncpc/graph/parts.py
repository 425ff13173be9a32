"""The parts of a pipeline: what each is made of, where it may stand, and how several are joined.

The types that let an item's type flow from part to part are in ``pipeline``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

from ..checks import Composable, check_callback, check_maxsize, check_name, check_seconds, refuse_called
from ..core.plan import Origin, Plan
from ..errors import DefinitionError
from ..mistakes import unknown_attribute
from ..wording import shown
from .definitions import iterable_origin
from .layout import Layout, OnUnfinished, complete

__all__ = ["Part", "join", "source_layout", "stage_layout"]


class Part(Composable):
    """Something that can be joined with others: one or several sources, one or several stages, or both."""

    __slots__ = ("_layout",)

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def _as_part(self) -> Layout:
        """What it is made of, where it becomes a part of something."""
        return self._layout

    def _as_stage(self) -> Layout:
        """What it is made of, where items go into it; raises ``DefinitionError`` if none can."""
        if self._layout.origins:
            raise DefinitionError(
                f"{self._named()} produces items itself, so it can only come first; join several sources with "
                "merge(a, b)"
            )
        return self._as_part()

    def _label(self) -> str:
        """What it adds to the name of a pipeline that has no name of its own."""
        return _names(self._layout.origins)

    def _named(self) -> str:
        """How messages name it."""
        return f"<{type(self).__name__} {self._label()}>"

    def __repr__(self) -> str:
        return self._named()

    if not TYPE_CHECKING:  # checkers refuse these as they are; without docstrings, the reference leaves them out

        def __getattr__(self, name: str) -> None:
            raise unknown_attribute(self, name)

        def __or__(self, other: object) -> None:
            raise DefinitionError(f"{self._named()} | …: parts are joined with >>, as in numbers >> double >> show")

        __ror__ = __or__


def source_layout(part: Any, where: str) -> Layout:
    """The layout of a part that comes first, or is merged; raises ``DefinitionError`` if it has no source."""
    refuse_called(where, part)
    if isinstance(part, Part):
        layout = part._as_part()
        if not layout.origins:
            raise DefinitionError(
                f"{part._named()} has no source: only a part with a source can come first or be merged"
            )
        return layout
    if isinstance(part, (list, tuple)) and any(isinstance(one, Part) for one in part):
        raise DefinitionError(
            f"{where} is a {type(part).__name__} of parts: pass each as an argument of its own, as in merge(a, b)"
        )
    return Layout((iterable_origin(part),))


def stage_layout(part: Any, where: str) -> Layout:
    """The layout of a part that items go into; raises ``DefinitionError`` if none can."""
    refuse_called(where, part)
    if not isinstance(part, Part):
        raise DefinitionError(f"{where}, {shown(part)}, is not a stage: decorate it with @consumer")
    return part._as_stage()


def join(
    parts: Sequence[Any],
    maxsize: int | None,
    drain_timeout: float | None,
    on_unfinished: OnUnfinished | None,
    name: str | None,
) -> tuple[Plan, Layout]:
    """Join parts in order: the plan, and the layout for joining more; raises ``DefinitionError`` for a wrong order."""
    layouts = [_layout_at(place, part) for place, part in enumerate(parts)]
    if not any(layout.nodes for layout in layouts):
        raise DefinitionError("an empty pipeline: it needs at least one consumer")
    layout = reduce(Layout.then, layouts)
    if maxsize is None:
        maxsize = layouts[0].maxsize
    label = check_name(name or " >> ".join(map(_label, parts)))
    where = f"pipeline {label!r}"
    check_maxsize(where, maxsize)
    check_seconds(where, "drain_timeout", drain_timeout)
    if drain_timeout is not None:
        layout = layout._replace(drain_timeout=drain_timeout)
    if on_unfinished is not None:
        what = "a function of the items left"
        check_callback(where, "on_unfinished", on_unfinished, what, may_be_async=True)
        layout = layout._replace(on_unfinished=on_unfinished)
    return complete(label, layout, maxsize), layout if maxsize is None else layout.bounded(maxsize)


def _layout_at(place: int, part: Any) -> Layout:
    where = f"part {place + 1} of the pipeline"
    takes_items = place > 0 or (isinstance(part, Part) and not part._layout.origins)
    return stage_layout(part, where) if takes_items else source_layout(part, where)


def _label(part: Any) -> str:
    return part._label() if isinstance(part, Part) else _names([iterable_origin(part)])


def _names(origins: Iterable[Origin]) -> str:
    return " + ".join([origin.name for origin in origins])
