"""``python -m benchmarks.tables FILE…``: the figures of these JSON files as Markdown tables, a column for each."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .cases import LIMITS, WANTED
from .measure import BEFORE, reference_of
from .peers import ASYNCPC, EVERYBODY
from .report import best_library, readable

Documents = Sequence[Mapping[str, Any]]

COSTS = {
    ("throughput", ""): "a stage of four workers that do nothing",
    ("yield", ""): "the same with one `await asyncio.sleep(0)`",
    ("stages", "4 stages"): "four stages",
    ("bounds", "bound 1"): "a queue that holds one item (every item needs a task switch)",
    ("put", "1 callers"): "`await running.put(item)` from outside, one caller",
    ("call", "1 callers"): "`await running.call(item)`, one caller",
    ("short", "10 items"): "a run of ten items, its start and end included",
    ("startup", ""): "starting and draining a pipeline (once, not per item)",
}
"""What the README tells of, if it was measured."""

NOTHING = 0.03e-6
"""Seconds that an option may seem to cost while it costs nothing."""


BUSY = 0.7
"""A load before the start that makes figures worth little."""


def main(files: Sequence[str]) -> None:
    """Print them."""
    print(figures([json.loads(Path(file).read_text(encoding="utf-8")) for file in files]))


def between(page: str, marks: tuple[str, str], text: str) -> str:
    """The page with another text between its two marks; raises ``ValueError`` for a page without them."""
    before, begin, rest = page.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not begin or not end:
        raise ValueError(f"the page does not have the lines {marks[0]} and {marks[1]}")
    return f"{before}{begin}\n{text}\n{end}{after}"


# -- all of them -----------------------------------------------------------------------------------


def figures(documents: Documents) -> str:
    """Everybody's cost of an item, and asyncpc in every case."""
    return "\n".join(_figures(documents))


def _figures(documents: Documents) -> Iterator[str]:
    yield f"{_measured(documents)}\n"
    if all("throughput" in document["cases"] for document in documents):
        yield "No work, one producer, four consumers, bound 128: time per item, and × the hand-written pipeline.\n"
        rows = [[_bold(peer.name), *_peer(peer.name, documents)] for peer in EVERYBODY]
        yield from table(["", *_columns(documents)], rows)
        yield "\nVersions: " + ", ".join(f"{name} {version}" for name, version in _versions(documents).items()) + "."
        yield "".join(
            f"\nOn {column}: {_best(document)}" for column, document in zip(_columns(documents), documents, strict=True)
        )
        yield ""
    yield "asyncpc in every case: its figure, and × the case's reference.\n"
    yield from table(["case", "reference", *_columns(documents), "wanted"], list(_cases(documents)))


def _measured(documents: Documents) -> str:
    """Where and when. Figures that were measured at several times or with ``--quick`` say so."""
    machine = documents[0]["machine"]
    dates = " and ".join(sorted({document["date"][:10] for document in documents}))
    commits = " and ".join(dict.fromkeys(_short(document["commit"]) for document in documents))
    quick = ", with `--quick`" if any(document["quick"] for document in documents) else ""
    where = f"{machine['processor']}, {machine['cpus']} cores, {machine['platform']}"
    load = max(document["machine"].get("load", 0.0) for document in documents)
    busy = f" It was busy with other work (load {load:.1f}), so little of it can be relied on." if load > BUSY else ""
    return f"Measured on {dates}{quick}, commit {commits}: {where}.{busy}"


def _short(commit: str | None) -> str:
    name, _, dirty = (commit or "unknown").partition("-")
    return f"{name[:7]}{' with uncommitted changes' if dirty else ''}"


def _columns(documents: Documents) -> list[str]:
    return [f"{document['python'].removeprefix('CPython ')} {document['loop']}" for document in documents]


def table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    """As Markdown."""
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _bold(name: str) -> str:
    return f"**{name}**" if name == ASYNCPC.name else name


def _peer(name: str, documents: Documents) -> Iterator[str]:
    for document in documents:
        result = document["cases"]["throughput"][""].get(name)
        yield _cell(result) if result else document["missing"].get(name, "–").partition(":")[0]


def _cell(result: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> str:
    """The figure, the ratio to the first reference, and what both were before if that was measured as well."""
    cell = [readable(result["value"]["median"], result["unit"])]
    ratios = {name: f"{ratio['median']:.2f}" for name, ratio in result["ratios"].items()}
    if reference := reference_of(ratios):
        then = f"{before['ratios'][reference]['median']:.2f} → " if before else ""
        cell.append(f"{then}{ratios[reference]} ×")
    if BEFORE in ratios:
        cell.append(f"{ratios[BEFORE]} × {BEFORE}")
    return " · ".join(cell)


def _versions(documents: Documents) -> dict[str, str]:
    return {name: version for document in documents for name, version in document["versions"].items()}


def _best(document: Mapping[str, Any]) -> str:
    return best_library(
        {name: result["value"]["median"] for name, result in document["cases"]["throughput"][""].items()}
    )


def _cases(documents: Documents) -> Iterator[list[str]]:
    for case, lines in documents[0]["cases"].items():
        for line, results in lines.items():
            if ASYNCPC.name not in results:
                continue
            reference = reference_of(results[ASYNCPC.name]["ratios"])
            cells = [_of(document["cases"].get(case, {}).get(line, {})) for document in documents]
            yield [f"{case} {line}".strip(), reference, *cells, _wanted(case, line, results, documents)]


def _of(results: Mapping[str, Any]) -> str:
    return _cell(results[ASYNCPC.name], results.get(BEFORE)) if ASYNCPC.name in results else "–"


def _wanted(case: str, line: str, results: Mapping[str, Any], documents: Documents) -> str:
    if limit := LIMITS.get((case, line)):
        return f"≤ {readable(limit, results[ASYNCPC.name]['unit'])}"
    if wanted := WANTED.get((case, line)):
        ratios = {f"{wanted(document['python'], document['loop']):.2f}" for document in documents}
        return f"≥ {' / '.join(sorted(ratios, reverse=True))} ×"
    return ""


# -- what the README tells -------------------------------------------------------------------------


def costs(documents: Documents) -> str:
    """A few figures on asyncio, and what options cost."""
    return "\n".join(_costs([document for document in documents if document["loop"] == "asyncio"] or documents))


def _costs(documents: Documents) -> Iterator[str]:
    rows = [
        [told, *[_of(document["cases"].get(case, {}).get(line, {})) for document in documents]]
        for (case, line), told in COSTS.items()
    ]
    rows = [row for row in rows if set(row[1:]) != {"–"}]
    yield ""
    yield from table(["asyncpc, time per item · × as fast as by hand", *_columns(documents)], rows)
    if added := documents[-1]["cases"].get("options"):
        yield ""
        yield f"An option costs time only in a stage that uses it. Per item it adds, in µs ({_columns(documents)[-1]}):"
        yield f"{_added(added)}."
    yield f"\n{_measured(documents)}"


def _added(options: Mapping[str, Any]) -> str:
    more = {name: _median(of, ASYNCPC.name) - _median(of, "plain") for name, of in options.items()}
    nothing = [f"`{name}`" for name in more if more[name] < NOTHING]
    others = [f"`{name}` {more[name] * 1e6:.2g}" for name in sorted(more, key=lambda name: more[name])]
    return "; ".join([f"{', '.join(nothing)} nothing"] * bool(nothing) + others[len(nothing) :])


def _median(results: Mapping[str, Any], name: str) -> float:
    return float(results[name]["value"]["median"])


if __name__ == "__main__":
    main(sys.argv[1:])
