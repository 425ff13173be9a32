"""Rows in a notebook; the notebook itself is tried in ``test_notebooks.py``."""

from __future__ import annotations

from typing import Any

from asyncpc.watch.notebook import Output, Rows


def test_rows_are_html_and_text() -> None:
    """Colours are those of the terminal, and nothing in a name or a message is markup."""
    rows = Rows([[(" RUNNING ", "bold reverse green"), (" <script>", "")], [("1 failed", "red"), (" &", "unknown")]])
    assert repr(rows) == " RUNNING  <script>\n1 failed &"
    assert rows._repr_html_() == (
        '<pre style="line-height:1.3;overflow-x:auto">'
        '<span style="font-weight:bold;color:#fff;background:#1a7f37"> RUNNING </span> &lt;script&gt;\n'
        '<span style="color:#d1242f">1 failed</span> &amp;</pre>'
    )


def test_one_output_is_redrawn_in_its_place() -> None:
    """A cell that shows each state below the one before would be unreadable."""
    shown: list[tuple[str, object]] = []

    class Handle:
        def update(self, now: object) -> None:
            shown.append(("update", now))

    def display(now: object, **options: Any) -> Handle:
        assert options == {"display_id": True}
        shown.append(("display", now))
        return Handle()

    output = Output(display)
    for state in (1, 2, 3):
        output.show(state)
    assert shown == [("display", 1), ("update", 2), ("update", 3)]
