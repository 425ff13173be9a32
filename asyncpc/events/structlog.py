"""Events as log entries of structlog: ``pipeline.listen(StructlogListener())``; ``pip install 'asyncpc[structlog]'``.

::

    {"event": "item_failed", "level": "error", "pipeline": "orders", "stage": "charge", "error": "Timeout", …}
"""

from __future__ import annotations

from typing import Any

from . import Event
from .words import fields_of, level_of, name_of

try:
    import structlog
except ImportError as _missing:
    raise ImportError("asyncpc.events.structlog needs structlog: pip install 'asyncpc[structlog]'") from _missing

__all__ = ["StructlogListener"]


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
        getattr(self._logger, level_of(event))(name_of(event), **fields_of(event, self._payloads))
