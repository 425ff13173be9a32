"""What the user wrote, looked at once: frozen definitions of sources and handlers, and the mistakes refused.

A definition is inert (invariant 9): it holds functions and numbers, nothing that belongs to a loop or a run.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Hashable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from contextvars import copy_context
from math import inf
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar

from .errors import DefinitionError
from .policies import Adaptive, Batch, Breaker, Failure, Rate, Restart, Retry

if TYPE_CHECKING:
    from .threads import Crew

__all__ = ["Handler", "Origin", "Plan", "define_handler", "define_origin", "iterable_origin"]

RunIn = Literal["loop", "thread", "process"]
Overflow = Literal["wait", "drop_oldest", "drop_newest", "raise"]
OnError = Literal["stop", "skip"] | Callable[[Failure], object] | asyncio.Queue[Failure]
Context = Callable[[], AbstractAsyncContextManager[Any]] | AbstractAsyncContextManager[Any]


class Origin(NamedTuple):
    """One place that items come from: ``open()`` gives a fresh (async) iterable for every run."""

    name: str
    open: Callable[[], AsyncIterable[Any] | Iterable[Any]]
    restart: Restart | None = None
    blocks: bool = False
    """Whether it is a plain generator that may block, so that a run reads it in a thread."""
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
    """At the start, if it is adaptive."""
    adaptive: Adaptive | None
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
    batch: Batch | None
    ordered: bool
    key: Callable[[Any], Hashable] | None
    priority: Callable[[Any], Any] | None
    overflow: Overflow
    on_drop: Callable[[Any], object] | None
    run_in: RunIn

    def for_a_run(self) -> Handler:
        """With the threads or processes of one run, if its calls are made there; see :func:`_elsewhere`."""
        return self if self.run_in == "loop" else _elsewhere(self)

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

    def for_a_run(self) -> Plan:
        """The plan for one run; raises ``DefinitionError`` for a function that its processes could not find."""
        return self._replace(handlers=tuple([handler.for_a_run() for handler in self.handlers]))


def define_handler(
    function: Callable[..., Any],
    *,
    concurrency: int | Adaptive = 1,
    maxsize: int | None = None,
    context: Context | None = None,
    retry: int | Retry | None = None,
    timeout: float | None = None,
    on_error: OnError = "stop",
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
    label = _label(name, function)
    where = f"consumer {label!r}"
    kind = _check_function(where, function, context)
    adaptive = concurrency if isinstance(concurrency, Adaptive) else None
    if adaptive is not None:
        _check_adaptive(where, adaptive)
        if run_in == "process":
            raise DefinitionError(f"{where}: concurrency= is a number of processes, which cannot be Adaptive")
    check_maxsize(where, maxsize)
    if timeout is not None and not _positive(timeout):
        raise DefinitionError(f"{where}: timeout={timeout!r} must be more than 0 seconds")
    return Handler(
        name=label,
        function=function,
        generates=kind == "generator",
        concurrency=_at_least_1(where, "concurrency", concurrency if adaptive is None else adaptive.min),
        adaptive=adaptive,
        maxsize=maxsize,
        context=context,
        retry=_check_retry(where, retry),
        timeout=timeout,
        on_error=_check_on_error(where, on_error),
        max_failures=_check_max_failures(where, max_failures, on_error),
        rate=None if rate is None else check_rate(where, rate),
        breaker=_check_breaker(where, breaker),
        batch=_check_batch(where, batch, maxsize),
        ordered=_check_order(where, ordered, batch, key, priority),
        key=_check_item_function(where, "key", key),
        priority=_check_item_function(where, "priority", priority),
        overflow=_check_overflow(where, overflow, on_drop, batch, key, priority),
        on_drop=_check_item_function(where, "on_drop", on_drop),
        run_in=_check_run_in(where, function, run_in, context, batch),
    )


OPTIONS: Final = tuple(name for name in define_handler.__annotations__ if name not in ("function", "return"))
"""The names of a consumer's options."""


def _check_function(where: str, function: Callable[..., Any], context: Context | None) -> str:
    """What kind of function it is: ``"function"`` or ``"generator"``."""
    refuse_called(where, function)
    if not callable(function):
        raise DefinitionError(f"{where}: {type(function).__name__} is not a function")
    kind = _kind(function)
    if context is not None:
        _check_context(where, context)
    wanted = ("item",) if context is None else ("item", "resource")
    if not _accepts(function, len(wanted)):
        raise DefinitionError(
            f"{where} must take {' and '.join(wanted)}, but is written {_signature(function)}"
            + ("; context= adds the resource" if context is None and _accepts(function, 2) else "")
        )
    return kind


def _at_least_1(where: str, option: str, number: object) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise DefinitionError(f"{where}: {option}={number!r} must be a whole number, at least 1")
    return number


def _check_adaptive(where: str, adaptive: Adaptive) -> None:
    _at_least_1(where, "Adaptive min", adaptive.min)
    if _at_least_1(where, "Adaptive max", adaptive.max) < adaptive.min:
        raise DefinitionError(f"{where}: {adaptive!r}: max must not be less than min")
    if not _positive(adaptive.target) or not _positive(adaptive.every):
        raise DefinitionError(f"{where}: {adaptive!r}: target and every must be more than 0 seconds")


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


def check_rate(where: str, rate: object) -> Rate:
    """Refuse what is no rate."""
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


def _check_batch(where: str, batch: object, maxsize: int | None) -> Batch | None:
    if batch is None:
        return None
    if not isinstance(batch, Batch):
        raise DefinitionError(f"{where}: batch={batch!r} must be Batch(size, within=seconds)")
    whole = isinstance(batch.size, int) and not isinstance(batch.size, bool) and batch.size >= 1
    if not (whole if batch.weigh is None else _positive(batch.size)):
        raise DefinitionError(f"{where}: {batch!r}: size must be a whole number of items, or with weigh= a weight")
    if batch.within is not None and not _positive(batch.within):
        raise DefinitionError(f"{where}: {batch!r}: within must be more than 0 seconds")
    for name in "weigh", "key":
        _check_item_function(where, f"batch {name}", getattr(batch, name))
    if maxsize and batch.weigh is None and maxsize < batch.size:
        raise DefinitionError(f"{where}: maxsize={maxsize} is too small for a batch of {batch.size}; leave it out")
    return batch


def _check_order(where: str, ordered: object, *others: object) -> bool:
    if not isinstance(ordered, bool):
        raise DefinitionError(f"{where}: ordered={ordered!r} must be True or False")
    if ordered and any(other is not None for other in others):
        raise DefinitionError(f"{where}: ordered=True keeps the order of items, which batch, key and priority change")
    return ordered


def _check_overflow(where: str, overflow: object, on_drop: object, *others: object) -> Any:
    if overflow not in ("wait", "drop_oldest", "drop_newest", "raise"):
        raise DefinitionError(f"{where}: overflow={overflow!r} must be 'wait', 'drop_oldest', 'drop_newest' or 'raise'")
    if overflow == "drop_oldest" and any(other is not None for other in others):
        raise DefinitionError(f"{where}: with batch, key or priority no item is the oldest: use overflow='drop_newest'")
    if on_drop is not None and overflow not in ("drop_oldest", "drop_newest"):
        raise DefinitionError(
            f"{where}: on_drop= needs overflow='drop_oldest' or 'drop_newest': nothing else is dropped"
        )
    return overflow


def _check_item_function(where: str, option: str, function: Any) -> Any:
    if function is not None and not (callable(function) and _accepts(function, 1)):
        raise DefinitionError(f"{where}: {option}={function!r} must be a function of an item")
    return function


def _positive(number: object) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and 0 < number < inf


def define_origin(function: Callable[..., Any], restart: Restart | None, name: str | None) -> Origin:
    """Look at a producer's function; ``open`` still takes its arguments. Raises ``DefinitionError`` naming the cure."""
    label = _label(name, function)
    where = f"producer {label!r}"
    refuse_called(where, function)
    if not callable(function):
        raise DefinitionError(f"{where}: {type(function).__name__} is not a function")
    if _kind(function) != "generator":
        raise DefinitionError(f"{where} gives no items: write it with 'yield'")
    return Origin(label, function, _check_restart(where, restart), not _is_async(function))


def _check_restart(where: str, restart: object) -> Restart | None:
    if restart is None:
        return None
    if not isinstance(restart, Restart):
        raise DefinitionError(f"{where}: restart={restart!r} must be Restart(times, within=seconds)")
    _at_least_1(where, "Restart times", restart.times)
    if not _positive(restart.within):
        raise DefinitionError(f"{where}: {restart!r}: within must be more than 0 seconds")
    if not callable(restart.backoff):
        raise DefinitionError(f"{where}: Restart(backoff={restart.backoff!r}): must be a callable, attempt -> seconds")
    return restart


def bind_origin(origin: Origin, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Origin:
    """``origin`` with its arguments; raises ``DefinitionError`` when they do not fit its function."""
    try:
        inspect.signature(origin.open).bind(*args, **kwargs)
    except TypeError as error:
        raise DefinitionError(
            f"producer {origin.name!r}: {error}; it is written {_signature(origin.open)}, so compose {origin.name}(…)"
        ) from None
    return origin._replace(open=functools.partial(origin.open, *args, **kwargs))


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


def _kind(function: Callable[..., Any]) -> str:
    """Whether it gives one value or any number: ``"function"`` or ``"generator"``."""
    bare = _bare(function)
    return "generator" if inspect.isasyncgenfunction(bare) or inspect.isgeneratorfunction(bare) else "function"


def _is_async(function: Callable[..., Any]) -> bool:
    bare = _bare(function)
    return inspect.isasyncgenfunction(bare) or any(map(inspect.iscoroutinefunction, (bare, function)))


def _check_run_in(
    where: str, function: Callable[..., Any], run_in: object, context: Context | None, batch: Batch | None
) -> RunIn:
    asynchronous = _is_async(function)
    if run_in is None:
        return "loop" if asynchronous else "thread"
    if run_in not in ("loop", "thread", "process"):
        raise DefinitionError(f"{where}: run_in={run_in!r} must be 'loop', 'thread' or 'process'")
    if asynchronous and run_in != "loop":
        raise DefinitionError(f"{where} is async, so it runs in the loop: write 'def' for run_in={run_in!r}")
    if not asynchronous and run_in == "loop":
        raise DefinitionError(
            f"{where} is a plain function, which would hold up the loop: write 'async def', or leave run_in= out"
        )
    if run_in == "process":
        if context is not None:
            raise DefinitionError(f"{where}: a resource cannot go to a process: open it there, at the first call")
        if "<" in (name := getattr(_bare(function), "__qualname__", "")):
            raise DefinitionError(f"{where}: processes import it by name, so {name} must be at the top of a module")
    return run_in


def _elsewhere(handler: Handler) -> Handler:
    """A handler whose calls are made in a crew's threads, or in processes by them; the workers wait for them.

    Each worker has a thread of its own. Processes are shared by the workers of a stage, several to each, so that small
    items can travel together. A generator's values come as they are given from a thread, all at once from a process.
    """
    from .threads import Crew, Steps  # here, as below, since most programs need neither

    function, name, timeout = handler.function, handler.name, handler.timeout
    shared: Crew | None = None
    concurrency = handler.concurrency
    if handler.run_in == "process":
        from .processes import DEPTH, Remote, reference

        found = reference(f"consumer {name!r}", function)
        together = timeout is None and handler.batch is None
        shared = Crew(name, concurrency, timeout, lambda: Remote(name, found, handler.generates, together))
        concurrency *= DEPTH if together else 1

    @asynccontextmanager
    async def crew() -> AsyncIterator[tuple[Crew, tuple[Any, ...]]]:
        async with AsyncExitStack() as stack:
            context = handler.context
            resources = () if context is None else (await stack.enter_async_context(handler.open_context()),)
            yield await stack.enter_async_context(shared or Crew(name, 1, timeout)), resources

    def call(item: Any, given: tuple[Crew, tuple[Any, ...]]) -> Any:
        return given[0].call(function, item, *given[1])

    async def generate(item: Any, given: tuple[Crew, tuple[Any, ...]]) -> AsyncIterator[Any]:
        for value in await call(item, given):
            yield value

    async def step(item: Any, given: tuple[Crew, tuple[Any, ...]]) -> AsyncIterator[Any]:
        steps, context, more = Steps(function, item, *given[1]), copy_context(), True
        try:
            while more:
                values, more = await given[0].call(steps.step, context=context)
                for value in values:
                    yield value
        finally:
            if more:
                await given[0].call(steps.close, context=context)

    inside: Callable[..., Any] = call
    if handler.generates:
        inside = generate if handler.run_in == "process" else step
    return handler._replace(function=inside, context=crew, timeout=None, concurrency=concurrency)


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
