"""The foot of the terminal: lines that are drawn again and again below what the program writes.

All runs of the process share it: the line of a progress, or the rows of a live view.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Final, Protocol, TextIO

from .drawing import width

__all__ = ["BAR", "FOOT", "Part", "Piece", "PlainBoard", "Row", "cut", "fit", "has_screen", "write"]

SOON: Final = 0.1
"""Seconds after which the rows may be written anew, as they were, below what the program has written."""

BAR: Final = "green"
"""The style of a bar, made of ``━`` and ``·``."""

ASCII: Final = str.maketrans(dict(zip("█▒·…×∞━µ▁▂▃▄▅▆▇▏▎▍▌▋▊▉", "#:.~x*#u_..--==#--==###", strict=False)))
"""For terminals that have no such characters."""

Piece = tuple[str, str]
"""A text, and its style in the words of rich; without control characters."""

Row = Sequence[Piece]


class Part(Protocol):
    """What has rows at the foot of the terminal."""

    def rows(self, parts: int) -> Sequence[Row]:
        """Its rows as they are now; ``parts`` is how many share the foot."""
        ...


class Board(Protocol):
    """Draws rows at the foot of a terminal."""

    def draw(self, rows: Sequence[Row]) -> None:
        """Draw rows in place of those before."""

    def again(self) -> None:
        """Draw those that were cleared, as they were."""

    def clear(self) -> None:
        """Remove what was drawn."""

    def leave(self, rows: Sequence[Row]) -> None:
        """Write rows that stay."""


def has_screen() -> bool:
    """Whether stderr is a terminal on which something can be drawn."""
    return _is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb"


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody sits at the stream; programs put objects there that only have ``write`` and ``flush``."""
    try:
        return stream is not None and stream.isatty()
    except Exception:
        return False


def _size(stream: TextIO | None) -> os.terminal_size:
    """Columns and lines of the terminal at that stream; Python alone asks stdout, which may be a file."""
    try:
        size = os.get_terminal_size(-1 if stream is None else stream.fileno())
    except (AttributeError, OSError, ValueError):  # it is none, or an object that has no such method
        size = os.terminal_size((80, 24))
    return shutil.get_terminal_size(size)


class _Foot:
    """The foot of the terminal, which makes room for what the program writes, in any thread.

    It replaces the method ``write`` of the streams themselves, not ``sys.stderr``: a log handler keeps the stream that
    it was made with.
    """

    def __init__(self) -> None:
        self.parts: dict[Part, None] = {}
        self.stream = sys.stderr
        self.board: Board = PlainBoard(self.stream)
        self.streams: ExitStack = ExitStack()
        self.drawn_at: float = 0.0  # seconds of the monotonic clock
        self.is_amid_line: bool = False  # of the program
        self.draws: bool = False  # whether what is written now is the rows themselves
        self.lock: threading.RLock = threading.RLock()  # handlers in threads write too

    def enter(self, part: Part) -> None:
        """Add a part."""
        with self.lock:
            if not self.parts:
                self.stream, self.is_amid_line = sys.stderr, False  # kept, since the program may redirect it meanwhile
                self.board = _board(self.stream)
                with ExitStack() as streams:
                    for stream in {id(one): one for one in (sys.stderr, sys.stdout)}.values():
                        if _is_terminal(stream):
                            streams.enter_context(self._giving_way(stream))
                    self.streams = streams.pop_all()  # all of them, or none
            self.parts[part] = None

    def size(self) -> os.terminal_size:
        """Columns and lines of the terminal."""
        return _size(self.stream)

    def draw(self) -> None:
        """Draw all parts as they are now."""
        with self.lock:
            if self.parts and not self.is_amid_line:
                rows = [row for part in self.parts for row in part.rows(len(self.parts))]
                with self._drawing():
                    self.board.draw(rows)

    def leave(self, part: Part, last: Sequence[Row]) -> None:
        """Take a part away; its ``last`` rows are left above the others."""
        with self.lock:
            try:
                self._clear()
            finally:
                del self.parts[part]
                if not self.parts:
                    self.streams.close()
            with self._drawing():
                self.board.leave(last)

    def forget(self) -> None:
        """In a process that was forked: the rows are the parent's, and so is the thread that may have the lock."""
        self.lock = threading.RLock()
        self.streams.close()
        self.parts = {}

    def _clear(self) -> None:
        with self._drawing():
            self.board.clear()

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        self.draws = True
        try:
            yield
        finally:
            self.draws = False
            self.drawn_at = time.monotonic()

    @contextmanager
    def _giving_way(self, stream: TextIO) -> Iterator[None]:
        """Remove the rows before the program writes, and let them come back below each line.

        What goes wrong with the rows is none of the program's business: its text is written, and it gets no error.
        """
        write, before = stream.write, vars(stream).get("write")  # a program may have replaced it, too

        def giving_way(text: str) -> int:
            with self.lock:
                if self.draws or not text or not self.parts:  # a program may go on with this function after the end
                    return write(text)
                was_drawn = time.monotonic() - self.drawn_at
                with suppress(Exception):
                    self._clear()
                written, self.is_amid_line = write(text), not text.endswith("\n")
                if was_drawn >= SOON and not self.is_amid_line:
                    stream.flush()
                    with suppress(Exception), self._drawing():
                        self.board.again()
                return written

        vars(stream)["write"] = giving_way
        try:
            yield
        finally:
            if vars(stream).get("write") is giving_way:  # or somebody has replaced it meanwhile
                del vars(stream)["write"]  # the method of its class is there again
                if before is not None:
                    vars(stream)["write"] = before


class PlainBoard:
    """One line, drawn with spaces and carriage returns only, so that any terminal can show it."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream: TextIO | None = stream
        self.text: str = ""
        self.drawn: int = 0  # columns

    def draw(self, rows: Sequence[Row]) -> None:
        """Draw rows beside each other."""
        self.text = "  |  ".join([_plain(row) for row in rows])
        self.again()

    def again(self) -> None:
        """Draw those that were cleared, as they were."""
        text = cut(self.text, _size(self.stream).columns - 1)
        drawn = width(text)
        write(self.stream, "\r" + text + " " * (self.drawn - drawn) + "\r")
        self.drawn = drawn

    def clear(self) -> None:
        """Remove what was drawn."""
        if self.drawn:
            write(self.stream, "\r" + " " * self.drawn + "\r")
            self.drawn = 0

    def leave(self, rows: Sequence[Row]) -> None:
        """Write rows that stay."""
        for row in rows:
            write(self.stream, f"{_plain(row)}\n")


class _RichBoard:
    """Any number of rows, in colours; raises ``ImportError`` without rich."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=stream)
        self._stream = stream
        self._rows: Sequence[Row] = ()
        self._text = ""
        self._drawn: list[int] = []  # columns of each row
        self._codes: dict[str, tuple[str, str]] = {}

    def draw(self, rows: Sequence[Row]) -> None:
        columns, lines = _size(self._stream)
        self._rows = [fit(row, columns) for row in rows[: max(1, lines - 1)]]  # others could not be erased
        self._text = self._coloured(self._rows)
        self.again()

    def again(self) -> None:
        if self._rows:
            write(self._stream, f"{self._erasing()}{self._text}\r")
            self._drawn = [sum([width(text) for text, _ in row]) for row in self._rows]

    def clear(self) -> None:
        if self._drawn:
            write(self._stream, self._erasing())
            self._drawn = []

    def leave(self, rows: Sequence[Row]) -> None:
        if rows:
            columns = _size(self._stream).columns
            write(self._stream, f"{self._coloured([fit(row, columns) for row in rows])}\n")

    def _coloured(self, rows: Sequence[Row]) -> str:
        return "\n".join(["".join([self._in_colour(text, style) for text, style in row if text]) for row in rows])

    def _in_colour(self, text: str, style: str) -> str:
        """Text between the codes of its style, which rich is asked for once: it takes ten times as long as the rest."""
        if style not in self._codes:
            from rich.segment import Segment, Segments
            from rich.style import Style

            with self._console.capture() as captured:
                self._console.print(Segments([Segment("x", Style.parse(style))]), end="")
            before, _, after = captured.get().partition("x")
            self._codes[style] = before, after
        before, after = self._codes[style]
        return f"{before}{text}{after}"

    def _erasing(self) -> str:
        """What goes back to the first of the rows and erases them; a terminal that became narrower has folded them."""
        columns = _size(self._stream).columns
        lines = sum([max(1, math.ceil(drawn / columns)) for drawn in self._drawn])
        return "\r\x1b[2K" + "\x1b[1A\x1b[2K" * (lines - 1) if lines else ""


def _board(stream: TextIO) -> Board:
    try:
        return _RichBoard(stream)
    except ImportError:
        return PlainBoard(stream)


def fit(row: Row, columns: int) -> Row:
    """As much of a row as fits into so many columns, with ``…`` if that is not all."""
    if sum([width(text) for text, _ in row]) <= columns:
        return row
    found: list[Piece] = []
    for text, style in row:
        room = columns - sum([width(one) for one, _ in found])
        if width(text) >= room:
            return [*found, (cut(text, room - 1) + "…", style)]
        found.append((text, style))
    return found


def _plain(row: Row) -> str:
    bar = str.maketrans("━·", "#-")
    return "".join([text.translate(bar) if style == BAR else text for text, style in row])


def cut(text: str, columns: int) -> str:
    """As much of ``text`` as fits into so many columns."""
    used = 0
    for place, one in enumerate(text):
        used += width(one)
        if used > columns:
            return text[:place]
    return text


def write(stream: TextIO | None, text: str) -> None:
    """Write text and flush; characters that the stream has not are replaced."""
    if stream is None:
        return
    encoding = stream.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.replace(" · ", ", ").translate(ASCII).encode(encoding, "replace").decode(encoding)
    stream.write(text)
    stream.flush()


FOOT: Final = _Foot()
"""That of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=FOOT.forget)
