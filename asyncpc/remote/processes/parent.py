"""``Processes``: starts, watches, stops and replaces several processes that run one pipeline."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple

import anyio
from anyio.abc import TaskGroup

from ...run.health import Health
from ...run.statistics import Statistics
from ...watch.totals import Seen
from .outcome import Ending, Outcome, outcome_of
from .overview import Overview, health_of
from .pipe import Message
from .place import CRASHES, LONGEST, Place
from .signals import heed_signals
from .spawned import Child, spawned

__all__ = ["Processes", "Terms"]

EVERY: Final = 10.0
"""Seconds between two looks of whoever shows the progress."""


class Terms(NamedTuple):
    """How many processes, of what, and how patient the parent is."""

    processes: int
    command: Sequence[str]
    """Starts a child; the number of its end of the pipe is added."""
    options: Mapping[str, Any]
    """What a child is told to run."""
    first_wait: float = 1.0
    """Seconds before a process that has crashed is replaced; each further one waits twice as long."""


class Processes:
    """See the module. ``say`` shows a line to the user, ``note`` one that may be left out.

    ``named`` gets the name of the pipeline once it is known.
    """

    def __init__(
        self, terms: Terms, say: Callable[[str], None], note: Callable[[str], None], named: Callable[[str], None]
    ) -> None:
        self._terms = terms
        self._say = say
        self._note = note
        self._named = named
        self._places = [Place(number + 1) for number in range(terms.processes)]
        self._live: list[Child] = []  # also those that drain, and those that are to replace them
        self._last: list[Child] = []  # have ended, and nobody takes their place
        self._settings: dict[tuple[str, ...], dict[str, Any]] = {}  # what new children are told too
        self._stopping = anyio.Event()
        self._ending = Ending()
        self._overview = Overview()
        self._spawning = anyio.Lock()
        self._is_rolling = False
        self._rolls_again = False
        self._group: TaskGroup

    # -- its life ---------------------------------------------------------------------------------

    async def run(self, around: AbstractAsyncContextManager[object], look: Callable[[Processes], None]) -> Outcome:
        """Run them until all have ended, inside ``around``; ``look`` is called every ten seconds."""
        async with around, anyio.create_task_group() as outer:
            await outer.start(heed_signals, self._signalled, self.roll, self._ask_where)
            outer.start_soon(self._look, look)
            async with anyio.create_task_group() as self._group:
                for place in self._places:
                    self._group.start_soon(self._keep, place)
            outer.cancel_scope.cancel()
        return outcome_of(self._ending, [*self._last, *self._live], self.statistics())

    async def _look(self, look: Callable[[Processes], None]) -> None:
        while True:
            await anyio.sleep(EVERY)
            look(self)

    async def _keep(self, place: Place) -> None:
        """Keep one process running."""
        child = await self._spawn()
        while child is not None:
            place.child = child
            await child.settled.wait()
            place.has_run = place.has_run or child.has_worked
            await child.ended.wait()
            place.child = None
            child = await self._next(place, child)

    async def _next(self, place: Place, ended: Child) -> Child | None:
        """What takes the place of a child that has ended; None if nothing does."""
        self._live.remove(ended)
        wait = self._wait_after(place, ended)
        if wait is None:
            self._last.append(ended)
            return None
        self._remember(ended)
        with anyio.move_on_after(wait):
            await self._stopping.wait()
        successor, place.successor = place.successor, None
        return successor or await self._spawn()

    def _remember(self, ended: Child) -> None:
        """Keep what a process has done whose place another one takes."""
        if ended.statistics is not None:
            self._overview.keep(ended.statistics)
        if ended.report is not None:
            self._ending.keep(ended.report)

    def _wait_after(self, place: Place, ended: Child) -> float | None:
        """Seconds before another one takes the place of one that has ended; None if there will be no other."""
        if place.successor is not None:
            if ended.report is None or ended.report["state"] == "failed":
                self._ending.crashes += 1
                self._say(f"asyncpc: process {place.number} {ended.how()} before it had drained; another one runs")
            return 0.0
        if self._stopping.is_set():
            return None
        if not any(one.has_run for one in self._places):
            self._failed_to_start(place, ended)
            return None
        if ended.process.returncode == 0 and ended.report is not None:
            return None  # its program has asked the run to stop
        if ended.report is not None and ended.report["signal"] is not None and ended.process.returncode != 1:
            self._note(f"asyncpc: somebody else has stopped process {place.number}: another one takes its place")
            return self._terms.first_wait
        self._ending.crashes += 1
        wait = place.crashed(ended.began, self._terms.first_wait)
        what = f"process {place.number} {ended.how()}"
        for told in ended.failure[1] if ended.failure is not None else ():
            self._say(told)
        if wait is None:
            self._ending.trouble.append(f"{what}, as {CRASHES} times within a minute")
            self._say(f"asyncpc: {self._ending.trouble[-1]}: all others drain")
            self._stop()
        else:
            self._say(f"asyncpc: {what}; another one starts in {wait:g} s")
        return wait

    def _failed_to_start(self, place: Place, ended: Child) -> None:
        if self._ending.failure is None:
            how = f"asyncpc: process {place.number} {ended.how_early()}"
            status = ended.process.returncode or 0
            self._ending.failure = ended.failure or (128 - status if status < 0 else status or 1, [how])
        self._stop()

    async def _spawn(self) -> Child | None:
        """Start a process, unless all are to stop."""
        async with self._spawning:
            while not self._stopping.is_set():
                try:
                    child = await spawned(self._terms.command)
                    break
                except OSError as error:
                    await self._cannot_start(error)
            else:
                return None
        self._live.append(child)
        child.tell("run", options=self._terms.options)
        self._group.start_soon(child.live, self._heed)
        if self._stopping.is_set():
            child.drain(None)
        return child

    async def _cannot_start(self, error: OSError) -> None:
        """The system refuses another process: end if it was the first, else try again later."""
        why = f"asyncpc: cannot start a process: {error.strerror or type(error).__name__}"
        if any(place.has_run for place in self._places):
            self._say(why)
            with anyio.move_on_after(LONGEST):
                await self._stopping.wait()
        else:
            self._ending.failure = self._ending.failure or (1, [why])
            self._stop()

    def _heed(self, child: Child, message: Message) -> None:
        match message:
            case {"kind": "running", "pipeline": name}:
                self._named(name)
                for setting in self._settings.values():
                    child.tell(**setting)
            case {"kind": "refused", "why": why}:
                self._say(f"asyncpc: {why}")

    # -- commands ---------------------------------------------------------------------------------

    def pause(self) -> None:
        """Let the handlers of all processes finish their items, and take no more before :meth:`resume`."""
        self._tell_all(("pause",), kind="pause")

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self._tell_all(("pause",), kind="resume")

    def scale(self, stage: str, concurrency: int) -> None:
        """Let the stage of that name have so many workers in each process, also in those that start later."""
        self._tell_all(("scale", stage), kind="scale", stage=stage, concurrency=concurrency)

    def set_rate(self, stage: str, calls: float, seconds: float) -> None:
        """Let no more than so many calls of that stage begin in so many seconds, in each process."""
        self._tell_all(("rate", stage), kind="rate", stage=stage, calls=calls, seconds=seconds)

    def drain(self, timeout: float | None = None) -> None:
        """Let all processes drain, and end; ``timeout`` is in seconds, by default that of the pipeline."""
        self._stop(timeout)

    def roll(self) -> None:
        """Replace one process after the other: the next one drains when the one that replaces it is connected.

        If one cannot start, the others stay as they are.
        """
        self._rolls_again = self._is_rolling
        if not (self._is_rolling or self._stopping.is_set()):
            self._is_rolling = True
            self._group.start_soon(self._roll)

    def _tell_all(self, what: tuple[str, ...], **message: Any) -> None:
        self._settings[what] = message
        for child in self._live:
            if child.is_running:
                child.tell(**message)

    def _stop(self, timeout: float | None = None) -> None:
        self._stopping.set()
        for child in self._live:
            child.drain(timeout)

    async def _roll(self) -> None:
        self._note("asyncpc: replacing one process after the other")
        for place in self._places:
            if place.child is not None and not await self._replace(place, place.child):
                break
        self._is_rolling = False
        if self._rolls_again:
            self.roll()

    async def _replace(self, place: Place, old: Child) -> bool:
        new = await self._spawn()
        if new is None:
            return False
        await new.settled.wait()
        if not (new.is_running and new.is_connected):
            self._live.remove(new)
            if not self._stopping.is_set():
                for told in new.failure[1] if new.failure is not None else ():
                    self._say(told)
                self._say(f"asyncpc: the new process {new.how_early()}; the others go on as they are")
            return False
        if old.ended.is_set():  # meanwhile, by itself: then it is replaced as any other
            new.drain(None)
            await new.ended.wait()
            self._live.remove(new)
            self._remember(new)
            return True
        place.successor = new
        old.drain(None)
        await old.ended.wait()
        return True

    # -- signals ----------------------------------------------------------------------------------

    def _signalled(self, number: signal.Signals) -> None:
        """The first signal drains, the second cancels, the third kills."""
        self._ending.signals.append(number)
        if len(self._ending.signals) == 1:
            self._note(f"asyncpc: {number.name}: all processes drain; a second signal cancels now")
            self._stop()
        elif len(self._ending.signals) == 2:
            self._stop(0.0)
        else:
            for child in self._live:
                child.kill()

    def _ask_where(self) -> None:
        """Let each process tell where its workers are."""
        for child in self._live:
            if child.is_running:
                child.tell("where")

    # -- what they do -----------------------------------------------------------------------------

    def statistics(self) -> Statistics | None:
        """The counts of all processes, up to half a second old; None before the first."""
        state = "draining" if self._stopping.is_set() else "running"
        return self._overview.statistics([*self._last, *self._live], state)

    def places(self) -> list[tuple[int, Child]]:
        """The number of each place that has a process which runs, and that process."""
        return [(one.number, one.child) for one in self._places if one.child is not None and one.child.is_running]

    def see(self) -> Seen:
        """All figures, for metrics: the sums over all processes, of which counts never fall."""
        return self._overview.see(self.statistics(), [child for child in self._live if child.is_running])

    def view(self) -> None:
        """What is in other processes is not shown stage by stage."""

    def health(self, stalled_after: float) -> Health:
        """Whether all places have a process that runs, and how those are."""
        return health_of(
            self._places,
            stalled_after,
            is_draining=self._stopping.is_set(),
            has_failed=bool(self._ending.trouble),
        )
