"""``ordered=``: values leave a stage in the order its items came in."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from typing import Any, Final, NamedTuple

from ..core.channel import Ended
from ..core.emit import emit, leave
from ..core.plan import Handler
from ..core.seams import Call
from ..core.stage import DONE, ConsumerWorker, Stage
from ..core.tracked import release_all, settle_all
from ..core.waiting import Budget, WaitQueue
from ..core.worker import attempt
from ..errors import DefinitionError
from ..wording import shown

__all__ = ["Ordered"]

LONGEST: Final = 128
"""Items that may wait behind a slow one; a worker that is further ahead waits."""

ITEM_BEFORE: Final = "an item before its own, since values leave in order"
"""What a worker waits for that is too far ahead."""


class Ordered(NamedTuple):
    """The option."""

    @classmethod
    def made_from(cls, where: str, ordered: Any = False) -> Ordered | None:
        """Take True or False."""
        if not isinstance(ordered, bool):
            raise DefinitionError(f"{where}: ordered={shown(ordered)} must be True or False")
        return cls() if ordered else None

    def check(self, where: str, handler: Handler) -> Handler:
        """Nothing beside it may change the order."""
        if handler.kept_by:
            raise DefinitionError(
                f"{where}: ordered=True keeps the order of items, which batch, key and priority change"
            )
        return handler

    def install(self, stage: Stage) -> None:
        """Let values wait for those of earlier items."""
        stage.window = OrderWindow()

    def words(self) -> str:
        """What it does."""
        return "values leave in order"


class OrderWindow:
    """Lets the values of a stage leave in the order its items were taken.

    A worker that has finished too early leaves its values here and takes the next item, so that a slow item keeps no
    other worker idle.
    """

    __slots__ = ("_emitting", "_finished", "_next", "_places", "_stage", "_too_far_ahead")

    def __init__(self) -> None:
        self._places = 0  # given so far
        self._next = 0  # the place whose values leave next
        self._finished: dict[int, tuple[Any, deque[Any]]] = {}  # by place, an item and its values
        self._emitting = False  # whether a worker emits values
        self._too_far_ahead = WaitQueue(lambda: None)  # as all are woken, nothing is to be passed on
        self._stage: Stage

    def connect(self, stage: Stage) -> None:
        """Do nothing where nobody sees the order."""
        self._stage = stage
        if stage.outlets[0].channel is None:
            stage.window = None

    def in_order(self, call: Call, worker: ConsumerWorker) -> Call:
        """``call``, whose values leave in order."""

        def begin(item: Any) -> Awaitable[Any]:
            self._places += 1
            return self._handle(worker, item, call, self._places - 1)  # the place of the moment it was taken

        return begin

    async def _handle(self, worker: ConsumerWorker, item: Any, call: Call, place: int) -> Any:
        value = await attempt(worker, item, call)
        values: list[Any] = [] if value is DONE else value if self._stage.handler.generates else [value]
        self._finished[place] = item, deque(values)
        worker.settle()  # its values are here; any worker may emit them
        while place - self._next >= LONGEST:
            worker.waits_for = ITEM_BEFORE
            try:
                await self._too_far_ahead.wait(asyncio.get_running_loop())
            finally:
                worker.waits_for = None
        if not self._emitting:
            await self._emit_finished(worker)
        return DONE

    async def _emit_finished(self, worker: ConsumerWorker) -> None:
        """Emit the values that are next in order, one worker at a time."""
        self._emitting, budget, outlet = True, Budget(), self._stage.outlets[0]
        try:
            while (finished := self._finished.get(self._next)) is not None:
                item, values = finished
                while values:
                    value = values.popleft()
                    try:
                        await emit(worker, outlet, value)
                    except asyncio.CancelledError:
                        raise
                    except BaseException as error:
                        settle_all(values)
                        values.clear()
                        if not isinstance(error, Exception):
                            release_all([value])
                            raise
                        await self._give_up(worker, item, error)
                    if budget.is_spent():
                        await budget.renew()
                del self._finished[self._next]
                self._next += 1
                self._too_far_ahead.wake(len(self._too_far_ahead))
        finally:
            self._emitting = False

    async def _give_up(self, worker: ConsumerWorker, item: Any, error: Exception) -> None:
        """Give up an item whose value was refused; until that is reported, it is in flight once more."""
        worker.settled -= 1
        worker.item = item
        if isinstance(error, Ended):
            raise error
        await self._stage.give_up(worker, item, 1, error)

    def release(self) -> None:
        """At the end of a run, leave what waits in the next channel."""
        for _, (item, values) in sorted(self._finished.items(), key=lambda one: one[0]):
            while values and leave(self._stage, self._stage.outlets[0], values.popleft(), item):
                pass
            settle_all(values)  # those after one that was refused: the item has failed
        self._finished.clear()
