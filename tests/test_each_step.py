"""Small runs of every kind, disturbed at each single step of their loop: whatever is under way then, nothing is lost.

Each item comes with a ticket, which tells of each single value what became of it.

All of it takes minutes; what is not marked ``thorough`` tries one callback of a few.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from typing import Any, Final

import pytest
from stepping import Play, problems, steps
from support import EAGER, Odd
from tickets import CountingTicket, put_tracked, wrong

from asyncpc import (
    Batch,
    Breaker,
    Failure,
    Pipeline,
    PipelineError,
    Rate,
    Retry,
    Running,
    broadcast,
    consumer,
    route,
)

ITEMS: Final = range(8)

# -- what is run ----------------------------------------------------------------------------------

Kind = Callable[["Trouble"], Any]


class Trouble:
    """What goes wrong in a run, and who is told of it; ``policy`` is that of the stage under test."""

    def __init__(self, what: str, policy: str) -> None:
        self.what = what
        self.told: list[Any] = []
        self.over = asyncio.Event()
        self.refuses: Callable[[int], int] | None = self._key if what == "refused" else None
        told: dict[str, Any] = {"told": self._tell, "dead letters": self._dead_letters()}
        self.policy: Any = told.get(policy, policy)

    def at(self, item: int) -> None:
        """Called by the handlers for each of their items."""
        if self.what == "raises" and item % 3 == 1:
            raise Odd(item)

    def _key(self, value: int) -> int:
        if value % 5 == 2:
            raise Odd(value)
        return 0

    async def _tell(self, failure: Failure) -> None:
        await steps(2)
        self.told.append(failure.item)

    def _dead_letters(self) -> Any:
        @consumer(maxsize=1)
        async def dead_letters(failure: Failure) -> None:
            await steps(3)
            self.told.append(failure.item)

        return dead_letters


def plain(trouble: Trouble, **options: Any) -> Any:
    async def handle(item: int) -> int:
        await steps(item % 3)
        trouble.at(item)
        return item

    return consumer(name="handle", on_error=trouble.policy, concurrency=2, **options)(handle)


def with_context(trouble: Trouble) -> Any:
    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        await asyncio.sleep(0)
        try:
            yield
        finally:
            await asyncio.sleep(0)

    @consumer(on_error=trouble.policy, concurrency=2, context=resource)
    async def handle(item: int, given: None) -> int:
        await steps(item % 2)
        trouble.at(item)
        return item

    return handle


def generator(trouble: Trouble, **options: Any) -> Any:
    async def handle(item: int) -> AsyncIterator[int]:
        for number in range(item % 4):
            await steps(number)
            yield item + number
        trouble.at(item)

    return consumer(name="handle", on_error=trouble.policy, concurrency=2, **options)(handle)


def batch(trouble: Trouble, **options: Any) -> Any:
    async def handle(items: list[int]) -> list[int]:
        await steps(items[0] % 3)
        for item in items:
            trouble.at(item)
        return items

    given: dict[str, Any] = {"batch": Batch(3), "concurrency": 2} | options
    return consumer(name="handle", on_error=trouble.policy, maxsize=6, **given)(handle)


def generating_batch(trouble: Trouble) -> Any:
    @consumer(on_error=trouble.policy, concurrency=2, batch=Batch(3), maxsize=6)
    async def handle(items: list[int]) -> AsyncIterator[int]:
        for item in items:
            await steps(item % 2)
            yield item
            trouble.at(item)

    return handle


def retried(trouble: Trouble) -> Any:
    failed: set[int] = set()

    @consumer(on_error=trouble.policy, concurrency=2, retry=Retry(2, wait=lambda attempt: 0))
    async def handle(item: int) -> int:
        await steps(1)
        trouble.at(item)
        if item % 2 and item not in failed:
            failed.add(item)
            raise Odd(item)
        return item

    return handle


def swallowing(trouble: Trouble) -> Any:
    """It ignores one cancel, and goes on."""

    @consumer(on_error=trouble.policy, concurrency=2)
    async def handle(item: int) -> int:
        try:
            await steps(2)
        except asyncio.CancelledError:
            await steps(1)
        trouble.at(item)
        return item

    return handle


def deaf(trouble: Trouble, **options: Any) -> Any:
    """It ignores all cancels, so that its workers are abandoned; they come back when the run is over."""

    async def handle(item: int) -> int:
        try:
            await steps(2)
        except asyncio.CancelledError:
            while not trouble.over.is_set():
                with suppress(asyncio.CancelledError):
                    await trouble.over.wait()
        trouble.at(item)
        return item

    return consumer(name="handle", on_error=trouble.policy, concurrency=2, **options)(handle)


def _pass_on(name: str, **options: Any) -> Any:
    async def handle(item: int) -> int:
        await steps(item % 3)
        return item

    return consumer(name=name, **options)(handle)


def routed(trouble: Trouble) -> Any:
    def by(item: int) -> int:
        trouble.at(item)
        return item % 2

    return route(by, {0: _pass_on("even"), 1: _pass_on("odd", key=trouble.refuses)}, on_error=trouble.policy)


def broadcasting(trouble: Trouble) -> Any:
    return broadcast(_pass_on("one"), _pass_on("two", key=trouble.refuses), _pass_on("three"))


KINDS: Final[dict[str, Kind]] = {
    "plain": plain,
    "context": with_context,
    "ordered": lambda trouble: plain(trouble, ordered=True),
    "limited": lambda trouble: plain(trouble, timeout=1e6, rate=Rate(1e6), breaker=Breaker(100, 0.001)),
    "priority": lambda trouble: plain(trouble, priority=lambda item: -item),
    "key": lambda trouble: plain(trouble, key=lambda item: item % 2),
    "drops": lambda trouble: plain(trouble, overflow="drop_oldest"),
    "generator": generator,
    "ordered generator": lambda trouble: generator(trouble, ordered=True),
    "batch": batch,
    "split batch": lambda trouble: batch(trouble, batch=Batch(3, split_on_error=True)),
    "keyed batch": lambda trouble: batch(trouble, batch=Batch(2, split_on_error=True), key=lambda item: item % 2),
    "generating batch": generating_batch,
    "retry": retried,
    "swallows": swallowing,
    "deaf": deaf,
    "deaf ordered": lambda trouble: deaf(trouble, ordered=True),
    "route": routed,
    "broadcast": broadcasting,
}

POLICIES: Final = "stop", "skip", "told", "dead letters"

TROUBLES: Final = [("none", "stop"), *((what, policy) for what in ("raises", "refused") for policy in POLICIES)]

DEEDS: Final = "cancel", "cancel twice", "kill", "stop", "drain"


# -- how it is disturbed --------------------------------------------------------------------------


class Tried(Play):
    """A run of one kind, in which one thing goes wrong."""

    def __init__(self, kind: str, what: str, policy: str, deed: str, at: int, eager: bool) -> None:
        super().__init__(deed, at, eager)
        self.kind = kind
        self.policy = policy
        self.trouble = Trouble(what, policy)
        self.tickets: list[CountingTicket] = []
        refuses = None if kind in ("route", "broadcast") else self.trouble.refuses  # there it is a branch that does

        @consumer(maxsize=1, key=refuses)
        async def sink(item: int) -> None:
            await steps(2)

        stage: Any = KINDS[kind](self.trouble)
        self.pipeline = Pipeline(stage, sink, maxsize=1, drain_timeout=1.0)

    async def use(self, running: Running[Any, Any]) -> None:
        await put_tracked(running, ITEMS, self.tickets)

    def victims(self) -> list[asyncio.Task[Any]]:
        tasks = [task for task in asyncio.all_tasks(self.loop) if task.get_name().startswith("asyncpc:")]
        return [task for task in tasks if not task.done()]

    async def main(self) -> None:
        await super().main()
        self.trouble.over.set()
        if others := asyncio.all_tasks() - {asyncio.current_task()}:  # those who were abandoned
            await asyncio.wait(others)

    def wrong(self) -> list[str]:
        return [*wrong(self.tickets), *self.misreported()]

    def misreported(self) -> list[str]:
        """What is wrong with the report, and with what came out."""
        if self.running is None:
            return []
        run = self.running._run
        report = run.outcome.report
        if report is None:
            return ["there is no report"]
        found = [repr(run.outcome.breach)] if run.outcome.breach is not None else []
        if report.produced != len(self.tickets):
            found.append(f"{report.produced} accepted, {len(self.tickets)} put")
        letters = sum(stage.received for stage in report.stages if stage.name == "dead_letters")
        given_up = sum(stage.failed + stage.dropped for stage in report.stages) - letters
        by_report = given_up, len(report.unfinished)
        by_tickets = tuple(sum(one) for one in zip(*[(len(t.failed), t.released) for t in self.tickets], strict=True))
        if self.kind != "generating batch" and self.tickets and by_tickets != by_report:
            found.append(f"failed and left are {by_report} in the report, {by_tickets} by the tickets")
        return [*found, *self.lost()]

    def lost(self) -> list[str]:
        """What should have come out, and did not."""
        if isinstance(self.error, asyncio.CancelledError):
            return []
        ignores = self.kind in ("swallows", "deaf", "deaf ordered")
        lost = ["a cancel was lost"] if self.hit and self.error is None and not ignores else []
        raised = self.error.exceptions if isinstance(self.error, PipelineError) else []
        if self.policy == "stop" and self.kind != "drops":
            failed = [error for ticket in self.tickets for error in ticket.failed]
            lost += [f"lost: {error!r}" for error in failed if not any(error is one for one in raised)]
        return lost


def found_wrong(kind: str, every: int, eager: bool = False) -> dict[tuple[str, ...], list[str]]:
    """What is wrong with the runs of that kind, disturbed at one callback of so many."""
    beginnings = count()
    found: dict[tuple[str, ...], list[str]] = {}
    for what, policy in TROUBLES:
        make = partial(Tried, kind, what, policy, eager=eager)
        bad = problems(make, DEEDS, every, beginnings)
        found |= {(what, policy, how): told for how, told in bad.items()}
    return found


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of runs fail on purpose; a log line for each would hide what is wrong."""
    caplog.set_level(logging.CRITICAL, logger="asyncpc")


@pytest.mark.parametrize("kind", KINDS)
def test_disturbed_at_some_steps(kind: str) -> None:
    """Protects every value at every await (invariants 2, 4, 6 and 7), in all kinds of stages."""
    assert found_wrong(kind, 59) == {}


@pytest.mark.thorough
@pytest.mark.parametrize("eager", EAGER)
@pytest.mark.parametrize("kind", KINDS)
def test_disturbed_at_each_step(kind: str, eager: bool) -> None:
    """Protects the same, at each callback and with eager tasks."""
    assert found_wrong(kind, 1, eager) == {}
