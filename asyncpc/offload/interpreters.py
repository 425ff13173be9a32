"""``run_in="interpreter"``: calls in interpreters of their own, each with a lock of its own, through anyio.

They need CPython 3.13 or newer. An interpreter shares nothing with the others: items, results and errors are pickled,
as for a process, but starting one takes a tenth of the time, and a call in one cannot be ended: a cancelled worker
waits for it, and is left behind by name if it takes too long. The drain returns then, but ``asyncio.run`` waits for the
worker's task, and the program for the thread, which is anyio's and no daemon: Python cannot end with an interpreter at
work. (So fault D4 and promise 5 hold for the run, not for the program.)
"""

from __future__ import annotations

import asyncio
import pickle
import sys
from collections.abc import AsyncIterator, Coroutine, Generator
from contextlib import asynccontextmanager
from functools import partial
from types import coroutine
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_interpreter

from ..checks import bare_function
from ..core.plan import Handler
from ..errors import DefinitionError
from .carried import carried
from .child import answer_once, each_of, explained, told_by
from .outside import working
from .processes import reference

__all__ = ["in_interpreters", "to_its_end"]

T = TypeVar("T")


def in_interpreters(handler: Handler) -> Handler:
    """A handler whose calls are made in interpreters, one for each of its workers.

    Raises ``DefinitionError`` for a function that they could not import.
    """
    name = handler.name
    where = f"consumer {name!r}"
    if getattr(bare_function(handler.function), "__module__", None) == "__main__":
        raise DefinitionError(
            f"{where}: run_in='interpreter' cannot import the program's main module: define the function in a module "
            "of its own, or use run_in='process'"
        )
    function = reference(where, handler.function, "interpreter")

    @asynccontextmanager
    async def limiter() -> AsyncIterator[CapacityLimiter]:
        yield CapacityLimiter(1)

    async def call(item: Any, limit: CapacityLimiter) -> Any:
        try:
            packed = pickle.dumps(((item,), carried.get()), pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise explained(f"stage {name!r}: its item cannot be sent to an interpreter", error) from error
        called = to_interpreter.run_sync(
            answer_once, sys.path, name, function, handler.generates, packed, limiter=limit
        )
        with working(f"an interpreter of {name}"):
            answer = await to_its_end(called)
        try:
            well, value = told_by(answer)
        except Exception as error:
            raise explained(f"stage {name!r}: an answer of its interpreter cannot be read", error) from error
        if not well:
            raise value
        return value

    async def generate(item: Any, limit: CapacityLimiter) -> AsyncIterator[Any]:
        for value in each_of(await call(item, limit)):
            yield value

    return handler._replace(function=generate if handler.generates else call, context=limiter)


@coroutine
def to_its_end(call: Coroutine[Any, Any, T]) -> Generator[Any, None, T]:
    """Await ``call`` to its end, even if the task is cancelled meanwhile; only then the cancel comes out.

    anyio takes a call that was cancelled for one that has ended. Its interpreter, still busy, would get the next call,
    and from then on fail every call that it gets.
    """
    cancel: asyncio.CancelledError | None = None
    while True:
        try:
            awaited = call.send(None)
        except StopIteration as end:
            if cancel is None:
                value: T = end.value
                return value
            raise cancel from None
        except BaseException:
            if cancel is None:
                raise
            raise cancel from None
        cancel = (yield from _done(awaited)) or cancel


def _done(awaited: asyncio.Future[Any] | None) -> Generator[Any, None, asyncio.CancelledError | None]:
    """Wait for what a coroutine waits for, None being one iteration of the loop; give back a cancel that came."""
    cancel: asyncio.CancelledError | None = None
    loop = asyncio.get_running_loop()
    if awaited is None:
        awaited = loop.create_future()
        loop.call_soon(_wake, awaited)
    awaited._asyncio_future_blocking = False  # so a task says that it waits for it
    while not awaited.done():
        woken: asyncio.Future[None] = loop.create_future()  # which a cancel of the task cancels instead
        awaited.add_done_callback(partial(_wake, woken))
        try:
            yield from woken
        except asyncio.CancelledError as error:
            cancel = error
    return cancel


def _wake(woken: asyncio.Future[None], _: object = None) -> None:
    if not woken.done():
        woken.set_result(None)
