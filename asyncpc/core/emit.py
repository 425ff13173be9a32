"""How values leave a stage, whatever its handler is: one by one, or from a generator, a batch or a branching.

The rule for all of them: what was emitted stays emitted and is never retried; a value that the next channel refuses
(its ``key=`` raised, or it is full and refuses to wait) is a failure of the item that it was made of, in the stage that
gave it. A worker that is cancelled leaves what it was about to emit in the next channel (invariant 2); if that refuses
it then, the item has failed and the run says so (``Ended``).

A plain stage's values are put into the next channel by the worker's loop itself while there is room; the functions here
are for all that is beside this way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from functools import partial
from time import perf_counter
from typing import Any

from ..failure import KeptFailure
from .channel import Channel, Ended
from .seams import Call
from .stage import DONE, ConsumerWorker, Outlet, Stage
from .tracked import Tracked, fail_all, plain
from .waiting import Budget, obey_cancel

__all__ = ["Refused", "branching", "emit", "emit_each", "generating", "leave", "put_waiting"]


class Refused(Exception):
    """The next channel refused a value; ``error`` is why. No call of the handler has failed, so none is retried."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error: Exception = error


async def emit(worker: ConsumerWorker, outlet: Outlet, value: Any) -> None:
    """Put ``value`` where ``outlet`` leads, when there is room, and count it.

    Raises what refuses it; then it is not there. *Cancel safety*: the value is there, and counted.
    """
    channel = outlet.channel
    if channel is None:
        if value is not None and type(value) is not Tracked:  # else its ticket gets it
            worker.stage.counts.unread = True
    elif channel.may_enqueue():
        channel.enqueue(value)
    else:
        try:
            await put_waiting(worker, channel, value)
        except asyncio.CancelledError:
            outlet.emitted += 1
            raise
    outlet.emitted += 1


async def put_waiting(worker: ConsumerWorker, channel: Channel[Any], value: Any) -> None:
    """Put ``value`` when there is room, and remember how long that took: it is no part of the handler's latency.

    *Cancel safety*: the value is in the channel.
    """
    began, waits = perf_counter(), worker.stage.timing.out_waits
    if worker.stopwatch is not None:
        worker.stopwatch.hold()
    if waits is not None:
        waits.begin(asyncio.get_running_loop().time())
    worker.waits_for = channel
    try:
        await channel.put_or_leave(value)
    finally:
        worker.waits_for = None
        worker.passing += perf_counter() - began
        if waits is not None:
            waits.end(asyncio.get_running_loop().time())
        if worker.stopwatch is not None:
            worker.stopwatch.go_on()


# -- generators -----------------------------------------------------------------------------------


def generating(worker: ConsumerWorker, function: Callable[[Any], AsyncGenerator[Any, None]]) -> Call:
    """An async generator as a call that emits each value itself; or that gives all at once, if they leave in order."""
    outlet = worker.stage.outlets[0]
    put = partial(_emit_or_refuse, worker, outlet)

    async def put_tracked(value: Any) -> None:
        assert worker.ticket is not None
        await _emit_tracked(worker, outlet, Tracked(value, worker.ticket))

    async def emit_each_value(item: Any) -> Any:
        await _read(worker, function(item), put if worker.ticket is None else put_tracked)
        return DONE

    async def collect(item: Any) -> list[Any]:
        collected: list[Any] = []

        async def keep(value: Any) -> None:
            collected.append(value)

        await _read(worker, function(item), keep)
        return collected

    return emit_each_value if worker.stage.window is None else collect


async def _read(
    worker: ConsumerWorker, values: AsyncGenerator[Any, None], take: Callable[[Any], Coroutine[Any, Any, None]]
) -> None:
    budget = Budget()
    try:
        async for value in values:
            worker.given += 1
            await take(value)
            if budget.is_spent():
                await budget.renew()
            if worker.cancelled:  # the generator swallowed it (fault B4), or asked for it
                await obey_cancel()
    except BaseException as error:
        await _close(values, error)
        raise


async def _close(values: AsyncGenerator[Any, None], why: BaseException) -> None:
    """Close a generator in this task (fault B10); no call is made again because the generator fails of being closed."""
    try:
        await values.aclose()
    except Exception as error:
        if isinstance(why, (Refused, Ended)):
            error.__cause__ = why.error
            raise type(why)(error) from None
        raise


async def _emit_or_refuse(worker: ConsumerWorker, outlet: Outlet, value: Any) -> None:
    try:
        await emit(worker, outlet, value)
    except Ended:
        raise
    except Exception as error:
        raise Refused(error) from None


async def _emit_tracked(worker: ConsumerWorker, outlet: Outlet, value: Tracked) -> None:
    """Emit a value that holds the ticket of its item; where nobody reads it, it is finished."""
    if worker.abandoned:  # its ticket has been released, and it swallowed every cancel (fault B4)
        raise asyncio.CancelledError
    value.ticket.hold()
    try:
        await _emit_or_refuse(worker, outlet, value)
    except BaseException as error:
        if not isinstance(error, asyncio.CancelledError):  # then it is there
            value.ticket.settle()  # the item has failed, and says so itself
        raise
    if outlet.channel is None:
        value.ticket.settle(value.item)


# -- several at once ------------------------------------------------------------------------------


async def emit_each(worker: ConsumerWorker, made: Iterable[tuple[Any, Any]]) -> None:
    """Emit what was made of each of several items in flight; each is done, or has failed if its value is refused.

    *Cancel safety*: all values are in the next channel, and their items are done.
    """
    stage, outlet, budget = worker.stage, worker.stage.outlets[0], Budget()
    rest = deque(made)
    worker.item = deque([item for item, _ in rest])
    try:
        while rest:
            item, value = rest.popleft()
            try:
                await emit(worker, outlet, _with_ticket(item, value))
            except asyncio.CancelledError:
                worker.settle_first()
                raise
            except Ended:
                raise
            except Exception as error:
                await _give_up(worker, item, error)
            else:
                if outlet.channel is None and type(item) is Tracked:
                    item.ticket.settle(value)
                worker.settle_first()
            if budget.is_spent():
                await budget.renew()
    except BaseException:  # what is left in flight then is the item that was about to be given up, if any
        for item, value in rest:
            worker.item.pop()
            stage.counts.settled_besides += 1
            leave(stage, outlet, _with_ticket(item, value), item)
        raise
    stage.counts.settled_besides -= 1  # the worker counts one


async def _give_up(worker: ConsumerWorker, item: Any, refusal: Exception) -> None:
    try:
        await worker.stage.give_up(worker, item, 1, refusal)
    except Ended:
        raise
    except Exception as error:
        raise Ended(error) from None


def _with_ticket(item: Any, value: Any) -> Any:
    return Tracked(value, item.ticket) if type(item) is Tracked else value


def leave(stage: Stage, outlet: Outlet, value: Any, item: Any) -> bool:
    """Leave ``value``, which was made of ``item``, in the next channel whatever its bound says; whether it was taken.

    If not, the item, which counts as done, has failed, and so has the run.
    """
    try:
        if outlet.channel is not None:
            outlet.channel.enqueue(value)
    except Exception as error:  # of a function of the user
        stage.count_failed(KeptFailure.of(plain(item), error, 1, stage.handler.name))
        fail_all([value], error)
        stage.run.trouble(error, stage.handler.name)
        return False
    outlet.emitted += 1
    return True


# -- branches -------------------------------------------------------------------------------------


def branching(worker: ConsumerWorker, choose: Call) -> Call:
    """A call that names branches, as one that emits the item to them."""
    stage, budget = worker.stage, Budget()

    async def handle(item: Any) -> Any:
        nonlocal budget
        branches = await choose(item)
        if type(item) is Tracked:
            branches = branches.item
        await _send(worker, item, [stage.outlets[branch] for branch in branches])
        if any(budget.is_spent() for _ in branches):
            budget, worker.interrupted = Budget(), True  # it yields before it takes another item, never after
        return DONE

    return handle


async def _send(worker: ConsumerWorker, item: Any, outlets: Iterable[Outlet]) -> None:
    """Emit the item to one outlet after the other, until one refuses it.

    *Cancel safety*: all have it, and it is settled.
    """
    left = deque(outlets)
    while left:
        outlet = left.popleft()
        try:
            await emit(worker, outlet, _copy(item, bool(left)))
        except asyncio.CancelledError:
            _leave_copies(worker, item, left)
            worker.settle()
            raise
        except BaseException as error:
            if left:
                _take_back(item)
            if isinstance(error, Ended) or not isinstance(error, Exception):
                raise
            raise Refused(error) from None


def _leave_copies(worker: ConsumerWorker, item: Any, outlets: deque[Outlet]) -> None:
    """Leave the item in the channels of these outlets, until one refuses it."""
    while outlets:
        outlet = outlets.popleft()
        if not leave(worker.stage, outlet, _copy(item, bool(outlets)), item):
            if outlets:
                _take_back(item)
            return


def _copy(item: Any, more: bool) -> Any:
    """The item for one branch; if ``more`` follow, it holds the ticket for itself."""
    if type(item) is not Tracked:
        return item
    if more:
        item.ticket.hold()
    return Tracked(item.item, item.ticket)


def _take_back(item: Any) -> None:
    """A copy of the item was refused: the item has failed, and says so itself."""
    if type(item) is Tracked:
        item.ticket.settle()
