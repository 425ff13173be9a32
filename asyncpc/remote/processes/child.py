"""``Parent``: what a process that was started by ``--processes`` has of its parent, a pipe in both directions.

A thread reads what the parent says, so that it is heard before the event loop begins and where a handler blocks it.
When the pipe ends, the parent is gone: the run drains, and what outlasts its time is killed.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock, Thread
from types import FrameType
from typing import Any, Final

from ...core.plan import Plan
from ...errors import AsyncpcError, DefinitionError, QueueShutDown
from ...logs import WARNING, log
from ...run.running import Running, limit_calls, look_at, tell_where
from ...run.watching import Beside
from ...watch.places import workers_in
from ...watch.snapshot import as_dict
from ...watch.watcher import Watcher
from ...wording import summary
from .pipe import GRACE, Lines, Message, line

__all__ = ["Parent", "check_shared"]

EVERY: Final = 0.5
"""Seconds between two looks at the counts."""


def check_shared(plan: Plan) -> None:
    """Refuse a pipeline that several processes cannot share; raises ``DefinitionError``."""
    shared = "sqlite:/// is a queue that processes share, and needs no server"
    for origin in plan.origins:
        if origin.unshared and origin.attended is not None:
            raise DefinitionError(f"--processes: {origin.name!r} cannot be shared: {origin.unshared}; {shared}")
        if origin.unshared:
            raise DefinitionError(
                f"--processes: source {origin.name!r} is no remote queue: {origin.unshared}; let one process put the "
                f"items into a remote queue ({origin.name} >> jobs), and run 'jobs >> …' with --processes; {shared}"
            )
    for node in plan.nodes:
        if node.handler.unshared:
            raise DefinitionError(
                f"--processes: nobody could read {node.handler.name!r}: {node.handler.unshared}; {shared}"
            )


class Parent:
    """The parent of this process; make it first, in the main thread. ``say`` shows a line to the user."""

    def __init__(self, pipe: socket.socket, say: Callable[[str], None]) -> None:
        pipe.set_inheritable(False)  # or processes that the handlers start would keep it open
        self._pipe = pipe
        self._say = say
        self._lines = Lines()
        self._waiting: list[Message] = []  # came with the first one
        self._sending = Lock()
        self._changing = Lock()
        self._running: tuple[Running[Any, Any], asyncio.AbstractEventLoop] | None = None
        self._watcher: Watcher | None = None  # if somebody wants to see
        self._payloads = False  # whether that may tell of items
        self._is_over = False  # the run, or the try to start it
        self._is_closed = False
        self._is_orphan = False
        self._drain: float | None = None  # asked for before the run
        self._drain_timeout = 0.0
        self._thread = Thread(target=self._listen, name="asyncpc:parent", daemon=True)
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
            signal.signal(signal.SIGTERM, self._terminated)

    def options(self) -> dict[str, Any]:
        """What to run; waits until the parent has said it. From now on the parent is heard."""
        while not self._waiting:
            received = self._pipe.recv(65536)
            if not received:
                os._exit(1)  # the parent has ended: there is nothing to do
            self._waiting += self._lines.messages(received)
        options: dict[str, Any] = self._waiting.pop(0)["options"]
        self._thread.start()
        return options

    def begins(self, plan: Plan, drain_timeout: float | None, views: str = "none") -> Beside:
        """What tells the parent of a run, and the run what the parent says, while it is under way.

        ``views`` says what the parent shows of the run on a page: ``none``, ``plain``, or ``payloads``.
        """
        self._drain_timeout = plan.drain_timeout if drain_timeout is None else drain_timeout
        bounds = {node.handler.name: plan.bound(node.handler) for node in plan.nodes}
        facts = {"pipeline": plan.name, "drain_timeout": self._drain_timeout, "bounds": bounds}

        def begun(running: Running[Any, Any]) -> None:
            self.say("running", **facts, statistics=running.statistics().as_dict())

        @contextmanager
        def beside(running: Running[Any, Any]) -> Iterator[None]:
            loop = asyncio.get_running_loop()
            with self._changing:
                self._running = running, loop
                self._watcher, self._payloads = None if views == "none" else Watcher(running), views == "payloads"
            loop.call_soon(begun, running)  # the run starts first
            if self._drain is not None:
                loop.call_soon(running.stop, self._drain)
            try:
                yield
            finally:
                with self._changing:
                    self._running, self._is_over = None, True

        return beside

    def say(self, kind: str, **rest: Any) -> None:
        """Tell the parent; if it is gone, nobody."""
        text = line(kind, **rest)
        with self._sending, suppress(OSError):
            self._pipe.sendall(text)

    def close(self) -> None:
        """All is said: stop listening."""
        with self._changing:
            self._is_closed = True
            is_heard = self._thread.ident is not None and not self._is_orphan  # an orphan's thread waits for its end
        with suppress(OSError):
            self._pipe.shutdown(socket.SHUT_RDWR)
        if is_heard:
            self._thread.join()
        self._pipe.close()

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM before the run ends the process at once; after it, nothing is left to stop but the report."""
        if not self._is_over:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    # -- in the thread ----------------------------------------------------------------------------

    def _listen(self) -> None:
        with suppress(OSError):
            self._listen_until_it_ends()
        with self._changing:
            self._is_orphan = not self._is_closed
            has_begun = self._running is not None or self._is_over
        if self._is_orphan:
            self._end_alone(has_begun)

    def _listen_until_it_ends(self) -> None:
        for message in self._waiting:
            self._heed(message)
        poller = select.poll()
        poller.register(self._pipe, select.POLLIN)
        due = time.monotonic() + EVERY
        while True:
            if poller.poll(1000 * max(0.0, due - time.monotonic())):
                received = self._pipe.recv(65536)
                if not received:
                    return
                for message in self._lines.messages(received):
                    self._heed(message)
            if time.monotonic() >= due:
                self._tell_statistics()
                due = time.monotonic() + EVERY

    def _heed(self, message: Message) -> None:
        match message:
            case {"kind": "drain", "timeout": timeout}:
                self._stop(self._drain_timeout if timeout is None else timeout)
            case {"kind": "pause"}:
                self._do(Running.pause)
            case {"kind": "resume"}:
                self._do(Running.resume)
            case {"kind": "where"}:
                self._tell_where()
            case {"kind": "scale", "stage": stage, "concurrency": concurrency}:
                self._do(lambda running: running.scale(stage, concurrency))
            case {"kind": "rate", "stage": stage, "calls": calls, "seconds": seconds}:
                self._do(lambda running: limit_calls(running, stage, calls, seconds))
            case {"kind": "workers", "stage": stage, "number": number}:
                self._tell_workers(stage, number)

    def _tell_where(self) -> None:
        with self._changing:
            under_way = self._running
        if under_way is not None:
            tell_where(under_way[0], lambda line: self._say(f"asyncpc: process {os.getpid()}: {line}"))

    def _stop(self, timeout: float) -> None:
        with self._changing:
            self._drain = timeout  # for a run that is yet to begin
        self._do(lambda running: running.stop(timeout))

    def _do(self, command: Callable[[Running[Any, Any]], None]) -> None:
        """Carry out a command in the loop of the run, if one is under way."""
        with self._changing:
            if self._running is None:
                return
            running, loop = self._running

        def carry_out() -> None:
            try:
                command(running)
            except AsyncpcError as error:
                self.say("refused", why=str(error))

        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(carry_out)

    def _tell_statistics(self) -> None:
        with self._changing:
            under_way = self._running
        if under_way is None:
            return
        look = look_at(under_way[0])
        if look.statistics is not None and look.statistics.state != "new":
            self.say("statistics", statistics=look.statistics.as_dict(), stalled=look.unsettled, silent=look.silent)
        self._tell_view()

    def _tell_view(self) -> None:
        try:
            view = None if self._watcher is None else self._watcher.look()
            if view is not None:
                self.say("view", view=as_dict(view, payloads=self._payloads))
        except Exception as error:  # what only watches a run cannot disturb it
            log(WARNING, "the page no longer shows this process: %s", summary(error))
            self._watcher = None

    def _tell_workers(self, stage: str, number: int) -> None:
        with self._changing:
            under_way = self._running
        if under_way is not None:
            with suppress(QueueShutDown):  # the loop is closed
                self.say("workers", number=number, workers=workers_in(*under_way, stage))

    def _end_alone(self, has_begun: bool) -> None:
        """The parent is gone: drain, and be gone too, whatever the run does."""
        if not has_begun:
            os._exit(1)
        self._say("asyncpc: the parent process has ended: draining")
        self._stop(self._drain_timeout)
        # in the thread that reads the pipe, which has no more to read; it must not depend on a loop that may be blocked
        time.sleep(self._drain_timeout + GRACE)
        os.kill(os.getpid(), signal.SIGKILL)
