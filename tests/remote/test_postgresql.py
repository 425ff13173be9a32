"""The engine on a real PostgreSQL server: the contract, and what is particular to it."""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from remote.servers import Server, free_port, must_have

from asyncpc import DefinitionError
from asyncpc.remote.broker import Disconnected, Message, Outgoing, PublishError, Settings
from asyncpc.remote.contract import PATIENCE, BrokerContract, outgoing, received

asyncpg = pytest.importorskip("asyncpg")

from asyncpc.remote.engines.postgresql import PostgreSQLBroker  # noqa: E402  # needs asyncpg

pytestmark = pytest.mark.thorough

PASSWORD = "canary-4711"

NOTICED = 15.0
"""Seconds within which a server that does not answer is noticed."""

_names = count()


class PostgreSQL:
    """A server with its data in a directory of its own; its processes are killed or stopped all at once."""

    def __init__(self, folder: Path, port: int, programs: Path, user: str | None) -> None:
        self.folder = folder
        self.port = port
        self._user = user
        data = folder / "data"
        self._run([programs / "initdb", "-A", "trust", "-U", "postgres", "-D", data])
        access = (data / "pg_hba.conf").read_text()
        (data / "pg_hba.conf").write_text("host all guarded 127.0.0.1/32 scram-sha-256\n" + access)
        command = [programs / "postgres", "-D", data, "-p", port, "-c", "listen_addresses=127.0.0.1", "-k", folder]
        self.server = Server([str(word) for word in command], self._is_ready, folder / "log", user=user)
        self._is_ready_command = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", port]

    def _run(self, command: list[Any]) -> None:
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, user=self._user)

    def _is_ready(self) -> bool:
        with suppress(subprocess.CalledProcessError):
            self._run(self._is_ready_command)
            return True
        return False

    def url(self, user: str = "postgres", *, queue: str | None = None, more: str = "", port: int = 0) -> str:
        """Of a queue of its own; with a password and without TLS, for which the client would look into files."""
        queue = queue or f"q{next(_names)}-{os.getpid()}"
        return f"postgresql://{user}@127.0.0.1:{port or self.port}/postgres?queue={queue}&sslmode=disable{more}"

    def processes(self) -> list[int]:
        """The server's process and those that serve its connections."""
        first = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(first)], capture_output=True, text=True, check=True)
        return [first, *map(int, listed.stdout.split())]

    def signal_all(self, how: signal.Signals) -> None:
        for process in self.processes():
            with suppress(ProcessLookupError):
                os.kill(process, how)

    def kill(self) -> None:
        """End it as a power failure does."""
        self.signal_all(signal.SIGKILL)
        self.server.kill()


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQL]:
    """A server for the tests of this module."""
    found = shutil.which("initdb") or max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=None)
    must_have(found, "PostgreSQL", "install the package postgresql")
    folder = Path(tempfile.mkdtemp(prefix="asyncpc-postgresql-"))  # passable for the user, unlike tmp_path
    user = None
    if os.geteuid() == 0:  # as whom it refuses to run
        user = "postgres" if any(one.pw_name == "postgres" for one in pwd.getpwall()) else "nobody"
        shutil.chown(folder, user)
    database = PostgreSQL(folder, free_port(), Path(str(found)).resolve().parent, user)
    database.server.start()
    try:
        yield database
    finally:
        database.server.stop(signal.SIGINT)
        shutil.rmtree(folder)


class TestPostgreSQL(BrokerContract):
    """The contract."""

    engine = PostgreSQLBroker

    @pytest.fixture
    def url(self, postgresql: PostgreSQL) -> str:
        """A queue of its own for each test."""
        return postgresql.url("postgres:x")


class TestWithoutPreparedStatements(TestPostgreSQL):
    """The contract, with what a pooler needs."""

    client = {"statement_cache_size": 0}


Open = Callable[..., Any]


@pytest.fixture
async def opened(postgresql: PostgreSQL) -> AsyncIterator[Open]:
    """Opens brokers, which are closed after the test."""
    brokers = []

    async def make(url: str, lease: float = 30.0, **client: Any) -> PostgreSQLBroker:
        broker = PostgreSQLBroker(url, Settings(lease, "dead", client))
        brokers.append(broker)
        await broker.open()
        return broker

    yield make
    for broker in brokers:
        await broker.close()


@pytest.fixture
async def database(postgresql: PostgreSQL) -> AsyncIterator[Any]:
    """A connection of the user's own."""
    connection = await asyncpg.connect(f"postgresql://postgres:x@127.0.0.1:{postgresql.port}/postgres", ssl=False)
    yield connection
    await connection.close()


# -- the URL --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{PASSWORD}@host/database",
        f"postgresql://user:{PASSWORD}@host/?queue=jobs",
        f"postgresql://user:{PASSWORD}@host/database/more?queue=jobs",
        f"postgresql://user:{PASSWORD}@host/database?queue=",
        f"postgresql://user:{PASSWORD}@host/database?queue=jobs&queue=more",
        f"postgresql://user:{PASSWORD}@host:port/database?queue=jobs",
        f"postgresql://user:{PASSWORD}/more@host/database?queue=jobs",
        f"postgresql://user:{PASSWORD}#more@host/database?queue=jobs",
        f"postgresql://user:{PASSWORD}@[host/database?queue=jobs",
        f"mysql://user:{PASSWORD}@host/database?queue=jobs",
    ],
)
def test_a_wrong_url_says_what_was_expected(url: str) -> None:
    """And shows no password, wherever a slip of the pen has put it."""
    with pytest.raises(DefinitionError, match=r"expected postgresql://.*queue=name") as caught:
        PostgreSQLBroker(url, Settings(30.0, "dead", {}))
    assert PASSWORD not in str(caught.value)


def test_a_wrong_schema_or_option_is_named() -> None:
    """Before anything connects."""
    with pytest.raises(DefinitionError, match="schema"):
        PostgreSQLBroker("postgresql:///database?queue=jobs&schema=a-b", Settings(30.0, "dead", {}))
    with pytest.raises(DefinitionError, match="takes no option 'statement_cache'"):
        PostgreSQLBroker("postgres:///database?queue=jobs", Settings(30.0, "dead", {"statement_cache": 0}))


# -- passwords ------------------------------------------------------------------------------------


async def test_no_password_is_shown(
    postgresql: PostgreSQL, opened: Open, database: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Refused, wrong, unknown database, closed: no error, no repr and no log holds it (fault F7)."""
    caplog.set_level(logging.DEBUG)
    with suppress(asyncpg.DuplicateObjectError):
        await database.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
    right = postgresql.url(f"guarded:{PASSWORD}")
    shown = []
    for url in (right, postgresql.url(f"guarded:{PASSWORD}", port=free_port()), right.replace("/postgres?", "/none?")):
        broker = PostgreSQLBroker(url, Settings(30.0, "dead", {}))
        with pytest.raises(Disconnected) as caught:
            await broker.open()
        shown += [str(caught.value), repr(broker)]
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
        with pytest.raises(Disconnected):
            await broker.receive(1, 0.0, 1)
    broker = PostgreSQLBroker(right, Settings(30.0, "dead", {"timeout": PASSWORD}))
    with pytest.raises((DefinitionError, Disconnected)) as wrong:
        await broker.open()
    shown.append(str(wrong.value))
    assert any("password authentication failed" in one for one in shown)
    assert not [one for one in (*shown, caplog.text) if PASSWORD in one]


# -- the server goes away -------------------------------------------------------------------------


async def test_confirmed_messages_outlive_a_killed_server(postgresql: PostgreSQL, opened: Open) -> None:
    """Every call under way says that the connection is lost; what was confirmed is there after the restart."""
    url = postgresql.url("postgres:x")
    broker = await opened(url, lease=1.0)
    await broker.publish([outgoing(str(number).encode()) for number in range(100)])
    old = await broker.receive(10, PATIENCE, 1)
    assert await broker.ack(old[:5]) == 5
    waiting = asyncio.create_task(broker.receive(0, 60.0, 1))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(postgresql.kill)
    for call in (waiting, broker.publish([outgoing()]), broker.ack(old), broker.extend(old), broker.depth()):
        with pytest.raises(Disconnected):
            await call
    await broker.close()
    with pytest.raises(Disconnected):
        await broker.open()
    await asyncio.to_thread(postgresql.server.start)
    await broker.open()
    messages = await received(broker, 95)
    assert sorted(int(one.body) for one in messages) == list(range(5, 100))
    assert await broker.ack(messages) == 95


async def test_a_stalled_server_is_noticed(postgresql: PostgreSQL, opened: Open) -> None:
    """By calls of both connections, also by a receive that waits; close does not hang."""
    broker = await opened(postgresql.url("postgres:x"))
    waiting = asyncio.create_task(broker.receive(1, 60.0, 1))
    await asyncio.sleep(0.2)
    began = time.monotonic()
    postgresql.signal_all(signal.SIGSTOP)
    try:
        publishing = asyncio.create_task(broker.publish([outgoing()]))
        for call in (publishing, waiting):
            with pytest.raises(Disconnected):
                await call
        assert time.monotonic() - began < NOTICED
        await broker.close()
        with pytest.raises(Disconnected):
            await broker.open()
        assert time.monotonic() - began < 2 * NOTICED
    finally:
        postgresql.signal_all(signal.SIGCONT)
    await broker.open()


async def test_an_old_receipt_settles_nothing_of_another_delivery(postgresql: PostgreSQL, opened: Open) -> None:
    """Neither somebody else's nor a later one of the same process, not even after a reconnect (E9)."""
    broker = await opened(postgresql.url("postgres:x"), lease=0.2)
    await broker.publish([outgoing()])
    (old,) = await received(broker, 1)
    await broker.close()
    await broker.open()
    (new,) = await received(broker, 1)
    assert await broker.ack([old]) == 0
    assert await broker.extend([old]) == [old]
    await broker.release([old], 0.0, counted=False)
    await broker.bury([(old, b"{}")])
    assert await broker.ack([new]) == 1


async def test_a_delivery_can_be_settled_after_a_reconnect(postgresql: PostgreSQL, opened: Open) -> None:
    """What was handled while the connection was lost is not handled again."""
    broker = await opened(postgresql.url("postgres:x"))
    await broker.publish([outgoing()])
    messages = await received(broker, 1)
    await broker.close()
    await broker.open()
    assert await broker.ack(messages) == 1
