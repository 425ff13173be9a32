"""The picture of a queue in the documentation shows what a run does, and is drawn by the tool that is there."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from asyncpc import testing
from tools.queue_picture import BOUND, PICTURE, STOP, picture, record

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    """What is written in a picture, without its scale."""
    found = [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    return [text for text in found if not text.endswith(" s")]


def test_it_shows_backpressure_and_a_drain() -> None:
    """Protects what the page says of it: full, half empty while the source waits, and from the stop on only less."""
    moments = testing.run(record())
    full = next(number for number, moment in enumerate(moments) if moment.queued == BOUND)
    stop = next(number for number, moment in enumerate(moments) if moment.state == "draining")
    assert moments[stop].seconds == pytest.approx(STOP, abs=0.01)
    assert max(moment.queued for moment in moments) == BOUND
    assert min(moment.queued for moment in moments[full:stop]) == BOUND // 2
    draining = [moment.queued for moment in moments[stop:]]
    assert draining == sorted(draining, reverse=True)
    assert (draining[-1], moments[-1].state) == (0, "closed")


def test_the_page_has_the_picture_that_the_tool_draws() -> None:
    """Protects against a picture of yesterday: its words are the tool's, and it is well-formed."""
    assert texts(PICTURE.read_text()) == texts(picture(testing.run(record())))
