"""``overflow=`` and ``on_drop=``: what becomes of an item that finds the queue full."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from ..checks import check_item_function
from ..core.plan import Handler
from ..core.stage import Stage
from ..core.tracked import Tracked, plain
from ..errors import DefinitionError, WorkerCancelled
from ..events import ItemDropped
from ..wording import shown

__all__ = ["Overflow", "Overflowing"]

Overflow = Literal["wait", "drop_oldest", "drop_newest", "raise"]


class Overflowing(NamedTuple):
    """The option."""

    overflow: Overflow
    on_drop: Callable[[Any], object] | None

    @classmethod
    def made_from(cls, where: str, overflow: Any = "wait", on_drop: Any = None) -> Overflowing | None:
        """Take a policy by name, and a function that gets the dropped items."""
        if overflow not in ("wait", "drop_oldest", "drop_newest", "raise"):
            raise DefinitionError(
                f"{where}: overflow={shown(overflow)} must be 'wait', 'drop_oldest', 'drop_newest' or 'raise'"
            )
        if on_drop is not None and overflow not in ("drop_oldest", "drop_newest"):
            raise DefinitionError(
                f"{where}: on_drop= needs overflow='drop_oldest' or 'drop_newest': no other policy drops items"
            )
        return None if overflow == "wait" else cls(overflow, check_item_function(where, "on_drop", on_drop))

    def check(self, where: str, handler: Handler) -> Handler:
        """Check that there is an oldest item to drop."""
        if self.overflow == "drop_oldest" and handler.kept_by:
            raise DefinitionError(
                f"{where}: with batch, key or priority no item is the oldest: use overflow='drop_newest'"
            )
        return handler

    def install(self, stage: Stage) -> None:
        """Drop an item, or refuse it, where its writer would wait."""
        stage.inbox.when_full = Full(self, stage)

    def words(self) -> str:
        """Say what happens to an item that finds the queue full."""
        return f"{self.overflow.replace('drop_', 'drops the ').replace('raise', 'raises')} when full"


class Full:
    """Drops an item of one stage, counts it and calls ``on_drop``; or refuses the new item."""

    __slots__ = ("_policy", "_stage")

    def __init__(self, policy: Overflowing, stage: Stage) -> None:
        self._policy = policy
        self._stage = stage

    def __call__(self, item: Any) -> None:
        """Drop this item or the oldest one; raises ``asyncio.QueueFull`` if the policy says so.

        ``KeyboardInterrupt`` or ``SystemExit`` of ``on_drop`` comes out when the item has been dropped and counted.
        """
        stage, inbox, how = self._stage, self._stage.inbox, self._policy.overflow
        if how == "raise":
            raise asyncio.QueueFull(f"stage {stage.handler.name!r}: its queue is full, and overflow='raise'")
        if how == "drop_oldest":
            inbox.items.append(item)
            item = inbox.items.popleft()
        stage.counts.dropped += 1
        if type(item) is Tracked:
            item.ticket.skip(asyncio.QueueFull(f"stage {stage.handler.name!r} dropped it: its queue is full"))
        if self._policy.on_drop is not None:
            try:
                self._policy.on_drop(plain(item))
            except asyncio.CancelledError as cancel:  # of something that it looked at
                stray = WorkerCancelled(f"on_drop= of stage {stage.handler.name!r} raised CancelledError")
                stray.__cause__ = cancel
                stage.run.trouble(stray, stage.handler.name)
            except Exception as error:  # it is not the fault of the one who put the item
                stage.run.trouble(error, stage.handler.name)
        if events := stage.run.events:
            events.tell(ItemDropped(events.pipeline, stage.handler.name, plain(item)))

    def from_within(self, item: Any) -> None:
        """The same for a worker or source of the run, which counts the item as given: an interrupt ends the run."""
        try:
            self(item)
        except Exception:
            raise
        except BaseException as interrupt:  # fault B13: the run raises it as it is
            self._stage.run.trouble(interrupt, self._stage.handler.name)
