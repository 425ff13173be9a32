"""Real servers for the tests of remote queues: each test module starts its own, on a free port of the loopback address.

A server that is not installed skips its tests on the machine of a newcomer, whose header says so (``conftest``); where
``ASYNCPC_REQUIRE_SERVERS`` is set, as in the gate, it fails them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

__all__ = ["Server", "free_port", "must_have", "reachable"]

PATIENCE = 60.0
"""Seconds a server may take to start or to stop on a busy machine."""


def must_have(found: object, what: str, how: str) -> None:
    """Skip, or in the gate fail, the tests of a server that was not found; ``how`` says how to get it."""
    if not found:
        if os.environ.get("ASYNCPC_REQUIRE_SERVERS"):
            pytest.fail(f"{what} is missing: {how}", pytrace=False)
        pytest.skip(f"{what} is not installed: {how}")


def free_port() -> int:
    """A port of the loopback address that nobody uses now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def reachable(port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


class Server:
    """A server's process, with its log in a file: it can be killed, stopped and started again on the same data."""

    def __init__(
        self,
        command: Sequence[str],
        ready: Callable[[], bool],
        log: Path,
        *,
        env: dict[str, str] | None = None,
        user: str | None = None,
    ) -> None:
        self._command = command
        self._ready = ready
        self._log = log
        self._env = env
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._env, user=self._user, start_new_session=True
            )
        ends = time.monotonic() + PATIENCE
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > ends:
                self.kill()
                pytest.fail(f"{self._command[0]} did not start:\n{self._log.read_text()[-2000:]}", pytrace=False)
            time.sleep(0.01)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end, and wait for that."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(how)
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def kill(self) -> None:
        """End it as a power failure does, with all that it has started."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(PATIENCE)
            self._process = None

    def send(self, how: signal.Signals) -> None:
        """Send it, and all that it has started, a signal: SIGSTOP stalls it, SIGCONT lets it go on."""
        assert self._process is not None
        os.killpg(self._process.pid, how)
