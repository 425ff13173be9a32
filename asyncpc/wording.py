"""Errors and values as text: short, safe for a terminal and without passwords, whatever the values do."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import takewhile
from traceback import walk_stack, walk_tb
from types import CodeType, FrameType
from typing import Any, Final

__all__ = [
    "ITEM",
    "NOTED",
    "annotate",
    "begin_at_user_code",
    "beginning",
    "cut",
    "described",
    "escaped",
    "forget_repeats",
    "item_of",
    "leave_out_ours",
    "message_of",
    "place_among",
    "place_in",
    "place_of",
    "place_of_thread",
    "redact",
    "redacted",
    "shown",
    "summary",
    "traceback_of",
]

LONGEST: Final = 200
"""Characters of an error's message that a log line or report shows."""

READ: Final = 10_000
"""Characters or bytes of a value that are looked at to show its beginning."""

DEEPEST: Final = 20
"""Containers inside one another that are looked into."""

BRACKETS: Final[dict[type, tuple[str, str]]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
    dict: ("{", "}"),
}
"""What is written around the items of a container."""

NOTED: Final = "asyncpc: "
"""How each note of this package begins."""

ITEM: Final = "item "
"""How the note of an error begins that says which item it is about."""

REPEATS: Final = 3
"""How many times the traceback of one error may come the same way."""

OURS: Final = os.path.dirname(__file__) + os.sep

STDLIB: Final = os.path.dirname(os.__file__) + os.sep

_PASSWORD: Final = re.compile(r"(://[^\s/:]*:)[^\s/]+@")
"""From the first colon of an address to its last ``@``: a user's name may hold an ``@`` too."""

PACKAGES: Final = "-packages" + os.sep
"""Part of the path of every installed file."""


def escaped(text: str) -> str:
    """``text`` with everything escaped that could move a cursor, hide a word or break a line (fault F9)."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def redacted(text: str) -> str:
    """``text`` without the passwords of URLs (faults F7, H11)."""
    return _PASSWORD.sub(r"\1***@", text) if "://" in text else text


def redact(error: BaseException) -> None:
    """Take the passwords of URLs out of an error of somebody else, and of those that led to it."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        if any(isinstance(one, str) for one in error.args):
            with suppress(Exception):  # its class may forbid that
                error.args = tuple(redacted(one) if isinstance(one, str) else one for one in error.args)
        error = error.__cause__ or error.__context__ or error


def shown(value: object, longest: int = 80) -> str:
    """The beginning of a value's ``repr``, on one line; its type if ``repr`` fails."""
    text = ""
    try:
        for piece in _pieces(value):  # of a million rows only those that are shown
            text += piece
            if len(text) > longest:
                break
    except Exception:
        text = f"<{type(value).__name__}>"
    return escaped(text if len(text) <= longest else text[: longest - 1] + "…")


def _pieces(value: Any, depth: int = 0) -> Iterator[str]:
    """The ``repr`` of a value, piece by piece, each without passwords."""
    kind = type(value)
    if kind in (str, bytes, bytearray):
        yield redacted(repr(value[:READ]))
    elif kind not in BRACKETS or not value:
        yield redacted(repr(value))
    else:
        opening, closing = BRACKETS[kind]
        yield opening
        for place, one in enumerate(value.items() if kind is dict else value):
            yield ", " if place else ""
            if depth == DEEPEST:
                yield "…"
                break
            for side, part in enumerate(one if kind is dict else (one,)):
                yield ": " if side else ""
                yield from _pieces(part, depth + 1)
        yield "," + closing if kind is tuple and len(value) == 1 else closing


def message_of(error: BaseException) -> str:
    """The message of an error; a placeholder if the user's class fails to give one."""
    try:
        return redacted(str(error))
    except Exception:
        return "(its message cannot be shown)"


def described(error: BaseException) -> str:
    """The class and message of an error."""
    return f"{type(error).__name__}: {message_of(error)}"


def summary(error: BaseException) -> str:
    """The class, the beginning of the message, and where it was raised: ``KeyError: 'id' (app.py:12)``."""
    what, place = beginning(message_of(error)), place_of(error)
    return escaped(type(error).__name__ + (f": {what}" if what else "") + (f" ({place})" if place else ""))


def beginning(message: str) -> str:
    """As much of a message as is shown, on one line."""
    what = " ".join(message[:READ].split())
    return what if len(what) <= LONGEST else what[:LONGEST] + "…"


def cut(text: str, longest: int) -> str:
    """The beginning and the end of a text of more characters than that: an error may quote a whole message."""
    return text if len(text) <= longest else f"{text[: longest // 2]} … {text[-longest // 2 :]}"


def traceback_of(error: BaseException) -> str:
    """The traceback of an error as text; empty if its class prevents that."""
    try:
        return redacted("".join(traceback.format_exception(error)))
    except Exception:
        return ""


def place_of(error: BaseException) -> str:
    """Where an error was raised, if possible in the user's own code: ``app.py:12``; empty if unknown."""
    try:
        frames = [(frame, line) for frame, line in walk_tb(error.__traceback__)]
    except Exception:  # its class may forbid reading
        return ""
    if isinstance(error, SyntaxError):  # it says it itself
        return ""
    return place_among(frames).rpartition(" in ")[0]


def place_among(frames: Iterable[tuple[FrameType, int]]) -> str:
    """The last of these frames and lines that is in the user's own code, or else in a library: ``app.py:12 in fetch``.

    Empty if there is none.
    """
    return _place([(frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in frames])


def place_in(trace: traceback.TracebackException) -> str:
    """The same of an error of which only the traceback was kept."""
    return _place([(entry.filename, entry.lineno or 0, entry.name) for entry in trace.stack])


def _place(calls: Iterable[tuple[str, int, str]]) -> str:
    """The place of the last of these calls, each a file, a line and a function."""
    others = [one for one in reversed([*calls]) if not one[0].startswith((OURS, "<"))]
    if not others:
        return ""
    file, line, function = max(others, key=lambda one: _nearness(one[0]))  # the first of the nearest
    return escaped(f"{os.path.basename(file)}:{line} in {function}")


def place_of_thread(ident: int | None) -> str:
    """Where the thread of that number is now, as :func:`place_among` says it; empty if it has ended.

    If an event loop runs there, in what that has called: a library that blocks it is not the program that began it.
    """
    frame = None if ident is None else sys._current_frames().get(ident)
    stack = [] if frame is None else list(walk_stack(frame))
    called = list(takewhile(lambda call: not _runs_a_loop(call[0].f_code), stack))
    files = [frame.f_code.co_filename for frame, _ in called]
    is_known = any(_nearness(file) for file in files if not file.startswith((OURS, "<")))
    return place_among(reversed(called if is_known else stack))


def _runs_a_loop(code: CodeType) -> bool:
    return code.co_name in ("run_forever", "run") and code.co_filename.startswith(STDLIB + "asyncio" + os.sep)


def _nearness(file: str) -> int:
    """Of a file to its reader: the program's own is nearer than a library, and that than the standard library."""
    if PACKAGES in file:
        return 1
    return 0 if file.startswith(STDLIB) else 2


def begin_at_user_code(error: BaseException) -> None:
    """Let the traceback of an error begin with the first frame outside this package, if there is one."""
    with suppress(Exception):  # its class may forbid writing
        inner = error.__traceback__
        while inner is not None and inner.tb_frame.f_code.co_filename.startswith(OURS):
            inner = inner.tb_next
        if inner is not None:
            error.__traceback__ = inner


def leave_out_ours(trace: traceback.TracebackException) -> None:
    """Let a traceback, and those of the errors before it, begin with the first frame outside this package, if any."""
    left = [trace]
    while left:
        one = left.pop()
        theirs = [place for place, frame in enumerate(one.stack) if not frame.filename.startswith(OURS)]
        del one.stack[: theirs[0] if theirs else 0]
        left += [other for other in (one.__cause__, one.__context__, *(one.exceptions or ())) if other is not None]


def forget_repeats(error: BaseException) -> None:
    """Cut what is old from the traceback of an error that is raised again and again: Python adds to it each time."""
    with suppress(Exception):  # its class may forbid reading
        entry, left = error.__traceback__, REPEATS
        way = None if entry is None else entry.tb_frame.f_code
        while entry is not None and (older := entry.tb_next) is not None:
            left -= older.tb_frame.f_code is way
            if left == 0:
                entry.tb_next = None
                return
            entry = older


def item_of(error: BaseException) -> str:
    """Which item an error is about, if a note of it says so: ``, item 'https://…'``."""
    with suppress(Exception):  # its class may forbid reading
        found = [note.removeprefix(NOTED) for note in error.__notes__ if note.startswith(NOTED + ITEM)]
        return f", {found[-1]}" if found else ""
    return ""


def annotate(error: BaseException, before: str, what: str = "", after: str = "") -> None:
    """Add the note ``before + what + after`` to an error of the user's, in place of one that differs only in ``what``.

    One error may be raised for each of a million items, as when all of them await one future. The class of an error may
    forbid notes.
    """
    before, note = NOTED + before, NOTED + before + what + after
    with suppress(Exception):
        notes: list[str] = getattr(error, "__notes__", [])
        if note in notes:
            return
        for place, other in enumerate(notes):
            if what and other.startswith(before) and other.endswith(after):
                notes[place] = note
                return
        error.add_note(note)
