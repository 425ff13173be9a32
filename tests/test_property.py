"""Hundreds of random scenarios on every kind of loop; :mod:`scenarios` says what is drawn and what is checked."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from functools import cache
from itertools import combinations, product
from typing import Any

import pytest
from scenarios import AMPLE, FURTHER, OPTIONS, WAITING, Scenario, draw, failing, perform, problems
from scenarios.player import guarded

from asyncpc import testing

ENDINGS = "normal end", "drain", "deadline", "outer cancel", "failure", "worker cancelled"

BLOCK = 50
"""Scenarios per test, so that a failure names few of them."""


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of items are left unfinished on purpose; a log line for each would hide what failed."""
    caplog.set_level(logging.CRITICAL, logger="asyncpc")


@cache
def played(seed: int) -> Any:
    """What the parts of the scenario wrote down, and what came of it; two tests look at that."""
    return perform(draw(seed))


FEW, MANY = 100, 2000
"""Scenarios that every run of the tests plays, and those that a thorough one does."""


def thorough(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.thorough)


@pytest.mark.parametrize("start", [*range(0, FEW, BLOCK), *map(thorough, range(FEW, MANY, BLOCK))])
def test_scenarios(start: int) -> None:
    """Protects invariants 1 to 7 at once, in programs nobody thought of."""
    seeds = range(start, start + BLOCK)
    assert {seed: wrong for seed in seeds if (wrong := problems(draw(seed), *played(seed)))} == {}


LOOPS = [("debug", 100), *([("eager", 200)] if sys.version_info >= (3, 12) else []), ("uvloop", 40)]


@pytest.mark.parametrize(
    ("loop", "count"), [*((loop, count // 8) for loop, count in LOOPS), *(thorough(*one) for one in LOOPS)]
)
def test_scenarios_on_other_loops(loop: str, count: int) -> None:
    """Protects against what shows only in debug mode, with eager tasks or in uvloop's real time (faults B3, B9)."""
    assert failing(range(10_000, 10_000 + count), loop=loop) == {}


@pytest.mark.parametrize("seeds", [10, thorough(30)])
def test_a_seed_repeats(seeds: int) -> None:
    """Protects the one-line reproduction: the same seed is the same run, to the last step."""
    for seed in range(seeds):
        first, second = (perform(draw(seed)) for _ in range(2))
        assert [list(map(repr, book.started)) for book in first[0].books] == [
            list(map(repr, book.started)) for book in second[0].books
        ]
        assert first[1].ended == second[1].ended


def test_a_long_scenario_is_not_stuck_and_one_that_waits_is() -> None:
    """Protects against a scenario of many items that counts as stuck, as seed 12338 did on uvloop."""
    begun = 0

    async def play(items: int) -> None:
        nonlocal begun
        for _ in range(items):
            begun += 1
            await asyncio.sleep(5)
        if items < 20:
            await asyncio.sleep(1000)

    async def main() -> None:
        began = testing.now()
        await guarded(play(20), 10, lambda: begun)
        ended = testing.now()
        assert ended - began == 100
        with pytest.raises(TimeoutError):
            await guarded(play(3), 10, lambda: begun)
        assert testing.now() - ended <= 15 + 10

    testing.run(main())


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


@pytest.mark.parametrize(("seeds", "least"), [(2000, 1), thorough(10_000, 10)])
def test_each_option_meets_each_ending_and_any_two_meet(seeds: int, least: int) -> None:
    """Protects the promise of ten thousand scenarios: whatever is asked of a stage is tried in every kind of end."""
    ends, pairs = Counter[tuple[str, str]](), Counter[frozenset[str]]()
    for seed in range(seeds):
        scenario = draw(seed)
        ends.update(("merged pipelines", ending) for ending in endings(scenario) if scenario.parts)
        for spec in scenario.stages:
            asked = {*spec.options, spec.branching, "a function that raises" if spec.refuses else ""}
            ends.update((option, ending) for option in asked for ending in endings(scenario))
            pairs[spec.options] += len(spec.options) == 2
    never = {
        frozenset({"skip", "dead letters"}),
        frozenset({"batch", "priority"}),
        *(frozenset({"ordered", one}) for one in ("batch", "key", "priority")),
    }
    further = "route", "broadcast", "merged pipelines", "a function that raises"
    for option, ending in product((*OPTIONS, *further), ENDINGS):
        assert ends[option, ending] >= 5 * least, (option, ending)
    for two in map(frozenset, combinations(OPTIONS, 2)):
        assert (pairs[two] >= least) != (two in never), two


@cache
def drawn_with_all(seed: int) -> Scenario:
    return draw(seed, frozenset())


@pytest.mark.parametrize("name", FURTHER)
def test_each_further_draw_is_drawn(name: str) -> None:
    """Protects against a draw that changes nothing, also one that asyncpc does not pass yet."""
    assert any(drawn_with_all(seed) != draw(seed, frozenset({name})) for seed in range(1000))


def test_what_waits_is_known() -> None:
    """Protects the switch: a name that is misspelt there would let a draw come too early, or never."""
    assert not WAITING.difference(FURTHER)


def test_the_scenarios_are_varied() -> None:
    """Protects against a generator that draws only easy programs: what matters is seen often enough."""
    seen = dict.fromkeys(("returned", "raised", "unfinished", "complete", "fed", "killed", "swallowed", "abandoned"), 0)
    for seed in range(200):
        ledger, outcome = played(seed)
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
    assert min(seen.values()) >= 2, seen
    assert min(seen["returned"], seen["raised"], seen["unfinished"], seen["complete"]) >= 12, seen
