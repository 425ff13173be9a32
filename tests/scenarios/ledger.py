"""What the parts of a scenario write down as they run: each item accepted, started, finished or failed, by identity.

What becomes of an item whose value is *refused* by the next queue is known here before asyncpc knows it, if a function
of the item raises (:meth:`Ledger.refuses`): what was emitted stays emitted, and the item has failed under the policy of
the stage that gave the value. In a run that ends early it may as well be left, so such items are *loose* until the
judge has seen how the run ended. Whether a full queue refused a value (``overflow="raise"``) is seen by nobody: the
value was *offered*, and counts as accepted once somebody has seen it behind that queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any, Final

from .spec import MODULUS, Scenario, StageSpec
from .watching import Counting

if TYPE_CHECKING:
    from .remote import Deliveries

__all__ = ["CALLERS", "Book", "Boom", "Item", "Ledger", "OwnCancel", "Touchy", "key_of"]

CALLERS: Final[ContextVar[object]] = ContextVar("callers")
"""What the caller of the run has set; each call of a handler must see it."""


_serials: Final = count()


class Item:
    """One item; ``path`` orders the items of one ``origin``, and those made from them."""

    __slots__ = ("depth", "is_called", "origin", "path", "roots", "serial")

    def __init__(self, origin: str, path: tuple[int, ...], depth: int = 0, is_called: bool = False) -> None:
        self.origin = origin
        self.path = path
        self.depth = depth
        self.is_called = is_called
        self.roots: frozenset[str] = frozenset()  # the messages that it was made of
        self.serial = next(_serials)

    def child(self, number: int) -> Item:
        """A value made from it."""
        item = Item(self.origin, (*self.path, number), self.depth, self.is_called)
        item.roots = self.roots
        return item

    @classmethod
    def model_validate(cls, value: object) -> Item:
        """Nobody reads the messages that are made of items; with the next method it looks like a model of pydantic."""
        raise NotImplementedError

    def model_dump(self, mode: str) -> int:
        """What its message has in its body."""
        return self.serial

    def __repr__(self) -> str:
        return f"{self.origin}:{'.'.join(map(str, self.path))}"


class Boom(Exception):
    """What sources, handlers, functions of an item and blocks raise."""


class OwnCancel(asyncio.CancelledError):
    """A handler's own, which nobody asked for."""


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
    loose: set[Item] = field(default_factory=set)
    """A value of theirs was refused: they have failed, or in a run that ended early they are left."""
    closed: set[Item] = field(default_factory=set)
    """Their generator was closed before its end."""
    together: dict[Item, list[Item]] = field(default_factory=dict)
    """The batch that each came in."""

    def unfinished(self) -> set[Item]:
        return set(self.accepted) - self.done - self.failed - self.dropped - self.loose


def key_of(item: Item) -> int:
    return sum(item.path) % 3


class Ledger:
    """What sources, handlers, putters and the caller saw, written by themselves as it happened."""

    def __init__(self, scenario: Scenario, loop: asyncio.AbstractEventLoop) -> None:
        self.rng = Random(scenario.seed)
        self.loop = loop
        self.scenario = scenario
        self.books = [Book(_bound(scenario, stage)) for stage in range(len(scenario.stages) + 1)]
        self.following = scenario.following
        self.entries = scenario.entries
        self.emitted = [0] * len(scenario.stages)
        self.told: dict[tuple[str, Item], bool] = {}  # stage and item of each letter, and whether it was handled
        self.problems: list[str] = []
        self.errors: list[Exception] = []  # that must come out
        self.interrupts: list[BaseException] = []
        self.open: dict[object, tuple[str, asyncio.Task[Any] | None]] = {}
        self.limits: list[tuple[float, float]] = []  # when a deadline began, and how long it was
        self.outside = 0  # items accepted from sources and callers
        self.fed = 0
        self.calls = [0] * len(scenario.stages)
        self.cancels = 0  # of the caller
        self.kills = 0  # of workers, from outside
        self.scaled = 0  # the most workers a stage was given later
        self.own_cancels = 0  # raised by handlers and sources, that fail the run
        self.swallowed = 0
        self.stopped = False  # the caller asked for less than everything
        self.released = asyncio.Event()  # whoever ignores cancellations for ever is let go
        self.refusals: list[Exception] = []  # by a function of an item
        self.refused_sources: set[str] = set()
        self.stopped_by_refusal: set[int] = set()  # stages whose policy makes a refused value fail the run
        self.offered: dict[tuple[int, Item], tuple[int | None, Sequence[Item]]] = {}
        self.lists: dict[int, tuple[Any, Item]] = {}  # lists that are items themselves, by their identity
        self.must_not_wait = scenario.calls or scenario.is_remote  # for more of a batch
        self.deliveries: list[Deliveries] = []  # of remote sources
        self.gone: set[str] = set()  # messages that were acknowledged or buried
        self.read: set[Item] = set()  # results that their reader, or a remote sink, has done with
        self.by_serial: dict[int, Item] = {}  # results
        self.alone = len(scenario.sources) == 1
        self.streamed = scenario.shape == "streamed"
        first = scenario.stages[0]
        self.waits = not first.options & {"overflow", "raise"} and first.branching != "broadcast"
        self.over = False  # the run has returned; abandoned workers may still come back
        self.token = object()  # the caller's context variable
        self.spans = Counting(self.problems)

    @property
    def keeps_traces_apart(self) -> bool:
        """Whether each item is traced by itself: what is made of a batch is in the trace of its first item."""
        stages = self.scenario.stages
        return bool(self.scenario.traced) and not any(one.generates and "batch" in one.options for one in stages)

    # -- what comes in ----------------------------------------------------------------------------

    def give(self, place: int, item: Item) -> None:
        """A source gives the item to the stage at that place."""
        if item.origin in self.refused_sources:
            self.problems.append(f"{item.origin} was asked for more after an item of it was refused")
        elif self.refuses(place, item):
            self.refused_sources.add(item.origin)
        elif self.may_refuse(place):
            self.offered[place, item] = (None, ())
        else:
            self.take(place, item)

    def take(self, place: int, item: Item) -> None:
        """An item was accepted from outside."""
        self.outside += 1
        self.accept(place, item)

    def accept(self, stage: int, item: Item) -> None:
        book = self.books[stage]
        if stage == len(self.scenario.stages):
            self.by_serial[item.serial] = item
        book.accepted.append(item)
        if not self.over and len(book.accepted) - len(book.started) > book.limit + (self.fed if stage == 0 else 0):
            self.problems.append(f"bound: stage {stage} holds {len(book.accepted) - len(book.started)} items")

    def ask(self) -> None:
        """The only source is asked for an item: there must be room in the first queue."""
        first = self.books[0]
        if self.waits and self.alone and not self.fed and len(first.accepted) - len(first.started) >= first.limit - 1:
            self.problems.append("backpressure: the source was asked while the queue was full")

    def notice(self, stage: int, item: Item) -> None:
        """An item is seen behind the queue of the stage: so it was accepted, if nobody has told that yet.

        Of a call the caller tells no earlier than of its result.
        """
        if not isinstance(item, Item):
            self.problems.append(f"{item!r} is in stage {stage}, and nobody gave it")
        elif (offer := self.offered.pop((stage, item), None)) is not None:
            if offer[0] is None:
                self.take(stage, item)
            else:
                self.emitted[offer[0]] += 1
                self.accept(stage, item)
        elif item.is_called and len(item.path) == 1 and stage == 0 and item not in self.books[0].accepted:
            self.take(0, item)

    # -- what a stage does ------------------------------------------------------------------------

    def start(self, stage: int, item: Item) -> None:
        self.notice(stage, item)
        self.look_at_roots(f"stage {stage}", item)
        self.books[stage].started.append(item)

    def look_at_roots(self, where: str, item: Item) -> None:
        """No message of an item may be gone when somebody has it."""
        if early := item.roots & self.gone:
            self.problems.append(f"{where} has {item}, whose messages {sorted(early)} are gone")

    @contextmanager
    def handling(self, stage: int, items: list[Item]) -> Iterator[None]:
        """One call of a handler, whatever its end."""
        book, options = self.books[stage], self.scenario.stages[stage].options
        if items[0] in book.together and "retry" in options:
            self._look_at_retry(stage, items)
        else:
            for item in items:
                self.start(stage, item)
                book.together[item] = items
        self._look_around(stage, items)
        book.running.update(items)
        try:
            yield
        except GeneratorExit:
            book.closed.update(items)
            raise
        except asyncio.CancelledError as error:
            if isinstance(error, OwnCancel):
                self._cancelled_itself(stage, items)
            raise
        except Exception as error:
            if "retry" not in options:  # else the next call succeeds, if there is one
                book.failed.update(items)
                if self.fails_the_run(stage, items):
                    self.raised(error)
            raise
        except BaseException as error:
            book.failed.update(items)
            self.interrupts.append(error)
            raise
        else:
            book.done.update([item for item in items if item not in book.loose])
        finally:
            book.running.difference_update(items)

    def _look_at_retry(self, stage: int, items: list[Item]) -> None:
        """What may be tried again, and with what."""
        book = self.books[stage]
        if book.together[items[0]] != items:
            self.problems.append(f"retry: stage {stage} got {items}, and before {book.together[items[0]]}")
        if settled := [item for item in items if item in book.done | book.failed | book.loose | book.closed]:
            self.problems.append(f"retry: stage {stage} tries again what it has given values of: {settled}")

    def _look_around(self, stage: int, items: list[Item]) -> None:
        """What a handler may see when it is called."""
        options = self.scenario.stages[stage].options
        if CALLERS.get(None) is not self.token:
            self.problems.append(f"context: a handler of stage {stage} saw {CALLERS.get(None)!r}")
        if "key" in options and set(map(key_of, items)) & set(map(key_of, self.books[stage].running)):
            self.problems.append(f"key: stage {stage} handles two items of one key at once")
        if self.keeps_traces_apart and (len(items) == 1 or self.scenario.traced == "all"):
            first = items[0]
            self.spans.look(f"stage {stage}", (first.origin, first.path[0]), self.scenario.traced == "all")

    def _cancelled_itself(self, stage: int, items: list[Item]) -> None:
        """A handler raised CancelledError: a failure like any other, unless it was cancelled (invariant 7)."""
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            self.books[stage].failed.update(items)
            self.own_cancels += self.fails_the_run(stage, items)

    def fails_the_run(self, stage: int, items: Sequence[Item]) -> bool:
        """Whether a failure of these items is one of the run: no policy gives them up, and somebody else put them."""
        options = self.scenario.stages[stage].options
        if "stop" in options:
            return not all(item.is_called for item in items)
        return not options & {"dead letters", "skip"} and not all(item.is_called or item.roots for item in items)

    def drop(self, stage: int, item: Item) -> None:
        self.notice(stage, item)
        self.books[stage].dropped.add(item)

    # -- what it gives ----------------------------------------------------------------------------

    def emit(self, stage: int, value: Item, of: list[Item], branch: int = 0) -> None:
        """The stage gives ``value``, made of the items ``of``, to the next, or to that branch."""
        to, book = self.following[stage][branch], self.books[stage]
        value.roots = value.roots.union(*(item.roots for item in of))
        if self.refuses(to, value):
            book.done.difference_update(of)
            book.loose.update(of)
            if self.fails_the_run(stage, of):
                self.stopped_by_refusal.add(stage)
        elif self.may_refuse(to) or stage in self.stopped_by_refusal or not book.loose.isdisjoint(of):
            self.offered[to, value] = (stage, of)
        else:
            self.emitted[stage] += 1
            self.accept(to, value)

    def refuses(self, stage: int, item: Item) -> bool:
        """Whether a function of the stage raises for the item, so that its queue does not take it."""
        spec = self._spec(stage)
        return spec is not None and spec.refuses not in ("", "by") and self.is_odd(spec, item)

    def is_odd(self, spec: StageSpec, item: Item) -> bool:
        """Whether the function of the stage that raises does so for this item."""
        return (sum(item.path) + len(item.path)) % MODULUS == spec.refuses_at

    def may_refuse(self, stage: int) -> bool:
        """Whether the stage's queue refuses what comes when it is full."""
        spec = self._spec(stage)
        return spec is not None and "raise" in spec.options

    def function_of_item(self, stage: int, option: str, value: Callable[[Item], Any]) -> Callable[[Any], Any]:
        """``value`` as a function of an item for that option, which raises for some if it was drawn so."""
        spec = self.scenario.stages[stage]

        def function(given: Any) -> Any:
            item = self.known(given)
            if spec.refuses == option and self.is_odd(spec, item):
                error = Boom(f"{option} of stage {stage} at {item}")
                self.refusals.append(error)
                if item.origin in self.refused_sources and len(item.path) == 1:
                    self.limit(self.scenario.drain_timeout)
                raise error
            return value(item)

        return function

    def list_as_item(self, given: Any, item: Item) -> None:
        """From now on the list stands for that item."""
        self.lists[id(given)] = (given, item)

    def known(self, given: Any) -> Item:
        """The item that was given, also if that is a list."""
        if isinstance(given, list):
            return self.lists[id(given)][1]
        if not isinstance(given, Item):
            self.problems.append(f"{given!r} is nobody's item")
            return Item("nobody", (0,))
        return given

    def _spec(self, stage: int) -> StageSpec | None:
        return self.scenario.stages[stage] if stage < len(self.scenario.stages) else None

    # -- messages ---------------------------------------------------------------------------------

    @property
    def sees_failures(self) -> bool:
        """Whether each failure is seen here: that a full queue refuses a value, or a branch an item, is not."""
        following, stages = self.following, self.scenario.stages
        return not any(
            "raise" in spec.options
            or (spec.branching == "broadcast" and any(stages[to].refuses_items for to in following[place]))
            for place, spec in enumerate(stages)
        )

    def under_way(self, message: str) -> Iterator[tuple[str, Item]]:
        """What was made of the message and has not finished, as far as handlers and readers have seen it."""
        for place, book in enumerate(self.books[:-1]):
            seen = book.running if self.scenario.stages[place].branching == "broadcast" else {*book.accepted}
            for item in (seen | {*book.started}) - book.done - book.failed - book.dropped - book.loose - book.closed:
                if message in item.roots:
                    yield f"stage {place}", item
        for (_, item), handled in self.told.items():
            if not handled and message in item.roots:
                yield "the dead letters", item
        if self.streamed or self.scenario.sinks:
            for item in {*self.books[-1].accepted} - self.read:
                if message in item.roots:
                    yield "the results", item

    def has_failed(self, message: str) -> bool:
        """Whether an item of the message has failed, and no policy of the user took that."""
        stages = zip(self.scenario.stages, self.books[:-1], strict=True)
        books = [book for spec, book in stages if not spec.options & {"dead letters", "skip"}]
        return any(message in item.roots for book in books for item in book.failed | book.loose)

    def has_begun(self, message: str) -> bool:
        """Whether a handler has had an item of the message."""
        return any(message in item.roots for book in self.books for item in book.started)

    def has_stopped(self, message: str) -> bool:
        """Whether the run may have failed with an item of the message."""
        return any(message in item.roots for book in self.books for item in book.failed | book.loose)

    # -- how it ends ------------------------------------------------------------------------------

    def settle_offers(self) -> int:
        """What was offered and seen by nobody was refused; how many times that should fail the run."""
        fatal = 0
        for (to, _), (stage, of) in self.offered.items():
            if stage is not None:
                self.books[stage].done.difference_update(of)
                self.books[stage].loose.update(of)
            fatal += self.may_refuse(to) and (stage is None or self.fails_the_run(stage, of))
        return fatal

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
    writers = sum(giver.concurrency for giver in givers) + scenario.entries.count(stage)
    before = frozenset[str]().union(*(giver.options for giver in givers))
    here = frozenset[str]() if last else scenario.stages[stage].options
    scaled = "scale" in (
        scenario.listener,
        *(one.deed for one in scenario.sabotage),
    )  # nobody knows how many writers there are
    unseen = here & {"batch", "breaker", "overflow", "raise", "rate"}
    early = before & {"batch", "ordered"}  # their values are known here before they leave
    return maxsize + writers if maxsize and not (scaled or unseen or early) else float("inf")
