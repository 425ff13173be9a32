"""The engine on a real PostgreSQL server: the contract, and what is particular to it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import Any, ClassVar

import pytest
from remote.brokers import refused
from remote.servers import PostgreSQL, client_of

from asyncpc import DefinitionError
from asyncpc.remote.broker import Disconnected, Outgoing, PublishError, Settings
from asyncpc.remote.contract import PATIENCE, BrokerContract, outgoing, received

client_of("postgresql")

import asyncpg  # noqa: E402  # it may be missing

from asyncpc.remote.engines.postgresql.broker import PostgreSQLBroker  # noqa: E402  # needs asyncpg

pytestmark = pytest.mark.thorough

PASSWORD = "canary-4711"

NOTICED = 15.0
"""Seconds within which a server that does not answer is noticed."""

_names = count()


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    """A server for the tests of this module."""
    database = PostgreSQL(tmp_path_factory.mktemp("postgresql"))
    database.start()
    yield database
    database.stop()


class TestPostgreSQL(BrokerContract):
    """The contract."""

    engine = PostgreSQLBroker

    @pytest.fixture
    def url(self, postgresql: PostgreSQL) -> str:
        """A queue of its own for each test."""
        return postgresql.url()

    @pytest.fixture
    def refused(self) -> Outgoing:
        """An id that is no text."""
        return Outgoing("\ud800", b"")


class TestWithoutPreparedStatements(TestPostgreSQL):
    """The contract, with what a pooler needs."""

    client: ClassVar = {"statement_cache_size": 0}


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


async def test_a_look_makes_no_tables(postgresql: PostgreSQL, database: Any) -> None:
    """Protects the database of somebody who mistyped its name, or the schema's."""
    url = postgresql.url() + "&schema=mistyped"
    with pytest.raises(DefinitionError, match=r"there is no queue at postgresql://127"):
        await PostgreSQLBroker(url, Settings(30.0, "dead", {}, must_exist=True)).open()
    assert await database.fetchval("SELECT to_regnamespace('mistyped') IS NULL")


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


@pytest.mark.parametrize(
    ("user", "database_name", "told"),
    [
        ("guarded:wrong", "postgres", 'password authentication failed for user "guarded"'),
        ("nobody-is-called-this:x", "postgres", 'role "nobody-is-called-this" does not exist'),
        ("postgres:x", "none", 'database "none" does not exist'),
        ("weak:x", "postgres", "permission denied for database postgres"),
    ],
)
async def test_who_is_not_let_in_is_told_at_once(
    postgresql: PostgreSQL, database: Any, user: str, database_name: str, told: str
) -> None:
    """Protects the start of a program: a typing error is told by its first attempt to connect, not after 15 seconds."""
    for role in ("guarded LOGIN PASSWORD 'right'", "weak LOGIN"):
        with suppress(asyncpg.DuplicateObjectError):
            await database.execute(f"CREATE ROLE {role}")
    url = postgresql.url(user, more="&schema=nobody_made_it").replace("/postgres?", f"/{database_name}?")
    assert re.match(f"remote queue 'jobs-.*postgresql://.*{told}.*; check the user", await refused(url))


async def test_who_was_let_in_before_waits_to_be_let_in_again(
    postgresql: PostgreSQL, opened: Open, database: Any
) -> None:
    """Protects runs from a server that knows no roles for a while: what was connected connects again, however long."""
    await database.execute("CREATE ROLE leaving LOGIN SUPERUSER")
    broker = await opened(postgresql.url("leaving:x"))
    await broker.close()
    await database.execute("ALTER ROLE leaving NOLOGIN")
    with pytest.raises(Disconnected, match="not permitted to log in"):
        await broker.open()
    await database.execute("ALTER ROLE leaving LOGIN")
    await broker.open()
    await database.execute("ALTER ROLE leaving NOLOGIN")
    with pytest.raises(Disconnected, match="not permitted to log in"):
        await broker.receive(1, 0.1, 1)  # by a connection of its own, which is opened now
    await broker.close()
    await database.execute("REASSIGN OWNED BY leaving TO postgres")
    await database.execute("DROP ROLE leaving")


# -- the server goes away -------------------------------------------------------------------------


async def test_confirmed_messages_outlive_a_killed_server(postgresql: PostgreSQL, opened: Open) -> None:
    """Every call under way says that the connection is lost; what was confirmed is there after the restart."""
    url = postgresql.url()
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
    await asyncio.to_thread(postgresql.start)
    await broker.open()
    messages = await received(broker, 95)
    assert sorted(int(one.body) for one in messages) == list(range(5, 100))
    assert await broker.ack(messages) == 95


async def test_a_stalled_server_is_noticed(postgresql: PostgreSQL, opened: Open) -> None:
    """By calls of both connections, also by a receive that waits; close does not hang."""
    broker = await opened(postgresql.url())
    waiting = asyncio.create_task(broker.receive(1, 60.0, 1))
    await asyncio.sleep(0.2)
    began = time.monotonic()
    postgresql.send(signal.SIGSTOP)
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
        postgresql.send(signal.SIGCONT)
    await broker.open()


async def test_a_close_while_it_connects_leaves_no_connection(postgresql: PostgreSQL, opened: Open) -> None:
    """The session closes when one call has found the connection lost; a first receive may just be connecting."""
    broker = await opened(postgresql.url())
    receiving = asyncio.create_task(broker.receive(1, 60.0, 1))
    await asyncio.sleep(0)
    await broker.close()
    with pytest.raises(Disconnected):
        await receiving
    await broker.open()
    assert await broker.receive(1, 0.0, 1) == []


async def test_an_old_receipt_settles_nothing_of_another_delivery(postgresql: PostgreSQL, opened: Open) -> None:
    """Neither somebody else's nor a later one of the same process, not even after a reconnect (E9)."""
    broker = await opened(postgresql.url(), lease=0.2)
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
    broker = await opened(postgresql.url())
    await broker.publish([outgoing()])
    messages = await received(broker, 1)
    await broker.close()
    await broker.open()
    assert await broker.ack(messages) == 1


# -- putting --------------------------------------------------------------------------------------


async def test_a_put_belongs_to_the_callers_transaction(postgresql: PostgreSQL, opened: Open, database: Any) -> None:
    """A rollback takes the messages back; a commit makes them visible, and tells those that wait."""
    broker = await opened(postgresql.url())
    transaction = database.transaction()
    await transaction.start()
    await broker.publish_in(database, [outgoing(b"taken back")])
    await transaction.rollback()
    assert await broker.receive(10, 0.1, 1) == []
    waiting = asyncio.create_task(broker.receive(10, 60.0, 1))
    async with database.transaction():
        await broker.publish_in(database, [outgoing(b"one"), outgoing(b"two")])
        await asyncio.sleep(0.3)
        assert not waiting.done()
        committed = time.monotonic()
    assert [one.body for one in await waiting] == [b"one", b"two"]
    assert time.monotonic() - committed < 1.5  # sooner than the next look would be


async def test_a_put_in_a_long_transaction_is_found_behind_later_ones(
    postgresql: PostgreSQL, opened: Open, database: Any
) -> None:
    """Its messages are due from before others that have gone, where a receive looks only now and then."""
    broker = await opened(postgresql.url())
    async with database.transaction():
        await broker.publish_in(database, [outgoing(b"early")])
        await asyncio.sleep(2.2)
        await broker.publish([outgoing(b"late")])
        assert await broker.ack(await received(broker, 1)) == 1
    assert [one.body for one in await received(broker, 1, seconds=1.5)] == [b"early"]


async def test_what_one_process_gives_back_another_finds_at_once(postgresql: PostgreSQL, opened: Open) -> None:
    """Although it is due from before others that have gone."""
    url = postgresql.url()
    broker, other = await opened(url), await opened(url)
    await broker.publish([outgoing(b"first")])
    first = await received(broker, 1)
    await asyncio.sleep(1.2)
    await broker.publish([outgoing(b"second")])
    assert await other.ack(await received(other, 1)) == 1
    waiting = asyncio.create_task(received(other, 1))
    await asyncio.sleep(0.1)
    await broker.release(first, 0.0, counted=False)
    assert [one.body for one in await waiting] == [b"first"]


async def test_what_cannot_be_stored_is_told_with_what_was_not_confirmed(postgresql: PostgreSQL, opened: Open) -> None:
    """Not as a lost connection: it would be tried for ever."""
    broker = await opened(postgresql.url())
    good = [outgoing() for _ in range(1000)]
    for wrong in ("\0", "\ud800", os.urandom(10_000).hex()):
        bad = [Outgoing(wrong, b""), outgoing()]
        with pytest.raises(PublishError) as caught:
            await broker.publish([*good, *bad])
        assert caught.value.unconfirmed == bad
    assert (await broker.depth()).ready == 1000


@pytest.mark.parametrize("count", [1, 3])
async def test_what_is_the_same_in_all_messages_is_sent_once(
    postgresql: PostgreSQL, opened: Open, database: Any, count: int
) -> None:
    """Each message has its own headers, delay, time and id, whether or not they are those of the others."""
    queue = f"same-{next(_names)}-{os.getpid()}"
    broker = await opened(postgresql.url(queue=queue))
    same = [Outgoing(f"same-{n}", b"", {"x-a": "1"}, time=1.0, has_new_id=True) for n in range(count)]
    mixed = [Outgoing(f"{n}", b"", {"x-a": f"{n}"}, 60.0 * n, time=2.0 + n, has_new_id=n > 1) for n in range(count)]
    for messages in same, same, mixed, mixed:
        await broker.publish(messages)
    asked = "SELECT id, headers, time, round(extract(epoch FROM due - now()) / 60)::int AS delay FROM asyncpc.message"
    rows = await database.fetch(f"{asked} WHERE queue = $1 ORDER BY seq", queue)
    put = [(one.id, json.dumps(dict(one.headers)), one.time, one.delay // 60) for one in [*same, *mixed]]
    assert [tuple(row) for row in rows] == put
    known = await database.fetchval("SELECT count(*) FROM asyncpc.seen WHERE queue = $1 AND id ^@ 'same'", queue)
    assert known == 1, "all are known by the first"


async def test_more_than_one_statement_takes(postgresql: PostgreSQL, opened: Open) -> None:
    """Batches are split by number and by size; the order stays."""
    broker = await opened(postgresql.url())
    sent = [str(number).encode() for number in range(2500)]
    await broker.publish([outgoing(body) for body in sent])
    messages = await received(broker, 2500)
    assert [one.body for one in messages] == sent
    assert await broker.extend(messages) == []
    await broker.bury([(one, b"{}") for one in messages[:1200]])
    assert await broker.ack(messages) == 1300
    dead = await broker.dead(2000, "")
    assert [one.message.body for one in dead] == sent[:1200]
    assert await broker.requeue([one.place for one in dead]) == 1200
    assert await broker.purge(dead=False) == 1200
    await broker.publish([outgoing(b"x" * 9_000_000) for _ in range(5)])
    assert [len(one.body) for one in await received(broker, 5)] == [9_000_000] * 5


async def test_ids_are_forgotten_an_hour_after_the_put(postgresql: PostgreSQL, opened: Open, database: Any) -> None:
    """But not that of a message that is still there; so the memory of ids never grows."""
    queue = f"forgets-{next(_names)}-{os.getpid()}"
    broker = await opened(postgresql.url(queue=queue))
    await broker.publish([Outgoing("gone", b"1"), Outgoing("there", b"2")])
    gone, there = await received(broker, 2)
    await database.execute("UPDATE asyncpc.seen SET until = now() WHERE queue = $1", queue)  # an hour goes by
    assert await broker.ack([gone]) == 1
    await broker.publish([Outgoing("gone", b"3"), Outgoing("there", b"4")])
    assert [one.body for one in await received(broker, 1)] == [b"3"]
    assert await broker.receive(1, 0.1, 1) == []
    assert await broker.ack([there]) == 1


async def test_the_oldest_is_as_old_as_its_put(postgresql: PostgreSQL, opened: Open) -> None:
    """None where nothing is ready; never negative, whatever the clock of the sender says."""
    broker = await opened(postgresql.url())
    assert (await broker.depth()).oldest is None
    await broker.publish([outgoing(time_ago=-60.0)])
    assert (await broker.depth()).oldest == 0
    await broker.purge(dead=False)
    await broker.publish([outgoing(time_ago=60.0), outgoing()])
    assert (await broker.depth()).oldest == pytest.approx(60.0, abs=PATIENCE)


# -- the server -----------------------------------------------------------------------------------


async def test_many_open_at_once_where_nothing_is_there(postgresql: PostgreSQL, opened: Open) -> None:
    """One of them makes the tables; none fails."""
    schema = f"made_{next(_names)}_{os.getpid()}"
    url = postgresql.url(more=f"&schema={schema}")
    brokers = await asyncio.gather(*(opened(url) for _ in range(8)))
    await brokers[0].publish([outgoing(b"one")])
    assert [one.body for one in await received(brokers[-1], 1)] == [b"one"]


async def test_the_rights_to_use_the_tables_suffice(postgresql: PostgreSQL, opened: Open, database: Any) -> None:
    """They need not be made by whoever uses them."""
    await opened(postgresql.url())
    with suppress(asyncpg.DuplicateObjectError):
        await database.execute("CREATE ROLE worker LOGIN")
    await database.execute("GRANT USAGE ON SCHEMA asyncpc TO worker")
    await database.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA asyncpc TO worker")
    await database.execute("GRANT USAGE ON ALL SEQUENCES IN SCHEMA asyncpc TO worker")
    broker = await opened(postgresql.url("worker:x"))
    await broker.publish([outgoing(b"1"), outgoing(b"2"), outgoing(b"3")])
    one, two, three = await received(broker, 3)
    await broker.bury([(one, b"{}")])
    await broker.release([two], 0.0, counted=True)
    assert await broker.ack([three]) == 1
    assert await broker.requeue([(await broker.dead(1, ""))[0].place]) == 1
    assert await broker.purge(dead=False) == 2


async def test_what_went_since_the_last_vacuum_is_not_looked_at_again(
    postgresql: PostgreSQL, opened: Open, database: Any
) -> None:
    """A queue stays as fast as it was while a long transaction keeps the server from cleaning up."""
    broker = await opened(postgresql.url())
    async with database.transaction(isolation="repeatable_read"):
        await database.fetchval("SELECT count(*) FROM asyncpc.message")
        for _ in range(20):
            await broker.publish([outgoing() for _ in range(1000)])
            assert await broker.ack(await received(broker, 1000)) == 1000
        await asyncio.sleep(1.1)
        assert await broker.receive(1, 0.0, 1) == []
        took = []
        for _ in range(20):
            await broker.publish([outgoing()])
            began = time.process_time(), time.monotonic()
            assert await broker.ack(await broker.receive(10, PATIENCE, 1)) == 1
            took.append(time.monotonic() - began[1])
        assert sorted(took)[10] < 0.25


async def test_a_pooler_that_drops_notifications_is_found_out(postgresql: PostgreSQL, opened: Open) -> None:
    """Then a receive looks often: what is put arrives without having been told."""
    dropped = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(5)
                body = await reader.readexactly(int.from_bytes(head[1:], "big") - 4)
                if head[:1] == b"A":  # NotificationResponse
                    dropped.append(body)
                else:
                    writer.write(head + body)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", postgresql.port)
        await asyncio.gather(forward(reader, back), answer(there, writer))

    pooler = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = postgresql.url(port=pooler.sockets[0].getsockname()[1])
    broker = await opened(url, statement_cache_size=0)
    assert await broker.receive(1, 0.0, 1) == []
    for _ in range(5):
        waiting = asyncio.create_task(received(broker, 1))
        await asyncio.sleep(0.05)
        await broker.publish([outgoing()])
        began = time.monotonic()
        assert await broker.ack(await waiting) == 1
        assert time.monotonic() - began < 1.5
    assert dropped
    await broker.close()
    pooler.close()
    await pooler.wait_closed()


WORKER = """
import asyncio, sys
from asyncpc.remote.broker import Settings
from asyncpc.remote.engines.postgresql.broker import PostgreSQLBroker

async def main() -> None:
    broker = PostgreSQLBroker(sys.argv[1], Settings(1.0, "dead", {}))
    await broker.open()
    while messages := await broker.receive(50, 3.0, 1):
        for one in messages:
            print(one.body.decode(), flush=True)
        assert await broker.ack(messages) == len(messages)
    await broker.close()

asyncio.run(main())
"""


def test_processes_share_a_queue_and_one_that_is_killed_loses_nothing(postgresql: PostgreSQL) -> None:
    """Each message goes to one process; what a killed one had goes to another when its lease has run out."""
    url = postgresql.url(more=f"&schema=shared_{next(_names)}_{os.getpid()}")

    def process() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", WORKER, url], stdout=subprocess.PIPE, text=True)

    async def publish() -> None:
        broker = PostgreSQLBroker(url, Settings(1.0, "dead", {}))
        await broker.open()
        for begin in range(0, 3000, 250):
            await broker.publish([outgoing(str(number).encode()) for number in range(begin, begin + 250)])
        await broker.close()

    processes = [process() for _ in range(3)]
    asyncio.run(publish())
    assert processes[0].stdout is not None
    first = processes[0].stdout.readline()
    processes[0].kill()
    handled = [int(line) for one in processes for line in (first + one.communicate()[0]).split()]
    assert set(handled) == set(range(3000))
    assert len(handled) - 3 - 3000 <= 50  # the killed one had so many at most; first is counted three times
    assert processes[0].returncode in (-signal.SIGKILL, 0)  # on a fast machine the others may have left it nothing
    assert [one.returncode for one in processes[1:]] == [0, 0]
