"""SIGINT and SIGTERM end a run: the first drains it, the second cancels, the third has its default action.

SIGUSR1 asks where its workers are; a program that has its own handler for it keeps that.

Signal handlers belong to the process, so all runs that ask for signals share one, which the first of them installs and
the last one removes.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FrameType
from typing import Any, Final

from .supervisor import Supervisor
from .telling import answer_apart

__all__ = ["Signals", "can_handle_signals"]

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

QUESTION: Final[int | None] = getattr(signal, "SIGUSR1", None)
"""There is none on Windows."""


def can_handle_signals() -> bool:
    """Whether this is the main thread: Python handles signals nowhere else (fault D3)."""
    return threading.current_thread() is threading.main_thread()


class Signals:
    """The signals that one run gets."""

    def __init__(
        self,
        run: Supervisor,
        drain_timeout: float | None,
        *,
        passed_on: bool,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self._run = run
        self._drain_timeout = run.plan.drain_timeout if drain_timeout is None else drain_timeout
        self._loop = asyncio.get_running_loop()
        self._received = False
        self._tell = tell
        self.passed_on: bool = passed_on
        """Whether the handlers that were there before are called too."""
        self.awaits_end: bool = False
        """Whether the program does nothing but wait for the end of the run, and for what follows from it."""

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle signals while the block runs; needs the main thread."""
        _handlers.add(self)
        try:
            yield
        finally:
            _handlers.remove(self)

    def is_over(self) -> bool:
        """Whether a signal has nothing to stop any more."""
        return self._run.ended.is_set() and not self.awaits_end

    def receive(self, number: int) -> bool:
        """Stop the run; return whether this is not the first signal."""
        if not self._received:
            self._received = True
            self._run.outcome.note_signal(number)
            self._loop.call_soon_threadsafe(self._drain, number)
            return False
        self._loop.call_soon_threadsafe(self._run.stop, 0)
        return True

    def asked(self) -> None:
        """Tell where the workers are."""
        answer_apart(self._run, self._tell)

    def _drain(self, number: int) -> None:
        self._run.stop(self._drain_timeout)
        if sys.stderr is not None and sys.stderr.isatty():  # somebody sits at a terminal
            name, most = signal.Signals(number).name, self._drain_timeout
            sys.stderr.write(f"asyncpc: {name}: draining for at most {most:g} s; a second signal cancels now\n")
            sys.stderr.flush()


class _Handlers:
    """What the process does with its signals while runs want them."""

    def __init__(self) -> None:
        self.wanted: list[Signals] = []
        self.before: dict[int, Any] = {}
        """The handlers that ours has replaced; empty while it is not installed."""
        self.woken = ExitStack()

    def add(self, signals: Signals) -> None:
        self.wanted.append(signals)  # first, since a signal may come between any two of these lines
        try:
            if len(self.wanted) == 1:
                self.woken.enter_context(_woken_by_signals(asyncio.get_running_loop()))
            if not self.before:
                self.install()
        except BaseException:
            self.remove(signals)
            raise

    def install(self) -> None:
        """Take the signals, but for those that the process ignores, as one does that a shell began with ``&``."""
        for number in SIGNALS:
            if (handler := signal.getsignal(number)) is not signal.SIG_IGN:
                self.before[number] = handler  # before it is replaced: ours may be called at once
                signal.signal(number, self.came)
        if QUESTION is not None and signal.getsignal(QUESTION) is signal.SIG_DFL:
            self.before[QUESTION] = signal.SIG_DFL
            signal.signal(QUESTION, self.asked)

    def remove(self, signals: Signals) -> None:
        self.wanted.remove(signals)
        if not self.wanted:
            self.restore()
            self.woken.close()

    def restore(self) -> None:
        """Give the signals back to whoever had them (fault D2), unless somebody has taken them meanwhile."""
        for number, handler in self.before.items():
            if signal.getsignal(number) in (self.came, self.asked, signal.SIG_DFL):
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self.before = {}

    def asked(self, number: int, frame: FrameType | None) -> None:
        """Runs as ``came`` does."""
        for one in self.wanted:
            one.asked()

    def came(self, number: int, frame: FrameType | None) -> None:
        """Runs between two bytecodes, also while user code blocks the loop, so the third signal always works."""
        waiting = [one for one in self.wanted if not one.is_over()]
        if not waiting:  # then the signal is for the program
            self.restore()
            if signal.getsignal(number) == self.came:  # somebody kept ours, and put it back after the last run
                signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
            return
        again = [one.receive(number) for one in waiting]
        if any(again):
            for each in self.before.keys() & {*SIGNALS}:
                signal.signal(each, signal.SIG_DFL)
        if any(one.passed_on for one in waiting):
            _call(self.before.get(number), number, frame)


_handlers: Final = _Handlers()


def _call(handler: Any, number: int, frame: FrameType | None) -> None:
    """Call a signal handler, unless it is Python's or that of ``asyncio.run``, which cancels the main task."""
    runner = getattr(handler.func, "__self__", None) if isinstance(handler, partial) else None
    is_pythons = handler is signal.default_int_handler or isinstance(runner, asyncio.Runner)
    if callable(handler) and not is_pythons:
        handler(number, frame)


@contextmanager
def _woken_by_signals(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let every signal wake ``loop``, even one that comes just before it sleeps, or to another thread (fault D2).

    The interpreter runs ``came`` only when the main thread runs again. uvloop and the proactor loop see to that
    themselves; asyncio's selector loop only while it has handlers of its ``add_signal_handler``.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        if before != -1 or not isinstance(loop, asyncio.SelectorEventLoop):
            signal.set_wakeup_fd(before)
            yield
            return
        loop.add_reader(ours, ours.recv, 4096)
        try:
            yield
        finally:
            if (now := signal.set_wakeup_fd(before)) != theirs.fileno():
                signal.set_wakeup_fd(now)  # somebody has set another meanwhile
            loop.remove_reader(ours)
