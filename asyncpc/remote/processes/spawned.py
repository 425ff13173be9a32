"""``Child``: one of the processes, as the parent has it: spawned, heard, told to drain, and killed if need be."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from math import inf
from time import monotonic
from typing import Any, Final

import anyio
from anyio.abc import Process

from ...run.statistics import Statistics, read_statistics
from .pipe import GRACE, Lines, Message, line

__all__ = ["LATE", "Child", "spawned"]

LATE: Final = 1.0
"""Seconds without a word of a child after which its silence is told."""

UNANSWERED: Final = 100
"""Questions that may wait for an answer."""


class Child:
    """One process; see the module."""

    def __init__(self, process: Process, pipe: socket.socket) -> None:
        pipe.setblocking(False)
        self.process: Process = process
        self.statistics: Statistics | None = None
        self.stalled: Sequence[tuple[str, float]] = ()
        self.bounds: Mapping[str, int] = {}
        self.drain_timeout: float = 0.0
        self.view: Message | None = None
        """What there is to see of its run, if it was asked to tell."""
        self.report: Message | None = None
        self.failure: tuple[int, list[str]] | None = None
        """With which status and lines it says that it could not begin."""
        self.is_running: bool = False
        """Whether it has begun, now or before its end."""
        self.is_draining: bool = False
        self.settled: anyio.Event = anyio.Event()
        """It has begun, and is connected, or it has ended."""
        self.ended: anyio.Event = anyio.Event()
        self.began: float = monotonic()
        self._heard = monotonic()
        self._silent = 0.0
        self._handle = _handle_of(process.pid)
        self._pipe = pipe
        self._lines = Lines()
        self._unsent = b""
        self._patience = anyio.CancelScope()
        self._drain: float | None = None  # seconds that it was told
        self._killed = False
        self._asked = 0
        self._questions: dict[int, Future[list[Message]]] = {}  # by their numbers

    async def live(self, heed: Callable[[Child, Message], None]) -> None:
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
            if self._handle is not None:
                os.close(self._handle)

    async def _reap(self) -> None:
        if self.process.returncode is None:
            self._killed = True
            self.kill()
            with anyio.CancelScope(shield=True):
                await self.process.wait()

    async def _hear(self, heed: Callable[[Child, Message], None]) -> None:
        while True:
            await anyio.wait_readable(self._pipe)
            if not self._read(heed):
                return

    def _read(self, heed: Callable[[Child, Message], None]) -> bool:
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
                self._note_connection()
                if self.is_draining:  # it began just when it was told to end, so it has the time that it needs
                    self._patience.deadline = inf
                    self.drain(self._drain)
            case {"kind": "statistics", "statistics": statistics, "stalled": stalled, "silent": silent}:
                self.statistics, self._silent = read_statistics(statistics), silent
                self.stalled = [(stage, seconds) for stage, seconds in stalled]
                self._note_connection()
            case {"kind": "view", "view": view}:
                self.view = view
            case {"kind": "workers", "number": number, "workers": workers}:
                if (answer := self._questions.pop(number, None)) is not None:
                    answer.set_result(workers)
            case {"kind": "failed", "status": status, "lines": lines}:
                self.failure = status, lines
            case {"kind": "report", "report": report}:
                self.report, self.statistics = report, read_statistics(report["statistics"])
                self.limit(self.drain_timeout + GRACE)

    def _note_connection(self) -> None:
        if self.is_connected:
            self.settled.set()

    @property
    def is_connected(self) -> bool:
        """Whether it has begun, and was connected to each of its queues, as far as it has told."""
        return self.statistics is not None and self.statistics.is_connected

    @property
    def has_worked(self) -> bool:
        """Whether it has begun, and has not failed before it was connected; one that has died could not tell."""
        has_failed = self.report is not None and self.report["state"] == "failed"
        return self.is_running and (self.is_connected or not has_failed)

    def tell(self, kind: str, **rest: Any) -> None:
        """Send a message; what the child does not read for a long time waits for the next one."""
        self._unsent += line(kind, **rest)
        with suppress(OSError):
            while self._unsent:
                self._unsent = self._unsent[self._pipe.send(self._unsent) :]

    def ask_workers(self, stage: str) -> Future[list[Message]]:
        """Ask what the workers of a stage do; a question that is not answered is forgotten after some more."""
        self._asked += 1
        answer = self._questions[self._asked] = Future()
        self._questions.pop(self._asked - UNANSWERED, None)
        self.tell("workers", stage=stage, number=self._asked)
        return answer

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
        now = asyncio.get_running_loop().time()  # anyio.current_time() needs a task; a page asks without one
        self._patience.deadline = min(self._patience.deadline, now + seconds)

    def kill(self) -> None:
        """End it, whatever it does."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended.

        ``process.send_signal()`` of Python 3.11 would look whether it has: if so, just now, asyncio could not learn its
        status any more, would take it for 255, and write a warning to stderr. And asyncio learns it a moment after the
        system has: then the number of the process may be another one's by now, but not the handle.
        """
        if self.process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            if sys.platform == "linux" and self._handle is not None:
                signal.pidfd_send_signal(self._handle, number)
            else:
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

    def how_early(self) -> str:
        """How it ended that has not worked, in words."""
        return f"{self.how()} before it was {'connected' if self.is_running else 'running'}"


def _handle_of(pid: int) -> int | None:
    """What names the process also after its end, where the system has such a thing and a descriptor is left."""
    if sys.platform == "linux":
        with suppress(OSError):
            return os.pidfd_open(pid)
    return None


async def spawned(command: Sequence[str]) -> Child:
    """Start a process; the number of its end of the pipe is added to the command. Raises ``OSError``."""
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
    return Child(process, ours)


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Start processes with SIGINT and SIGHUP blocked, until they ignore them: a terminal tells all processes of it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGHUP])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
