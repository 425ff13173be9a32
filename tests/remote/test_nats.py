"""The engine on NATS JetStream keeps the contract of all engines, on a real server."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from remote.brokers import connecting, not_whole, refused, shut_out_for_a_while
from remote.proxy import Proxy
from remote.servers import Nats, client_of, must_have
from support import until

from asyncpc import DefinitionError, remote_queue
from asyncpc.remote.broker import Disconnected, Message, Outgoing, PublishError, Settings
from asyncpc.remote.contract import BrokerContract, outgoing, received, settled_depth

client_of("nats")

import nats  # noqa: E402  # it may be missing
from nats.aio.msg import Msg  # noqa: E402  # likewise
from nats.aio.subscription import Subscription  # noqa: E402  # likewise

from asyncpc.remote.engines.nats.broker import NatsBroker  # noqa: E402  # needs it
from asyncpc.remote.engines.nats.connection import Connection  # noqa: E402  # likewise
from asyncpc.remote.engines.nats.message import Delivery  # noqa: E402  # likewise

pytestmark = pytest.mark.thorough

CANARY = "canary-7f3a"

REFUSED = "Authorization Violation|[Cc]onnection"
"""What a wrong password makes the client say: the server ends the connection, and its reason may be lost with that."""

Open = Callable[..., Awaitable[NatsBroker]]
"""Opens a broker for a URL, a lease and options of the client."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nats]:
    """One for all tests that do it no harm."""
    running = Nats(tmp_path_factory.mktemp("nats"))
    running.start()
    yield running
    running.stop()


class TestNats(BrokerContract):
    """The contract."""

    engine = NatsBroker
    misses_queues = True

    @pytest.fixture
    def url(self, server: Nats) -> str:
        """A queue of its own for each test."""
        return server.url()

    @pytest.fixture
    def refused(self) -> Outgoing:
        """Longer than ``max_payload``."""
        return outgoing(b"x" * 2**20)


@pytest.fixture
async def connect() -> AsyncIterator[Open]:
    """Closes after the test what it has opened; the harness knows it by its name."""
    async with connecting(NatsBroker) as connected:
        yield connected


# -- what is asked for -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "nats://host",
        "nats://host/",
        "nats:///jobs",
        "nats://host/a/b",
        "nats://host/two words",
        "nats://host/jobs.*",
        "nats://host/jobs?queue=jobs",
        f"nats://user:{CANARY}@host:port/jobs",
        f"nats://user:{CANARY}@host",
        f"nats://user:{CANARY}/#@host/jobs",
    ],
)
def test_a_wrong_url_says_what_was_expected(url: str) -> None:
    """Without its password, which may be what is wrong with it."""
    with pytest.raises(DefinitionError, match=r"expected nats://\[user:password@\]host\[:4222\]/queue") as caught:
        NatsBroker(url, Settings(30.0, "dead", {}))
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("option", ["no_such", "allow_reconnect", "error_cb", "pending_size"])
def test_an_option_that_the_client_cannot_take_is_refused(option: str) -> None:
    """By name, where the queue is defined; those that are the engine's among them."""
    with pytest.raises(DefinitionError, match=f"takes no option '{option}'"):
        NatsBroker("nats://host/jobs", Settings(30.0, "dead", {option: 1}))


async def test_a_stream_that_is_something_else_is_left_alone(server: Nats, connect: Open) -> None:
    """A queue never takes over the stream of somebody else's events."""
    url = server.url()
    name = url.rsplit("/", 1)[1]
    client = await nats.connect(url.rsplit("/", 1)[0])
    try:
        await client.jetstream().add_stream(name=name, subjects=[f"events.{name}"])
        with pytest.raises(DefinitionError, match="to have retention workqueue"):
            await connect(url)
    finally:
        await client.close()


# -- passwords ---------------------------------------------------------------------------------------


USERS = """
authorization {
  users = [
    { user: worker, password: canary-7f3a }
    { user: mute, password: canary-7f3a, permissions: { publish: [nothing] } }
    { user: deaf, password: canary-7f3a, permissions: { subscribe: [nothing] } }
  ]
}
"""


@pytest.mark.parametrize(
    ("user", "told"),
    [
        ("", "Authorization Violation"),
        ("worker:wrong@", "Authorization Violation"),
        (f"nobody:{CANARY}@", "Authorization Violation"),
        (f"mute:{CANARY}@", r'permissions violation for publish to "\$js.api.stream.info.jobs'),
        (f"deaf:{CANARY}@", 'permissions violation for subscription to "_inbox'),
    ],
)
async def test_who_is_not_let_in_is_told_at_once(tmp_path: Path, user: str, told: str) -> None:
    """Protects the start of a program: neither tried for 15 seconds, nor taken for a server that does not answer."""
    (tmp_path / "users").write_text(USERS)
    server = Nats(tmp_path, "-c", str(tmp_path / "users"))
    await asyncio.to_thread(server.start)
    try:
        said = await refused(server.url(user))
    finally:
        await asyncio.to_thread(server.kill)
    assert re.search(f"^remote queue 'jobs-.*: access is refused: nats://127.*{told}.*; check the user", said)
    assert CANARY not in said


async def test_who_was_let_in_before_waits_to_be_let_in_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Protects runs from a server that knows no user for a while."""
    users = tmp_path / "users"
    users.write_text(USERS)
    server = Nats(tmp_path, "-c", str(users))

    async def shut() -> None:
        users.write_text(USERS.replace("worker", "nobody"))
        server.send(signal.SIGHUP)  # it reads the file

    async def let_in() -> None:
        users.write_text(USERS)
        server.send(signal.SIGHUP)

    await asyncio.to_thread(server.start)
    try:
        await shut_out_for_a_while(server.url(f"worker:{CANARY}@"), shut, let_in, caplog)
    finally:
        await asyncio.to_thread(server.kill)
    assert CANARY not in caplog.text


async def test_credentials_come_from_the_environment(
    tmp_path: Path, connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a URL in a program needs none; those of the URL come first, and may hold any character."""
    password = "a/b@c:%d"
    server = Nats(tmp_path, "--user", "user", "--pass", password)
    await asyncio.to_thread(server.start)
    try:
        monkeypatch.setenv("NATS_USER", "user")
        monkeypatch.setenv("NATS_PASSWORD", password)
        await connect(server.url())
        monkeypatch.setenv("NATS_PASSWORD", "wrong")
        await connect(server.url(f"user:{quote(password, safe='')}@"))
        with pytest.raises(Disconnected, match=REFUSED):
            await connect(server.url())
    finally:
        await asyncio.to_thread(server.stop)


async def test_tls_is_verified_and_never_given_up(tmp_path: Path, server: Nats, connect: Open) -> None:
    """Neither a server that offers none gets a password (the client would send it), nor one that is unknown (F11)."""
    must_have(shutil.which("openssl"), "openssl", "apt-get install openssl")
    seen: asyncio.Queue[bytes] = asyncio.Queue()

    async def offer_none(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.12.0","headers":true,"max_payload":1048576}\r\n')
        seen.put_nowait(await reader.read())
        writer.close()

    async with await asyncio.start_server(offer_none, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(Disconnected, match="secure connection"):
            await connect(f"tls://user:{CANARY}@127.0.0.1:{port}/jobs")
        assert await seen.get() == b""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {certificate} -days 2 -subj /CN=x"
    made = [*make.split(), "-addext", "subjectAltName=IP:127.0.0.1"]
    await asyncio.to_thread(subprocess.run, made, check=True, capture_output=True)
    secure = Nats(tmp_path, "--tls", "--tlscert", str(certificate), "--tlskey", str(key))
    await asyncio.to_thread(secure.start)
    try:
        url = secure.url().replace("nats://", "tls://")
        with pytest.raises(Disconnected, match="CERTIFICATE_VERIFY_FAILED"):
            await connect(url)
        broker = await connect(url, tls=ssl.create_default_context(cafile=certificate))
        await broker.publish([outgoing(b"x" * 100_000)])
        assert len(await received(broker, 1)) == 1
    finally:
        await asyncio.to_thread(secure.stop)


# -- servers and processes that end ------------------------------------------------------------------


async def test_a_killed_server_keeps_what_it_confirmed(tmp_path: Path, connect: Open) -> None:
    """Also what is delayed and what is dead; a delivery that was under way can be acked by the next connection."""
    server = Nats(tmp_path)
    await asyncio.to_thread(server.start)
    try:
        broker = await connect(server.url())
        await broker.publish([outgoing(b"%d" % number) for number in range(500)])
        await broker.publish([outgoing(b"later", delay=2.0)])
        (ours, dead) = await received(broker, 2, limit=2)
        await broker.bury([(dead, b'{"reason": "because"}')])
        await asyncio.to_thread(server.kill)
        with pytest.raises(Disconnected):
            await broker.ack([ours])
        await broker.close()
        await asyncio.to_thread(server.start)
        await broker.open()
        assert await broker.ack([ours]) == 1
        messages = await received(broker, 499)
        assert [one.body for one in messages] == [*(b"%d" % number for number in range(2, 500)), b"later"]
        assert [one.message.body for one in await broker.dead(10, "")] == [b"1"]
    finally:
        await asyncio.to_thread(server.stop)


async def test_a_killed_server_forgets_its_last_deliveries(tmp_path: Path, connect: Open) -> None:
    """It never answers their acks: they count as lost, so that no worker waits for ever, and they come again."""
    server = Nats(tmp_path)
    await asyncio.to_thread(server.start)
    try:
        broker = await connect(server.url(), lease=5.0)
        await broker.publish([outgoing(b"%d" % number) for number in range(500)])
        messages = await received(broker, 10)
        await asyncio.sleep(0.3)  # so that it writes down that it has delivered these
        messages += await received(broker, 490)
        await asyncio.to_thread(server.kill)
        await broker.close()
        await asyncio.to_thread(server.start)
        await broker.open()
        async with asyncio.timeout(5):
            lost = len(await broker.extend(messages))
            assert await broker.ack(messages) == 500 - lost
        assert len(await received(broker, lost)) == lost
    finally:
        await asyncio.to_thread(server.stop)


async def test_a_stalled_server_is_noticed(tmp_path: Path, connect: Open) -> None:
    """By every call that waits for it, within 15 s; and close does not wait for it."""
    server = Nats(tmp_path)
    await asyncio.to_thread(server.start)
    try:
        broker = await connect(server.url())
        await broker.publish([outgoing()])
        (message,) = await received(broker, 1)
        waiting = asyncio.create_task(broker.receive(10, 60.0, 1))
        await asyncio.sleep(0.1)
        server.send(signal.SIGSTOP)
        began = time.monotonic()
        large = [outgoing(b"x" * 900_000) for _ in range(20)]  # more than the buffers on the way hold
        calls = [waiting, broker.publish(large), broker.ack([message]), broker.extend([message]), broker.depth()]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(one) for one in errors] == [Disconnected] * 5
        assert time.monotonic() - began < 15
        began = time.monotonic()
        await broker.close()
        assert time.monotonic() - began < 5
        server.send(signal.SIGCONT)
        await broker.open()
        assert await broker.ack([message]) in (0, 1)
    finally:
        server.send(signal.SIGCONT)
        await asyncio.to_thread(server.stop)


CALLS: list[Callable[[NatsBroker], Awaitable[object]]] = [
    lambda broker: broker.receive(1, 5.0, 1),
    lambda broker: broker.publish([outgoing(b"1")]),
    lambda broker: broker.depth(),
    lambda broker: broker.dead(1, ""),
    lambda broker: broker.ack([an_old_delivery()]),
    lambda broker: broker.extend([an_old_delivery()]),
]


def an_old_delivery() -> Message:
    """One that an earlier connection has received, and that is still ours."""
    receipt = Delivery("$JS.ACK.jobs.workers.1.1.1.1.0", time.monotonic() + 60.0, Connection("", False))
    return Message("1", b"", 1, 0.0, {}, receipt)


async def test_nothing_goes_by_a_connection_that_is_not_whole() -> None:
    """Protects a call that comes while another connects again: to half a connection all old deliveries were lost."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.12.0","headers":true,"max_payload":1048576}\r\n')
        await reader.readuntil(b"PING\r\n")
        writer.write(b"PONG\r\n")
        await reader.readuntil(b"$JS.API.STREAM.INFO")

    await not_whole(NatsBroker, "nats://127.0.0.1:{port}/jobs", greet, CALLS)


WORKER = """
import asyncio, sys
from asyncpc.remote.broker import Settings
from asyncpc.remote.engines.nats.broker import NatsBroker

async def main():
    broker = NatsBroker(sys.argv[1], Settings(60.0, "dead", {}))
    await broker.open()
    while True:
        *done, kept = await broker.receive(20, 5.0, 1) or [None]
        if kept is not None:
            assert await broker.ack(done) == len(done)
            for one in done:
                print("done", one.body.decode())
            print("kept", kept.body.decode(), flush=True)

asyncio.run(main())
"""


async def test_processes_share_a_queue_and_one_takes_over_from_another(server: Nats, connect: Open) -> None:
    """Three that are killed with something in hand: all they had not acked comes to the next, counted."""
    url = server.url()
    sent = {f"{number}" for number in range(2000)}
    told: dict[str, set[str]] = {"done": set(), "kept": set()}
    broker = await connect(url, lease=60.0)
    await broker.publish([outgoing(one.encode()) for one in sorted(sent)])
    command, pipe = [sys.executable, "-c", WORKER, url], asyncio.subprocess.PIPE
    workers = [await asyncio.create_subprocess_exec(*command, stdout=pipe) for _ in range(3)]

    async def listen(worker: asyncio.subprocess.Process) -> None:
        assert worker.stdout is not None
        async for line in worker.stdout:
            how, name = line.decode().split()
            assert name not in told["done"] | told["kept"]
            told[how].add(name)
            if told["done"] | told["kept"] == sent:
                for one in workers:
                    one.kill()

    try:
        await asyncio.gather(*map(listen, workers))
    finally:
        for worker in workers:
            if worker.returncode is None:
                worker.kill()
            await worker.wait()
    left = await received(await connect(url, lease=1.0), len(told["kept"]))
    assert {one.body.decode() for one in left} == told["kept"]
    assert {one.attempt for one in left} == {2}
    await broker.purge(dead=False)


# -- what comes before it is received ------------------------------------------------------------------


@asynccontextmanager
async def listening(server: Nats, subject: str) -> AsyncIterator[asyncio.Queue[Msg]]:
    """What all clients send under a subject."""
    heard: asyncio.Queue[Msg] = asyncio.Queue()
    client = await nats.connect(server.url().rsplit("/", 1)[0])
    try:
        await client.subscribe(subject, cb=heard.put)
        for _ in range(2):  # the first one overtakes the subscription
            await client.flush()
        yield heard
        await client.drain()  # so that all that was sent before is heard
    finally:
        await client.close()


async def waiting_at(server: Nats, url: str, broker: NatsBroker) -> asyncio.Task[list[Message]]:
    """A receive that has found nothing, so that its request stays open."""
    async with listening(server, f"$JS.API.CONSUMER.MSG.NEXT.{url.rsplit('/', 1)[1]}.*") as requests:
        waiting = asyncio.create_task(broker.receive(10, 60.0, 1))
        for _ in range(2):  # for what is there, and then for what comes
            await requests.get()
    return waiting


async def all_with(broker: NatsBroker, number: int) -> None:
    """Wait until so many messages are unacknowledged, and none is ready; the server may count late."""
    for _ in range(1000):
        if (await broker.depth())[:2] == (0, number):
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"the server did not hand out {number} messages: {await broker.depth()}")


async def one_pulled(server: Nats, url: str, broker: NatsBroker) -> None:
    """Let a message come by a pull, which stays open."""
    waiting = await waiting_at(server, url, broker)
    await broker.publish([outgoing()])
    assert await broker.ack(await waiting) == 1


async def one_waits(server: Nats, url: str, broker: NatsBroker) -> Message:
    """Receive a message, and let another one come, which is not received."""
    waiting = await waiting_at(server, url, broker)
    await broker.publish([outgoing(b"first")])
    (message,) = await waiting
    await broker.publish([outgoing(b"second")])
    await all_with(broker, 2)
    return message


async def test_messages_that_come_singly_are_asked_for_once(server: Nats, connect: Open) -> None:
    """Protects the latency at a low load: another request for each, and its answer, cost more than the message."""
    url = server.url()
    broker = await connect(url)
    waiting = await waiting_at(server, url, broker)
    async with listening(server, f"$JS.API.CONSUMER.MSG.NEXT.{url.rsplit('/', 1)[1]}.*") as requests:
        for _ in range(5):
            await broker.publish([outgoing()])
            assert await broker.ack(await waiting) == 1
            waiting = asyncio.create_task(broker.receive(10, 60.0, 1))
        await broker.depth()
    assert requests.empty()
    broker.wake()
    assert await waiting == []


@pytest.mark.parametrize("end", ["wake", "close", "wake and close"])
async def test_what_came_after_the_last_receive_goes_to_others(server: Nats, connect: Open, end: str) -> None:
    """Fault E14: a message that the client holds when it wants no more waits for no lease, and was no attempt."""
    url = server.url()
    first, second = await connect(url), await connect(url)
    await one_waits(server, url, first)
    if "wake" in end:
        first.wake()
    if "close" in end:  # and leaves no task
        await first.close()
    (message,) = await received(second, 1)
    assert (message.body, message.attempt) == (b"second", 1)
    await second.publish([outgoing(b"third")])
    (message,) = await received(second, 1)
    assert (message.body, message.attempt) == (b"third", 1)


async def test_a_second_wake_begins_nothing_that_outlives_the_connection(server: Nats, connect: Open) -> None:
    """Protects the end of a process: of two that give back, close waited for the second only."""
    async with Proxy(server.port) as proxy:
        url = server.url(host=proxy.host, port=proxy.port)
        broker = await connect(url)
        await one_pulled(server, url, broker)
        proxy.stall()
        for _ in range(2):
            broker.wake()
            await asyncio.sleep(0)
        await broker.close()
        assert not [one for one in asyncio.all_tasks() if "gives back" in one.get_name()]


async def test_a_receive_after_two_wakes_gets_what_comes(server: Nats, connect: Open) -> None:
    """Protects the next receive: it waited for an answer to what was asked for before, and got nothing to its end."""
    async with Proxy(server.port) as proxy:
        url = server.url(host=proxy.host, port=proxy.port)
        broker, other = await connect(url), await connect(f"nats://127.0.0.1:{server.port}/{url.rsplit('/', 1)[1]}")
        waiting = await waiting_at(server, url, broker)
        await other.publish([outgoing()])
        assert await broker.ack(await waiting) == 1
        proxy.stall()
        for _ in range(2):
            broker.wake()
            await asyncio.sleep(0)
        waiting = asyncio.create_task(broker.receive(3, 20.0, 1))
        for _ in range(5):
            await asyncio.sleep(0)
        proxy.heal()
        await other.publish([outgoing() for _ in range(9)])
        assert await broker.ack(await waiting) > 0
        await broker.close()


async def test_close_waits_for_no_server_that_stalls_meanwhile(server: Nats, connect: Open) -> None:
    """Protects the end of a process: what came and was not received goes back, but not at any price."""
    async with Proxy(server.port) as proxy:
        url = server.url(host=proxy.host, port=proxy.port)
        broker = await connect(url)
        await one_waits(server, url, broker)
        proxy.stalls_at = b"%release/"
        began = time.monotonic()
        await broker.close()
        assert time.monotonic() - began < 8  # and not as long as a call may take


async def test_what_is_under_way_comes_before_the_end_of_what_asked_for_it() -> None:
    """Protects it from its lease, and one more delivery: the client's own PING overtook the end, so that more came."""
    said: list[bytes] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.12.0","headers":true,"max_payload":1048576}\r\n')
        async for line in reader:
            said.append(line.split()[0])
            if said[-1] == b"PING":
                writer.write(b"PONG\r\n")
        writer.close()

    async with await asyncio.start_server(note, "127.0.0.1", 0) as listener:
        connection = Connection("there", is_encrypted=False)
        await connection.open({"servers": f"nats://127.0.0.1:{listener.sockets[0].getsockname()[1]}"})
        await connection.unsubscribe(await connection.subscribe("jobs", asyncio.Queue[Msg]().put))
        await connection.close()
    assert said == [b"CONNECT", b"PING", b"SUB", b"SUB", b"UNSUB", b"PING"]


async def test_wakes_leave_nothing_behind(server: Nats, connect: Open) -> None:
    """Protects the memory of a worker that runs for months, and asks anew after each wake."""
    broker = await connect(server.url())

    def subscriptions() -> int:
        gc.collect()
        return sum(isinstance(one, Subscription) for one in gc.get_objects())

    before = subscriptions()
    for _ in range(10):
        waiting = asyncio.create_task(broker.receive(5, 60.0, 1))
        await asyncio.sleep(0)
        broker.wake()
        assert await waiting == []
    assert subscriptions() <= before


async def test_what_waits_to_be_received_keeps_its_lease(server: Nats, connect: Open) -> None:
    """As long as what was received before it, or somebody else would handle it too."""
    url = server.url()
    broker = await connect(url)
    message = await one_waits(server, url, broker)
    async with listening(server, f"$JS.ACK.{url.rsplit('/', 1)[1]}.>") as told:
        assert await broker.extend([message]) == []
        both = [await told.get() for _ in range(2)]
    assert [one.data for one in both] == [b"+WPI"] * 2
    assert len({one.subject for one in both}) == 2


async def put_suspects(server: Nats, url: str, number: int) -> None:
    """Put so many messages that were delivered twice without an end."""
    client = await nats.connect(server.url().rsplit("/", 1)[0])
    try:
        for _ in range(number):
            name = url.rsplit("/", 1)[1]
            await client.jetstream().publish(name, b"suspect", headers={"Asyncpc-Attempts": "2"})
    finally:
        await client.close()


async def test_nothing_waits_beside_a_suspect(server: Nats, connect: Open) -> None:
    """Protects its neighbours: if it kills its process, what waits there would count one more delivery."""
    url = server.url()
    broker = await connect(url)
    waiting = await waiting_at(server, url, broker)
    await put_suspects(server, url, 1)
    (suspect,) = await waiting
    assert suspect.attempt == 3
    await broker.publish([outgoing(b"neighbour")])
    assert (await broker.depth())[:2] == (1, 1)


async def test_what_is_beyond_the_limit_of_the_last_receive_goes_to_others(server: Nats, connect: Open) -> None:
    """Fault E14: where the wake comes while more than that is under way, which nobody here will receive."""
    url = server.url()
    broker, other = await connect(url), await connect(url)
    await one_pulled(server, url, broker)
    await broker.publish([outgoing() for _ in range(4)])
    await all_with(broker, 4)
    waiting = asyncio.create_task(broker.receive(1, 60.0, 1))
    await asyncio.sleep(0)
    broker.wake()
    assert len(await waiting) == 1
    assert [one.attempt for one in await received(other, 3)] == [1] * 3


async def test_what_is_beyond_the_limit_does_not_wait_beside_a_suspect(server: Nats, connect: Open) -> None:
    """Protects other suspects, which came for an earlier receive: they would count one more delivery as well."""
    url = server.url()
    broker, other = await connect(url), await connect(url)
    await one_pulled(server, url, broker)
    await put_suspects(server, url, 4)
    await all_with(broker, 4)
    (suspect,) = await broker.receive(1, 5.0, 1)
    assert [one.attempt for one in [suspect, *await received(other, 3)]] == [3] * 4


async def test_a_suspect_is_received_whatever_becomes_of_its_connection(server: Nats, connect: Open) -> None:
    """Protects it against one more delivery that nobody handles: it can be settled by the next connection."""
    async with Proxy(server.port) as proxy:
        url = server.url(host=proxy.host, port=proxy.port)
        broker = await connect(url)
        await one_pulled(server, url, broker)
        await put_suspects(server, url, 1)
        await all_with(broker, 1)
        proxy.stall()
        (suspect,) = await broker.receive(10, 5.0, 1)
        await broker.close()
        await broker.open()
        assert await broker.ack([suspect]) == 1
        await broker.close()


async def test_a_lower_limit_holds_from_the_next_receive_on(server: Nats, connect: Open) -> None:
    """Protects other processes: what an earlier receive had asked for would come here, beyond the prefetch."""
    url = server.url()
    broker = await connect(url)
    await one_pulled(server, url, broker)
    async with listening(server, f"$JS.API.CONSUMER.MSG.NEXT.{url.rsplit('/', 1)[1]}.*") as requests:
        waiting = asyncio.create_task(broker.receive(1, 60.0, 1))
        async with asyncio.timeout(10):
            asked = [json.loads((await requests.get()).data) for _ in range(2)]
    assert [one["batch"] for one in asked] == [1, 1]
    await broker.publish([outgoing() for _ in range(5)])
    assert len(await waiting) == 1
    assert (await settled_depth(broker, 4)).unacknowledged == 1


async def test_what_the_full_stream_of_dead_letters_does_not_take_is_kept(server: Nats, connect: Open) -> None:
    """Its message is not acknowledged; those that it took are, and what is tried again makes no second letter."""
    url = server.url()
    broker = NatsBroker(url, Settings(30.0, url.rsplit("/", 1)[1] + "-dead", {}))
    client = await nats.connect(url.rsplit("/", 1)[0])
    try:
        await broker.open()
        stream = client.jetstream()
        config = (await stream.stream_info(f"{url.rsplit('/', 1)[1]}-dead")).config
        await stream.update_stream(config, max_msgs=1, discard="new")
        await broker.publish([outgoing() for _ in range(3)])
        messages = await received(broker, 3)
        for _ in range(2):
            with pytest.raises(PublishError, match="maximum messages exceeded") as raised:
                await broker.bury([(one, b"{}") for one in messages])
            assert raised.value.unconfirmed == messages[1:]
        assert (await broker.depth())[:4] == (0, 2, 0, 1)
        await stream.update_stream(config, max_msgs=-1, discard="new")
        await broker.bury([(one, b"{}") for one in messages])
        assert (await broker.depth())[:4] == (0, 0, 0, 3)
    finally:
        await client.close()
        await broker.close()


# -- what the server counts and keeps ----------------------------------------------------------------


async def test_attempts_are_counted_over_every_way_back(server: Nats, connect: Open) -> None:
    """The server's count begins anew with each copy; the message's goes on, and its id stays known."""
    url = server.url()
    broker = await connect(url)
    await broker.publish([Outgoing("id", b"", time=1.0)])
    attempts = []
    for delay, counted in [(0.0, True), (0.0, False), (0.2, True), (0.2, False), (0.0, False)]:
        (message,) = await received(broker, 1)
        attempts.append(message.attempt)
        await broker.release([message], delay, counted)
        await broker.release([message], delay, counted)  # a repeated call makes no second copy
    (message,) = await received(await connect(url, lease=1.0), 1)  # and its lease runs out
    attempts.append(message.attempt)
    (message,) = await received(broker, 1)
    assert [*attempts, message.attempt] == [1, 2, 2, 3, 3, 3, 4]
    assert message.id == "id"
    assert await broker.ack([message]) == 1
    await broker.publish([Outgoing("id", b"", time=1.0)])
    assert (await broker.depth())[:3] == (0, 0, 0)


async def test_a_delivery_that_was_lost_settles_nothing(server: Nats, connect: Open) -> None:
    """Fault E13, also over a new connection: the server would take its ack, and its release, for that of the next."""
    url = server.url()
    first, second = await connect(url, lease=1.0), await connect(url, lease=1.0)
    await first.publish([outgoing(b"a")])
    ours = await received(first, 1)
    await first.close()
    await first.open()
    theirs = await received(second, 1)
    assert await first.ack(ours) == 0
    await first.release(ours, 0.0, counted=False)
    await first.bury([(ours[0], b"{}")])
    assert await second.ack(theirs) == 1
    assert (await first.depth())[:4] == (0, 0, 0, 0)


async def test_any_id_comes_back_as_it_was(server: Nats, connect: Open) -> None:
    """Headers take no line ends, and lose spaces at their ends."""
    broker = await connect(server.url())
    ids = [" a ", "a\nb", "100%", "%release/1/1", "é", "a/b c:d", "\x00"]
    await broker.publish([Outgoing(one, b"", time=1.0) for one in ids])
    messages = await received(broker, len(ids))
    assert [one.id for one in messages] == ids
    await broker.bury([(one, b"{}") for one in messages])
    assert [one.message.id for one in await broker.dead(10, "")] == ids


async def test_messages_of_other_programs(server: Nats, connect: Open) -> None:
    """What another client put under the subject is received, with an id and a time; odd headers do no harm (F10)."""
    url = server.url()
    broker = await connect(url)
    client = await nats.connect(url.rsplit("/", 1)[0])
    try:
        name = url.rsplit("/", 1)[1]
        await client.jetstream().publish(name, b"plain")
        await client.jetstream().publish(name, b"odd", headers={"Asyncpc-Attempts": "x", "Asyncpc-Time": "nan"})
    finally:
        await client.close()
    assert [one.body for one in await broker.peek(5)] == [b"plain", b"odd"]
    messages = await received(broker, 2)
    assert [(one.id, one.attempt, dict(one.headers)) for one in messages] == [("1", 1, {}), ("2", 1, {})]
    assert [one.time for one in messages] == pytest.approx([time.time()] * 2, abs=10)


MOST = 2**20
"""Bytes that the server takes of a message and its headers."""


async def put_by_hand(server: Nats, subject: str, headers: bytes, size: int) -> None:
    """Put a message as another program may: with headers that no client of ours would send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = b"NATS/1.0\r\n" + headers + b"\r\n"
    writer.write(b'CONNECT {"headers": true, "verbose": false}\r\n')
    writer.write(b"HPUB %s %d %d\r\n" % (subject.encode(), len(head), len(head) + size) + head + b"x" * size)
    writer.write(b"\r\nPING\r\n")
    await reader.readuntil(b"PONG")
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    ("headers", "size", "kept", "why"),
    [
        (b"", MOST - 12, range(MOST - 2000, MOST - 12), "no more than this of 1048564 bytes"),
        (b"x-a: %s\r\n" % (b"x" * 65_000), 10, range(10, 11), ""),
        (b"x-a: %s\r\n" % (b"x" * 65_480), 10, range(10, 11), "its headers are lost"),
        (b"x-a: %s\r\n" % (b"x" * 60_000), MOST - 60_050, range(MOST - 60_050, MOST - 60_049), "its headers are lost"),
        (b"Nats-Msg-Id: %s\r\n" % ("é".encode() * 32_000), 10, range(10, 11), "its headers are lost"),
        (b"(x): x\r\n", 10, range(10, 11), "because"),
    ],
    ids=["body", "failure", "headers", "headers and body", "id", "name"],
)
async def test_what_another_program_could_just_put_goes_back_and_is_buried(
    server: Nats, connect: Open, headers: bytes, size: int, kept: range, why: str
) -> None:
    """Protects the connection, which the server ends if a copy is too long: the session would connect for ever."""
    url = server.url()
    broker = await connect(url)
    await put_by_hand(server, url.rsplit("/", 1)[1], headers, size)
    for _ in range(2):
        (message,) = await received(broker, 1)
        await broker.release([message], 0.0, counted=False)
    (message,) = await received(broker, 1)
    await broker.bury([(message, b'{"reason": "because", "traceback": "%s"}' % (b"x" * 20_000))])
    (dead,) = await broker.dead(10, "")
    assert len(dead.message.body) in kept
    assert why in dead.failure.decode()
    assert (await broker.depth())[:4] == (0, 0, 0, 1)


async def test_a_message_with_headers_that_the_server_cannot_take_fails_alone(server: Nats, connect: Open) -> None:
    """Protects the connection, and the others of the same call: none is sent, so that they can be put without it."""
    broker = await connect(server.url())
    long = [
        Outgoing("1", b"", {"x-a": "x" * 70_000}),
        Outgoing("2", b"x" * 980_000, {"x-a": "x" * 60_000}),
        Outgoing("3", b"x" * 980_000, {"x-a": "x" * 70_000}),
    ]
    first, last = outgoing(b"first"), outgoing(b"last")
    for one in long:
        with pytest.raises(PublishError, match="65535 of headers") as caught:
            await broker.publish([first, one, last])
        assert caught.value.unconfirmed == [first, one, last]
    await broker.publish([first, last])
    assert [one.body for one in await received(broker, 2)] == [b"first", b"last"]


async def test_what_is_put_with_a_message_that_is_too_long_is_put_once(server: Nats) -> None:
    """Protects a pipeline, which puts the others of a batch one by one then, with new ids: none may be in by then."""
    url = server.url()
    inbox, outbox = [
        await asyncio.to_thread(remote_queue, one, str, max_bytes=2**22)
        for one in (f"memory://{url.rpartition('/')[2]}", url)
    ]  # to make one reads files
    async with inbox.open() as putting, outbox.open() as looking:
        await putting.put_many(["a", "b" * 2**21, "c"])
        async with inbox >> outbox as running:
            await until(lambda: running.statistics().done + running.statistics().failed == 3)
        assert [letter.body[:2] for letter in await putting.dead()] == [b'"b']
        puts = [looking.put(text) for text in ("d", "e", "f" * 2**21, "g")]  # the last three go together
        results = await asyncio.gather(*puts, return_exceptions=True)
        assert [type(one) for one in results] == [type(None), type(None), PublishError, type(None)]
        assert (await looking.depth()).ready == 5


async def test_a_message_that_the_server_cannot_take_fails_alone(server: Nats, connect: Open) -> None:
    """Too long, it would end the connection; a failure that is too long for the dead letter is left out."""
    broker = await connect(server.url())
    long, short = outgoing(b"x" * 1_040_000), outgoing(b"x" * 1_000_000)
    with pytest.raises(PublishError, match="at most 1000384 bytes") as caught:
        await broker.publish([long, short])
    assert caught.value.unconfirmed == [long, short]
    await broker.publish([short])
    (message,) = await received(broker, 1)
    await broker.bury([(message, b'{"traceback": "%s"}' % (b"x" * 50_000))])
    (dead,) = await broker.dead(10, "")
    assert (len(dead.message.body), dead.failure) == (1_000_000, b"{}")


async def test_a_queue_may_be_named_like_a_word_of_the_server(server: Nats, connect: Open) -> None:
    """Protects what is put into a queue named "error": its name is in each answer, as that of an error would be."""
    broker = await connect(f"{server.url().rsplit('/', 1)[0]}/error")
    await broker.publish([outgoing(b"body")])
    (message,) = await received(broker, 1)
    await broker.release([message], 0.0, counted=False)
    assert await broker.ack(await received(broker, 1)) == 1


async def test_a_lease_that_was_changed_holds_for_the_next_process(server: Nats, connect: Open) -> None:
    """The consumer on the server keeps what it has but for that."""
    url = server.url()
    await (await connect(url, lease=30.0)).close()
    first = await connect(url, lease=0.5)
    await first.publish([outgoing()])
    await received(first, 1)
    assert len(await received(first, 1)) == 1


async def test_dead_letters_of_several_queues_share_a_stream(server: Nats, connect: Open) -> None:
    """Each queue sees, and purges, its own."""
    first, second = await connect(server.url()), await connect(server.url())
    for broker, body in ((first, b"1"), (second, b"2")):
        await broker.publish([outgoing(body)])
        await broker.bury([(one, b"{}") for one in await received(broker, 1)])
    assert [one.message.body for one in await first.dead(10, "")] == [b"1"]
    (other,) = await second.dead(10, "")
    assert await first.requeue([other.place]) == 0
    assert await first.purge(dead=True) == 1
    assert (await second.depth()).dead == 1


async def test_purge_forgets_what_is_delayed(server: Nats, connect: Open) -> None:
    """With and without somebody at work."""
    broker = await connect(server.url())
    await broker.publish([outgoing(b"now"), outgoing(delay=60.0), outgoing(delay=60.0)])
    assert (await broker.depth())[:3] == (1, 0, 2)
    assert await broker.purge(dead=False) == 3
    assert (await broker.depth())[:3] == (0, 0, 0)


async def test_whoever_only_looks_changes_no_lease(server: Nats, connect: Open) -> None:
    """Protects running workers: ``asyncpc queue stats`` opens the queue with another lease than theirs."""
    url = server.url()
    address, name = url.rsplit("/", 1)
    client = await nats.connect(address)

    async def lease() -> float:
        return float((await client.jetstream().consumer_info(name, "workers")).config.ack_wait or 0.0)

    try:
        worker = await connect(url, lease=7.0)
        await worker.receive(1, 0.01, 1)
        looking = await connect(url, lease=60.0)
        await looking.depth()
        assert await lease() == 7.0
        await looking.receive(1, 0.01, 1)
        assert await lease() == 60.0
    finally:
        await client.close()
