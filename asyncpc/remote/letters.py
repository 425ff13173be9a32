"""``Letter``: a dead letter as people and programs read it, and how a session writes down what a message failed of."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, NamedTuple, TypeVar

from ..failure import HISTORY_KEPT, Failure
from ..wording import cut, redacted, shown
from .broker import LONGEST_FAILURE, DeadLetter, Message, PayloadError

__all__ = ["Letter", "failure_of", "letter_of"]

T = TypeVar("T")


class Letter(NamedTuple, Generic[T]):
    """A message that was given up, and why."""

    place: str
    """Names the letter, for ``requeue``; a message that dies again has another place."""
    id: str
    """The message's, which it keeps."""
    item: T | None
    """The item; None if the message cannot be decoded."""
    body: bytes
    """The message as it was sent."""
    headers: Mapping[str, str]
    """Those it was sent with."""
    reason: str
    """The error that it failed with, on one line."""
    stage: str
    """The stage that failed; the queue itself if the message came to no stage."""
    calls: int
    """Calls of the handler in the last delivery."""
    deliveries: int
    """How many times it was received."""
    put: float
    """When it was put: seconds since 1970."""
    died: float
    """When it was given up: seconds since 1970."""
    traceback: str
    """Of the error, as text; empty if there is none."""
    history: tuple[str, ...] = ()
    """What the earlier calls of the last delivery failed with, the oldest first: type and message of at most 20.

    Empty if they would be too long beside the error and its traceback.
    """


LONGEST_TEXT: Final = 20_000
"""Characters of an error, or of its traceback, that a dead letter keeps."""

SHORT: Final = 1500
"""Characters of each where they are too long together; JSON has up to 12 bytes for one."""

EMPTY: Final[Mapping[str, Any]] = {
    "reason": "",
    "stage": "",
    "calls": 0,
    "deliveries": 0,
    "died": 0.0,
    "traceback": "",
    "history": [],
}
"""What is known of a failure at least, and of which type it is."""


def failure_of(failure: Failure, deliveries: int) -> bytes:
    """What is kept of a failure in the dead letter queue: texts (fault C8), and no item."""
    import json  # here, since most programs have no dead letters

    told = {
        "reason": cut(failure.error, LONGEST_TEXT),
        "stage": failure.stage,
        "calls": failure.attempts,
        "deliveries": deliveries,
        "died": time.time(),
        "traceback": cut(failure.traceback, LONGEST_TEXT),
        "history": failure.history,
    }
    written = json.dumps(told)
    for name, shorter in (
        ("history", []),
        ("traceback", cut(failure.traceback, SHORT)),
        ("reason", cut(failure.error, SHORT)),
    ):
        if len(written) > LONGEST_FAILURE:
            written = json.dumps(told := told | {name: shorter})
    return written.encode()


def letter_of(dead: DeadLetter, decode: Callable[[bytes, Mapping[str, str]], T]) -> Letter[T]:
    """A dead letter of a broker, with the item that ``decode`` makes of it, unless that raises ``PayloadError``."""
    message = dead.message
    item: T | None
    try:
        item = decode(message.body, message.headers)
    except PayloadError:
        item = None
    told = _told(dead.failure, message)
    return Letter(dead.place, message.id, item, message.body, message.headers, put=message.time, **told)


def _told(failure: bytes, message: Message) -> dict[str, Any]:
    """What was written of a failure; another program may have written something else."""
    import json  # see above

    try:
        found = json.loads(failure)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        found = {"reason": shown(failure)}
    known = {**EMPTY, "deliveries": message.attempt}
    fitting = {name: found[name] for name, usual in known.items() if type(found.get(name)) is type(usual)}
    told = {**known, **fitting}
    told["history"] = tuple([redacted(one) for one in told["history"] if isinstance(one, str)][-HISTORY_KEPT:])
    return {name: redacted(value) if isinstance(value, str) else value for name, value in told.items()}
