"""Changes how many workers the stages of a run have, on request or by themselves; pauses and resumes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from ..core.seams import Adjust, Telling
from ..core.stage import Stage
from ..core.waiting import nobody
from ..errors import StateError
from ..events import Paused, Resumed, Scaled
from ..wording import redacted

__all__ = ["Scaling"]


class Scaling:
    """Changes the stages of one run; ``start_worker`` is called when a stage needs another of its workers."""

    __slots__ = ("_events", "_loop", "_may_pause", "_name", "_stages", "_start_worker", "_timers", "is_over")

    def __init__(
        self, name: str, stages: Sequence[Stage], start_worker: Callable[[Stage], None], events: Telling
    ) -> None:
        self._name = name
        self._events = events
        self._stages = stages
        self._start_worker = start_worker
        self._timers: dict[str, asyncio.TimerHandle] = {}  # of stages that are adjusted
        self._may_pause = True
        self._loop: asyncio.AbstractEventLoop
        self.is_over: bool = False
        """Whether the run was cancelled or has ended, so that the number of workers stays."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give each stage its workers, which start when there is work for them."""
        self._loop = loop
        for stage in self._stages:
            self._add(stage, stage.staff.concurrency * stage.handler.depth)
            if stage.staff.adjust is not None:
                self._adjust_later(stage, stage.staff.adjust)

    def close(self) -> None:
        """Change nothing from now on."""
        self.is_over = True
        self._start_worker = nobody
        for timer in self._timers.values():
            timer.cancel()

    def stage(self, name: str) -> Stage:
        """The stage of that name; raises ``StateError``, which lists the names there are."""
        name = redacted(str(name))  # as the stage is called
        for stage in self._stages:
            if stage.handler.name == name:
                return stage
        names = ", ".join(repr(stage.handler.name) for stage in self._stages)
        raise StateError(f"pipeline {self._name!r} has no stage {name!r}; it has {names}")

    def scale(self, stage: Stage, concurrency: int) -> None:
        """Let ``stage`` have so many workers; surplus workers leave after their current item."""
        inbox, staff = stage.inbox, stage.staff
        if self.is_over or inbox.closed:
            return
        before, staff.concurrency = staff.concurrency, concurrency
        more = (concurrency - before) * stage.handler.depth
        if stage.handler.pool is not None:
            stage.handler.pool.resize(concurrency)
        kept = min(max(more, 0), staff.surplus)  # workers that were asked to leave stay
        staff.surplus -= kept
        if more > kept:
            self._add(stage, more - kept)
            inbox.made_item()
        elif more < 0:
            spared = inbox.getters.remove_spares(-more, self._loop.time())
            inbox.workers -= spared
            staff.surplus += -more - spared
            staff.interrupt()
            inbox.getters.wake(staff.surplus)  # idle ones leave at once
        if self._events and concurrency != before:
            self._events.tell(Scaled(self._events.pipeline, stage.handler.name, before, concurrency))

    def stop(self) -> None:
        """Resume, and pause no more, since a drain handles what is queued."""
        self._may_pause = False
        self.resume()

    def pause(self) -> None:
        """Let no worker take another item before :meth:`resume`."""
        if not self._may_pause or self._is_paused:
            return
        for stage in self._stages:
            stage.staff.gate = asyncio.Event()
            stage.staff.interrupt()
        if self._events:
            self._events.tell(Paused(self._events.pipeline))

    def resume(self) -> None:
        """Go on."""
        if not self._is_paused:
            return
        for stage in self._stages:
            if stage.staff.gate is not None:
                stage.staff.gate.set()
                stage.staff.gate = None
        if self._events:
            self._events.tell(Resumed(self._events.pipeline))

    @property
    def _is_paused(self) -> bool:
        return self._stages[0].staff.gate is not None

    def _add(self, stage: Stage, count: int) -> None:
        getters = stage.inbox.getters
        stage.inbox.workers += count
        getters.add_spares(count, partial(self._start_worker, stage), self._loop.time())
        if stage.handler.context is not None:
            getters.start_spares(count)  # opening takes time, and an error is better known now

    def _adjust_later(self, stage: Stage, adjust: Adjust) -> None:
        self._timers[stage.handler.name] = self._loop.call_later(adjust.every, self._adjust, stage, adjust)

    def _adjust(self, stage: Stage, adjust: Adjust) -> None:
        wanted = adjust(stage)
        if wanted != stage.staff.concurrency:
            self.scale(stage, wanted)
        self._adjust_later(stage, adjust)
