"""``Table``: counts as a table with lines below it, for a terminal and for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Final, NamedTuple, Protocol

__all__ = ["Table", "table_of"]

OPTIONAL: Final = ("failed", "dropped", "retried", "unfinished", "held back")
"""Columns that are left out where all of their counts are 0."""


class Table(NamedTuple):
    """See the module."""

    cells: list[tuple[str, ...]]
    """The head, then a row for each source and stage."""
    lines: list[str]

    def text(self) -> str:
        """For a terminal."""
        widths = [max(map(len, column)) for column in zip(*self.cells, strict=True)]
        head, *rows = self.cells
        ruled = [head, tuple("-" * width for width in widths), *rows]
        padded = [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in ruled]
        table = ["  ".join([row[0].strip().ljust(widths[0]), *row[1:]]).rstrip() for row in padded]
        return "\n".join([*table, *self.lines])

    def html(self) -> str:
        """For a notebook."""
        head, *rows = [[escape(cell) for cell in row] for row in self.cells]
        first = "".join([f"<th>{cell}</th>" for cell in head])
        rest = [f"<tr><th>{name}</th>{''.join([f'<td>{cell}</td>' for cell in row])}</tr>" for name, *row in rows]
        lines = "".join([f"<div>{escape(line)}</div>" for line in self.lines])
        return f"<table><thead><tr>{first}</tr></thead><tbody>{''.join(rest)}</tbody></table>{lines}"


class SourceFigures(Protocol):
    """What is shown of a :class:`~asyncpc.SourceStatistics`."""

    @property
    def name(self) -> str: ...
    @property
    def produced(self) -> int: ...


def table_of(sources: Sequence[SourceFigures], stages: list[dict[str, Any]], lines: list[str]) -> Table:
    """A head, and a row for each source and stage; what a source produced is shown under ``done``."""
    head = [name for name in stages[0] if name not in OPTIONAL or any(row[name] for row in stages)]
    first = [{"stage": source.name, "done": source.produced} for source in sources]
    cells = [tuple(head), *[tuple([_cell(row.get(name, "")) for name in head]) for row in (*first, *stages)]]
    return Table(cells, lines)


def _cell(value: Any) -> str:
    """A cell; of what held calls back, the seconds in all."""
    return f"{sum([seconds for _, seconds in value]):.1f} s" if isinstance(value, tuple) else str(value)
