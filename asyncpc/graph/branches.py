"""Where pipelines branch and meet: ``route``, ``broadcast`` and ``merge``."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from typing import Any, TypeVar, overload

from ..checks import check_callback, check_name
from ..errors import DefinitionError, Unroutable
from ..mistakes import explained
from ..options.failures import OnError
from ..wording import shown
from .decorators import Items, Listener, as_listener
from .definitions import define_handler
from .layout import branching, side_by_side
from .parts import source_layout, stage_layout
from .pipeline import Pipeline, Producer, Source, StageLike

__all__ = ["broadcast", "merge", "route"]

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")

Mergeable = Source[T] | Producer[..., T] | Pipeline[Any, T] | Items[T]
"""What can be merged."""


@overload
def merge(one: Mergeable[A], two: Mergeable[B], /) -> Source[A | B]: ...
@overload
def merge(one: Mergeable[A], two: Mergeable[B], three: Mergeable[C], /) -> Source[A | B | C]: ...
@overload
def merge(one: Mergeable[T], /, *more: Mergeable[T]) -> Source[T]: ...
@explained
def merge(*sources: Any) -> Source[Any]:
    """Make several sources one: items enter one queue in the order in which they come, and share its bound.

    A pipeline that has a source contributes the values of its last stage.
    """
    if not sources:
        raise DefinitionError("merge() needs at least one source")
    return Source(side_by_side([source_layout(one, "a part of merge()") for one in sources]))


@overload
def route(
    by: Callable[[A], Hashable],
    branches: Mapping[Any, StageLike[A, B]],
    default: None = None,
    *,
    maxsize: int | None = None,
    on_error: OnError | Listener | None = None,
    max_failures: float | None = None,
    name: str | None = None,
) -> Pipeline[A, B]: ...
@overload
def route(
    by: Callable[[A], Hashable],
    branches: Mapping[Any, StageLike[A, B]],
    default: StageLike[A, C],
    *,
    maxsize: int | None = None,
    on_error: OnError | Listener | None = None,
    max_failures: float | None = None,
    name: str | None = None,
) -> Pipeline[A, B | C]: ...
@explained
def route(
    by: Callable[[A], Hashable],
    branches: Mapping[Any, StageLike[A, Any]],
    default: StageLike[A, Any] | None = None,
    *,
    maxsize: int | None = None,
    on_error: OnError | Listener | None = None,
    max_failures: float | None = None,
    name: str | None = None,
) -> Pipeline[A, Any]:
    """Send each item into one of ``branches``: the one under the key that ``by(item)`` returns, else ``default``.

    A branch is a consumer, or a pipeline without a source. Each has its own queue, its own bounds and its own lines in
    the report; a consumer under two keys is one branch. The values of all branches go on to the next stage, if there is
    one. A branch whose queue is full holds up the others: give it more workers, ``maxsize`` or ``overflow``.

    An item that matches no branch fails with ``Unroutable``, under ``on_error``. See :func:`consumer` for ``on_error``,
    ``max_failures``, ``maxsize`` and ``name``. Raises ``DefinitionError`` for anything that cannot be a branch.
    """
    label = check_name(name or "route")
    where = f"route {label!r}"
    check_callback(where, "by", by, "a function of an item")
    if not isinstance(branches, Mapping) or not branches:
        raise DefinitionError(f"{where}: branches={shown(branches)} must be a dictionary: {{key: consumer, …}}")
    branches = dict(branches)
    parts = [*branches.values(), *([default] if default is not None else [])]
    distinct = list({id(part): part for part in parts}.values())
    place_of = {id(part): place for place, part in enumerate(distinct)}
    places = {key: (place_of[id(part)],) for key, part in branches.items()}
    otherwise = None if default is None else (place_of[id(default)],)
    keys = [[_key(key) for key, part in branches.items() if part is one] for one in distinct]

    async def choose(item: A) -> tuple[int, ...]:
        key = by(item)
        chosen = places.get(key, otherwise)
        if chosen is None:
            known = ", ".join(map(shown, places))
            raise Unroutable(f"{where}: no branch for {shown(key)}, only for {known:.200}; add it, or a default=")
        return chosen

    labels = [
        ", ".join([*of, *(["default"] if one is default else [])]) for of, one in zip(keys, distinct, strict=True)
    ]
    options = {"maxsize": maxsize, "on_error": as_listener(on_error), "max_failures": max_failures}
    return _branching(choose, label, distinct, labels, **options)


@overload
def broadcast(
    one: StageLike[A, B],
    two: StageLike[A, C],
    /,
    *,
    maxsize: int | None = None,
    on_error: OnError | Listener | None = None,
    max_failures: float | None = None,
    name: str | None = None,
) -> Pipeline[A, B | C]: ...
@overload
def broadcast(
    one: StageLike[A, B],
    two: StageLike[A, C],
    three: StageLike[A, D],
    /,
    *,
    maxsize: int | None = None,
    on_error: OnError | Listener | None = None,
    max_failures: float | None = None,
    name: str | None = None,
) -> Pipeline[A, B | C | D]: ...
@overload
def broadcast(
    one: StageLike[A, B],
    /,
    *more: StageLike[A, B],
    maxsize: int | None = None,
    on_error: OnError | Listener | None = None,
    max_failures: float | None = None,
    name: str | None = None,
) -> Pipeline[A, B]: ...
@explained
def broadcast(
    *branches: Any,
    maxsize: int | None = None,
    on_error: OnError | Listener | None = None,
    max_failures: float | None = None,
    name: str | None = None,
) -> Pipeline[Any, Any]:
    """Send each item into every one of ``branches``: they share the object, so they must not change it.

    A branch is a consumer, or a pipeline without a source. Each has its own queue, its own bounds and its own lines in
    the report. The values of all branches go on to the next stage, if there is one. The slowest branch sets the pace,
    unless it drops items (``overflow``).

    An item that a branch refuses (``overflow="raise"``, or a ``key`` that raises) has failed in the broadcast, under
    ``on_error``: the branches before that one have it, those after it do not get it. See :func:`consumer` for
    ``on_error``, ``max_failures``, ``maxsize`` and ``name``. Raises ``DefinitionError`` for anything that cannot be a
    branch.
    """
    label = check_name(name or "broadcast")
    if not branches or isinstance(branches[0], (list, tuple)):
        raise DefinitionError(f"broadcast {label!r} needs at least one branch, each as an argument: broadcast(a, b)")
    every = tuple(range(len(branches)))

    async def choose(item: object) -> tuple[int, ...]:
        return every

    options = {"maxsize": maxsize, "on_error": as_listener(on_error), "max_failures": max_failures}
    return _branching(choose, label, branches, [""] * len(branches), generates=True, **options)


def _branching(
    choose: Callable[[Any], Coroutine[Any, Any, tuple[int, ...]]],
    name: str,
    branches: Sequence[Any],
    labels: list[str],
    *,
    generates: bool = False,
    **options: Any,
) -> Pipeline[Any, Any]:
    """A pipeline of a stage that sends each item into the branches chosen for it, and of these branches."""
    layouts = [stage_layout(part, f"branch {place + 1} of {name!r}") for place, part in enumerate(branches)]
    handler = define_handler(choose, name=name, **options)._replace(
        branches=tuple(labels),
        generates=generates,
        gives_several=generates,
    )
    firsts = ", ".join([layout.nodes[0].handler.name for layout in layouts])
    return Pipeline(StageLike[Any, Any](branching(handler, layouts)), name=f"{name}({firsts})")


def _key(key: object) -> str:
    """A key as pictures show it: a word without quotes (``CH``), so that ``'1'`` and ``1`` still differ."""
    return key if isinstance(key, str) and key.isidentifier() and key != "default" else shown(key)
