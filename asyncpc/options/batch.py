"""``batch=``: the handler gets several items at once, as a list."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import repeat, starmap
from typing import Any, Final, NamedTuple

from ..checks import check_item_function, is_positive, is_whole
from ..core.emit import emit_each
from ..core.plan import Handler
from ..core.seams import Call, GiveUp
from ..core.stage import DONE, ConsumerWorker, Stage
from ..core.tracked import JointTicket, Tracked, plain, settle_all
from ..core.waiting import Budget
from ..errors import DefinitionError
from ..mistakes import explained
from ..wording import shown
from .key import KeyedQueue

__all__ = ["Batch", "Batched", "Batching"]


@explained
class Batch(NamedTuple):
    """Gather ``size`` items for one call of the handler, or as many as came ``within`` seconds of the first.

    An incomplete batch is handled when the run drains, and when the queue is full. The handler gets a list of its own;
    it returns a list with one result per item, or None. ``weigh`` returns an item's weight, such as its bytes; then
    ``size`` is the most a batch may weigh (a heavier item comes alone). ``key`` gathers the items of each key apart.

    A batch fails as one: it is retried, skipped or given up as a whole. With ``split_on_error`` the items of a batch
    that has failed for good are handled one by one, so that only the items that cause errors fail.
    """

    size: float
    """The most items in a batch, or with ``weigh`` the most that they may weigh together."""
    within: float | None = None
    """Seconds after the first item in which the batch may grow; 0: a worker takes what is there; None: no limit."""
    weigh: Callable[[Any], float] | None = None
    """A function of an item that returns its weight."""
    key: Callable[[Any], Hashable] | None = None
    """A function of an item that returns the key of its batch."""
    split_on_error: bool = False
    """Whether the items of a batch that has failed for good are handled again, one by one."""


class Batching(NamedTuple):
    """The option."""

    batch: Batch

    @classmethod
    def made_from(cls, where: str, batch: Any = None) -> Batching | None:
        """Take a :class:`Batch`."""
        return None if batch is None else cls(batch)

    def check(self, where: str, handler: Handler) -> Handler:
        """A size that the queue can hold, and nothing beside it that needs single items."""
        batch = self.batch
        if not isinstance(batch, Batch):
            raise DefinitionError(f"{where}: batch={shown(batch)} must be Batch(size, within=seconds)")
        whole = is_whole(batch.size) and batch.size >= 1
        if not (whole if batch.weigh is None else is_positive(batch.size)):
            raise DefinitionError(
                f"{where}: {shown(batch)}: size must be a whole number of items, or with weigh= a weight"
            )
        if batch.within is not None and not (is_positive(batch.within) or batch.within == 0):
            raise DefinitionError(f"{where}: {shown(batch)}: within must be a number of seconds, 0 or more")
        for name in "weigh", "key":
            check_item_function(where, f"batch {name}", getattr(batch, name))
        if handler.maxsize and batch.weigh is None and handler.maxsize < batch.size:
            raise DefinitionError(
                f"{where}: maxsize={handler.maxsize} is too small for a batch of {batch.size}; leave it out"
            )
        if "priority" in handler.kept_by:
            raise DefinitionError(
                f"{where}: batch= passes items on as they come, so priority= would change nothing; put a stage with "
                "priority= before it"
            )
        if handler.needs_single:
            raise DefinitionError(
                f"{where}: {handler.needs_single} is a function of an item, but with batch= a call gets several; leave "
                "it out, or limit a stage before the one with batch="
            )
        waits = batch.within is None and batch.size != 1
        return handler._replace(
            takes_lists=True,
            items_per_call=1 if batch.weigh is not None else math.ceil(batch.size),
            kept_by="batch" if batch.key is None else "batch by key",
            least_bound=0 if batch.weigh is not None else 2 * math.ceil(batch.size),  # or none would ever be complete
            waits_for_more=waits,
            no_calls=handler.no_calls or ("would wait for others: give Batch(…, within=)" if waits else ""),
        )

    def install(self, stage: Stage) -> None:
        """Keep items in batches, and let the handler have them as lists."""
        batch, kept = self.batch, stage.inbox.container
        inbox = stage.inbox
        stage.wraps.append(_gathering)
        if kept is None and PlainBatches.serve(batch):
            inbox.keep_in(PlainBatches(batch, inbox.limit))
            return
        batches = Batches(
            batch._replace(weigh=stage.of_item("weigh", batch.weigh), key=stage.of_item("key", batch.key)),
            inbox.limit,
            inbox.made_item,
        )
        if isinstance(kept, KeyedQueue):
            inbox.keep_in(KeyedBatches(batches, kept.key, inbox.limit, inbox.made_item))
        else:
            inbox.keep_in(batches)
        if batch.split_on_error:
            stage.fail_at_last = SplitOnError(stage.fail_at_last)

    def words(self) -> str:
        """How many items, and when."""
        return f"batches of {self.batch.size:g}" + (
            f" or after {self.batch.within:g} s" if self.batch.within is not None else ""
        )


class SplitOnError:
    """Gives back the items of a batch that failed, one by one, so that only those that cause errors fail."""

    __slots__ = ("_otherwise",)

    def __init__(self, otherwise: GiveUp) -> None:
        self._otherwise = otherwise

    async def __call__(
        self, worker: ConsumerWorker, taken: Any, calls: int, error: Exception, history: Sequence[str] = ()
    ) -> None:
        """Split a batch of several; one of a single item has failed."""
        if len(taken) == 1 or worker.cancelled:
            await self._otherwise(worker, taken, calls, error, history)
            return
        stage, budget = worker.stage, Budget()
        worker.item = deque(taken)
        for place in range(len(taken)):
            stage.inbox.items.give_back(taken, place)
            worker.item.popleft()
            if budget.is_spent():
                stage.inbox.note_length()
                await budget.renew()
        stage.inbox.note_length()
        stage.counts.settled_besides -= 1  # the worker counts one, and none is settled


def _gathering(call: Call, worker: ConsumerWorker) -> Call:
    """A handler of lists as a call of what a worker takes; each result goes on with what waits for its item."""
    stage, outlet = worker.stage, worker.stage.outlets[0]

    async def handle(batch: Batched) -> Any:
        stage.inbox.made_room(len(batch) - 1)  # the worker has freed one
        tickets = [item.ticket for item in batch if type(item) is Tracked] if stage.run.tracks else []
        rows = Batched(map(plain, batch) if tickets else batch, batch.reason)  # the handler's own, which it may change
        worker.ticket = JointTicket(tickets) if tickets else None
        try:
            results = await call(rows)
        finally:
            worker.ticket = None
        if stage.handler.generates:
            settle_all(batch)
            stage.counts.settled_besides += len(batch) - 1
            return DONE
        if outlet.channel is None and not any(ticket.wants_value for ticket in tickets):
            if tickets:
                settle_all(batch)
            outlet.emitted += len(batch)
            if results is not None:
                stage.counts.unread = True
            stage.counts.settled_besides += len(batch) - 1
        else:
            await emit_each(worker, zip(batch, _one_each(stage.handler.name, batch, results), strict=True))
        return DONE

    return handle


def _one_each(name: str, batch: Batched, results: Any) -> list[Any]:
    if results is None:
        return [None] * len(batch)
    if isinstance(results, (list, tuple)) and len(results) == len(batch):
        return list(results)
    given = f"{len(results)} results" if isinstance(results, (list, tuple)) else f"a {type(results).__name__}"
    raise TypeError(
        f"stage {name!r}: {len(batch)} items gave {given}; return a list with one result per item, or nothing"
    )


class Batched(list[Any]):
    """The items of a batch, as the handler gets them; ``reason`` says why they are not more.

    It is ``"size"``, ``"time"``, ``"full"`` (the queue holds no more) or ``"end"`` (the run drains).
    """

    __slots__ = ("keys", "reason", "weight")

    def __init__(self, items: Iterable[Any] = (), reason: str = "size") -> None:
        super().__init__(items)
        self.reason: str = reason
        self.weight: float = 0.0
        self.keys: list[Hashable] = []  # of its items, if those of a key are kept apart in time


class Group(NamedTuple):
    """Where an item belongs: the key of its batch, and what it weighs there."""

    key: Hashable
    weight: float


TOGETHER: Final = Group(None, 1.0)
"""The only group where a batch has no functions of an item."""


class PlainBatches(deque[Any]):
    """Batches of so many items as they come, which no time limits: a deque that is cut when a batch is taken.

    So an item costs no more than in a queue without batches. It does what :class:`Batches` does, but for one thing:
    what was cut off as incomplete may still become a larger batch if more is cut off before it is taken.
    """

    runs_code: bool = False
    """There are no functions of the user."""

    __slots__ = ("_cut", "_is_eager", "_limit", "_reason", "_size")

    @staticmethod
    def serve(batch: Batch) -> bool:
        """Whether they are enough for what was asked for."""
        return not batch.within and batch.weigh is None and batch.key is None and not batch.split_on_error

    def __init__(self, batch: Batch, limit: float) -> None:
        super().__init__()
        self._size = int(batch.size)
        self._is_eager = batch.within == 0
        self._limit = limit
        self._cut = 0  # how many items, from the first on, wait for no others
        self._reason = "end"

    def popleft(self) -> Batched:
        """Take a batch; raises ``IndexError`` when none can be taken."""
        count = len(self)
        if count >= self._limit:
            self._cut, self._reason = count, "full"
        if (self._cut or count) >= self._size:
            most, reason = self._size, "size"
        elif self._cut:
            most, reason = self._cut, self._reason
        elif self._is_eager and count:
            most, reason = count, "time"
        else:
            raise IndexError("no batch is complete")
        if most == count:
            batch = Batched(self, reason)
            super().clear()
        else:
            batch = Batched(starmap(super().popleft, repeat((), most)), reason)
        self._cut = max(0, self._cut - most)
        return batch

    def taker(self) -> Any:
        """Any worker takes from this itself."""
        return self

    def items_in(self, taken: Iterable[Any]) -> list[Any]:
        """The items of the batch, or what is left of it."""
        return list(taken)

    def complete(self) -> bool:
        """Let all be taken as they are, at the end; whether a batch was incomplete."""
        count = len(self)
        was_open = (count - self._cut) % self._size > 0 and count < self._limit
        if was_open:
            self._cut, self._reason = count, "end"
        return was_open

    def available(self) -> int:
        """How many batches can be taken now."""
        count, size = len(self), self._size
        cut = self._cut if count < self._limit else count
        return -(-cut // size) + (count - cut + (size - 1 if self._is_eager else 0)) // size

    def clear(self) -> None:
        """Forget all."""
        super().clear()
        self._cut = 0

    def __bool__(self) -> bool:
        count = len(self)
        return count >= self._size or bool(self._cut) or (self._is_eager and count > 0) or count >= self._limit


class Batches:
    """Items gathered into batches, for each key of the batch its own; whole batches are taken."""

    __slots__ = (
        "_again",
        "_batch",
        "_complete",
        "_count",
        "_is_eager",
        "_is_plain",
        "_limit",
        "_loop",
        "_made_item",
        "_open",
        "_room",
        "_timers",
    )

    def __init__(self, batch: Batch, limit: float, made_item: Callable[[], None]) -> None:
        """``made_item`` is called when a batch can be taken without an item having come."""
        self._batch = batch
        self._limit = limit
        self._made_item = made_item
        self._is_eager = batch.within == 0
        self._is_plain = not self.runs_code
        self._room = batch.size - 1.0  # of a batch that is not complete with one more
        self._loop = asyncio.get_running_loop()
        self._open: dict[Hashable, Batched] = {}
        self._timers: dict[Hashable, asyncio.TimerHandle] = {}
        self._again: deque[Batched] = deque()  # single items of batches that failed, which are taken next
        self._complete: deque[Batched] = deque()
        self._count = 0

    @property
    def runs_code(self) -> bool:
        """Whether there are functions of the user."""
        return self._batch.key is not None or self._batch.weigh is not None

    def group_of(self, item: Any) -> Group:
        """Where the item belongs; raises what a function of the user raises."""
        batch = self._batch
        if batch.key is None and batch.weigh is None:
            return TOGETHER
        key = None if batch.key is None else batch.key(item)
        return Group(key, 1.0 if batch.weigh is None else float(batch.weigh(item)))

    def is_open(self, items: Batched, group: Group) -> bool:
        """Whether that is the batch of the group which can still take more."""
        return self._open.get(group.key) is items

    def open_for(self, group: Group) -> Batched | None:
        """The batch that such an item joins, if there is one; one that it is too heavy for is complete."""
        items = self._open.get(group.key)
        if items is not None and items.weight + group.weight > self._batch.size:
            self._close(group.key, "size")
            return None
        return items

    def append(self, item: Any) -> None:
        """Add an item to its batch; if its key or weight cannot be had, it is not in."""
        items = self._open.get(None) if self._is_plain else None
        if items is not None and items.weight < self._room and self._count < self._limit - 1:  # most often
            items.append(item)
            items.weight += 1.0
            self._count += 1
        else:
            self.add(item, self.group_of(item))

    def add(self, item: Any, group: Group) -> Batched:
        """Add an item to the batch of its group, and return that."""
        batch, items = self._batch, self.open_for(group)
        if items is None:
            items = self._open[group.key] = Batched()
            if batch.within:
                self._timers[group.key] = self._loop.call_later(batch.within, self._time_is_up, group.key)
        items.append(item)
        items.weight += group.weight
        self._count += 1
        if items.weight >= batch.size:
            self._close(group.key, "size")
        elif self._count >= self._limit:
            self.close_all("full")
        return items

    def popleft(self) -> Batched:
        """Take a batch; raises ``IndexError`` when none can be taken."""
        if self._is_eager and self._open and not (self._again or self._complete):
            self._close(next(iter(self._open)), "time")
        batch = (self._again or self._complete).popleft()
        self._count -= len(batch)
        return batch

    def give_back(self, batch: Batched, place: int) -> None:
        """Put back the item at that place of a batch that failed: it is taken next, and alone."""
        self.add_alone(Batched([batch[place]], batch.reason))

    def add_alone(self, batch: Batched) -> Batched:
        """Put a batch of one item before every other kind of batch."""
        self._again.append(batch)
        self._count += 1
        return batch

    def taker(self) -> Any:
        """Any worker takes from this itself."""
        return self

    def items_in(self, taken: Iterable[Any]) -> list[Any]:
        """The items of the batch, or what is left of it."""
        return list(taken)

    def complete(self) -> bool:
        """Complete all batches as they are, at the end; whether there were any."""
        return self.close_all("end")

    def available(self) -> int:
        """How many batches can be taken now."""
        return len(self._again) + len(self._complete) + (len(self._open) if self._is_eager else 0)

    def clear(self) -> None:
        """Forget all."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._open.clear()
        self._again.clear()
        self._complete.clear()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        return bool(self._complete or self._again or (self._is_eager and self._open))

    def __iter__(self) -> Iterator[Any]:
        for batch in (*self._again, *self._complete, *self._open.values()):
            yield from batch

    def close_all(self, reason: str) -> bool:
        """Complete all batches that could take more; whether there were any."""
        if not self._open:
            return False
        for key in list(self._open):
            self._close(key, reason)
        return True

    def _close(self, key: Hashable, reason: str) -> None:
        items = self._open.pop(key)
        items.reason = reason
        self._complete.append(items)
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()

    def _time_is_up(self, key: Hashable) -> None:
        del self._timers[key]
        self._close(key, "time")
        self._made_item()


class KeyedBatches:
    """Batches beside ``key=``: the items of a key are handled in order and one batch at a time.

    A key belongs to one batch, from the moment one of its items is in it until that has been handled. An item whose key
    belongs to a batch that it cannot join waits beside the batches, so it keeps no item of another key waiting.
    """

    runs_code: bool = True
    """Of the user: the function of an item."""

    __slots__ = ("_again", "_batches", "_key", "_limit", "_made_item", "_owner", "_parked", "_parked_count")

    def __init__(
        self, batches: Batches, key: Callable[[Any], Hashable], limit: float, made_item: Callable[[], None]
    ) -> None:
        self._batches = batches
        self._key = key
        self._limit = limit
        self._made_item = made_item
        self._owner: dict[Hashable, Batched] = {}  # of each key that is not free
        # what waits for its key: single items of batches that failed, which come first; and items with their groups
        self._again: dict[Hashable, deque[Batched]] = {}
        self._parked: dict[Hashable, deque[tuple[Any, Group]]] = {}
        self._parked_count = 0

    def append(self, item: Any) -> None:
        """Add an item to a batch, or to those that wait for their key."""
        key, group = self._key(item), self._batches.group_of(item)
        owner = self._owner.get(key)
        if owner is None or (key not in self._parked and self._may_join(owner, group)):
            self._own(key, self._batches.add(item, group))
        else:
            self._parked.setdefault(key, deque()).append((item, group))
            self._parked_count += 1
        if len(self) >= self._limit:
            self._batches.close_all("full")

    def _may_join(self, owner: Batched, group: Group) -> bool:
        """Whether an item may join the batch that its key belongs to; one that it is too heavy for is complete."""
        return self._batches.is_open(owner, group) and self._batches.open_for(group) is owner

    def _own(self, key: Hashable, batch: Batched) -> None:
        batch.keys.append(key)
        self._owner[key] = batch

    def popleft(self) -> Batched:
        """Take a batch; raises ``IndexError`` when none is complete."""
        return self._batches.popleft()

    def give_back(self, batch: Batched, place: int) -> None:
        """Put back the item at that place of a batch that failed, whose keys are leased: alone, before those parked."""
        self._again.setdefault(batch.keys[place], deque()).append(Batched([batch[place]], batch.reason))
        self._parked_count += 1

    def release(self, batch: Batched) -> None:
        """The batch has been handled: its keys are free for the items that wait for them."""
        for key in dict.fromkeys(batch.keys):
            self._owner.pop(key, None)  # it is gone after clear()
            self._unpark(key)
        if len(self) >= self._limit:
            self._batches.close_all("full")
        if self._batches:
            self._made_item()

    def _unpark(self, key: Hashable) -> None:
        """Let the items that waited for the key, which is free, into a batch, as many as it takes."""
        if again := self._again.get(key):
            self._parked_count -= 1
            self._own(key, self._batches.add_alone(again.popleft()))
            if not again:
                del self._again[key]
            return
        parked = self._parked.get(key)
        while parked:
            item, group = parked[0]
            owner = self._owner.get(key)
            if owner is not None and not self._may_join(owner, group):
                return
            parked.popleft()
            self._parked_count -= 1
            self._own(key, self._batches.add(item, group))
        self._parked.pop(key, None)

    def taker(self) -> BatchLease:
        """What keeps the keys of one worker's batch from the others."""
        return BatchLease(self)

    def items_in(self, taken: Iterable[Any]) -> list[Any]:
        """The items of the batch, or what is left of it."""
        return list(taken)

    def complete(self) -> bool:
        """Complete all batches as they are, at the end; whether there were any."""
        return self._batches.complete()

    def available(self) -> int:
        """How many batches can be taken now."""
        return self._batches.available()

    def clear(self) -> None:
        """Forget all."""
        self._batches.clear()
        self._owner.clear()
        self._again.clear()
        self._parked.clear()
        self._parked_count = 0

    def __len__(self) -> int:
        return len(self._batches) + self._parked_count

    def __bool__(self) -> bool:
        return bool(self._batches)

    def __iter__(self) -> Iterator[Any]:
        yield from self._batches
        for again in self._again.values():
            for batch in again:
                yield from batch
        for parked in self._parked.values():
            for item, _ in parked:
                yield item


class BatchLease:
    """One worker's way to :class:`KeyedBatches`: the keys of its batch are free when it looks for the next one."""

    __slots__ = ("_batch", "_batches")

    def __init__(self, batches: KeyedBatches) -> None:
        self._batches = batches
        self._batch: Batched | None = None

    def popleft(self) -> Batched:
        """Take the next batch and lease its keys; raises ``IndexError`` when there is none."""
        self.end()
        self._batch = self._batches.popleft()
        return self._batch

    def end(self) -> None:
        """Let the keys of the last batch go."""
        if self._batch is not None:
            batch, self._batch = self._batch, None
            self._batches.release(batch)

    def __len__(self) -> int:
        return len(self._batches)

    def __bool__(self) -> bool:
        self.end()
        return bool(self._batches)
