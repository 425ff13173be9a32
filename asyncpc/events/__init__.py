"""What happens in a run, told to listeners as it happens: ``pipeline.listen(listener)``.

A listener is a function of one event::

    def tell(event: Event) -> None:
        match event:
            case ItemFailed(stage=stage, error=error):
                alarm(stage, error)

Events are rare things: nothing is told of an item that is handled at the first attempt. For figures, read
``running.statistics()``.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

__all__ = [
    "ConnectionLost",
    "ConnectionRestored",
    "DrainBegun",
    "Event",
    "ItemDropped",
    "ItemFailed",
    "ItemRetried",
    "ItemsLeft",
    "Listener",
    "Paused",
    "Resumed",
    "Scaled",
    "StateChanged",
    "WorkerEnded",
    "WorkerLeft",
    "WorkerStarted",
]


class StateChanged(NamedTuple):
    """The run has another state: ``new``, ``running``, ``draining``, ``closed`` or ``failed``."""

    pipeline: str
    """The name of the pipeline, as in all events."""
    before: str
    state: str


class ItemFailed(NamedTuple):
    """An item has failed for good."""

    pipeline: str
    stage: str
    item: Any
    """The item as the stage got it."""
    error: str
    """Type and message, which may tell of the item."""
    attempts: int
    """How many calls were made with the item."""
    place: str
    """Where the error was raised: ``app.py:12 in fetch``; empty if unknown."""


class ItemRetried(NamedTuple):
    """A call has failed, and another will be made."""

    pipeline: str
    stage: str
    item: Any
    """What the call got: an item, or the items of a batch."""
    error: str
    """Type and message, which may tell of the item."""
    attempts: int
    """How many calls were made so far."""
    seconds: float
    """Until the next one."""


class ItemDropped(NamedTuple):
    """An item found the queue full, and a policy dropped it or the oldest one."""

    pipeline: str
    stage: str
    item: Any


class WorkerStarted(NamedTuple):
    """A worker of a stage has started."""

    pipeline: str
    stage: str
    worker: str


class WorkerEnded(NamedTuple):
    """A worker of a stage has ended."""

    pipeline: str
    stage: str
    worker: str
    error: str
    """Type and message of what it failed with; empty if it has not."""


class Scaled(NamedTuple):
    """A stage has another number of workers."""

    pipeline: str
    stage: str
    before: int
    concurrency: int


class Paused(NamedTuple):
    """No worker takes another item."""

    pipeline: str


class Resumed(NamedTuple):
    """A pause is over."""

    pipeline: str


class DrainBegun(NamedTuple):
    """The run was asked to stop, or a source has failed: what is queued is handled, as far as there is time."""

    pipeline: str
    seconds: float
    """Until what is left is cancelled."""


class ItemsLeft(NamedTuple):
    """The run has ended, and a stage has left items unfinished."""

    pipeline: str
    stage: str
    items: int
    """How many."""


class WorkerLeft(NamedTuple):
    """A worker has ignored its cancellation, and the run has ended without it."""

    pipeline: str
    worker: str


class ConnectionLost(NamedTuple):
    """The connection to a remote queue is lost."""

    pipeline: str
    queue: str
    error: str
    """Type and message."""


class ConnectionRestored(NamedTuple):
    """The connection to a remote queue was made again."""

    pipeline: str
    queue: str
    seconds: float
    """For which there was none."""


Event = (
    StateChanged
    | ItemFailed
    | ItemRetried
    | ItemDropped
    | WorkerStarted
    | WorkerEnded
    | Scaled
    | Paused
    | Resumed
    | DrainBegun
    | ItemsLeft
    | WorkerLeft
    | ConnectionLost
    | ConnectionRestored
)


class Listener(Protocol):
    """Is called with each event, in the loop of the run, when all that belongs to it has been done.

    It should return at once: while it works, nothing else does, and a drain may take longer than it should. One that
    takes longer than half a second is logged, once in a run. One that raises is logged and not called again in this
    run.
    """

    def __call__(self, event: Event, /) -> None:
        """See the class."""
        ...
