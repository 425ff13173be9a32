"""Events as OpenTelemetry's log records: ``pipeline.listen(OtelListener())``."""

from __future__ import annotations

import re
import time
from typing import Final

from opentelemetry._logs import LoggerProvider, SeverityNumber, get_logger

from ..events import Event, WorkerEnded
from ..wording import redacted, shown

__all__ = ["OtelListener"]

SEVERITIES: Final = {
    "ItemFailed": SeverityNumber.ERROR,
    "WorkerLeft": SeverityNumber.ERROR,
    "ItemsLeft": SeverityNumber.WARN,
    "ItemDropped": SeverityNumber.WARN,
    "ItemRetried": SeverityNumber.WARN,
    "ConnectionLost": SeverityNumber.WARN,
}
"""What is more than ``INFO``."""


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
        kind = type(event).__name__
        failed = isinstance(event, WorkerEnded) and event.error
        attributes: dict[str, str | float] = {}
        for field, value in event._asdict().items():
            if field == "error":
                error = redacted(value)
                attributes["asyncpc.error" if self._payloads else "error.type"] = (
                    error if self._payloads else error.partition(":")[0]
                )
            elif field != "item":
                attributes[f"asyncpc.{field}"] = value
            elif self._payloads:
                attributes["asyncpc.item"] = shown(value)
        self._logger.emit(
            timestamp=time.time_ns(),
            severity_number=SeverityNumber.ERROR if failed else SEVERITIES.get(kind, SeverityNumber.INFO),
            event_name=f"asyncpc.{re.sub(r'(?<!^)(?=[A-Z])', '_', kind).lower()}",
            attributes=attributes,
        )
