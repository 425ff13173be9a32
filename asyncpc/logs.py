"""The logger ``asyncpc``: a run goes on, whatever a log handler raises."""

from __future__ import annotations

import logging
from logging import DEBUG, ERROR, WARNING
from typing import Any, Final

from .wording import traceback_of

__all__ = ["DEBUG", "ERROR", "WARNING", "log"]

_logger: Final = logging.getLogger("asyncpc")
_logger.addHandler(logging.NullHandler())


def log(level: int, message: str, *args: Any, error: BaseException | None = None) -> None:
    """Log ``message`` and the traceback of ``error``; drop what a handler or filter of the user's raises.

    ``pytest.fail`` and a cancelled future raise no ``Exception``; only Ctrl-C and ``SystemExit`` come out.
    """
    try:
        if not _logger.isEnabledFor(level):
            return
        file, line, function, _ = _logger.findCaller(stacklevel=2)
        exc_info = None if error is None else (type(error), error, error.__traceback__)
        record = _logger.makeRecord(_logger.name, level, file, line, message, args, exc_info, function)
        if error is not None:
            record.exc_text = traceback_of(error).rstrip()  # or a formatter would show the passwords in it (fault F7)
        _logger.handle(record)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        pass
