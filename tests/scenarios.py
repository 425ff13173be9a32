"""Random programs that use asyncpc, run in virtual time, and judged by a ledger of their own.

A :class:`Scenario` is drawn from a seed: sources, stages, queues, and one or two things that go wrong. Its sources
and handlers write a :class:`Ledger` as they run: each item they accepted, started, finished or failed, by identity.
After the run, :func:`problems` compares what asyncpc reports with that ledger, and checks the invariants of the
architecture: nothing vanishes, the bound holds, the order is kept, one END per consumer, nothing is left running, the
right exception came out, and in time.

::

    python -m tests.scenarios --count 5000 --seed 0     # that many scenarios; prints the seeds that fail
    python -m tests.scenarios --only 4711               # one of them, with what was drawn and what is wrong

Times in a scenario are seconds of virtual time, except on uvloop, which has only the real one.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

if __package__:  # python -m tests.scenarios
    sys.path.insert(0, str(Path(__file__).parent))

from virtual import Deadlock, VirtualLoop

import asyncpc.core.worker
from asyncpc import (
    Batch,
    Breaker,
    DrainTimeout,
    Failure,
    Pipeline,
    PipelineError,
    QueueShutDown,
    Rate,
    Report,
    Restart,
    Retry,
    Running,
    StageStatistics,
    WorkerCancelled,
    broadcast,
    consumer,
    feed,
    merge,
    producer,
    route,
    source,
)

AMPLE: Final = 1000.0
"""A drain timeout (seconds) that no healthy scenario comes near; whoever needs it is stuck."""

SLACK: Final = 0.1
"""Seconds that a run may take beyond its deadline (promise 5)."""

REAL_SLACK: Final = 1.0
"""The same, on a loop with real time and a busy machine."""

GUARD: Final = 20.0
"""Seconds of real time after which a scenario on a real loop counts as stuck."""

CALLERS: Final[ContextVar[object]] = ContextVar("callers")


# -- what a scenario is ---------------------------------------------------------------------------


@dataclass(frozen=True)
class SourceSpec:
    """One source: ``kind`` is list, iterator, generator or iterable (async, without aclose)."""

    kind: str
    count: int
    delay: str = "none"
    idles: bool = False
    """Waits for ever after its last item."""
    trouble: str = ""
    """At item ``at``: raise, cancel (raises CancelledError itself)."""
    at: int = 0
    restarts: int = 0
    clean_up: str = ""
    """When it is closed: slow, raise."""


@dataclass(frozen=True)
class StageSpec:
    generates: bool
    concurrency: int
    maxsize: int | None
    delay: str = "none"
    fan: int = 1
    """A generator gives 0 to ``fan`` values per item."""
    context: str = ""
    """A resource per worker: plain, slow."""
    feeds: bool = False
    sets: bool = False
    """Sets a context variable in each call."""
    trouble: str = ""
    """In call ``at``: raise, cancel (raises CancelledError itself), interrupt (KeyboardInterrupt), hang (until it is
    cancelled)."""
    at: int = 0
    swallows: str = ""
    """What it does with a cancellation: once (ignores the first of each call), ever (all of them)."""
    clean_up: str = ""
    """When it is cancelled: slow, raise."""
    options: frozenset[str] = frozenset()
    """What else the consumer asks for: some of :data:`OPTIONS`."""
    branching: str = ""
    """No consumer, but a route or broadcast; it has only ``maxsize`` and ``trouble``."""


OPTIONS: Final = (
    *("batch", "breaker", "key", "letters", "ordered", "overflow"),
    *("priority", "rate", "retry", "skip", "timeout"),
)
"""Names of arguments; ``skip`` and ``letters`` (a consumer that is told of failures) are for ``on_error``."""

Layout = tuple[Any, ...]
"""How stages are joined: places, one after the other; for a branching, the place and the layouts of its branches."""


@dataclass(frozen=True)
class Sabotage:
    """Something that happens ``after`` seconds and then ``steps`` loop steps.

    ``deed`` is cancel, kill (a worker's task), scale (a stage) or pause (for a moment).
    """

    deed: str
    after: float
    steps: int


@dataclass(frozen=True)
class Scenario:
    seed: int
    loop: str
    """plain, debug, eager, uvloop."""
    shape: str
    """How it is run: awaited, entered, pushed, streamed."""
    ending: str
    """What the caller's block does: wait, leave, drain, stop, raise, read (all results), break (after ``reads``)."""
    ends_after: float
    reads: int
    drain_timeout: float
    maxsize: int
    sources: tuple[SourceSpec, ...]
    putters: tuple[int, ...]
    stages: tuple[StageSpec, ...]
    layout: Layout
    calls: bool
    """Whether putters also ``call``."""
    sabotage: tuple[Sabotage, ...]

    @property
    def following(self) -> list[list[int]]:
        """The places each stage gives to; an end gives to one more than there are, the results."""
        following: list[list[int]] = [[] for _ in self.stages]
        _join(self.layout, len(self.stages), following)
        return following

    @property
    def before(self) -> list[list[int]]:
        """The places that give to each stage, and to the results."""
        following = self.following
        return [[one for one, to in enumerate(following) if place in to] for place in range(len(self.stages) + 1)]


def _join(layout: Layout, after: int, following: list[list[int]]) -> None:
    for element, then in zip(layout, (*layout[1:], None), strict=True):
        to = after if then is None else then if isinstance(then, int) else then[0]
        if isinstance(element, int):
            following[element] = [to]
        else:
            place, *branches = element
            following[place] = [branch[0] if isinstance(branch[0], int) else branch[0][0] for branch in branches]
            for branch in branches:
                _join(branch, to, following)


def draw(seed: int) -> Scenario:
    """The scenario of ``seed``."""
    rng = Random(seed)
    shape = rng.choice(["awaited", "awaited", "entered", "entered", "pushed", "streamed"])
    endings = {
        "awaited": ["wait"],
        "entered": ["wait", "wait", "leave", "drain", "stop", "raise"],
        "pushed": ["leave", "leave", "drain", "raise"],
        "streamed": ["read", "read", "break", "raise"],
    }
    stages: list[StageSpec] = []
    layout = _layout(rng, stages, depth=0)
    if len(stages) <= 2 and not any(stage.feeds for stage in stages):
        stages[0] = replace(stages[0], fan=rng.choice([2, 20]))  # enough for a turn to end in the midst of an item
    one_each = not any(stage.generates or stage.branching == "broadcast" for stage in stages)
    scenario = Scenario(
        seed=seed,
        loop=rng.choice(["plain"] * 6 + ["debug", "eager"]),
        shape=shape,
        ending=rng.choice(endings[shape]),
        ends_after=_moment(rng),
        reads=rng.randrange(12),
        drain_timeout=AMPLE,
        maxsize=_maxsize(rng),
        sources=() if shape == "pushed" else tuple(_source(rng) for _ in range(rng.choice([1, 1, 2, 3]))),
        putters=tuple(rng.randrange(15) for _ in range(rng.randint(1, 4))) if shape == "pushed" else (),
        stages=tuple(stages),
        layout=layout,
        calls=shape == "pushed" and one_each,
        sabotage=(),
    )
    for _ in range(rng.choice([0, 1, 1, 1, 2])):
        scenario = _with_trouble(scenario, rng)
    return _with_end(scenario, rng)


def _layout(rng: Random, stages: list[StageSpec], depth: int) -> Layout:
    """Stages one after the other, or with branches, and branches in these; appends each to ``stages``."""
    layout: list[Any] = []
    for _ in range(rng.choice([1, 1, 2, 2, 3, 4] if depth == 0 else [1, 1, 2])):
        place = len(stages)
        if depth < 2 and rng.random() < 0.15:
            kind = rng.choice(["route", "broadcast"])
            stages.append(StageSpec(False, 1, rng.choice([None, 1, 2]), branching=kind))
            branches = [_layout(rng, stages, depth + 1) for _ in range(rng.choice([1, 2, 2, 3]))]
            layout.append((place, *branches))
        else:
            stages.append(_stage(rng))
            layout.append(place)
    return tuple(layout)


def _moment(rng: Random) -> float:
    return rng.choice([0.0, 0.001, 0.002, 0.003, 0.005, 0.008, 0.013, 0.03])


def _maxsize(rng: Random) -> int:
    return rng.choice([1, 1, 1, 2, 2, 3, 3, 0])


def _delay(rng: Random) -> str:
    return rng.choice(["none", "none", "zero", "some", "some", "timed"])


def _source(rng: Random) -> SourceSpec:
    return SourceSpec(
        kind=rng.choice(["list", "iterator", "generator", "generator", "generator", "iterable"]),
        count=rng.choice([0, 1, 2, 5, 9, 14]),
        delay=_delay(rng),
        clean_up=rng.choice(["", "", "", "slow"]),
    )


def _stage(rng: Random) -> StageSpec:
    generates = rng.random() < 0.35
    maxsize = rng.choice([None, None, 1, 2, 3])
    return StageSpec(
        generates=generates,
        concurrency=rng.choice([1, 1, 2, 3, 4]),
        maxsize=maxsize,
        delay=_delay(rng),
        fan=rng.choice([1, 2, 2, 3]),
        context=rng.choice(["", "", "", "plain", "slow"]),
        feeds=rng.random() < 0.1,
        sets=rng.random() < 0.15,
        clean_up=rng.choice(["", "", "", "slow"]),
        options=_options(rng, generates, maxsize),
    )


def _options(rng: Random, generates: bool, maxsize: int | None) -> frozenset[str]:
    """None, one, or any two that go together."""
    options = frozenset(rng.sample(OPTIONS, rng.choice([0, 0, 0, 1, 1, 2])))
    if generates or maxsize == 1:
        options -= {"batch"}
    if "batch" in options:
        options -= {"priority"}
    if options & {"batch", "key", "priority"}:
        options -= {"ordered"}
    if "skip" in options:
        options -= {"letters"}
    return options


TROUBLES: Final = (
    *(
        "short drain",
        "cancel",
        "cancel",
        "cancel twice",
        "kill",
        "crash",
        "crash",
        "source crash",
        "restart",
        "own cancel",
    ),
    *(
        "scale",
        "scale",
        "pause",
        "source's own cancel",
        "swallow once",
        "swallow ever",
        "swallow ever",
        "swallow ever",
        "interrupt",
        "error in clean-up",
        "hang",
        "hang",
    ),
)


def _with_trouble(scenario: Scenario, rng: Random) -> Scenario:
    """The scenario with one thing more that goes wrong."""
    trouble = rng.choice(TROUBLES)
    if trouble == "short drain":
        return replace(scenario, drain_timeout=rng.choice([0.0, 0.001, 0.004, 0.01]))
    if trouble in ("cancel", "cancel twice", "kill", "scale", "pause"):
        return _sabotaged(scenario, trouble, rng)
    if trouble in ("source crash", "restart", "source's own cancel"):
        change = {"trouble": "cancel" if "cancel" in trouble else "raise", "at": rng.randrange(8), "kind": "generator"}
        return _change_source(scenario, rng, **change, restarts=rng.randint(1, 3) if trouble == "restart" else 0)
    if trouble.startswith("swallow"):
        ever = trouble.endswith("ever")
        scenario = _change_stage(_without_policies(scenario), rng, swallows="ever" if ever else "once")
        scenario = _sabotaged(scenario, rng.choice(["cancel"] if ever else ["cancel", "kill"]), rng)
        return replace(scenario, drain_timeout=min(scenario.drain_timeout, 0.02)) if ever else scenario
    if trouble == "hang":
        return _with_hang(scenario, rng)
    if trouble == "error in clean-up":
        return _with_bad_clean_up(scenario, rng)
    deed = {"crash": "raise", "own cancel": "cancel", "interrupt": "interrupt"}[trouble]
    return _change_stage(scenario, rng, trouble=deed, at=rng.randrange(8))


def _without_policies(scenario: Scenario) -> Scenario:
    """Without those that hold for a handler that raises by itself, and not for one that does when it is cancelled."""
    stages = tuple(replace(stage, options=stage.options - {"letters", "retry", "skip"}) for stage in scenario.stages)
    return replace(scenario, stages=stages)


def _with_bad_clean_up(scenario: Scenario, rng: Random) -> Scenario:
    """Errors raised while others are under way: all of them must come out."""
    scenario = _change_source(_without_policies(scenario), rng, clean_up=rng.choice(["", "raise"]))
    if rng.random() < 0.5:
        return _sabotaged(_change_stage(scenario, rng, clean_up="raise"), "cancel", rng)
    stages = tuple(replace(stage, clean_up="raise") for stage in scenario.stages)
    return _change_stage(replace(scenario, stages=stages), rng, trouble="raise", at=rng.randrange(4))


def _with_hang(scenario: Scenario, rng: Random) -> Scenario:
    """A handler that only the deadline of a drain, or a cancelled caller, ends."""
    if scenario.ending in ("wait", "read", "break") or scenario.shape == "streamed":
        scenario = _sabotaged(scenario, "cancel", rng)
    scenario = replace(scenario, drain_timeout=min(scenario.drain_timeout, rng.choice([0.0, 0.004, 0.02])))
    return _change_stage(scenario, rng, trouble="hang", at=rng.randrange(8))


def _sabotaged(scenario: Scenario, deed: str, rng: Random) -> Scenario:
    times = 2 if deed == "cancel twice" else 1
    deeds = tuple(Sabotage(deed.split()[0], _moment(rng), rng.choice([0, 0, 1, 2, 5, 20])) for _ in range(times))
    return replace(scenario, sabotage=scenario.sabotage + deeds)


def _change_stage(scenario: Scenario, rng: Random, **change: Any) -> Scenario:
    stages = list(scenario.stages)
    place = rng.randrange(len(stages))
    stages[place] = replace(stages[place], **change)
    return replace(scenario, stages=tuple(stages))


def _change_source(scenario: Scenario, rng: Random, **change: Any) -> Scenario:
    if not scenario.sources:
        return scenario
    place = rng.randrange(len(scenario.sources))
    sources = list(scenario.sources)
    sources[place] = replace(sources[place], **change)
    return replace(scenario, sources=tuple(sources))


def _with_end(scenario: Scenario, rng: Random) -> Scenario:
    """Let a source idle for ever if something is certain to end the run all the same."""
    certain = scenario.shape == "entered" and scenario.ending != "wait"
    if (certain or any(sabotage.deed == "cancel" for sabotage in scenario.sabotage)) and rng.random() < 0.5:
        return _change_source(scenario, rng, idles=True)
    return scenario


# -- the ledger -----------------------------------------------------------------------------------


class Item:
    """One item; ``path`` orders the items of one ``origin``, and those made from them."""

    __slots__ = ("depth", "is_called", "origin", "path")

    def __init__(self, origin: str, path: tuple[int, ...], depth: int = 0, is_called: bool = False) -> None:
        self.origin = origin
        self.path = path
        self.depth = depth
        self.is_called = is_called

    def child(self, number: int) -> Item:
        """A value made from it."""
        return Item(self.origin, (*self.path, number), self.depth, self.is_called)

    def __repr__(self) -> str:
        return f"{self.origin}:{'.'.join(map(str, self.path))}"


class Boom(Exception):
    """What sources, handlers and blocks raise."""


class Touchy:
    """A value such as a numpy array: comparing it raises."""

    def __eq__(self, other: object) -> bool:
        raise TypeError("the truth value of this is ambiguous")

    __hash__ = object.__hash__


@dataclass
class Book:
    """What is known of one stage: items by identity. ``limit`` bounds those accepted but not started."""

    limit: float
    accepted: list[Item] = field(default_factory=list)
    started: list[Item] = field(default_factory=list)
    done: set[Item] = field(default_factory=set)
    failed: set[Item] = field(default_factory=set)
    dropped: set[Item] = field(default_factory=set)
    running: set[Item] = field(default_factory=set)

    def unfinished(self) -> set[Item]:
        return set(self.accepted) - self.done - self.failed - self.dropped


def key_of(item: Item) -> int:
    return sum(item.path) % 3


class Ledger:
    """What sources, handlers, putters and the caller saw, written by themselves as it happened."""

    def __init__(self, scenario: Scenario, loop: asyncio.AbstractEventLoop) -> None:
        self.rng = Random(scenario.seed)
        self.loop = loop
        self.drain_timeout = scenario.drain_timeout
        self.books = [Book(_bound(scenario, stage)) for stage in range(len(scenario.stages) + 1)]
        self.following = scenario.following
        self.emitted = [0] * len(scenario.stages)
        self.letters = Book(float("inf"))  # of the consumer that is told of failures
        self.problems: list[str] = []
        self.errors: list[Exception] = []  # that must come out
        self.interrupts: list[BaseException] = []
        self.open: dict[object, tuple[str, asyncio.Task[Any] | None]] = {}
        self.limits: list[tuple[float, float]] = []  # when a deadline began, and how long it was
        self.fed = 0
        self.calls = [0] * len(scenario.stages)
        self.cancels = 0  # of the caller
        self.kills = 0  # of workers, from outside
        self.scaled = 0  # the most workers a stage was given later
        self.own_cancels = 0  # raised by handlers and sources
        self.swallowed = 0
        self.stopped = False  # the caller asked for less than everything
        self.released = asyncio.Event()  # whoever ignores cancellations for ever is let go
        self.calls_come = scenario.calls
        self.alone = len(scenario.sources) == 1
        self.streamed = scenario.shape == "streamed"
        first = scenario.stages[0]
        self.waits = "overflow" not in first.options and first.branching != "broadcast"
        self.over = False  # the run has returned; abandoned workers may still come back
        self.token = object()  # the caller's context variable

    def accept(self, stage: int, item: Item) -> None:
        book = self.books[stage]
        book.accepted.append(item)
        if not self.over and len(book.accepted) - len(book.started) > book.limit + (self.fed if stage == 0 else 0):
            self.problems.append(f"bound: stage {stage} holds {len(book.accepted) - len(book.started)} items")

    def emit(self, stage: int, item: Item, branch: int = 0) -> None:
        """The stage gives ``item`` to the next, or to that branch."""
        self.emitted[stage] += 1
        self.accept(self.following[stage][branch], item)

    def ask(self) -> None:
        """The only source is asked for an item: there must be room in the first queue."""
        first = self.books[0]
        if self.waits and self.alone and not self.fed and len(first.accepted) - len(first.started) >= first.limit - 1:
            self.problems.append("backpressure: the source was asked while the queue was full")

    def notice(self, item: Item) -> None:
        """An item that came by ``call``, which tells its caller no earlier than the result."""
        if item.is_called and len(item.path) == 1 and item not in self.books[0].accepted:
            self.accept(0, item)

    def start(self, stage: int, item: Item) -> None:
        self.notice(item)
        self.books[stage].started.append(item)

    @contextmanager
    def handling(self, stage: int, items: list[Item], options: frozenset[str]) -> Iterator[None]:
        """One call of a handler, whatever its end."""
        book = self.books[stage]
        again = items[0] in book.started and "retry" in options
        for item in items:
            if not again:
                self.start(stage, item)
        self._look_around(stage, items, options)
        book.running.update(items)
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except Exception as error:
            if "retry" not in options:  # else the next call succeeds, if there is one
                book.failed.update(items)
                if not options & {"letters", "skip"} and not all(item.is_called for item in items):
                    self.raised(error)
            raise
        except BaseException as error:
            book.failed.update(items)
            self.interrupts.append(error)
            raise
        else:
            book.done.update(items)
        finally:
            book.running.difference_update(items)

    def _look_around(self, stage: int, items: list[Item], options: frozenset[str]) -> None:
        """What a handler may see when it is called."""
        if CALLERS.get(None) is not self.token:
            self.problems.append(f"context: a handler of stage {stage} saw {CALLERS.get(None)!r}")
        one_at_a_time = "key" in options and "batch" not in options
        if one_at_a_time and key_of(items[0]) in map(key_of, self.books[stage].running):
            self.problems.append(f"key: stage {stage} handles two items of one key at once")

    def drop(self, stage: int, item: Item) -> None:
        self.notice(item)
        self.books[stage].dropped.add(item)

    def raised(self, error: Exception) -> None:
        self.errors.append(error)

    def limit(self, seconds: float) -> None:
        """The run has this long from now."""
        self.limits.append((self.loop.time(), seconds))

    @contextmanager
    def opened(self, name: str) -> Iterator[None]:
        """Something that must be closed before the run returns, in the task that opened it."""
        key, task = object(), asyncio.current_task()
        self.open[key] = (name, task)
        try:
            yield
        finally:
            del self.open[key]
            if asyncio.current_task() is not task:
                self.problems.append(f"{name} was closed in another task than the one that opened it")


def _bound(scenario: Scenario, stage: int) -> float:
    """How many items may be accepted and not started: the queue's bound, and one per writer that waits for room."""
    last = stage == len(scenario.stages)
    if (last and scenario.shape != "streamed") or (not last and scenario.stages[stage].branching == "broadcast"):
        return float("inf")  # nobody reads, or nobody sees what it reads
    own = None if last else scenario.stages[stage].maxsize
    maxsize = scenario.maxsize if own is None else own
    givers = [scenario.stages[place] for place in scenario.before[stage]]
    writers = sum(giver.concurrency for giver in givers) if stage else len(scenario.sources)
    before = frozenset().union(*(giver.options for giver in givers))
    here = frozenset() if last else scenario.stages[stage].options
    scaled = any(sabotage.deed == "scale" for sabotage in scenario.sabotage)  # nobody knows how many writers there are
    free = (
        scaled
        or here & {"batch", "breaker", "overflow", "rate"}
        or before
        & {
            "batch",
            "ordered",
        }
    )  # their values are known here before they leave
    return maxsize + writers if maxsize and not free else float("inf")


# -- the program: sources, handlers, putters ------------------------------------------------------


async def _pause(ledger: Ledger, delay: str) -> None:
    if delay == "timed":
        await asyncio.sleep(ledger.rng.randrange(5) / 1000)
    elif delay == "zero":
        await asyncio.sleep(0)
    elif delay == "some" and ledger.rng.random() < 0.4:
        await asyncio.sleep(ledger.rng.choice([0, 0.001, 0.004]))


async def _clean_up(ledger: Ledger, how: str, failed: Callable[[Exception], None] | None = None) -> None:
    if how == "slow":
        await asyncio.sleep(0.003)
    elif how == "raise" and ledger.rng.random() < 0.5:
        error = Boom("while it was closed")
        if failed is not None:
            failed(error)
        raise error


def make_source(spec: SourceSpec, name: str, ledger: Ledger) -> Any:
    """What a user would pass as a source."""
    items = iter([Item(name, (number,)) for number in range(spec.count)])
    if spec.kind == "list":
        return source(_Telling(spec.count, name, ledger), name)
    if spec.kind == "iterator":
        return source(_iterator(items, name, ledger), name)
    if spec.kind == "iterable":
        return source(_AsyncIterable(items, spec, ledger), name)
    restart = Restart(spec.restarts, within=1e9, backoff=lambda attempt: 0.002 * attempt) if spec.restarts else None
    raised = 0

    @producer(restart=restart, name=name)
    async def generator() -> AsyncIterator[Item]:
        nonlocal raised
        with ledger.opened(name):
            try:
                async for item in _give(items, spec, ledger):
                    yield item
            except Boom as error:
                raised += 1
                if raised > spec.restarts:
                    ledger.limit(ledger.drain_timeout)
                    ledger.raised(error)
                raise
            except (asyncio.CancelledError, GeneratorExit):
                await _clean_up(ledger, spec.clean_up, ledger.raised)
                raise

    return generator


async def _give(items: Iterator[Item], spec: SourceSpec, ledger: Ledger) -> AsyncIterator[Item]:
    for item in items:
        ledger.ask()
        await _pause(ledger, spec.delay)
        if spec.trouble and item.path[0] >= spec.at:
            if spec.trouble == "raise":
                raise Boom(f"source at {item}")
            ledger.own_cancels += 1
            raise asyncio.CancelledError
        ledger.accept(0, item)
        yield item
    if spec.idles:
        await asyncio.Event().wait()


class _Telling(list[Item]):
    """A list that tells the ledger which of its items were taken."""

    def __init__(self, count: int, name: str, ledger: Ledger) -> None:
        super().__init__(Item(name, (number,)) for number in range(count))
        self.ledger = ledger

    def __iter__(self) -> Iterator[Item]:
        for item in super().__iter__():
            self.ledger.accept(0, item)
            yield item


def _iterator(items: Iterator[Item], name: str, ledger: Ledger) -> Iterator[Item]:
    with ledger.opened(name):
        for item in items:
            ledger.accept(0, item)
            yield item


class _AsyncIterable:
    """An async iterable that is no generator, so there is nothing to close."""

    def __init__(self, items: Iterator[Item], spec: SourceSpec, ledger: Ledger) -> None:
        self.items = items
        self.spec = spec
        self.ledger = ledger

    def __aiter__(self) -> _AsyncIterable:
        return self

    async def __anext__(self) -> Item:
        await _pause(self.ledger, self.spec.delay)
        for item in self.items:
            self.ledger.accept(0, item)
            return item
        if self.spec.idles:
            await asyncio.Event().wait()
        raise StopAsyncIteration


def make_branching(spec: StageSpec, stage: int, ledger: Ledger, branches: list[Any]) -> Any:
    """A route or broadcast; what a broadcast does is seen by nobody, see :meth:`_Play.look_into_broadcasts`."""
    if spec.branching == "broadcast":
        return broadcast(*branches, maxsize=spec.maxsize, name=f"stage-{stage}")

    def by(item: Item) -> int:
        with ledger.handling(stage, [item], frozenset()):
            call = ledger.calls[stage]
            ledger.calls[stage] += 1
            if call == spec.at and spec.trouble in ("cancel", "interrupt", "raise"):
                _raise(spec, stage, item, ledger)
        branch = key_of(item) % len(branches)
        ledger.emit(stage, item, branch)
        return branch

    return route(by, dict(enumerate(branches)), maxsize=spec.maxsize, name=f"stage-{stage}")


def make_letters(ledger: Ledger) -> Any:
    """The consumer that is told of failures, whatever stage they are from."""
    book = ledger.letters

    @consumer(concurrency=2)
    async def letters(failure: Failure) -> None:
        book.started.append(failure.item)
        await _pause(ledger, "some")
        book.done.add(failure.item)

    return letters


def make_stage(spec: StageSpec, stage: int, ledger: Ledger, letters: Any) -> Any:
    """The consumer of a stage, as a user would write it."""
    ends = ledger.following[stage] == [len(ledger.following)]
    ordered = "ordered" in spec.options and (ledger.streamed or not ends)

    async def handle(item: Item) -> Item:
        with ledger.handling(stage, [item], spec.options):
            await _work(spec, stage, item, ledger)
        value = item.child(0)
        ledger.emit(stage, value)
        return value

    async def handle_batch(items: list[Item]) -> list[Item]:
        with ledger.handling(stage, items, spec.options):
            await _work(spec, stage, items[0], ledger)
        values = [item.child(0) for item in items]
        for value in values:
            ledger.emit(stage, value)
        return values

    async def generate(item: Item) -> AsyncIterator[Item]:
        values = []
        with ledger.opened(f"generator of stage {stage}"), ledger.handling(stage, [item], spec.options):
            for number in range(ledger.rng.randrange(spec.fan + 1)):
                await _work(spec, stage, item, ledger)
                value = item.child(number)
                values.append(value)
                if not ordered:  # else they leave together, once the generator has ended
                    ledger.emit(stage, value)
                yield value
        for value in values if ordered else []:
            ledger.emit(stage, value)

    async def handle_with(item: Any, resource: object) -> Any:
        _check_resource(resource, ledger)
        return await (handle_batch if "batch" in spec.options else handle)(item)

    async def generate_with(item: Item, resource: object) -> AsyncIterator[Item]:
        _check_resource(resource, ledger)
        values = generate(item)
        try:
            async for value in values:
                yield value
        finally:
            await values.aclose()

    @asynccontextmanager
    async def resource() -> AsyncIterator[object]:
        with ledger.opened(f"resource of stage {stage}"):
            await asyncio.sleep(0.001 if spec.context == "slow" else 0)
            try:
                yield asyncio.current_task()
            finally:
                await asyncio.sleep(0.001 if spec.context == "slow" else 0)

    options: dict[str, Any] = {"concurrency": spec.concurrency, "maxsize": spec.maxsize, "name": f"stage-{stage}"}
    options |= {name: given for name, given in _given(stage, ledger).items() if name in wanted(spec.options)}
    if "letters" in spec.options:
        options["on_error"] = letters
    if spec.context:
        return consumer(context=resource, **options)(generate_with if spec.generates else handle_with)
    return consumer(**options)(generate if spec.generates else handle_batch if "batch" in spec.options else handle)


def wanted(options: frozenset[str]) -> set[str]:
    """The names of the arguments that the options stand for."""
    more = {"overflow": "on_drop", "skip": "on_error", "letters": "on_error"}
    return {*options, *(more[one] for one in options & more.keys())}


def _given(stage: int, ledger: Ledger) -> dict[str, Any]:
    """The argument for each option; retries outlast all trouble, and no timeout is ever reached."""
    return {
        "batch": Batch(
            ledger.rng.randint(1, 2), within=ledger.rng.choice([0.001 if ledger.calls_come else None, 0.002, 0.01])
        ),
        "breaker": Breaker(1, 0.002),
        "key": key_of,
        "on_drop": partial(ledger.drop, stage),
        "on_error": "skip",
        "ordered": True,
        "overflow": "drop_newest",
        "priority": lambda item: -item.path[-1],
        "rate": Rate(1000),
        "retry": Retry(1000, wait=lambda attempt: 0.001),
        "timeout": 1e6,
    }


def _check_resource(resource: object, ledger: Ledger) -> None:
    if resource is not asyncio.current_task():
        ledger.problems.append("a handler got the resource of another worker")


async def _work(spec: StageSpec, stage: int, item: Item, ledger: Ledger) -> None:
    """What every handler does: wait, feed, fail, and clean up when it is cancelled."""
    call = ledger.calls[stage]
    ledger.calls[stage] += 1
    if spec.sets:
        CALLERS.set(Touchy())
    if spec.feeds and item.depth < 2 and ledger.rng.random() < 0.5:
        _feed(item, ledger)
    try:
        await _patiently(spec, ledger)
    except asyncio.CancelledError:
        await _clean_up(ledger, spec.clean_up)
        raise
    if spec.trouble == "hang" and call == spec.at:
        await ledger.released.wait()
    elif spec.trouble and call == spec.at:
        _raise(spec, stage, item, ledger)


def _raise(spec: StageSpec, stage: int, item: Item, ledger: Ledger) -> None:
    if spec.trouble == "interrupt":
        raise KeyboardInterrupt
    if spec.trouble == "raise":
        raise Boom(f"stage {stage} at {item}")
    ledger.own_cancels += 1
    raise asyncio.CancelledError


def _feed(item: Item, ledger: Ledger) -> None:
    ledger.fed += 1  # before, since an eager task may handle it at once, and feed too
    child = Item("fed", (ledger.fed,), item.depth + 1)
    try:
        feed(child)
    except QueueShutDown:
        ledger.fed -= 1
        ledger.problems += [] if ledger.over else ["END came while a handler was at work: it could not feed"]
        raise
    ledger.accept(0, child)


async def _patiently(spec: StageSpec, ledger: Ledger) -> None:
    try:
        await _pause(ledger, spec.delay)
    except asyncio.CancelledError:
        if not spec.swallows:
            raise
        ledger.swallowed += 1
        while spec.swallows == "ever" and not ledger.released.is_set():
            try:
                await ledger.released.wait()
            except asyncio.CancelledError:
                continue
        await asyncio.sleep(0)


async def put_all(running: Running[Item, Any], name: str, count: int, calls: bool, ledger: Ledger) -> None:
    """A caller of ``put`` in all its forms: what raised was not accepted."""
    for number in range(count):
        try:
            if calls and ledger.rng.random() < 0.4:
                await _call(running, Item(name, (number,), is_called=True), ledger)
            else:
                await _put(running, Item(name, (number,)), ledger)
        except (asyncio.QueueFull, TimeoutError, Boom):
            continue
        except QueueShutDown:
            return
        await _pause(ledger, "some")


async def _put(running: Running[Item, Any], item: Item, ledger: Ledger) -> None:
    how = ledger.rng.choice(["put", "put", "nowait", "timeout", "cancelled", "cancelled"])
    if how == "nowait":
        running.put_nowait(item)
        ledger.accept(0, item)
    elif how == "cancelled":
        await _put_and_cancel(running, item, ledger)
    else:
        await running.put(item, timeout=ledger.rng.choice([0, 0.001, 0.004]) if how == "timeout" else None)
        ledger.accept(0, item)


async def _call(running: Running[Item, Any], item: Item, ledger: Ledger) -> None:
    """A caller of ``call`` gets what came of its own item, and nothing else."""
    value = await running.call(item)
    if value.origin != item.origin or value.path[0] != item.path[0]:
        ledger.problems.append(f"the caller for {item} got {value}")


async def _put_and_cancel(running: Running[Item, Any], item: Item, ledger: Ledger) -> None:
    """Cancel a ``put`` so many steps of the loop after a timer that it may have been woken just before."""

    async def put() -> None:
        await running.put(item)
        ledger.accept(0, item)

    task = asyncio.create_task(put())
    await asyncio.sleep(ledger.rng.choice([0, 0.001, 0.004]))
    for _ in range(ledger.rng.randrange(6)):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


# -- the run --------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What the caller has in hand when the run is over, and what is still there at that very moment."""

    error: BaseException | None = None
    report: Report | None = None
    returned: bool = False
    told: bool = False
    """The block got the report of an incomplete drain itself."""
    stuck: str = ""
    """Who waits where, if nothing can go on."""
    ended: float = 0.0
    alive: tuple[str, ...] = ()
    ends: tuple[int, ...] = ()
    workers: tuple[int, ...] = ()
    """How many each stage started; at most its concurrency."""
    open: tuple[str, ...] = ()
    unfinished: tuple[frozenset[Item], ...] = ()
    done: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()
    accepted: tuple[int, ...] = ()
    emitted: tuple[int, ...] = ()
    errors: tuple[Exception, ...] = ()
    noise: list[str] = field(default_factory=list)


class _Play:
    """One scenario on a running loop."""

    def __init__(self, scenario: Scenario, ledger: Ledger) -> None:
        self.scenario = scenario
        self.ledger = ledger
        self.outcome = Outcome()
        self.letters = make_letters(ledger)
        stages = self.compose(scenario.layout)
        sources = [make_source(spec, f"source-{place}", ledger) for place, spec in enumerate(scenario.sources)]
        parts = [merge(*sources), *stages] if sources else stages
        self.pipeline: Pipeline[Any, Any] = Pipeline(
            *parts, maxsize=scenario.maxsize, drain_timeout=scenario.drain_timeout
        )
        self.run: Any = None

    def compose(self, layout: Layout) -> list[Any]:
        """The stages of a layout, as a user would pass them."""
        parts: list[Any] = []
        for element in layout:
            if isinstance(element, int):
                parts.append(make_stage(self.scenario.stages[element], element, self.ledger, self.letters))
            else:
                place, *within = element
                branches = [Pipeline(*self.compose(branch)) for branch in within]
                parts.append(make_branching(self.scenario.stages[place], place, self.ledger, branches))
        return parts

    async def drive(self) -> None:
        """Start the caller and those who disturb it; wait for all of them."""
        CALLERS.set(self.ledger.token)
        caller = asyncio.get_running_loop().create_task(self.call(), name="caller")
        disturbers = [asyncio.create_task(self.disturb(one, caller)) for one in self.scenario.sabotage]
        await asyncio.wait([caller])
        self.ledger.released.set()
        for task in disturbers:
            task.cancel()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=60)
        self.outcome.noise += [f"still there: {task!r}" for task in others if not task.done()]
        self.outcome.noise += [repr(task.exception()) for task in others if task.done() and _failed(task)]

    async def call(self) -> None:
        """The caller's part, and a snapshot at the moment it ends."""
        try:
            await getattr(self, self.scenario.shape)()
            self.outcome.returned = True
        except BaseException as error:
            self.outcome.error = error
        self.snapshot()

    async def awaited(self) -> None:
        self.outcome.report = await self.watched()

    async def watched(self) -> Report:
        asyncio.get_running_loop().call_soon(self.seize)
        return await self.pipeline

    def seize(self) -> None:
        self.run = self.pipeline._run

    async def entered(self) -> None:
        async with self.pipeline as running:
            self.seize()
            await self.in_block(running)
        self.outcome.report = running.report

    async def pushed(self) -> None:
        async with self.pipeline as running:
            self.seize()
            putters = [
                asyncio.create_task(put_all(running, f"putter-{place}", count, self.scenario.calls, self.ledger))
                for place, count in enumerate(self.scenario.putters)
            ]
            if self.scenario.ends_after > 0.005:
                hangs = any(stage.trouble == "hang" for stage in self.scenario.stages)
                await asyncio.wait(putters, timeout=0.05 if hangs else None)
            await self.in_block(running)
        self.outcome.report = running.report

    async def in_block(self, running: Running[Any, Any]) -> None:
        scenario, ledger = self.scenario, self.ledger
        if scenario.ending == "wait":
            self.outcome.report = await running.wait()
            return
        await asyncio.sleep(scenario.ends_after)
        ledger.limit(scenario.drain_timeout)
        if scenario.ending == "raise":
            raise Boom("in the block")
        if scenario.ending == "drain":
            self.outcome.report = await running.drain()
            self.outcome.told = True
        elif scenario.ending == "stop":
            running.stop()
            running.stop()
            await running.wait()
            self.outcome.told = True

    async def streamed(self) -> None:
        scenario, ledger = self.scenario, self.ledger
        async with self.pipeline.stream() as values:
            self.seize()
            left = scenario.reads if scenario.ending != "read" else sys.maxsize
            while left:
                try:
                    value = await anext(values)
                except StopAsyncIteration:
                    break
                ledger.start(len(scenario.stages), value)
                left -= 1
                await _pause(ledger, "some")
            if not left:
                ledger.stopped = True
                ledger.limit(scenario.drain_timeout)
            if scenario.ending == "raise":
                raise Boom("in the block")
        self.outcome.report = values.report

    async def disturb(self, sabotage: Sabotage, caller: asyncio.Task[None]) -> None:
        await asyncio.sleep(sabotage.after)
        for _ in range(sabotage.steps):
            await asyncio.sleep(0)
        if sabotage.deed == "cancel":
            if caller.cancel():
                self.ledger.cancels += 1
                self.ledger.limit(self.scenario.drain_timeout if self.ledger.cancels == 1 else 0.0)
            return
        if sabotage.deed in ("scale", "pause"):
            await self.control(sabotage.deed)
            return
        workers = sorted(
            (t for t in asyncio.all_tasks() if t.get_name().startswith("asyncpc:")), key=lambda t: t.get_name()
        )
        if workers and self.ledger.rng.choice(workers).cancel("from outside"):
            self.ledger.kills += 1

    async def control(self, deed: str) -> None:
        """Change the run under way, if it is."""
        run, rng = self.run, self.ledger.rng
        if run is None:
            return
        if deed == "scale":
            for _ in range(rng.randint(1, 3)):
                place, concurrency = rng.randrange(len(run.stages)), rng.randint(1, 6)
                self.ledger.scaled = max(self.ledger.scaled, concurrency)
                run.scaling.scale(run.stages[place], concurrency)
                await _pause(self.ledger, "some")
        else:
            run.scaling.pause()
            await _pause(self.ledger, "timed")
            run.scaling.resume()

    def snapshot(self) -> None:
        outcome, books = self.outcome, self.ledger.books
        self.ledger.over = True
        outcome.ended = asyncio.get_running_loop().time()
        outcome.alive = tuple(
            task.get_name().removeprefix("asyncpc:")
            for task in asyncio.all_tasks()
            if task.get_name().startswith("asyncpc:") and not task.done()
        )
        if self.run is not None and self.run.report is not None:
            self.look_into_broadcasts(self.run.report)
            for one in self.run.report.unfinished:
                if isinstance(one.item, Item):
                    self.ledger.notice(one.item)
        outcome.open = tuple(f"{name}" for name, task in self.ledger.open.values() if task is None or task.done())
        outcome.unfinished = tuple(frozenset(book.unfinished()) for book in books)
        outcome.done = tuple(len(book.done) for book in books)
        outcome.failed = tuple(len(book.failed) for book in books)
        outcome.dropped = tuple(len(book.dropped) for book in books)
        outcome.accepted = tuple(len(book.accepted) for book in books)
        outcome.emitted = tuple(self.ledger.emitted)
        outcome.errors = tuple(self.ledger.errors)
        if self.run is not None:
            outcome.report = self.run.report
            outcome.ends = tuple(stage.inbox.statistics().ends for stage in self.run.stages)
            outcome.workers = tuple(stage.staff.started for stage in self.run.stages)

    def look_into_broadcasts(self, report: Report) -> None:
        """No code of the user is called there: believe the report as to what is left, and hold it to the rest of it."""
        ledger = self.ledger
        for place, spec in enumerate(self.scenario.stages):
            if spec.branching == "broadcast":
                book = ledger.books[place]
                left = {one.item for one in report.unfinished if one.stage == f"stage-{place}"}
                book.started = [item for item in book.accepted if item not in left]
                book.done = set(book.started)
                for branch in range(len(ledger.following[place])):
                    for item in book.started:
                        ledger.emit(place, item, branch)


def _failed(task: asyncio.Task[Any]) -> bool:
    """Whether a task that helps the scenario failed; that a put was refused is what it waited for."""
    return not task.cancelled() and not isinstance(task.exception(), (QueueShutDown, type(None)))


def play(scenario: Scenario) -> list[str]:
    """Run the scenario in a fresh loop; what is wrong with what happened, nothing if all is well."""
    ledger, outcome = perform(scenario)
    return [outcome.stuck] if outcome.stuck else problems(scenario, ledger, outcome)


def perform(scenario: Scenario) -> tuple[Ledger, Outcome]:
    """Run the scenario in a fresh loop; what its parts wrote down, and what came of it."""
    loop = _new_loop(scenario.loop)
    ledger = Ledger(scenario, loop)
    noise: list[str] = []
    loop.set_exception_handler(lambda _, context: noise.append(f"the loop was told: {context}"))
    with _listening(noise), _clock(scenario, loop):
        game = _Play(scenario, ledger)
        try:
            loop.run_until_complete(_guarded(game.drive()) if scenario.loop == "uvloop" else game.drive())
        except (Deadlock, TimeoutError) as stuck:
            game.outcome.stuck = f"stuck: {stuck}"
            _dismiss(loop, ledger)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
    game.outcome.noise += noise
    return ledger, game.outcome


async def _guarded(main: Coroutine[Any, Any, None]) -> None:
    async with asyncio.timeout(GUARD):
        await main


def _dismiss(loop: asyncio.AbstractEventLoop, ledger: Ledger) -> None:
    """End what is stuck, so that nothing is left to be collected without a loop."""
    ledger.over = True
    ledger.released.set()
    for _ in range(4):
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=1))


def _new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    loop = VirtualLoop()
    loop.set_debug(kind == "debug")
    loop.slow_callback_duration = 60
    if kind == "eager" and sys.version_info >= (3, 12):
        loop.set_task_factory(asyncio.eager_task_factory)
    return loop


@contextmanager
def _clock(scenario: Scenario, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let the workers' clock, which ends their turns, run as the seed says: turns of every length are seen."""
    if scenario.loop == "uvloop":
        yield
        return
    rng, passed = Random(~scenario.seed), 0.0
    pace = rng.choice([0.0, 0.0001, 0.001])

    def clock() -> float:
        nonlocal passed
        passed += rng.random() * pace
        return loop.time() + passed

    before = asyncpc.core.worker.perf_counter
    asyncpc.core.worker.perf_counter = asyncpc.core.emit.perf_counter = clock
    try:
        yield
    finally:
        asyncpc.core.worker.perf_counter = asyncpc.core.emit.perf_counter = before


@contextmanager
def _listening(noise: list[str]) -> Iterator[None]:
    """Hear what Python prints about coroutines never awaited and exceptions in finalizers."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: noise.append(
        f"unraisable: {unraisable.exc_value!r} in {unraisable.object!r}"
    )
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
            noise += [f"warning: {warning.message}" for warning in caught]
    finally:
        sys.unraisablehook = hook


# -- the judgement --------------------------------------------------------------------------------


def problems(scenario: Scenario, ledger: Ledger, outcome: Outcome) -> list[str]:
    """Everything that is wrong with the run."""
    found = [*ledger.problems, *outcome.noise, *_once_each(ledger), *_in_order(scenario, ledger)]
    report = outcome.report
    if report is None:
        if outcome.returned or ledger.cancels == 0:
            found.append("there is no report")
        return found
    found += _balances(scenario, ledger, outcome, report)
    found += _within_bounds(scenario, ledger, outcome, report)
    found += _all_closed(ledger, outcome, report)
    found += _in_time(scenario, ledger, outcome, report)
    found += _right_ending(scenario, ledger, outcome, report)
    return found


def _once_each(ledger: Ledger) -> Iterator[str]:
    """Promise 1: nothing is handled twice, and only what was accepted."""
    for stage, book in enumerate(ledger.books):
        if len(set(book.started)) != len(book.started):
            yield f"stage {stage} handled an item twice"
        if strangers := set(book.started) - set(book.accepted):
            yield f"stage {stage} handled what nobody gave it: {strangers}"


def _in_order(scenario: Scenario, ledger: Ledger) -> Iterator[str]:
    """Invariant 5: FIFO per source; past a stage with several workers there is no order."""
    if ledger.scaled:
        return
    before = scenario.before
    in_order: list[bool] = []
    for stage, book in enumerate(ledger.books):
        givers = before[stage]
        in_order.append(
            len(givers) < 2 and all(in_order[one] and not _reorders(scenario.stages[one]) for one in givers)
        )
        if stage < len(scenario.stages) and scenario.stages[stage].branching == "broadcast":
            continue  # nobody sees its order; that of its branches is looked at
        here = scenario.stages[stage].options if stage < len(scenario.stages) else frozenset()
        shuffled = here & {"breaker", "rate"} and scenario.stages[stage].concurrency > 1
        if not in_order[stage] or here & {"key", "priority"} or shuffled:
            continue
        last: dict[str, tuple[int, ...]] = {}
        for item in (one for one in book.started if isinstance(one, Item)):
            if item.path < last.get(item.origin, ()):
                yield f"stage {stage} handled {item} after {last[item.origin]}"
            last[item.origin] = item.path


def _reorders(spec: StageSpec) -> bool:
    """Whether items may leave a stage in another order than they came."""
    if spec.options & {"key", "priority"} or (spec.generates and "retry" in spec.options):
        return True
    return spec.concurrency > 1 and "ordered" not in spec.options


def _balances(scenario: Scenario, ledger: Ledger, outcome: Outcome, report: Report) -> Iterator[str]:
    """Invariants 2 and 4: the report's books and the ledger say the same."""
    count = len(scenario.stages)
    for place, stage in enumerate(report.stages[:count]):
        left = [one.item for one in report.unfinished if one.stage == stage.name]
        counted = (stage.received, stage.done, stage.failed, stage.dropped, stage.emitted, len(left))
        expected = (
            *(outcome.accepted[place], outcome.done[place], outcome.failed[place], outcome.dropped[place]),
            *(outcome.emitted[place], len(outcome.unfinished[place])),
        )
        if counted != expected:
            yield f"{stage.name}: received, done, failed, dropped, emitted, left are {counted}, should be {expected}"
        if set(left) != outcome.unfinished[place]:
            wrong = set(left) ^ outcome.unfinished[place]
            yield f"{stage.name}: the wrong items are listed as unfinished: {wrong}"
    for stage in report.stages[count:]:
        yield from _all_told(
            scenario, ledger, stage, [one.item.item for one in report.unfinished if one.stage == stage.name]
        )
    left_count = len([one for one in report.unfinished if not isinstance(one.item, Failure)])
    if left_count != sum(map(len, outcome.unfinished[:-1])):
        yield f"{left_count} items are listed as unfinished"
    if report.produced != outcome.accepted[0] - ledger.fed or report.fed != ledger.fed:
        yield f"produced {report.produced} and fed {report.fed}, should be {outcome.accepted[0]} and {ledger.fed}"
    if (
        scenario.ending == "read"
        and outcome.returned
        and ledger.books[-1].unfinished() != set(ledger.books[-1].started)
    ):
        yield "the reader did not get all results"


def _all_told(scenario: Scenario, ledger: Ledger, stage: StageStatistics, left: list[Item]) -> Iterator[str]:
    """The consumer that is told of failures gets each of them once."""
    book = ledger.letters
    tellers = [place for place, spec in enumerate(scenario.stages) if "letters" in spec.options]
    failed = {item for place in tellers for item in ledger.books[place].failed if not item.is_called}
    told = [*book.started, *(item for item in left if item not in book.started)]
    if len(set(told)) != len(told) or not failed.issuperset(told):
        yield f"told of {told}, failed: {failed}"
    if (stage.received, stage.done) != (len(told), len(book.done)):
        yield f"letters: received, done are {stage.received, stage.done}, should be {len(told), len(book.done)}"
    if _calm(ledger) and not ledger.limits and failed.difference(told):
        yield f"not told of {failed.difference(told)}"


def _within_bounds(scenario: Scenario, ledger: Ledger, outcome: Outcome, report: Report) -> Iterator[str]:
    """Invariant 1: the bound, one more per writer that was cancelled, and what was fed."""
    calm = _calm(ledger) and not ledger.limits
    before = scenario.before
    for place, stage in enumerate(report.stages[: len(scenario.stages)]):
        own = scenario.stages[place].maxsize
        maxsize = scenario.maxsize if own is None else own
        if own is None and "batch" in scenario.stages[place].options and maxsize:
            maxsize = max(maxsize, 4)  # or no batch would ever be full
        givers = [scenario.stages[giver] for giver in before[place]]
        if not calm and any(giver.options & {"batch", "ordered"} for giver in givers):
            continue  # what was finished and had not left has come at the end
        writers = sum(max(giver.concurrency, ledger.scaled) for giver in givers) if place else len(scenario.sources)
        allowed = maxsize + (0 if calm else writers) + (0 if place else ledger.fed)
        if maxsize and stage.peak_queued > allowed:
            yield f"{stage.name}: peak {stage.peak_queued} above {allowed}"


def _all_closed(ledger: Ledger, outcome: Outcome, report: Report) -> Iterator[str]:
    """Invariant 6: what is still there when the run returns was abandoned by name."""
    if sorted(outcome.alive) != sorted(report.abandoned):
        yield f"still running: {outcome.alive}, abandoned: {report.abandoned}"
    if outcome.open:
        yield f"not closed: {outcome.open}"
    if ledger.open:
        yield f"never closed: {[name for name, _ in ledger.open.values()]}"
    if report.abandoned and not ledger.swallowed:
        yield f"abandoned, though nobody ignored a cancellation: {report.abandoned}"


def _calm(ledger: Ledger) -> bool:
    """Whether nothing went wrong that may leave items unhandled."""
    wrong = ledger.errors or ledger.interrupts or ledger.cancels or ledger.kills or ledger.own_cancels
    return not wrong and not ledger.stopped


def _in_time(scenario: Scenario, ledger: Ledger, outcome: Outcome, report: Report) -> Iterator[str]:
    """Promise 5: the run ends by its deadline; invariant 3: each worker that lived to the end saw one END."""
    slack = REAL_SLACK if scenario.loop == "uvloop" else SLACK
    for began, seconds in ledger.limits:
        if outcome.ended > began + seconds + slack + 1e-9:
            yield f"ended at {outcome.ended:.3f}, {seconds} s were allowed from {began:.3f}"
        elif outcome.ended > began + AMPLE / 2:
            yield f"only the deadline ended it, at {outcome.ended:.3f}"
    late = any(outcome.ended >= began + seconds - 1e-9 for began, seconds in ledger.limits)
    live = outcome.workers
    most = [*(spec.concurrency for spec in scenario.stages), 2]
    if not ledger.scaled and any(started > allowed for started, allowed in zip(live, most, strict=False)):
        yield f"workers {live}, more than the concurrency"
    if _calm(ledger) and not late:
        if not report.complete:
            yield f"nothing went wrong, and {len(report.unfinished)} items were left"
        if outcome.ends != live and not ledger.scaled:  # those who left before were not told
            yield f"ENDs {outcome.ends}, workers {live}"
    elif any(ends > count for ends, count in zip(outcome.ends, live, strict=True)):
        yield f"more ENDs {outcome.ends} than workers {live}"


def _right_ending(scenario: Scenario, ledger: Ledger, outcome: Outcome, report: Report) -> Iterator[str]:
    """Invariant 7: exactly what was raised comes out; a cancelled caller gets CancelledError."""
    error = outcome.error
    if ledger.interrupts and error in ledger.interrupts:
        return
    if ledger.cancels:
        if not isinstance(error, asyncio.CancelledError):
            yield f"the caller was cancelled and got {error!r}"
        return
    if ledger.interrupts:
        yield f"KeyboardInterrupt became {error!r}"
        return
    raised = list(error.exceptions) if isinstance(error, PipelineError) else [error] if error else []
    strange = [one for one in raised if not any(one is known for known in outcome.errors)]
    lost = [one for one in outcome.errors if not any(one is known for known in raised)]
    if lost:
        yield f"lost errors: {lost}, got {error!r}"
    expected = list(_expected_beside(scenario, ledger, outcome, report))
    kinds = [type(one) for one in strange]
    for kind, needed in expected:
        if needed and kind not in kinds:
            yield f"{kind.__name__} is missing in {error!r}"
        kinds = [one for one in kinds if one is not kind]
    if kinds:
        yield f"unexpected {strange} in {error!r}"
    if error is None and not outcome.returned:
        yield "the caller neither returned nor raised"


def _expected_beside(
    scenario: Scenario, ledger: Ledger, outcome: Outcome, report: Report
) -> Iterator[tuple[type[Exception], bool]]:
    """The kinds of exceptions beside those of sources and handlers, and whether each must be there."""
    cut = ledger.kills + ledger.own_cancels
    if cut:
        alone = not (ledger.errors or ledger.limits or ledger.swallowed or ledger.stopped or ledger.kills > 1)
        yield WorkerCancelled, alone and cut == 1 and bool(ledger.own_cancels)
    in_block = scenario.ending == "raise" and not isinstance(outcome.error, PipelineError)
    if scenario.ending == "raise":
        yield Boom, in_block
    silent = outcome.told or scenario.ending in ("break", "raise") or outcome.errors
    if not silent and not ledger.stopped:
        yield DrainTimeout, not report.complete and not cut


# -- the command ----------------------------------------------------------------------------------


def failing(seeds: range, stop_at: int = 0, loop: str | None = None) -> dict[int, list[str]]:
    """The seeds whose scenarios fail, with what is wrong; stops after ``stop_at`` of them if that is not 0."""
    failures: dict[int, list[str]] = {}
    for seed in seeds:
        scenario = draw(seed)
        if found := play(replace(scenario, loop=loop) if loop else scenario):
            failures[seed] = found
            if len(failures) == stop_at:
                break
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.scenarios", description="Run random scenarios.")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--only", type=int, help="one seed, with all that was drawn")
    parser.add_argument("--loop", choices=["plain", "debug", "eager", "uvloop"], help="instead of the one drawn")
    options = parser.parse_args()
    if options.only is not None:
        print(draw(options.only))
        seeds = range(options.only, options.only + 1)
    else:
        seeds = range(options.seed, options.seed + options.count)
    began = time.perf_counter()
    failures = failing(seeds, loop=options.loop)
    for seed, found in failures.items():
        print(f"seed {seed}: " + "\n    ".join(found) + f"\n    python -m tests.scenarios --only {seed}")
    print(f"{len(seeds)} scenarios, {len(failures)} failed, {time.perf_counter() - began:.1f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
