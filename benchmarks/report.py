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

from .cases import BEST_LIBRARY, CASES, LIMITS, WANTED, Case
from .measure import Bench, Result, Results, Spread
from .peers import ASYNCPC, LIBRARIES

INSTALL = "install it with: uv run --project benchmarks … (or: pip install rich matplotlib)"
NOISE = 0.05
"""The share by which a ratio may always differ from one run to the next."""

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
        "machine": {"platform": platform.platform(), "processor": _processor(), "cpus": os.cpu_count()},
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
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


# -- what got slower -------------------------------------------------------------------------------


def compare(old: dict[str, Any], new: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What got slower beyond the noise, and what makes the two runs hard to compare.

    Ratios are compared, not times: they hardly depend on the machine. Slower is a median that fell by more than 5 %
    with quartiles that no longer touch.
    """
    doubts = [
        f"{key}: {old.get(key)} then, {new.get(key)} now"
        for key in ("machine", "python", "loop", "quick")
        if old.get(key) != new.get(key)
    ]
    slower, common = [], 0
    for case, line, reference, before, after in _pairs(old["cases"], new["cases"]):
        common += 1
        apart = after["quartiles"][1] < before["quartiles"][0]
        if apart and after["median"] < before["median"] * (1 - NOISE):
            where = f"{case} {line}".strip()
            slower.append(f"{where}: {before['median']:.2f} × {reference} then, {after['median']:.2f} × now")
    if not common:
        doubts.append("the two files have nothing in common")
    return slower, doubts


def _pairs(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, str, str, dict[str, Any], dict[str, Any]]]:
    """The ratios of asyncpc that are in both."""
    for case, lines in new.items():
        for line, results in lines.items():
            after = results.get(ASYNCPC.name, {}).get("ratios", {})
            before = old.get(case, {}).get(line, {}).get(ASYNCPC.name, {}).get("ratios", {})
            for reference in list(after)[:1]:
                if reference in before:
                    yield case, line, reference, before[reference], after[reference]


# -- the plot --------------------------------------------------------------------------------------


def plot(document: dict[str, Any], file: Path) -> None:
    """Left: what an item costs in each implementation; right: how asyncpc stands to its reference in each case."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "asyncpc", "font.size": 9})
    from matplotlib import pyplot

    costs = document["cases"].get("throughput", {}).get("", {})
    ratios = [
        (f"{case} {line}".strip(), next(iter(results[ASYNCPC.name]["ratios"].values())))
        for case, lines in document["cases"].items()
        for line, results in lines.items()
        if results.get(ASYNCPC.name, {}).get("ratios")
    ]
    height = 1.2 + 0.22 * max(len(costs), len(ratios))
    figure, axes = pyplot.subplots(1, 2 if costs else 1, figsize=(11, height), layout="constrained", squeeze=False)
    if costs:
        _draw_costs(axes[0][0], costs)
    _draw_ratios(axes[0][-1], ratios)
    figure.suptitle(f"asyncpc · {document['python']} · {document['loop']} · {document['machine']['processor']}")
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def _draw_costs(axes: Any, costs: dict[str, Any]) -> None:
    ordered = sorted(costs, key=lambda name: -costs[name]["value"]["median"])
    values = [costs[name]["value"]["median"] * 1e6 for name in ordered]
    bars = axes.barh(ordered, values, color=["tab:orange" if name == ASYNCPC.name else "tab:gray" for name in ordered])
    axes.bar_label(bars, fmt="%.3g", padding=3)
    axes.set(xscale="log", xlabel="µs per item, no work (log scale; less is better)")
    axes.margins(x=0.15)


def _draw_ratios(axes: Any, ratios: list[tuple[str, dict[str, Any]]]) -> None:
    names = [name for name, _ in reversed(ratios)]
    medians = [ratio["median"] for _, ratio in reversed(ratios)]
    spread = [[abs(ratio["median"] - ratio["quartiles"][side]) for _, ratio in reversed(ratios)] for side in (0, 1)]
    axes.barh(names, medians, xerr=spread, color="tab:orange", error_kw={"elinewidth": 0.8})
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="asyncpc: times as fast as the reference (log scale; more is better)")


def write(document: dict[str, Any], file: Path) -> None:
    """The JSON file."""
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
