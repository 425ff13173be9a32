"""What a page shows of several processes: all together, and each one. A page asks in threads of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from time import monotonic
from typing import Any, Final

from ...errors import QueueShutDown, StateError
from ...offload.into_loop import in_loop
from ...run.statistics import Statistics
from ...watch.snapshot import as_dict, view_of
from ...wording import shown
from .parent import Processes
from .pipe import Message
from .spawned import Child
from .views import view_together

__all__ = ["ProcessesShown"]

PATIENCE: Final = 2.0
"""Seconds that an answer may take."""

STALLED: Final = 60.0
"""Seconds without progress after which a stage is told to be stalled."""

WINDOW: Final = 10.0
"""Seconds over which it is judged what limits them."""


class ProcessesShown:
    """All processes together, as one pipeline on a page."""

    def __init__(self, name: str, processes: Processes, loop: asyncio.AbstractEventLoop) -> None:
        self.name: str = name
        self._processes = processes
        self._loop = loop
        self._counts: deque[Statistics] = deque()  # of the last ten seconds

    def all(self) -> list[ProcessesShown | ProcessShown]:
        """What the page shows: this, and each process."""
        running: list[tuple[int, Child]] = self._ask(self._processes.places)
        return [self, *[ProcessShown(f"{self.name}, process {number}", child, self._loop) for number, child in running]]

    def look(self, payloads: bool, *, kept: bool = False) -> Mapping[str, Any] | None:
        """See ``web.runs.Shown``."""
        told: Mapping[str, Any] | None = self._ask(partial(self._look, payloads))
        return told

    def workers(self, stage: str) -> Sequence[Mapping[str, Any]]:
        """Those of all processes."""
        running: list[tuple[int, Child]] = self._ask(self._processes.places)
        answers = _workers_of([child for _, child in running], stage, self._loop)
        workers = [(number, one) for (number, _), answer in zip(running, answers, strict=True) for one in answer]
        return [one | {"name": f"process {number}, {one['name']}"} for number, one in workers]

    def carry_out(self, command: Any) -> None:
        """Tell all of them."""
        try:
            in_loop(self._loop, self._carry_out, command, deadline=monotonic() + PATIENCE)
        except QueueShutDown:
            raise StateError("no run is under way") from None

    def _ask(self, question: Callable[[], Any]) -> Any:
        """Ask in the loop of the parent; once that is closed, nothing changes any more."""
        try:
            return in_loop(self._loop, question)
        except QueueShutDown:
            return question()

    def _carry_out(self, command: Any) -> None:
        now = self._processes.statistics()
        if command.stage and (now is None or command.stage not in [stage.name for stage in now.stages]):
            raise StateError(f"there is no stage {shown(command.stage)}")
        match command.action:
            case "pause":
                self._processes.pause()
            case "resume":
                self._processes.resume()
            case "drain":
                self._processes.drain()
            case "scale":
                self._processes.scale(command.stage, command.workers)
            case _:
                self._processes.set_rate(command.stage, command.calls, command.seconds)

    def _look(self, payloads: bool) -> Mapping[str, Any] | None:
        now = self._processes.statistics()
        if now is None:
            return None
        while len(self._counts) > 1 and now.elapsed - self._counts[1].elapsed >= WINDOW:
            self._counts.popleft()
        before = self._counts[0] if self._counts else None
        self._counts.append(now)
        running = self._processes.places()
        views = [(number, view_of(child.view)) for number, child in running if child.view is not None]
        together = view_together(self.name, now, before, views, self._processes.health(STALLED))
        return as_dict(together, payloads=payloads)  # the counts of the processes tell of failures too


class ProcessShown:
    """One of them."""

    def __init__(self, name: str, child: Child, loop: asyncio.AbstractEventLoop) -> None:
        self.name: str = name
        self._child = child
        self._loop = loop

    def look(self, payloads: bool, *, kept: bool = False) -> Mapping[str, Any] | None:
        """What it has told last."""
        return self._child.view

    def workers(self, stage: str) -> Sequence[Mapping[str, Any]]:
        """What its workers do."""
        [answer] = _workers_of([self._child], stage, self._loop)
        return answer

    def carry_out(self, command: Any) -> None:
        """Refuse: one process alone would be replaced, or undo what was asked of all."""
        raise StateError("a command goes to all processes: choose them all together")


def _workers_of(running: Sequence[Child], stage: str, loop: asyncio.AbstractEventLoop) -> list[list[Message]]:
    """What each process says of the workers of a stage; nothing where it does not answer in time, or has ended."""
    deadline = monotonic() + PATIENCE

    def ask() -> list[Future[list[Message]]]:
        return [child.ask_workers(stage) for child in running]

    try:
        asked: list[Future[list[Message]]] = in_loop(loop, ask, deadline=deadline)
    except QueueShutDown:
        return [[] for _ in running]
    return [_answer(one, deadline) for one in asked]


def _answer(asked: Future[list[Message]], deadline: float) -> list[Message]:
    try:
        return asked.result(max(0.0, deadline - monotonic()))
    except TimeoutError:
        return []
