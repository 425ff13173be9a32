"""``python -m benchmarks.tables FILE…``: put the figures of these JSON files into the README, a column for each."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .cases import LIMITS, WANTED
from .peers import ASYNCPC, EVERYBODY
from .report import best_library, readable

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- figures: written by benchmarks.tables -->", "<!-- end of the figures -->"


def main(files: Sequence[str]) -> None:
    """Replace what is between the two marks."""
    documents = [json.loads(Path(file).read_text(encoding="utf-8")) for file in files]
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    text = "\n".join(_figures(documents))
    README.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def _figures(documents: list[dict[str, Any]]) -> Iterator[str]:
    machine = documents[0]["machine"]
    commit, _, dirty = (documents[0]["commit"] or "unknown").partition("-")
    when = f"{documents[0]['date'][:10]}, commit {commit[:7]}{' with uncommitted changes' if dirty else ''}"
    yield f"Measured on {when}: {machine['processor']}, {machine['cpus']} cores, {machine['platform']}.\n"
    columns = [f"{document['python'].removeprefix('CPython ')} {document['loop']}" for document in documents]
    yield "No work, one producer, four consumers, bound 128: time per item, and × the hand-written pipeline.\n"
    yield from table(["", *columns], [[_bold(peer.name), *_peer(peer.name, documents)] for peer in EVERYBODY])
    yield "\nVersions: " + ", ".join(f"{name} {version}" for name, version in _versions(documents).items()) + "."
    yield "".join(f"\nOn {column}: {_best(document)}" for column, document in zip(columns, documents, strict=True))
    yield "\nasyncpc in every case: its figure, and × the case's reference.\n"
    yield from table(["case", "reference", *columns, "wanted"], list(_cases(documents)))


def table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    """As Markdown."""
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _bold(name: str) -> str:
    return f"**{name}**" if name == ASYNCPC.name else name


def _peer(name: str, documents: list[dict[str, Any]]) -> Iterator[str]:
    for document in documents:
        result = document["cases"]["throughput"][""].get(name)
        yield _cell(result) if result else document["missing"].get(name, "–").partition(":")[0]


def _cell(result: dict[str, Any]) -> str:
    ratios = [f"{ratio['median']:.2f} ×" for ratio in result["ratios"].values()]
    return " · ".join([readable(result["value"]["median"], result["unit"]), *ratios[:1]])


def _versions(documents: list[dict[str, Any]]) -> dict[str, str]:
    return {name: version for document in documents for name, version in document["versions"].items()}


def _best(document: dict[str, Any]) -> str:
    return best_library(
        {name: result["value"]["median"] for name, result in document["cases"]["throughput"][""].items()}
    )


def _cases(documents: list[dict[str, Any]]) -> Iterator[list[str]]:
    for case, lines in documents[0]["cases"].items():
        for line, results in lines.items():
            if ASYNCPC.name not in results:
                continue
            reference = next(iter(results[ASYNCPC.name]["ratios"]), "")
            cells = [
                _cell(document["cases"][case][line][ASYNCPC.name]) if line in document["cases"].get(case, {}) else "–"
                for document in documents
            ]
            yield [f"{case} {line}".strip(), reference, *cells, _wanted(case, line, results, documents)]


def _wanted(case: str, line: str, results: dict[str, Any], documents: list[dict[str, Any]]) -> str:
    if limit := LIMITS.get((case, line)):
        return f"≤ {readable(limit, results[ASYNCPC.name]['unit'])}"
    if wanted := WANTED.get((case, line)):
        ratios = {f"{wanted(document['python'], document['loop']):.2f}" for document in documents}
        return f"≥ {' / '.join(sorted(ratios, reverse=True))} ×"
    return ""


if __name__ == "__main__":
    main(sys.argv[1:])
