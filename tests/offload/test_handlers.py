"""Where calls are made that would hold up the loop: threads, processes and interpreters alike."""

from __future__ import annotations

import sys
from typing import Any

import elsewhere
import pytest

from asyncpc import consumer, source

THERE = sys.version_info >= (3, 13)
"""Whether this Python has interpreters to make calls in."""


PLACES = ["thread", "process", *(["interpreter"] if THERE else [])]


@pytest.mark.parametrize("place", PLACES)
async def test_h5_what_a_generator_gave_before_it_raised_is_passed_on(place: Any) -> None:
    """As in the loop: its values are in the next stage, and its item has failed."""
    got: list[int] = []

    @consumer
    async def keep(n: int) -> None:
        got.append(n)

    stage: Any = consumer(run_in=place, on_error="skip")(elsewhere.two_then_fails)
    report = await (source([1, 10]) >> stage >> keep)
    assert sorted(got) == [1, 2, 10, 11]
    assert (report.stages[0].failed, report.stages[0].emitted) == (2, 4)
    assert ": ValueError" in report.stages[0].last_failure
