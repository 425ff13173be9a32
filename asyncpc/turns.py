"""``Turns``: how the stages and sources that give to one queue share its room.

Writers of a queue that only one stage gives to need no order: whoever comes first fills it. Where branches meet, one
that always has items would take all room as soon as there is any, and another would put one item where it puts a
thousand. So here

1. those who were woken, since there is room, come before those who never wait;
2. a writer that has waited goes on up to its share, then it stands in line again, behind the others;
3. past those who stand in line only so many items may go, then it is their turn.

A share is half of the room, so items still move in runs: a writer is woken once for each run, not for each item.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .queue import BoundedQueue

__all__ = ["Turns"]

AT_ONCE: Final = 2
"""Writers that are woken together."""


class Turns:
    """The turns of one queue's writers; all of it is looked at on the writers' slow path only."""

    __slots__ = ("_passed", "_queue", "_share", "_until")

    def __init__(self, queue: BoundedQueue[Any]) -> None:
        self._queue = queue
        self._share = 1  # items each writer may put that was woken last
        self._passed = 0  # items put past those who stand in line since
        self._until: float = math.inf  # the length from which on the room is for others

    def mark(self) -> float:
        """The length from which a writer has to ask."""
        queue = self._queue
        if queue._writers and not queue._writers.waking and self._until == math.inf:
            return 0  # what goes past those in line is counted
        return min(queue._limit - 1, queue._peak, self._until)

    def may_put(self, items: int = 1) -> bool:
        """Whether a writer that has not waited may put so many items, 0 or 1."""
        queue, line = self._queue, self._queue._writers
        count = len(queue._queue)
        if not queue._holds_writers:
            return True
        if self._until == 0 and not line.waking:  # who was woken has gone, without a share
            self._let_in(math.inf)
        if count >= min(queue._limit, self._until):
            return False
        if line and not line.waking:
            self._passed += items
            if items and self._passed > queue._low // 2:
                self.wake()
                return not line.waking  # they may all have gone
        elif self._until == math.inf:
            queue._mark = self.mark()
        return True

    async def wait(self) -> None:
        """Stand in line as a writer, and come back with a share of the room. Cancel safety: that of the line."""
        queue, in_vain = self._queue, False
        while True:
            if not queue._writers.waking:
                self._let_in(math.inf)
                queue._mark = 0
            await queue._writers.stand(asyncio.get_running_loop(), first=in_vain)
            if len(queue._queue) < queue._limit or not queue._holds_writers:
                break
            in_vain = True
        self._let_in(len(queue._queue) + self._share)

    def wake(self) -> None:
        """Wake the first in line, and let nobody come before them."""
        queue = self._queue
        room = int(queue._limit) - len(queue._queue)
        if queue._writers.wake(min(room, AT_ONCE)):
            self._share = max(1, room // AT_ONCE)
            self._passed = 0
            self._let_in(0)

    def _let_in(self, until: float) -> None:
        self._until = until
        self._queue._mark = self.mark()
