"""The progress line of ``asyncpc run``: items, rate and the fullest queue, at the foot of a terminal."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

from ..core.plan import Plan
from ..run.report import Statistics
from ..run.running import Running
from .drawing import meetings

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["progress"]

QUIET: Final = 0.5
"""Seconds that the progress line stays away after the program itself has written to the terminal."""

Watch = Callable[[Running[Any, Any]], None]


@contextmanager
def progress(plan: Plan) -> Iterator[Watch | None]:
    """Give a function that draws the progress line, on a terminal where rich is installed; None when piped."""
    if not sys.stderr.isatty():
        yield None
        return
    try:
        line = _ProgressLine(plan)
    except ImportError:
        print("asyncpc: to see progress here, pip install 'asyncpc[rich]'", file=sys.stderr)
        yield None
        return
    with line.beside_the_program():
        yield line.draw


class _ProgressLine:
    """One line at the foot of the terminal; it makes room while the program itself writes there."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.extent = _Extent(plan)
        total = _total(plan)
        self.progress = _rich_progress(total)
        self.live = self.progress.live
        self.task = self.progress.add_task("", total=total)
        self.back_at = 0.0  # seconds of the monotonic clock; infinite in the middle of a line of the program

    @contextmanager
    def beside_the_program(self) -> Iterator[None]:
        """Make room for what the block writes; remove the line at its end."""
        with ExitStack() as stack:
            stack.callback(self.live.stop)
            stack.enter_context(redirect_stderr(_giving_way(sys.stderr, self)))
            if sys.stdout.isatty():
                stack.enter_context(redirect_stdout(_giving_way(sys.stdout, self)))
            yield

    def draw(self, running: Running[Any, Any]) -> None:
        """Draw the line as it is now."""
        if time.monotonic() < self.back_at:
            return
        if not self.live.is_started:
            self.live.start()
            self.progress.console.show_cursor()  # a third signal would leave no time to restore it
        now = running.statistics()
        if now.fed:
            self.progress.tasks[0].total = None
        text = _progress_text(self.plan, now)
        self.progress.update(self.task, description=text, completed=self.extent.through(now), refresh=True)

    def give_way(self, text: str) -> None:
        """Make room for ``text``, which the program writes; come back after ``QUIET`` seconds without output."""
        self.live.stop()
        self.back_at = time.monotonic() + QUIET if text.endswith("\n") else math.inf


class _GivingWay:
    """A stream of the terminal that makes the progress line give way."""

    def __init__(self, stream: TextIO, line: _ProgressLine) -> None:
        self.stream = stream
        self.line = line

    def write(self, text: str) -> int:
        self.line.give_way(text)
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _giving_way(stream: TextIO, line: _ProgressLine) -> TextIO:
    return cast(TextIO, _GivingWay(stream, line))


def _rich_progress(total: int | None) -> Progress:
    """A line on stderr that is redrawn only on request; raises ``ImportError`` without rich."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
    from rich.table import Column

    text = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    return Progress(
        SpinnerColumn() if total is None else BarColumn(),
        text,
        console=Console(file=sys.stderr),
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


class _Extent:
    """How many source items are through: past the first stages that emit any number of values per item.

    Beyond those stages nobody can say which items a value was made of. An item that failed or was dropped is through.
    """

    def __init__(self, plan: Plan) -> None:
        self.nodes = plan.nodes[: plan.main]
        self.meeting = meetings(plan)
        self.counted = set(plan.entries)
        """The stages whose items count."""
        for place, node in enumerate(self.nodes):
            if place in self.counted and (node.handler.branches is not None or not node.handler.generates):
                self.counted.update(node.following)
        self.trunk: set[int] = set()
        """The stages outside all branches: all items of some source reach them."""
        for place in plan.entries:
            while place < len(self.nodes) and place not in self.trunk:
                self.trunk.add(place)
                place = self.meeting[place]

    def through(self, now: Statistics) -> int:
        """How many items are through: all that came in, less those on their way.

        Of a broadcast's branches, the one with the most items on its way counts: an item is through when it is through
        all of them. After the stage where branches meet, an item counts once for each, so the result may be too low,
        but never too high.
        """
        within = [0] * len(self.nodes)  # items on their way at a stage, and in its branches until they meet
        until_the_end = [0] * (len(self.meeting) + 1)  # the same from a stage to the end
        for place in reversed(range(len(self.nodes))):
            node, stage, meeting = self.nodes[place], now.stages[place], self.meeting[place]
            branches = [until_the_end[first] - until_the_end[meeting] for first in node.following]
            within[place] = max(branches, default=0) if node.handler.generates else sum(branches)
            if place in self.counted:
                within[place] += stage.queued + stage.in_flight
            until_the_end[place] = within[place] + until_the_end[meeting]
        return max(0, now.produced - sum(within[place] for place in self.trunk))


def _total(plan: Plan) -> int | None:
    """How many items the sources will produce, if each of them knows."""
    totals = [origin.total for origin in plan.origins]
    return None if None in totals else sum(total or 0 for total in totals)


def _progress_text(plan: Plan, now: Statistics) -> str:
    """Items done, the rate, and the fullest queue: ``1,234 done · 567/s · fetch queue 100/128``."""
    queues = [(stage, plan.bound(node.handler)) for node, stage in zip(plan.nodes, now.stages, strict=True)]
    stage, most = max(queues, key=lambda queue: (queue[0].queued / queue[1] if queue[1] else 0.0, queue[0].queued))
    queue = f"{stage.queued:,}/{most:,}" if most else f"{stage.queued:,}"
    failed = f" · {now.failed:,} failed" if now.failed else ""
    draining = " · draining" if now.state == "draining" else ""
    rate = sum(stage.rate for stage in now.stages if stage.name in now.ends)
    return f"{now.done:,} done{failed} · {rate:,.0f}/s · {stage.name} queue {queue}{draining}"
