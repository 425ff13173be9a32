"""The picture of the terminal in the documentation is what the program on that page shows today."""

from __future__ import annotations

import re

from tools.live_picture import PAGE, picture, shown


def shape(drawn: str) -> list[str]:
    """The words of each line, without what differs between two machines: numbers, and the lengths of bars."""
    without_bars = re.sub(r"[▀-▟·!~]+", " ", drawn)
    return [" ".join(re.sub(r"\d+([,.:]\d+)*", "0", line).split()) for line in without_bars.splitlines()]


def test_the_page_has_the_picture_that_the_tool_draws() -> None:
    """Protects against a picture of yesterday: its state, verdict, columns, stages and failures are today's."""
    page = PAGE.read_text()
    drawn = shape(picture(page))
    assert shape(shown(page)) == drawn
    assert (
        "RUNNING fetch: 0 of 0 workers are stuck, the longest on one item for 0 s (shop.py:0 in ask_for_price)" in drawn
    )
    assert [line.split()[0] for line in drawn[2:6]] == ["stage", "fetch", "parse", "store"]


def test_a_column_that_is_new_makes_the_picture_old() -> None:
    """Protects the test above: only numbers and bars may differ."""
    page = PAGE.read_text()
    assert shape(shown(page).replace("  p50 ", "  p49 ")) == shape(shown(page))
    assert shape(shown(page).replace("  retried  ", "  retries  ")) != shape(shown(page))
    assert shape(shown(page).replace(" parse ", " sparse ")) != shape(shown(page))
