"""``--json``: a run as one JSON object, and items as JSON; without passwords, and nothing that is not JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from ..run.report import Report
from ..wording import redacted, shown

__all__ = ["as_line", "failure_as_json", "item_as_json", "report_as_json"]


def as_line(value: Any) -> str:
    """The value on one line, in ASCII."""
    return json.dumps(value, allow_nan=False)


def report_as_json(report: Report, status: int, errors: list[str]) -> dict[str, Any]:
    """What the report tells, with the exit status of the command and what went wrong."""
    failures = [(one, failure_as_json(one.stage, one.item, one.error, one.attempts)) for one in report.failures]
    found: dict[str, Any] = _as_json(
        {
            "state": report.statistics.state,
            "exit_status": status,
            "signal": report.signal,
            "statistics": report.statistics.as_dict(),
            "failures": [told | {"history": one.history} for one, told in failures],
            "unfinished": report.left_by_stage(),
            "abandoned": list(report.abandoned),
            "errors": errors,
        }
    )
    return found


def failure_as_json(stage: str, item: Any, error: str, attempts: int) -> dict[str, Any]:
    """An item that failed."""
    return {"stage": redacted(stage), "item": item_as_json(item), "error": redacted(error), "attempts": attempts}


def item_as_json(item: Any) -> Any:
    """The item itself if it is JSON (a tuple is a list), else how a report shows it."""
    try:
        found = _as_json(item)
        as_line(found)  # the digits of a whole number may be too many
    except Exception:  # whatever an item does
        return shown(item)
    return found


def _as_json(value: Any) -> Any:
    """``value`` without the passwords in any of its strings; raises ``TypeError`` if JSON has no such thing."""
    if isinstance(value, str):
        return redacted(value)
    if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, (list, tuple)):
        return [_as_json(one) for one in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {redacted(key): _as_json(one) for key, one in value.items()}
    raise TypeError
