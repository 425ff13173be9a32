"""Progress: a line at the foot of a terminal, a bar in a notebook, and elsewhere a line of text now and then."""

from __future__ import annotations

import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from html import escape
from importlib import import_module
from typing import Any, Final, Protocol, TextIO

from ..core.plan import Plan
from ..logs import WARNING, log
from ..run.running import Running, failing
from ..run.watching import Beside, looking
from ..wording import summary
from .drawing import width
from .extent import Journey, Standing

__all__ = ["PlainBoard", "progress"]

QUIET: Final = 0.5
"""Seconds that the line stays away from a terminal after the program itself has written there."""

EVERY: Final = 10.0
"""Seconds between two lines where there is no terminal."""

WIDTH: Final = 24
"""Columns of the plain bar."""


class _Display(Protocol):
    """Shows one run; several may be shown at once."""

    def show(self, standing: Standing) -> None:
        """Show how far the run has come now."""

    def close(self, last: Standing | None) -> None:
        """Leave ``last`` to be read, or nothing."""


def progress(plan: Plan, *, stays: bool = True) -> Beside:
    """Show how far a run has come while it is under way; ``stays`` says whether the last state stays."""

    @contextmanager
    def shown(running: Running[Any, Any]) -> Iterator[None]:
        try:
            journey, display = Journey(plan), _display(plan.name)
        except Exception as error:  # a screen that fails leaves the run in peace
            log(WARNING, "no progress is shown: %s", summary(error), pipeline=plan.name)
            yield
            return

        def standing() -> Standing:
            return journey.standing(running.statistics(), has_failed=failing(running))

        try:
            with looking(running, lambda running: display.show(standing())):
                yield
        finally:
            with suppress(Exception):  # as above
                display.close(standing() if stays and running.report else None)

    return shown


def _display(name: str) -> _Display:
    """What fits the place where the program runs."""
    if (notebook := _notebook()) is not None:
        return _Notebook(name, notebook)
    if _is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb":
        return _OnTerminal(name)
    return _Lines(name)


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody sits at the stream; programs put objects there that only have ``write`` and ``flush``."""
    try:
        return stream is not None and stream.isatty()
    except Exception:
        return False


# -- without a terminal ---------------------------------------------------------------------------


class _Lines:
    """A line on stderr every ten seconds, for logs and pipes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.next_at = EVERY  # seconds after the start of the run

    def show(self, standing: Standing) -> None:
        if standing.elapsed >= self.next_at:
            self.next_at += EVERY * (1 + (standing.elapsed - self.next_at) // EVERY)
            self._write(standing)

    def close(self, last: Standing | None) -> None:
        if last is not None:
            self._write(last)

    def _write(self, standing: Standing) -> None:
        _write(sys.stderr, f"{self.name}: {standing}\n")


# -- in a notebook --------------------------------------------------------------------------------


def _notebook() -> Any:
    """IPython's ``display`` if this is a kernel of a notebook, else None."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if getattr(shell, "kernel", None) is None:
        return None
    return import_module("IPython.display").display  # there are no types of it, unless it is installed


class _Notebook:
    """A bar below the cell, redrawn in its place."""

    def __init__(self, name: str, display: Callable[..., Any]) -> None:
        self.name = name
        self.display = display
        self.handle: Any = None

    def show(self, standing: Standing) -> None:
        shown = _Bar(self.name, standing)
        if self.handle is None:
            self.handle = self.display(shown, display_id=True)
        else:
            self.handle.update(shown)

    def close(self, last: Standing | None) -> None:
        if last is not None:
            self.show(last)


class _Bar:
    """What a notebook shows: HTML, or text where it cannot show that."""

    def __init__(self, name: str, standing: Standing) -> None:
        self.name = name
        self.standing = standing

    def _repr_html_(self) -> str:
        share = self.standing.share
        value = "" if share is None else f' value="{share:.4f}"'
        return f"<div>{escape(self.name)} <progress{value}></progress> {escape(str(self.standing))}</div>"

    def __repr__(self) -> str:
        return f"{self.name}: {self.standing}"


# -- on a terminal --------------------------------------------------------------------------------


class _OnTerminal:
    """The line of one run at the foot of the terminal."""

    def __init__(self, name: str) -> None:
        self.name = name
        _foot.enter(self)

    def show(self, standing: Standing) -> None:
        _foot.draw(self, standing)

    def close(self, last: Standing | None) -> None:
        _foot.leave(self, last)


class _Board(Protocol):
    """Draws lines at the foot of a terminal."""

    def draw(self, lines: Sequence[tuple[str, float | None]]) -> None:
        """Draw texts, each with the share of its bar."""

    def clear(self) -> None:
        """Remove what was drawn."""


class _Foot:
    """The foot of the terminal, which all runs of the process share; it makes room for what the program writes.

    It replaces the method ``write`` of the streams themselves, not ``sys.stderr``: a log handler keeps the stream that
    it was made with.
    """

    def __init__(self) -> None:
        self.lines: dict[_OnTerminal, Standing | None] = {}
        self.stream = sys.stderr
        self.board: _Board = PlainBoard(self.stream)
        self.streams = ExitStack()
        self.back_at = 0.0  # seconds of the monotonic clock; infinite in the middle of a line of the program
        self.draws = False  # whether what is written now is the lines themselves
        self.lock = threading.RLock()  # handlers in threads write too

    def enter(self, line: _OnTerminal) -> None:
        """Add a line."""
        with self.lock:
            if not self.lines:
                self.stream, self.back_at = sys.stderr, 0.0  # kept, since the program may redirect it meanwhile
                self.board = _board(self.stream)
                with ExitStack() as streams:
                    for stream in {id(one): one for one in (sys.stderr, sys.stdout)}.values():
                        if _is_terminal(stream):
                            streams.enter_context(self._giving_way(stream))
                    self.streams = streams.pop_all()  # all of them, or none
            self.lines[line] = None

    def draw(self, line: _OnTerminal, standing: Standing) -> None:
        """Draw a line as it is now, and the others as they were."""
        with self.lock:
            self.lines[line] = standing
            if time.monotonic() >= self.back_at:
                shown = [(one.name, now) for one, now in self.lines.items() if now is not None]
                texts = [f"{name}: {now}" if len(self.lines) > 1 else str(now) for name, now in shown]
                with self._drawing():
                    self.board.draw([(text, now.share) for text, (_, now) in zip(texts, shown, strict=True)])

    def leave(self, line: _OnTerminal, last: Standing | None) -> None:
        """Take a line away; ``last`` is left above the others."""
        with self.lock:
            try:
                self._clear()
            finally:
                del self.lines[line]
                if not self.lines:
                    self.streams.close()
            if last is not None:
                _write(self.stream, f"{line.name}: {last}\n")

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

    @contextmanager
    def _giving_way(self, stream: TextIO) -> Iterator[None]:
        """Remove the lines when the program writes; they come back after ``QUIET`` seconds without output."""
        write = stream.write

        def giving_way(text: str) -> int:
            with self.lock:
                if text and not self.draws:
                    self._clear()
                    self.back_at = time.monotonic() + QUIET if text.endswith("\n") else math.inf
                return write(text)

        vars(stream)["write"] = giving_way
        try:
            yield
        finally:
            vars(stream).pop("write", None)  # the method of its class is there again


class PlainBoard:
    """One line, drawn with spaces and carriage returns only, so that any terminal can show it."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream: TextIO | None = stream
        self.drawn: int = 0  # columns

    def draw(self, lines: Sequence[tuple[str, float | None]]) -> None:
        """Draw texts, each with the share of its bar if it has one."""
        text = "  |  ".join([text if share is None else f"{_bar(share, '#', '-')} {text}" for text, share in lines])
        text = _cut(text, shutil.get_terminal_size().columns - 1)
        drawn = width(text)
        _write(self.stream, "\r" + text + " " * (self.drawn - drawn) + "\r")
        self.drawn = drawn

    def clear(self) -> None:
        """Remove what was drawn."""
        if self.drawn:
            _write(self.stream, "\r" + " " * self.drawn + "\r")
            self.drawn = 0


class _RichBoard:
    """A line for each run, in colours; raises ``ImportError`` without rich."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(
            console=Console(file=stream),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def draw(self, lines: Sequence[tuple[str, float | None]]) -> None:
        from rich.text import Text

        if not self._live.is_started:
            self._live.start()
            self._live.console.show_cursor()  # a third signal would leave no time to restore it
        text = Text(no_wrap=True, overflow="ellipsis")
        for number, (line, share) in enumerate(lines):
            text.append("\n" if number else "")
            text.append("" if share is None else f"{_bar(share, '━', ' ')} ", "green")
            text.append(line)
        self._live.update(text, refresh=True)

    def clear(self) -> None:
        self._live.stop()


_foot: Final = _Foot()


def _board(stream: TextIO) -> _Board:
    try:
        return _RichBoard(stream)
    except ImportError:
        return PlainBoard(stream)


def _bar(share: float, done: str, rest: str) -> str:
    full = int(WIDTH * share)
    return f"[{done * full}{rest * (WIDTH - full)}]"


def _cut(text: str, columns: int) -> str:
    """As much of ``text`` as fits into so many columns."""
    while width(text) > columns:
        text = text[:-1]
    return text


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:
        return
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        text = text.replace(" · ", ", ")
    stream.write(text)
    stream.flush()
