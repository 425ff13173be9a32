"""Events as OpenTelemetry's log records: ``pipeline.listen(OtelListener())``."""

from __future__ import annotations

import time
from typing import Final

from opentelemetry._logs import LoggerProvider, SeverityNumber, get_logger

from ..events import Event
from ..events.words import fields_of, level_of, name_of

__all__ = ["OtelListener"]

SEVERITIES: Final = {"info": SeverityNumber.INFO, "warning": SeverityNumber.WARN, "error": SeverityNumber.ERROR}


class OtelListener:
    """Emits each event as a log record with an event name, such as ``asyncpc.item_failed``, and its fields.

    Errors are told by their type alone, and items not at all, unless ``payloads=True``: both may hold what your users
    have sent. Even then an item is cut, and passwords in URLs are hidden. ``logger_provider`` is by default the global
    one.
    """

    def __init__(self, logger_provider: LoggerProvider | None = None, *, payloads: bool = False) -> None:
        self._logger = get_logger("asyncpc", logger_provider=logger_provider)
        self._payloads = payloads

    def __call__(self, event: Event) -> None:
        """Emit one event."""
        of_error = "asyncpc.error" if self._payloads else "error.type"
        self._logger.emit(
            timestamp=time.time_ns(),
            severity_number=SEVERITIES[level_of(event)],
            event_name=f"asyncpc.{name_of(event)}",
            attributes={
                of_error if field == "error" else f"asyncpc.{field}": value
                for field, value in fields_of(event, self._payloads).items()
            },
        )
