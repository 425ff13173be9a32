"""What a spy does to the calls with one item: ``Crash``, ``Delay``, ``CancelWorker``, ``Redeliver``."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from math import inf
from typing import Any, Protocol

from ..errors import StateError
from ..run.intake import tickets_in_flight
from ..wording import shown

__all__ = ["CancelWorker", "Crash", "Delay", "Fault", "Redeliver"]


class Fault(Protocol):
    """What a :class:`Spy` does to calls with one item, before the handler begins."""

    @property
    def item(self) -> Any:
        """The item; it is compared with ``==``, so ``unittest.mock.ANY`` means every item."""
        ...

    @property
    def times(self) -> float:
        """How many of its calls; the first ones."""
        ...

    @property
    def seconds(self) -> float:
        """Seconds that pass before the rest is done."""
        ...

    def strike(self) -> None:
        """Do the rest."""
        ...


@dataclass(frozen=True)
class Crash:
    """The call raises ``error``: always, or the first ``times``."""

    item: Any
    error: Exception | type[Exception]
    times: float = inf
    seconds: float = field(default=0.0, init=False, repr=False)

    def strike(self) -> None:
        """Raise the error."""
        raise self.error


@dataclass(frozen=True)
class Delay:
    """The call takes ``seconds`` more: always, or the first ``times``; virtual seconds, in a thread, too."""

    item: Any
    seconds: float
    times: float = inf

    def strike(self) -> None:
        """Nothing more."""


@dataclass(frozen=True)
class CancelWorker:
    """The task of the worker that got the item is cancelled, as by somebody who is not the run."""

    item: Any
    times: float = 1
    seconds: float = field(default=0.0, init=False, repr=False)

    def strike(self) -> None:
        """Cancel it; raises ``StateError`` in a thread, whose call would go on."""
        try:
            task = asyncio.current_task()
        except RuntimeError:
            raise StateError(f"{self}: this handler runs in a thread; write it with 'async def'") from None
        assert task is not None
        task.cancel()


@dataclass(frozen=True)
class Redeliver:
    """The message of a remote queue is handled, and comes again, as if its acknowledgement had been lost."""

    item: Any
    times: float = 1
    seconds: float = field(default=0.0, init=False, repr=False)

    def strike(self) -> None:
        """Give it back in place of an acknowledgement; raises ``StateError`` for what came from no remote queue."""
        from ..remote.delivery import Delivery  # here, since it needs msgspec

        messages = [one for one in tickets_in_flight() if isinstance(one, Delivery)]
        if not messages:
            raise StateError(f"Redeliver({shown(self.item)}): its item did not come from a remote queue")
        for message in messages:
            message.hold()
            message.release()
