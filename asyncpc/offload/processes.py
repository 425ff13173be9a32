"""``ProcessCaller``: makes the calls of a thread in a process of its own.

The thread writes calls to a pipe and waits for the answers; items that are handled quickly travel many at a time. A
process that dies closes its end of the pipe: the calls it had are made once more, each alone in a fresh process, and
one that dies with its process again has failed. The other half is in ``child``.
"""

from __future__ import annotations

import pickle
import select
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from ..errors import DefinitionError, WorkerDied
from ..wording import shown
from .calls import Job, ThreadCaller
from .carried import carried
from .child import SIMPLE, Reference, explained, serve, told_by

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

__all__ = ["DEPTH", "ProcessCaller", "reference"]

DEPTH: Final = 64
"""Items that may be on their way to and from one process, so that small ones can travel together."""

TRIP: Final = 0.002
"""Seconds of work that one trip should carry: much longer than the trip itself."""

LOAD: Final = 1_000_000
"""Bytes that one trip should carry at most: with more, items that travel together take memory and save no time."""

PATIENCE: Final = 0.2
"""Seconds between two looks whether the process is still there."""


def reference(where: str, function: Callable[..., Any], run_in: str) -> Reference:
    """How another process or interpreter will find ``function``; raises ``DefinitionError`` when it cannot."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    found: Any = sys.modules.get(module or "")
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        found = None
    if module and found is not None and found is not function and getattr(found, "__wrapped__", None) is function:
        return module, name, True
    try:
        return pickle.dumps(function)
    except Exception as error:
        raise DefinitionError(
            f"{where}: run_in={shown(run_in)} imports the function by its name, but finds no "
            f"{shown(name or function)}; it must be defined at the top level of a module"
        ) from error


class ProcessCaller(ThreadCaller):
    """Makes calls of one function in a process; with ``several``, small items travel together."""

    def __init__(self, name: str, function: Reference, generates: bool, several: bool) -> None:
        self._name = name
        self._about = (name, function, generates)
        self._several = several
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._has_sent: Callable[[float], Any]  # in so many seconds
        self._killed = False
        self._seconds = TRIP  # that an item takes, over there
        self._bytes = 1.0  # that an item takes in the pipe, with its answer

    def most(self) -> int:
        """As many calls as make a trip worth its time, but fewer of large items."""
        return max(1, min(DEPTH // 2, int(TRIP / self._seconds), int(LOAD / self._bytes))) if self._several else 1

    def make(self, jobs: list[Job]) -> None:
        """Make the calls in the process. If it dies, each of its items is tried once more, alone."""
        if self._killed:  # just when it had answered
            self._reap()
        self._killed = False  # before the look at the calls, which stop being awaited before the process is killed
        calls = [(job, packed) for job in jobs if not job.future.done() and (packed := self._packed(job)) is not None]
        try:
            self._send(calls)
        except (EOFError, OSError) as error:
            status = self._reap()
            for job, _ in calls:
                job.tries += not self._killed
                if job.future.done():
                    job.error = error
                elif job.tries == 2:
                    job.error = WorkerDied(
                        f"stage {self._name!r}: two processes died with this item, {status}: find out what it does "
                        "there (a crash in a C library, memory, an exit)"
                    )
                    job.error.__cause__ = error
                else:
                    self.make([job])
        except Exception as error:  # the process could not begin
            self._reap()
            for job, _ in calls:
                job.error = error

    def interrupt(self) -> bool:
        """Kill the process, which ends its call."""
        self._killed = True
        if (process := self._process) is not None:
            with suppress(ValueError, OSError):  # it has ended already
                process.kill()
        return True

    def close(self) -> None:
        """End the process, and wait until it is gone."""
        self._reap()

    def _packed(self, job: Job) -> Any:
        """What is sent of a call; None if it cannot be sent."""
        context = job.context.get(carried)
        if context is None and SIMPLE.issuperset(map(type, job.args)):
            return job.args
        try:
            return pickle.dumps((job.args, context), pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            job.error = explained(f"stage {self._name!r}: its item cannot be sent to a process", error)
            return None

    def _send(self, calls: list[tuple[Job, Any]]) -> None:
        if not calls:
            return
        if self._pipe is None:
            self._begin()
        assert self._pipe is not None
        if self._killed:
            raise EOFError("the process was killed")
        began = perf_counter()  # the start of a process does not count
        for job, _ in calls:
            job.began = began
        size = _send_pickled(self._pipe, [sent for _, sent in calls])
        packed = self._answer()
        size += len(packed)
        seconds, answers = pickle.loads(packed)
        self._seconds += (max(seconds / len(calls), 1e-6) - self._seconds) / 2
        self._bytes += (size / len(calls) - self._bytes) / 2
        for (job, _), answer in zip(calls, answers, strict=True):
            if type(answer) is not tuple:  # most often
                job.value = answer
                continue
            try:
                well, value = told_by(answer)
            except Exception as error:
                job.error = explained(f"stage {self._name!r}: an answer of its process cannot be read", error)
            else:
                if well:
                    job.value = value
                else:
                    job.error = value

    def _begin(self) -> None:
        """Start the process; raises the error with which it could not begin, ``EOFError`` if it died before."""
        import multiprocessing

        spawning = multiprocessing.get_context("spawn")  # a fork of a program with threads may hang
        self._pipe, theirs = spawning.Pipe()
        self._has_sent = _looking_at(self._pipe)
        process = spawning.Process(target=serve, args=(theirs, *self._about), name=self._name, daemon=True)
        with theirs:
            _start_deaf(process)
        self._process = process
        if self._killed:  # before it was there
            process.kill()
        try:
            trouble = pickle.loads(self._answer())
        except EOFError:
            raise EOFError(
                "the process ended before it began; if it imports the program's main module, what runs there "
                "belongs under: if __name__ == '__main__'"
            ) from None
        if trouble is not None:
            raise trouble

    def _answer(self) -> bytes:
        """What the process sends; raises ``EOFError`` once it has ended.

        The end of the pipe does not tell that if the call has started a process of its own, which keeps the pipe open.
        """
        assert self._pipe is not None
        assert self._process is not None
        while not self._has_sent(PATIENCE):
            if self._process.exitcode is not None and not self._has_sent(0):
                raise EOFError("the process has ended")
        return self._pipe.recv_bytes()

    def _reap(self) -> str:
        """Let the process end; say in words how it ended."""
        process, self._process = self._process, None
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()
        if process is None:
            return "which could not start"
        if not _has_ended(process):
            process.kill()
            _has_ended(process)
        return _status(process)


def _send_pickled(pipe: Connection, calls: list[Any]) -> int:
    """Send them, and keep none of the message while the answer is awaited; return how many bytes it had."""
    message = pickle.dumps(calls, pickle.HIGHEST_PROTOCOL)
    pipe.send_bytes(message)
    return len(message)


def _looking_at(pipe: Connection) -> Callable[[float], Any]:
    """What says whether there is something to be received, within so many seconds.

    As ``pipe.poll``, which takes 10 µs, since it makes a selector each time.
    """
    if not hasattr(select, "poll"):
        return pipe.poll
    poller = select.poll()
    poller.register(pipe, select.POLLIN)
    return lambda seconds: poller.poll(1000 * seconds)


def _has_ended(process: BaseProcess) -> bool:
    """Whether a process ended that is dead, or about to be, as soon as the system reports it; waits for a second.

    It looks now and then, since the wait does not end if the process has left one that it started itself.
    """
    for _ in range(100):
        if process.exitcode is not None:
            return True
        process.join(0.01)
    return False


def _status(process: BaseProcess) -> str:
    """Say how a process ended.

    The system reports it only once: maybe to another thread that starts a process at this moment, or, where the program
    ignores SIGCHLD or waits for any child, not to asyncpc.
    """
    if (status := process.exitcode) is None:
        return "in a way that only another part of the program knows"
    process.close()
    return f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"


def _start_deaf(process: BaseProcess) -> None:
    """Start it with SIGINT blocked until it can ignore it: Ctrl-C goes to all processes, but only this one drains."""
    if not hasattr(signal, "pthread_sigmask"):
        process.start()
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # it would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
