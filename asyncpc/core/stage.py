"""``Stage``: one stage of one run: its handler, the queues around it, its workers and its counts."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ..options.batch import Batched, Batches, Heap, Lanes
from ..graph.definitions import Handler
from .latency import Latency
from ..options.rate import Circuit, Throttle
from ..options.retry import Rate
from .channel import Channel
from .waiting import WaitQueue
from ..wording import annotate

if TYPE_CHECKING:
    from .worker import ConsumerWorker

__all__ = ["EMPTY", "Asked", "Stage", "plain"]

logger: Final = logging.getLogger("asyncpc")

EMPTY: Final = type("_Empty", (), {"__repr__": lambda self: "EMPTY"})()
"""What is in a worker's hand when there is no item in it; any object may be an item."""


class Asked:
    """An item that came by ``call``, on its way through the stages with the future of who waits for its result."""

    __slots__ = ("future", "item")

    def __init__(self, item: Any, future: asyncio.Future[Any]) -> None:
        self.item: Any = item
        self.future: asyncio.Future[Any] = future

    def answer(self, value: Any) -> None:
        """Give the caller the result, unless it has gone."""
        if not self.future.done():
            self.future.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Give the caller the error, unless it has gone."""
        if not self.future.done():
            self.future.set_exception(error)


def plain(item: Any) -> Any:
    """The user's item."""
    return item.item if type(item) is Asked else item


class Order:
    """Lets the values of a stage leave in the order its items were taken.

    A worker that has finished before its turn leaves its values here and takes the next item, so a slow head idles
    nobody; but at most :data:`WINDOW` items may wait behind it.
    """

    __slots__ = ("_given", "finished", "line", "next", "passing")

    WINDOW: Final = 128

    def __init__(self) -> None:
        self._given = 0
        self.next: int = 0
        """The ticket whose values leave next."""
        self.finished: dict[int, deque[Any]] = {}
        """Values by ticket."""
        self.passing: bool = False
        """Whether a worker is passing values on."""
        self.line: WaitQueue = WaitQueue(lambda: None)  # those too far ahead; as all are woken, nothing is to be passed on

    def ticket(self) -> int:
        """The place of the item that was just taken."""
        self._given += 1
        return self._given - 1


class Stage:
    """What the workers of a stage share."""

    __slots__ = (
        "_report_trouble",
        "answers",
        "beating",
        "beats",
        "before",
        "branches",
        "circuit",
        "concurrency",
        "dropped",
        "emitted",
        "failed",
        "gate",
        "handler",
        "inbox",
        "last_failure",
        "latency",
        "letters",
        "letters_sent",
        "limits_version",
        "loop_held",
        "more",
        "opening",
        "order",
        "out_seconds",
        "out_waiting",
        "outbox",
        "retried",
        "sent",
        "shares_room",
        "started",
        "stranded",
        "surplus",
        "telling",
        "throttle",
        "workers",
    )

    def __init__(
        self,
        handler: Handler,
        inbox: Channel[Any],
        answers: bool,
        report_trouble: Callable[[Exception, str], None],
    ) -> None:
        self.answers: bool = answers  # whether items may have been asked for with ``call``
        self.handler: Handler = handler
        self.inbox: Channel[Any] = inbox
        self.outbox: Channel[Any] | None = None
        self.branches: list[Channel[Any]] = []  # instead, if it is a branching
        self.letters: Channel[Any] | None = None  # of the stage that is told of failures
        self.before: list[Stage] = []  # those that give to it
        self.shares_room: bool = False  # others write to the queues it gives to, so it counts its own waits
        self.out_waiting: int = 0  # workers that wait for room there
        self.out_seconds: float = 0.0  # of all those waits: their ends (so far) less their beginnings, in loop time
        self.workers: dict[ConsumerWorker, None] = {}  # that are at work, or have left an item
        self.started: int = 0  # workers so far
        self.concurrency: int = handler.concurrency
        self.opening: set[ConsumerWorker] = set()  # their resource
        self.failed: int = 0
        self.last_failure: str = ""  # what the last item that was given up failed with
        self.retried: int = 0  # calls after the first of an item
        self.dropped: int = 0
        self.emitted: int = 0  # values passed on, where they do not follow from done
        self.sent: list[int] = []  # of these, to each branch
        self.telling: int = 0  # items that are about to have failed: somebody is being told
        self.letters_sent: int = 0  # failures passed on to the stage that is told
        self.more: int = 0  # items settled beyond one for each that a worker took: the others of its batch
        self.surplus: int = 0  # workers that are to leave
        self.gate: asyncio.Event | None = None  # while it is paused: set when it goes on
        self.throttle: Throttle | None = Throttle(handler.rate) if handler.rate is not None else None
        self.limits_version: int = 0  # how often they were changed, so that workers call the handler in another way
        self.circuit: Circuit | None = Circuit(handler.breaker) if handler.breaker is not None else None
        self.order: Order | None = Order() if handler.ordered else None
        self.latency: Latency = Latency()
        self.loop_held: float = 0.0  # seconds in which slow calls let nothing else run
        self.stranded: list[Any] = []  # values that found no way on at the end
        self.beats: int = 0  # turns of the loop, seen while slow handlers run
        self.beating: bool = False  # whether the next turn will be seen
        self._report_trouble = report_trouble
        self._furnish()

    def give_to(self, following: list[Stage], letters: Stage | None, results: Channel[Any] | None) -> None:
        """Join it to the stages after it; the values of an end go to ``results``, or nowhere."""
        for stage in following:
            stage.before.append(self)
        if letters is not None:
            letters.before.append(self)
            self.letters = letters.inbox
        if self.handler.branches is not None:
            self.branches = [stage.inbox for stage in following]
            self.sent = [0] * len(following)
        else:
            self.outbox = following[0].inbox if following else results
        if self.outbox is None:
            self.order = None  # nobody sees it

    def _furnish(self) -> None:
        """Give the queue what the handler's options ask for."""
        handler, inbox = self.handler, self.inbox
        if handler.batch is not None:
            batch = handler.batch
            batch = batch._replace(weigh=self._of_item("weigh", batch.weigh), key=self._of_item("key", batch.key))
            inbox.keep_in(Batches(batch, inbox.limit, inbox.made_item))
        elif handler.key is not None:
            priority = self._of_item("priority", handler.priority)
            inbox.keep_in(Lanes(self._of_item("key", handler.key), priority))
        elif handler.priority is not None:
            inbox.keep_in(Heap(self._of_item("priority", handler.priority)))
        if handler.overflow != "wait":
            inbox.full = self._overflowed

    def _of_item(self, option: str, function: Any) -> Any:
        """``function`` for the user's item; an error of it, which whoever gives the item meets, says whose it is."""
        if function is None:
            return None

        def of_item(item: Any) -> Any:
            try:
                return function(plain(item))
            except Exception as error:
                annotate(error, f"in {option}= of stage {self.handler.name!r}")
                raise

        return of_item

    def items(self) -> Any:
        """What a worker takes its items from."""
        return self.inbox.taker()

    def size(self, taken: Any) -> int:
        """How many items a worker took at once."""
        return len(taken) if self.handler.batch is not None else 1

    def beat(self) -> None:
        """See to it that the next turn of the loop is counted in ``beats``."""
        self.beating = True
        asyncio.get_running_loop().call_soon(self._count_beat)

    def _count_beat(self) -> None:
        self.beats += 1
        self.beating = False

    def is_idle(self) -> bool:
        """Whether nothing can be taken and every worker waits, with an empty hand."""
        return not self.inbox.items and self.inbox.workers == self.inbox.getters.waiting + len(self.opening)

    def flush(self) -> bool:
        """Complete the batches that wait for more; whether there were any."""
        return self.inbox.complete()

    def set_rate(self, rate: Rate) -> None:
        """Let calls begin at that rate from now on; those that wait for their turn already keep it."""
        if self.throttle is not None:
            self.throttle.set(rate)
        else:
            self.throttle = Throttle(rate)
            self.limits_version += 1
            self.call_off()

    def ended(self, worker: ConsumerWorker) -> None:
        """Forget a worker that has ended, but for what it did; one that left an item is needed for the report."""
        if worker.hand is EMPTY:
            self.more += worker.settled
            self.workers.pop(worker, None)

    def call_off(self) -> None:
        """Let the workers look at what was changed before they take another item."""
        for worker in self.workers:
            worker.called_off = True

    def split(self, batch: Batched) -> None:
        """Give the items of a batch that failed back, one by one, so that only those fail which are the reason."""
        for item in reversed(batch):
            self.inbox.items.appendleft(Batched([item], batch.reason))
        self.more -= 1  # the worker counts one, and none is settled
        self.inbox.made_item()

    def release(self) -> None:
        """At the end of a run, let go what waits for an item before it: it is left in the next queue."""
        if self.order is not None and self.outbox is not None:
            for _, values in sorted(self.order.finished.items()):
                refused: list[Any] = []
                for value in values:
                    try:
                        self.outbox.enqueue(value)
                        self.emitted += 1
                    except Exception as error:  # of a function of the user, such as key=
                        refused.append(value)
                        self._report_trouble(error, self.handler.name)
                if refused:
                    self.strand(refused[0] if len(refused) == 1 else refused)
            self.order.finished.clear()

    def strand(self, value: Any) -> None:
        """List a value that found no way on as unfinished here, in the place of the item it was made of."""
        self.stranded.append(value)
        self.more -= 1

    @property
    def counts_emitted(self) -> bool:
        """Whether its values do not follow from the items done: another number of them, or at another moment."""
        handler = self.handler
        return handler.generates or handler.batch is not None or self.order is not None or handler.branches is not None

    def given_to(self, queue: Channel[Any]) -> int:
        """How many values, or failures, it passed on to that queue."""
        if queue is self.letters:
            return self.letters_sent
        if self.handler.branches is not None:
            return self.sent[self.branches.index(queue)]
        return self.emitted if self.counts_emitted else self.settled - self.failed

    def out_waited(self, now: float) -> float:
        """Seconds that its workers have waited for room in the queues they give to."""
        if self.shares_room:
            return max(0.0, self.out_seconds + self.out_waiting * now)
        return sum([queue.put_waited(now) for queue in self.gives_to])

    @property
    def gives_to(self) -> list[Channel[Any]]:
        """The queues that its workers may have to wait for."""
        return [queue for queue in (self.outbox, *self.branches, self.letters) if queue is not None]

    @property
    def has_ended(self) -> bool:
        """Whether all of its workers have, after END."""
        return self.inbox.closed and not self.inbox.workers

    @property
    def settled(self) -> int:
        """Items done or failed."""
        return self.more + sum([worker.settled for worker in self.workers])

    @property
    def in_flight(self) -> list[Any]:
        """The items in workers' hands, and at the end what found no way on."""
        taken = [worker.hand for worker in self.workers if worker.hand is not EMPTY]
        return [item for batch in taken for item in batch] if self.handler.batch is not None else taken + self.stranded

    def _overflowed(self, item: Any) -> None:
        """Make room, or refuse, as ``overflow`` says; what is given up is counted and told."""
        inbox, how = self.inbox, self.handler.overflow
        if how == "raise":
            raise asyncio.QueueFull(f"stage {self.handler.name!r}: its queue is full, and overflow='raise'")
        if how == "drop_oldest":
            inbox.items.append(item)
            item = inbox.items.popleft()
        self.dropped += 1
        if type(item) is Asked:
            item.fail(asyncio.QueueFull(f"stage {self.handler.name!r} dropped it: its queue is full"))
        if self.handler.on_drop is not None:
            try:
                self.handler.on_drop(plain(item))
            except Exception as error:  # whoever put the item has nothing to do with it
                self._report_trouble(error, self.handler.name)
