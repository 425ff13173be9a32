"""What becomes of an item whose handler raised: further attempts, then what ``on_error`` says (invariant 7).

Nothing here is on the way of an item that is handled at the first attempt.
"""

from __future__ import annotations

import asyncio
import traceback
from typing import TYPE_CHECKING, Any

from .batch import Batched
from ..errors import RetryLater, TooManyFailures
from ..core.isolation import InContext, isolated
from .rate import Handle
from .retry import Failure
from ..core.stage import EMPTY, Asked, logger, plain
from ..wording import annotate, described, summary

if TYPE_CHECKING:
    from ..core.worker import ConsumerWorker

__all__ = ["attempt", "for_caller", "recovered"]


async def attempt(worker: ConsumerWorker, item: Any, handle: Handle) -> Any:
    """The handler's value, after as many attempts as it may have; EMPTY if a policy gives the item up."""
    try:
        return await handle(item)
    except Exception as error:
        return await recovered(worker, item, handle, error)


async def for_caller(worker: ConsumerWorker, asked: Asked, handle: Handle) -> Any:
    """The value for who asked, after as many attempts as it may have; EMPTY if it failed, and nobody else is told."""
    try:
        return await handle(asked.item)
    except Exception as error:
        value, _, failed = await _again(worker, asked.item, handle, error)
    worker.inside = None
    if failed is not None:
        asked.fail(failed)
        worker.stage.last_failure = summary(failed)
        worker.stage.failed += 1
    return value


async def recovered(worker: ConsumerWorker, item: Any, handle: Handle, error: Exception) -> Any:
    """The value after all, by another attempt; EMPTY if a policy gives the item up; else what failed is raised."""
    try:
        value, calls, failed = await _again(worker, item, handle, error)
        if failed is None:
            return value
        if isinstance(item, Batched):
            await _recover_batch(worker, item, calls, failed)
        elif worker.cancelled or worker.stage.handler.on_error == "stop":
            raise failed
        else:
            await _give_up(worker, item, calls, failed)
    finally:
        worker.inside = None  # the next item may have no context of its own
    return EMPTY


async def _again(
    worker: ConsumerWorker, item: Any, handle: Handle, error: Exception
) -> tuple[Any, int, Exception | None]:
    """Further attempts as ``retry`` allows: the value and the number of calls, or what the last one failed with."""
    retry, attempts, calls = worker.stage.handler.retry, 1, 1
    while not worker.cancelled:  # else the handler made an error of its cancellation
        if isinstance(error, RetryLater):
            seconds = error.seconds
        elif retry is not None and attempts < retry.attempts and isinstance(error, retry.on):
            seconds = retry.wait(attempts)
            attempts += 1
        else:
            break
        worker.stage.retried += 1
        calls += 1
        await worker.rest(seconds)
        try:
            return await isolated(worker, handle)(item), calls, None
        except Exception as again:
            error = again
    if calls > 1:
        annotate(error, f"after {calls} calls")
    return EMPTY, calls, error


async def _recover_batch(worker: ConsumerWorker, batch: Batched, calls: int, error: Exception) -> None:
    """What becomes of a batch that failed at last: split, told to those who asked, or given up whole."""
    stage = worker.stage
    assert stage.handler.batch is not None
    if stage.handler.batch.split_on_error and len(batch) > 1 and not worker.cancelled:
        stage.split(batch)
        return
    all_asked = all(type(item) is Asked for item in batch)
    if not all_asked and (worker.cancelled or stage.handler.on_error == "stop"):
        raise error
    worker.hand = left = Batched(batch, batch.reason)
    while left:  # one by one, since the next failure may be one too many, or have to wait for room
        if type(left[0]) is Asked:
            left[0].fail(error)
            stage.last_failure = summary(error)
            stage.failed += 1
        else:
            await _give_up(worker, left[0], calls, error)
        del left[0]
        stage.more += 1
    stage.more -= 1  # the worker counts one


async def _give_up(worker: ConsumerWorker, item: Any, attempts: int, error: Exception) -> None:
    """Count the item as failed and hand it on as the policy says; raises when it was one too many."""
    stage, handler = worker.stage, worker.stage.handler
    failed = stage.failed + stage.telling + 1
    allowed = handler.max_failures
    if isinstance(allowed, float):
        allowed *= max(100, stage.settled + 1)
    if allowed is not None and failed > allowed:
        raise TooManyFailures(
            f"stage {handler.name!r}: {failed} items failed, max_failures={handler.max_failures} allows no more"
        ) from error
    told = summary(error)
    if failed & (failed - 1) == 0:  # 1, 2, 4, 8, …: a log is no place for each of a million
        logger.warning("stage %r: %d failed, the last with %s", handler.name, failed, told)
    if handler.on_error != "skip":
        stage.telling += 1
        try:
            await _tell(worker, Failure(plain(item), described(error), attempts, handler.name, _trace(error)))
        finally:
            stage.telling -= 1
    stage.last_failure = told
    stage.failed += 1


async def _tell(worker: ConsumerWorker, failure: Failure) -> None:
    """Hand the failure on; cancelled or not, it ends in the queue of the stage that is told, if that is one."""
    stage, letters = worker.stage, worker.stage.letters
    if letters is None:
        told = stage.handler.tell(failure)
        await (told if worker.inside is None else InContext(told, worker.inside))  # the item's own, so nobody else's
        return
    try:
        await worker.push(letters, failure)
    except asyncio.CancelledError:
        stage.letters_sent += 1
        stage.failed += 1
        _let_go(worker)
        raise
    except asyncio.QueueFull:  # overflow="raise": the run fails of it, and so has the item
        stage.letters_sent += 1
        raise
    stage.letters_sent += 1


def _let_go(worker: ConsumerWorker) -> None:
    """An item was counted as failed, and a cancel is about to come out: only the rest of its batch is left in hand."""
    if isinstance(worker.hand, Batched) and len(worker.hand) > 1:
        del worker.hand[0]
        worker.stage.more += 1
    else:
        worker.settle()


def _trace(error: Exception) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:
        return ""
