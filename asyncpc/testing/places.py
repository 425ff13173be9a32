"""Where a task waits: the innermost line of the user's code, or else of asyncpc's."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any, Final

__all__ = ["place_of"]

OWN: Final = f"{Path(__file__).parents[1]}{os.sep}"
STANDARD: Final = f"{Path(asyncio.__file__).parents[1]}{os.sep}"
INSTALLED: Final = f"{os.sep}site-packages{os.sep}"
"""It is inside the folder of the standard library."""

FRAMES: Final = ("cr_frame", "ag_frame", "gi_frame")
AWAITED: Final = ("cr_await", "ag_await", "gi_yieldfrom")


def place_of(task: asyncio.Task[Any]) -> str:
    """File, line and function in which a task waits."""
    frames = list(_frames(task.get_coro()))
    if not frames:
        return "its beginning"
    frame = max(reversed(frames), key=lambda one: _rank(one.f_code.co_filename))
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def _frames(waiting: Any) -> Iterator[FrameType]:
    """The frames from the coroutine of a task down to what it waits for."""
    while waiting is not None:
        frame = _first(waiting, FRAMES)
        if frame is not None:
            yield frame
        waiting = _first(waiting, AWAITED) if isinstance(waiting, _KINDS) else _wrapped(waiting)


def _first(one: Any, names: tuple[str, ...]) -> Any:
    return next((found for name in names if (found := getattr(one, name, None)) is not None), None)


_KINDS: Final = (CoroutineType, AsyncGeneratorType, GeneratorType)


def _wrapped(waiting: Any) -> Any:
    """What is in an object by which a coroutine or a step of an async generator is awaited; it does not say that."""
    if isinstance(waiting, asyncio.Future):
        return None
    return next((one for one in gc.get_referents(waiting) if isinstance(one, _KINDS)), None)


def _rank(file: str) -> int:
    """How much a file tells: the user's most, then asyncpc's, then one of the standard library."""
    if file.startswith(OWN):
        return 1
    return 0 if file.startswith(STANDARD) and INSTALLED not in file else 2
