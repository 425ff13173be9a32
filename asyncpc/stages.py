"""What the user wrote, looked at once: frozen definitions of sources and handlers, and the mistakes refused.

A definition is inert (invariant 9): it holds functions and numbers, nothing that belongs to a loop or a run.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from math import inf
from typing import Any, Final, Literal, NamedTuple, TypeVar

from .errors import DefinitionError
from .policies import Breaker, Failure, Rate, Restart, Retry

__all__ = ["Handler", "Origin", "Plan", "define_handler", "define_origin", "iterable_origin"]

OnError = Literal["stop", "skip"] | Callable[[Failure], object] | asyncio.Queue[Failure]
Context = Callable[[], AbstractAsyncContextManager[Any]] | AbstractAsyncContextManager[Any]


class Origin(NamedTuple):
    """One place that items come from: ``open()`` gives a fresh (async) iterable for every run."""

    name: str
    open: Callable[[], AsyncIterable[Any] | Iterable[Any]]
    restart: Restart | None = None
    total: int | None = None
    """How many items it will give, where that is known."""

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
    maxsize: int | None
    context: Context | None
    retry: Retry | None
    timeout: float | None
    """Seconds a call may take."""
    on_error: OnError
    max_failures: float | None
    """Items that may fail; a float below 1 is a share of those settled."""
    rate: Rate | None
    breaker: Breaker | None

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
        return self.context()


class Plan(NamedTuple):
    """What a run is made from: sources, handlers in order, and the numbers that hold for all of them."""

    name: str
    origins: tuple[Origin, ...]
    handlers: tuple[Handler, ...]
    maxsize: int
    """Items each queue holds whose stage does not say otherwise; 0 is unbounded."""
    drain_timeout: float
    """Seconds a drain may take, unless it is told otherwise."""


def define_handler(
    function: Callable[..., Any],
    *,
    concurrency: int = 1,
    maxsize: int | None = None,
    context: Context | None = None,
    retry: int | Retry | None = None,
    timeout: float | None = None,
    on_error: OnError = "stop",
    max_failures: float | None = None,
    rate: Rate | None = None,
    breaker: Breaker | None = None,
    name: str | None = None,
) -> Handler:
    """Look at a consumer's function and options; raises ``DefinitionError`` that names the stage and the cure."""
    label = _label(name, function)
    where = f"consumer {label!r}"
    kind = _check_function(where, function, context)
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise DefinitionError(f"{where}: concurrency={concurrency!r} must be a whole number, at least 1")
    check_maxsize(where, maxsize)
    if timeout is not None and not _positive(timeout):
        raise DefinitionError(f"{where}: timeout={timeout!r} must be more than 0 seconds")
    return Handler(
        name=label,
        function=function,
        generates=kind == "generator",
        concurrency=concurrency,
        maxsize=maxsize,
        context=context,
        retry=_check_retry(where, retry),
        timeout=timeout,
        on_error=_check_on_error(where, on_error),
        max_failures=_check_max_failures(where, max_failures, on_error),
        rate=check_rate(where, rate),
        breaker=_check_breaker(where, breaker),
    )


OPTIONS: Final = tuple(name for name in define_handler.__annotations__ if name not in ("function", "return"))
"""The names of a consumer's options."""


def _check_function(where: str, function: Callable[..., Any], context: Context | None) -> str:
    """What kind of function it is: ``"coroutine"`` or ``"generator"``."""
    refuse_called(where, function)
    if not callable(function):
        raise DefinitionError(f"{where}: {type(function).__name__} is not a function")
    kind = _kind(function)
    if kind is None:
        raise DefinitionError(f"{where} is a plain function: write 'async def' (sync handlers come with threads)")
    if context is not None:
        _check_context(where, context)
    wanted = ("item",) if context is None else ("item", "resource")
    if not _accepts(function, len(wanted)):
        raise DefinitionError(
            f"{where} must take {' and '.join(wanted)}, but is written {_signature(function)}"
            + ("; context= adds the resource" if context is None and _accepts(function, 2) else "")
        )
    return kind


def _check_retry(where: str, retry: object) -> Retry | None:
    if isinstance(retry, int) and not isinstance(retry, bool):
        retry = Retry(attempts=retry)
    if retry is None:
        return None
    if not isinstance(retry, Retry):
        raise DefinitionError(f"{where}: retry={retry!r} must be a number of attempts, or Retry(attempts, on=…)")
    if isinstance(retry.attempts, bool) or not isinstance(retry.attempts, int) or retry.attempts < 1:
        raise DefinitionError(f"{where}: {retry.attempts!r} attempts: must be a whole number, at least 1 (no retry)")
    kinds = retry.on if isinstance(retry.on, tuple) else (retry.on,)
    if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
        raise DefinitionError(f"{where}: Retry(on={retry.on!r}): on must be an Exception class, or a tuple of them")
    if not callable(retry.wait):
        raise DefinitionError(f"{where}: Retry(wait={retry.wait!r}): wait must be a callable, attempt -> seconds")
    return retry


def _check_on_error(where: str, on_error: Any) -> Any:
    if on_error in ("stop", "skip") or isinstance(on_error, asyncio.Queue):
        return on_error
    refuse_called(f"{where}: on_error=", on_error)
    if not callable(on_error) or not _accepts(on_error, 1):
        raise DefinitionError(
            f"{where}: on_error={on_error!r} must be 'stop', 'skip', or a function or queue that takes a Failure"
        )
    return on_error


def _check_max_failures(where: str, most: object, on_error: object) -> float | None:
    if most is None:
        return None
    if on_error == "stop":
        raise DefinitionError(f"{where}: max_failures= needs on_error='skip' or a destination: the first failure stops")
    whole = isinstance(most, int) and not isinstance(most, bool) and most >= 0
    share = isinstance(most, float) and 0 <= most < 1
    if not (whole or share):
        raise DefinitionError(f"{where}: max_failures={most!r} must be a number of items, or a share below 1")
    assert isinstance(most, (int, float))
    return most


def check_rate(where: str, rate: object) -> Rate | None:
    """Refuse what is no rate."""
    if rate is None:
        return None
    if not isinstance(rate, Rate):
        raise DefinitionError(f"{where}: rate={rate!r} must be Rate(n, per=seconds)")
    if not _positive(rate.n) or not _positive(rate.per):
        raise DefinitionError(f"{where}: {rate!r}: n and per must be more than 0")
    if isinstance(rate.burst, bool) or not isinstance(rate.burst, int) or rate.burst < 1:
        raise DefinitionError(f"{where}: {rate!r}: burst must be a whole number, at least 1 (evenly spaced)")
    if rate.key is not None and not (callable(rate.key) and _accepts(rate.key, 1)):
        raise DefinitionError(f"{where}: {rate!r}: key must be a function of an item")
    return rate


def _check_breaker(where: str, breaker: object) -> Breaker | None:
    if breaker is None:
        return None
    if not isinstance(breaker, Breaker):
        raise DefinitionError(f"{where}: breaker={breaker!r} must be Breaker(failures, reset_after)")
    if isinstance(breaker.failures, bool) or not isinstance(breaker.failures, int) or breaker.failures < 1:
        raise DefinitionError(f"{where}: {breaker!r}: failures must be a whole number, at least 1")
    if not _positive(breaker.reset_after):
        raise DefinitionError(f"{where}: {breaker!r}: reset_after must be more than 0 seconds")
    return breaker


def _positive(number: object) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and 0 < number < inf


def define_origin(function: Callable[..., Any], restart: Restart | None, name: str | None) -> Origin:
    """Look at a producer's function; ``open`` still takes its arguments. Raises ``DefinitionError`` naming the cure."""
    label = _label(name, function)
    where = f"producer {label!r}"
    refuse_called(where, function)
    if not callable(function):
        raise DefinitionError(f"{where}: {type(function).__name__} is not a function")
    if inspect.isgeneratorfunction(_bare(function)):
        raise DefinitionError(
            f"{where} is a sync generator: write 'async def', or if it never blocks give it as source({label}())"
        )
    if _kind(function) != "generator":
        raise DefinitionError(f"{where} gives no items: write 'async def' with 'yield'")
    return Origin(label, function, restart)


def bind_origin(origin: Origin, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Origin:
    """``origin`` with its arguments; raises ``DefinitionError`` when they do not fit its function."""
    try:
        inspect.signature(origin.open).bind(*args, **kwargs)
    except TypeError as error:
        raise DefinitionError(
            f"producer {origin.name!r}: {error}; it is written {_signature(origin.open)}, so compose {origin.name}(…)"
        ) from None
    return Origin(origin.name, functools.partial(origin.open, *args, **kwargs), origin.restart)


def iterable_origin(items: object, name: str | None = None) -> Origin:
    """Any iterable or async iterable as an origin; raises ``DefinitionError`` for anything else."""
    label = _label(name or f"source({type(items).__name__})", items)
    refuse_called(label, items)
    if not isinstance(items, (AsyncIterable, Iterable)):
        cure = f": decorate {_name(items)!r} with @producer" if callable(items) else ""
        raise DefinitionError(f"{label} is neither a producer, an iterable nor an async iterable{cure}")
    total: int | None = None
    if isinstance(items, (list, tuple, range, set, frozenset, dict)):  # len() of anything else may be work
        with suppress(OverflowError):
            total = len(items)
    if isinstance(items, AsyncIterator) or iter_is_self(items):
        return Origin(label, _once(label, items), total=total)
    return Origin(label, lambda: items, total=total)


def iter_is_self(items: object) -> bool:
    """Whether ``items`` is an iterator, which gives its items once only."""
    return isinstance(items, Iterable) and hasattr(items, "__next__")


def check_maxsize(where: str, maxsize: int | None) -> None:
    """Refuse a bound that is not a whole number of items, at least 0."""
    if maxsize is not None and (isinstance(maxsize, bool) or not isinstance(maxsize, int) or maxsize < 0):
        raise DefinitionError(f"{where}: maxsize={maxsize!r} must be a whole number; 0 means unbounded")


Named = TypeVar("Named", Origin, Handler)


def unique(parts: Iterable[Named]) -> tuple[Named, ...]:
    """The parts with names that differ, so that a report can tell them apart: a, a#2, a#3."""
    named: dict[str, Named] = {}
    for part in parts:
        name, number = part.name, 2
        while name in named:
            name, number = f"{part.name}#{number}", number + 1
        named[name] = part._replace(name=name)
    return tuple(named.values())


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


def _kind(function: Callable[..., Any]) -> str | None:
    bare = _bare(function)
    if inspect.isasyncgenfunction(bare):
        return "generator"
    return "coroutine" if inspect.iscoroutinefunction(bare) or inspect.iscoroutinefunction(function) else None


def _bare(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function behind partials and callable objects."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function) or inspect.isclass(function):
        return function
    return type(function).__call__


def _label(name: str | None, thing: object) -> str:
    """The name for reports, pictures and errors; one that could play with a terminal is refused (fault F9)."""
    return check_name(name or _name(thing))


def check_name(name: str) -> str:
    """``name``, unless it has characters that are not printable."""
    if not name.isprintable():
        raise DefinitionError(f"name={name!r} must be printable, on one line")
    return name


def _name(function: object) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", None) or type(function).__name__


def refuse_called(where: str, thing: object) -> None:
    """Refuse a coroutine object: a function that was called where the function itself is wanted."""
    if inspect.iscoroutine(thing):
        thing.close()  # or Python warns that it was never awaited
        raise DefinitionError(f"{where} is a coroutine object: pass the function itself, without calling it")


def _accepts(function: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    return True


def _signature(function: Callable[..., Any]) -> str:
    return f"{_name(function)}{inspect.signature(function)}"


def _check_context(where: str, context: Context) -> None:
    if isinstance(context, AbstractAsyncContextManager) and hasattr(context, "gen"):
        raise DefinitionError(
            f"{where}: context= is already called; pass the function, so that each worker opens its own"
        )
    if inspect.isasyncgenfunction(context) or inspect.iscoroutinefunction(context):
        raise DefinitionError(
            f"{where}: context= must give an async context manager: decorate it with @asynccontextmanager"
        )
    if not callable(context) and not isinstance(context, AbstractAsyncContextManager):
        raise DefinitionError(f"{where}: context= must be an async context manager, or a function that returns one")
