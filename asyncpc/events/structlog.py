"""Events as log entries of structlog: ``pipeline.listen(StructlogListener())``; ``pip install 'asyncpc[structlog]'``.

::

    {"event": "item_failed", "level": "error", "pipeline": "orders", "stage": "charge", "error": "Timeout", …}
"""

from __future__ import annotations

import re
from typing import Any, Final

from ..wording import redacted, shown
from . import Event, ItemDropped, ItemFailed, ItemRetried, WorkerEnded

try:
    import structlog
except ImportError as _missing:
    raise ImportError("asyncpc.events.structlog needs structlog: pip install 'asyncpc[structlog]'") from _missing

__all__ = ["StructlogListener"]

LEVELS: Final = {
    "ItemFailed": "error",
    "WorkerLeft": "error",
    "ItemsLeft": "warning",
    "ItemDropped": "warning",
    "ItemRetried": "warning",
    "ConnectionLost": "warning",
}
"""What is more than ``info``."""


class StructlogListener:
    """Writes each event to ``logger``, by default structlog's own, with its fields as key-value pairs.

    Errors are shown by their type alone, and items not at all, unless ``payloads=True``: both may hold what your users
    have sent. Even then an item is cut, and passwords in URLs are hidden.
    """

    def __init__(self, logger: Any = None, *, payloads: bool = False) -> None:
        self._logger = structlog.get_logger("asyncpc") if logger is None else logger
        self._payloads = payloads

    def __call__(self, event: Event) -> None:
        """Write one event."""
        name = type(event).__name__
        level = "error" if isinstance(event, WorkerEnded) and event.error else LEVELS.get(name, "info")
        fields = dict(event._asdict())
        if isinstance(event, ItemFailed | ItemRetried | ItemDropped):
            fields["item"] = shown(event.item)
            if not self._payloads:
                del fields["item"]
        if "error" in fields:
            error = redacted(fields["error"])
            fields["error"] = error if self._payloads else error.partition(":")[0]
        getattr(self._logger, level)(re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(), **fields)
