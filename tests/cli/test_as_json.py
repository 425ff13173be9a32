"""Items as JSON: as they are where they can be, and never with a password."""

from __future__ import annotations

import enum
import json
from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpc.cli.as_json import as_line, item_as_json


class Point(NamedTuple):
    x: int
    y: float


class Level(enum.IntEnum):
    LOW = 1


class Evil:
    """Nothing can be asked of it."""

    def __repr__(self) -> str:
        raise RuntimeError


def endless() -> list[Any]:
    """A list that holds itself."""
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("item", "found"),
    [
        (7, 7),
        (None, None),
        (True, True),
        ("a", "a"),
        (1.5, 1.5),
        ([1, ("a", {"b": [None]})], [1, ["a", {"b": [None]}]]),
        (Point(1, 2.5), [1, 2.5]),
        (OrderedDict(a=1), {"a": 1}),
        (Level.LOW, 1),
        (b"ab", "b'ab'"),
        ({1: 2}, "{1: 2}"),
        ([1, {2}], "[1, {2}]"),
        (float("nan"), "nan"),
        ([float("inf")], "[inf]"),
        (Evil(), "<Evil>"),
        ("x" * 200, "x" * 200),
        (
            {"https://me:hunter2@host": ["ftp://me:hunter2@host/", b"1"]},
            "{'https://me:***@host': ['ftp://me:***@host/', b'1']}",
        ),
        ({"https://me:hunter2@host": ["ftp://me:hunter2@host/"]}, {"https://me:***@host": ["ftp://me:***@host/"]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_item_that_is_json_stays_so_and_any_other_is_shown(item: Any, found: Any) -> None:
    """What failed can be read back and tried again; what cannot be written is named at least."""
    assert item_as_json(item) == found
    assert json.loads(as_line(item_as_json(item))) == found


def test_what_cannot_be_written_is_shown_in_short() -> None:
    """Neither a value without an end nor one with too many digits may break the line."""
    assert len(item_as_json(endless())) <= 80
    assert len(item_as_json(10**5000)) <= 80
    assert len(item_as_json([b"x" * 1000])) <= 80


ITEMS = st.recursive(st.text() | st.integers() | st.none() | st.booleans(), lambda inner: st.lists(inner), max_leaves=9)


@pytest.mark.parametrize("items", [30, pytest.param(100, marks=pytest.mark.thorough)])
def test_a_line_is_one_line_of_ascii(items: int) -> None:
    """Whatever is in a text, it can neither break the line nor play with a terminal (fault F9)."""

    @settings(max_examples=items)
    @given(ITEMS)
    def is_one_line(item: Any) -> None:
        line = as_line(item_as_json(item))
        assert line.isascii()
        assert line.isprintable()
        if "://" not in line:
            assert json.loads(line) == item

    is_one_line()
