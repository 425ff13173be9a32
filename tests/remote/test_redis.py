"""The Redis engine keeps the contract of all engines, on a real server; and what is particular to it."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from remote import servers
from remote.brokers import refused, shut_out_for_a_while
from remote.servers import Server, client_of, free_port
from support import until

from asyncpc import remote_queue
from asyncpc.errors import DefinitionError
from asyncpc.remote.broker import Disconnected, Outgoing, PublishError, Settings
from asyncpc.remote.contract import BrokerContract, outgoing, received

client_of("redis")

from redis import Redis as Client  # noqa: E402  # it may be missing
from redis.asyncio import Redis  # noqa: E402  # likewise

from asyncpc.remote.engines.redis.broker import RedisBroker  # noqa: E402  # needs it

pytestmark = pytest.mark.thorough

_names = count()


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where the server of the module listens."""
    server = servers.Redis(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server.port
    server.stop()


class TestRedis(BrokerContract):
    """The contract."""

    engine = RedisBroker
    misses_queues = True
    lease = 0.5

    @pytest.fixture
    def url(self, port: int) -> str:
        """A queue of its own for each test."""
        return f"redis://127.0.0.1:{port}/contract-{next(_names)}"

    @pytest.fixture
    async def refused(self, port: int) -> AsyncIterator[Outgoing]:
        """Longer than ``proto-max-bulk-len``."""
        async with asking(port) as client:
            before = await client.config_get("proto-max-bulk-len")
            await client.config_set("proto-max-bulk-len", 2**20)
            yield outgoing(b"x" * (2**20 + 1))
            await client.config_set("proto-max-bulk-len", str(before["proto-max-bulk-len"]))


# -- what is particular to Redis ------------------------------------------------------------------

CANARY = "canary-7f3a"


def broker_at(url: str, lease: float = 30.0, **client: Any) -> RedisBroker:
    """Not opened."""
    return RedisBroker(url, Settings(lease, "dead", client))


@asynccontextmanager
async def opened(url: str, lease: float = 30.0) -> AsyncIterator[RedisBroker]:
    """Closed at the end, whatever happens: uvloop cannot be closed with an open connection."""
    broker = broker_at(url, lease)
    try:
        await broker.open()
        yield broker
    finally:
        await broker.close()


@contextmanager
def serving(port: int, data: Path, *options: str) -> Iterator[Server]:
    """A server of the test's own."""
    server = servers.Redis(data, *options, port=port)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def url(port: int) -> str:
    """A queue of its own for each test."""
    return f"redis://127.0.0.1:{port}/own-{next(_names)}"


@pytest.fixture
async def broker(url: str) -> AsyncIterator[RedisBroker]:
    """A broker of that queue, opened."""
    async with opened(url) as broker:
        yield broker


@asynccontextmanager
async def asking(port: int, password: str | None = None) -> AsyncIterator[Redis]:
    """Somebody who looks at the server behind the engine's back."""
    client = Redis(port=port, protocol=2, password=password)
    try:
        yield client
    finally:
        await client.aclose()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server that lets in some, and those not everywhere."""
    server = servers.Redis(tmp_path_factory.mktemp("guarded"), "--requirepass", "right")
    server.start()
    try:
        with Client(port=server.port, password="right") as client:
            for name, *rights in (
                ("worker", "~*", "+@all"),
                ("elsewhere", "~elsewhere", "+@all"),
                ("reader", "~*", "+@read", "+@connection"),
                ("writer", "~*", "+@scripting", "+@connection"),
            ):
                client.execute_command("ACL", "SETUSER", name, "on", f">{CANARY}", *rights)
        yield server.port
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://host/3", "is 3 the database or the queue"),
        ("redis://host", "expected redis"),
        ("redis://host/", "expected redis"),
        ("redis:///jobs", "expected redis"),
        ("redis://host/a/jobs", "the database is a number"),
        ("redis://host/0/jobs/x", "expected redis"),
        ("redis://host/{jobs}", "no braces"),
        ("redis://host/jobs?x=1", "remember"),
        ("redis://host/jobs?remember=soon", "remember"),
        (f"redis://:{CANARY}/jobs", "expected redis"),
        (f"redis://u:{CANARY}#x@host/jobs", "expected redis"),
        (f"redis://u:{CANARY}@host:port/jobs", "expected redis"),
    ],
)
def test_a_wrong_url_says_what_was_expected(url: str, says: str) -> None:
    """Also one whose password was not quoted, which is shown nowhere."""
    with pytest.raises(DefinitionError, match=says) as raised:
        broker_at(url)
    assert CANARY not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("name", ["suspects", "delayed", "checked", "seen:", "seen:a", "sure:", "sure:b"])
def test_dead_letters_are_kept_apart_from_all_else(name: str) -> None:
    """Protects the queue: dead letters among the suspects came again, and were buried again, without an end."""
    with pytest.raises(DefinitionError, match="for something else; choose another"):
        RedisBroker("redis://host/jobs", Settings(30.0, name, {}))


def test_an_option_that_the_client_does_not_know_is_refused() -> None:
    """As is one that would change what an answer looks like, or for how long it is waited."""
    with pytest.raises(DefinitionError, match="colour"):
        broker_at("redis://host/jobs", colour="red")
    with pytest.raises(DefinitionError, match="socket_timeout"):
        broker_at("redis://host/jobs", socket_timeout=1)
    broker_at("rediss://host/jobs", client_name="worker", ssl_ca_certs="ca.pem")


@pytest.mark.parametrize(
    ("user", "told"),
    [
        ("", "Authentication required"),
        (f":{CANARY}@", "invalid username-password pair"),
        (f"nobody:{CANARY}@", "invalid username-password pair"),
        (f"elsewhere:{CANARY}@", "no permissions to access one of the keys"),
        (f"reader:{CANARY}@", "no permissions to run the 'script|load' command"),
        (f"writer:{CANARY}@", "script"),
    ],
)
async def test_who_is_not_let_in_is_told_at_once(guarded: int, user: str, told: str) -> None:
    """Protects the start of a program: a typing error is told by its first attempt to connect, not after 15 seconds."""
    said = await refused(f"redis://{user}127.0.0.1:{guarded}/jobs")
    assert said.startswith("remote queue 'jobs': access is refused: Redis: ")
    assert told in said
    assert CANARY not in said


async def test_who_was_let_in_before_waits_to_be_let_in_again(guarded: int, caplog: pytest.LogCaptureFixture) -> None:
    """Protects runs from a server that knows no user for a while."""
    async with asking(guarded, password="right") as client:

        async def shut() -> None:
            await client.acl_setuser("worker", enabled=False)
            kill: Any = client.execute_command  # the client declares no types here
            await kill("CLIENT", "KILL", "USER", "worker")

        async def let_in() -> None:
            await client.acl_setuser("worker", enabled=True)

        await shut_out_for_a_while(f"redis://worker:{CANARY}@127.0.0.1:{guarded}/again", shut, let_in, caplog)
    assert CANARY not in caplog.text


async def test_a_killed_server_keeps_what_it_has_confirmed(tmp_path: Path) -> None:
    """After a restart all is there, and what was received before the kill is still ours to settle (fault E9)."""
    port = free_port()
    with serving(port, tmp_path) as server:
        async with opened(f"redis://127.0.0.1:{port}/jobs") as broker:
            await broker.publish([outgoing(b"%d" % number) for number in range(100)])
            ours = await received(broker, 10, limit=10)
            waiting = asyncio.create_task(broker.receive(90, 0.0, 1))
            rest = await waiting
            server.kill()
            with pytest.raises(Disconnected):
                await broker.ack(ours)
            await broker.close()
            server.start()
            await broker.open()
            assert await broker.extend(ours) == []
            assert await broker.ack(ours) == 10
            await broker.release(rest, 0.0, counted=False)
            again = await received(broker, 90)
            assert [one.body for one in again] == [b"%d" % number for number in range(10, 100)]
            assert await broker.ack(rest) == 0
            assert await broker.ack(again) == 90


@pytest.mark.realtime
async def test_a_stalled_server_is_noticed(tmp_path: Path) -> None:
    """By a receive that waits long, and by a publish too large for the buffers; nothing hangs afterwards."""
    port = free_port()
    with serving(port, tmp_path) as server:
        async with opened(f"redis://127.0.0.1:{port}/jobs") as broker:
            server.send(signal.SIGSTOP)
            began = time.monotonic()
            waiting = asyncio.create_task(broker.receive(10, 60.0, 1))
            with pytest.raises(Disconnected):
                await broker.publish([outgoing(bytes(1_000_000)) for _ in range(20)])
            with pytest.raises(Disconnected):
                await waiting
            await broker.close()
            assert time.monotonic() - began < 15
            server.send(signal.SIGCONT)
            await broker.open()
            await broker.publish([outgoing(b"after")])


async def test_a_cancelled_call_leaves_its_answer_to_nobody(url: str) -> None:
    """Its connection is dropped, so that the next call does not read what was meant for it (fault E1)."""
    async with opened(url) as broker:
        calling = asyncio.create_task(broker.depth())
        await asyncio.sleep(0)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        with pytest.raises(Disconnected):
            await broker.publish([outgoing()])
        await broker.open()
        await broker.publish([outgoing(b"one")])
        assert (await broker.depth()).ready == 1


async def test_an_old_receipt_does_not_settle_what_came_again(url: str) -> None:
    """Neither where somebody else has it, nor where it came back to the same broker (fault E9)."""
    async with opened(url, lease=0.3) as broker:
        await broker.publish([outgoing(b"a"), outgoing(b"b")])
        old = await received(broker, 2)
        new = await received(broker, 2)
        assert [one.attempt for one in new] == [2, 2]
        assert await broker.ack(old[:1]) == 0
        assert await broker.ack(old) == 0
        await broker.release(old, 0.0, counted=True)
        await broker.bury([(one, b"{}") for one in old])
        assert await broker.extend(old[:1]) == old[:1]
        assert await broker.ack(new) == 2


async def test_a_consumer_is_forgotten_when_nothing_would_be_lost(url: str, port: int) -> None:
    """One that has something stays, until that was taken over."""
    queue = url.rpartition("/")[2]
    async with asking(port) as client, opened(url) as idle, opened(url) as busy:
        await busy.publish([outgoing()])
        await received(busy, 1)
        await idle.publish([outgoing()])
        assert await idle.ack(await received(idle, 1)) == 1
        assert len(await client.xinfo_consumers(queue, "asyncpc")) == 2
        await idle.close()
        await busy.close()
        assert [one["pending"] for one in await client.xinfo_consumers(queue, "asyncpc")] == [1]
        async with opened(url, lease=0.3) as other:
            (again,) = await received(other, 1)
            assert again.attempt == 2
            assert await other.ack([again]) == 1
            assert len(await client.xinfo_consumers(queue, "asyncpc")) == 1
        assert await client.xinfo_consumers(queue, "asyncpc") == []


async def test_entries_of_others_come_out_whatever_they_hold(broker: RedisBroker, url: str, port: int) -> None:
    """Whoever may write to the stream makes nobody crash, and no attempts up (fault F10)."""
    queue = url.rpartition("/")[2]
    hostile: list[dict[Any, Any]] = [
        {"body": b"only"},
        {"body": b"x", "meta": b"\xff"},
        {"body": b"x", "meta": b"nan\n[1]\n\xff\xfe"},
        {"body": b"x", "meta": b"inf\n" + b"[" * 10_000 + b"\nid"},
        {"body": b"x", "attempt": b"-5"},
        {"body": b"x", "attempt": b"9" * 30},
        {"body": b"x", "attempt": b"nan"},
        {str(number): b"" for number in range(9_000)},
    ]
    async with asking(port) as client:
        for fields in hostile:
            await client.xadd(queue, fields)
    messages = await received(broker, len(hostile))
    assert messages[0].body == b"only"
    assert all(one.id and one.attempt == 1 and abs(one.time - time.time()) < 60 for one in messages)
    await broker.release(messages[::2], 0.0, counted=True)
    await broker.bury([(one, b"{}") for one in messages[1::2]])
    assert len(await received(broker, 4)) == 4
    assert len(await broker.dead(10, "")) == 4


async def test_what_somebody_trimmed_is_let_go(broker: RedisBroker, url: str, port: int) -> None:
    """Its owner hears that it is lost, and whoever takes over has what is left, and nothing else (fault E6)."""
    await broker.publish([outgoing(b"%d" % number) for number in range(3)])
    messages = await received(broker, 3)
    async with asking(port) as client:
        await client.xtrim(url.rpartition("/")[2], maxlen=1, approximate=False)
    assert await broker.extend(messages) == messages[:2]
    async with opened(url, lease=0.3) as other:
        (again,) = await received(other, 1)
        assert again.body == b"2"
        assert (await other.depth())[:3] == (0, 1, 0)


async def test_a_full_server_says_what_is_not_confirmed(tmp_path: Path) -> None:
    """Nothing of it is lost, and the consumers go on, who alone can make room."""
    port = free_port()
    with serving(port, tmp_path):
        async with opened(f"redis://127.0.0.1:{port}/jobs") as broker:
            await broker.publish([outgoing(b"in")])
            async with asking(port) as client:
                await client.config_set("maxmemory", "1mb")
                lost = outgoing(b"out")
                with pytest.raises(PublishError) as raised:
                    await broker.publish([lost])
                assert raised.value.unconfirmed == [lost]
                assert await broker.ack(await received(broker, 1)) == 1
                await client.config_set("maxmemory", "0")
            await broker.publish([lost])  # its id is not known
            assert [one.body for one in await received(broker, 1)] == [b"out"]


async def test_a_server_that_gets_full_says_what_is_not_confirmed(tmp_path: Path) -> None:
    """What went in before is not put again, which would double it where no id is remembered."""
    port = free_port()
    with serving(port, tmp_path):
        async with opened(f"redis://127.0.0.1:{port}/jobs?remember=0") as broker, asking(port) as client:
            used = (await client.info("memory"))["used_memory"]
            await client.config_set("maxmemory", used + 1_500_000)
            sent = [outgoing(b"x" * 1900) for _ in range(1000)]  # in parts of 500, as the script takes
            with pytest.raises(PublishError, match="maxmemory") as raised:
                await broker.publish(sent)
            assert raised.value.unconfirmed == sent[500:]
            assert (await broker.depth()).ready == 500


async def test_a_worker_begins_on_a_full_server(tmp_path: Path) -> None:
    """Protects who is started again, or connects again, meanwhile: without workers nobody would ever make room."""
    port = free_port()
    url = f"redis://127.0.0.1:{port}/jobs"
    with serving(port, tmp_path):
        async with asking(port) as client:
            async with opened(url) as first:
                await first.publish([outgoing(b"1"), outgoing(b"2")])
            await client.config_set("maxmemory", "1mb")
            async with opened(url) as broker:
                assert await broker.ack(await received(broker, 2)) == 2
                with pytest.raises(PublishError):
                    await broker.publish([outgoing()])
            with pytest.raises(Disconnected, match="maxmemory"):  # here there is nothing to make room of
                async with opened(f"{url}-new"):
                    pass


async def test_a_message_that_the_server_would_not_read_is_refused_alone(tmp_path: Path) -> None:
    """The server ends the connection of whoever sends so much; to connect again, and send it again, never ended."""
    port = free_port()
    with serving(port, tmp_path, "--proto-max-bulk-len", "1mb"):
        url, longest = f"redis://127.0.0.1:{port}/jobs", 2**20 - 2  # with the quotes
        inbox, outbox = [
            await asyncio.to_thread(remote_queue, one, str, max_bytes=2**22) for one in (f"memory://inbox-{port}", url)
        ]  # to make one reads files
        async with inbox.open() as putting:
            await putting.put_many(["a", "b" * (longest + 1), "c" * longest, "d"])
            async with inbox >> outbox as running:
                await until(lambda: running.statistics().done + running.statistics().failed == 4)
            (letter,) = await putting.dead()
            async with outbox.open() as also:
                puts = [also.put(text) for text in ("e", "f", "g" * 2**21, "h")]  # the last three go together
                results = await asyncio.gather(*puts, return_exceptions=True)
        assert [type(one) for one in results] == [type(None), type(None), PublishError, type(None)]
        assert letter.body[:2] == b'"b'
        assert "at most 1048576 bytes a message (see proto-max-bulk-len)" in letter.reason
        async with opened(url) as broker:
            assert [one.body[1:2] for one in await received(broker, 6)] == [b"a", b"c", b"d", b"e", b"f", b"h"]


async def test_a_server_that_does_not_tell_its_limit_is_used(port: int) -> None:
    """Protects hosted servers, and users without the right to ask: all else works as before."""
    async with asking(port) as client:
        await client.acl_setuser(
            "quiet", enabled=True, passwords=["+x"], keys=["*"], channels=["*"], commands=["+@all", "-config"]
        )
    async with opened(f"redis://quiet:x@127.0.0.1:{port}/quiet") as broker:
        await broker.publish([outgoing(b"in")])
        assert [one.body for one in await received(broker, 1)] == [b"in"]


async def test_a_full_server_keeps_what_it_cannot_bury(tmp_path: Path) -> None:
    """Its message stays as it is, and others are acknowledged, which makes room."""
    port = free_port()
    with serving(port, tmp_path):
        async with opened(f"redis://127.0.0.1:{port}/jobs") as broker, asking(port) as client:
            await broker.publish([outgoing(b"bad"), outgoing(b"good")])
            bad, good = await received(broker, 2)
            await client.config_set("maxmemory", "1mb")
            with pytest.raises(PublishError, match="maxmemory") as raised:
                await broker.bury([(bad, b"{}")])
            assert raised.value.unconfirmed == [bad]
            assert await broker.ack([good]) == 1
            assert await broker.extend([bad]) == []
            assert (await broker.depth())[:4] == (0, 1, 0, 0)
            await client.config_set("maxmemory", "0")
            await broker.bury([(bad, b"{}")])
            assert (await broker.depth())[:4] == (0, 0, 0, 1)


async def test_autoscalers_read_the_right_lag(broker: RedisBroker, url: str, port: int) -> None:
    """The lag of the group is what nobody has received; also after acks and a purge.

    Redis 7.0 does not know it while the entry that was delivered last is acked before an older one.
    """
    queue = url.rpartition("/")[2]

    async def lag() -> Any:
        return (await client.xinfo_groups(queue))[0]["lag"]

    async with asking(port) as client:
        await broker.publish([outgoing() for _ in range(10)])
        messages = await received(broker, 4, limit=4)
        await broker.ack(messages[1:3])
        assert await lag() == 6
        await broker.ack(messages)
        assert await broker.purge(dead=False) == 6
        assert await lag() == 0
        await broker.publish([outgoing()])
        assert await lag() == 1


async def test_ids_can_be_left_unknown(url: str) -> None:
    """``?remember=0`` spares the server's memory, and says that a message may be taken twice."""
    async with opened(url + "?remember=0") as broker:
        assert not broker.guarantees.dedupes
        await broker.publish([Outgoing("same", b"1"), Outgoing("same", b"2")])
        assert len(await received(broker, 2)) == 2


async def test_a_key_that_is_no_queue_is_refused(url: str, port: int) -> None:
    """By a message that says so, not again and again as a lost connection."""
    async with asking(port) as client:
        await client.set(url.rpartition("/")[2], "something")
    broker = broker_at(url)
    with pytest.raises(DefinitionError, match="something else"):
        await broker.open()


async def test_a_flushed_database_is_noticed_and_made_again(broker: RedisBroker, url: str, port: int) -> None:
    """The session connects again, which makes what the queue needs."""
    async with asking(port) as client:
        await client.delete(url.rpartition("/")[2])
        await client.script_flush()
    with pytest.raises(Disconnected):
        await broker.receive(1, 0.1, 0)
    await broker.open()
    await broker.publish([outgoing()])
    assert len(await received(broker, 1)) == 1


WORKER = """
import asyncio, sys
from asyncpc.remote.broker import Settings
from asyncpc.remote.engines.redis.broker import RedisBroker

async def main():
    broker = RedisBroker(sys.argv[1], Settings(30.0, "dead", {}))
    await broker.open()
    while messages := await broker.receive(50, 1.0, 1):
        assert await broker.ack(messages) == len(messages)
        for one in messages:
            print(one.body.decode())
    await broker.close()

asyncio.run(main())
"""


@pytest.mark.processes
async def test_processes_share_a_queue(broker: RedisBroker, url: str) -> None:
    """Each message goes to one of them."""
    await broker.publish([outgoing(b"%d" % number) for number in range(5_000)])
    workers = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", WORKER, url, stdout=asyncio.subprocess.PIPE)
        for _ in range(3)
    ]
    outputs = await asyncio.gather(*(worker.communicate() for worker in workers))
    handled = [int(line) for output, _ in outputs for line in output.split()]
    assert sorted(handled) == list(range(5_000))
    assert [worker.returncode for worker in workers] == [0, 0, 0]
