"""``FairWriters``: how the stages and sources that write to one channel share its room.

If only one stage writes to a channel, its writers need no order: the first to come fills it. Where branches meet, a
writer that always has items would take all room as soon as there is any, and another would put one item where the first
puts a thousand. So here

1. writers that were woken because there is room come before those that never wait;
2. a writer that has waited goes on up to its share, then it waits again, behind the others;
3. only so many items may overtake waiting writers; then these come next.

A share is half of the room, so items still move in runs: a writer is woken once for each run, not for each item.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .channel import Channel

__all__ = ["FairWriters"]

AT_ONCE: Final = 2
"""Writers that are woken together."""


class FairWriters:
    """Shares one channel's room; all of it is looked at on the writers' slow path only."""

    __slots__ = ("_channel", "_passed", "_share", "_until")

    def __init__(self, channel: Channel[Any]) -> None:
        self._channel = channel
        self._share = 1  # items each writer may put that was woken last
        self._passed = 0  # items that have overtaken waiting writers since
        self._until: float = math.inf  # the length from which on the room is for others

    def mark(self) -> float:
        """The length from which a writer has to ask."""
        channel = self._channel
        if channel.writers and self._until == math.inf:
            return 0  # items that overtake waiting writers are counted
        return min(channel.limit - 1, channel.peak, self._until)

    def may_put(self, items: int = 1) -> bool:
        """Whether a writer that has not waited may put ``items`` items, 0 or 1."""
        channel, writers = self._channel, self._channel.writers
        count = channel.places_taken()
        if not channel.holds_writers:
            return True
        if self._until == 0 and not writers.waking:  # the writer that was woken has left without a share
            self._let_in(math.inf)
        if count >= min(channel.limit, self._until):
            return False
        if writers and not writers.waking:
            self._passed += items
            if self._passed > channel.low // 2:
                self.wake()
                return not writers.waking  # they may all have gone
        return True

    async def wait(self) -> None:
        """Wait as a writer, and come back with a share of the room. Cancel safety: that of the wait queue."""
        channel, in_vain = self._channel, False
        while True:
            if not channel.writers.waking:
                self._let_in(math.inf)
                channel.mark = 0
            await channel.writers.wait(asyncio.get_running_loop(), first=in_vain)
            if channel.places_taken() < channel.limit or not channel.holds_writers:
                break
            in_vain = True
        self._let_in(len(channel.items) + self._share)

    def wake(self) -> None:
        """Wake the first writers that wait, and let nobody come before them."""
        channel = self._channel
        room = int(channel.limit) - len(channel.items)
        if channel.writers.wake(min(room, AT_ONCE)):
            self._share = max(1, room // AT_ONCE)
            self._passed = 0
            self._let_in(0)

    def _let_in(self, until: float) -> None:
        self._until = until
        self._channel.renew_mark()
