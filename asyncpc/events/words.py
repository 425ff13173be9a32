"""Events in the words of a log: what each is called, how bad it is, and which of its fields may be shown."""

from __future__ import annotations

import re
from typing import Any, Final, Literal

from ..wording import redacted, shown
from . import Event, WorkerEnded

__all__ = ["fields_of", "level_of", "name_of"]

Level = Literal["info", "warning", "error"]

LEVELS: Final[dict[str, Level]] = {
    "ItemFailed": "error",
    "WorkerLeft": "error",
    "ItemsLeft": "warning",
    "ItemDropped": "warning",
    "ItemRetried": "warning",
    "ConnectionLost": "warning",
}
"""What is more than ``info``; so is a worker that has ended with an error."""


def name_of(event: Event) -> str:
    """Such as ``item_failed``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()


def level_of(event: Event) -> Level:
    """How bad it is."""
    if isinstance(event, WorkerEnded) and event.error:
        return "error"
    return LEVELS.get(type(event).__name__, "info")


def fields_of(event: Event, payloads: bool) -> dict[str, Any]:
    """What it tells, without passwords in URLs.

    Errors are told by their type alone, and items not at all, unless with ``payloads``: both may hold what users sent.
    """
    fields = event._asdict()
    if "error" in fields:
        error = redacted(fields["error"])
        fields["error"] = error if payloads else error.partition(":")[0]
    if "item" in fields:
        item = fields.pop("item")
        if payloads:
            fields["item"] = shown(item)
    return fields
