"""``python -m benchmarks.kept``: write the tables and pictures of the documentation from the figures that are kept.

``python -m benchmarks --keep`` and ``python -m benchmarks remote --keep`` measure first. Nothing of that is typed. A
test asks whether the pages and pictures are what the files say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import report, tables
from .pictures import pictures
from .remote.page import MARKS, remote_figures

ROOT = Path(__file__).parents[1]
FOLDER = Path("docs/explanation/speed")
REMOTE = FOLDER / "remote.json"

Document = Mapping[str, Any]

FIGURES = "<!-- figures: written by benchmarks.kept -->", "<!-- end of the figures -->"
COSTS = "<!-- costs: written by benchmarks.kept -->", "<!-- end of the costs -->"


def keep(document: Document) -> None:
    """Keep the figures of one Python and loop instead of those before, and write what is made of them."""
    name = f"{'.'.join(map(str, _minor(document)))}-{document['loop']}.json"
    _keep_as(FOLDER / name, document)


def keep_remote(document: Document) -> None:
    """The same for remote queues."""
    _keep_as(REMOTE, document)


def _keep_as(file: Path, document: Document) -> None:
    (ROOT / FOLDER).mkdir(parents=True, exist_ok=True)
    report.write(document, ROOT / file)
    write()


def write() -> None:
    """All pages and pictures."""
    for file, text in texts().items():
        (ROOT / file).write_text(text, encoding="utf-8")


def texts() -> dict[Path, str]:
    """What they should be."""
    found: dict[Path, str] = {}
    if documents := kept():
        found |= {
            Path("benchmarks/README.md"): _page("benchmarks/README.md", FIGURES, tables.figures(documents)),
            Path("README.md"): _page("README.md", COSTS, tables.costs(documents)),
            FOLDER.with_suffix(".md"): _page(f"{FOLDER}.md", COSTS, tables.costs(documents)),
            **_pictures(shown(documents)),
        }
    if (ROOT / REMOTE).exists():
        document = _read(ROOT / REMOTE)
        page = "docs/explanation/remote-benchmarks.md"
        found |= {Path(page): _page(page, MARKS, remote_figures(document)), **_pictures(document)}
    return found


def kept() -> list[Document]:
    """Those of all Pythons and loops, in this order."""
    files = sorted((ROOT / FOLDER).glob("[0-9]*.json"), key=lambda file: (_numbers(file), file.stem))
    return [_read(file) for file in files]


def _numbers(file: Path) -> list[int]:
    return [int(number) for number in file.stem.partition("-")[0].split(".")]


def shown(documents: list[Document]) -> Document:
    """That of the newest Python, on asyncio if it is there."""
    return max(documents, key=lambda of: (_minor(of), of["loop"] == "asyncio"))


def _minor(document: Document) -> list[int]:
    """3.14, also of 3.14.0rc1."""
    return [int(number) for number in document["python"].split()[-1].split(".")[:2]]


def _read(file: Path) -> Document:
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _page(page: str, marks: tuple[str, str], text: str) -> str:
    return tables.between((ROOT / page).read_text(encoding="utf-8"), marks, text)


def _pictures(document: Document) -> dict[Path, str]:
    return {FOLDER / f"{name}.svg": svg for name, svg in pictures(document).items()}


if __name__ == "__main__":
    write()
