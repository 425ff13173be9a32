"""Calls from a thread into the loop of a run. None waits for ever: a closed loop is an error with a name.

A loop that was closed under its run answers nobody any more, and wakes nobody who waits for an answer (fault D6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from threading import get_ident
from time import monotonic
from typing import Any, Final

from ..errors import QueueShutDown
from .outside import begin_wait, end_wait

__all__ = ["LONGEST_LOOK", "LOOK", "LOOP_IS_CLOSED", "NOT_TAKEN", "TIME_IS_UP", "call_soon", "in_loop", "result_of"]

LOOK: Final = 0.05
"""Seconds after which a thread that waits for the loop looks by itself for the first time."""

LONGEST_LOOK: Final = 1.0
"""The most seconds between two looks of one thread."""

LOOP_IS_CLOSED: Final = "the loop of this run is closed"

TIME_IS_UP: Final = "time is up"

NOT_TAKEN: Final = "the item was not taken"


def call_soon(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    """Let the loop call ``function``; raises ``QueueShutDown`` if it is closed."""
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        raise QueueShutDown(f"{LOOP_IS_CLOSED}: {NOT_TAKEN}") from None


def result_of(loop: asyncio.AbstractEventLoop, future: Future[Any], lost: str, deadline: float | None = None) -> Any:
    """Wait for a result that the loop will set; raise ``QueueShutDown``, with what is ``lost``, if it is closed.

    At ``deadline``, in seconds of ``monotonic``, it raises ``TimeoutError``.
    """
    patience, thread = LOOK, get_ident()
    begin_wait(thread)
    future.add_done_callback(lambda _: end_wait(thread))  # in the loop, which knows then that the thread goes on
    try:
        while True:
            dead = loop.is_closed()  # before it looks for the result, which may have been the loop's last act
            if future.done():
                return future.result()
            if dead:
                raise QueueShutDown(f"{LOOP_IS_CLOSED}: {lost}")
            left = patience if deadline is None else min(patience, deadline - monotonic())
            if left <= 0:
                raise TimeoutError(TIME_IS_UP)
            with suppress(TimeoutError):
                future.exception(left)
            patience = min(2 * patience, LONGEST_LOOK)
    finally:
        end_wait(thread)


def in_loop(
    loop: asyncio.AbstractEventLoop,
    function: Callable[..., Any],
    *args: Any,
    deadline: float | None = None,
    undo: Callable[[Any], None] | None = None,
) -> Any:
    """Call ``function`` in the loop and return its result; raises ``TimeoutError`` if it has not begun by ``deadline``.

    Whatever ends the wait withdraws the call, unless that has begun: then its end is awaited. If the caller was
    interrupted meanwhile, as by Ctrl-C, ``undo`` gets the result in its place.
    """
    result: Future[Any] = Future()

    def call() -> None:
        if result.set_running_or_notify_cancel():  # or it was withdrawn
            try:
                result.set_result(function(*args))
            except BaseException as error:
                result.set_exception(error)

    try:
        call_soon(loop, call)
        return result_of(loop, result, NOT_TAKEN, deadline)
    except BaseException as error:
        if result.cancel():
            raise
        outcome = result_of(loop, result, NOT_TAKEN)
        if isinstance(error, Exception):
            return outcome
        if undo is not None:
            undo(outcome)
        raise
