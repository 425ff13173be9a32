"""What can go wrong, as a tree; each class says what the caller should do.

::

    Exception
    ├── AsyncpcError
    │   ├── DefinitionError (TypeError)    the program is wrong: mend the line that raised it
    │   ├── StateError (RuntimeError)      the call does not fit the moment: see its message
    │   ├── WorkerCancelled                a worker was cancelled from outside the run: find out who did it
    │   ├── TooManyFailures                more items failed than ``max_failures`` allows: its cause is the last one
    │   ├── WorkerDied                     a process died with this item, twice: see what it does to its process
    │   ├── NotPicklable (TypeError)       an item, result or error cannot go to a process: give plain data
    │   ├── Unroutable (LookupError)       no branch of a route is for an item: add one, or a default
    │   ├── RetryLater                     raised by a handler: try this item again after so many seconds
    │   ├── DrainTimeout (TimeoutError)    items were left at the deadline: ``.report.unfinished`` lists them
    │   └── ConservationError              the books do not balance: a bug in asyncpc, please report it
    ├── QueueShutDown                      the queue or pipeline is closed: stop putting; nothing was taken
    └── PipelineError (ExceptionGroup)     a run failed: the handlers' own exceptions, and ``.report``

``PipelineError`` is in ``run.report``, as it carries the report.
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
    """The cancel of a worker whose call goes on in a thread, which nobody can stop (fault D4); no user sees it."""


class AsyncpcError(Exception):
    """The root of asyncpc's own errors."""


class DefinitionError(AsyncpcError, TypeError):
    """A pipeline was written wrongly; raised where it is written, before anything runs."""


class StateError(AsyncpcError, RuntimeError):
    """A call that does not fit the moment: wrong loop, already running, ``feed`` outside a handler."""


class WorkerCancelled(AsyncpcError):
    """A worker's task was cancelled by someone other than the run; its item is listed as unfinished."""


class TooManyFailures(AsyncpcError):
    """More items of a stage failed than its ``max_failures`` allows; the cause is what the last one failed with."""


class WorkerDied(AsyncpcError):
    """The process that handled an item died, and so did a fresh one that tried it again."""


class NotPicklable(AsyncpcError, TypeError):
    """What was to go to a process of a stage, or come back from it, cannot be pickled or imported there."""


class Unroutable(AsyncpcError, LookupError):
    """An item came to a route that has no branch for its key, and no default."""


class RetryLater(AsyncpcError):
    """Raised by a handler: what it writes to is full, or asks for patience (a 429), so try again after ``seconds``.

    That is no failure: it counts in ``retried``, not as an attempt, and may be raised as often as it takes. The item
    stays in its worker's hand meanwhile, so a worker that waits takes no other item.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"try again in {seconds} s")
        self.seconds: float = seconds

    def __reduce__(self) -> tuple[type[RetryLater], tuple[float]]:
        """Pickle as it was made, so that a handler in a process can raise it."""
        return type(self), (self.seconds,)


class DrainTimeout(AsyncpcError, TimeoutError):
    """A drain reached its deadline with items left; the report lists each with its stage."""


class ConservationError(AsyncpcError):
    """The counts of a run disagree at its end: a bug in asyncpc, never in the program."""
