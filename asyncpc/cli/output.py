"""What the command line prints: without passwords, safe for a terminal, and with errors on a line each."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ..run.report import PipelineError, Report
from ..wording import NOTED, escaped, message_of, place_of, redacted

__all__ = [
    "OutputError",
    "UsageError",
    "asked_for",
    "call_of",
    "fill_standard_files",
    "flush",
    "let_go_of_stdout",
    "line_of",
    "print_error",
    "print_failure",
    "print_left",
    "print_text",
    "print_trace",
]

SHOWN: Final = 10
"""How many errors, and how many stages with items left, are listed."""

LONGEST: Final = 500
"""Characters of an error's message that are shown."""

ASCII: Final = str.maketrans(dict(zip("─│┐├┤┴┌└┘►▼×", "-|+++++++>vx", strict=True)) | {"∞": "unbounded"})
"""For terminals that cannot draw lines."""


class OutputError(Exception):
    """What there is to print cannot be written to stdout."""


class UsageError(Exception):
    """The command cannot begin; the message says what to write instead."""


def print_text(text: str) -> None:
    """Print ``text`` on stdout; line breaks stay, other control characters are escaped."""
    if sys.stdout is None:  # the program was started without one
        return
    safe = "\n".join(map(escaped, redacted(text).split("\n")))
    encoding = sys.stdout.encoding or "utf-8"
    try:
        safe.encode(encoding)
    except UnicodeEncodeError:
        safe = safe.translate(ASCII).encode(encoding, "backslashreplace").decode(encoding)
    with _writing():
        print(safe)
    flush()


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


def print_error(line: str) -> None:
    """Print ``line`` on stderr, without passwords and control characters."""
    if sys.stderr is not None:
        print(escaped(redacted(line)), file=sys.stderr)


def print_trace(options: argparse.Namespace, error: BaseException | None) -> None:
    """Print the whole traceback, if ``--traceback`` asks for it."""
    if options.traceback and error is not None:
        for line in "".join(traceback.format_exception(error)).split("\n"):
            print_error(line)


def print_failure(failed: PipelineError, options: argparse.Namespace) -> None:
    """Print each error on a line, and how many items each stage left; never an item itself."""
    lines = [line_of(error, notes) for error, notes in _leaves(failed)]
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


def asked_for(error: SystemExit, *, is_done: bool) -> int:
    """Say that the program called ``sys.exit()``; the status it asked for, but never 0 for work that is not done."""
    print_error(f"asyncpc: the program called {call_of(error)}, which ended the run")
    status = error.code if isinstance(error.code, int) else int(error.code is not None)
    return status or int(not is_done)


def call_of(error: SystemExit) -> str:
    """The call that raised it."""
    return f"sys.exit({'' if error.code is None else repr(error.code)})"
