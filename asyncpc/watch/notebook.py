"""The output of a notebook's cell: one, which is redrawn in its place, as HTML, or as text where there is no HTML."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from html import escape
from importlib import import_module
from typing import Any, Final

from .foot import Row

__all__ = ["Output", "Rows", "display_of_notebook", "in_notebook"]

COLOURS: Final = {"red": "#d1242f", "green": "#1a7f37", "yellow": "#9a6700"}
"""Those of the rows, legible on white and on black."""

CSS: Final = {
    "bold": "font-weight:bold",
    "dim": "opacity:.6",
    "reverse": "color:#fff;background:#57606a",
    **{name: f"color:{colour}" for name, colour in COLOURS.items()},
    **{f"reverse {name}": f"color:#fff;background:{colour}" for name, colour in COLOURS.items()},
}
"""What the words of a style are in HTML."""


def display_of_notebook() -> Callable[..., Any] | None:
    """IPython's ``display`` if this is a kernel of a notebook, else None."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if getattr(shell, "kernel", None) is None:
        return None
    found: Callable[..., Any] = import_module("IPython.display").display  # there are no types, unless it is installed
    return found


def in_notebook() -> bool:
    """Whether this is a kernel of a notebook, which shows HTML."""
    return display_of_notebook() is not None


class Output:
    """Below the cell."""

    def __init__(self, display: Callable[..., Any]) -> None:
        self._display = display
        self._handle: Any = None

    def show(self, shown: object) -> None:
        """Show it in place of what was shown before."""
        if self._handle is None:
            self._handle = self._display(shown, display_id=True)
        else:
            self._handle.update(shown)


class Rows:
    """Rows as on a terminal."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def _repr_html_(self) -> str:
        lines = ["".join([_html(text, style) for text, style in row]) for row in self._rows]
        return '<pre style="line-height:1.3;overflow-x:auto">' + "\n".join(lines) + "</pre>"

    def __repr__(self) -> str:
        return "\n".join(["".join([text for text, _ in row]) for row in self._rows])


def _html(text: str, style: str) -> str:
    words = style.split()
    if "reverse" in words and words[-1] in COLOURS:
        words[words.index("reverse") :] = [f"reverse {words[-1]}"]
    css = ";".join([CSS[word] for word in words if word in CSS])
    return f'<span style="{css}">{escape(text)}</span>' if css else escape(text)
