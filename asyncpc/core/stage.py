"""``Stage``: one stage of one run, as its workers share it; and ``ConsumerWorker``: what is known of one of them.

The loops that work with these are in ``worker``; options change a stage through the fields that are seams.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from time import perf_counter
from typing import Any, Final

from ..errors import WorkerCancelled
from ..events import ItemFailed
from ..failure import FAILURES_KEPT, KeptFailure
from ..wording import annotate
from .channel import Channel
from .latency import Latency, LoopProbe
from .plan import Handler
from .seams import (
    Adjust,
    Call,
    Calls,
    Following,
    GiveUp,
    Recover,
    RemoteCounts,
    Stopwatch,
    Telling,
    Ticket,
    Window,
    Wrap,
)
from .tracked import fail_all, plain
from .waiting import Budget, Waits, nobody

__all__ = [
    "DONE",
    "NO_ITEM",
    "ConsumerWorker",
    "Outlet",
    "RunLinks",
    "Stage",
    "Worker",
    "give_up_all",
    "stray",
]


class _Mark:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


DONE: Final = _Mark("DONE")
"""A call's value when it has passed its values on itself, or a policy gave the item up."""

NO_ITEM: Final = _Mark("NO_ITEM")
"""What a worker has in flight when it has nothing; any object may be an item."""


class Worker:
    """What the supervisor knows about a task: its name, how it ended, and whether the supervisor cancelled it."""

    __slots__ = (
        "abandoned",
        "cancelled",
        "completed",
        "context",
        "failures",
        "interrupted",
        "leaves_a_call",
        "name",
        "task",
    )

    def __init__(self, name: str) -> None:
        self.name: str = name
        self.task: asyncio.Task[None] | None = None
        self.context: Context | None = None
        self.failures: tuple[BaseException, ...] = ()
        self.completed: bool = False  # came to its proper end, its resource included
        self.cancelled: bool = False  # by the supervisor
        self.interrupted: bool = False  # to be looked at after each item: cancelled, or its stage was changed
        self.abandoned: bool = False
        self.leaves_a_call: bool = False  # in a thread

    def failed_with(self, error: BaseException) -> None:
        """Keep the error, once, for the supervisor to judge."""
        if not any(error is known for known in self.failures):
            self.failures = (*self.failures, error)


class ConsumerWorker(Worker):
    """One of a stage's workers."""

    __slots__ = (
        "attempt",
        "call",
        "calls",
        "changes",
        "function",
        "given",
        "given_up",
        "home",
        "inside",
        "item",
        "passing",
        "settled",
        "stage",
        "stopwatch",
        "ticket",
        "waits_for",
        "watched",
        "where",
    )

    def __init__(self, name: str, stage: Stage) -> None:
        super().__init__(name)
        self.stage: Stage = stage
        self.item: Any = NO_ITEM  # in flight; or all that it took at once
        self.function: Callable[[Any], Any] = stage.handler.function  # the handler, with the resource if it has one
        self.attempt: Call = self.function  # how it makes one attempt at an item, with what the stage was asked for
        self.call: Call = self.function  # how it handles an item: the same, or an attempt whose values wait their turn
        self.calls: Calls | None = None  # outside the loop, if one may go on after it has failed
        self.changes: int = -1  # of the stage's wraps that these know
        self.home: Context | None = None  # what each call of the handler sees
        self.watched: tuple[Context | None, Context | None] = None, None  # they differ once a handler has changed one
        self.inside: Context | None = None  # the context of the item in flight, if that has one of its own
        self.settled: int = 0  # times that what it took was done or failed
        self.given: int = 0  # values that its generators gave
        self.ticket: Ticket | None = None  # of the item in flight
        self.stopwatch: Stopwatch | None = None  # what times its calls
        self.given_up: KeptFailure | None = None  # the item in flight, if it has failed and ends the run with that
        self.passing: float = 0.0  # seconds of this run of items in which it waited, and the handler did not work
        self.waits_for: object = None  # in such a wait: the channel that has no room, or what str() says in words
        self.where: Callable[[], str] | None = None  # where its calls outside the loop are

    def fail(self, error: BaseException) -> None:
        """Keep the error; what is in flight has failed with it."""
        self.failed_with(error)
        if self.item is not NO_ITEM:
            items = self.stage.inbox.items_in(self.item)
            if self.stage.handler.takes_lists:
                self.item = deque(items)
            for item in items:
                self.settle_failed(self._failure(item, error))
            if self.stage.handler.takes_lists:
                self.stage.counts.settled_besides -= 1
                self.settle()
            # An interrupt gives its items back at once, so the run stops first, or it could receive them again. Where
            # Python closes a coroutine that was dropped, its loop has gone, and no run can be stopped.
            if not isinstance(error, (Exception, GeneratorExit)):
                self.stage.run.failing(self)
            fail_all(items, error)

    def _failure(self, item: Any, error: BaseException) -> KeptFailure:
        if self.given_up is None:
            return KeptFailure.of(plain(item), error, 1, self.stage.handler.name)
        return self.given_up._replace(item=plain(item))  # of a batch, the first was given up, and the others go with it

    def settle(self) -> None:
        """Count the item in flight as done, before a cancel comes out: its values are in a place of their own."""
        if self.item is not NO_ITEM:
            self.item = NO_ITEM
            self.settled += 1

    def settle_first(self) -> None:
        """Of several items in flight the first is done, or has failed."""
        self.item.popleft()
        self.stage.counts.settled_besides += 1

    def settle_failed(self, failure: KeptFailure) -> None:
        """The item that is being given up has failed: the only one in flight, or the first of several."""
        if self.stage.handler.takes_lists:
            self.settle_first()
        else:
            self.settle()
        self.stage.count_failed(failure)


class Outlet:
    """A channel that a stage writes to, and how many values it has put there."""

    __slots__ = ("channel", "emitted")

    def __init__(self, channel: Channel[Any] | None) -> None:
        self.channel: Channel[Any] | None = channel  # None: nobody reads the values of the last stage
        self.emitted: int = 0  # values put there, where they do not follow from the items done


class Counts:
    """What became of a stage's items, besides what its workers count."""

    __slots__ = ("dropped", "failed", "last_failure", "reporting", "retried", "settled_besides", "unread")

    def __init__(self) -> None:
        self.failed: int = 0
        self.last_failure: str = ""  # what the last item that was given up failed with
        self.retried: int = 0  # calls after the first of an item
        self.unread: bool = False  # whether it gave values that go nowhere, as far as was looked
        self.dropped: int = 0
        self.reporting: int = 0  # items whose failure is being reported
        self.settled_besides: int = 0  # items settled beyond one for each that a worker took, and by workers that left


class Staff:
    """The workers of a stage, and how many it may have."""

    __slots__ = (
        "adjust",
        "changes",
        "concurrency",
        "gate",
        "has_opened",
        "look",
        "opening",
        "resting",
        "started",
        "surplus",
        "workers",
    )

    def __init__(self, concurrency: int) -> None:
        self.concurrency: int = concurrency
        self.workers: dict[ConsumerWorker, None] = {}  # at work, or ended with an item in flight
        self.started: int = 0  # workers so far
        self.opening: set[ConsumerWorker] = set()  # their resource
        self.has_opened: bool = False  # one of them, its resource
        self.look: Callable[[], RemoteCounts] | None = None  # at a remote queue, with the resource that was opened last
        self.resting: int = 0  # workers that wait for the end of a call that has failed
        self.surplus: int = 0  # workers that are to leave
        self.gate: asyncio.Event | None = None  # while the stage is paused: set when it goes on
        self.changes: int = 0  # how often the stage's wraps were changed, so that workers call in another way
        self.adjust: Adjust | None = None  # what changes the concurrency now and then

    def interrupt(self) -> None:
        """Let the workers look at what was changed before they take another item; may be called in any thread."""
        for worker in tuple(self.workers):
            worker.interrupted = True

    def left(self, worker: ConsumerWorker, counts: Counts) -> None:
        """Forget a worker that has ended, but for what it did; one that left an item is needed for the report."""
        if worker.item is NO_ITEM:
            counts.settled_besides += worker.settled
            self.workers.pop(worker, None)


class Timing:
    """Where a stage's time goes; all of it is looked at once per run of items, or when somebody waits."""

    __slots__ = ("held_back", "latency", "loop", "out_waits")

    def __init__(self) -> None:
        self.latency: Latency = Latency()
        self.loop: LoopProbe = LoopProbe()
        self.out_waits: Waits | None = None  # its own waits for room, where others write to the same channels
        self.held_back: dict[object, Waits] = {}  # by what held calls back; its str() says it in words


class RunLinks:
    """What a stage knows of its run."""

    __slots__ = (
        "_all_know",
        "comes_with_tickets",
        "events",
        "failing",
        "failures",
        "following",
        "machines",
        "staffs",
        "tracks",
        "trouble",
    )

    def __init__(
        self,
        tracks: bool,
        trouble: Callable[[BaseException, str], None],
        failing: Callable[[Worker], None],
        events: Telling,
        following: Following | None = None,
    ) -> None:
        self.tracks: bool = tracks
        """Whether items may come with tickets; see :meth:`track`."""
        self._all_know = tracks
        self.comes_with_tickets: bool = False
        """Whether most items do."""
        self.staffs: list[Staff] = []
        """Those of all stages."""
        self.trouble: Callable[[BaseException, str], None] = trouble
        """Ends the run with an error that nobody can raise in the midst of its work, and the name of the stage."""
        self.failing: Callable[[Worker], None] = failing
        """Tells the run of a worker that has failed and has yet to end."""
        self.failures: deque[KeptFailure] = deque(maxlen=FAILURES_KEPT)
        """The last items that failed, in any stage."""
        self.events: Telling = events
        """Who is told what happens."""
        self.following: Following | None = following
        """What follows some of the items."""
        self.machines: dict[int, Any] = {}
        """What stages share that were asked for with one and the same option, by its identity."""

    def let_go(self) -> None:
        """The run has ended with all of its workers: nobody is left who could end it."""
        self.trouble = self.failing = nobody

    def track(self) -> None:
        """Items may come with tickets from now on: workers look for them before they take another item.

        May be called in several threads at once: when it returns, all workers know.
        """
        if not self._all_know:
            self.tracks = True  # first, since a worker looks at it when it sees the change
            for staff in self.staffs:
                staff.changes += 1
                staff.interrupt()
            self._all_know = True  # last, since whoever sees it puts an item in at once


class Stage:
    """What the workers of a stage share."""

    __slots__ = (
        "before",
        "counts",
        "dead_letters",
        "fail_at_last",
        "give_up",
        "handler",
        "inbox",
        "outlets",
        "recover",
        "run",
        "staff",
        "timing",
        "window",
        "wraps",
    )

    def __init__(self, handler: Handler, inbox: Channel[Any], run: RunLinks) -> None:
        self.handler: Handler = handler
        self.inbox: Channel[Any] = inbox
        self.run: RunLinks = run
        self.before: list[Stage] = []  # those that write to it
        self.outlets: list[Outlet] = []  # of a branching several, of any other stage one
        self.dead_letters: Outlet | None = None  # to the stage that receives failures
        self.counts: Counts = Counts()
        self.staff: Staff = Staff(handler.concurrency)
        run.staffs.append(self.staff)
        self.timing: Timing = Timing()
        self.wraps: list[Wrap] = []  # around the handler, the innermost first
        self.recover: Recover = _raise_error  # what becomes of a call that raised
        self.fail_at_last: GiveUp = give_up_all  # what becomes of what a worker took at once, if all attempts failed
        self.give_up: GiveUp = _raise_last  # what becomes of an item that has failed at last
        self.window: Window | None = None  # what waits to leave behind an item before it
        for option in handler.options:
            option.install(self)

    def connect(self, following: list[Stage], dead_letters: Stage | None, results: Channel[Any] | None) -> None:
        """Let it write to the stages after it; the values of an end go to ``results``, or nowhere."""
        for stage in [*following, *([] if dead_letters is None else [dead_letters])]:
            stage.before.append(self)
        self.dead_letters = None if dead_letters is None else Outlet(dead_letters.inbox)
        if self.handler.branches is not None:
            self.outlets = [Outlet(stage.inbox) for stage in following]
        else:
            self.outlets = [Outlet(following[0].inbox if following else results)]
        if self.window is not None:
            self.window.connect(self)

    def count_failed(self, failure: KeptFailure) -> None:
        """Count an item that has failed at last, and has been settled; and tell listeners."""
        self.counts.failed += 1
        self.run.failures.append(failure)
        if events := self.run.events:
            item, error, attempts, stage = failure[:4]
            events.tell(ItemFailed(events.pipeline, stage, item, error, attempts, failure.place))

    @property
    def emits_one_each(self) -> bool:
        """Whether its values follow from the items done: one of each, put by the worker's loop itself."""
        return not (
            self.handler.generates
            or self.handler.takes_lists
            or self.window is not None
            or self.handler.branches is not None
        )

    def emitted_to(self, channel: Channel[Any]) -> int:
        """How many values, or failures, it has put into that channel."""
        if self.dead_letters is not None and self.dead_letters.channel is channel:
            return self.dead_letters.emitted
        if self.emits_one_each:
            return self.done
        return sum([outlet.emitted for outlet in self.outlets if outlet.channel is channel])

    @property
    def emitted(self) -> int:
        """How many values it has given in all."""
        return self.done if self.emits_one_each else sum([outlet.emitted for outlet in self.outlets])

    @property
    def done(self) -> int:
        """Items handled to their end."""
        settled = self.counts.settled_besides + sum([worker.settled for worker in self.staff.workers])
        return settled - self.counts.failed

    @property
    def in_flight(self) -> list[Any]:
        """The items that workers have."""
        workers, items_in = self.staff.workers, self.inbox.items_in
        return [item for worker in workers if worker.item is not NO_ITEM for item in items_in(worker.item)]

    def out_waited(self, now: float) -> float:
        """Seconds that its workers have waited for room in the channels they write to."""
        if self.timing.out_waits is not None:
            return self.timing.out_waits.seconds(now)
        waited = 0.0 if self.dead_letters is None else _put_waited(self.dead_letters, now)
        for outlet in self.outlets:
            waited += _put_waited(outlet, now)
        return waited

    @property
    def is_idle(self) -> bool:
        """Whether nothing can be taken and every worker waits, with no item in flight."""
        inbox, staff = self.inbox, self.staff
        return not inbox.items and inbox.workers == inbox.getters.waiting + len(staff.opening) + staff.resting

    @property
    def has_ended(self) -> bool:
        """Whether all of its workers have, after END."""
        return self.inbox.closed and not self.inbox.workers

    def of_item(self, option: str, function: Callable[[Any], Any] | None) -> Any:
        """``function`` for the user's item; a note on its error, which the writer of the item sees, names the stage."""
        if function is None:
            return None

        def of_plain(item: Any) -> Any:
            try:
                return function(plain(item))
            except asyncio.CancelledError as cancel:  # of something that it looked at: its caller was not cancelled
                raise WorkerCancelled(
                    f"{option}= of stage {self.handler.name!r} raised CancelledError, but nobody cancelled its caller"
                ) from cancel
            except Exception as error:
                annotate(error, f"in {option}= of stage {self.handler.name!r}")
                raise

        return of_plain

    async def hold_back(self, worker: ConsumerWorker, why: object, waiting: Awaitable[Any]) -> None:
        """Await ``waiting``, which keeps a call of the worker from beginning; ``str(why)`` says in words what for.

        The words may change. It is no part of the handler's latency.
        """
        waits = self.timing.held_back.setdefault(why, Waits())
        clock, began = asyncio.get_running_loop().time, perf_counter()
        waits.begin(clock())
        worker.waits_for = why
        try:
            await waiting
        finally:
            worker.waits_for = None
            waits.end(clock())
            worker.passing += perf_counter() - began


def _put_waited(outlet: Outlet, now: float) -> float:
    return 0.0 if outlet.channel is None else outlet.channel.put_waited(now)


async def _raise_error(worker: Any, item: Any, error: Exception, /) -> Any:
    raise error


async def _raise_last(worker: Any, item: Any, calls: int, error: Exception, history: Sequence[str] = (), /) -> None:
    raise error


async def give_up_all(
    worker: ConsumerWorker, taken: Any, calls: int, error: Exception, history: Sequence[str] = ()
) -> None:
    """Give up what a worker took at once, item by item, since the next failure may be one too many, or have to wait."""
    stage = worker.stage
    if not stage.handler.takes_lists:
        await stage.give_up(worker, taken, calls, error, history)
        return
    worker.item, budget = deque(stage.inbox.items_in(taken)), Budget()
    while worker.item:
        await stage.give_up(worker, worker.item[0], calls, error, history)
        if budget.is_spent():
            await budget.renew()
    stage.counts.settled_besides -= 1  # the worker counts one


def stray(worker: ConsumerWorker, cancel: asyncio.CancelledError, of: str = "the handler") -> WorkerCancelled:
    """The failure of an item whose handler raised ``CancelledError`` of its own; raises that of the worker's task.

    A handler may await a task that somebody else cancelled. Nobody has cancelled the worker then, and its task says so.
    """
    if worker.task is None or worker.task.cancelling():
        raise cancel
    error = WorkerCancelled(
        f"stage {worker.stage.handler.name!r}: {of} raised CancelledError, but nobody cancelled its worker; "
        "something that it awaits was cancelled"
    )
    error.__cause__ = cancel
    return error
