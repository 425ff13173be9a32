"""Live control of a run: how many workers its stages have, set by hand or by their latency; pause and resume."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from ..errors import StateError
from ..options.retry import Adaptive
from ..core.stage import Stage

__all__ = ["Control"]


class Control:
    """Changes the stages of one run; ``start_worker`` is called when a stage needs one more of its workers."""

    __slots__ = ("_loop", "_may_pause", "_name", "_stages", "_start_worker", "_timers", "is_over")

    def __init__(self, name: str, stages: Sequence[Stage], start_worker: Callable[[Stage], None]) -> None:
        self._name = name
        self._stages = stages
        self._start_worker = start_worker
        self._timers: dict[str, asyncio.TimerHandle] = {}  # of adaptive stages
        self._may_pause = True
        self._loop: asyncio.AbstractEventLoop
        self.is_over: bool = False
        """Whether the run has been cancelled or has ended, so that no workers come or leave any more."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give each stage its workers, which start when there is work for them."""
        self._loop = loop
        for stage in self._stages:
            self._add(stage, stage.concurrency * stage.handler.depth)
            if stage.handler.adaptive is not None:
                self._adapt_later(stage, stage.handler.adaptive)

    def close(self) -> None:
        """Change nothing any more."""
        self.is_over = True
        for timer in self._timers.values():
            timer.cancel()

    def stage(self, name: str) -> Stage:
        """The stage of that name; raises ``StateError`` that names them all."""
        for stage in self._stages:
            if stage.handler.name == name:
                return stage
        names = ", ".join(repr(stage.handler.name) for stage in self._stages)
        raise StateError(f"pipeline {self._name!r} has no stage {name!r}; it has {names}")

    def scale(self, stage: Stage, concurrency: int) -> None:
        """Let ``stage`` have so many workers from now on; those it has too many leave after the item they are at."""
        inbox, getters = stage.inbox, stage.inbox.getters
        if self.is_over or inbox.closed:
            return
        more, stage.concurrency = (concurrency - stage.concurrency) * stage.handler.depth, concurrency
        if stage.handler.crew is not None:
            stage.handler.crew.resize(concurrency)
        kept = min(max(more, 0), stage.surplus)  # those asked to leave before stay
        stage.surplus -= kept
        if more > kept:
            self._add(stage, more - kept)
            inbox.made_item()
        elif more < 0:
            spared = getters.remove_spares(-more, self._loop.time())
            inbox.workers -= spared
            stage.surplus += -more - spared
            stage.call_off()
            getters.wake(stage.surplus)  # idle ones leave at once

    def stop(self) -> None:
        """Go on, and pause no more: what is queued is to be handled."""
        self._may_pause = False
        self.resume()

    def pause(self) -> None:
        """Let no worker take another item before :meth:`resume`."""
        if not self._may_pause:
            return
        for stage in self._stages:
            if stage.gate is None:
                stage.gate = asyncio.Event()
                stage.call_off()

    def resume(self) -> None:
        """Go on."""
        for stage in self._stages:
            if stage.gate is not None:
                stage.gate.set()
                stage.gate = None

    def _add(self, stage: Stage, count: int) -> None:
        getters = stage.inbox.getters
        stage.inbox.workers += count
        getters.add_spares(count, partial(self._start_worker, stage), self._loop.time())
        if stage.handler.context is not None:
            getters.wake(count)  # opening takes time, and if it fails that is better known now

    def _adapt_later(self, stage: Stage, policy: Adaptive) -> None:
        latency = stage.latency
        look = partial(self._adapt, stage, policy, latency.count, latency.seconds)
        self._timers[stage.handler.name] = self._loop.call_later(policy.every, look)

    def _adapt(self, stage: Stage, policy: Adaptive, calls: int, seconds: float) -> None:
        """Fewer workers if the calls since took too long, one more if they did not and all are at work."""
        calls, seconds = stage.latency.count - calls, stage.latency.seconds - seconds
        if calls and seconds / calls > policy.target:
            self.scale(stage, max(policy.min, stage.concurrency * 3 // 4))
        elif calls and stage.inbox.getters.waiting == 0 and stage.concurrency < policy.max:
            self.scale(stage, stage.concurrency + 1)
        self._adapt_later(stage, policy)
