"""The signals of the parent: which of them stop its processes, and which replace them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import anyio
from anyio.abc import TaskStatus

__all__ = ["heed_signals"]


async def heed_signals(
    stop: Callable[[signal.Signals], None],
    roll: Callable[[], None],
    ask: Callable[[], None],
    *,
    task_status: TaskStatus[None],
) -> None:
    """Call ``stop`` for SIGINT, SIGTERM and the SIGHUP of a terminal that was closed, ``roll`` for any other SIGHUP.

    For SIGUSR1 ``ask`` is called. What the process ignores stays ignored, as SIGHUP under ``nohup``.
    """
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    numbers = [number for number in wanted if signal.getsignal(number) is not signal.SIG_IGN]
    if not numbers:
        task_status.started()
        return
    has_terminal = _has_terminal()
    with anyio.open_signal_receiver(*numbers) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGUSR1:
                ask()
            elif number == signal.SIGHUP and _has_terminal() == has_terminal:
                roll()
            else:
                stop(number)


def _has_terminal() -> bool:
    """Whether there is a terminal that could be closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
