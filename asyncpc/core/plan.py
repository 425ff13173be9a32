"""What a run is made from: frozen definitions of sources and handlers, as a graph (invariant 9).

A definition holds functions and numbers, nothing that belongs to a loop or a run. ``graph`` makes them of what the user
writes; the core only reads them.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

from .queue import DEFAULT_MAXSIZE

if TYPE_CHECKING:
    from ..backoff import Restart
    from ..checks import Resource
    from .seams import Attendant, Calls, Option, Pool, RemoteCounts

__all__ = ["Handler", "Node", "Origin", "Plan"]


class Origin(NamedTuple):
    """One place that items come from: ``open()`` gives a fresh (async) iterable for every run."""

    name: str
    open: Callable[[], AsyncIterable[Any] | Iterable[Any]]
    restart: Restart | None = None
    blocks: bool = False
    """Whether it may block, so that a run reads it in a thread."""
    total: int | Callable[[], Any] | None = None
    """How many items it will produce, if that is known, or what to ask for it."""
    into: int | None = None
    """The place of the stage it writes to, once that is known."""
    attended: Callable[[int], Attendant] | None = None
    """Makes what attends it in a run, if its items have to be settled, and gives them; instead of ``open``.

    It is told how many items the stages of the run can work on at once.
    """
    unshared: str = "each process would read all of it"
    """Why several processes that run the plan cannot share its items among them; empty if they can."""

    def iterate(self) -> AsyncIterator[Any]:
        """A fresh iterator; a plain iterable is wrapped, so that workers know one kind only."""
        items = self.open()
        return aiter(items) if isinstance(items, AsyncIterable) else _each(items)


async def _each(items: Iterable[Any]) -> AsyncIterator[Any]:
    iterator = iter(items)
    try:
        for item in iterator:
            yield item
    finally:
        if isinstance(iterator, Generator):
            iterator.close()


class Handler(NamedTuple):
    """What a stage does with an item: an async function (one value out) or async generator (any number out)."""

    name: str
    function: Callable[..., Any]
    generates: bool
    concurrency: int
    """At the start."""
    most_concurrency: int = 1
    """The highest that it may reach by itself."""
    maxsize: int | None = None
    """Items its queue holds, if the user says so; 0 is unbounded."""
    context: Resource[Any] | None = None
    """A resource for each worker."""
    run_in: str = "loop"
    """Where its calls are made: ``"loop"``, or a place in which they cannot block it."""
    options: tuple[Option, ...] = ()
    """What else the user asked for, in the order in which it is installed."""
    dead_letters: Handler | None = None
    """The consumer that receives failures."""
    branches: tuple[str, ...] | None = None
    """The labels of its branches, if it is a branching; the function returns the branches that get the item."""
    least_bound: int = 0
    """Items its queue must hold at least, unless the user or the pipeline says otherwise."""
    takes_lists: bool = False
    """Whether a call gets several items, as a list."""
    items_per_call: int = 1
    """How many items a call gets, if that is known."""
    waits_for_more: bool = False
    """Whether a call may wait without limit until more items have come."""
    needs_single: str = ""
    """What needs one item for each call; empty if nothing does."""
    kept_by: str = ""
    """The option that says in which order its queue keeps items; empty if they stay as they came."""
    gives_several: bool = False
    """Whether it may give more than one result of an item."""
    no_calls: str = ""
    """Why else no ``call`` can be answered through it; empty if one can."""
    nothing_follows: str = ""
    """Why no stage can come after it; empty if one can."""
    unshared: str = ""
    """Why it is of no use in several processes that run the plan at once; empty if it is."""
    sends_to: str = ""
    """The kind of server that its calls send items to, if it is a remote queue, such as ``redis``."""
    look_of: Callable[[Any], Callable[[], RemoteCounts]] | None = None
    """Of a worker's resource, what tells of that queue now."""
    call_limit: float | None = None
    """Seconds that a call outside the loop may take."""
    calls_of: Callable[[Any], Calls] | None = None
    """Of a worker's resource, its calls outside the loop, if one may go on after it has failed."""
    place_of: Callable[[Any], str] | None = None
    """Of a worker's resource, where its calls outside the loop are: ``app.py:12 in fetch``; empty if unknown."""
    pool: Pool | None = None
    """What makes its calls outside the loop, in one run, if all workers share it."""
    depth: int = 1
    """Workers for each member of the pool."""

    def bound(self, default: int) -> int:
        """Items its queue holds, in a pipeline whose queues hold ``default``; 0 is unbounded."""
        if self.maxsize is not None:
            return self.maxsize
        return max(default, self.least_bound) if default > 0 else default

    def open_context(self) -> AbstractAsyncContextManager[Any]:
        """The resource of one worker, not yet entered."""
        if isinstance(self.context, AbstractAsyncContextManager):
            return self.context
        assert self.context is not None  # only asked when there is one
        opened = self.context()
        if not isinstance(opened, AbstractAsyncContextManager):
            raise TypeError(
                f"stage {self.name!r}: context= gave a {type(opened).__name__}, which is not an async context manager: "
                "decorate the function with @asynccontextmanager"
            )
        return opened


class Node(NamedTuple):
    """A stage of a plan; the other stages are named by their places in it."""

    handler: Handler
    following: tuple[int, ...] = ()
    """The stages its values go on to; none: they are results."""
    failures_to: int | None = None
    """The stage of the consumer that receives its failures."""

    def moved(self, by: int) -> Node:
        """The same, with every place moved by ``by``."""
        return self._replace(following=tuple([place + by for place in self.following]))


class Plan(NamedTuple):
    """What a run is made from: sources, stages, and the numbers that hold for all of them."""

    name: str
    origins: tuple[Origin, ...]
    nodes: tuple[Node, ...]
    """Each stage comes before those it writes to; those that receive failures come last."""
    main: int
    """How many of the nodes come before those that receive failures."""
    entries: tuple[int, ...]
    """The stages that items come into from outside."""
    ends: tuple[int, ...]
    """The stages whose values are results."""
    shared: tuple[int, ...]
    """The stages that several others, or sources, write to."""
    maxsize: int | None
    """Items each queue holds whose stage does not say otherwise; 0 is unbounded, None the default."""
    drain_timeout: float
    """Seconds that a drain may take by default."""
    on_unfinished: Callable[[Any], object] | None = None
    """What gets the items that a run has left, once it has ended."""

    def bound(self, handler: Handler) -> int:
        """Items that the queue before ``handler`` holds; 0 is unbounded."""
        return handler.bound(self.default_bound)

    @property
    def at_once(self) -> int:
        """How many items its stages can work on at once."""
        handlers = [node.handler for node in self.nodes[: self.main]]
        return sum([max(one.concurrency, one.most_concurrency) * one.items_per_call for one in handlers])

    @property
    def is_attended(self) -> bool:
        """Whether somebody waits for what becomes of the items of a source."""
        return any(origin.attended is not None for origin in self.origins)

    @property
    def default_bound(self) -> int:
        """Items a queue holds whose stage does not say otherwise, and that of the results; 0 is unbounded."""
        return DEFAULT_MAXSIZE if self.maxsize is None else self.maxsize
