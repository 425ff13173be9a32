"""``Processes``: the parent of several processes that run one pipeline; it starts, watches, stops and replaces them.

It runs no code of the user, so nothing holds up its loop, and it imports none, so new processes have what is on the
disk now. Each child has a pipe (see ``pipe``) whose end means drain; so a parent that was killed leaves nobody behind.

The life of a child
-------------------
1. It is spawned, never forked, and is told over the pipe what to run: a password in it is not in the list of processes.
2. It says ``running``. If it ends before that, and never ran in its place, nothing can run: all of it ends.
3. It says ``report`` and ends. If nobody asked it to, or it just died, it has crashed, and another one takes its place
   after 1, 2, 4 … 30 seconds; after five crashes of one place within a minute all of it ends.
4. If it was told to drain and is there ``GRACE`` seconds after its time, it is killed.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from math import inf
from time import monotonic
from typing import Any, Final, NamedTuple

import anyio
from anyio.abc import Process, TaskGroup, TaskStatus

from ..failure import FAILURES_KEPT
from ..run.health import Health
from ..run.report import Report, Statistics
from ..watch.totals import PRESENT, Figures, Seen, counts_of, depths_of
from .pipe import GRACE, Lines, Message, line
from .sums import read_statistics, sum_of, without_present

__all__ = ["Outcome", "Processes", "Terms"]

LATE: Final = 1.0
"""Seconds without a word of a child after which its silence is told."""

WINDOW: Final = 60.0
"""Seconds within which crashes are counted; a process that has lived so long has recovered."""

CRASHES: Final = 5
"""Crashes of one place within ``WINDOW`` that end all of it."""

LONGEST: Final = 30.0
"""Seconds before a process is replaced, at most."""

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


class Outcome(NamedTuple):
    """How it ended."""

    report: Report | None
    """The sum of the reports; None if nothing has run. The items that are left are only counted."""
    failures: Sequence[Any]
    """The last failures, as in ``--json``."""
    errors: Sequence[str]
    """What the runs failed with, a line each."""
    exit_status: int
    lines: Sequence[str]
    """What to show of a start that failed."""
    crashes: int
    """Processes that ended though nobody had asked them to."""


class Elsewhere:
    """Stands in a report for an item that a child was left with."""

    def __repr__(self) -> str:
        return "<an item of another process>"


class _Child:
    """One process."""

    def __init__(self, process: Process, pipe: socket.socket) -> None:
        pipe.setblocking(False)
        self.process: Process = process
        self.statistics: Statistics | None = None
        self.stalled: Sequence[tuple[str, float]] = ()
        self.bounds: Mapping[str, int] = {}
        self.drain_timeout: float = 0.0
        self.report: Message | None = None
        self.failure: tuple[int, list[str]] | None = None
        """With which status and lines it says that it could not begin."""
        self.is_running: bool = False
        """Whether it has begun, now or before its end."""
        self.is_draining: bool = False
        self.settled: anyio.Event = anyio.Event()
        """It has begun, or ended."""
        self.ended: anyio.Event = anyio.Event()
        self.began: float = monotonic()
        self._heard = monotonic()
        self._silent = 0.0
        self._pipe = pipe
        self._lines = Lines()
        self._unsent = b""
        self._patience = anyio.CancelScope()
        self._drain: float | None = None  # seconds that it was told
        self._killed = False

    async def live(self, heed: Callable[[_Child, Message], None]) -> None:
        """Hear what it says until it has ended, and kill it when its time is over."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._hear, heed)
                with self._patience:
                    await self.process.wait()
                await self._reap()
                group.cancel_scope.cancel()
            self._read(heed)  # the pipe does not end if the child has forked
        finally:
            self._pipe.close()
            if self.process.returncode is None:  # the parent was cancelled; the end of the pipe lets the child drain
                with anyio.CancelScope(shield=True, deadline=anyio.current_time() + self.drain_timeout + GRACE):
                    await self.process.wait()
                await self._reap()
            self.settled.set()
            self.ended.set()

    async def _reap(self) -> None:
        if self.process.returncode is None:
            self.kill()
            with anyio.CancelScope(shield=True):
                await self.process.wait()

    async def _hear(self, heed: Callable[[_Child, Message], None]) -> None:
        while True:
            await anyio.wait_readable(self._pipe)
            if not self._read(heed):
                return

    def _read(self, heed: Callable[[_Child, Message], None]) -> bool:
        """Heed what has arrived; whether more can come."""
        try:
            while received := self._pipe.recv(65536):
                self._heard = monotonic()
                for message in self._lines.messages(received):
                    self._note(message)
                    heed(self, message)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def _note(self, message: Message) -> None:
        match message:
            case {"kind": "running", "drain_timeout": timeout, "bounds": bounds, "statistics": statistics}:
                self.is_running, self.drain_timeout, self.bounds = True, timeout, bounds
                self.statistics = read_statistics(statistics)
                self.settled.set()
                if self.is_draining:  # it began just when it was told to end, so it has the time that it needs
                    self._patience.deadline = inf
                    self.drain(self._drain)
            case {"kind": "statistics", "statistics": statistics, "stalled": stalled, "silent": silent}:
                self.statistics, self._silent = read_statistics(statistics), silent
                self.stalled = [(stage, seconds) for stage, seconds in stalled]
            case {"kind": "failed", "status": status, "lines": lines}:
                self.failure = status, lines
            case {"kind": "report", "report": report}:
                self.report, self.statistics = report, read_statistics(report["statistics"])
                self.limit(self.drain_timeout + GRACE)

    def tell(self, kind: str, **rest: Any) -> None:
        """Send a message; what the child does not read for a long time waits for the next one."""
        self._unsent += line(kind, **rest)
        with suppress(OSError):
            while self._unsent:
                self._unsent = self._unsent[self._pipe.send(self._unsent) :]

    def drain(self, timeout: float | None) -> None:
        """Let it drain, in so many seconds or those of the pipeline, and be killed if it takes longer.

        Before it has begun it just ends.
        """
        self.is_draining, self._drain = True, timeout
        self.tell("drain", timeout=timeout)
        if not self.is_running:
            self._signal(signal.SIGTERM)
        self.limit((self.drain_timeout if timeout is None else timeout) + GRACE)

    def limit(self, seconds: float) -> None:
        """Kill it if it is still there in so many seconds."""
        self._patience.deadline = min(self._patience.deadline, anyio.current_time() + seconds)

    def kill(self) -> None:
        """End it, whatever it does."""
        self._killed = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended.

        ``process.send_signal()`` of Python 3.11 would look whether it has: if so, just now, asyncio could not learn its
        status any more, would take it for 255, and write a warning to stderr.
        """
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    @property
    def silent(self) -> float:
        """Seconds for which its event loop has not answered."""
        late = monotonic() - self._heard
        return self._silent + late if late > LATE else self._silent

    def how(self) -> str:
        """How it ended, in words."""
        status = self.process.returncode
        if status is not None and status < 0:
            why = ", since it took longer than its drain may" if self._killed else ""
            return f"was ended by {signal.Signals(-status).name}{why}"
        return f"ended with status {status}"


class _Place:
    """One of the processes, with those that replace it."""

    def __init__(self, number: int) -> None:
        self.number: int = number
        self.child: _Child | None = None
        self.successor: _Child | None = None
        """It runs already, and the child drains."""
        self.has_run: bool = False
        self._crashes: deque[float] = deque(maxlen=CRASHES)
        self._streak = 0

    def crashed(self, began: float, first_wait: float) -> float | None:
        """Seconds to wait before the next one; None if there were too many crashes."""
        now = monotonic()
        self._streak = 1 if now - began >= WINDOW else self._streak + 1
        self._crashes.append(now)
        if len(self._crashes) == CRASHES and now - self._crashes[0] < WINDOW:
            return None
        return min(LONGEST, first_wait * 2.0 ** (self._streak - 1))


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
        self._places = [_Place(number + 1) for number in range(terms.processes)]
        self._live: list[_Child] = []  # also those that drain, and those that are to replace them
        self._last: list[_Child] = []  # have ended, and nobody takes their place
        self._past: Statistics | None = None  # the counts of those that were replaced
        self._highest: dict[tuple[str, ...], float] = {}
        self._settings: dict[tuple[str, ...], dict[str, Any]] = {}  # what new children are told too
        self._began = monotonic()
        self._stopping = anyio.Event()
        self._signals: list[int] = []
        self._failure: tuple[int, list[str]] | None = None
        self._trouble: list[str] = []  # that ended all of it
        self._crashes = 0
        self._spawning = anyio.Lock()
        self._is_rolling = False
        self._rolls_again = False
        self._group: TaskGroup

    # -- its life ---------------------------------------------------------------------------------

    async def run(self, around: AbstractAsyncContextManager[object], look: Callable[[Processes], None]) -> Outcome:
        """Run them until all have ended, inside ``around``; ``look`` is called every ten seconds."""
        async with around, anyio.create_task_group() as outer:
            await outer.start(self._heed_signals)
            outer.start_soon(self._look, look)
            async with anyio.create_task_group() as self._group:
                for place in self._places:
                    self._group.start_soon(self._keep, place)
            outer.cancel_scope.cancel()
        return self._outcome()

    async def _look(self, look: Callable[[Processes], None]) -> None:
        while True:
            await anyio.sleep(EVERY)
            look(self)

    async def _keep(self, place: _Place) -> None:
        """Keep one process running."""
        child = await self._spawn()
        while child is not None:
            place.child = child
            await child.settled.wait()
            place.has_run = place.has_run or child.is_running
            await child.ended.wait()
            place.child = None
            child = await self._next(place, child)

    async def _next(self, place: _Place, ended: _Child) -> _Child | None:
        """What takes the place of a child that has ended; None if nothing does."""
        self._live.remove(ended)
        wait = self._wait_after(place, ended)
        if wait is None:
            self._last.append(ended)
            return None
        if ended.statistics is not None:
            past = [] if self._past is None else [self._past]
            self._past = sum_of([*past, without_present(ended.statistics)], "running", 0.0)
        with anyio.move_on_after(wait):
            await self._stopping.wait()
        successor, place.successor = place.successor, None
        return successor or await self._spawn()

    def _wait_after(self, place: _Place, ended: _Child) -> float | None:
        """Seconds before another one takes the place of one that has ended; None if there will be no other."""
        if place.successor is not None:
            return 0.0
        if self._stopping.is_set():
            return None
        if not (ended.is_running or place.has_run):
            self._failed_to_start(place, ended)
            return None
        if ended.process.returncode == 0 and ended.report is not None:
            return None  # its program has asked the run to stop
        if ended.report is not None and ended.report["signal"] is not None and ended.process.returncode != 1:
            self._note(f"asyncpc: somebody else has stopped process {place.number}: another one takes its place")
            return self._terms.first_wait
        self._crashes += 1
        wait = place.crashed(ended.began, self._terms.first_wait)
        what = f"process {place.number} {ended.how()}"
        for told in ended.failure[1] if ended.failure is not None else ():
            self._say(told)
        if wait is None:
            self._trouble.append(f"{what}, as {CRASHES} times within a minute")
            self._say(f"asyncpc: {self._trouble[-1]}: all others drain")
            self._stop()
        else:
            self._say(f"asyncpc: {what}; another one starts in {wait:g} s")
        return wait

    def _failed_to_start(self, place: _Place, ended: _Child) -> None:
        if self._failure is None:
            how = f"asyncpc: process {place.number} {ended.how()} before it was running"
            status = ended.process.returncode or 0
            self._failure = ended.failure or (128 - status if status < 0 else status or 1, [how])
        self._stop()

    async def _spawn(self) -> _Child | None:
        """Start a process, unless all are to stop."""
        async with self._spawning:
            while not self._stopping.is_set():
                try:
                    child = await _spawned(self._terms.command)
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
            self._failure = self._failure or (1, [why])
            self._stop()

    def _heed(self, child: _Child, message: Message) -> None:
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

    def drain(self, timeout: float | None = None) -> None:
        """Let all processes drain, and end; ``timeout`` is in seconds, by default that of the pipeline."""
        self._stop(timeout)

    def roll(self) -> None:
        """Replace one process after the other: the next one drains when the one that replaces it is running.

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

    async def _replace(self, place: _Place, old: _Child) -> bool:
        new = await self._spawn()
        if new is None:
            return False
        await new.settled.wait()
        if not new.is_running:
            self._live.remove(new)
            if not self._stopping.is_set():
                for told in new.failure[1] if new.failure is not None else ():
                    self._say(told)
                self._say(f"asyncpc: the new process {new.how()} before it was running; the others go on as they are")
            return False
        if old.ended.is_set():  # meanwhile, by itself: then it is replaced as any other
            new.drain(None)
            await new.ended.wait()
            self._live.remove(new)
            return True
        place.successor = new
        old.drain(None)
        await old.ended.wait()
        return True

    # -- signals ----------------------------------------------------------------------------------

    async def _heed_signals(self, *, task_status: TaskStatus[None]) -> None:
        wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        numbers = [number for number in wanted if signal.getsignal(number) is not signal.SIG_IGN]
        if not numbers:
            task_status.started()
            return
        has_terminal = _has_terminal()
        with anyio.open_signal_receiver(*numbers) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP and _has_terminal() == has_terminal:
                    self.roll()
                else:
                    self._signalled(number)

    def _signalled(self, number: signal.Signals) -> None:
        """The first signal drains, the second cancels, the third kills."""
        self._signals.append(number)
        if len(self._signals) == 1:
            self._note(f"asyncpc: {number.name}: all processes drain; a second signal cancels now")
            self._stop()
        elif len(self._signals) == 2:
            self._stop(0.0)
        else:
            for child in self._live:
                child.kill()

    # -- sums -------------------------------------------------------------------------------------

    def statistics(self) -> Statistics | None:
        """The counts of all processes, up to half a second old; None before the first."""
        parts = [one.statistics for one in (*self._last, *self._live) if one.statistics is not None]
        parts += [] if self._past is None else [self._past]
        state = "draining" if self._stopping.is_set() else "running"
        return sum_of(parts, state, monotonic() - self._began) if parts else None

    def see(self) -> Seen:
        """All figures, for metrics: the sums over all processes, of which counts never fall."""
        now = self.statistics()
        if now is None:
            return Seen(False, {}, {})
        for what, count in counts_of(now).items():
            self._highest[what] = max(count, self._highest.get(what, 0.0))
        running = [child for child in self._live if child.is_running]
        return Seen(bool(running), dict(self._highest), _present(now, running))

    def health(self, stalled_after: float) -> Health:
        """Whether all places have a process that runs, and how those are."""
        running = [place.child for place in self._places if place.child is not None and place.child.is_running]
        longest: dict[str, float] = {}
        for child in running:
            for stage, seconds in child.stalled:
                longest[stage] = max(seconds, longest.get(stage, 0.0))
        stalled = tuple([one for one in longest.items() if one[1] >= stalled_after])
        silent = max([child.silent for child in running], default=0.0)
        words = [f"{len(running)} of {len(self._places)} processes running"]
        words += ["draining"] if self._stopping.is_set() else []
        words += [f"an event loop has not answered for {silent:.1f} s"] if silent >= LATE else []
        words += [f"{stage}: nothing settled for {seconds:.0f} s" for stage, seconds in stalled]
        return Health(
            live=not self._trouble and silent < max(stalled_after, LATE),
            ready=len(running) == len(self._places) and not self._stopping.is_set(),
            stalled=stalled,
            why="; ".join(words),
        )

    def _outcome(self) -> Outcome:
        """How it ended, when all have."""
        ended = [*self._last, *self._live]
        reports = [one.report for one in ended if one.report is not None]
        died = [one for one in ended if one.is_running and one.report is None]
        report = self._report(reports, died)
        errors = [error for one in reports for error in one["errors"]] + self._trouble
        errors += [f"process {one.process.pid} {one.how()}" for one in died]
        failures = [failure for one in reports for failure in one["failures"]][-FAILURES_KEPT:]
        if self._failure is not None:
            status, lines = self._failure
        else:
            status, lines = self._status(report, ended, is_failed=bool(died or self._trouble)), []
        return Outcome(report, failures, errors, status, lines, self._crashes)

    def _status(self, report: Report | None, ended: Sequence[_Child], *, is_failed: bool) -> int:
        """As for one process: what the sum says, unless a process had a reason of its own."""
        by_signal = 128 + self._signals[0] if self._signals else 0
        status = by_signal if report is None else report.exit_status
        for one in ended:
            code = one.process.returncode or 0
            is_explained = one.report is None or (code == one.report["exit_status"] and code in (1, by_signal))
            if code > 0 and not is_explained:  # a file that is not complete, a sys.exit()
                status = code
        return 1 if is_failed and status in (0, by_signal) else status

    def _report(self, reports: Sequence[Message], died: Sequence[_Child]) -> Report | None:
        """The reports as one; of a child that died, what it had when it was last heard of."""
        total = self.statistics()
        if total is None:
            return None
        left: dict[str, int] = {}
        for report in reports:
            for stage, count in report["unfinished"].items():
                left[stage] = left.get(stage, 0) + count
        for child in died:
            for one in child.statistics.stages if child.statistics is not None else ():
                left[one.name] = left.get(one.name, 0) + one.in_flight + one.queued
        is_failed = bool(died or self._trouble) or any(report["state"] == "failed" for report in reports)
        return Report(
            total._replace(state="failed" if is_failed else "closed"),
            tuple([(stage, (Elsewhere(),) * count) for stage, count in left.items() if count]),
            tuple([name for report in reports for name in report["abandoned"]]),
            self._signals[0] if self._signals else None,
        )


def _present(now: Statistics, running: Sequence[_Child]) -> Figures:
    present: dict[tuple[str, ...], float] = {**depths_of(now)} if running else {}
    for stage in now.stages:
        bounds = [child.bounds.get(stage.name, 0) or inf for child in running]
        stalled = [seconds for child in running for name, seconds in child.stalled if name == stage.name]
        figures = stage.queued, stage.in_flight, stage.concurrency, sum(bounds), max(stalled, default=0.0)
        present |= {(what, stage.name): float(figure) for what, figure in zip(PRESENT, figures, strict=True)}
    return present


async def _spawned(command: Sequence[str]) -> _Child:
    ours, theirs = socket.socketpair()
    try:
        with theirs, _deaf_to_ctrl_c():
            process = await anyio.open_process(
                [*command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=None,
                stderr=None,
                pass_fds=(theirs.fileno(),),
            )
    except BaseException:
        ours.close()
        raise
    return _Child(process, ours)


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Start processes with SIGINT and SIGHUP blocked, until they ignore them: a terminal tells all processes of it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGHUP])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _has_terminal() -> bool:
    """Whether there is a terminal that could be closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
