"""What the user wrote, looked at once: frozen definitions of sources and handlers, and the mistakes refused.

A definition is inert (invariant 9): it holds functions and numbers, nothing that belongs to a loop or a run.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Hashable, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..checks import (
    OnError,
    Overflow,
    Resource,
    RunIn,
    at_least_1,
    check_adaptive,
    check_batch,
    check_breaker,
    check_function,
    check_item_function,
    check_max_failures,
    check_maxsize,
    check_on_error,
    check_order,
    check_overflow,
    check_rate,
    check_restart,
    check_retry,
    check_run_in,
    is_async,
    is_positive,
    kind_of,
    label_of,
    name_of,
    refuse_called,
    refuse_method,
    signature_of,
)
from ..errors import DefinitionError
from ..options.retry import Adaptive, Batch, Breaker, Failure, Rate, Restart, Retry
from ..core.queue import BoundedQueue

if TYPE_CHECKING:
    from ..offload.threads import Crew

__all__ = ["Handler", "Origin", "define_handler", "define_origin", "iterable_origin"]


class Origin(NamedTuple):
    """One place that items come from: ``open()`` gives a fresh (async) iterable for every run."""

    name: str
    open: Callable[[], AsyncIterable[Any] | Iterable[Any]]
    restart: Restart | None = None
    blocks: bool = False
    """Whether it is a plain generator that may block, so that a run reads it in a thread."""
    total: int | None = None
    """How many items it will give, where that is known."""
    into: int | None = None
    """The stage it gives to, once that is known."""

    def iterate(self) -> AsyncIterator[Any]:
        """A fresh iterator; a plain iterable is wrapped, so that workers know one kind only."""
        items = self.open()
        return aiter(items) if isinstance(items, AsyncIterable) else _each(items)


class Handler(NamedTuple):
    """What a stage does with an item: an async function (one value out) or async generator (any number out)."""

    name: str
    function: Callable[..., Any]
    generates: bool
    concurrency: int
    """At the start, if it is adaptive."""
    adaptive: Adaptive | None
    maxsize: int | None
    context: Resource[Any] | None
    retry: Retry | None
    timeout: float | None
    """Seconds a call may take."""
    on_error: OnError | Handler
    """A handler: that of the consumer that is told."""
    max_failures: float | None
    """Items that may fail; a float below 1 is a share of those settled."""
    rate: Rate | None
    breaker: Breaker | None
    batch: Batch | None
    ordered: bool
    key: Callable[[Any], Hashable] | None
    priority: Callable[[Any], Any] | None
    overflow: Overflow
    on_drop: Callable[[Any], object] | None
    run_in: RunIn
    branches: tuple[str, ...] | None = None
    """What each branch is for, if it is a branching: then the function names some of them, and each gets the item."""
    crew: Crew | None = None
    """The processes of one run that make its calls."""
    depth: int = 1
    """Workers for each of them."""

    def bound(self, default: int) -> int:
        """Items its queue holds, in a pipeline whose queues hold ``default``; 0 is unbounded."""
        if self.maxsize is not None:
            return self.maxsize
        if self.batch is not None and self.batch.weigh is None and default > 0:
            return max(default, 2 * math.ceil(self.batch.size))  # or no batch would ever be full
        return default

    async def tell(self, failure: Failure) -> None:
        """Hand ``failure`` to the destination that ``on_error`` names, and wait until it is there."""
        destination = self.on_error
        if isinstance(destination, asyncio.Queue):
            await destination.put(failure)
        elif callable(destination) and inspect.isawaitable(told := destination(failure)):
            await told

    def open_context(self) -> AbstractAsyncContextManager[Any]:
        """The resource of one worker, not yet entered."""
        if isinstance(self.context, AbstractAsyncContextManager):
            return self.context
        assert self.context is not None  # only asked when there is one
        opened = self.context()
        if not isinstance(opened, AbstractAsyncContextManager):
            raise TypeError(
                f"stage {self.name!r}: context= gave a {type(opened).__name__}, which is no async context manager: "
                "decorate the function with @asynccontextmanager"
            )
        return opened


def define_handler(
    function: Callable[..., Any],
    *,
    concurrency: int | Adaptive = 1,
    maxsize: int | None = None,
    context: Resource[Any] | None = None,
    retry: int | Retry | None = None,
    timeout: float | None = None,
    on_error: OnError | Handler = "stop",
    max_failures: float | None = None,
    rate: Rate | None = None,
    breaker: Breaker | None = None,
    batch: Batch | None = None,
    ordered: bool = False,
    key: Callable[[Any], Hashable] | None = None,
    priority: Callable[[Any], Any] | None = None,
    overflow: Overflow = "wait",
    on_drop: Callable[[Any], object] | None = None,
    run_in: RunIn | None = None,
    name: str | None = None,
) -> Handler:
    """Look at a consumer's function and options; raises ``DefinitionError`` that names the stage and the cure."""
    label = label_of(name, function)
    where = f"consumer {label!r}"
    kind = check_function(where, function, context)
    adaptive = concurrency if isinstance(concurrency, Adaptive) else None
    if adaptive is not None:
        check_adaptive(where, adaptive)
        if run_in == "process":
            raise DefinitionError(f"{where}: concurrency= is a number of processes, which cannot be Adaptive")
    check_maxsize(where, maxsize)
    if timeout is not None and not is_positive(timeout):
        raise DefinitionError(f"{where}: timeout={timeout!r} must be more than 0 seconds")
    return Handler(
        name=label,
        function=function,
        generates=kind == "generator",
        concurrency=at_least_1(where, "concurrency", concurrency if adaptive is None else adaptive.min),
        adaptive=adaptive,
        maxsize=maxsize,
        context=context,
        retry=check_retry(where, retry),
        timeout=timeout,
        on_error=on_error if isinstance(on_error, Handler) else check_on_error(where, on_error),
        max_failures=check_max_failures(where, max_failures, on_error),
        rate=None if rate is None else check_rate(where, rate),
        breaker=check_breaker(where, breaker),
        batch=check_batch(where, batch, maxsize),
        ordered=check_order(where, ordered, batch, key, priority),
        key=check_item_function(where, "key", key),
        priority=check_item_function(where, "priority", priority),
        overflow=check_overflow(where, overflow, on_drop, batch, key, priority),
        on_drop=check_item_function(where, "on_drop", on_drop),
        run_in=check_run_in(where, function, run_in, context),
    )


OPTIONS: Final = tuple(name for name in define_handler.__annotations__ if name not in ("function", "return"))
"""The names of a consumer's options."""


def define_origin(function: Callable[..., Any], restart: Restart | None, name: str | None) -> Origin:
    """Look at a producer's function; ``open`` still takes its arguments. Raises ``DefinitionError`` naming the cure."""
    label = label_of(name, function)
    where = f"producer {label!r}"
    refuse_called(where, function)
    if not callable(function):
        raise DefinitionError(f"{where}: {type(function).__name__} is not a function")
    refuse_method(where, function)
    if kind_of(function) != "generator":
        raise DefinitionError(f"{where} gives no items: write it with 'yield' (a decorator around it may hide that)")
    return Origin(label, function, check_restart(where, restart), not is_async(function))


def bind_origin(origin: Origin, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Origin:
    """``origin`` with its arguments; raises ``DefinitionError`` when they do not fit its function."""
    try:
        inspect.signature(origin.open).bind(*args, **kwargs)
    except TypeError as error:
        raise DefinitionError(
            f"producer {origin.name!r}: {error}; it is written {signature_of(origin.open)}, so compose {origin.name}(…)"
        ) from None
    return origin._replace(open=functools.partial(origin.open, *args, **kwargs))


def iterable_origin(items: object, name: str | None = None) -> Origin:
    """Any iterable or async iterable as an origin; raises ``DefinitionError`` for anything else."""
    label = label_of(name or f"source({type(items).__name__})", items)
    refuse_called(label, items)
    if not isinstance(items, (AsyncIterable, Iterable)):
        cure = f": decorate {name_of(items)!r} with @producer" if callable(items) else ""
        raise DefinitionError(f"{label} is neither a producer, an iterable nor an async iterable{cure}")
    total: int | None = None
    if isinstance(items, (list, tuple, range, set, frozenset, dict)):  # len() of anything else may be work
        with suppress(OverflowError):
            total = len(items)
    if iter_is_self(items) or (isinstance(items, AsyncIterator) and not isinstance(items, BoundedQueue)):
        return Origin(label, _once(label, items), total=total)
    return Origin(label, lambda: items, total=total)


def iter_is_self(items: object) -> bool:
    """Whether ``items`` is an iterator, which gives its items once only."""
    return isinstance(items, Iterable) and hasattr(items, "__next__")


async def _each(items: Iterable[Any]) -> AsyncIterator[Any]:
    iterator = iter(items)
    try:
        for item in iterator:
            yield item
    finally:
        if isinstance(iterator, Generator):
            iterator.close()


def _once(label: str, items: Any) -> Callable[[], Any]:
    """An iterator can be run once; a second run would silently find it empty, so it is refused."""
    used = False

    def items_once() -> Any:
        nonlocal used
        if used:
            raise DefinitionError(
                f"{label}: this iterator was used up by an earlier run; give a list, or write a @producer"
            )
        used = True
        return items

    return items_once
