"""``Delivery``: the ticket of a message on its way through the stages of a run.

It counts the values that are under way of all that was made of the message (:class:`~asyncpc.core.seams.Ticket`). When
the last has finished, the session acknowledges the message, buries it, or gives it back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import inf
from typing import Final

import msgspec

from ..core.seams import Takes
from ..core.tracked import NO_TRACE
from ..failure import KeptFailure
from .broker import Message

__all__ = ["Delivery"]

ENDED: Final = -inf

PAUSE: Final = 1.0
"""Seconds before a message comes again whose failure has ended the run."""

_PARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""Of any other a receiver has to begin a trace of its own."""

_LONGEST_STATE: Final = 512

_MOST_MEMBERS: Final = 32

_KEY: Final = r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"

_MEMBER: Final = re.compile(_KEY + r"=[ -+\--<>-~]{0,255}[!-+\--<>-~]")
"""Of a ``tracestate``; OpenTelemetry would log any other, with what is in it."""


class Delivery(msgspec.Struct, eq=False, gc=False):
    """One handing out of a message; see the module.

    As there may be many, it is a struct, which is made quickly, and the garbage collector does not look at it: that
    would take a tenth of the time of a message. So whoever keeps it has to :meth:`let_go` of it at the end.
    """

    message: Message
    number: int
    """In the order of receipt."""
    _ended: Callable[[Delivery], None]
    _values: float = 1
    """How many are under way; ``ENDED``, so that none is the last one again, once the session knows the end."""
    failure: KeptFailure | None = None
    """What the message is buried with."""
    is_released: bool = False
    """Whether something made of it has not been handled to its end."""
    is_counted: bool = False
    """Whether the release counts as an attempt."""
    delay: float = 0.0
    """Seconds until it may come again."""
    is_lost: bool = False
    """Whether its lease has run out, and somebody else may have it."""
    is_usual: bool = True
    """Whether none of these is so: when it ends, the message is acknowledged."""

    @property
    def takes_failures(self) -> Takes:
        """A failure that no ``on_error=`` is written for ends in the dead letter queue of the message's own queue."""
        return "unhandled"

    @property
    def wants_value(self) -> bool:
        """See ``Ticket``."""
        return True

    @property
    def trace(self) -> Mapping[str, str]:
        """See ``Ticket``: that of its message, as far as it is one."""
        headers = self.message.headers
        return _checked(headers) if "traceparent" in headers else NO_TRACE

    @property
    def has_ended(self) -> bool:
        """Whether the session knows how it ended; the broker may know it, too."""
        return self._values < 0

    def hold(self, more: int = 1) -> None:
        """See ``Ticket``."""
        self._values += more

    def for_fed(self) -> Delivery:
        """See ``Ticket``; the message is acknowledged when what was fed has been handled too."""
        self._values += 1
        return self

    def settle(self, value: object = None) -> None:
        """See ``Ticket``."""
        if self._values == 1:
            self._values = ENDED  # a call that goes on after its timeout may still feed
            self._ended(self)
        else:
            self._values -= 1

    def skip(self, error: BaseException) -> None:
        """See ``Ticket``; the policy that gave it up has dealt with it, so the message is acknowledged."""
        self.settle()

    def fail(self, error: BaseException, failure: KeptFailure) -> None:
        """See ``Ticket``; the message is buried with the first failure."""
        self.failure, self.is_usual = self.failure or failure, False
        self.settle()

    def stop(self, error: BaseException) -> None:
        """See ``Ticket``; the message comes again, after a pause, and this was an attempt."""
        self.is_counted, self.delay = True, PAUSE
        self.release()

    def release(self) -> None:
        """See ``Ticket``; the message comes again, and this was no attempt."""
        self.is_released, self.is_usual = True, False
        self.settle()

    def let_go(self) -> None:
        """Nobody waits for its end any more: forget what leads to the session, which may lead here."""
        self._ended = _nothing

    def lose(self) -> None:
        """Its lease has run out."""
        self.is_lost, self.is_usual = True, False


def _checked(headers: Mapping[str, str]) -> Mapping[str, str]:
    """What is passed on of headers that anyone may have sent."""
    parent, state = headers["traceparent"], headers.get("tracestate", "")
    if not _PARENT.fullmatch(parent):
        return NO_TRACE
    return {"traceparent": parent, "tracestate": state} if _is_state(state) else {"traceparent": parent}


def _is_state(state: str) -> bool:
    if len(state) > _LONGEST_STATE:
        return False
    members = state.split(",")
    return len(members) <= _MOST_MEMBERS and all(_MEMBER.fullmatch(member.strip(" \t")) for member in members)


def _nothing(delivery: Delivery) -> None:
    """What is made of a message may end after its session."""
