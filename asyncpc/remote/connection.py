"""``Connection``: a broker whose calls outlive a lost connection: they wait for the next one and are made again."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeVar

from ..errors import DefinitionError
from ..events import ConnectionLost, ConnectionRestored
from ..logs import WARNING, log
from ..run.events import tell_here
from ..wording import described, message_of, redact, summary
from .broker import Broker, Disconnected, NotAllowed

__all__ = ["PATIENCE", "Connection"]

R = TypeVar("R")

FIRST_WAIT: Final = 0.1
LONGEST_WAIT: Final = 5.0
"""Seconds between two attempts to connect."""

CLOSES_WITHIN: Final = 2.0
"""Seconds that an engine may take to close a connection."""

PATIENCE: Final = 15.0
"""Seconds in which the first connection has to come about, and to be of use; a wrong address should not look like a
slow server."""


class Connection:
    """Makes the calls of one session, all of which may be repeated; connects again without end, with full jitter."""

    def __init__(self, broker: Broker, label: str) -> None:
        self.broker: Broker = broker
        self.generation: int = 0
        """How many times it was connected."""
        self.lost_at: float | None = None
        """When the connection was lost, in loop time; None while there is one, and before the first."""
        self._label = label
        self._lock = asyncio.Lock()
        self._hurry = asyncio.Event()
        self._is_loss_told = False  # since it was connected last

    async def open(self, in_vain: Callable[[], bool] = lambda: False) -> None:
        """Connect for the first time; raises ``Disconnected`` if that fails for 15 seconds, or once ``in_vain()``.

        Raises ``DefinitionError`` at once if the server refuses the login, or a right that a queue needs.
        """
        await self._connect(asyncio.get_running_loop().time() + PATIENCE, in_vain)

    async def call(
        self,
        command: Callable[[], Awaitable[R]],
        in_vain: Callable[[], bool] = lambda: False,
        patience: float = math.inf,
    ) -> R:
        """What ``command`` returns; after a lost connection it is called again on the next one.

        Raises ``Disconnected`` once ``in_vain()``: nobody needs the answer any more. See :meth:`hurry`. Raises it too
        if for ``patience`` seconds each connection came about and was of no use; and then, at once, ``DefinitionError``
        if the server refuses the right to make this call.
        """
        losses, useless_since = 0, math.inf
        while True:
            generation = self.generation
            try:
                return await command()
            except Disconnected as error:
                redact(error)
                if in_vain():
                    raise
                losses += 1
                useless_since = min(useless_since, asyncio.get_running_loop().time())
                self._check_use(error, useless_since, patience)
                if await self._reconnect(generation, error, in_vain, losses):
                    useless_since = math.inf  # nobody was there for a while
            except Exception as error:
                redact(error)
                raise

    def hurry(self) -> None:
        """Let calls that wait for a connection look now whether they still need one."""
        self._hurry.set()

    def wake(self) -> None:
        """Let a ``receive`` that waits return soon; without that it returns later."""
        try:
            self.broker.wake()
        except Exception as error:  # a bug of the engine, which nobody who settles an item should see
            log(WARNING, "%s: its engine failed in wake(): %s", self._label, summary(error))

    async def close(self) -> None:
        """Let go of it, whatever state it is in, within some seconds; nobody can do more about one that does not."""
        try:
            async with asyncio.timeout(CLOSES_WITHIN):
                await self.broker.close()
        except Disconnected:
            pass
        except Exception as error:
            log(WARNING, "%s: its connection was not closed: %s", self._label, summary(error))

    def _check_use(self, error: Disconnected, useless_since: float, patience: float) -> None:
        if patience == math.inf:
            return
        if isinstance(error, NotAllowed):
            raise self._refused(error) from None
        if asyncio.get_running_loop().time() - useless_since > patience:
            why = message_of(error).rstrip(".")
            raise Disconnected(
                f"{self._label}: connected again and again for {patience:g} s, and nothing could be done: {why}; "
                "see whether the queue is there, and who deletes it"
            ) from None

    async def _reconnect(self, generation: int, error: Disconnected, in_vain: Callable[[], bool], losses: int) -> bool:
        """Connect again; ``losses`` is how often the same call was made in vain: from the second time on it waits.

        Returns whether nobody was there at first.
        """
        async with self._lock:
            if generation != self.generation or in_vain():
                return False
            if self.lost_at is None:
                self.lost_at = asyncio.get_running_loop().time()
                why = described(error)
                tell_here(lambda pipeline: ConnectionLost(pipeline, self._label, why))
            if losses & (losses - 1) == 0:
                self._is_loss_told = True
                log(WARNING, "%s: the connection is lost: %s", self._label, summary(error))
            await self.close()
            if losses > 1:
                await self._wait(losses - 1)
            return await self._connect(None, in_vain) > 1

    async def _connect(self, deadline: float | None, in_vain: Callable[[], bool]) -> int:
        """Connect; how many attempts that took."""
        loop, attempt = asyncio.get_running_loop(), 0
        while True:
            attempt += 1
            try:
                await self.broker.open()
            except Disconnected as error:
                redact(error)
                await self.close()
                if isinstance(error, NotAllowed) and not self.generation:  # later, it may be the server's start
                    raise self._refused(error) from None
                if in_vain() or (deadline is not None and loop.time() > deadline):
                    raise
                if attempt & (attempt - 1) == 0:
                    self._is_loss_told = True
                    log(WARNING, "%s: cannot connect (attempt %d): %s", self._label, attempt, summary(error))
            except Exception as error:
                redact(error)
                raise
            else:
                self._connected(loop.time())
                return attempt
            await self._wait(attempt)

    def _connected(self, now: float) -> None:
        lost_at, self.lost_at = self.lost_at, None
        is_loss_told, self._is_loss_told = self._is_loss_told, False
        self.generation += 1
        if lost_at is not None:
            if is_loss_told:
                log(WARNING, "%s: connected again", self._label)
            tell_here(lambda pipeline: ConnectionRestored(pipeline, self._label, now - lost_at))

    def _refused(self, error: NotAllowed) -> DefinitionError:
        why = message_of(error).rstrip(".")
        check = "check the user and the password in the URL or the options, and the rights of that user on the server"
        return DefinitionError(f"{self._label}: access is refused: {why}; {check}")

    async def _wait(self, attempt: int) -> None:
        """Wait before another attempt, unless :meth:`hurry` is called."""
        self._hurry.clear()
        longest = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(attempt, 10))
        with suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(FIRST_WAIT, longest)):
                await self._hurry.wait()
