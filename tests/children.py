"""Programs in processes of their own, stopped by real signals and watched on real terminals.

Nothing here sleeps to let something happen: a child prints a word, and the test waits for that word.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 30.0
"""Seconds after which a child that hangs is killed, so that its test fails."""

UNMEASURED = {"COVERAGE_PROCESS_CONFIG": ""}
"""The environment of a child that coverage must not measure."""


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    status: int
    out: str
    err: str
    seconds: float
    """From the last signal, or the start, to the end of the process."""
    cpu: float
    """CPU seconds that it used, and its own children."""

    def row(self, name: str) -> list[str]:
        """The cells of the report's line for the stage or source ``name``."""
        return next(line.split()[1:] for line in self.out.splitlines() if line.split()[:1] == [name])


class Child:
    """A Python program running in ``folder``; its stderr goes to a file, so that neither stream can block it."""

    def __init__(
        self, folder: Path, *arguments: str, own_group: bool = False, patience: float = PATIENCE, **environment: str
    ) -> None:
        self._stderr = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  # no block can end in another method: end() does it
        self._process = subprocess.Popen(
            [sys.executable, "-W", "default", *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            encoding="utf-8",
            env=_environment(**environment),
            start_new_session=own_group,
        )
        self.pid = self._process.pid
        self._read = ""
        self._since = time.monotonic()
        self._guard = threading.Timer(patience, self._process.kill)
        self._guard.start()

    def line_with(self, word: str) -> str:
        """Wait for a line with ``word`` on the child's stdout."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._read += line
            if word in line:
                return line
        ended = self.end()
        raise AssertionError(f"ended with {ended.status} and without {word!r}: {ended.out}{ended.err}")

    def errors_so_far(self) -> str:
        """What it has written to stderr by now."""
        return os.pread(self._stderr.fileno(), 65536, 0).decode()  # without moving the place where it writes

    def send(self, number: signal.Signals) -> float:
        """Send a signal, and return the moment (monotonic clock, the same in all processes)."""
        self._since = time.monotonic()
        self._process.send_signal(number)
        return self._since

    def send_to_group(self, number: signal.Signals) -> None:
        """Send a signal to it and its children, as a terminal does for Ctrl-C; it must have a group of its own."""
        os.killpg(self.pid, number)

    def end(self) -> Ended:
        """Wait for its end."""
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            self._read += stdout.read()
        before = _cpu_of_children()
        status = self._process.wait()
        cpu = _cpu_of_children() - before
        seconds = time.monotonic() - self._since
        self._guard.cancel()
        self._guard.join()
        with self._stderr as stderr:
            stderr.seek(0)
            return Ended(status, self._read, stderr.read(), seconds, cpu)


def run_child(folder: Path, *arguments: str, **environment: str) -> Ended:
    """Run a Python program to its end."""
    return Child(folder, *arguments, own_group=False, patience=PATIENCE, **environment).end()


def run_pytest(folder: Path, *arguments: str, **environment: str) -> Ended:
    """Run a user's tests to their end, with the plugin that they need: all others double the time to start."""
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | UNMEASURED | environment
    options = "-p", "no:cacheprovider", "-p", "pytest_asyncio.plugin"
    return run_child(folder, "-m", "pytest", *options, *arguments, **alone)


def run_on_terminal(folder: Path, *arguments: str, columns: int = 120, typed: str = "") -> Ended:
    """Run a Python program to its end with stdout, stderr and stdin on a terminal; ``out`` is what came there.

    ``typed`` lies there before the program asks for it.
    """
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (30, columns))
    os.write(ours, typed.encode())
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=_environment(TERM="xterm-256color"),
    )
    os.close(theirs)
    guard = threading.Timer(PATIENCE, process.kill)
    guard.start()
    text = b"".join(_pieces(ours)).decode()
    os.close(ours)
    before = _cpu_of_children()
    status = process.wait()
    cpu = _cpu_of_children() - before
    guard.cancel()
    guard.join()
    return Ended(status, text.replace("\r\n", "\n"), "", time.monotonic() - started, cpu)


def _cpu_of_children() -> float:
    """CPU seconds of all children that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _pieces(terminal: int) -> Iterator[bytes]:
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while piece := os.read(terminal, 65536):
            yield piece


def _environment(**extra: str) -> dict[str, str]:
    """Ours, without what would change the output of a child."""
    fixed = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "PYTHONIOENCODING", "PYTHONWARNINGS")
    return {name: value for name, value in os.environ.items() if name not in fixed} | {"PYTHONUTF8": "1"} | extra
