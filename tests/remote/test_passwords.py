"""The password of a queue's URL comes out nowhere, whatever fails, on an engine that tells all and on real servers."""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from remote.proxy import Proxy
from remote.servers import Nats, Place, PostgreSQL, Rabbit, Redis, client_of, free_port

from asyncpc import Pipeline, PipelineError, RemoteQueue, consumer, remote_queue, source, testing
from asyncpc.metrics import Metrics
from asyncpc.remote import OpenQueue
from asyncpc.remote.broker import Disconnected, Message, Outgoing, Settings
from asyncpc.remote.codec import codec_for
from asyncpc.remote.engines.memory.broker import MemoryBroker
from asyncpc.remote.session import Terms

CANARY: Final = "canary-8d1f"

STAY: Final = 50.0
"""Seconds after which a run is ended that nothing else ends; on a busy machine a first connection is given up later."""

FIRST: Final = 3.0
"""Seconds in which a first connection has to come about here, in all processes: enough for several attempts."""

AGAIN: Final = FIRST + 7.0
"""Seconds after which a run is ended whose connection never comes about, if it has not ended by itself."""

_names = count()


# -- the listener ---------------------------------------------------------------------------------


class Ears:
    """Hears all that a program tells: every log, both streams, and all that can be read of an error or a run."""

    def __init__(self, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
        caplog.set_level(logging.DEBUG)  # of all loggers: the libraries of the engines have some of their own
        self._log = caplog
        self._streams = capfd
        self.texts: list[str] = []

    def hear(self, *told: object) -> None:
        """Whatever is shown of these."""
        for one in told:
            self.texts += [str(one), repr(one), str(getattr(one, "_repr_html_", str)())]

    def hear_error(self, error: BaseException) -> None:
        """An error with its notes, and all those that have led to it, also those that a traceback does not show."""
        rest, seen = [error], set[int]()
        while rest:
            one = rest.pop()
            if id(one) in seen:
                continue
            seen.add(id(one))
            self.texts += traceback.format_exception(one)
            self.hear(one, one.args, getattr(one, "__notes__", ()))
            if isinstance(one, PipelineError):
                self.hear(one.report, one.report.failures, one.report.unfinished)
            parts = one.exceptions if isinstance(one, BaseExceptionGroup) else ()
            rest += [other for other in (one.__cause__, one.__context__, *parts) if other is not None]

    async def at(self, work: Awaitable[object]) -> None:
        """What comes of it, or what it raises."""
        try:
            self.hear(await work)
        except Exception as error:
            self.hear_error(error)

    def check(self) -> str:
        """All of it, in which there is no password."""
        for record in self._log.records:
            self.texts += [record.getMessage(), repr(record.args), logging.Formatter().format(record)]
            assert record.levelno < logging.ERROR or record.name == "asyncpc", (
                record.getMessage()
            )  # libraries are still
        whole = "\n".join([*self.texts, self._log.text, *self._streams.readouterr()])
        assert CANARY not in whole, whole[max(0, whole.index(CANARY) - 2000) : whole.index(CANARY) + 200]
        return whole


@pytest.fixture
def ears(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Ears:
    """For one test."""
    return Ears(caplog, capfd)


# -- what a program does with a queue -------------------------------------------------------------


def handler(url: str, began: asyncio.Event, seconds: float) -> Any:
    """Fails on 1, and tells what it knows in every way there is; is busy with others."""

    @consumer(concurrency=3)
    async def handle(number: int) -> None:
        if number == 1:
            try:
                raise OSError(f"no route to {url}")
            except OSError as error:
                told = ValueError(f"for {url}")
                told.add_note(f"see {url}")
                raise told from error
        began.set()
        await asyncio.sleep(seconds)

    return handle


@asynccontextmanager
async def consuming(queue: RemoteQueue[int], handle: Any, ears: Ears, timeout: float) -> AsyncIterator[None]:
    """A run beside the block, which ends with a drain; whatever can be asked of it is asked."""
    pipeline: Pipeline[Any, Any] = queue >> handle
    registry = CollectorRegistry()
    Metrics(registry).watch(pipeline)
    try:
        async with pipeline as running:
            yield
            ears.hear(queue, pipeline, running, running.statistics(), running.health(), generate_latest(registry))
            ears.hear(await running.drain(timeout))
    finally:
        ears.hear(generate_latest(registry))


async def consume(queue: RemoteQueue[int], handle: Any, ears: Ears, stay: float, timeout: float = 1.0) -> None:
    """Handle what comes for some seconds."""
    async with consuming(queue, handle, ears, timeout):
        await asyncio.sleep(stay)


async def put(queue: RemoteQueue[int], ears: Ears) -> None:
    """One, in a block of its own."""
    async with queue.open() as opened:
        ears.hear(opened)
        await opened.put(1, timeout=3)


async def publish(queue: RemoteQueue[int]) -> None:
    """One, from a pipeline."""
    async with asyncio.timeout(STAY):
        await (source([1]) >> queue)


async def look(queue: RemoteQueue[int]) -> object:
    """At its depth."""
    async with asyncio.timeout(STAY):
        return await queue.depth()


# -- an engine that tells its URL in every error --------------------------------------------------

TOLD: Final = f"memory://user:{CANARY}@host/jobs"


class Telling(MemoryBroker):
    """Fails in the call of that name, and tells its URL."""

    fails = ""
    error: type[Exception] = RuntimeError

    def _reveal(self, name: str) -> None:
        if name == self.fails:
            raise self.error(f"cannot reach {TOLD}") from OSError(f"no route to {TOLD}")

    async def open(self) -> None:
        self._reveal("open")
        await super().open()

    async def receive(self, limit: int, wait: float, suspects: int) -> list[Message]:
        self._reveal("receive")
        return await super().receive(limit, wait, suspects)

    async def ack(self, messages: Sequence[Message]) -> int:
        self._reveal("ack")
        return await super().ack(messages)

    async def release(self, messages: Sequence[Message], delay: float, counted: bool) -> None:
        self._reveal("release")
        await super().release(messages, delay, counted)

    async def bury(self, dead: Sequence[tuple[Message, bytes]]) -> None:
        self._reveal("bury")
        await super().bury(dead)

    async def extend(self, messages: Sequence[Message]) -> list[Message]:
        self._reveal("extend")
        return await super().extend(messages)

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        self._reveal("publish")
        await super().publish(messages)

    async def depth(self) -> Any:
        self._reveal("depth")
        return await super().depth()

    async def close(self) -> None:
        self._reveal("close")
        await super().close()

    def wake(self) -> None:
        self._reveal("wake")
        super().wake()


CALLS: Final = "open", "receive", "ack", "release", "bury", "extend", "publish", "depth", "close", "wake"


@pytest.mark.parametrize("error", [RuntimeError, Disconnected, OSError])
@pytest.mark.parametrize("fails", CALLS)
def test_no_password_comes_out(fails: str, error: type[Exception], ears: Ears) -> None:
    """Protects logs and whoever posts a traceback, whatever an engine says (fault F7)."""
    engine: Any = type("Failing", (Telling,), {"fails": fails, "error": error})
    url, settings = f"memory://passwords-{next(_names)}", Settings(3.0, "dead", {})
    codec, terms = codec_for("jobs", int, "json", 999), Terms(None, 3.0, 5)
    queue = RemoteQueue[int]("jobs", lambda: engine(url, settings), codec, terms, url)

    async def main() -> None:
        good = MemoryBroker(url, settings)
        await good.open()
        await good.publish([Outgoing(str(n), b"%d" % n) for n in (0, 1, 2)])
        await ears.at(consume(queue, handler(TOLD, asyncio.Event(), 3), ears, 5))
        for work in put(queue, ears), publish(queue), look(queue):
            await ears.at(work)
        ears.hear(*[one.failure.decode() for one in await good.dead(10, "")])
        await good.close()

    with suppress(TimeoutError):
        testing.run(main())
    assert "***" in ears.check() or fails == "wake"  # where nothing is told in vain, its URL was told without


# -- real servers ---------------------------------------------------------------------------------

LONGEST: Final = 1_000_000
"""Bytes that most of the servers take as one message."""


def _postgresql(folder: Path) -> PostgreSQL:
    place = PostgreSQL(folder)
    place.start()
    client = import_module("asyncpg")

    async def let_in() -> None:
        database = await client.connect(f"postgresql://postgres:x@127.0.0.1:{place.port}/postgres", ssl=False)
        await database.execute(f"CREATE ROLE guarded SUPERUSER LOGIN PASSWORD '{CANARY}'")
        await database.close()

    asyncio.run(let_in())
    return place


def _redis(folder: Path) -> Redis:
    place = Redis(folder, "--requirepass", CANARY, "--proto-max-bulk-len", "1mb")
    place.start()
    return place


def _nats(folder: Path) -> Nats:
    place = Nats(folder, "--user", "user", "--pass", CANARY)
    place.start()
    return place


def _rabbitmq(folder: Path) -> Rabbit:
    place = Rabbit(folder, "user", CANARY, f"max_message_size = {LONGEST}")
    place.start()
    return place


class Guard(NamedTuple):
    """An engine whose server asks for a password."""

    start: Callable[[Path], Place]
    user: str
    refusal: str
    """What somebody reads whose password is wrong."""


GUARDS: Final[Mapping[str, Guard]] = {
    "redis": Guard(_redis, "default", "invalid username-password"),
    "postgresql": Guard(_postgresql, "guarded", "password authentication failed"),
    "nats": Guard(_nats, "user", "Authorization Violation"),
    "rabbitmq": Guard(_rabbitmq, "user", "ACCESS_REFUSED"),
}


class Site:
    """A server that asks for a password, and a user's directory with a program in it."""

    def __init__(self, guard: Guard, place: Place, folder: Path) -> None:
        self.guard = guard
        self.place = place
        self.folder = folder

    def url(self, password: str = CANARY, **where: Any) -> str:
        """Of an empty queue."""
        scheme, _, rest = self.place.url(**where).partition("://")
        return f"{scheme}://{self.guard.user}:{password}@{rest.rpartition('@')[2]}"

    async def command(self, ears: Ears, *words: str, url: str = "", seconds: float = STAY) -> int:
        """Run ``python -m asyncpc`` there, for some seconds at most; its program finds the URL in its environment."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-X", "dev", "-m", "asyncpc", *words),
            cwd=self.folder,
            env={"URL": url, "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "", "PYTHONPATH": str(self.folder)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        enough = asyncio.get_running_loop().call_later(seconds, process.terminate)
        streams = await process.communicate()
        enough.cancel()
        ears.texts += [one.decode() for one in streams]
        assert process.returncode is not None
        return process.returncode

    async def commands(self, ears: Ears, url: str) -> list[int]:
        """All that look at a queue, one after the other."""
        asked = "stats", "peek", "dead", "dead --json", "requeue --all", "purge --yes", "purge --dead --yes"
        return [await self.command(ears, "queue", *words.split(), url, "--traceback") for words in asked]


PROGRAM: Final = """
import os
from asyncpc import consumer, remote_queue

@consumer
async def handle(number: int) -> None:
    print(number)

def work():
    return remote_queue(os.environ["URL"], int) >> handle

def fails():
    raise ValueError("no settings for " + os.environ["URL"]) from OSError(os.environ["URL"])

def refuses():
    return remote_queue(os.environ["URL"], int, colour=os.environ["URL"]) >> handle
"""


@pytest.fixture(scope="module", params=GUARDS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One of each engine in turn."""
    client_of(request.param)
    guard, folder = GUARDS[request.param], tmp_path_factory.mktemp(request.param)
    place = guard.start(tmp_path_factory.mktemp(request.param))
    (folder / "app.py").write_text(PROGRAM)
    (folder / "sitecustomize.py").write_text(f"import asyncpc.remote.connection as one\none.PATIENCE = {FIRST}\n")
    yield Site(guard, place, folder)
    place.stop()


Way = Callable[[Site, Ears], Coroutine[Any, Any, None]]
"""A way to fail; raises what was expected and did not come."""


async def _in_vain(site: Site, ears: Ears, url: str) -> None:
    """Everything that a program may do with a URL that leads nowhere; each gives up after ``FIRST`` seconds."""
    queue = await asyncio.to_thread(remote_queue, url, int)  # it may read files
    run = ["run", "--traceback", "--log-level", "debug"]
    statuses = await asyncio.gather(
        site.command(ears, "queue", "stats", url, "--traceback"),
        site.command(ears, *run, "app:work", "--processes", "2", url=url, seconds=AGAIN),
        site.command(ears, *run, "app:work", url=url),
        ears.at(consume(queue, handler(url, asyncio.Event(), 1), ears, AGAIN)),
        ears.at(put(queue, ears)),
        ears.at(publish(queue)),
        ears.at(look(queue)),
    )
    assert statuses[0] == 2
    assert 0 not in statuses[1:3]


async def nobody_there(site: Site, ears: Ears) -> None:
    """Nobody listens at that port."""
    await _in_vain(site, ears, site.url(port=free_port()))


async def refused(site: Site, ears: Ears) -> None:
    """The password is wrong, which is told."""
    await _in_vain(site, ears, site.url(f"{CANARY}-wrong"))
    assert site.guard.refusal in "\n".join(ears.texts)


async def wrong_program(site: Site, ears: Ears) -> None:
    """The program itself fails before it has a pipeline, in one process and in several."""
    url = site.url()
    for target in "app:fails", "app:refuses":
        for more in [], ["--processes", "2"]:
            assert await site.command(ears, "run", target, "--traceback", *more, url=url) != 0


async def dead_letters(site: Site, ears: Ears) -> None:
    """One was handled in vain and one cannot be read; then they are looked at in every way."""
    url = site.url()
    queue = await asyncio.to_thread(remote_queue, url, int)
    async with queue.open() as opened:
        await opened.put(1)
        await opened.broker.publish([Outgoing("odd", b'"')])
        async with consuming(queue, handler(url, asyncio.Event(), 0), ears, 5):
            async with asyncio.timeout(STAY):
                while (await opened.depth()).dead < 2:  # noqa: ASYNC110  # only the server knows
                    await asyncio.sleep(0.05)
        letters = await opened.dead(10)
        ears.texts += [text for one in letters for text in (one.reason, one.stage, one.traceback)]
        ears.texts += [one.failure.decode() for one in await opened.broker.dead(10, "")]
        assert len(letters) == 2
    assert (await site.commands(ears, url))[:1] == [0]


async def refused_put(site: Site, ears: Ears) -> None:
    """The queue, the engine and its client refuse what is put: too large, or with an id that it cannot hold."""
    url = site.url()
    small, large = [await asyncio.to_thread(_texts, url, size) for size in (1000, 10 * LONGEST)]
    before = len(ears.texts)
    for queue, text, name in (small, "x" * 2000, None), (large, "x" * 2 * LONGEST, None), (large, "x", "a\0b"):
        async with queue.open() as opened:
            await ears.at(opened.put(text, id=name, timeout=5))
    await ears.at(_publish_text(large, "x" * 2 * LONGEST))
    assert "Error" in "\n".join(ears.texts[before:])


def _texts(url: str, size: int) -> RemoteQueue[str]:
    return remote_queue(url, str, max_bytes=size)


async def _publish_text(queue: RemoteQueue[str], text: str) -> None:
    async with asyncio.timeout(3):
        await (source([text]) >> queue)


async def stalled(site: Site, ears: Ears) -> None:
    """The server does not answer any more in the middle of everything, and then the connection is cut."""
    async with Proxy(site.place.port) as proxy:
        url = site.url(host=proxy.host, port=proxy.port)
        await _interrupted(url, ears, proxy.cut_off, proxy.cut)


async def killed(site: Site, ears: Ears) -> None:
    """The server is killed in the middle of everything."""
    try:
        await _interrupted(site.url(), ears, site.place.kill, lambda: None)
    finally:
        await asyncio.to_thread(site.place.start)


async def _interrupted(url: str, ears: Ears, first: Callable[[], None], then: Callable[[], None]) -> None:
    """Two things happen while a handler works, an ack and a put are under way, and somebody looks."""
    queue = await asyncio.to_thread(remote_queue, url, int, lease=2.0)
    began = asyncio.Event()

    async def work(opened: OpenQueue[int]) -> None:
        async with consuming(queue, handler(url, began, 2), ears, 2):
            await began.wait()
            puts = [asyncio.create_task(ears.at(opened.put(n, timeout=3))) for n in range(5)]
            await asyncio.to_thread(first)
            puts += [asyncio.create_task(ears.at(opened.put(n, timeout=3))) for n in range(5)]
            puts += [asyncio.create_task(ears.at(opened.depth()))]
            await asyncio.wait(puts, timeout=4)
            then()
            for one in puts:
                one.cancel()
            await asyncio.wait(puts)

    async def whole() -> None:
        async with queue.open() as opened:
            await opened.put_many([0, 1, 2, 3])
            await work(opened)

    await ears.at(whole())


WAYS: Final = nobody_there, refused, wrong_program, dead_letters, refused_put, stalled, killed


@pytest.mark.thorough
@pytest.mark.timeout(180)
@pytest.mark.parametrize("way", WAYS, ids=[one.__name__ for one in WAYS])
def test_no_password_comes_out_of_a_real_engine(
    way: Way, site: Site, ears: Ears, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects it on every way on which something fails: from errors, logs of all libraries, and commands (F7)."""
    monkeypatch.setattr("asyncpc.remote.connection.PATIENCE", FIRST)  # as sitecustomize.py does in the commands
    asyncio.run(way(site, ears), debug=True)
    ears.check()
