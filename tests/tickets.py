"""A ticket that counts what it is told, for items that are sent through a run with one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from asyncpc import Running
from asyncpc.core.seams import Takes
from asyncpc.core.tracked import Tracked
from asyncpc.failure import KeptFailure

__all__ = ["CountingTicket", "put_tracked", "wrong"]


class CountingTicket:
    """Counts the values under way that were made of one item, and remembers what became of each."""

    @property
    def takes_failures(self) -> Takes:
        """None."""
        return "none"

    def __init__(self, item: Any) -> None:
        self.item = item
        self.left = 1
        """Values under way."""
        self.settled: list[Any] = []
        self.failed: list[BaseException] = []
        self.released = 0
        self.problems: list[str] = []

    @property
    def wants_value(self) -> bool:
        """Yes."""
        return True

    @property
    def trace(self) -> Mapping[str, str]:
        return {}

    def hold(self, more: int = 1) -> None:
        """So many more are under way."""
        if self.left < 1:
            self.problems.append(f"{self!r} was held when nothing was left")
        self.left += more

    def for_fed(self) -> CountingTicket:
        """One more is under way."""
        self.hold()
        return self

    def settle(self, value: Any = None) -> None:
        """One is finished."""
        self.settled.append(value)
        self._one_less("settled")

    def skip(self, error: Exception) -> None:
        """One was given up."""
        self.failed.append(error)
        self._one_less("failed")

    def fail(self, error: Exception, failure: KeptFailure) -> None:
        """One failed, and nobody else is told."""
        self.skip(error)

    def stop(self, error: Exception) -> None:
        """One failed, and so did the run."""
        self.skip(error)

    def release(self) -> None:
        """One is left."""
        self.released += 1
        self._one_less("released")

    def _one_less(self, how: str) -> None:
        self.left -= 1
        if self.left < 0:
            self.problems.append(f"{self!r} {how}, one too many")

    def __repr__(self) -> str:
        return f"<ticket of {self.item!r}: {self.left} left>"


async def put_tracked(running: Running[Any, Any], items: Iterable[Any], tickets: list[CountingTicket]) -> None:
    """Put each item with a ticket of its own, which is added to ``tickets`` once it was accepted."""
    run = running._run
    run.accounts.tracked = True  # as call() does
    run.links.track()
    for item in items:
        ticket = CountingTicket(item)
        tickets.append(ticket)
        try:
            await running.put(Tracked(item, ticket))
        except BaseException:
            tickets.remove(ticket)
            raise


def wrong(tickets: Iterable[CountingTicket]) -> list[str]:
    """What is wrong with tickets whose run has ended: each must have come to exactly zero."""
    tickets = list(tickets)
    return [problem for ticket in tickets for problem in ticket.problems] + [
        f"{ticket!r} after the end" for ticket in tickets if ticket.left > 0
    ]
