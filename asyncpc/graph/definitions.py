"""Checks what a user writes, once, and makes frozen definitions of it: handlers and origins."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, cast

from ..backoff import Restart
from ..checks import (
    bind,
    check_callback,
    check_function,
    check_maxsize,
    check_restart,
    check_run_in,
    is_async,
    is_whole,
    kind_of,
    label_of,
    name_of,
    refuse_called,
    refuse_method,
    refuse_part,
    signature_of,
)
from ..core.plan import Handler, Origin
from ..core.queue import BoundedQueue
from ..errors import DefinitionError
from ..options import ARGUMENTS, options_from
from ..wording import shown

__all__ = ["OPTIONS", "Total", "bind_origin", "define_handler", "define_origin", "iterable_origin"]

Total = int | Callable[..., Any] | None
"""How many items a source will produce: a number, or a function that is called with what the source is made of."""

OPTIONS: Final[Mapping[str, Any]] = {"maxsize": None, "context": None, "run_in": None, "name": None, **ARGUMENTS}
"""A consumer's arguments, with their defaults."""


def define_handler(function: Callable[..., Any], **options: Any) -> Handler:
    """Check a consumer's function and options; raises ``DefinitionError``, which says what to write."""
    label = label_of(options.get("name"), function)
    where = f"consumer {label!r}"
    context, maxsize = options.get("context"), options.get("maxsize")
    kind = check_function(where, function, context)
    check_maxsize(where, maxsize)
    handler = Handler(
        name=label,
        function=function,
        generates=kind == "generator",
        concurrency=1,  # the option sets it
        maxsize=maxsize,
        context=context,
        run_in=check_run_in(where, function, options.get("run_in"), context),
        gives_several=kind == "generator",
        options=options_from(where, options),
    )
    for option in handler.options:
        handler = option.check(where, handler)
    return handler


def define_origin(function: Callable[..., Any], restart: Restart | None, name: str | None, total: Total) -> Origin:
    """Check a producer's function; ``open`` and ``total`` still take its arguments, which :func:`bind_origin` gives.

    Raises ``DefinitionError``, which says what to write.
    """
    label = label_of(name, function)
    where = f"producer {label!r}"
    refuse_called(where, function)
    refuse_part(where, function)
    if not callable(function):
        raise DefinitionError(f"{where}: {type(function).__name__} is not a function")
    refuse_method(where, function)
    if kind_of(function) != "generator":
        raise DefinitionError(f"{where} yields no items: write it with 'yield' (or see whether a decorator hides it)")
    return Origin(label, function, check_restart(where, restart), not is_async(function), check_total(where, total))


def bind_origin(origin: Origin, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Origin:
    """``origin`` with its arguments; raises ``DefinitionError`` when they do not fit its function."""
    try:
        bind(origin.open, args, kwargs)
    except TypeError as error:
        raise DefinitionError(
            f"producer {origin.name!r}: {error}; it is {signature_of(origin.open)}, so compose {origin.name}(…)"
        ) from None
    total = functools.partial(origin.total, *args, **kwargs) if callable(origin.total) else origin.total
    return origin._replace(open=functools.partial(origin.open, *args, **kwargs), total=total)


def iterable_origin(items: object, name: str | None = None, run_in: object = "loop", total: Total = None) -> Origin:
    """Any iterable or async iterable as an origin; raises ``DefinitionError`` for anything else."""
    label = label_of(name or f"source({type(items).__name__})", items)
    refuse_called(label, items)
    if not isinstance(items, (AsyncIterable, Iterable)):
        advice = f": decorate {shown(name_of(items))} with @producer" if callable(items) else ""
        raise DefinitionError(f"{label} is neither a producer, an iterable nor an async iterable{advice}")
    if run_in not in ("loop", "thread"):
        raise DefinitionError(f"{label}: run_in={shown(run_in)} must be 'loop' or 'thread'")
    blocks = run_in == "thread"
    if blocks and isinstance(items, AsyncIterable):
        raise DefinitionError(f"{label} is async, so it is read in the loop: leave run_in= out")
    total = check_total(label, total)
    if callable(total):
        total = functools.partial(total, items)
    elif total is None and isinstance(items, (list, tuple, range, set, frozenset, dict)):
        with suppress(OverflowError):  # len() of anything else may be slow
            total = len(items)
    if iter_is_self(items) or (isinstance(items, AsyncIterator) and not isinstance(items, BoundedQueue)):
        return Origin(label, _once(label, items), blocks=blocks, total=total)
    return Origin(label, lambda: items, blocks=blocks, total=total)


def check_total(where: str, total: Total) -> Total:
    """Check ``total=``: a number of items, a function that returns one, or None."""
    if total is None or (is_whole(total) and total >= 0):
        return total
    what = "a number of items, 0 or more, or a function such as len"
    return cast(Total, check_callback(where, "total", total, what, arguments=None))


def iter_is_self(items: object) -> bool:
    """Whether ``items`` is an iterator, which can be read only once."""
    return isinstance(items, Iterable) and hasattr(items, "__next__")


def _once(label: str, items: Any) -> Callable[[], Any]:
    """Open an iterator once; a second run would find it empty without a word, so it is refused."""
    used = False

    def items_once() -> Any:
        nonlocal used
        if used:
            raise DefinitionError(f"{label}: an earlier run used up this iterator; pass a list, or write a @producer")
        used = True
        return items

    return items_once
