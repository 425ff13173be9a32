"""What each worker of a run does at one moment, and where in the user's code it is."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any, Final, Literal, NamedTuple

from ..core.channel import Channel
from ..core.isolation import InContext
from ..core.stage import NO_ITEM, ConsumerWorker, Stage
from ..wording import place_among

__all__ = ["Doing", "WorkerState", "frames_of", "place_of_worker", "workers_of"]

Doing = Literal["opens its resource", "is at work", "waits for room", "is held back", "waits for items"]

LONGEST_CHAIN: Final = 100
"""Coroutines that await one another, as far as they are followed."""


class WorkerState(NamedTuple):
    """What one worker of a stage does at one moment."""

    stage: str
    """The name of its stage."""
    name: str
    """Its own, such as ``fetch-3``: the third worker that the stage started in this run."""
    doing: Doing
    """Whether its handler is at work, or what it waits for."""
    why: str
    """For room: in which stage. Held back: by what, such as ``its rate of 10 calls in 1 s``. Otherwise empty."""
    has_item: bool
    """Whether it has an item, or a batch, in flight."""
    settled: int
    """How many times what it took was done or failed: as long as that stays, it has the same item in flight."""
    seconds: float = 0.0
    """For how long it has done that, as far as somebody has looked at the run; 0 if nobody has."""


def workers_of(stages: Sequence[Stage], seconds: Callable[[ConsumerWorker], float]) -> tuple[WorkerState, ...]:
    """The workers that have started and not ended; ``seconds`` says for how long one has done what it does."""
    consumers = {stage.inbox: stage.handler.name for stage in stages}
    workers = [worker for stage in stages for worker in tuple(stage.staff.workers)]
    return tuple([_state(worker, consumers, seconds(worker)) for worker in workers])


def _state(worker: ConsumerWorker, consumers: dict[Channel[Any], str], seconds: float) -> WorkerState:
    stage, waits_for, why = worker.stage, worker.waits_for, ""
    doing: Doing
    if worker in stage.staff.opening:
        doing = "opens its resource"
    elif isinstance(waits_for, Channel):
        doing, why = "waits for room", consumers.get(waits_for, "the reader of the results")
    elif waits_for is not None:
        doing, why = "is held back", str(waits_for)
    else:
        doing = "waits for items" if worker.item is NO_ITEM else "is at work"
    has_item = worker.item is not NO_ITEM
    return WorkerState(stage.handler.name, worker.name, doing, why, has_item, worker.settled, seconds)


def place_of_worker(worker: ConsumerWorker) -> str:
    """Where it waits or works in the user's code: ``app.py:12 in fetch``; empty if that is nowhere, or unknown."""
    outside = "" if worker.where is None else worker.where()
    if outside or worker.task is None or worker.task.done():
        return outside
    chain = [frame for frame in frames_of(worker.task.get_coro()) if frame is not None]
    return place_among([(frame, frame.f_lineno) for frame in chain])


def frames_of(awaited: Any) -> Iterator[FrameType | None]:
    """The frames of a coroutine that waits, and of those that it awaits, the outermost first."""
    for _ in range(LONGEST_CHAIN):
        if isinstance(awaited, CoroutineType):
            frame, following = awaited.cr_frame, awaited.cr_await
        elif isinstance(awaited, GeneratorType):
            frame, following = awaited.gi_frame, awaited.gi_yieldfrom
            if frame is not None and frame.f_code is InContext.__await__.__code__:
                following = frame.f_locals["self"].awaitable
        elif isinstance(awaited, AsyncGeneratorType):
            frame, following = awaited.ag_frame, awaited.ag_await
        else:  # what reads a generator, or drives a coroutine, does not say which; else it is a future
            inner = gc.get_referents(awaited)
            frame, following = None, next((one for one in inner if isinstance(one, _CHAINED)), None)
        yield frame
        if following is None:
            return
        awaited = following


_CHAINED: Final = CoroutineType, AsyncGeneratorType, GeneratorType
