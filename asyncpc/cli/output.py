"""What the command line prints: without passwords, safe for a terminal, and with errors on a line each."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

from ..run.report import PipelineError, Report
from ..wording import NOTED, escaped, message_of, place_of, redacted

__all__ = [
    "OutputError",
    "UsageError",
    "call_of",
    "fill_standard_files",
    "flush",
    "let_go_of_stdout",
    "line_of",
    "line_of_exit",
    "lines_of",
    "logged_at",
    "print_error",
    "print_exit",
    "print_failure",
    "print_left",
    "print_line",
    "print_text",
    "print_trace",
    "status_of_exit",
]

LOG: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
"""A line of the log."""

SHOWN: Final = 10
"""How many errors, and how many stages with items left, are listed."""

LONGEST: Final = 500
"""Characters of an error's message that are shown."""

ASCII: Final = str.maketrans(dict(zip("─│┐├┤┴┌└┘►▼×", "-|+++++++>vx", strict=True)) | {"∞": "unbounded"})
"""For terminals that cannot draw lines."""


class OutputError(Exception):
    """The output cannot be written to stdout."""


class UsageError(Exception):
    """The command cannot begin; the message says what to write instead."""


def print_text(text: str) -> None:
    """Print ``text`` on stdout; line breaks stay, other control characters are escaped."""
    if sys.stdout is None:  # the program was started without one
        return
    safe = _safe(text)
    encoding = sys.stdout.encoding or "utf-8"
    try:
        safe.encode(encoding)
    except UnicodeEncodeError:
        safe = safe.translate(ASCII).encode(encoding, "backslashreplace").decode(encoding)
    print_line(safe)


def print_line(safe: str) -> None:
    """Print on stdout what is safe for a terminal already."""
    if sys.stdout is not None:
        with _writing():
            print(safe)
        flush()


def _safe(text: str) -> str:
    """The text without passwords, and with all control characters but line breaks escaped."""
    return "\n".join(map(escaped, redacted(text).split("\n")))


def flush() -> None:
    """Let what was printed reach stdout."""
    with _writing():
        if sys.stdout is not None:
            sys.stdout.flush()


@contextmanager
def _writing() -> Iterator[None]:
    """Tell an error of stdout, such as a full disk, from those of the program."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(error.strerror or type(error).__name__) from error


def fill_standard_files() -> None:
    """Open what is closed of stdin, stdout and stderr: uvloop ends a process that uses their numbers for a socket."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


def let_go_of_stdout() -> None:
    """Let what is still to be written vanish, or Python complains when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_error(line: str, stream: TextIO | None = None) -> None:
    """Print ``line`` on stderr, without passwords and control characters."""
    stream = stream or sys.stderr
    if stream is not None:
        print(escaped(redacted(line)), file=stream, flush=True)


def print_trace(options: argparse.Namespace, error: BaseException | None) -> None:
    """Print the whole traceback, if ``--traceback`` asks for it."""
    if options.traceback and error is not None:
        for line in "".join(traceback.format_exception(error)).split("\n"):
            print_error(line)


def print_failure(failed: PipelineError, options: argparse.Namespace) -> None:
    """Print each error on a line, and how many items each stage left; never an item itself."""
    lines = lines_of(failed)
    print_error(f"asyncpc: {failed.message}{'' if options.traceback else ' (--traceback shows more)'}")
    for line in lines[:SHOWN]:
        print_error(f"  {line}")
    if len(lines) > SHOWN:
        print_error(f"  … and {len(lines) - SHOWN} more")
    print_left(failed.report)
    print_trace(options, failed)


def print_left(report: Report) -> None:
    """Print how many items each stage left; never an item itself."""
    left = Counter(report.left_by_stage()).most_common()
    if left:
        stages = ", ".join(f"{stage} {count:,}" for stage, count in left[:SHOWN])
        others = f" and {len(left) - SHOWN} more stages" if len(left) > SHOWN else ""
        print_error(f"left unfinished: {sum(report.left_by_stage().values()):,} items ({stages}{others})")


def lines_of(failed: PipelineError) -> list[str]:
    """Each error of a run on a line."""
    return [line_of(error, notes) for error, notes in _leaves(failed)]


def _leaves(error: BaseException, notes: tuple[str, ...] = ()) -> Iterator[tuple[BaseException, tuple[str, ...]]]:
    """The errors in a group, at any depth, each with its notes and those of the groups around it."""
    notes += tuple(getattr(error, "__notes__", ()))
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner, notes)
    else:
        yield error, notes


def line_of(error: BaseException, notes: tuple[str, ...] = ()) -> str:
    """An error on one line: its message, its place and its notes."""
    what = " ".join(message_of(error).split())
    what = what if len(what) <= LONGEST else what[:LONGEST] + "…"
    where = [place for place in [place_of(error)] if place]
    details = ", ".join([*where, *(note.removeprefix(NOTED) for note in notes)])
    return type(error).__name__ + (f": {what}" if what else "") + (f" ({details})" if details else "")


def print_exit(error: SystemExit) -> None:
    """Say that the program called ``sys.exit()``."""
    print_error(f"asyncpc: {line_of_exit(error)}")


def line_of_exit(error: SystemExit) -> str:
    """The same, for a list of errors."""
    return f"the program called {call_of(error)}, which ended the run"


def status_of_exit(error: SystemExit, *, is_done: bool) -> int:
    """The status that the program asked for, but never 0 for work that is not done."""
    status = error.code if isinstance(error.code, int) else int(error.code is not None)
    return status or int(not is_done)


def call_of(error: SystemExit) -> str:
    """The call that raised it."""
    return f"sys.exit({'' if error.code is None else repr(error.code)})"


class _SafeFormatter(logging.Formatter):
    """Formats records without passwords and control characters, whoever logs them."""

    def format(self, record: logging.LogRecord) -> str:
        return _safe(super().format(record))


@contextmanager
def logged_at(level: str | None) -> Iterator[None]:
    """Write what the program logs, from ``level`` on, to stderr; without a level leave logging alone."""
    if level is None:
        yield
        return
    handler, root = logging.StreamHandler(), logging.getLogger()
    handler.setFormatter(_SafeFormatter(LOG))
    before = root.level
    root.addHandler(handler)
    root.setLevel(level.upper())
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
