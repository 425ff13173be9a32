"""Where a task waits: the innermost line of the user's code, or else of asyncpc's."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, Final

from ..run.workers import frames_of

__all__ = ["place_of"]

OWN: Final = f"{Path(__file__).parents[1]}{os.sep}"
STANDARD: Final = f"{Path(asyncio.__file__).parents[1]}{os.sep}"
INSTALLED: Final = f"{os.sep}site-packages{os.sep}"
"""It is inside the folder of the standard library."""


def place_of(task: asyncio.Task[Any]) -> str:
    """File, line and function in which a task waits."""
    frames = [frame for frame in frames_of(task.get_coro()) if frame is not None]
    if not frames:
        return "its beginning"
    frame = max(reversed(frames), key=lambda one: _rank(one.f_code.co_filename))
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def _rank(file: str) -> int:
    """How much a file tells: the user's most, then asyncpc's, then one of the standard library."""
    if file.startswith(OWN):
        return 1
    return 0 if file.startswith(STANDARD) and INSTALLED not in file else 2
