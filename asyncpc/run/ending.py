"""How END goes through the stages of a run (invariant 3): when nothing can make new work, and then stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..core.channel import Channel
from ..core.stage import ConsumerWorker, Stage

__all__ = ["end_first_stages", "end_following_stages", "is_quiet"]


def is_quiet(stages: Sequence[Stage], first: Channel[Any]) -> bool:
    """Whether nothing is queued or running in any stage, so that nothing can make new work, not even ``feed``.

    If not, some worker will be idle later, and it is time to ask again. This lets incomplete batches be taken.
    """
    if first.inlet is not None:
        first.inlet.take_fed()  # by a call in a thread that exceeded its timeout
    for stage in stages:
        if not stage.is_idle:
            return False
    for stage in stages:
        if stage.inbox.container is not None and stage.inbox.complete():
            return False  # the worker that handles the last batch will come back here
    # and so will the worker with their key, when a call has ended that goes on after its timeout
    return not sum([len(stage.inbox.items) for stage in stages])


def end_first_stages(stages: Iterable[Stage]) -> None:
    """Send END to the workers of the stages that no stage writes to."""
    for stage in stages:
        if not stage.before:
            stage.inbox.close()


def end_following_stages(stages: Iterable[Stage], dismiss: Callable[[ConsumerWorker], None]) -> None:
    """Send END to each stage before which all stages have ended, by all of their workers.

    ``dismiss`` gets each worker that still opens its resources, which nobody needs any more.
    """
    for stage in stages:  # each after those before it
        inbox = stage.inbox
        if stage.before and all(before.has_ended for before in stage.before):
            inbox.close()
        if inbox.workers and inbox.closed and len(inbox.items) == 0:
            inbox.drop_spares()
            while stage.staff.opening:
                worker = stage.staff.opening.pop()
                if not worker.cancelled:
                    inbox.count_unseen_end()
                    dismiss(worker)
