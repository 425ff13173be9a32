"""The scenarios catch the faults of :mod:`planted`: a suite that cannot fail proves nothing."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from planted import FAULTS, Change, Fault, Withered, planted
from scenarios import draw, failing, play

from asyncpc.core.queue import BoundedQueue

SEEDS = range(1500)


RARE = {
    "only the first error told",
    "failure of a stream's block hides the run's",
    "writers asleep beside room while batches wait for them",
    "fed in a thread without a hold",
    "outside cancellation ignored",
}
"""Faults that few scenarios meet: it takes seconds to find one."""


def _cheap_or_thorough(fault: Fault) -> Any:
    return pytest.param(fault, marks=pytest.mark.thorough) if fault.name in RARE else fault


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of items are left unfinished on purpose; a log line for each would hide what failed."""
    caplog.set_level(logging.CRITICAL, logger="asyncpc")


@pytest.mark.parametrize("fault", [_cheap_or_thorough(fault) for fault in FAULTS], ids=str)
def test_a_planted_fault_is_caught(fault: Fault) -> None:
    """Protects the checks themselves: each fault fails some scenario, and that scenario passes without it."""
    if fault.check is not None:
        with planted(fault):
            assert fault.check(), f"nobody noticed: {fault.name}"
        assert fault.check() == []
        return
    with planted(fault):
        caught = failing(SEEDS, stop_at=1)
    assert caught, f"nobody noticed: {fault.name}"
    assert [play(draw(seed)) for seed in caught] == [[]]


def test_a_fault_that_no_longer_fits_says_so() -> None:
    """Protects against faults that are planted nowhere because the code has moved on."""
    fault = Fault("gone", "", (Change(BoundedQueue, "close", "text that is not there", ""),))
    with pytest.raises(Withered, match=r"BoundedQueue\.close"), planted(fault):
        pytest.fail("it was planted all the same")
