"""``--keep``: the figures of a run as tables, between two marks of a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..measure import Result, Spread
from ..peers import ASYNCPC
from ..report import readable
from ..tables import table
from .cases import goals

MARKS = "<!-- figures: written by python -m benchmarks remote --keep -->", "<!-- end of the figures -->"

Document = Mapping[str, Any]

RATES = {
    "publish": "64 B publish",
    "consume": "64 B consume",
    "10 kB publish": "10 kB publish",
    "10 kB consume": "10 kB consume",
    "handler of 1 ms": "1 ms consume",
    "handler of 100 ms": "100 ms consume",
    "end to end": "end to end",
}
"""The columns that tell messages in a second, and their figures."""

SERVER = "64 B consume server CPU"


def remote_figures(document: Document) -> str:
    """What stands between the two marks."""
    return "\n" + "\n".join(_figures(document)) + "\n"


def _figures(document: Document) -> Iterator[str]:
    machine = document["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    yield f"Measured on {document['date'][:10]}: {machine['processor']}, {machine['cpus']} cores; {document['python']},"
    yield f"{document['loop']}; {versions}."
    rounds = {of["rounds"] for lines in document["cases"].values() for line in lines.values() for of in line.values()}
    most = max(rounds, default=0)
    yield f"\nMessages per second, median of {most} round{'s' * (most != 1)}; the best of a column is bold."
    for engine, lines in document["cases"].items():
        yield f"\n### {engine}\n"
        yield from table(["", *RATES, "server CPU, consume"], [_row(name, lines) for name in _peers(lines)])
    for failed in document["failed"]:
        yield f"\nFailed on {failed['case']}, {failed['line']}: {failed['name']} (`{failed['why'].splitlines()[0]}`)."
    yield "\n### Goals\n"
    yield from table(["engine", "figure", "wanted", "reached", ""], list(_goals(document)))
    for peer, why in document["missing"].items():
        yield f"\nNot measured: {peer} (`{why.splitlines()[0]}`)."


def _peers(lines: dict[str, Any]) -> list[str]:
    measured = {name: None for line in (*RATES.values(), SERVER) for name in lines.get(line, {})}
    return list(measured)


def _row(name: str, lines: dict[str, Any]) -> list[str]:
    rates = [_cell(name, lines.get(line, {}), _rate) for line in RATES.values()]
    return [f"**{name}**" if name == ASYNCPC.name else name, *rates, _cell(name, lines.get(SERVER, {}), _seconds)]


def _cell(name: str, of: dict[str, Any], told: Any) -> str:
    costs = {peer: result["value"]["median"] for peer, result in of.items()}
    if name not in costs:
        return "–"
    text: str = told(costs[name])
    return f"**{text}**" if costs[name] == min(costs.values()) else text


def _rate(seconds: float) -> str:
    rate = 1 / seconds
    return f"{rate / 1000:.3g}k" if rate >= 1000 else f"{rate:.3g}"


def _seconds(seconds: float) -> str:
    return readable(seconds, "s")


def _goals(document: Document) -> Iterator[list[str]]:
    for engine, lines in document["cases"].items():
        for figure, of in lines.items():
            for goal in goals(engine, figure, _result(of[ASYNCPC.name])) if ASYNCPC.name in of else ():
                yield [engine, figure, goal.told, goal.figure, goal.sign]


def _result(of: dict[str, Any]) -> Result:
    """As it was before it was written."""
    ratios = {name: _spread(ratio) for name, ratio in of["ratios"].items()}
    return Result(of["unit"], of["rounds"], _spread(of["value"]), ratios)


def _spread(of: dict[str, Any]) -> Spread:
    return Spread(of["median"], tuple(of["quartiles"]))
