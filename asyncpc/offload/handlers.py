"""Where calls are made that would hold up the loop: a stage of plain functions gets threads or processes for a run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import copy_context
from typing import Any

from ..core.plan import Handler, Plan
from .processes import DEPTH, Remote, reference
from .threads import Crew, Steps

__all__ = ["with_crews"]


def with_crews(plan: Plan) -> Plan:
    """The plan for one run; raises ``DefinitionError`` for a function that its processes could not find."""
    return plan._replace(nodes=tuple([node._replace(handler=_elsewhere(node.handler)) for node in plan.nodes]))


def _elsewhere(handler: Handler) -> Handler:
    """A handler whose calls are made in a crew's threads, or in processes by them; the workers wait for them.

    Each worker has a thread of its own. Processes are shared by the workers of a stage, several to each, so that small
    items can travel together. A generator's values come as they are given from a thread, all at once from a process.
    """
    if handler.run_in == "loop":
        return handler
    function, name, timeout = handler.function, handler.name, handler.call_limit
    shared: Crew | None = None
    depth = 1
    if handler.run_in == "process":
        found = reference(f"consumer {name!r}", function)
        together = timeout is None and not handler.takes_lists
        shared = Crew(name, handler.concurrency, timeout, lambda: Remote(name, found, handler.generates, together))
        depth = DEPTH if together else 1

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
    return handler._replace(function=inside, context=crew, call_limit=None, crew=shared, depth=depth)
