"""How a worker calls its handler: each function here makes one async function of an item out of another.

The plain case needs none of them: then the worker awaits the user's function itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from ..options.batch import Batched
from ..options.rate import Handle, Timeout
from ..options.failures import attempt, for_caller
from .stage import EMPTY, Asked, plain
from .waiting import checkpoint

if TYPE_CHECKING:
    from .worker import ConsumerWorker

__all__ = ["TURN", "answering", "batching", "branching", "emitting", "in_order", "limited"]

TURN: Final = 0.0005
"""Seconds after which a loop's turn ends, at the next look at the clock."""


def limited(worker: ConsumerWorker, handle: Handle) -> Handle:
    """``handle`` within the stage's limits: each call waits for the circuit, then for its turn, then is timed."""
    stage = worker.stage
    if worker.timeout is not None:
        worker.timeout.close()
    if stage.handler.timeout is not None:
        handle = worker.timeout = Timeout(handle, stage.handler.timeout, stage.handler.name)
    if stage.throttle is not None:
        handle = stage.throttle.limit(handle)
    if stage.circuit is not None:
        handle = stage.circuit.guard(handle)
    return handle


def emitting(worker: ConsumerWorker, function: Callable[[Any], AsyncGenerator[Any, None]]) -> Handle:
    """An async generator as a function that passes each value on itself, or collects them where they leave in order."""
    stage, outbox = worker.stage, worker.stage.outbox
    ordered = stage.order is not None

    async def handle(item: Any) -> list[Any]:
        values = function(item)
        collected: list[Any] = []
        given, until = 0, perf_counter() + TURN
        try:
            async for value in values:
                if ordered:
                    collected.append(value)
                elif outbox is None:
                    stage.emitted += 1
                elif len(outbox.items) >= outbox.mark:
                    await worker.emit(outbox, value)
                else:
                    outbox.items.append(value)
                    stage.emitted += 1
                    if outbox.getters and not outbox.getters.waking:
                        outbox.getters.wake()
                given += 1
                if not given % 8 and (not given % 128 or perf_counter() > until):  # invariant 10
                    await checkpoint()
                    until = perf_counter() + TURN
                if worker.cancelled:  # the generator swallowed it (fault B4)
                    raise asyncio.CancelledError
        except BaseException:
            await values.aclose()  # in this task (fault B10)
            raise
        return collected

    return handle


def batching(worker: ConsumerWorker, handle: Handle) -> Handle:
    """A handler of lists, for batches: each item's result goes on by itself, and goes to who asked for it."""
    stage, outbox = worker.stage, worker.stage.outbox

    async def handle_batch(batch: Batched) -> None:
        stage.inbox.made_room(len(batch) - 1)  # the worker has told of one
        asked = any(type(item) is Asked for item in batch)
        results = await handle(Batched(map(plain, batch), batch.reason) if asked else batch)
        if stage.handler.generates:
            pass
        elif outbox is None and not asked:
            stage.emitted += len(batch)
        else:
            await _emit_each(worker, batch, _one_each(stage.handler.name, batch, results))
        stage.more += len(batch) - 1

    return handle_batch


async def _emit_each(worker: ConsumerWorker, batch: Batched, values: list[Any]) -> None:
    """Pass on, or give to those who asked, what came of each item of a batch; cancelled or not, all of it."""
    stage, outbox, rest = worker.stage, worker.stage.outbox, deque(zip(batch, values, strict=True))
    try:
        while rest:
            item, value = rest.popleft()
            if type(item) is not Asked:
                await worker.emit(outbox, value)
            elif outbox is not None:
                await worker.emit(outbox, Asked(value, item.future))
            else:
                stage.emitted += 1
                item.answer(value)
    except asyncio.CancelledError:
        for item, value in rest:
            if outbox is not None:
                outbox.enqueue(Asked(value, item.future) if type(item) is Asked else value)
            stage.emitted += 1
        stage.more += len(batch) - 1
        worker.settle()
        raise


def _one_each(name: str, batch: Batched, results: Any) -> list[Any]:
    if results is None:
        return [None] * len(batch)
    if isinstance(results, (list, tuple)) and len(results) == len(batch):
        return list(results)
    given = f"{len(results)} results" if isinstance(results, (list, tuple)) else f"a {type(results).__name__}"
    raise TypeError(
        f"stage {name!r}: {len(batch)} items gave {given}; return a list with one result per item, or nothing"
    )


def branching(worker: ConsumerWorker, choose: Handle) -> Handle:
    """A function that names branches, as one that passes the item on to them, with the future of who asked for it."""
    stage = worker.stage
    outboxes = stage.branches

    async def handle(item: Any) -> Any:
        branches = await (choose(item) if type(item) is not Asked else for_caller(worker, item, choose))
        if branches is EMPTY:
            return EMPTY
        for at, branch in enumerate(branches):
            outbox = outboxes[branch]
            if len(outbox.items) >= outbox.mark:
                await _send(worker, item, branches[at:])
                break
            outbox.items.append(item)
            stage.sent[branch] += 1
            stage.emitted += 1
            if outbox.getters and not outbox.getters.waking:
                outbox.getters.wake()
        return EMPTY

    return handle


async def _send(worker: ConsumerWorker, item: Any, branches: Sequence[int]) -> None:
    """Pass the item on to each of these branches; cancelled or not, it gets to all of them."""
    stage, left = worker.stage, deque(branches)
    try:
        while left:
            await worker.emit(stage.branches[left[0]], item)
            stage.sent[left.popleft()] += 1
    except asyncio.CancelledError:
        stage.sent[left.popleft()] += 1
        for branch in left:
            stage.branches[branch].enqueue(item)
            stage.sent[branch] += 1
            stage.emitted += 1
        worker.settle()
        raise


def in_order(worker: ConsumerWorker, handle: Handle) -> Handle:
    """``handle``, whose values leave the stage in the order the items were taken."""
    stage, outbox, order = worker.stage, worker.stage.outbox, worker.stage.order
    assert order is not None

    def begin(item: Any) -> Awaitable[Any]:
        return handle_in_order(item, order.ticket())  # at the moment it was taken

    async def handle_in_order(item: Any, ticket: int) -> Any:
        value = await attempt(worker, item, handle)
        values: list[Any] = [] if value is EMPTY else value if stage.handler.generates else [value]
        order.finished[ticket] = deque(values)
        try:
            while ticket - order.next >= order.WINDOW:
                await order.line.wait(asyncio.get_running_loop())
            if not order.passing:
                await pass_on()
        except BaseException:
            worker.settle()
            raise
        return EMPTY

    async def pass_on() -> None:
        """Pass on the values whose turn it is, one worker at a time."""
        order.passing = True
        try:
            while (finished := order.finished.get(order.next)) is not None:
                while finished:
                    value = finished.popleft()
                    try:
                        await worker.emit(outbox, value)
                    except Exception:  # of a function of the user, such as key=: it is in no queue
                        stage.strand(value)
                        raise
                del order.finished[order.next]
                order.next += 1
                order.line.wake(len(order.line))
        finally:
            order.passing = False

    return begin


def answering(worker: ConsumerWorker, handle: Handle) -> Handle:
    """``handle`` for runs that can be asked: an item that came by ``call`` takes its future along."""

    def begin(item: Any) -> Awaitable[Any]:
        return handle_asked(item) if type(item) is Asked else handle(item)

    async def handle_asked(asked: Asked) -> Any:
        value = await for_caller(worker, asked, handle)
        if value is EMPTY:
            return EMPTY
        if worker.stage.outbox is not None:
            return Asked(value, asked.future)
        asked.answer(value)
        return None

    return begin
