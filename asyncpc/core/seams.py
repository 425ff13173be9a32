"""The seams of the core: what an option, a bridge for threads or a policy of fairness must offer to fit in.

The core calls these and never names what stands behind them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

__all__ = ["Container", "Full", "Inlet", "Sharing"]


class Container(Protocol):
    """What a channel keeps its items in, where first in, first out is not enough.

    ``len()`` counts the items that are in, and held against the bound; its truth says whether one can be taken now.
    """

    def append(self, item: Any, /) -> None:
        """Add an item; whatever this raises, the item is not in."""

    def popleft(self) -> Any:
        """Take what a worker handles at once; raises ``IndexError`` when there is nothing to be taken."""

    def available(self) -> int:
        """How many times something can be taken now."""

    def taker(self) -> Any:
        """What one worker takes from: this, or something with ``popleft`` and a truth value that knows the worker."""

    def items_in(self, taken: Any, /) -> list[Any]:
        """The items in what was taken."""

    def worker_left(self, taker: Any, /) -> None:
        """The worker that was given ``taker`` takes nothing more from it."""

    def complete(self) -> bool:
        """Let what waits for more be taken as it is; whether there was any."""

    def clear(self) -> None:
        """Forget all items."""

    def __len__(self) -> int: ...

    def __bool__(self) -> bool: ...

    def __iter__(self) -> Iterator[Any]: ...


class Full(Protocol):
    """What is done with an item that finds its channel full, instead of waiting: drop one, or raise."""

    def __call__(self, item: Any, /) -> None: ...


class Inlet(Protocol):
    """Where items from threads come in."""

    def close(self) -> None:
        """Put in what was accepted, and accept no more."""

    def take_fed(self) -> None:
        """Put in what handlers in threads have fed."""


class Sharing(Protocol):
    """How several writers share a channel's room; asked on their slow path only."""

    def mark(self) -> float:
        """The length from which a writer has to ask."""

    def may_put(self, items: int = 1) -> bool:
        """Whether a writer that has not waited may put so many items, 0 or 1."""

    async def wait(self) -> None:
        """Wait for room as a writer."""

    def wake(self) -> None:
        """There is room: wake writers that wait."""
