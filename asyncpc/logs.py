"""The logger ``asyncpc``: a run goes on, whatever a log handler raises.

It has no handler of its own: in a program that sets up no logging, Python prints its warnings and errors on stderr.
Each record has two fields for formatters and filters, as ``extra=`` would add them: ``pipeline``, and ``stage``, which
is the name of a stage or source. They are empty where a line is about none.
"""

from __future__ import annotations

import logging
from contextvars import Context, ContextVar
from logging import DEBUG, ERROR, WARNING
from typing import Any, Final

from .wording import traceback_of

__all__ = ["DEBUG", "ERROR", "WARNING", "log", "log_as"]

_logger: Final = logging.getLogger("asyncpc")

_pipeline: ContextVar[str] = ContextVar("asyncpc_pipeline", default="")
"""The pipeline whose run logs in this context."""


def log_as(pipeline: str, context: Context) -> None:
    """Let what is logged in ``context``, also in threads that it is copied to, name the pipeline."""
    context.run(_pipeline.set, pipeline)


def log(
    level: int,
    message: str,
    *args: Any,
    error: BaseException | None = None,
    pipeline: str | None = None,
    stage: str = "",
) -> None:
    """Log ``message`` and the traceback of ``error``; drop what a handler or filter of the user's raises.

    ``pipeline`` is by default that of :func:`log_as`. ``pytest.fail`` and a cancelled future raise no ``Exception``;
    only Ctrl-C and ``SystemExit`` come out.
    """
    try:
        if not _logger.isEnabledFor(level):
            return
        file, line, function, _ = _logger.findCaller(stacklevel=2)
        exc_info = None if error is None else (type(error), error, error.__traceback__)
        record = _logger.makeRecord(_logger.name, level, file, line, message, args, exc_info, function)
        vars(record).update(pipeline=_pipeline.get() if pipeline is None else pipeline, stage=stage)
        if error is not None:
            record.exc_text = traceback_of(error).rstrip()  # or a formatter would show the passwords in it (fault F7)
        _logger.handle(record)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        pass
