"""What the page asks a run to do, read from JSON that anybody may have sent."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from ..wording import shown

__all__ = ["LONGEST", "Command", "MalformedError", "command_from"]

LONGEST: Final = 4096
"""Bytes of a command."""

MOST_WORKERS: Final = 100_000

MOST_CALLS: Final = 1e9


class MalformedError(ValueError):
    """It is no command; the message says why."""


class Command(NamedTuple):
    """What to do."""

    pipeline: str
    """Its name on the page."""
    action: str
    """``pause``, ``resume``, ``drain``, ``scale`` or ``rate``."""
    stage: str = ""
    workers: int = 1
    """For ``scale``."""
    calls: float = 1.0
    """For ``rate``: how many may begin in ``seconds``."""
    seconds: float = 1.0


FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "pause": (),
    "resume": (),
    "drain": (),
    "scale": ("stage", "workers"),
    "rate": ("stage", "calls", "seconds"),
}
"""What each action needs."""


def command_from(body: bytes) -> Command:
    """Read a command; raises ``MalformedError``."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        raise MalformedError("this is not JSON") from None
    if not isinstance(told, dict):
        raise MalformedError("a command is a JSON object")
    action = told.get("action")
    if not isinstance(action, str) or action not in FIELDS:
        raise MalformedError(f"action must be one of {', '.join(FIELDS)}")
    needed = ("pipeline", "action", *FIELDS[action])
    strange, missing = [name for name in told if name not in needed], [name for name in needed if name not in told]
    if strange or missing:
        what = f"{shown(strange[0])} is unknown" if strange else f"{missing[0]} is missing"
        raise MalformedError(f"{action} takes {', '.join(needed)}: {what}")
    return Command(**{name: _checked(name, told[name]) for name in needed})


def _checked(name: str, value: Any) -> Any:
    if name in ("pipeline", "action", "stage"):
        if isinstance(value, str):
            return value
        raise MalformedError(f"{name} must be text")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise MalformedError(f"{name} must be a number")
    if name == "workers":
        if isinstance(value, int) and 1 <= value <= MOST_WORKERS:
            return value
        raise MalformedError(f"workers must be a whole number from 1 to {MOST_WORKERS:,}")
    if 0 < value <= MOST_CALLS and math.isfinite(value):
        return float(value)
    raise MalformedError(f"{name} must be above 0 and at most {MOST_CALLS:,.0f}")
