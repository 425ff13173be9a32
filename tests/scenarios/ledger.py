"""What the parts of a scenario write down as they run: each item accepted, started, finished or failed, by identity."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from .spec import Scenario

__all__ = ["CALLERS", "Book", "Boom", "Item", "Ledger", "Touchy", "key_of"]

CALLERS: Final[ContextVar[object]] = ContextVar("callers")
"""What the caller of the run has set; each call of a handler must see it."""


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
