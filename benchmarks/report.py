"""What is told at the end: a table, a plot, a JSON file, and what got slower since an older one."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from .cases import BEST_LIBRARY, LIMITS, WANTED, Case
from .measure import Bench, Result, Results, Spread
from .peers import ASYNCPC, LIBRARIES
from .side_paths import CASES

INSTALL = "install it with: uv run --project benchmarks … (or: pip install rich)"
Figures = Mapping[str, Results]
"""By case, line and implementation."""

Wanted = Callable[[str, str, Result, Sequence[str], str], str]
"""What a figure of a case and line should reach, by its result, the case's references and the loop."""


# -- the table -------------------------------------------------------------------------------------


def show(figures: Figures, bench: Bench, cases: Mapping[str, Case] = CASES, wanted: Wanted | None = None) -> None:
    """A table per case; plain text without rich."""
    for name, results in figures.items():
        case = cases[name]
        head = ["", "", "median", "±", *(f"× {reference}" for reference in case.references), "wanted"]
        rows = [*_rows(name, results, case.references, bench.loop, wanted or _wanted), *_failed(name, bench, len(head))]
        _table(f"{name}: {case.what}", head, rows)
    if "throughput" in figures:
        print(best_library({name: result.value.median for name, result in figures["throughput"][""].items()}))
    for peer, why in bench.missing.items():
        what, _, detail = why.partition(": ")
        print(f"{what}: {peer}" + (f" ({detail})" if detail else ""))
    for (name, line), failed in bench.failed.items():
        for peer, why in failed.items():
            print(f"failed: {peer}, {name} {line} ({why})")
    print(
        "× other: times as fast (as small) as that, the median of the rounds' ratios; ±: half of the quartiles' range."
    )


def _rows(case: str, results: Results, references: tuple[str, ...], loop: str, wanted: Wanted) -> Iterator[list[str]]:
    for line, of in results.items():
        label = line
        for name, result in of.items():
            ratios = [_ratio(result.ratios.get(reference)) for reference in references]
            value = [
                readable(result.value.median, result.unit),
                f"{result.value.spread:.0%}",
            ]
            yield [
                label,
                name,
                *value,
                *ratios,
                wanted(case, line, result, references, loop) if name == ASYNCPC.name else "",
            ]
            label = ""


def _failed(case: str, bench: Bench, columns: int) -> Iterator[list[str]]:
    """A row for each implementation that failed in a line of the case."""
    for (name, line), failed in bench.failed.items():
        for peer, why in failed.items() if name == case else ():
            told = f"failed: {why}"
            yield [line, peer, told if len(told) <= 60 else f"{told[:59]}…", *[""] * (columns - 3)]


def _ratio(ratio: Spread | None) -> str:
    return f"{ratio.median:.2f}" if ratio else ""


def _wanted(case: str, line: str, result: Result, references: Sequence[str], loop: str) -> str:
    reference = references[0]
    if limit := LIMITS.get((case, line)):
        return f"≤ {readable(limit, result.unit)}" + (" ✓" if result.value.median <= limit else " missed")
    if (case, line) not in WANTED or reference not in result.ratios:
        return ""
    wanted = WANTED[case, line](python(), loop)
    return f"≥ {wanted:.2f} ×" + (" ✓" if result.ratios[reference].median >= wanted else " missed")


def best_library(costs: Mapping[str, float]) -> str:
    """How far ahead of the others asyncpc is, by what an item costs in each implementation."""
    libraries = [peer.name for peer in LIBRARIES if peer.name in costs]
    if not libraries:
        return "No other library is installed to compare with."
    best = min(libraries, key=lambda name: costs[name])
    ratio = costs[best] / costs[ASYNCPC.name]
    return f"The fastest other library is {best}; asyncpc is {ratio:.1f} × as fast (wanted: {BEST_LIBRARY:g})."


def readable(value: float, unit: str) -> str:
    """A value for people: 1.02 µs, 48 B."""
    if unit == "B":
        return f"{value:,.0f} B"
    if unit != "s":
        return f"{value:.3f}"
    for scale, name in (1, "s"), (1e-3, "ms"), (1e-6, "µs"):
        if value >= scale:
            return f"{value / scale:.3g} {name}"
    return f"{value * 1e9:.0f} ns"


def _table(title: str, head: list[str], rows: list[list[str]]) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(f"\n{title}")
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        for row in (head, *rows):
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    table = Table(title=title, title_justify="left")
    for place, column in enumerate(head):
        table.add_column(column, justify="left" if place in (0, 1, len(head) - 1) else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row, style="bold" if row[1] == ASYNCPC.name else None)
    console = Console()
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    console.width = max(console.width, 100, sum(widths) + 3 * len(widths) + 1)  # nothing is cut off
    console.print(table)


# -- JSON ------------------------------------------------------------------------------------------


def document(figures: Figures, bench: Bench) -> dict[str, Any]:
    """Everything there is to know, for a file; times in seconds, sizes in bytes."""
    return {
        "machine": {
            "platform": platform.platform(),
            "processor": _processor(),
            "cpus": os.cpu_count(),
            "load": round(bench.load, 1),
        },
        "python": python(),
        "loop": bench.loop,
        "versions": {
            "asyncpc": metadata.version("asyncpc"),
            **({"uvloop": metadata.version("uvloop")} if bench.loop == "uvloop" else {}),
            **bench.versions,
        },
        "missing": bench.missing,
        "failed": [
            {"case": case, "line": line, "name": name, "why": why}
            for (case, line), failed in bench.failed.items()
            for name, why in failed.items()
        ],
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": bench.quick,
        "cases": {
            case: {line: {name: asdict(result) for name, result in of.items()} for line, of in results.items()}
            for case, results in figures.items()
        },
    }


def python() -> str:
    """The implementation and its version: CPython 3.13.0."""
    return f"{platform.python_implementation()} {platform.python_version()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str | None:
    """What was measured; ``-dirty`` if the code is not what that has. Figures that were kept before do not count."""
    if (commit := _git("rev-parse", "HEAD")) is None:
        return None
    changed = _git("status", "--porcelain", "--", "asyncpc", "benchmarks/*.py", "benchmarks/pyproject.toml")
    return f"{commit}-dirty" if changed else commit


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def write(document: Mapping[str, Any], file: Path) -> None:
    """The JSON file."""
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
