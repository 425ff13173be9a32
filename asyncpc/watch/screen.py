"""A view of a run as rows for a terminal. Pure functions of the view and the size of the terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Final

from ..run.statistics import SourceStatistics
from ..wording import escaped, redacted
from .columns import LEGEND, brief, table
from .drawing import width
from .extent import Standing, clock
from .failures import FailuresAlike
from .foot import Piece, Row, cut
from .watcher import StageView, View

__all__ = ["screen"]

MOST_FAILURES: Final = 5
"""Kinds of failures that are shown."""

MOST_LINES: Final = 3
"""Lines that the verdict may take."""

FEWEST_STAGES: Final = 6
"""Stages for which failures and the legend make room."""

STATES: Final = {
    "new": (" NEW ", "reverse"),
    "running": (" RUNNING ", "bold reverse green"),
    "finishing": (" FINISHING ", "bold reverse green"),
    "draining": (" DRAINING ", "bold reverse yellow"),
    "closed": (" ENDED ", "bold reverse"),
    "failed": (" FAILED ", "bold reverse red"),
}


def screen(view: View, columns: int, lines: int, *, is_named: bool = False) -> list[Row]:
    """The rows that fit into so many columns and lines; ``is_named`` shows the name of the pipeline."""
    head = [*_headline(view, columns, is_named), *_progress(view, columns)]
    head += [_remote(source) for source in view.statistics.sources if source.remote is not None][:MOST_LINES]
    failures = [_failure(one) for one in view.failures[:MOST_FAILURES]]
    room = lines - len(head) - 1  # the heads of the columns
    tail = [*failures, [(f" {LEGEND}", "dim")]]
    if len(tail) + min(len(view.stages), FEWEST_STAGES) > room:
        tail = failures[:1]
    stages, rest = _that_matter(view.stages, room - len(tail))
    more: list[Row] = [[(f" … and {rest:,} more, which are less busy", "dim")]] if rest else []
    return [*head, *table(stages, columns), *more, *tail][:lines]


def _headline(view: View, columns: int, is_named: bool) -> Iterator[Row]:
    """The state and the verdict, which is told to its end if it fits into a few lines."""
    state = view.statistics.state
    if state == "draining" and not view.statistics.stop_asked:
        state = "finishing"  # its sources have ended, and nobody has stopped it
    badge = STATES.get(state, (f" {escaped(state)} ", "reverse"))
    name = [(f" {_safe(view.pipeline)} ", "bold")] if is_named else []
    start: list[Piece] = [*name, badge, (" ", "")]
    indent = sum([width(text) for text, _ in start])
    style = "bold red" if view.verdict.is_alarm else "bold"
    for text in _folded(_safe(view.verdict.text), max(20, columns - indent)):
        yield [*start, (text, style)]
        start = [(" " * indent, "")]


def _folded(text: str, columns: int) -> list[str]:
    """Text in lines, broken between words; what does not fit into the last one is cut off there."""
    found = [""]
    for word in cut(text, (MOST_LINES + 1) * columns).split(" "):
        longer = f"{found[-1]} {word}" if found[-1] else word
        if width(longer) <= columns or len(found) == MOST_LINES:
            found[-1] = longer
        else:
            found.append(word)
    return found


def _progress(view: View, columns: int) -> Iterator[Row]:
    """How far it has come: a bar if the total is known, and counts."""
    standing = view.standing
    if standing is None:
        yield [(f" {view.statistics.done:,} done · {clock(view.statistics.elapsed)}", "")]
        return
    counts = [*_counts(standing, view.statistics.done)]
    if standing.share is not None:
        counts[:0] = [(f" {math.floor(100 * standing.share)}%", "bold"), (f" of {standing.total:,} ·", "")]
        cells = max(10, min(columns * 3 // 8, columns - 1 - sum([width(text) for text, _ in counts])))
        full = int(cells * standing.share)
        counts[:0] = [(" " + "█" * full, "green"), ("·" * (cells - full), "dim")]
    yield counts


def _counts(standing: Standing, done: int) -> Iterator[Piece]:
    waiting = "" if standing.waiting is None or standing.total is not None else f", {standing.waiting:,} waiting"
    yield f" {done:,} done{waiting}", ""
    if standing.failed:
        yield " · ", ""
        yield f"{standing.failed:,} failed", "red"
    rate = standing.rate
    yield f" · {rate:,.0f}/s" if rate >= 10 or not rate else f" · {rate:.2g}/s", ""
    yield f" · {clock(standing.elapsed)}", ""
    if standing.left is not None:
        yield f" · {clock(math.ceil(standing.left))} left", ""
    if standing.word in ("stopped", "failed"):
        yield f" · {standing.word} before all was done", ""


def _remote(source: SourceStatistics) -> Row:
    """What a remote queue holds, if somebody has looked, and whether there is a connection."""
    counts = source.remote
    assert counts is not None
    row: list[Piece] = [(f" {_safe(source.name)}", "bold")]
    if counts.disconnected:
        row.append((f" · no connection for {brief(counts.disconnected)}", "bold red"))
    if (depth := counts.depth) is not None:
        row.append((f" · {depth.ready:,} ready · {depth.unacknowledged:,} in hand", ""))
        row.append((f" · {depth.delayed:,} delayed" if depth.delayed else "", ""))
        if counts.lag:
            row.append((f" · the oldest waits for {brief(counts.lag)}", ""))
        row.append((f" · {depth.dead:,} dead" if depth.dead else "", "red"))
    row.append((f" · {counts.acknowledged:,} acknowledged", ""))
    row.append((f" · {counts.reconnects:,} reconnects" if counts.reconnects else "", ""))
    return row


def _failure(one: FailuresAlike) -> Row:
    """The failures of a kind on one line."""
    at = time.strftime("%H:%M:%S", time.localtime(one.at))
    message = f": {' '.join(_safe(one.message).split())}" if one.message else ""
    times = f" ×{one.times:,}" if one.times > 1 else ""
    place = f" ({_safe(one.place)})" if one.place else ""
    # the place before the message, which may be long
    return [
        (f" {at} ", "dim"),
        (_safe(one.stage), "bold"),
        (f" {_safe(one.kind)}{times}", "red"),
        (f"{place}{message}", ""),
    ]


def _that_matter(stages: Sequence[StageView], room: int) -> tuple[list[StageView], int]:
    """The stages for which there is room, in their order, and how many others there are."""
    if len(stages) <= room:
        return list(stages), 0
    most = sorted(range(len(stages)), key=lambda place: _weight(stages[place]), reverse=True)
    shown = sorted(most[: max(1, room - 1)])
    return [stages[place] for place in shown], len(stages) - len(shown)


def _weight(stage: StageView) -> tuple[bool, bool, float, float]:
    """Stuck ones matter most, then those that fail, then the busiest, then those with the fullest queues."""
    is_stuck = stage.held is not None and (stage.held.stuck > 0 or stage.held.is_all)
    fill = stage.now.queued / stage.now.maxsize if stage.now.maxsize else float(stage.now.queued > 0)
    return is_stuck, stage.failing > 0, stage.at_work + stage.held_back, fill


def _safe(text: str) -> str:
    return escaped(redacted(text))
