"""Hundreds of random scenarios on every kind of loop; :mod:`scenarios` says what is drawn and what is checked."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from itertools import combinations, product

import pytest
from scenarios import AMPLE, OPTIONS, Scenario, draw, failing, perform

ENDINGS = "normal end", "drain", "deadline", "outer cancel", "failure", "worker cancelled"

BLOCK = 50
"""Scenarios per test, so that a failure names few of them."""


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of items are left unfinished on purpose; a log line for each would hide what failed."""
    caplog.set_level(logging.CRITICAL, logger="asyncpc")


@pytest.mark.parametrize("start", range(0, 600, BLOCK))
def test_scenarios(start: int) -> None:
    """Protects all ten invariants at once, in programs nobody thought of."""
    assert failing(range(start, start + BLOCK)) == {}


LOOPS = [("debug", 100), *([("eager", 200)] if sys.version_info >= (3, 12) else []), ("uvloop", 40)]


@pytest.mark.parametrize(("loop", "count"), LOOPS)
def test_scenarios_on_other_loops(loop: str, count: int) -> None:
    """Protects against what shows only in debug mode, with eager tasks or in uvloop's real time (faults B3, B9)."""
    assert failing(range(10_000, 10_000 + count), loop=loop) == {}


def test_a_seed_repeats() -> None:
    """Protects the one-line reproduction: the same seed is the same run, to the last step."""
    for seed in range(30):
        first, second = (perform(draw(seed)) for _ in range(2))
        assert [list(map(repr, book.started)) for book in first[0].books] == [
            list(map(repr, book.started)) for book in second[0].books
        ]
        assert first[1].ended == second[1].ended


def endings(scenario: Scenario) -> set[str]:
    """The ways in which a scenario may end."""
    deeds = {sabotage.deed for sabotage in scenario.sabotage}
    troubles = {spec.trouble for spec in scenario.stages}
    found = {
        "outer cancel": "cancel" in deeds,
        "worker cancelled": "kill" in deeds,
        "failure": "raise" in troubles,
        "deadline": scenario.drain_timeout < AMPLE,
        "drain": scenario.ending in ("leave", "drain", "stop"),
    }
    return {name for name, is_so in found.items() if is_so} or {"normal end"}


def test_each_option_meets_each_ending_and_any_two_meet() -> None:
    """Protects the promise of ten thousand scenarios: whatever is asked of a stage is tried in every kind of end."""
    ends, pairs = Counter[tuple[str, str]](), Counter[frozenset[str]]()
    for seed in range(10_000):
        scenario = draw(seed)
        for spec in scenario.stages:
            asked = {*spec.options, *([spec.branching] if spec.branching else [])}
            ends.update((option, ending) for option in asked for ending in endings(scenario))
            pairs[spec.options] += len(spec.options) == 2
    never = {
        frozenset(two) for two in (("skip", "letters"), *(("ordered", one) for one in ("batch", "key", "priority")))
    }
    for option, ending in product((*OPTIONS, "route", "broadcast"), ENDINGS):
        assert ends[option, ending] >= 50, (option, ending)
    for two in map(frozenset, combinations(OPTIONS, 2)):
        assert (pairs[two] >= 10) != (two in never), two


def test_the_scenarios_are_varied() -> None:
    """Protects against a generator that draws only easy programs: what matters is seen often enough."""
    seen = dict.fromkeys(("returned", "raised", "unfinished", "complete", "fed", "killed", "swallowed", "abandoned"), 0)
    for seed in range(600):
        ledger, outcome = perform(draw(seed))
        assert outcome.report is not None or ledger.cancels
        report = outcome.report
        seen["returned"] += outcome.returned
        seen["raised"] += bool(ledger.errors)
        seen["unfinished"] += bool(report and report.unfinished)
        seen["complete"] += bool(report and report.complete)
        seen["fed"] += bool(ledger.fed)
        seen["killed"] += bool(ledger.kills)
        seen["swallowed"] += bool(ledger.swallowed)
        seen["abandoned"] += bool(report and report.abandoned)
    assert min(seen.values()) >= 3, seen
    assert min(seen["returned"], seen["raised"], seen["unfinished"], seen["complete"]) >= 40, seen
