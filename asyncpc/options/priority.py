"""``priority=``: the queue gives the lowest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from heapq import heappop, heappush
from itertools import pairwise
from typing import Any, NamedTuple

from ..checks import check_item_function, qualified_name
from ..core.plan import Handler
from ..core.stage import Stage
from ..wording import escaped

__all__ = ["Priority", "PriorityHeap"]


class Priority(NamedTuple):
    """The option."""

    function: Callable[[Any], Any]
    """A function of an item."""

    @classmethod
    def made_from(cls, where: str, priority: Any = None) -> Priority | None:
        """Take a function of an item."""
        return None if priority is None else cls(check_item_function(where, "priority", priority))

    def check(self, where: str, handler: Handler) -> Handler:
        """Nothing else keeps items yet."""
        return handler._replace(kept_by="priority")

    def install(self, stage: Stage) -> None:
        """Keep items in a heap."""
        stage.inbox.keep_in(PriorityHeap(stage.of_item("priority", self.function)))

    def words(self) -> str:
        """By which function."""
        return f"priority {escaped(qualified_name(self.function))}"


class PriorityHeap:
    """The lowest ``priority(item)`` first; equal ones in the order they came.

    Priorities may turn out not to be comparable: whatever a comparison raises, no item gets lost, and one that was
    refused is not in.
    """

    runs_code: bool = True
    """Of the user: the function of an item."""

    __slots__ = ("_came", "_heap", "priority")

    def __init__(self, priority: Callable[[Any], Any] | None = None) -> None:
        self.priority: Callable[[Any], Any] | None = priority
        self._heap: list[tuple[Any, int, Any]] = []
        self._came = 0

    def append(self, item: Any) -> None:
        """Put an item in its place."""
        assert self.priority is not None
        self.push(self.priority(item), item)

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
        """Undo a push that failed on the way: the entries it had passed, each one step down, go up again.

        The new entry rises from its leaf towards the root. CPython's ``heappush`` swaps it with each entry that it
        passes, so it is where the push failed. The ``heappush`` written in Python moves those entries down first, so
        the last one that moved is there twice. If neither is found, the entry is removed from wherever it is.
        """
        heap = self._heap
        path = [len(heap) - 1]
        while heap[path[-1]] is not entry:
            above = (path[-1] - 1) // 2
            if path[-1] == 0:
                self._heap = [one for one in heap if one is not entry]
                return
            if heap[path[-1]] is heap[above]:
                break
            path.append(above)
        for lower, upper in reversed(list(pairwise(path))):
            heap[upper] = heap[lower]
        heap.pop()

    def popleft(self) -> Any:
        """Take the first; raises ``IndexError`` when there is none."""
        heap = self._heap
        ends = (heap[-1], heap[0]) if heap else ()  # one of them may be in no place while entries move
        try:
            return heappop(heap)[2]
        except BaseException as error:
            if ends:
                self._heap = list({id(one): one for one in (*heap, *ends)}.values())
                _refuse_index_error(error)
            raise

    def taker(self) -> PriorityHeap:
        """Any worker takes from this itself."""
        return self

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

    def __bool__(self) -> bool:
        return bool(self._heap)

    def __iter__(self) -> Iterator[Any]:
        with suppress(Exception):  # then in any order
            self._heap.sort()  # what is sorted is a heap
        return iter([item for _, _, item in self._heap])


def _refuse_index_error(error: BaseException) -> None:
    """A comparison that raised ``IndexError`` must not be taken for an empty queue."""
    if isinstance(error, IndexError):
        raise TypeError("two priorities cannot be compared") from error
