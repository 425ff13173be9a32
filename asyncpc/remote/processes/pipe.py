"""What a parent process and its children tell each other: a JSON object on a line each, over a pair of sockets.

Its key ``kind`` says what it is. From the parent:

=============  =============================  ==================================================================
``run``        ``options``                    the first line: what to run, as the command line was read
``pause``                                     take no further items
``resume``                                    go on
``scale``      ``stage``, ``concurrency``     let the stage have so many workers
``rate``       ``stage``, ``calls``,          let calls of the stage begin no faster
               ``seconds``
``workers``    ``stage``, ``number``          say what the workers of the stage do
``drain``      ``timeout``                    stop within so many seconds (null: the pipeline's); 0 is now
=============  =============================  ==================================================================

From a child:

==============  =========================  =====================================================================
``running``     ``pipeline``,              the run has begun: its name; the seconds that a drain may take; the items
                ``drain_timeout``,         that the queue of each stage holds (0: any number); the counts
                ``bounds``,
                ``statistics``
``statistics``  ``statistics``,            twice a second: the counts; each stage that settles nothing, and for how
                ``stalled``, ``silent``    many seconds; the seconds for which the loop has not answered
``view``        ``view``                   twice a second, if the parent shows a page: what there is to see of the run
``workers``     ``number``, ``workers``    the answer to the question of this number
``refused``     ``why``                    what was asked cannot be done
``failed``      ``status``, ``lines``      it could not begin: its exit status, and what to show
``report``      ``report``                 the run has ended: the object of ``--json``
==============  =========================  =====================================================================

Either side ignores a kind and keys that it does not know. When the parent's end is closed, however that came about, a
child drains and ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

__all__ = ["GRACE", "Lines", "Message", "line"]

GRACE: Final = 2.0
"""Seconds that a child may take longer than its drain may, before it is killed."""

Message = dict[str, Any]


def line(kind: str, **rest: Any) -> bytes:
    """A message, ready to be sent."""
    return json.dumps({"kind": kind, **rest}).encode() + b"\n"


class Lines:
    """Makes messages of what arrives, piece by piece."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of a line whose end has not arrived; a report may be long

    def messages(self, received: bytes) -> Iterator[Message]:
        """The messages that end in this piece; a line that is none is passed over."""
        *ended, rest = received.split(b"\n")
        for piece in ended:
            text = b"".join([*self._pieces, piece])
            self._pieces.clear()
            try:
                message = json.loads(text)
            except ValueError:
                continue
            if isinstance(message, dict):
                yield message
        if rest:
            self._pieces.append(rest)
