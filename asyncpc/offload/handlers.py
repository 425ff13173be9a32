"""Where calls are made that would block the loop: plain functions get threads, processes or interpreters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Any

from ..core.plan import Handler, Plan
from .child import each_of
from .processes import DEPTH, ProcessCaller, reference
from .threads import Returns, WorkerThreads

__all__ = ["with_pools"]

Given = tuple[WorkerThreads, tuple[Any, ...]]
"""What each worker of such a stage gets as its resource: threads, and the user's own resource if there is one."""


def with_pools(plan: Plan) -> Plan:
    """The plan for one run; raises ``DefinitionError`` for a function that could not be called where it is to run."""
    return plan._replace(nodes=tuple([node._replace(handler=_offloaded(node.handler)) for node in plan.nodes]))


def _offloaded(handler: Handler) -> Handler:
    """A handler whose calls are made outside the loop; the workers wait for them."""
    if handler.run_in == "thread":
        return _in_threads(handler)
    if handler.run_in == "process":
        return _in_processes(handler)
    if handler.run_in == "interpreter":
        from .interpreters import in_interpreters  # here, since most programs have no such stage

        return in_interpreters(handler)
    return handler


def _in_threads(handler: Handler) -> Handler:
    """Each worker has a thread of its own; a generator's values come as they are given."""
    function, numbers, returns = handler.function, count(1), Returns()  # of the stage's threads; no two have one name

    def call(item: Any, given: Given) -> Any:
        return given[0].call(function, item, *given[1])

    def values(item: Any, given: Given) -> AsyncIterator[Any]:
        return given[0].values(function, item, *given[1])

    def make() -> WorkerThreads:
        return WorkerThreads(handler.name, 1, handler.call_limit, numbers=numbers, returns=returns)

    inside: Callable[..., Any] = values if handler.generates else call
    return handler._replace(
        function=inside,
        context=_resources(handler, make),
        call_limit=None,
        calls_of=None if handler.call_limit is None else lambda given: given[0],
        place_of=lambda given: given[0].place(),
    )


def _in_processes(handler: Handler) -> Handler:
    """All workers share the processes, several to each, so that small items can travel together."""
    name, timeout, generates = handler.name, handler.call_limit, handler.generates
    found = reference(f"consumer {name!r}", handler.function, "process")
    together = timeout is None and not handler.takes_lists
    pool = WorkerThreads(name, handler.concurrency, timeout, lambda: ProcessCaller(name, found, generates, together))

    def call(item: Any, given: Given) -> Any:
        return given[0].call(handler.function, item)

    async def generate(item: Any, given: Given) -> AsyncIterator[Any]:
        for value in each_of(await call(item, given)):
            yield value

    inside: Callable[..., Any] = generate if generates else call
    return handler._replace(
        function=inside,
        context=_resources(handler, lambda: pool),
        call_limit=None,
        pool=pool,
        depth=DEPTH if together else 1,
    )


def _resources(handler: Handler, make: Callable[[], WorkerThreads]) -> Callable[[], Any]:
    """What is opened for each worker: the user's own resource, and the threads that make its calls."""

    @asynccontextmanager
    async def open_both() -> AsyncIterator[Given]:
        async with AsyncExitStack() as stack:
            context = handler.context
            own = () if context is None else (await stack.enter_async_context(handler.open_context()),)
            yield await stack.enter_async_context(make()), own

    return open_both
