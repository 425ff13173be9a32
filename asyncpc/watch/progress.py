"""Progress: a line at the foot of a terminal, a bar in a notebook, and elsewhere a line of text now and then."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from html import escape
from typing import Any, Final, Protocol

from ..core.plan import Plan
from ..logs import WARNING, log
from ..run.running import Running, failing
from ..run.watching import Beside, looking
from ..wording import summary
from .extent import Journey, Standing
from .foot import BAR, FOOT, Row, has_screen, write
from .notebook import Output, display_of_notebook

__all__ = ["progress"]

EVERY: Final = 10.0
"""Seconds between two lines where there is no terminal."""

WIDTH: Final = 24
"""Columns of the bar."""


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
    if (display := display_of_notebook()) is not None:
        return _Notebook(name, Output(display))
    if has_screen():
        return _OnTerminal(name)
    return _Lines(name)


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
        write(sys.stderr, f"{self.name}: {standing}\n")


# -- in a notebook --------------------------------------------------------------------------------


class _Notebook:
    """A bar below the cell, redrawn in its place."""

    def __init__(self, name: str, output: Output) -> None:
        self.name = name
        self.output = output

    def show(self, standing: Standing) -> None:
        self.output.show(_Bar(self.name, standing))

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
        self.standing: Standing | None = None
        FOOT.enter(self)

    def show(self, standing: Standing) -> None:
        self.standing = standing
        FOOT.draw()

    def close(self, last: Standing | None) -> None:
        FOOT.leave(self, [] if last is None else [[(f"{self.name}: {last}", "")]])

    def rows(self, parts: int) -> list[Row]:
        """Its line, with its name if there are others."""
        now = self.standing
        if now is None:
            return []
        text = f"{self.name}: {now}" if parts > 1 else str(now)
        return [[(text, "")] if now.share is None else [(_bar(now.share), BAR), (f" {text}", "")]]


def _bar(share: float) -> str:
    full = int(WIDTH * share)
    return f"[{'━' * full}{'·' * (WIDTH - full)}]"
