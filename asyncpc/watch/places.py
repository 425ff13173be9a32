"""Where the workers of a stage are, for whoever asks in another thread, also while the event loop is blocked."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any, Final

from ..offload.into_loop import in_loop
from ..run.running import Running

__all__ = ["workers_in"]

PATIENCE: Final = 0.5
"""Seconds that the loop may take to answer."""

PLACED: Final = ("is at work", "opens its resource")
"""What is done in the user's code; the others wait in this package."""


def workers_in(running: Running[Any, Any], loop: asyncio.AbstractEventLoop, stage: str) -> list[dict[str, Any]]:
    """What each worker of the stage does, where, and for how long, ready for JSON."""

    def look() -> list[dict[str, Any]]:
        found = [one for one in running.workers() if one.stage == stage]
        return [one._asdict() | {"place": running.where(one.name) if one.doing in PLACED else ""} for one in found]

    try:
        answer: list[dict[str, Any]] = in_loop(loop, look, deadline=monotonic() + PATIENCE)
        return answer
    except TimeoutError:  # something blocks it, so nothing changes meanwhile
        return look()
