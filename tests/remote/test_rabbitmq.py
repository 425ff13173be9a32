"""The engine on RabbitMQ keeps the contract of all engines, on a real server."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from remote.brokers import connecting, refused, shut_out_for_a_while
from remote.servers import Rabbit, client_of, free_port, must_have

from asyncpc import DefinitionError, StateError
from asyncpc.remote.broker import (
    SUSPECT_AFTER,
    Disconnected,
    Message,
    NotAllowed,
    Outgoing,
    PublishError,
    Settings,
)
from asyncpc.remote.codec import codec_for
from asyncpc.remote.contract import BrokerContract, outgoing, received, settled_depth
from asyncpc.remote.session import Session, Terms

client_of("rabbitmq")

import aiormq  # noqa: E402  # it may be missing
from pamqp.commands import Basic  # noqa: E402  # likewise
from pamqp.common import FieldTable  # noqa: E402  # likewise

from asyncpc.remote.engines.rabbitmq.broker import RabbitBroker  # noqa: E402  # needs them

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(180)]

CANARY = "canary-7f3a"

LONGEST = 1_000_000
"""Bytes that the server takes as one message."""

Open = Callable[..., Awaitable[RabbitBroker]]
"""Opens a broker for a URL, a lease and options of the client."""

_names = count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rabbit]:
    """One for all tests that do it no harm."""
    running = Rabbit(tmp_path_factory.mktemp("rabbitmq"), "guest", "guest", f"max_message_size = {LONGEST}")
    running.start()
    yield running
    running.kill()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rabbit]:
    """One to kill, to stall and to start again, with a password; it runs when a test begins."""
    running = Rabbit(tmp_path_factory.mktemp("other"), "user", CANARY, f"max_message_size = {LONGEST}")
    running.start()
    yield running
    running.kill()


class TestRabbit(BrokerContract):
    """The contract."""

    engine = RabbitBroker
    misses_queues = True

    @pytest.fixture
    def url(self, server: Rabbit) -> str:
        """A queue of its own for each test."""
        return server.url()

    @pytest.fixture
    def refused(self) -> Outgoing:
        """Longer than ``max_message_size``; the server closes the channel."""
        return outgoing(b"x" * (LONGEST + 1))


@pytest.fixture
async def connect() -> AsyncIterator[Open]:
    """Closes after the test what it has opened; the harness knows it by its name."""
    async with connecting(RabbitBroker) as connected:
        yield connected


# -- what is asked for -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "amqp://host",
        "amqp://host/",
        "amqp:///jobs",
        "amqp://host/a/b/c",
        "amqp://host/two words",
        "amqp://host/amq.jobs",
        "amqp://host/jobs?queue=jobs",
        f"amqp://user:{CANARY}@host:port/jobs",
        f"amqp://user:{CANARY}@host",
        f"amqp://user:{CANARY}/#@host/jobs",
    ],
)
def test_a_wrong_url_says_what_was_expected(url: str) -> None:
    """Without its password, which may be what is wrong with it."""
    with pytest.raises(DefinitionError, match=r"expected amqp\[s\]://\[user:password@\]host\[:5672\]") as caught:
        RabbitBroker(url, Settings(30.0, "dead", {}))
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("name", ["jobs.suspects", "jobs.later", "jobs.later.5000"])
def test_dead_letters_are_kept_apart_from_all_else(name: str) -> None:
    """Protects the queue: dead letters among the suspects would come again, and be buried again, without an end."""
    with pytest.raises(DefinitionError, match="for something else; choose another"):
        RabbitBroker("amqp://host/jobs", Settings(30.0, name, {}))
    RabbitBroker("amqp://host/jobs", Settings(30.0, "later", {}))  # that is later.jobs


@pytest.mark.parametrize("option", ["no_such", "ssl_context", "transport_factory"])
def test_an_option_that_the_client_cannot_take_is_refused(option: str) -> None:
    """By name, where the queue is defined; those that are the engine's among them."""
    with pytest.raises(DefinitionError, match=f"takes no option '{option}'"):
        RabbitBroker("amqp://host/jobs", Settings(30.0, "dead", {option: 1}))


async def test_a_queue_that_is_something_else_is_refused(server: Rabbit, connect: Open) -> None:
    """A classic queue counts no deliveries; a quorum queue with limits of its own is used as it is."""
    urls = server.url(), server.url()
    client = await aiormq.connect(f"amqp://127.0.0.1:{server.port}/")
    try:
        channel = await client.channel()
        await channel.queue_declare(urls[0].rsplit("/", 1)[1], durable=True)
        quorum: FieldTable = {"x-queue-type": "quorum", "x-max-length": 2, "x-overflow": "reject-publish"}
        await channel.queue_declare(urls[1].rsplit("/", 1)[1], durable=True, arguments=quorum)
        with pytest.raises(DefinitionError, match="to be a quorum queue"):
            await connect(urls[0])
    finally:
        await client.close()
    broker = await connect(urls[1])
    with pytest.raises(PublishError, match="full") as caught:  # the server notices some messages later
        await publish_one_by_one(broker, 1000)
    assert len(caught.value.unconfirmed) == 1


async def test_a_lease_that_an_old_server_cannot_keep_is_refused(server: Rabbit, connect: Open) -> None:
    """Fault E10: it takes back what was not acknowledged within half an hour, whatever a client asks for."""
    with pytest.raises(DefinitionError, match="at most 1800 s"):
        await connect(server.url(), lease=3600.0)


async def test_a_virtual_host(server: Rabbit, connect: Open) -> None:
    """The default one is called /; one that is not there is told of."""
    url = server.url()
    await (await connect(url)).publish([outgoing(b"1")])
    broker = await connect(url.replace("/jobs", "/%2F/jobs"))
    assert len(await received(broker, 1)) == 1
    with pytest.raises(Disconnected, match="the virtual host 'no-such'"):
        await connect(url.replace("/jobs", "/no-such/jobs"))


async def test_what_a_full_queue_of_dead_letters_does_not_take_is_kept(server: Rabbit, connect: Open) -> None:
    """Its message is not acknowledged; those that it took are."""
    url = server.url()
    name = url.rsplit("/", 1)[1]
    client = await aiormq.connect(f"amqp://127.0.0.1:{server.port}/")
    try:
        limits: FieldTable = {"x-queue-type": "quorum", "x-max-length": 2, "x-overflow": "reject-publish"}
        await (await client.channel()).queue_declare(f"dead.{name}", durable=True, arguments=limits)
    finally:
        await client.close()
    broker = await connect(url)
    await broker.publish([outgoing() for _ in range(2000)])
    messages = await received(broker, 2000, limit=2000)
    with pytest.raises(PublishError, match="full") as raised:  # the server notices some messages later
        await broker.bury([(one, b"{}") for one in messages])
    kept = raised.value.unconfirmed
    assert 0 < len(kept) < 2000
    assert (await broker.depth()).unacknowledged == len(kept)
    assert await broker.purge(dead=True) == 2000 - len(kept)
    await broker.bury([(kept[0], b"{}")])
    assert (await broker.depth()).unacknowledged == len(kept) - 1


async def publish_one_by_one(broker: RabbitBroker, number: int) -> None:
    """So many messages, each when the one before is confirmed."""
    for _ in range(number):
        await broker.publish([outgoing()])


# -- passwords ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strangers(other: Rabbit) -> None:
    """Two users who may do little."""
    for command in ("add_user stranger pw", "add_user weak pw", "set_permissions weak none none none"):
        other.control(*command.split())


@pytest.mark.usefixtures("strangers")
async def test_who_is_not_let_in_is_told_at_once(other: Rabbit) -> None:
    """Protects the start of a program: a typing error is told by its first attempt to connect, not after 15 seconds."""
    url, path = other.url().replace("amqp://", ""), "/none/"
    for user, where, told in (
        ("", url, "ACCESS_REFUSED - Login was refused"),
        (f"user:{CANARY}-wrong@", url, "ACCESS_REFUSED - Login was refused"),
        (f"nobody:{CANARY}@", url, "ACCESS_REFUSED - Login was refused"),
        ("weak:pw@", url, "access to queue 'jobs-.*' in vhost '/' refused for user 'weak'"),
        ("stranger:pw@", url, "virtual host '/'.*access to vhost '/' refused for user 'stranger'"),
        (f"user:{CANARY}@", url.replace("/", path), "virtual host 'none'.* vhost none not found"),
    ):
        said = await refused(f"amqp://{user}{where}")
        assert re.search(f"^remote queue 'jobs-.*: access is refused: amqp://127.*{told}.*; check the user", said)
        assert CANARY not in said


async def test_a_virtual_host_that_has_too_many_connections_is_tried_again(other: Rabbit, connect: Open) -> None:
    """It refuses nobody in particular: others may go."""
    await asyncio.to_thread(other.control, "set_vhost_limits", '{"max-connections": 0}')
    try:
        with pytest.raises(Disconnected, match="connection limit") as caught:
            await connect(other.url(f"user:{CANARY}@"))
        assert not isinstance(caught.value, NotAllowed)
    finally:
        await asyncio.to_thread(other.control, "clear_vhost_limits")


async def test_who_was_let_in_before_waits_to_be_let_in_again(other: Rabbit, caplog: pytest.LogCaptureFixture) -> None:
    """Protects runs from a server that knows no user for a while."""

    async def shut() -> None:
        await asyncio.to_thread(other.control, "change_password", "user", "another")
        await asyncio.to_thread(other.control, "close_all_connections", "maintenance")

    async def let_in() -> None:
        await asyncio.to_thread(other.control, "change_password", "user", CANARY)

    await shut_out_for_a_while(other.url(f"user:{CANARY}@"), shut, let_in, caplog)
    assert CANARY not in caplog.text


async def test_a_password_may_have_any_character_and_be_an_option(other: Rabbit, connect: Open) -> None:
    """So that it need not be in the URL."""
    await asyncio.to_thread(other.control, "change_password", "user", "a/b@c:%d")
    try:
        await connect(other.url(f"user:{quote('a/b@c:%d', safe='')}@"))
        await connect(other.url(), login="user", password="a/b@c:%d")
    finally:
        await asyncio.to_thread(other.control, "change_password", "user", CANARY)


async def test_tls_is_verified(server: Rabbit, connect: Open) -> None:
    """A server that does not speak it gets no password, nor does one that is unknown (F11)."""
    seen: asyncio.Queue[bytes] = asyncio.Queue()

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.put_nowait(await reader.read(1000))
        writer.close()

    async with await asyncio.start_server(note, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(Disconnected):
            await connect(f"amqps://user:{CANARY}@127.0.0.1:{port}/jobs")
        assert CANARY.encode() not in await seen.get()


async def test_tls(tmp_path: Path, connect: Open) -> None:
    """With a certificate of one's own."""
    must_have(shutil.which("openssl"), "openssl", "apt-get install openssl")
    key, certificate, port = tmp_path / "key.pem", tmp_path / "cert.pem", free_port()
    make = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {certificate} -days 2 -subj /CN=x"
    made = [*make.split(), "-addext", "subjectAltName=IP:127.0.0.1"]
    await asyncio.to_thread(subprocess.run, made, check=True, capture_output=True)
    files = f"ssl_options.certfile = {certificate}", f"ssl_options.keyfile = {key}"
    secure = Rabbit(tmp_path, "guest", "guest", f"listeners.ssl.1 = 127.0.0.1:{port}", *files)
    await asyncio.to_thread(secure.start)
    try:
        with pytest.raises(Disconnected, match="CERTIFICATE_VERIFY_FAILED"):
            await connect(f"amqps://127.0.0.1:{port}/jobs")
        context = await asyncio.to_thread(ssl.create_default_context, cafile=certificate)
        broker = await connect(f"amqps://127.0.0.1:{port}/jobs", ssl_context=context)
        await broker.publish([outgoing(b"x" * 500_000)])
        assert len(await received(broker, 1)) == 1
        await broker.close()
    finally:
        await asyncio.to_thread(secure.kill)


# -- servers and processes that end ------------------------------------------------------------------


async def test_a_killed_server_keeps_what_it_confirmed(other: Rabbit, connect: Open) -> None:
    """Also what is delayed and what is dead; a receipt of the old connection settles nothing (fault E9)."""
    broker = await connect(other.url(f"user:{CANARY}@"))
    await broker.publish([outgoing(b"%d" % number) for number in range(500)])
    await broker.publish([outgoing(b"later", delay=5.0)])
    (ours, dead) = await received(broker, 2, limit=2)
    await broker.bury([(dead, b'{"reason": "because"}')])
    await asyncio.sleep(2.0)  # only then does the server write down that it has made a queue; a busy one takes longer
    await asyncio.to_thread(other.kill)
    try:
        with pytest.raises(Disconnected):
            await broker.ack([ours])
        await broker.close()
    finally:
        await asyncio.to_thread(other.start)
    await broker.open()
    assert await broker.extend([ours]) == [ours]
    messages = await received(broker, 500, seconds=30.0)
    assert sorted(one.body for one in messages) == sorted(b"later" if n == 1 else b"%d" % n for n in range(500))
    assert await broker.ack([ours]) == 0
    assert [one.message.body for one in await broker.dead(10, "")] == [b"1"]
    assert await broker.ack(messages) == 500
    assert (await broker.depth())[:4] == (0, 0, 0, 1)


async def test_a_stalled_server_is_noticed(other: Rabbit, connect: Open) -> None:
    """By every call that waits for it, within 15 s; and close does not wait for it."""
    broker = await connect(other.url(f"user:{CANARY}@"))
    await broker.publish([outgoing()])
    (message,) = await received(broker, 1)
    waiting = asyncio.create_task(broker.receive(10, 60.0, 1))
    await asyncio.sleep(0.1)
    other.send(signal.SIGSTOP)
    try:
        began = time.monotonic()
        large = [outgoing(b"x" * 900_000) for _ in range(20)]  # more than the buffers on the way hold
        calls = [waiting, broker.publish(large), broker.ack([message]), broker.depth()]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(one) for one in errors] == [Disconnected] * 4
        assert time.monotonic() - began < 15
        began = time.monotonic()
        await broker.close()
        assert time.monotonic() - began < 6
    finally:
        other.send(signal.SIGCONT)
    await broker.open()
    assert await broker.ack([message]) == 0


WORKER = """
import asyncio, sys
from asyncpc.remote.broker import Settings
from asyncpc.remote.engines.rabbitmq.broker import RabbitBroker

async def main():
    broker = RabbitBroker(sys.argv[1], Settings(30.0, "dead", {}))
    await broker.open()
    while True:
        messages = await broker.receive(20, 5.0, 1)
        for one in messages[:-1]:
            print(one.body.decode(), flush=True)
        await broker.ack(messages[:-1])

asyncio.run(main())
"""


async def test_processes_share_a_queue_and_one_takes_over_from_another(server: Rabbit, connect: Open) -> None:
    """Three that are killed with something in hand: all they had not acked comes to the next at once, counted."""
    url = server.url()
    broker = await connect(url)
    sent = {f"{number}" for number in range(2000)}
    command = [sys.executable, "-c", WORKER, url]
    pipe = asyncio.subprocess.PIPE
    workers = [await asyncio.create_subprocess_exec(*command, stdout=pipe) for _ in range(3)]
    try:
        await broker.publish([outgoing(one.encode()) for one in sorted(sent)])
        await settled_depth(broker, 0)
    finally:
        for worker in workers:
            worker.kill()
    done = {line for worker in workers for line in (await worker.communicate())[0].decode().split()}
    left: list[Message] = []
    async with asyncio.timeout(30):  # some of what was done may have been killed before its ack
        while {one.body.decode() for one in left} | done != sent:
            left += (messages := await broker.receive(1000, 10.0, 1))
            assert await broker.ack(messages) == len(messages)
    assert {one.attempt for one in left} <= {2, 3, 4}  # a second may have had it before it was killed
    assert (await broker.depth())[:3] == (0, 0, 0)


async def test_a_server_that_is_short_of_memory_holds_up_puts_alone(other: Rabbit, connect: Open) -> None:
    """It says so, and takes no message; what is in hand can be settled, and the put goes in when it is over."""
    broker = await connect(other.url(f"user:{CANARY}@"))
    await broker.publish([outgoing(b"1"), outgoing(b"2")])
    messages = await received(broker, 1, limit=1)
    await asyncio.to_thread(other.control, "set_vm_memory_high_watermark", "0.0000001")
    try:
        putting = asyncio.create_task(broker.publish([outgoing(b"3")]))
        await asyncio.sleep(12.0)  # longer than a server may say nothing
        assert not putting.done()
        assert await broker.ack(messages) == 1
        messages = await received(broker, 1)
    finally:
        await asyncio.to_thread(other.control, "set_vm_memory_high_watermark", "0.4")
    await putting
    assert [one.body for one in [*messages, *await received(broker, 1)]] == [b"2", b"3"]


async def test_a_server_that_takes_a_message_back_is_noticed(other: Rabbit, connect: Open) -> None:
    """Fault E10: it closes the channel of what was not acknowledged in time; the message comes again, counted."""
    set_env = "[application:set_env(rabbit, K, V) || {K, V} <- [{consumer_timeout, %d}, {channel_tick_interval, %d}]]."
    await asyncio.to_thread(other.control, "eval", set_env % (500, 200))
    try:
        broker = await connect(other.url(f"user:{CANARY}@"))
        await broker.publish([outgoing()])
        (message,) = await received(broker, 1)
        with pytest.raises(Disconnected, match="timeout"):
            await broker.receive(1, 30.0, 1)
        with pytest.raises(Disconnected, match="timeout"):
            await broker.ack([message])
        await broker.close()
        await broker.open()
        assert await broker.ack([message]) == 0
        (message,) = await received(broker, 1)
        assert (message.attempt, await broker.ack([message])) == (2, 1)
    finally:
        await asyncio.to_thread(other.control, "eval", set_env % (1_800_000, 60_000))


async def test_a_queue_that_somebody_deleted_is_made_again(server: Rabbit, connect: Open) -> None:
    """The consumer notices it (fault E12), and so does a put, which the server would confirm (fault E11)."""
    url = server.url()
    broker, putting = await connect(url), await connect(url)
    waiting = asyncio.create_task(broker.receive(10, 60.0, 1))
    await asyncio.sleep(0.1)
    client = await aiormq.connect(f"amqp://127.0.0.1:{server.port}/")
    try:
        await (await client.channel()).queue_delete(url.rsplit("/", 1)[1])
    finally:
        await client.close()
    with pytest.raises(Disconnected, match="gone"):
        await waiting
    with pytest.raises(Disconnected, match="no queue"):
        await putting.publish([outgoing(b"1")])
    await putting.close()
    await putting.open()
    await putting.publish([outgoing(b"1")])
    await broker.close()
    await broker.open()
    assert len(await received(broker, 1)) == 1


# -- what the server counts and keeps ----------------------------------------------------------------


async def test_a_receive_takes_from_the_server_what_it_returns(server: Rabbit, connect: Open) -> None:
    """So a killed process counts no attempt of a message that nobody asked for (fault E8)."""
    url = server.url()
    first, second = await connect(url), await connect(url)
    await first.publish([outgoing(b"x" * 1000) for _ in range(300)])
    for limit in (1, 7, 100):
        assert len(await received(first, limit)) == limit
    assert (await settled_depth(second, 300 - 108)).ready == 300 - 108
    await received(first, 1)
    await first.close()
    messages = await received(second, 300)
    assert sorted(one.attempt for one in messages) == [1] * 191 + [2] * 109


async def test_no_delivery_is_counted_that_nobody_had(server: Rabbit, connect: Open) -> None:
    """Protects messages that have killed nobody: of two healthy workers, four in ten came with a count above 1."""
    url = server.url()
    first, second, putting = [await connect(url) for _ in range(3)]
    attempts: list[int] = []

    async def work(broker: RabbitBroker) -> None:
        held: list[Message] = []
        while len(attempts) < 1500:
            held += (messages := await broker.receive(20 - len(held), 0.5, 1))
            attempts.extend(one.attempt for one in messages)
            if len(held) > 10 or not messages:
                await broker.ack(held)
                held = []
        await broker.ack(held)

    async def put() -> None:
        for number in range(500):
            await putting.publish([outgoing() for _ in range(1 + number % 5)])

    await asyncio.gather(work(first), work(second), put())
    assert attempts == [1] * 1500
    assert (await putting.depth())[:3] == (0, 0, 0)


async def test_no_more_is_unsettled_than_was_asked_for(server: Rabbit, connect: Open) -> None:
    """Protects the prefetch: also of what was not received yet, and while messages are settled in any order."""
    url = server.url()
    broker, other = await connect(url), await connect(url)
    await other.publish([outgoing() for _ in range(500)])
    held: list[Message] = []
    settled = 0
    for number in range(100):
        held += await broker.receive(20 - len(held), 5.0, 1)
        some = held[number % 3 :: 2]
        held = [one for one in held if one not in some]
        settled += await broker.ack(some)
        assert 500 - settled - (await other.depth()).ready <= 20
        if settled > 400:
            break
    assert settled > 400


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_slow_worker_lets_less_come_once_it_has_what_it_asked_for(
    server: Rabbit, connect: Open, is_there: bool
) -> None:
    """Protects other workers: what it settles makes no room for more than it asks for now; and no count is too high."""
    url = server.url()
    slow, other = await connect(url), await connect(url)
    await prepare(slow, 100)
    await other.publish([outgoing()])
    await all_came(slow, other, 1)
    assert await slow.ack(await received(slow, 1)) == 1
    if not is_there:
        assert await slow.receive(7, 0.0, 1) == []
    await other.publish([outgoing() for _ in range(150)])
    assert (await settled_depth(other, 50)).ready == 50
    assert (await settled_depth(slow, 150)).ready == 150
    for _ in range(10):
        messages = await received(slow, 7)
        assert await slow.ack(messages) == 7
    assert (await settled_depth(other, 50)).ready == 50
    slow.wake()
    assert [one.attempt for one in await received(other, 80)] == [1] * 80


async def test_a_receive_that_asks_for_much_less_lets_less_come(server: Rabbit, connect: Open) -> None:
    """Protects other workers: where nothing is under way, one that has become slow gets no more than it asks for."""
    url = server.url()
    slow, other = await connect(url), await connect(url)
    assert await slow.receive(100, 0.05, 1) == []
    assert await slow.receive(7, 0.05, 1) == []
    await other.publish([outgoing() for _ in range(100)])
    messages = await received(slow, 7)
    assert (await settled_depth(other, 93)).ready == 93
    assert await slow.ack(messages) == 7
    assert (await settled_depth(other, 86)).ready == 86  # as many as were settled have come


async def test_a_suspect_costs_the_others_no_attempt(server: Rabbit, connect: Open) -> None:
    """Protects a message that was near its last attempt: the server counted what it was about to send, suspect or not.

    A process has one of them at a time, also when it asks for many, and gets the next without another wake.
    """
    url = server.url()
    broker = await connect(url)
    await put_suspects(broker, 30)
    await broker.publish([outgoing() for _ in range(30)])
    messages = await received(broker, 31)
    while len(messages) < 60:
        (suspect,) = [one for one in messages if one.receipt.channel is not None and one.attempt > SUSPECT_AFTER]
        assert await broker.receive(100, 0.0, 1) == []
        waiting = asyncio.create_task(received(broker, 1, limit=100))
        await asyncio.sleep(0)
        assert await broker.ack([suspect]) == 1
        messages += await waiting
    assert sorted(one.attempt for one in messages) == [1] * 30 + [SUSPECT_AFTER + 1] * 30
    assert (await broker.depth())[:3] == (0, 31, 0)


async def test_a_suspect_is_not_handed_out_before_all_are_moved(server: Rabbit, connect: Open) -> None:
    """Protects its neighbours: if it kills its process at once, no other suspect is there to count that."""
    url = server.url()
    broker, other = await connect(url), await connect(url)
    await put_suspects(other, 1500)  # more than are put at once
    while not (messages := await broker.receive(2000, 5.0, 1)):
        pass
    (suspect,) = messages
    assert (await broker.depth())[:2] == (1499, 1)
    assert suspect.attempt == SUSPECT_AFTER + 1
    await broker.close()  # as a kill does
    (again,) = await received(other, 1)
    assert (again.id, again.attempt) == (suspect.id, SUSPECT_AFTER + 2)
    assert await other.ack([again]) == 1
    assert [one.attempt for one in await received(other, 1)] == [SUSPECT_AFTER + 1]


async def test_suspects_that_cannot_be_moved_are_received_as_they_are(server: Rabbit, connect: Open) -> None:
    """Protects them: given back, they would come again at once, counted each time, and be buried within a second."""
    url = server.url()
    await make_small_queue(server, f"{url}.suspects")
    broker = await connect(url)
    await put_suspects(broker, 100)
    await publish_as_another(server, url, {"asyncpc-attempts": "2", "x-s": "x" * 130_950})
    messages: list[Message] = []
    while len(messages) < 101:
        messages += await received(broker, 1, limit=200)
        assert await broker.ack([one for one in messages if one.receipt.channel is not None]) > 0
    assert [one.attempt for one in messages] == [SUSPECT_AFTER + 1] * 101
    assert (await broker.depth())[:3] == (0, 0, 0)


async def test_nothing_is_given_back_for_a_suspect(server: Rabbit, connect: Open) -> None:
    """Protects the time to come to rest after many crashes: each came and went several times, 50 ms apart at least."""
    url = server.url()
    session = Session(
        await asyncio.to_thread(RabbitBroker, url, Settings(30.0, "dead", {})),
        codec_for("q", str, "json", 99),
        Terms(64, 30.0, 5),
        "q",
        4,
    )
    task = asyncio.create_task(session.run())
    await session.opened.wait()
    other = await connect(url)
    await put_suspects(other, 100)
    await other.publish([outgoing(b'"fresh"') for _ in range(100)])
    seen: list[Any] = []
    items = session.items()
    async with asyncio.timeout(60.0):
        while len(seen) < 200:
            item = await anext(items)
            seen.append(item.item)
            item.ticket.settle()
    session.finish()
    assert [item async for item in items] == []
    await task
    assert sorted(seen) == ["fresh"] * 100 + ["suspect"] * 100
    assert (session.counts.received, session.counts.acknowledged, session.counts.released) == (200, 200, 0)


async def put_suspects(broker: RabbitBroker, number: int) -> None:
    """Messages that were delivered twice without an end, by their headers."""
    headers = {"asyncpc-attempts": str(SUSPECT_AFTER)}
    await broker.publish([outgoing(b'"suspect"')._replace(headers=headers) for _ in range(number)])


@pytest.mark.parametrize("end", ["wake", "close"])
async def test_what_nobody_received_goes_back_uncounted(
    server: Rabbit, connect: Open, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects what waits in a process that drains, or ends: others get it at once, and nothing more comes."""
    monkeypatch.setattr("asyncpc.remote.engines.rabbitmq.broker.GIVING_BACK", 30.0)  # for a busy machine
    url = server.url()
    broker, other = await connect(url), await connect(url)
    await prepare(broker, 20)
    await other.publish([outgoing(b"%d" % number) for number in range(10)])
    await all_came(broker, other, 10)
    if end == "wake":
        broker.wake()
        broker.wake()  # a second call does nothing
    else:
        await broker.close()
    messages = await received(other, 10)
    await other.publish([outgoing(b"10")])
    messages += await received(other, 1)
    assert [(one.body, one.attempt) for one in messages] == [(b"%d" % number, 1) for number in range(11)]
    assert await other.ack(messages) == 11
    assert (await other.depth())[:3] == (0, 0, 0)


async def test_a_purge_forgets_what_nobody_received(server: Rabbit, connect: Open) -> None:
    """Protects whoever purges in a process that receives: what it was sent already is ready, too."""
    url = server.url()
    broker, other = await connect(url), await connect(url)
    await prepare(broker, 5)
    await other.publish([outgoing() for _ in range(12)])
    await settled_depth(other, 7)
    assert (await broker.depth())[:2] == (12, 0)
    assert await broker.purge(dead=False) == 12
    assert await broker.receive(5, 0.1, 1) == []
    assert (await broker.depth())[:3] == (0, 0, 0)


async def prepare(broker: RabbitBroker, limit: int) -> None:
    """Let so many messages come later, without a receive."""
    assert await broker.receive(limit, 0.0, 1) == []


async def all_came(broker: RabbitBroker, other: RabbitBroker, number: int) -> None:
    """Wait until so many messages, which are all that there are, are in the process of the first."""
    assert (await settled_depth(other, 0)).ready == 0
    assert (await settled_depth(broker, number)).ready == number


async def make_small_queue(server: Rabbit, url: str) -> None:
    """One that takes five messages, and some more until the server notices."""
    few: FieldTable = {"x-queue-type": "quorum", "x-max-length": 5, "x-overflow": "reject-publish"}
    client = await aiormq.connect(f"amqp://127.0.0.1:{server.port}/")
    try:
        await (await client.channel()).queue_declare(url.rsplit("/", 1)[1], durable=True, arguments=few)
    finally:
        await client.close()


async def test_wake_leaves_nothing_behind(server: Rabbit, connect: Open) -> None:
    """Fault E8: a message that comes while a receive is asked back is returned, or stays."""
    url = server.url()
    first, second = await connect(url), await connect(url)
    for number in range(30):
        waiting = asyncio.create_task(first.receive(10, 60.0, 1))
        await asyncio.sleep(0.005)
        putting = asyncio.create_task(second.publish([outgoing(b"%d" % number)]))
        await asyncio.sleep(0.0005 * (number % 8))
        first.wake()
        messages = await waiting
        await putting
        assert await first.ack(messages or await received(first, 1)) == 1
    assert (await second.depth())[:3] == (0, 0, 0)


async def test_attempts_are_counted_over_every_way_back(server: Rabbit, connect: Open) -> None:
    """The server's count begins anew with each copy; the message's goes on."""
    broker = await connect(server.url())
    await broker.publish([Outgoing("id", b"", time=1.0)])
    attempts = []
    for delay, counted in [(0.0, True), (0.0, False), (0.2, True), (0.2, False), (0.0, False), (0.0, True)]:
        (message,) = await received(broker, 1)
        attempts.append(message.attempt)
        await broker.release([message], delay, counted)
        await broker.release([message], delay, counted)  # a repeated call makes no second copy
    (message,) = await received(broker, 1)
    attempts.append(message.attempt)
    await broker.close()
    await broker.open()
    (message,) = await received(broker, 1)
    assert [*attempts, message.attempt] == [1, 2, 2, 3, 3, 3, 4, 5]
    assert (message.id, message.time) == ("id", 1.0)
    assert await broker.ack([message]) == 1
    assert (await broker.depth())[:3] == (0, 0, 0)


async def test_acks_out_of_order(server: Rabbit, connect: Open) -> None:
    """One command settles what nothing precedes, and never what was not meant."""
    broker = await connect(server.url())
    await broker.publish([outgoing(b"%d" % number) for number in range(20)])
    messages = await received(broker, 20)
    for places in ([19, 3], [0, 1, 2], [5, 4, 8], [6, 7]):
        assert await broker.ack([messages[place] for place in places]) == len(places)
    await broker.close()
    await broker.open()
    again = await received(broker, 10)
    assert [one.body for one in again] == [b"%d" % number for number in range(9, 19)]
    assert (await broker.depth()).ready == 0


async def test_any_id_and_any_header_come_back(server: Rabbit, connect: Open) -> None:
    """However long, and over a dead letter."""
    broker = await connect(server.url())
    ids = [" a ", "a\nb", "100%", "é", "a/b c:d", "\x00", "x" * 1000]
    await broker.publish([Outgoing(one, b"", {"x-a": one}, time=1.0) for one in ids])
    messages = await received(broker, len(ids))
    assert [(one.id, one.headers["x-a"]) for one in messages] == [(one, one) for one in ids]
    await broker.bury([(one, b"{}") for one in messages])
    assert [one.message.id for one in await broker.dead(10, "")] == ids


async def test_messages_of_other_programs(server: Rabbit, connect: Open) -> None:
    """What another client put into the queue is received, with an id and a time; odd headers do no harm (F10)."""
    url = server.url()
    broker = await connect(url)
    queue = url.rsplit("/", 1)[1]
    client = await aiormq.connect(f"amqp://127.0.0.1:{server.port}/")
    try:
        channel = await client.channel()
        odd: dict[str, Any] = {"asyncpc-attempts": "x", "asyncpc-time": "nan", "asyncpc-id": 1, "x-n": 1, "x-s": "s"}
        properties = Basic.Properties(headers=odd, message_id="theirs", delivery_mode=2)
        await channel.basic_publish(b"plain", routing_key=queue)
        await channel.basic_publish(b"odd", routing_key=queue, properties=properties)
        await channel.basic_publish(b"dead", routing_key=f"dead.{queue}", properties=properties)
    finally:
        await client.close()
    plain, other_one = await received(broker, 2)
    assert (len(plain.id) > 8, other_one.id) == (True, "theirs")
    assert [(one.attempt, dict(one.headers)) for one in (plain, other_one)] == [(1, {}), (1, {"x-s": "s"})]
    assert [one.time for one in (plain, other_one)] == pytest.approx([time.time()] * 2, abs=10)
    (dead,) = await broker.dead(10, "")
    assert await broker.requeue([dead.place]) == 1
    assert [one.body for one in await received(broker, 1)] == [b"dead"]


async def test_a_message_that_the_server_cannot_take_fails_alone(other: Rabbit, connect: Open) -> None:
    """Too long, it closes the channel, and the next put goes by another; a failure that is too long is left out."""
    broker = await connect(other.url(f"user:{CANARY}@"))
    long = outgoing(b"x" * (LONGEST + 1))
    with pytest.raises(PublishError, match="larger than") as caught:
        await broker.publish([long])
    assert caught.value.unconfirmed == [long]
    await broker.publish([outgoing(b"x" * LONGEST)])
    (message,) = await received(broker, 1)
    await broker.bury([(message, b'{"traceback": "%s"}' % (b"x" * 50_000))])
    (dead,) = await broker.dead(10, "")
    assert (len(dead.message.body), dead.message.attempt, dead.failure) == (LONGEST, 1, b"{}")


async def test_headers_that_are_too_long_end_no_connection(server: Rabbit, connect: Open) -> None:
    """They lie in one frame; the server would close the connection, and with it everything in hand."""
    broker = await connect(server.url())
    with pytest.raises(PublishError, match="headers"):
        await broker.publish([Outgoing("id", b"", {"x-a": "x" * 200_000})])
    await broker.publish([outgoing(b"1")])
    assert len(await received(broker, 1)) == 1


async def test_one_message_with_headers_that_are_too_long_keeps_the_others_out(server: Rabbit, connect: Open) -> None:
    """Protects callers whose messages go together: they are put again one by one, and nothing may be in by then."""
    broker = await connect(server.url())
    sent = [outgoing(b"1"), Outgoing("id", b"", {"x-a": "x" * 200_000}), *[outgoing() for _ in range(1500)]]
    with pytest.raises(PublishError, match="headers") as caught:
        await broker.publish(sent)
    assert caught.value.unconfirmed == sent
    sent = [outgoing(b"2") for _ in range(1500)] + sent[1:2]  # more than go at once
    with pytest.raises(PublishError, match="headers") as caught:
        await broker.publish(sent)
    assert caught.value.unconfirmed == sent
    assert (await broker.depth()).ready == 0


@pytest.mark.parametrize(
    ("name", "length", "has_headers", "has_failure"),
    [("x-s", 100_000, True, False), ("x-s", 131_000, False, True), ("asyncpc-id", 131_000, False, False)],
)
async def test_a_message_whose_headers_leave_no_room_can_be_given_up(
    server: Rabbit, connect: Open, name: str, length: int, has_headers: bool, has_failure: bool
) -> None:
    """Protects the run: a message of another program ended it, and each that received it after that.

    Its neighbours keep what they have.
    """
    url = server.url()
    broker = await connect(url)
    await publish_as_another(server, url, {name: "x" * length})
    await broker.publish([outgoing(b"neighbour")])
    messages = await received(broker, 2)
    failure = b"{" + b" " * 35_000 + b"}"
    await broker.bury([(one, failure) for one in messages])
    theirs, ours = await broker.dead(10, "")
    assert (theirs.message.body, theirs.message.attempt) == (b"theirs", 1)
    assert (bool(theirs.message.headers), theirs.failure == failure) == (has_headers, has_failure)
    assert (ours.message.body, ours.failure) == (b"neighbour", failure)
    assert (await broker.depth())[:4] == (0, 0, 0, 2)


async def test_a_message_whose_headers_leave_no_room_goes_back_counted(server: Rabbit, connect: Open) -> None:
    """Protects the run: what is no attempt goes back as a copy, which needs room for one header more."""
    url = server.url()
    broker = await connect(url)
    await publish_as_another(server, url, {"x-s": "x" * 131_000})
    await broker.publish([outgoing(b"neighbour")])
    await broker.release(await received(broker, 2), 0.0, counted=False)
    again = await received(broker, 2)
    assert {(one.body, one.attempt) for one in again} == {(b"theirs", 2), (b"neighbour", 1)}
    assert await broker.ack(again) == 2
    assert (await broker.depth())[:3] == (0, 0, 0)


async def publish_as_another(server: Rabbit, url: str, headers: FieldTable) -> None:
    """A message of another program, with such headers and a short body."""
    client = await aiormq.connect(f"amqp://127.0.0.1:{server.port}/")
    try:
        properties = Basic.Properties(headers=headers, delivery_mode=2)
        await (await client.channel()).basic_publish(
            b"theirs", routing_key=url.rsplit("/", 1)[1], properties=properties
        )
    finally:
        await client.close()


async def test_dead_letters_are_read_by_one_process_at_a_time(server: Rabbit, connect: Open) -> None:
    """Else each would see a part; and what two put back at once goes in once."""
    url = server.url()
    brokers = [await connect(url) for _ in range(3)]
    worker = await connect(url)
    await worker.publish([outgoing(b"%d" % number) for number in range(50)])
    await worker.bury([(one, b"{}") for one in await received(worker, 50)])
    await worker.close()
    seen = await asyncio.gather(*(broker.dead(100, "") for broker in brokers for _ in range(2)))
    assert [[int(one.message.body) for one in page] for page in seen] == [list(range(50))] * 6
    places = [one.place for one in seen[0]]
    assert sorted(await asyncio.gather(*(broker.requeue(places[:20]) for broker in brokers))) == [0, 0, 20]
    assert [one.place for one in await brokers[1].dead(5, places[30])] == places[31:36]
    assert (await brokers[2].depth())[:4] == (20, 0, 0, 30)


async def test_dead_letters_can_be_read_after_a_requeue_that_failed(server: Rabbit, connect: Open) -> None:
    """Protects every other process: what holds them off was kept until the connection ended."""
    url = server.url()
    await make_small_queue(server, url)
    broker, other = await connect(url), await connect(url)
    await broker.publish([outgoing(b"%d" % number) for number in range(5)])
    await broker.bury([(one, b"{}") for one in await received(broker, 5)])
    with pytest.raises(PublishError, match="full"):
        await publish_one_by_one(broker, 1000)
    places = [one.place for one in await broker.dead(10, "")]
    with pytest.raises(PublishError, match="full"):
        await broker.requeue(places)
    assert [one.place for one in await other.dead(10, "")] == places


async def test_what_is_delayed_can_be_counted_after_its_list_was_deleted(server: Rabbit, connect: Open) -> None:
    """Protects every other process: the server closes the channel then, and what holds them off must end with it."""
    url = server.url()
    broker = await connect(url)
    queue = f"{url.rsplit('/', 1)[1]}.later"
    client = await aiormq.connect(f"amqp://127.0.0.1:{server.port}/")
    try:
        await (await client.channel()).queue_delete(queue)
    finally:
        await client.close()
    with pytest.raises(Disconnected, match="NOT_FOUND"):
        await broker.publish([outgoing(delay=60.0)])
    other = await connect(url)
    await other.publish([outgoing(delay=60.0)])
    assert (await other.depth()).delayed == 1


async def test_every_process_knows_what_is_delayed(server: Rabbit, connect: Open) -> None:
    """It counts, and purges, what another put into a queue of its own; equal delays share one."""
    url = server.url()
    first, second, third = [await connect(url) for _ in range(3)]
    await first.publish([outgoing(b"now"), outgoing(delay=60.0), outgoing(delay=60.0)])
    await second.publish([outgoing(delay=61.23), outgoing(delay=60.0)])
    assert (await third.depth())[:3] == (1, 0, 4)
    assert await third.purge(dead=False) == 5
    assert [(await one.depth())[:3] for one in (first, second, third)] == [(0, 0, 0)] * 3
    await second.publish([outgoing(delay=2.0)])
    assert (await third.depth()).delayed == 1
    assert len(await received(third, 1)) == 1


async def test_a_queue_of_delays_that_somebody_deleted_is_made_again(server: Rabbit, connect: Open) -> None:
    """A put with that delay notices it, and whoever counts."""
    url = server.url()
    broker = await connect(url)
    await broker.publish([outgoing(delay=60.0)])
    client = await aiormq.connect(f"amqp://127.0.0.1:{server.port}/")
    try:
        await (await client.channel()).queue_delete(f"{url.rsplit('/', 1)[1]}.later.60000")
    finally:
        await client.close()
    with pytest.raises(Disconnected, match="no queue"):
        await broker.publish([outgoing(delay=60.0)])
    await broker.close()
    await broker.open()
    assert (await broker.depth()).delayed == 0
    await broker.publish([outgoing(delay=60.0)])
    assert (await broker.depth()).delayed == 1


async def test_what_a_peek_cannot_do(server: Rabbit, connect: Open) -> None:
    """It would cost each message an attempt."""
    broker = await connect(server.url())
    with pytest.raises(StateError, match="counting"):
        await broker.peek(1)
