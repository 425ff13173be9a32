"""How a caller leaves a run: it waits until nothing of the run is left, and gets its report or its errors.

A cancel of the caller does not break off the wait, it hastens the end of the run, and comes out after that (faults B5,
B6). Then what the run has left is given to ``on_unfinished=``, with the same rule.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..logs import ERROR, log
from ..wording import summary
from .supervisor import Supervisor

__all__ = ["end_block", "leave", "wait_hastening"]


def end_block(run: Supervisor, error: BaseException | None) -> None:
    """Begin to leave the block of a run, which may have raised ``error``: drain, or cancel if nobody waits for more."""
    if run.results is None and (error is None or isinstance(error, Exception)):
        run.stop()
    else:
        run.abort()


async def leave(
    run: Supervisor, error: BaseException | None, end: Callable[[], None], outcome: Callable[[], object]
) -> None:
    """Leave the block of a run, which may have raised ``error``: wait for the end, call ``end``, raise the outcome."""
    try:
        await wait_hastening(run, error)
    finally:
        end()
    if error is None and not run.outcome.is_delivered:
        outcome()
    elif isinstance(error, Exception) and not run.outcome.is_delivered:
        run.outcome.raise_with(error)


async def wait_hastening(run: Supervisor, cause: BaseException | None = None) -> None:
    """Wait for the end, and until ``on_unfinished`` has got what was left.

    Each cancel of the caller hastens that, and is raised when no task is left (faults B5, B6); the report hangs on
    it. ``cause`` is the error that the caller is leaving with; if that is a cancel, it counts as the first.
    """
    first = cause if isinstance(cause, asyncio.CancelledError) else None
    cancelled = await _outlast(run.ended, run.abort, first)
    handing = run.hand_over()
    if handing is not None:
        cancelled = await _outlast(handing.ended, handing.cancel, cancelled)
        if handing.error is not None:
            _keep_error_of_hand_over(run, handing.error)
    if cancelled is not None:
        if not run.entered:  # else they were logged when they came
            run.outcome.log_failures(run.outcome.errors, "while its caller was cancelled")
        run.outcome.hang_on(cancelled)
        if first is None:
            raise cancelled


def _keep_error_of_hand_over(run: Supervisor, error: Exception) -> None:
    run.outcome.keep(error, "on_unfinished=")
    run.outcome.is_delivered = False  # the caller has not seen this error yet
    name = run.plan.name
    log(ERROR, "pipeline %r: on_unfinished= raised %s", name, summary(error), error=error, pipeline=name)


async def _outlast(
    ended: asyncio.Event, hasten: Callable[[], None], cancelled: asyncio.CancelledError | None
) -> asyncio.CancelledError | None:
    """Wait for ``ended``; each new cancel of the caller hastens it. The last cancel, or the one that came before."""
    while not ended.is_set():
        try:
            await ended.wait()
        except asyncio.CancelledError as error:
            if cancelled is None or not _delivered_again(error, cancelled):
                hasten()
            cancelled = error
    return cancelled


def _delivered_again(error: asyncio.CancelledError, before: asyncio.CancelledError) -> bool:
    """Whether anyio delivers the same cancel of a scope again, as it does in every iteration of the loop."""
    return bool(error.args) and error.args == before.args and "cancel scope" in str(error.args[0])
