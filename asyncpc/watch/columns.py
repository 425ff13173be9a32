"""The table of a run's stages for a terminal: a row per stage, with the columns that fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from ..wording import escaped
from .drawing import width
from .foot import Piece, Row, fit
from .watcher import MINUTE, StageView

__all__ = ["LEGEND", "brief", "table"]

LEGEND: Final = (
    "workers: █ at work ! stuck ▒ wait for room ~ held back · idle   oldest: how long the first item has waited"
)

EIGHTHS: Final = " ▏▎▍▌▋▊▉"

HEIGHTS: Final = "▁▂▃▄▅▆▇█"

FULL: Final = 0.9
"""The part of its bound from which a queue is shown as full."""

DROPPED: Final = ("p50", "minute", "p99", "oldest", "retried", "queue")
"""What is left out where there is no room, in this order; never how many failed."""


class _Column(NamedTuple):
    """A column of the table."""

    title: str
    least: int
    """Terminal columns that it needs."""
    most: int
    """Those that it can use."""
    cell: Callable[[StageView, int], Row]
    """What it shows of a stage in so many terminal columns, at most."""
    is_right: bool = False
    """Whether its cells are flush right."""


def table(stages: Sequence[StageView], columns: int) -> list[Row]:
    """The heads of the columns, and a row per stage."""
    shown, widths, gap = _laid_out(_columns(stages), columns - 1)
    placed = [*zip(shown, widths, [1, *[gap] * len(shown)], strict=False)]
    titles: Row = [piece for column, room, space in placed for piece in _title(column, room, space)]
    rows: list[Row] = [titles]
    for stage in stages:
        cells = [(fit(column.cell(stage, room), room), column, room, space) for column, room, space in placed]
        rows.append([piece for cell, column, room, space in cells for piece in _placed(cell, column, room, space)])
    return rows


def _laid_out(every: Sequence[_Column], columns: int) -> tuple[list[_Column], list[int], int]:
    """Which columns are shown, how wide, and how far apart."""
    shown = list(every)

    def needed(gap: int) -> int:
        return sum([column.least + gap for column in shown])

    for title in DROPPED:
        if needed(1) > columns:
            shown = [column for column in shown if column.title != title]
    gap = 2 if needed(2) <= columns else 1
    widths, spare = [column.least for column in shown], columns - needed(gap)
    while spare > 0 and (places := [at for at, one in enumerate(shown) if widths[at] < one.most]):
        for place in places[:spare]:
            widths[place] += 1
            spare -= 1
    return shown, widths, gap


def _columns(stages: Sequence[StageView]) -> list[_Column]:
    name = max([5, *[width(_name(stage)) for stage in stages]])
    queue = max([3, *[len(_of(stage.now.queued, stage.now.maxsize)) for stage in stages]])
    staff = max([3, *[len(_of(stage.busy, stage.now.concurrency)) for stage in stages]])
    return [
        _Column("stage", min(name, 8), min(name, 24), lambda stage, room: [(_name(stage), _style(stage))]),
        _Column("queue", queue + 6, queue + 17, lambda stage, room: _queue(stage, room, queue)),
        _Column("oldest", 6, 6, lambda stage, room: [(_oldest(stage), "")], is_right=True),
        _Column("workers", staff + 6, staff + 15, lambda stage, room: _workers(stage, room, staff)),
        _Column("items/s", 7, 7, lambda stage, room: [(_rate(stage.rate), "")], is_right=True),
        _Column("minute", 6, MINUTE, lambda stage, room: [(_line(stage.rates, room), "cyan")]),
        _Column("p50", 6, 6, lambda stage, room: [_seconds(stage.now.latency_p50)], is_right=True),
        _Column("p99", 6, 6, lambda stage, room: [_seconds(stage.now.latency_p99)], is_right=True),
        _Column("retried", 7, 7, lambda stage, room: [_count(stage.now.retried, "yellow")], is_right=True),
        _Column("failed", 6, 6, lambda stage, room: [_count(stage.now.failed, "bold red")], is_right=True),
    ]


def _title(column: _Column, room: int, gap: int) -> Row:
    title = "last minute" if column.title == "minute" and room >= 11 else column.title
    return _placed([(title, "dim")], column, room, gap)


def _placed(cell: Row, column: _Column, room: int, gap: int) -> Row:
    """A cell in its place, after a gap."""
    space = " " * (room - sum([width(text) for text, _ in cell]))
    return [(" " * gap + space, ""), *cell] if column.is_right else [(" " * gap, ""), *cell, (space, "")]


# -- cells ----------------------------------------------------------------------------------------


def _name(stage: StageView) -> str:
    return escaped(stage.now.name)


def _style(stage: StageView) -> str:
    return "bold red" if stage.held is not None and stage.held.stuck else "bold"


def _queue(stage: StageView, room: int, counts: int) -> Row:
    """How full it is; a queue without a bound has no bar."""
    cells, now = room - counts - 1, stage.now
    text = f" {_of(now.queued, now.maxsize):>{counts}}"
    if not now.maxsize:
        return [(" " * cells, ""), (text, "")]
    fill = min(1.0, now.queued / now.maxsize)
    eighths = int(8 * cells * fill)
    bar = ("█" * (eighths // 8) + EIGHTHS[eighths % 8]).rstrip()
    return [(bar, "yellow" if fill >= FULL else "blue"), ("·" * (cells - len(bar)), "dim"), (text, "")]


def _workers(stage: StageView, room: int, counts: int) -> Row:
    """What its workers did lately, and how many have an item now."""
    cells = room - counts - 1
    stuck = 0.0 if stage.held is None else min(stage.at_work, stage.held.stuck / max(1, stage.held.of))
    at_work = stage.at_work - stuck
    parts = [
        (stuck, "!", "bold red"),
        (at_work, "█", "green"),
        (stage.waits_for_room, "▒", "yellow"),
        (stage.held_back, "~", "magenta"),
    ]
    found: list[Piece] = []
    used, before = 0.0, 0
    for share, sign, style in parts:
        used += share
        end = round(cells * min(1.0, used))
        end = max(end, before + 1) if sign == "!" and share else end  # one of a thousand is seen too
        found.append((sign * (end - before), style))
        before = max(before, end)
    found.append(("·" * (cells - before), "dim"))
    return [*found, (f" {_of(stage.busy, stage.now.concurrency):>{counts}}", "")]


def _oldest(stage: StageView) -> str:
    if stage.oldest is not None:
        return brief(stage.oldest)
    return "" if stage.now.queued else "–"


def _line(rates: Sequence[float], room: int) -> str:
    """The rates of the last minute, the last one at the right."""
    seconds, most = MINUTE / room, max(rates, default=0.0)
    found = []
    for place in range(room):
        begin, end = round(MINUTE - place * seconds), round(MINUTE - (place + 1) * seconds)
        missing = MINUTE - len(rates)
        part = rates[max(0, end - missing) : max(0, begin - missing)]
        height = sum(part) / len(part) / most if part and most else 0.0
        found.append(HEIGHTS[min(7, int(8 * height))] if part else " ")
    return "".join(reversed(found))


def _rate(rate: float) -> str:
    return _short(round(rate)) if rate >= 10 or not rate else f"{rate:.2g}"


def _seconds(seconds: float) -> Piece:
    return (brief(seconds), "") if seconds else ("–", "dim")


def _count(count: int, style: str) -> Piece:
    return (_short(count), style) if count else ("–", "dim")


def _of(count: int, most: int) -> str:
    return f"{_short(count)}/{_short(most)}" if most else _short(count)


def _short(count: int) -> str:
    """A number in six columns at most."""
    for unit, sign in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= 100 * unit or (count >= unit and unit > 10**3):
            return f"{count / unit:.0f}{sign}" if count >= 100 * unit else f"{count / unit:.1f}{sign}"
    return f"{count:,}"


def brief(seconds: float) -> str:
    """Seconds in six columns: ``5 µs``, ``59 ms``, ``7.3 s``, ``12 min``, ``3.2 h``, ``4 d``."""
    if 0 < seconds < 1:
        return f"{seconds * 1e6:.0f} µs" if seconds < 0.000_999_5 else f"{seconds * 1e3:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} d"
