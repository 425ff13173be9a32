"""Small pictures of result files, one for each question: as wide as half a README, or as a phone.

Dots and slopes, with lines between the quartiles. Each picture follows the reader's light or dark colours, on a ground
of its own, so that it can be read on any page. Colours differ for colour-blind readers too, and so do the shapes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import ceil, floor, log10
from pathlib import Path
from typing import Any, NamedTuple

from .measure import AGAIN, reference_of
from .peers import ASYNCPC, BARE_LOOP, HAND_WRITTEN
from .report import readable

WIDTH, MARGIN, ROW, LETTER = 410, 12, 19, 7.0
"""In pixels; a letter is a wide one of 13 pixels, since nobody knows the reader's font."""

REST = "beside"
"""The picture of all cases that no other one names."""

INKS = (  # on white, and on black
    ("#d55e00", "#ee7733"),
    ("#0072b2", "#56b4e9"),
    ("#007d5c", "#2fc49a"),
    ("#a3568a", "#dd8fbb"),
    ("#6b5d00", "#e6c84b"),
    ("#6e7781", "#9198a1"),
)
SHAPES = (
    "M-5 0A5 5 0 1 1 5 0A5 5 0 1 1-5 0Z",
    "M0-5.5L5.5 0L0 5.5L-5.5 0Z",
    "M-5 4.5H5L0-5Z",
    "M-4.2-4.2H4.2V4.2H-4.2Z",
    "M-5-4.5H5L0 5Z",
    "M-4.2-4.2L4.2 4.2M-4.2 4.2L4.2-4.2",
)
"""Of asyncpc, the hand-written pipeline, and others in turn."""

STYLE = (
    ".ground{fill:#ffffff}.ink{fill:#1f2328}.dim{fill:#59636e}.grid{stroke:#d8dee4}.one{stroke:#59636e}"
    + "".join(f".s{n}{{stroke:{light}}}" for n, (light, _) in enumerate(INKS))
    + f".full{{fill:{INKS[0][0]}}}.open{{fill:#ffffff}}"
    + "@media(prefers-color-scheme:dark){"
    + ".ground{fill:#0d1117}.ink{fill:#f0f6fc}.dim{fill:#9da7b1}.grid{stroke:#30363d}.one{stroke:#9da7b1}"
    + "".join(f".s{n}{{stroke:{dark}}}" for n, (_, dark) in enumerate(INKS))
    + f".full{{fill:{INKS[0][1]}}}.open{{fill:#0d1117}}}}"
)

Document = Mapping[str, Any]
Ticks = list[tuple[float, str]]


class Point(NamedTuple):
    """A median between its quartiles."""

    low: float
    value: float
    high: float

    @classmethod
    def of(cls, spread: Mapping[str, Any]) -> Point:
        """From a result file."""
        low, high = spread["quartiles"]
        return cls(low, spread["median"], high)

    def rate(self) -> Point:
        """In a second, of what takes so long."""
        return Point(1 / self.high, 1 / self.value, 1 / self.low)


@dataclass(frozen=True)
class Scale:
    """From values to pixels."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = True

    @classmethod
    def around(cls, points: Iterable[Point], begin: float, end: float, *, log: bool = True, one: bool = False) -> Scale:
        """With room for all of them; a scale that is not logarithmic begins at 0."""
        values = [value for point in points for value in (point.low, point.high)] + [1.0] * one
        if not log:
            return cls(0, max(values) * 1.06, begin, end, log=False)
        low, high = log10(min(values)), log10(max(values))
        room = max(0.04, (high - low) * 0.05)
        return cls(10 ** (low - room), 10 ** (high + room), begin, end)

    def __call__(self, value: float) -> float:
        """Where a value is."""
        low, high, at = (log10(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return round(self.begin + (self.end - self.begin) * (at - low) / (high - low), 1)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values on it."""
        if not self.log:
            step = next(step for step in _round(self.high / 20, self.high) if self.high / step <= most - 1)
            return [step * n for n in range(int(self.high / step) + 1)]
        fine = [tuple(range(1, 10))] if self.high < 3 * self.low else []
        for digits in *fine, (1, 2, 5), (1, 3), (1,):
            ticks = [value for value in _round(self.low, self.high, digits) if self.low <= value <= self.high]
            if len(ticks) <= most:
                break
        return ticks


def _round(low: float, high: float, digits: Sequence[int] = (1, 2, 5)) -> list[float]:
    """So many times the powers of ten, from below ``low`` to above ``high``."""
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    return [float(f"{digit}e{power}") for power in powers for digit in digits]


class Sheet:
    """A picture that is being drawn, from top to bottom."""

    def __init__(self, title: str, notes: Sequence[str]) -> None:
        self.title = title
        self.parts: list[str] = []
        self.y = 26.0
        self.text(MARGIN, self.y, title, "ink", size=15, bold=True)
        for note in notes:
            self.y += 17
            self.text(MARGIN, self.y, note, "dim", size=12)
        self.y += 8

    def text(
        self, x: float, y: float, text: str, ink: str, *, at: str = "start", size: int = 13, bold: bool = False
    ) -> None:
        """Write."""
        weight = ' font-weight="600"' if bold else ""
        anchor = "" if at == "start" else f' text-anchor="{at}"'
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" class="{ink}" font-size="{size}"{anchor}{weight}>{escape(text)}</text>'
        )

    def line(self, path: str, ink: str, width: float = 1) -> None:
        """Draw a line."""
        self.parts.append(f'<path d="{path}" class="{ink}" stroke-width="{width:g}" fill="none"/>')

    def mark(self, x: float, y: float, series: int) -> None:
        """A dot, or another shape."""
        body = "full" if series == 0 else "open"
        place = f'transform="translate({x:g} {y:g})"'
        self.parts.append(f'<path d="{SHAPES[series]}" {place} class="s{series} {body}" stroke-width="1.8"/>')

    def legend(self, series: Mapping[str, int]) -> None:
        """Which shape is whose."""
        x = MARGIN + 6.0
        self.y += 14
        for name, number in series.items():
            width = 32 + (LETTER + (number == 0)) * len(name)
            if x + width > WIDTH + 10 and x > MARGIN + 6:
                x, self.y = MARGIN + 6.0, self.y + 18
            self.mark(x, self.y - 4, number)
            self.text(x + 10, self.y, name, "ink", bold=number == 0)
            x += width
        self.y += 8

    def svg(self, foot: str) -> str:
        """All of it."""
        height = self.y + 24
        self.text(WIDTH - MARGIN, height - 9, foot, "dim", at="end", size=11)
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" '
                f'height="{height:g}" role="img" font-family="system-ui, -apple-system, Segoe UI, Roboto, sans-serif">',
                f"<title>{escape(self.title)}</title>",
                f"<style>{STYLE}</style>",
                f'<rect width="{WIDTH}" height="{height:g}" rx="6" class="ground"/>',
                *self.parts,
                "</svg>\n",
            ]
        )


def series_of(names: Iterable[str]) -> dict[str, int]:
    """The looks of each; asyncpc and the hand-written pipeline look the same everywhere."""
    known = {ASYNCPC.name: 0, HAND_WRITTEN.name: 1}
    names = list(dict.fromkeys(names))
    others = [name for name in names if name not in known]
    looks = known | {name: 2 + number % (len(SHAPES) - 2) for number, name in enumerate(others)}
    return {name: looks[name] for name in sorted(names, key=lambda name: known.get(name, 2))}


Draw = Callable[["Picture", Document], "Sheet | None"]


@dataclass(frozen=True)
class Picture:
    """A question, and how its answer is drawn."""

    name: str
    title: str
    notes: tuple[str, ...]
    draw: Draw
    cases: tuple[str, ...] = ()
    lines: Callable[[str, str], bool] = lambda case, line: True
    log: bool = True

    def sheet(self) -> Sheet:
        """With the title on it."""
        return Sheet(self.title, self.notes)

    def found(self, document: Document) -> dict[tuple[str, str], dict[str, Any]]:
        """The results of its cases that are there, by case and line."""
        named = {case for picture in PICTURES for case in picture.cases}
        wanted = [case for case in document["cases"] if case not in named] if self.name == REST else []
        return {
            (case, line): {name: result for name, result in results.items() if name != AGAIN}
            for case in (*self.cases, *wanted)
            for line, results in document["cases"].get(case, {}).items()
            if self.lines(case, line)
        }


# -- one row for each implementation ----------------------------------------------------------------


def costs(picture: Picture, document: Document) -> Sheet | None:
    """What an item costs, the cheapest first."""
    groups = {
        line or case: {name: Point.of(result["value"]) for name, result in results.items()}
        for (case, line), results in picture.found(document).items()
    }
    return _rows_of_names(picture, groups, lambda value: readable(value, "s"))


def rates(picture: Picture, document: Document) -> Sheet | None:
    """Messages in a second, the most first."""
    groups = {
        case: {name: Point.of(result["value"]).rate() for name, result in results.items()}
        for (case, _), results in picture.found(document).items()
    }
    return _rows_of_names(picture, groups, _thousands, most_first=True)


def _thousands(value: float) -> str:
    return f"{value / 1000:.3g}k" if value >= 1000 else f"{value:.3g}"


def _rows_of_names(
    picture: Picture, groups: dict[str, dict[str, Point]], told: Callable[[float], str], *, most_first: bool = False
) -> Sheet | None:
    if not groups:
        return None
    sheet = picture.sheet()
    left = MARGIN + 8 + LETTER * max(len(name) for of in groups.values() for name in of)
    scale = Scale.around((point for of in groups.values() for point in of.values()), left + 8, WIDTH - MARGIN - 62)
    heads = len(groups) > 1
    rows = sum(map(len, groups.values())) + heads * len(groups)
    y, bottom = sheet.y + 6, sheet.y + 20 + ROW * rows
    _grid(sheet, scale, sheet.y, bottom, [(tick, told(tick)) for tick in scale.ticks(5)])
    for head, of in groups.items():
        if heads:
            y += ROW
            sheet.text(MARGIN, y + 4, head, "dim", size=12, bold=True)
        for name in sorted(of, key=lambda name: of[name].value, reverse=most_first):
            y += ROW
            _row(sheet, scale, y, left, name, of[name], told)
    return sheet


def _row(
    sheet: Sheet, scale: Scale, y: float, left: float, name: str, point: Point, told: Callable[[float], str]
) -> None:
    ours = name == ASYNCPC.name
    series = 0 if ours else 1 if name == HAND_WRITTEN.name else 5 if name == BARE_LOOP.name else 2
    sheet.text(left, y + 4, name, "ink", at="end", bold=ours)
    sheet.line(f"M{scale(point.low):g} {y:g}H{scale(point.high):g}", f"s{series}", 2)
    sheet.mark(scale(point.value), y, series)
    sheet.text(WIDTH - MARGIN, y + 4, told(point.value), "ink", at="end", bold=ours)


def _grid(sheet: Sheet, scale: Scale, top: float, bottom: float, ticks: Ticks) -> None:
    """Upright lines, with what they mean below."""
    for value, told in ticks:
        x = scale(value)
        sheet.line(f"M{x:g} {top + 6:g}V{bottom:g}", "grid")
        sheet.text(x, bottom + 15, told, "dim", at="middle", size=12)
    sheet.y = bottom + 20


# -- one row for each line, as ratios ----------------------------------------------------------------


def ratios(picture: Picture, document: Document) -> Sheet | None:
    """How many times as fast as the reference, for everybody in a row."""
    rows: dict[str, dict[str, Point]] = {}
    for (case, line), results in picture.found(document).items():
        if reference := reference_of(results.get(ASYNCPC.name, {}).get("ratios", {})):
            label = line if len(picture.cases) == 1 and picture.name != REST else f"{case} {line}".strip()
            rows[label] = {name: Point.of(result["ratios"][reference]) for name, result in results.items()}
    if not rows:
        return None
    sheet, series = picture.sheet(), series_of(name for of in rows.values() for name in of)
    sheet.legend(series)
    left = MARGIN + LETTER * max(map(len, rows))
    scale = Scale.around((point for of in rows.values() for point in of.values()), left + 16, WIDTH - 74, one=True)
    top = sheet.y
    bottom = top + 12 + ROW * len(rows)
    _grid(sheet, scale, top, bottom, [(tick, f"{tick:g}") for tick in scale.ticks()])
    sheet.line(f"M{scale(1):g} {top + 6:g}V{bottom:g}", "one", 1.6)
    for row, (label, of) in enumerate(rows.items()):
        y = top + 20 + ROW * row
        sheet.text(left, y + 4, label, "ink", at="end")
        for name in sorted(of, key=lambda name: -series[name]):  # asyncpc last, so that it is on top
            sheet.line(f"M{scale(of[name].low):g} {y:g}H{scale(of[name].high):g}", f"s{series[name]}", 2)
            sheet.mark(scale(of[name].value), y, series[name])
        sheet.text(WIDTH - MARGIN, y + 4, f"{of[ASYNCPC.name].value:.2f} ×", "ink", at="end", bold=True)
    return sheet


# -- slopes -------------------------------------------------------------------------------------------


def slopes(picture: Picture, document: Document) -> Sheet | None:
    """What an item costs over a number that grows; a line for each implementation and figure."""
    lines: dict[tuple[str, str], dict[float, Point]] = {}
    for (_, line), results in picture.found(document).items():
        number, figure = _number(line)
        for name, result in results.items():
            if number is not None:
                lines.setdefault((name, figure), {})[number] = Point.of(result["value"])
    if not lines:
        return None
    sheet = picture.sheet()
    several = len({figure for _, figure in lines}) > 1
    told = {key: " ".join(key) if several else key[0] for key in lines}
    left, right, top = MARGIN + 62, WIDTH - MARGIN - 16 - LETTER * max(map(len, told.values())), sheet.y + 10
    bottom = top + 210
    numbers = sorted({number for of in lines.values() for number in of})
    points = [point for of in lines.values() for point in of.values()]
    up = Scale.around(points, bottom, top, log=picture.log)
    along = Scale(numbers[0], numbers[-1], left + 8, right, log=picture.log)
    for tick in up.ticks():
        sheet.line(f"M{left:g} {up(tick):g}H{right:g}", "grid")
        sheet.text(left - 6, up(tick) + 4, readable(tick, "s") if tick else "0", "dim", at="end", size=12)
    edge = 2.0 * WIDTH
    for number in reversed(numbers):
        half = LETTER * len(label := f"{number:,g}") / 2
        if along(number) + half < edge:  # else it would cover the one to the right
            sheet.text(along(number), bottom + 17, label, "dim", at="middle", size=12)
            edge = along(number) - half
    looks = series_of(name for name, _ in lines)
    ends = _apart({key: up(of[max(of)].value) for key, of in lines.items()}, 15)
    for key, of in sorted(lines.items(), key=lambda line: -looks[line[0][0]]):
        series = looks[key[0]]
        path = "L".join(f"{along(number):g} {up(point.value):g}" for number, point in sorted(of.items()))
        sheet.line(f"M{path}", f"s{series}", 2)
        for number, point in of.items():
            sheet.line(f"M{along(number):g} {up(point.low):g}V{up(point.high):g}", f"s{series}", 2)
            sheet.mark(along(number), up(point.value), series)
        sheet.text(right + 12, ends[key] + 4, told[key], "ink", bold=key[0] == ASYNCPC.name)
    sheet.y = bottom + 22
    return sheet


def _number(line: str) -> tuple[float | None, str]:
    """``50 % load p99`` is p99 at 50; ``1,000 items`` is at 1,000."""
    if not (found := re.search(r"[\d,]+(?:\.\d+)?", re.sub(r"\bp\d[\d.]*", "", line))):
        return None, line
    figure = re.search(r"\bp[\d.]+", line)
    return float(found[0].replace(",", "")), figure[0] if figure else ""


def _apart(wanted: Mapping[Any, float], least: float) -> dict[Any, float]:
    """Labels that do not cover each other, each as near to its place as the others allow."""
    keys = sorted(wanted, key=lambda key: wanted[key])
    places = [wanted[key] for key in keys]
    for _ in range(200):
        for above, below in pairwise(range(len(places))):
            if (lack := least - (places[below] - places[above])) > 0.01:
                places[above] -= lack / 2
                places[below] += lack / 2
    return dict(zip(keys, places, strict=True))


# -- the questions ------------------------------------------------------------------------------------


def _medians_and_tails(case: str, line: str) -> bool:
    return line.endswith(("p50", "p99"))


PICTURES: tuple[Picture, ...] = (
    Picture(
        "fast",
        "What an item costs",
        (
            "A handler that does nothing: one async generator, four",
            "consumers, a queue of 128. Less is better (log scale).",
        ),
        costs,
        ("throughput",),
    ),
    Picture(
        "wait",
        "… with a handler that waits",
        ("The same with one await asyncio.sleep(0) in the handler.", "Less is better (log scale)."),
        costs,
        ("yield",),
    ),
    Picture(
        "stages",
        "How it grows with stages",
        ("Time per item through 1 to 8 stages of four consumers.", "Less is better."),
        slopes,
        ("stages",),
        log=False,
    ),
    Picture(
        "short",
        "How long a run must be",
        ("Time per item of runs of so many items, start and end", "included. Less is better (log scales)."),
        slopes,
        ("short",),
    ),
    Picture(
        "latency",
        "How long an item waits under load",
        (
            "From the moment it is due to its handler, at a share (in %)",
            "of what the hand-written pipeline carries (log scales).",
        ),
        slopes,
        ("latency",),
        lines=_medians_and_tails,
    ),
    Picture(
        "consumers",
        "How it grows with consumers",
        ("Time per item with so many consumers, their start left", "out. Less is better (log scales)."),
        slopes,
        ("growth",),
        lines=lambda case, line: bool(re.fullmatch(r"consumers [\d,]+", line)),
    ),
    Picture(
        "options",
        "What an option costs",
        ("A stage with the option, as many times as fast as the", "same without it (log scale)."),
        ratios,
        ("options",),
    ),
    Picture(
        "queue",
        "Through one queue",
        (
            "Its bound, producers → consumers, just the queue in runs,",
            "and 1 ms of I/O. × as fast as the reference, at 1.",
        ),
        ratios,
        ("bounds", "fan", "runs", "io"),
    ),
    Picture(
        REST,
        "From outside, and by other ways",
        ("× as fast as the reference, which is at 1. To the right", "of it asyncpc is faster (log scale)."),
        ratios,
        ("put",),
    ),
    Picture(
        "threads",
        "Threads and processes",
        ("× as fast as the reference, which is at 1; crowd: threads", "that put × the bound of the queue (log scale)."),
        ratios,
        ("threads", "crowd", "processes", "small"),
        lines=lambda case, line: case != "crowd" or line.endswith(("bound 1", "bound 128")),
    ),
    Picture(
        "start",
        "To start, to hold, to remember",
        (
            "Start and import, a timer beside a busy run, and bytes:",
            "× as fast (as small) as the reference, at 1 (log scale).",
        ),
        ratios,
        ("startup", "import", "hold", "memory", "workers"),
    ),
    Picture(
        "engines",
        "Remote queues on real servers",
        ("Messages of 64 bytes consumed in a second.", "More is better (log scale)."),
        rates,
        ("sqlite", "redis", "postgres", "nats", "rabbitmq"),
        lines=lambda case, line: line == "64 B consume",
    ),
)


def pictures(document: Document) -> dict[str, str]:
    """All that a result file has figures for, by name."""
    python, loop = document["python"], document["loop"]
    quick = ", --quick" if document.get("quick") else ""
    foot = f"{python}, {loop}, {document['date'][:10]}{quick}"
    sheets = {picture.name: picture.draw(picture, document) for picture in PICTURES}
    return {name: sheet.svg(foot) for name, sheet in sheets.items() if sheet}


def draw(document: Document, folder: Path) -> None:
    """Write them into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, svg in pictures(document).items():
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
