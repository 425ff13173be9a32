"""``timeout=``: a call that takes too long is cancelled, and has failed."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any, NamedTuple

from ..checks import is_positive
from ..core.plan import Handler
from ..core.seams import Call
from ..core.stage import ConsumerWorker, Stage
from ..errors import DefinitionError
from ..wording import shown

__all__ = ["Timeout"]


class Timeout(NamedTuple):
    """The option."""

    seconds: float
    """That a call may take."""

    @classmethod
    def made_from(cls, where: str, timeout: Any = None) -> Timeout | None:
        """Take a number of seconds."""
        return None if timeout is None else cls(timeout)

    def check(self, where: str, handler: Handler) -> Handler:
        """More than no time at all."""
        if not is_positive(self.seconds):
            raise DefinitionError(f"{where}: timeout={shown(self.seconds)} must be more than 0 seconds")
        if handler.run_in == "interpreter":
            raise DefinitionError(f"{where}: timeout= cannot end a call in an interpreter; use run_in='process'")
        return handler._replace(call_limit=self.seconds)

    def install(self, stage: Stage) -> None:
        """Time each call in the loop; calls outside the loop are timed there."""
        if stage.handler.call_limit is not None:
            stage.wraps.append(self._timed)

    def words(self) -> str:
        """How long a call may take."""
        return f"at most {self.seconds:g} s a call"

    def _timed(self, call: Call, worker: ConsumerWorker) -> Call:
        if worker.stopwatch is not None:
            worker.stopwatch.close()
        worker.stopwatch = timer = CallTimer(call, self.seconds, worker.stage.handler.name)
        return timer


class CallTimer:
    """One worker's: cancels a call that takes longer than ``seconds``, with one timer for all of its calls.

    The timer is set when it is needed first, and when it fires too early because of a later call, set again: a call in
    time costs two reads of the loop's clock and no timer.
    """

    __slots__ = ("_call", "_expired", "_left", "_loop", "_message", "_seconds", "_task", "_timer", "_until")

    def __init__(self, call: Call, seconds: float, name: str) -> None:
        self._call = call
        self._seconds = seconds
        self._message = f"stage {name!r}: the call took longer than timeout={seconds:g} seconds"
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self._until = inf
        self._left = 0.0
        self._expired = False

    async def __call__(self, item: Any) -> Any:
        """The handler's value; raises ``TimeoutError``. Any other cancel stays a cancel."""
        self._until = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._until, self._fire)
        try:
            return await self._call(item)
        except asyncio.CancelledError:
            if self._expired and self._forget() == 0:
                raise TimeoutError(self._message) from None
            raise
        finally:
            self._until = inf
            if self._expired:  # the handler made something else of its cancel
                self._forget()

    def hold(self) -> None:
        """Stop the clock: a value of the handler waits for room, which is no fault of its own."""
        self._left = self._until - self._loop.time()
        self._until = inf

    def go_on(self) -> None:
        """Let the clock run again, if a call is under way."""
        self._until = self._loop.time() + self._left
        if self._timer is None and self._left < inf:
            self._timer = self._loop.call_at(self._until, self._fire)

    def close(self) -> None:
        """Leave no timer behind."""
        if self._timer is not None:
            self._timer.cancel()

    def _fire(self) -> None:
        if self._until <= self._loop.time():
            self._timer = None
            self._expired = True
            assert self._task is not None
            self._task.cancel()
        else:
            self._timer = None if self._until == inf else self._loop.call_at(self._until, self._fire)

    def _forget(self) -> int:
        """Take back the cancel asked for; how many are left that others asked for."""
        self._expired = False
        assert self._task is not None
        return self._task.uncancel()
