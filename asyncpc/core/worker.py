"""The loop of a consumer's worker: take, handle, pass on, settle.

An accepted item is at every ``await`` in exactly one place that can be counted (invariant 2): in a channel, or in
flight in a worker (``worker.item``). That is cleared only before an ``await``, since nobody can look in between.

While there is room and backlog, an item costs an append, a pop and two counts, and no coroutine, future or clock read
(see :mod:`~asyncpc.core.channel`). The writers of a channel count what went in, the workers that take from it count
what became of it, so that the two can be compared (invariant 4).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from time import perf_counter
from types import CoroutineType
from typing import Any, Final

from ..errors import LeftBehind
from .channel import Channel, Ended
from .emit import Refused, branching, generating, put_waiting
from .isolation import isolated
from .queue import END
from .seams import Call
from .stage import DONE, NO_ITEM, ConsumerWorker, Stage, give_up_all, stray
from .tracked import never_awaited, tracking
from .waiting import TIME_SLICE, WaitQueue, obey_cancel

__all__ = ["RUNS", "attempt", "consume", "next_attempt", "recovered"]

RUNS: Final = tuple(map(range, (1, 2, 4, 8, *[16] * 7)))
"""The runs of items between two looks at the clock: at most 127 items until others may run (invariant 10)."""

FIRST: Final = RUNS[0]

LATE_CALL: Final = "the end of a call that has failed already"
"""What a worker waits for whose call exceeded its timeout and goes on in a thread."""


def consume(worker: ConsumerWorker) -> Coroutine[Any, Any, None]:
    """Handle items until END; a failure is kept in ``worker.failures``, never raised into the loop (fault B9).

    *Cancel safety*: an item whose handler was cancelled stays in flight, for the report; a value that waited for room
    is left in the next channel. A resource is closed in the task that opened it.
    """
    handler = worker.stage.handler
    return _work(worker, handler.function) if handler.context is None else _with_resource(worker)


def _begin(worker: ConsumerWorker) -> None:
    worker.task = asyncio.current_task()  # an eager task runs before its creator knows it
    worker.stage.inbox.worker_began()


async def _with_resource(worker: ConsumerWorker) -> None:
    handler, inbox, opening = worker.stage.handler, worker.stage.inbox, worker.stage.staff.opening
    _begin(worker)
    try:
        async with AsyncExitStack() as stack:
            opening.add(worker)
            if inbox.getters.on_wait is not None:
                inbox.getters.on_wait()  # or END would wait for a worker that nobody needs any more
                if worker not in opening:  # that was END
                    return
            resource = await stack.enter_async_context(handler.open_context())
            opening.discard(worker)
            worker.stage.staff.has_opened = True
            if handler.calls_of is not None:
                worker.calls = handler.calls_of(resource)
            if handler.place_of is not None:
                worker.where = partial(handler.place_of, resource)
            if handler.look_of is not None:
                worker.stage.staff.look = handler.look_of(resource)
            await _work(worker, lambda item: handler.function(item, resource))
            if worker.failures:
                worker.stage.run.failing(worker)
                raise worker.failures[0]  # so that the resource sees it; the error is kept even if its exit swallows it
    except asyncio.CancelledError as error:
        worker.completed = False  # the resource was not closed properly
        worker.leaves_a_call = isinstance(error, LeftBehind)
        raise
    except BaseException as error:
        worker.fail(error)
    finally:
        opening.discard(worker)


async def _work(worker: ConsumerWorker, function: Callable[[Any], Any]) -> None:
    stage, inbox, staff = worker.stage, worker.stage.inbox, worker.stage.staff
    if stage.handler.context is None:
        _begin(worker)
    if worker.context is not None:
        worker.home = worker.context.copy()
        worker.watched = worker.context, worker.home
    worker.function, items, slow = function, inbox.taker(), False
    around = _around(inbox, items, stage.outlets[0].channel)
    probe, writers, getters, loop = stage.timing.loop, inbox.writers, inbox.getters, asyncio.get_running_loop()
    try:
        while True:
            if (staff.surplus or staff.gate is not None) and await _is_to_leave(stage):
                break
            if worker.changes != staff.changes:
                _make_call(worker)
            if items:
                ticks = probe.watch() if slow else 0
                elapsed, single = await _handle_some(worker, items, inbox, around)
                worker.interrupted, worker.inside = False, None
                waited = slow and probe.ended(ticks, elapsed)  # a slow handler that waits has let others run
                slow = single and elapsed > TIME_SLICE
                if not waited if items else writers.waking:  # a writer that was woken will have put something by then
                    await inbox.yield_to_others()  # before an item is taken, never after (invariant 10, fault A8)
            elif inbox.take_end() is END:
                break
            else:
                await getters.wait(loop)
                inbox.wake_followers()  # and look again, since somebody else may have taken the item
        worker.completed = True
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # KeyboardInterrupt and SystemExit too: the run stops, then they come out (B13)
        worker.fail(error)
    finally:
        if worker.stopwatch is not None:
            worker.stopwatch.close()


def _make_call(worker: ConsumerWorker) -> None:
    """Let the worker call its function with all that the stage was asked for."""
    stage, function = worker.stage, worker.function
    worker.changes = stage.staff.changes
    branches = stage.handler.branches is not None
    call: Call = generating(worker, function) if stage.handler.generates and not branches else function
    for wrap in stage.wraps:
        call = wrap(call, worker)
    if stage.run.tracks:
        call = _make_tracked(call, worker)
    else:
        worker.attempt = call = branching(worker, call) if branches else call
    if stage.window is not None:
        call = stage.window.in_order(call, worker)
    worker.call = isolated(worker, call) if worker.watched[0] is None else call


def _make_tracked(call: Call, worker: ConsumerWorker) -> Call:
    """``call`` for items that may have tickets, and may be followed."""
    stage, following, untracked = worker.stage, worker.stage.run.following, call
    if not stage.handler.takes_lists:
        call = tracking(call, worker)
    if stage.handler.branches is not None:
        call, untracked = branching(worker, call), branching(worker, untracked)
    if following is None:
        worker.attempt = call
        return call
    worker.attempt = following.attempt(call, worker)
    return following.handling(worker.attempt, untracked, worker)


Around = tuple[
    Callable[[], Any], WaitQueue, WaitQueue, float, Channel[Any] | None, Any, Callable[[Any], None], WaitQueue
]
"""What an item meets before and after its call, looked up once: see :func:`_around`."""


def _around(inbox: Channel[Any], items: Any, outbox: Channel[Any] | None) -> Around:
    out = outbox or inbox  # the latter is not written to
    return (
        items.popleft,
        inbox.putters,
        inbox.writers,
        inbox.look_below,
        outbox,
        out.items,
        out.items.append,
        out.getters,
    )


async def _handle_some(worker: ConsumerWorker, items: Any, inbox: Channel[Any], around: Around) -> tuple[float, bool]:
    """Handle items while there are any and time is left: the seconds that took, and whether it was a single item."""
    take, putters, writers, look_below, outbox, out_items, out_append, out_getters = around
    call, clock = worker.call, perf_counter
    context, home = worker.watched
    settled, run, elapsed, value = worker.settled, FIRST, 0.0, None
    worker.passing, started = 0.0, clock()
    for run in RUNS:
        for _ in run:
            try:
                worker.item = item = take()
            except IndexError:
                break
            except BaseException:  # priorities that cannot be compared; the last item has been settled
                worker.item = NO_ITEM
                raise
            if putters or (writers and len(items) < look_below):
                inbox.made_room()
            try:
                value = await call(item)
            except (Exception, asyncio.CancelledError) as error:
                value = await recovered(worker, item, error)
            try:
                leaked = context != home
            except Exception:  # a value that cannot be compared, such as an array
                leaked = True
            if leaked:
                context, home = worker.watched = None, None
                call = worker.call = isolated(worker, worker.call)  # it may have been made anew meanwhile
            if outbox is not None and value is not DONE:
                try:
                    if outbox.mark <= len(out_items) >= outbox.grow():
                        await put_waiting(worker, outbox, value)
                    else:
                        out_append(value)
                        if out_getters and not out_getters.waking:
                            out_getters.wake()
                except BaseException as error:
                    await _not_emitted(worker, item, error)
            settled += 1
            worker.settled = settled
            if worker.interrupted:
                await _interrupted(worker)
                break
        elapsed = clock() - started
        worker.item = NO_ITEM  # what follows may raise: a key is let go there, which may compare priorities
        if run is FIRST:
            _look_at_first(worker, elapsed, value)
        if not items or elapsed > TIME_SLICE or worker.interrupted:
            break
    return elapsed, run is FIRST


def _look_at_first(worker: ConsumerWorker, elapsed: float, value: Any) -> None:
    """What is looked for in the first of several items only: how long a call takes, and a value that nobody reads."""
    stage = worker.stage
    stage.timing.latency.add(elapsed - worker.passing)
    if value is not None and value is not DONE and stage.outlets[0].channel is None:
        if type(value) is CoroutineType:
            raise never_awaited(stage.handler.name, value)
        stage.counts.unread = True


async def _is_to_leave(stage: Stage) -> bool:
    """Wait while the stage is paused, with no item in flight; whether it has more workers than it should."""
    staff = stage.staff
    while staff.gate is not None:
        await staff.gate.wait()
    if not staff.surplus or stage.inbox.closed:  # END will come anyway, and it may be needed until then
        return False
    staff.surplus -= 1
    stage.inbox.made_item()  # it may have been woken for one
    return True


async def _interrupted(worker: ConsumerWorker) -> None:
    """Take nothing more if the worker was cancelled, and its handler swallowed that (fault B4), or asked for it.

    Wait for the end of a call that has failed but goes on in its thread: until then the key of its item is not free
    (invariant 5), and other workers can handle the next item sooner.
    """
    if worker.cancelled:
        worker.item = NO_ITEM
        await obey_cancel()
    if worker.calls is not None and worker.calls.is_busy:
        worker.item = NO_ITEM
        inbox, staff, began = worker.stage.inbox, worker.stage.staff, perf_counter()
        staff.resting += 1
        worker.waits_for = LATE_CALL
        try:
            if inbox.getters.on_wait is not None:
                inbox.getters.on_wait()
            await worker.calls.until_free()
        finally:
            staff.resting -= 1
            worker.waits_for = None
            worker.passing += perf_counter() - began


async def _not_emitted(worker: ConsumerWorker, item: Any, error: BaseException) -> None:
    """The value of the item waited for room, and was left in the next channel; or that refused it."""
    if isinstance(error, asyncio.CancelledError):
        worker.settle()
        raise error
    if not isinstance(error, Exception):  # KeyboardInterrupt in key=, say: the item fails with it, as in a handler
        raise error
    try:
        if isinstance(error, Ended):
            raise error
        await worker.stage.give_up(worker, item, 1, error)
    except Ended as ended:
        raise ended.error from None


# -- beside the way of an item that is handled at the first attempt ---------------------------------


async def attempt(worker: ConsumerWorker, item: Any, call: Call) -> Any:
    """The call's value, after as many attempts as it may have; DONE if a policy gives the item up."""
    try:
        return await call(item)
    except (Exception, asyncio.CancelledError) as error:
        return await _recovered(worker, item, error)


def next_attempt(worker: ConsumerWorker) -> Call:
    """How the worker makes another attempt at an item: in a context of its own, with what the stage asks for now."""
    if worker.changes != worker.stage.staff.changes:
        _make_call(worker)
    return isolated(worker, worker.attempt)


async def recovered(worker: ConsumerWorker, item: Any, error: BaseException) -> Any:
    """The value of a call that raised after all, by another attempt; DONE if a policy gives the item up."""
    if worker.stage.window is not None:  # it has had its attempts
        raise error.error if isinstance(error, Ended) else error
    return await _recovered(worker, item, error)


async def _recovered(worker: ConsumerWorker, item: Any, error: BaseException) -> Any:
    stage, following = worker.stage, worker.stage.run.following
    if following is not None and following.has_handled(item):
        raise error
    try:
        if isinstance(error, asyncio.CancelledError):
            await stage.fail_at_last(worker, item, 1, stray(worker, error))
        elif isinstance(error, Refused):
            await give_up_all(worker, item, 1, error.error)
        elif isinstance(error, Ended):
            raise error.error
        elif isinstance(error, Exception):
            return await stage.recover(worker, item, error)
    except Ended as ended:
        raise ended.error from None
    finally:
        worker.inside = None  # the next item may have no context of its own
        if worker.calls is not None:
            worker.interrupted = True  # its call may go on
    return DONE
