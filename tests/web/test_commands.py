"""Commands come as JSON from anybody who has the token; whatever it is, it is either understood or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpc.web.commands import Command, MalformedError, command_from


def sent(**told: Any) -> bytes:
    return json.dumps({"pipeline": "shop", **told}).encode()


@pytest.mark.parametrize(
    ("body", "command"),
    [
        (sent(action="pause"), Command("shop", "pause")),
        (sent(action="scale", stage="fetch", workers=3), Command("shop", "scale", "fetch", 3)),
        (
            sent(action="rate", stage="fetch", calls=10, seconds=0.5),
            Command("shop", "rate", "fetch", 1, 10.0, 0.5),
        ),
    ],
)
def test_a_command_is_read(body: bytes, command: Command) -> None:
    """What the page sends is what is done."""
    assert command_from(body) == command


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 4000, "not JSON"),
        (b"[]", "a JSON object"),
        (b"null", "a JSON object"),
        (sent(), "action must be one of"),
        (sent(action="explode"), "action must be one of"),
        (sent(action=["pause"]), "action must be one of"),
        (b'{"action": "pause"}', "pipeline is missing"),
        (sent(action="scale", stage="fetch"), "workers is missing"),
        (sent(action="pause", stage="fetch"), "'stage' is unknown"),
        (sent(action="scale", stage=7, workers=3), "stage must be text"),
        (sent(action="scale", stage="fetch", workers="3"), "workers must be a number"),
        (sent(action="scale", stage="fetch", workers=True), "workers must be a number"),
        (sent(action="scale", stage="fetch", workers=0), "from 1 to"),
        (sent(action="scale", stage="fetch", workers=2.5), "from 1 to"),
        (sent(action="scale", stage="fetch", workers=10**9), "from 1 to"),
        (sent(action="rate", stage="fetch", calls=0, seconds=1), "calls must be above 0"),
        (sent(action="rate", stage="fetch", calls=float("nan"), seconds=1), "calls must be above 0"),
        (sent(action="rate", stage="fetch", calls=1, seconds=float("inf")), "seconds must be above 0"),
        (sent(action="rate", stage="fetch", calls=1, seconds=-1), "seconds must be above 0"),
    ],
)
def test_what_is_no_command_is_refused(body: bytes, why: str) -> None:
    """The message says what to send instead; nothing of it reaches a run."""
    with pytest.raises(MalformedError, match=why):
        command_from(body)


BODIES = st.binary(max_size=200) | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(lambda v: sent(v=v))


@pytest.mark.parametrize("drawn", [30, pytest.param(100, marks=pytest.mark.thorough)])
def test_no_bytes_raise_anything_else(drawn: int) -> None:
    """An error of another kind would be an answer 500."""

    @settings(max_examples=drawn)
    @given(BODIES)
    def is_malformed(body: bytes) -> None:
        with pytest.raises(MalformedError):
            command_from(body)

    is_malformed()
