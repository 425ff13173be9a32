"""``key=``: items of one key are handled in order and one at a time, whatever the concurrency."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

from ..checks import check_item_function, qualified_name
from ..core.plan import Handler
from ..core.stage import Stage
from ..wording import escaped
from .priority import PriorityHeap

__all__ = ["Key", "KeyedQueue"]


class Key(NamedTuple):
    """The option."""

    function: Callable[[Any], Hashable]
    """A function of an item."""

    @classmethod
    def made_from(cls, where: str, key: Any = None) -> Key | None:
        """Take a function of an item."""
        return None if key is None else cls(check_item_function(where, "key", key))

    def check(self, where: str, handler: Handler) -> Handler:
        """Allow a priority beside it, which orders the items whose keys are free."""
        return handler._replace(kept_by="key and priority" if handler.kept_by else "key")

    def install(self, stage: Stage) -> None:
        """Keep items by key."""
        kept = stage.inbox.container
        priority = kept.priority if isinstance(kept, PriorityHeap) else None
        stage.inbox.keep_in(KeyedQueue(stage.of_item("key", self.function), priority))

    def words(self) -> str:
        """By which function."""
        return f"key {escaped(qualified_name(self.function))}"


class KeyedQueue:
    """Items by key: items of one key leave in order and one at a time; items of other keys may overtake them.

    A key belongs to the worker that took its last item, until that :class:`Lease` ends; only then its next item can be
    taken. No key is bound to a worker: any free worker takes the next item whose key is free.
    """

    runs_code: bool = True
    """Of the user: the function of an item."""

    __slots__ = ("_count", "_parked", "_priority", "_ready", "key")

    def __init__(self, key: Callable[[Any], Hashable], priority: Callable[[Any], Any] | None = None) -> None:
        """``priority`` says which of the items whose keys are free is first, if not the one that came first."""
        self.key: Callable[[Any], Hashable] = key
        self._priority = priority
        # pairs of key and item whose keys are free
        self._ready: deque[Any] | PriorityHeap = deque() if priority is None else PriorityHeap()
        self._parked: dict[Hashable, deque[Any]] = {}  # by each key that is not free: what waits, with its priority
        self._count = 0

    def append(self, item: Any) -> None:
        """Put an item behind those of its key; if its key or priority cannot be had, it is not in."""
        key = self.key(item)
        priority = None if self._priority is None else self._priority(item)
        if (parked := self._parked.get(key)) is None:
            self._make_ready(priority, key, item)
            self._parked[key] = deque()
        else:
            parked.append((priority, item))
        self._count += 1

    def _make_ready(self, priority: Any, key: Hashable, item: Any) -> None:
        if isinstance(self._ready, PriorityHeap):
            self._ready.push(priority, (key, item))
        else:
            self._ready.append((key, item))

    def take(self) -> tuple[Hashable, Any]:
        """The next key and item; raises ``IndexError`` when no key with items is free."""
        pair: tuple[Hashable, Any] = self._ready.popleft()
        self._count -= 1
        return pair

    def end_lease(self, key: Hashable) -> None:
        """Let the key's next item be taken."""
        if parked := self._parked.get(key):
            priority, item = parked[0]
            self._make_ready(priority, key, item)
            parked.popleft()
        else:
            self._parked.pop(key, None)  # it is gone after clear()

    def popleft(self) -> Any:
        """Take the next item, whose key stays free; workers take through :meth:`taker`."""
        key, item = self.take()
        self.end_lease(key)
        return item

    def taker(self) -> Lease:
        """What keeps the key of one worker's item from the others."""
        return Lease(self)

    def items_in(self, taken: Any) -> list[Any]:
        """One item is taken at once."""
        return [taken]

    def complete(self) -> bool:
        """No item waits for others to come."""
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


class Lease:
    """One worker's way to a :class:`KeyedQueue`: the key of its item is free again when it looks for the next one.

    It does not look before all of its calls have ended, even those that have failed. A worker whose item ends the run
    does not look again: what waits for that key stays where it is.
    """

    __slots__ = ("_key", "_queue")

    def __init__(self, queue: KeyedQueue) -> None:
        self._queue = queue
        self._key: Hashable = _NO_KEY

    def popleft(self) -> Any:
        """Take the next item and lease its key; raises ``IndexError`` when there is none."""
        self.end()
        self._key, item = self._queue.take()
        return item

    def end(self) -> None:
        """Let the key of the last item go."""
        if self._key is not _NO_KEY:
            key, self._key = self._key, _NO_KEY
            self._queue.end_lease(key)

    def __len__(self) -> int:
        return len(self._queue)

    def __bool__(self) -> bool:
        self.end()
        return bool(self._queue)
