"""What can go wrong, as a tree, and what to do about each class.

::

    Exception
    ├── AsyncpcError
    │   ├── DefinitionError (TypeError)    the program is wrong: fix the line that raised it
    │   ├── StateError (RuntimeError)      the call comes at the wrong time: see its message
    │   ├── WorkerCancelled                a worker was cancelled from outside the run: find out who did it
    │   ├── TooManyFailures                more items failed than ``max_failures`` allows: its cause is the last
    │   ├── WorkerDied                     an item killed its process twice: find out what it does there
    │   ├── NotPicklable (TypeError)       an item, result or error cannot be pickled: use plain data
    │   ├── Unroutable (LookupError)       an item matches no branch of a route: add one, or a default
    │   ├── RetryLater                     raised by a handler: call it again with this item, later
    │   ├── DrainTimeout (TimeoutError)    items were left at the deadline: ``.report.unfinished`` lists them
    │   └── ConservationError              the counts do not balance: a bug in asyncpc, please report it
    ├── QueueShutDown                      the queue or pipeline is closed: stop putting; the item was not taken
    └── PipelineError (ExceptionGroup)     a run failed: the handlers' own exceptions, and ``.report``

``PipelineError`` is defined in ``run.report``, since it carries the report.
``QueueShutDown`` is asyncio's own class where asyncio has one (3.13 and later).
``asyncio.QueueFull`` and ``asyncio.QueueEmpty`` are asyncio's everywhere.
"""

from __future__ import annotations

import asyncio
import sys

__all__ = [
    "AsyncpcError",
    "ConservationError",
    "DefinitionError",
    "DrainTimeout",
    "NotPicklable",
    "QueueShutDown",
    "RetryLater",
    "StateError",
    "TooManyFailures",
    "Unroutable",
    "WorkerCancelled",
    "WorkerDied",
]

if sys.version_info >= (3, 13):
    from asyncio import QueueShutDown
else:

    class QueueShutDown(Exception):
        """Raised by ``put`` on a closed queue, and by ``get`` when it is also empty."""


class LeftBehind(asyncio.CancelledError):
    """The cancel of a worker whose call goes on in its thread, since nobody can stop it (fault D4); internal."""


class AsyncpcError(Exception):
    """The base class of asyncpc's own errors."""


class DefinitionError(AsyncpcError, TypeError):
    """A pipeline is defined wrongly; raised where it is defined, before anything runs."""


class StateError(AsyncpcError, RuntimeError):
    """A call at the wrong time or place: in another loop, while already running, ``feed`` outside a handler."""


class WorkerCancelled(AsyncpcError):
    """Someone other than the run cancelled a worker's task; its item is listed as unfinished."""


class TooManyFailures(AsyncpcError):
    """More items of a stage failed than its ``max_failures`` allows; the cause is the error of the last one."""


class WorkerDied(AsyncpcError):
    """The process that handled an item died, and so did a new process that tried it again."""


class NotPicklable(AsyncpcError, TypeError):
    """Something sent to a process of a stage, or back from it, cannot be pickled or imported there."""


class Unroutable(AsyncpcError, LookupError):
    """An item matched no branch of a route that has no default."""


class RetryLater(AsyncpcError):
    """Raise it in a handler to be called again with the same item after ``seconds``, as when a server answered 429.

    This does not count as a failure or as an attempt, only in ``retried``, and a handler may raise it any number of
    times. Its worker waits with the item and takes no other. If ``seconds`` is less than 0, the handler is called at
    once. If it is not a valid time, such as NaN, the item has failed.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"try again in {seconds} s")
        self.seconds: float = seconds

    def __reduce__(self) -> tuple[type[RetryLater], tuple[float]]:
        """Pickle as it was made, so that a handler in a process can raise it."""
        return type(self), (self.seconds,)


class DrainTimeout(AsyncpcError, TimeoutError):
    """A drain reached its deadline with items left; the report lists each of them with its stage."""


class ConservationError(AsyncpcError):
    """The counts of a run disagree at its end: a bug in asyncpc, never in the program."""
