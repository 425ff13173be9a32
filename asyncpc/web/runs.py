"""``PipelineRuns``: a pipeline on the page, with the run that is under way, or the last one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol

from ..errors import QueueShutDown, StateError
from ..logs import WARNING, log
from ..offload.into_loop import in_loop
from ..run.running import Running, limit_calls, loop_of
from ..watch.places import workers_in
from ..watch.snapshot import as_dict
from ..watch.watcher import View, Watcher
from ..wording import summary
from .commands import Command
from .feed import EVERY, Feed

__all__ = ["PipelineRuns", "Shown", "carry_out"]

MINUTE_EVERY: Final = 0.95
"""Seconds between two looks while nobody watches, so that whoever comes sees the last minute."""

ENDED: Final = ("closed", "failed")

PATIENCE: Final = 2.0
"""Seconds that a loop may take until it carries out a command."""


class Shown(Protocol):
    """What the page shows as one pipeline; its methods are called in any thread but that of a run."""

    @property
    def name(self) -> str:
        """Its name on the page."""
        ...

    def look(self, payloads: bool, *, kept: bool = False) -> Mapping[str, Any] | None:
        """All there is to see, ready for JSON; None before the first run. If ``kept``, what was seen last will do."""
        ...

    def workers(self, stage: str) -> Sequence[Mapping[str, Any]]:
        """What each worker of the stage does, where, and for how long, ready for JSON."""
        ...

    def carry_out(self, command: Command) -> None:
        """Do it; raises ``AsyncpcError`` if that cannot be, ``TimeoutError`` if the loop does not answer."""
        ...


def carry_out(running: Running[Any, Any], command: Command) -> None:
    """Do it, in the loop of the run."""
    match command.action:
        case "pause":
            running.pause()
        case "resume":
            running.resume()
        case "drain":
            running.stop()
        case "scale":
            running.scale(command.stage, command.workers)
        case _:
            limit_calls(running, command.stage, command.calls, command.seconds)


class _Watched(NamedTuple):
    """A run, as long as it is under way."""

    running: Running[Any, Any]
    watcher: Watcher
    loop: asyncio.AbstractEventLoop


class PipelineRuns:
    """See the module; of a run that has ended, only its last view is kept."""

    def __init__(self, name: str) -> None:
        self.name: str = name
        self._now: _Watched | None = None
        self._view: View | None = None
        self._feed: Feed | None = None
        self._looked = 0.0  # seconds of the monotonic clock
        self._looking = Lock()  # a watcher is asked by one at a time

    @contextmanager
    def beside(self, running: Running[Any, Any]) -> Iterator[None]:
        """Show a run from its start on."""
        self.show(running, loop_of(running) or asyncio.get_running_loop())
        yield

    def show(self, running: Running[Any, Any], loop: asyncio.AbstractEventLoop) -> None:
        """Show a run from now on."""
        watched = _Watched(running, Watcher(running), loop)
        self._now = watched
        loop.call_soon_threadsafe(self._look_now_and_then, watched)

    def tell(self, feed: Feed) -> None:
        """Tell a feed what is seen in the loop of the run; a run that another thread has to ask costs more."""
        self._feed = feed

    def look(self, payloads: bool, *, kept: bool = False) -> Mapping[str, Any] | None:
        """See :class:`Shown`."""
        if not kept:
            with self._looking:
                self._look()
        view = self._view
        return None if view is None else as_dict(view, payloads=payloads)

    def workers(self, stage: str) -> Sequence[Mapping[str, Any]]:
        """See :class:`Shown`."""
        watched = self._now
        try:
            return [] if watched is None else workers_in(watched.running, watched.loop, stage)
        except QueueShutDown:  # the loop was closed: nobody works any more
            return []

    def carry_out(self, command: Command) -> None:
        """See :class:`Shown`."""
        watched = self._now
        if watched is None or watched.running.report is not None:
            raise StateError("no run is under way")
        try:
            in_loop(watched.loop, carry_out, watched.running, command, deadline=monotonic() + PATIENCE)
        except QueueShutDown:
            raise StateError("no run is under way") from None

    def _look(self) -> None:
        watched = self._now
        if watched is not None:
            view = watched.watcher.look()
            self._view, self._looked = view or self._view, monotonic()
            if view is not None and view.statistics.state in ENDED and self._now is watched:
                self._now = None

    def _look_now_and_then(self, watched: _Watched) -> None:
        """Look in the loop of the run: for those who watch, and else to keep the last minute."""
        if self._now is not watched:
            return
        is_awaited = self._feed is not None and self._feed.is_awaited
        if (is_awaited or monotonic() - self._looked >= MINUTE_EVERY) and self._looking.acquire(blocking=False):
            try:
                self._look()
            except Exception as error:  # what only watches a run cannot disturb it
                log(WARNING, "the page no longer keeps the past of a run: %s", summary(error), pipeline=self.name)
                return
            finally:
                self._looking.release()
            if self._feed is not None:
                self._feed.tell()
        watched.loop.call_later(EVERY, self._look_now_and_then, watched)
