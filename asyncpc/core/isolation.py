"""A context of its own for each item, once a handler has changed a context variable (fault B12)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextvars import Context
from typing import Any

from .seams import Call
from .stage import ConsumerWorker

__all__ = ["InContext", "isolated"]


def isolated(worker: ConsumerWorker, call: Call) -> Call:
    """``call`` for a handler that has changed a context variable: each item has a context of its own from now on.

    Comparing two untouched contexts is a comparison of two pointers, so handlers that leave no trace pay almost
    nothing; for the others, every later item sees the context the worker began with. (A variable set to another object
    that is equal to the old one counts as untouched.) The worker remembers the context of the item in flight.
    """
    pristine = worker.home or Context()

    def begin(item: Any) -> Awaitable[Any]:
        worker.inside = context = pristine.copy()
        return InContext(call(item), context)  # the call may be isolated already, and then has set its own

    return begin


class InContext:
    """Awaits something with ``context`` as its current context, in the task that awaits it."""

    __slots__ = ("awaitable", "context")

    def __init__(self, awaitable: Any, context: Context) -> None:
        self.awaitable: Any = awaitable
        self.context: Context = context

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self.awaitable.__await__()
        step: Callable[..., Any] = steps.send
        argument: Any = None
        while True:
            try:
                future = self.context.run(step, argument)
            except StopIteration as stop:
                return stop.value
            try:
                argument = yield future
                step = steps.send
            except BaseException as error:
                step, argument = steps.throw, error
