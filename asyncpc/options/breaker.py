"""``breaker=``: a stage whose calls fail in a row rests for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from math import inf
from typing import Any, NamedTuple

from ..checks import at_least_1, is_positive
from ..core.emit import Refused
from ..core.plan import Handler
from ..core.seams import Call
from ..core.stage import ConsumerWorker, Stage
from ..errors import DefinitionError, RetryLater
from ..mistakes import explained
from ..wording import shown

__all__ = ["Breaker", "Breaking"]


@explained
class Breaker(NamedTuple):
    """After ``failures`` failed calls in a row a stage rests for ``reset_after`` seconds, then tries one call.

    If that call fails too, the stage rests again. A circuit breaker as in Michael Nygard, *Release It!*, 2007.
    """

    failures: int
    """Calls in a row."""
    reset_after: float
    """Seconds."""


class Breaking(NamedTuple):
    """The option."""

    policy: Breaker

    @classmethod
    def made_from(cls, where: str, breaker: Any = None) -> Breaking | None:
        """Take a :class:`Breaker`."""
        return None if breaker is None else cls(breaker)

    def check(self, where: str, handler: Handler) -> Handler:
        """A number of failures and a time to rest."""
        breaker = self.policy
        if not isinstance(breaker, Breaker):
            raise DefinitionError(f"{where}: breaker={shown(breaker)} must be Breaker(failures, reset_after)")
        at_least_1(where, "Breaker failures", breaker.failures)
        if not is_positive(breaker.reset_after):
            raise DefinitionError(f"{where}: {shown(breaker)}: reset_after must be more than 0 seconds")
        return handler

    def install(self, stage: Stage) -> None:
        """Let all places of the consumer rest together."""
        circuit = stage.run.machines.setdefault(id(self), Circuit(self.policy))
        stage.wraps.insert(0, circuit.look_again)
        stage.wraps.append(circuit.guard)

    def words(self) -> str:
        """When it rests, and for how long."""
        return f"rests {self.policy.reset_after:g} s after {self.policy.failures} failures in a row"


class _Opened(Exception):
    """The circuit opened while a call waited for something else, such as its rate."""


class Circuit:
    """Closed while calls succeed, open after too many failures in a row, tried with one call at a time."""

    __slots__ = ("_breaker", "_failures", "_open_until", "_tried", "_tries")

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._failures = 0
        self._open_until = -inf
        self._tries: ConsumerWorker | None = None  # who makes the call that tries
        self._tried: asyncio.Event | None = None  # set when that call has ended

    def look_again(self, call: Call, worker: ConsumerWorker) -> Call:
        """``call`` as it begins at last, which raises ``_Opened`` if the circuit is open by then."""

        def begin(item: Any) -> Awaitable[Any]:
            if self._failures >= self._breaker.failures and self._tries is not worker:
                raise _Opened
            return call(item)

        return begin

    def guard(self, call: Call, worker: ConsumerWorker) -> Call:
        """``call``, which waits while the circuit is open."""

        async def guarded(item: Any) -> Any:
            while True:
                tries = self._failures >= self._breaker.failures and await self._let_through(worker)
                try:
                    value = await call(item)
                except _Opened:
                    continue
                except (RetryLater, Refused):  # neither is a failure of the call
                    raise
                except asyncio.CancelledError:
                    if worker.task is not None and not worker.task.cancelling():  # nobody cancelled the worker
                        self._failed()
                    raise
                except Exception:
                    self._failed()
                    raise
                finally:
                    if tries:
                        assert self._tried is not None
                        self._tried.set()
                        self._tried = self._tries = None
                if tries or self._failures < self._breaker.failures:  # else it began before the circuit opened
                    self._failures = 0
                return value

        return guarded

    def _failed(self) -> None:
        self._failures += 1
        if self._failures >= self._breaker.failures:
            self._open_until = asyncio.get_running_loop().time() + self._breaker.reset_after

    async def _let_through(self, worker: ConsumerWorker) -> bool:
        """Wait until the circuit is closed (False), or until the worker may try (True)."""
        loop, stage = asyncio.get_running_loop(), worker.stage
        while self._failures >= self._breaker.failures:
            if self._tried is not None:
                await stage.hold_back(worker, "its breaker", self._tried.wait())
            elif (rest := self._open_until - loop.time()) > 0:
                await stage.hold_back(worker, "its breaker", asyncio.sleep(rest))
            else:
                self._tried, self._tries = asyncio.Event(), worker
                return True
        return False
