"""``asyncpc run --reload``: runs the command in a child process, and again whenever a ``.py`` file has changed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

from ..errors import DefinitionError
from .output import UsageError, print_error

__all__ = ["run_again_and_again"]

LOOK: Final = 100
"""Milliseconds between two looks at the child."""


def run_again_and_again(arguments: Sequence[str]) -> int:
    """Run ``asyncpc`` with these arguments until a signal comes, and once more after each change below this folder."""
    try:
        from watchfiles import PythonFilter, watch
    except ImportError as error:
        raise DefinitionError("--reload needs watchfiles: pip install 'asyncpc[reload]'") from error
    child = _Child([sys.executable, "-m", "asyncpc", *arguments])
    here, which = Path.cwd(), PythonFilter()
    with child.told_of_signals():
        try:
            # the child starts after the first look, so that no change is missed
            for changes in watch(here, watch_filter=which, stop_event=child, rust_timeout=LOOK, yield_on_timeout=True):
                child.look(sorted({path for _, path in changes}))
        except (OSError, RuntimeError) as error:
            raise UsageError(f"--reload: cannot watch {here}: {error}") from error
        finally:
            status = child.end()
    return status


class _Child:
    """The process that runs the pipeline; each signal comes to it once, from here.

    It does not hear of Ctrl-C from the terminal, which tells all processes there. As an event it is set when a signal
    has come.
    """

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._signals: list[int] = []
        self._told = 0  # how often the process was told to stop
        self._is_wanted = True
        self._is_over = True  # it has ended by itself, and that was said

    def is_set(self) -> bool:
        return bool(self._signals)

    @contextmanager
    def told_of_signals(self) -> Iterator[None]:
        """Tell the process of SIGINT and SIGTERM, but for those that are ignored here."""
        numbers = [one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) is not signal.SIG_IGN]
        before = [signal.signal(number, self._came) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def look(self, changed: Sequence[str]) -> None:
        """Run again if files have changed, as soon as the process has ended."""
        if changed:
            print_error(f"asyncpc: {', '.join([Path(one).name for one in changed])} changed")
            self._is_wanted = True
            self._tell(1)
        if self._process is not None and self._process.poll() is None:
            return
        if self._is_wanted:
            self._start()
        elif not self._is_over:
            assert self._process is not None
            self._is_over = True
            print_error(f"asyncpc: ended with status {_status(self._process)}; a change runs it again")

    def end(self) -> int:
        """Wait for the end of the process, which was told to stop; the exit status."""
        self._tell(len(self._signals) or 1)
        status = 0
        if self._process is not None:
            self._process.wait()
            status = _status(self._process)
        if self._signals and (self._is_over or status == 128 + signal.SIGTERM):
            return 128 + self._signals[0]
        return status

    def _came(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)
        self._tell(len(self._signals))

    def _tell(self, times: int) -> None:
        """Tell the process to stop, so many times in all: the second cancels its run."""
        while self._process is not None and self._told < times:
            self._told += 1
            self._process.terminate()

    def _start(self) -> None:
        self._told, self._is_wanted, self._is_over = 0, False, False
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is ignored here is ignored there
        try:
            self._process = subprocess.Popen(self._command)
        finally:
            signal.signal(signal.SIGINT, before)


def _status(process: subprocess.Popen[bytes]) -> int:
    """The exit status as a shell has it."""
    code = process.returncode
    return 128 - code if code < 0 else code
