"""What a stage's queue keeps its items in when first in, first out is not enough.

Each stands in for the deque of a :class:`~asyncpc.core.queue.BoundedQueue`: ``append`` and ``popleft`` move items, ``len()``
counts those that are in (and held against the bound), and its truth says whether one can be taken now.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import suppress
from heapq import heappop, heappush
from itertools import pairwise
from typing import Any

from .retry import Batch

__all__ = ["Batched", "Batches", "Claim", "Heap", "Lanes"]


class Heap:
    """The lowest ``priority(item)`` first; equal ones in the order they came.

    Priorities may turn out not to be comparable: whatever a comparison raises, no item gets lost, and one that was
    refused is not in.
    """

    __slots__ = ("_came", "_heap", "_priority")

    def __init__(self, priority: Callable[[Any], Any] | None = None) -> None:
        self._priority = priority
        self._heap: list[tuple[Any, int, Any]] = []
        self._came = 0

    def append(self, item: Any) -> None:
        """Put an item in its place."""
        assert self._priority is not None
        self.push(self._priority(item), item)

    def push(self, priority: Any, item: Any) -> None:
        """Put an item in the place of that priority."""
        self._came += 1
        entry = (priority, self._came, item)
        try:
            heappush(self._heap, entry)
        except BaseException as error:
            self._take_back(entry)
            _refuse_index_error(error)
            raise

    def _take_back(self, entry: tuple[Any, int, Any]) -> None:
        """Undo a push that failed on the way: those it had passed, each one step down, go up again.

        CPython's ``heappush`` swaps in place, so the new entry is somewhere between its leaf and the root.
        """
        heap = self._heap
        at = len(heap) - 1
        while heap[at] is not entry:
            at = (at - 1) // 2
        path = [len(heap) - 1]
        while path[-1] != at:
            path.append((path[-1] - 1) // 2)
        for lower, upper in reversed(list(pairwise(path))):
            heap[upper] = heap[lower]
        heap.pop()

    def popleft(self) -> Any:
        """Take the first; raises ``IndexError`` when there is none."""
        heap = self._heap
        first = heap[0] if heap else None
        try:
            return heappop(heap)[2]
        except BaseException as error:
            if first is not None:
                heap.append(first)
                _refuse_index_error(error)
            raise

    def taker(self) -> Heap:
        """Any worker takes from this itself."""
        return self

    def worker_left(self, taker: object) -> None:
        """Nothing is kept for a worker."""

    def items_in(self, taken: Any) -> list[Any]:
        """One item is taken at once."""
        return [taken]

    def complete(self) -> bool:
        """No item waits for others."""
        return False

    def available(self) -> int:
        """How many items can be taken now."""
        return len(self._heap)

    def clear(self) -> None:
        """Forget all."""
        self._heap.clear()

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Any]:
        with suppress(Exception):  # then in any order
            self._heap.sort()  # what is sorted is a heap
        return iter([item for _, _, item in self._heap])


def _refuse_index_error(error: BaseException) -> None:
    """A comparison that raised ``IndexError`` must not be taken for an empty queue."""
    if isinstance(error, IndexError):
        raise TypeError("two priorities cannot be compared") from error


class Lanes:
    """Items by key: those of one key in order and one at a time, those of others past them.

    A key belongs to whoever took its last item, until that :class:`Claim` is released; only then its next item can be
    taken. No key is bound to a worker: whoever is free takes the next item whose key is free.
    """

    __slots__ = ("_count", "_key", "_parked", "_priority", "_ready")

    def __init__(self, key: Callable[[Any], Hashable], priority: Callable[[Any], Any] | None = None) -> None:
        """``priority`` says which of the items whose keys are free is first, if not the one that came first."""
        self._key = key
        self._priority = priority
        self._ready: deque[Any] | Heap = deque() if priority is None else Heap()  # pairs of key and item: keys are free
        self._parked: dict[Hashable, deque[Any]] = {}  # by each key that is not: what waits, with its priority
        self._count = 0

    def append(self, item: Any) -> None:
        """Put an item into its lane; if its key or priority cannot be had, it is not in."""
        key = self._key(item)
        priority = None if self._priority is None else self._priority(item)
        if (parked := self._parked.get(key)) is None:
            self._make_ready(priority, key, item)
            self._parked[key] = deque()
        else:
            parked.append((priority, item))
        self._count += 1

    def _make_ready(self, priority: Any, key: Hashable, item: Any) -> None:
        if isinstance(self._ready, Heap):
            self._ready.push(priority, (key, item))
        else:
            self._ready.append((key, item))

    def take(self) -> tuple[Hashable, Any]:
        """The next key and item; raises ``IndexError`` when no key with items is free."""
        pair: tuple[Hashable, Any] = self._ready.popleft()
        self._count -= 1
        return pair

    def release(self, key: Hashable) -> None:
        """Let the key's next item be taken."""
        if parked := self._parked.get(key):
            priority, item = parked[0]
            self._make_ready(priority, key, item)
            parked.popleft()
        else:
            self._parked.pop(key, None)  # it is gone after clear()

    def popleft(self) -> Any:
        """Take an item whose key is not kept from others; see :meth:`taker` for a worker's way."""
        key, item = self.take()
        self.release(key)
        return item

    def taker(self) -> Claim:
        """What keeps the key of one worker's item from the others."""
        return Claim(self)

    def worker_left(self, taker: Claim) -> None:
        """Let go the key of its last item."""
        taker.release()

    def items_in(self, taken: Any) -> list[Any]:
        """One item is taken at once."""
        return [taken]

    def complete(self) -> bool:
        """No item waits for others of its kind."""
        return False

    def available(self) -> int:
        """How many items can be taken now."""
        return len(self._ready)

    def clear(self) -> None:
        """Forget all."""
        self._ready.clear()
        self._parked.clear()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        return len(self._ready) > 0

    def __iter__(self) -> Iterator[Any]:
        items = [item for _, item in self._ready]
        for parked in self._parked.values():
            items += [item for _, item in parked]
        return iter(items)


_NO_KEY: Any = object()


class Claim:
    """One worker's way to :class:`Lanes`: the key of its item is released when it looks for the next one."""

    __slots__ = ("_key", "_lanes")

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._key: Hashable = _NO_KEY

    def popleft(self) -> Any:
        """Take the next item and claim its key; raises ``IndexError`` when there is none."""
        self.release()
        self._key, item = self._lanes.take()
        return item

    def release(self) -> None:
        """Let the key of the last item go."""
        if self._key is not _NO_KEY:
            key, self._key = self._key, _NO_KEY
            self._lanes.release(key)

    def __len__(self) -> int:
        return len(self._lanes)

    def __bool__(self) -> bool:
        self.release()
        return bool(self._lanes)


class Batched(list[Any]):
    """The items of a batch, as the handler gets them; ``reason`` says why they are not more.

    It is ``"size"``, ``"time"``, ``"full"`` (the queue holds no more) or ``"end"`` (the run drains).
    """

    __slots__ = ("reason", "weight")

    def __init__(self, items: Iterable[Any] = (), reason: str = "size") -> None:
        super().__init__(items)
        self.reason: str = reason
        self.weight: float = 0.0


class Batches:
    """Items gathered into batches, for each key its own; whole batches are taken."""

    __slots__ = ("_batch", "_call", "_count", "_full", "_limit", "_loop", "_open", "_timers")

    def __init__(self, batch: Batch, limit: float, call: Callable[[], None]) -> None:
        """``call`` is called when a batch's time is up."""
        self._batch = batch
        self._limit = limit
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._open: dict[Hashable, Batched] = {}
        self._timers: dict[Hashable, asyncio.TimerHandle] = {}
        self._full: deque[Batched] = deque()
        self._count = 0

    def append(self, item: Any) -> None:
        """Add an item to its batch."""
        batch = self._batch
        key = None if batch.key is None else batch.key(item)
        weight = 1.0 if batch.weigh is None else float(batch.weigh(item))
        items = self._open.get(key)
        if items is not None and items.weight + weight > batch.size:
            self._close(key, "size")
            items = None
        if items is None:
            items = self._open[key] = Batched()
            if batch.within is not None:
                self._timers[key] = self._loop.call_later(batch.within, self._time_is_up, key)
        items.append(item)
        items.weight += weight
        self._count += 1
        if items.weight >= batch.size:
            self._close(key, "size")
        elif self._count >= self._limit:
            self.flush("full")

    def popleft(self) -> Batched:
        """Take a batch; raises ``IndexError`` when none is complete."""
        batch = self._full.popleft()
        self._count -= len(batch)
        return batch

    def appendleft(self, batch: Batched) -> None:
        """Put back what is left of a batch."""
        self._full.appendleft(batch)
        self._count += len(batch)

    def flush(self, reason: str) -> bool:
        """Complete all batches as they are; whether there were any."""
        if not self._open:
            return False
        for key in list(self._open):
            self._close(key, reason)
        return True

    def taker(self) -> Batches:
        """Any worker takes from this itself."""
        return self

    def worker_left(self, taker: object) -> None:
        """Nothing is kept for a worker."""

    def items_in(self, taken: Batched) -> list[Any]:
        """The items of the batch."""
        return list(taken)

    def complete(self) -> bool:
        """Complete all batches as they are, at the end; whether there were any."""
        return self.flush("end")

    def available(self) -> int:
        """How many batches can be taken now."""
        return len(self._full)

    def clear(self) -> None:
        """Forget all."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._open.clear()
        self._full.clear()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        return bool(self._full)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._full:
            yield from batch
        for items in self._open.values():
            yield from items

    def _close(self, key: Hashable, reason: str) -> None:
        items = self._open.pop(key)
        items.reason = reason
        self._full.append(items)
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()

    def _time_is_up(self, key: Hashable) -> None:
        del self._timers[key]
        self._close(key, "time")
        self._call()
