"""``Tracked``: an item that somebody waits for, on its way through the stages with a ticket.

A ticket counts the values that are under way of what was made of one item (:class:`~asyncpc.core.seams.Ticket`):

- a stage that gives one value passes on the same ticket; one that gives none settles it;
- a generator holds it once for each value, and settles it when it has ended; a broadcast to *k* branches holds it
  *k* - 1 times more; of a batch each result travels with the ticket of its own item, and what a generating batch gives,
  with the tickets of all its items;
- what a policy gives up has failed, unless it goes to a stage that receives failures: then the ticket goes with it;
- at the end of a run, or of its worker, what is left is released.

Only runs that can have tickets look at them (``stage.run.tracks``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import CoroutineType
from typing import Any, Final

from ..failure import KeptFailure
from .seams import Call, Takes, Ticket

__all__ = [
    "NO_TRACE",
    "CallTicket",
    "JointTicket",
    "Tracked",
    "fail_all",
    "fed",
    "never_awaited",
    "plain",
    "release_all",
    "settle_all",
    "shared_trace",
    "tracking",
]

NO_TRACE: Final[Mapping[str, str]] = {}
"""Of an item that belongs to no trace."""


class Tracked:
    """An item with the ticket of the caller that waits for what is made of it."""

    __slots__ = ("item", "ticket")

    def __init__(self, item: Any, ticket: Ticket) -> None:
        self.item: Any = item
        self.ticket: Ticket = ticket


def plain(item: Any) -> Any:
    """The user's item."""
    return item.item if type(item) is Tracked else item


def fed(item: Any, ticket: Ticket | None) -> Any:
    """An item that a handler feeds in the call of one with that ticket: with a ticket of its own, if it needs one."""
    own = None if ticket is None else ticket.for_fed()
    return item if own is None else Tracked(item, own)


def fail_all(items: Iterable[Any], error: BaseException) -> None:
    """Tell the tickets of these items that they failed with the error of their worker, as does the run."""
    for item in items:
        if type(item) is Tracked:
            if isinstance(error, Exception):
                item.ticket.stop(error)
            else:  # KeyboardInterrupt and the like go to the caller of the run
                item.ticket.release()


def settle_all(values: Iterable[Any]) -> None:
    """Settle the tickets of these items, without a value."""
    for value in values:
        if type(value) is Tracked:
            value.ticket.settle()


def release_all(items: Iterable[Any]) -> None:
    """Release the tickets of these items for good, whatever an abandoned worker does later."""
    for item in items:
        if type(item) is Tracked:
            item.ticket.release()
            item.ticket = _NOBODYS


class _NobodysTicket:
    """In place of one that was released."""

    __slots__ = ()

    @property
    def takes_failures(self) -> Takes:
        """None."""
        return "none"

    @property
    def wants_value(self) -> bool:
        """No."""
        return False

    @property
    def trace(self) -> Mapping[str, str]:
        """None."""
        return NO_TRACE

    def hold(self, more: int = 1) -> None:
        """Nothing, as all of these."""

    def for_fed(self) -> None:
        """See hold."""

    def settle(self, value: Any = None) -> None:
        """See hold."""

    def skip(self, error: Exception) -> None:
        """See hold."""

    def fail(self, error: Exception, failure: KeptFailure) -> None:
        """See hold."""

    def stop(self, error: Exception) -> None:
        """See hold."""

    def release(self) -> None:
        """See hold."""


_NOBODYS: Final = _NobodysTicket()


class CallTicket:
    """The ticket of a caller that waits for the one result of an item."""

    __slots__ = ("_future", "_lost")

    @property
    def takes_failures(self) -> Takes:
        """All: the caller deals with them."""
        return "all"

    @property
    def wants_value(self) -> bool:
        """Yes."""
        return True

    @property
    def trace(self) -> Mapping[str, str]:
        """None."""
        return NO_TRACE

    def __init__(self, future: asyncio.Future[Any], lost: Callable[[], Exception]) -> None:
        """What ``lost`` makes is raised for the caller if the run ends before it comes to the item."""
        self._future = future
        self._lost = lost

    def hold(self, more: int = 1) -> None:
        """Nothing: stages that give several values cannot be called."""

    def for_fed(self) -> None:
        """Nothing: the caller waits for one result."""

    def settle(self, value: Any = None) -> None:
        """Give the caller the result, unless it has gone."""
        if not self._future.done():
            self._future.set_result(value)

    def skip(self, error: Exception) -> None:
        """Give the caller the error, unless it has gone."""
        if not self._future.done():
            self._future.set_exception(error)

    def fail(self, error: Exception, failure: KeptFailure) -> None:
        """See skip."""
        self.skip(error)

    def stop(self, error: Exception) -> None:
        """See skip."""
        self.skip(error)

    def release(self) -> None:
        """Tell the caller that no result comes."""
        self.skip(self._lost())


class JointTicket:
    """The tickets of several items, for values that were made of all of them together."""

    __slots__ = ("tickets",)

    def __init__(self, tickets: Sequence[Ticket]) -> None:
        self.tickets: Sequence[Ticket] = tickets

    @property
    def takes_failures(self) -> Takes:
        """Those of a value made of all the items are told to each, if all take them who wait for any."""
        takes = {one.takes_failures for one in self.tickets} - {"none"}
        return "unhandled" if takes == {"unhandled"} else "none"

    @property
    def wants_value(self) -> bool:
        """If one does."""
        return any(one.wants_value for one in self.tickets)

    @property
    def trace(self) -> Mapping[str, str]:
        """The one that all share."""
        return shared_trace([one.trace for one in self.tickets])

    def hold(self, more: int = 1) -> None:
        """Hold each."""
        for ticket in self.tickets:
            ticket.hold(more)

    def for_fed(self) -> Ticket | None:
        """Those of the items that need one."""
        own = [one for ticket in self.tickets if (one := ticket.for_fed()) is not None]
        return JointTicket(own) if own else None

    def settle(self, value: Any = None) -> None:
        """Settle each."""
        for ticket in self.tickets:
            ticket.settle(value)

    def skip(self, error: Exception) -> None:
        """Skip each."""
        for ticket in self.tickets:
            ticket.skip(error)

    def fail(self, error: Exception, failure: KeptFailure) -> None:
        """Fail each."""
        for ticket in self.tickets:
            ticket.fail(error, failure)

    def stop(self, error: Exception) -> None:
        """Stop each."""
        for ticket in self.tickets:
            ticket.stop(error)

    def release(self) -> None:
        """Release each."""
        for ticket in self.tickets:
            ticket.release()


def shared_trace(traces: Sequence[Mapping[str, str]]) -> Mapping[str, str]:
    """The trace context of what is made of several items: the one that all share, if there is one."""
    first = traces[0] if traces else NO_TRACE
    return first if all(one == first for one in traces) else NO_TRACE


def never_awaited(name: str, value: CoroutineType[Any, Any, Any]) -> TypeError:
    """The error of a handler whose result is a coroutine; closes it, or Python warns that it was never awaited."""
    value.close()
    return TypeError(f"stage {name!r} gave a coroutine that nobody awaits: write 'await' before what it returns")


def tracking(call: Call, worker: Any) -> Call:
    """``call`` for runs that can have tickets: it gets the user's item, and its value travels on with the ticket."""
    handler = worker.stage.handler
    is_last = handler.branches is None and worker.stage.outlets[0].channel is None
    generates = handler.generates and handler.branches is None
    # Two that begin alike: a call of their common part would be one coroutine more for each item.
    call_tracked = _settling(call, worker) if is_last and not generates else _passing_on(call, worker, generates)
    if worker.stage.run.comes_with_tickets:
        return call_tracked

    def begin(item: Any) -> Awaitable[Any]:
        return call_tracked(item) if type(item) is Tracked else call(item)

    return begin


def _settling(call: Call, worker: Any) -> Call:
    """Of the last stage: what is made of the item ends here."""

    async def call_tracked(item: Any) -> Any:
        if type(item) is not Tracked:
            return await call(item)
        worker.ticket = item.ticket
        try:
            value = await call(item.item)
        finally:
            worker.ticket = None
        if value is not None and type(value) is CoroutineType:
            raise never_awaited(worker.stage.handler.name, value)
        item.ticket.settle(value)  # which may be nobody's by now
        return None

    return call_tracked


def _passing_on(call: Call, worker: Any, generates: bool) -> Call:
    """Of any other stage."""

    async def call_tracked(item: Any) -> Any:
        if type(item) is not Tracked:
            return await call(item)
        worker.ticket = item.ticket
        try:
            value = await call(item.item)
        finally:
            worker.ticket = None
        ticket = item.ticket  # which may be nobody's by now
        if not generates:
            return Tracked(value, ticket)
        if isinstance(value, list):  # collected, to leave in order
            ticket.hold(len(value))
            value = [Tracked(one, ticket) for one in value]
        ticket.settle()  # what it gave has held the ticket for itself
        return value

    return call_tracked
