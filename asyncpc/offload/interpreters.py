"""``run_in="interpreter"``: calls in interpreters of their own, each with a lock of its own, through anyio.

They need CPython 3.13 or newer. An interpreter shares nothing with the others: items, results and errors are pickled,
as for a process, but starting one takes a tenth of the time, and a call in one cannot be ended.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from anyio import CapacityLimiter, to_interpreter

from ..core.plan import Handler
from .child import Reference, Values, each_of, found, values_of
from .processes import reference

__all__ = ["in_interpreters"]


def in_interpreters(handler: Handler) -> Handler:
    """A handler whose calls are made in interpreters, one for each of its workers."""
    name = handler.name
    where = reference(f"consumer {name!r}", handler.function, "interpreter")

    @asynccontextmanager
    async def limiter() -> AsyncIterator[CapacityLimiter]:
        yield CapacityLimiter(1)

    async def call(item: Any, limit: CapacityLimiter) -> Any:
        return await to_interpreter.run_sync(call_there, where, item, limiter=limit)

    async def generate(item: Any, limit: CapacityLimiter) -> AsyncIterator[Any]:
        for value in each_of(await to_interpreter.run_sync(generate_there, name, where, item, limiter=limit)):
            yield value

    inside: Callable[..., Any] = generate if handler.generates else call
    return handler._replace(function=inside, context=limiter)


def call_there(function: Reference, item: Any) -> Any:
    """Make a call, in the other interpreter."""
    return found(function)(item)


def generate_there(name: str, function: Reference, item: Any) -> Values:
    """Go through a generator, in the other interpreter."""
    return values_of(name, found(function), item)
