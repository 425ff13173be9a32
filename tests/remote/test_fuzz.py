"""Whoever may write to a server writes what he likes: a worker on a real engine lives, and takes no more memory."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
from remote.hostile import TYPES, made_at_random
from remote.kills import SAFE_LEASE, Program, crew_at
from remote.programs import Job
from remote.servers import PLACES, Place, client_of

from asyncpc.remote import OpenQueue
from asyncpc.remote.queue import remote_queue

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(300)]

ROUNDS: Final = 6

EARLY: Final = 2
"""The rounds after which all that is kept once is there."""

MORE: Final = 8 * 2**20
"""Bytes that a process may have more by chance: the pieces of memory that its allocator keeps."""

GIVEN_BACK: Final = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Lets the allocator of the GNU C library keep none of the pieces in which a client reads a large message."""

LARGE: Final = 40_000_000
"""Bytes of a body that is much more than is allowed; with 100 MB, an answer on a busy machine takes some seconds."""

PATIENCE: Final = 60.0


class Raw(NamedTuple):
    """A message as somebody writes it who does not use this package."""

    id: str
    body: bytes
    headers: str
    time: float


def hostile(turn: int) -> Iterator[Raw]:
    """Bodies at random, with every kind of headers; a very large one; and very large headers."""
    draw = random.Random(turn)
    headers = [
        *(json.dumps({"content-type": one}) for one in TYPES),
        *("", "[", "[1]", "null", '{"content-type": 1}', '{"x-a": {"b": 1}}', "[" * 5000, '{"é\\ud800": "\\u0000"}'),
        json.dumps({"traceparent": "x" * 5000, "reply-to": "\x1b[2J", "": ""}),
    ]
    for number in range(300):
        told = math.nan if number % 50 == 0 else 1e300 if number % 50 == 1 else draw.uniform(0, 2e9)
        yield Raw(f"h-{turn}-{number}", made_at_random(300 * turn + number), headers[number % len(headers)], told)
    yield Raw(f"h-{turn}-large", b'{"id": "' + b"x" * LARGE + b'"}', "", 0.0)
    for number in range(5):
        told_by = {f"x-{turn}-{number}-{place}": "x" * 1000 for place in range(2000)}
        yield Raw(f"h-{turn}-wide-{number}", b"{}", json.dumps(told_by), 0.0)


Put = Callable[[Raw], Awaitable[None]]


@asynccontextmanager
async def redis(url: str) -> AsyncIterator[Put]:
    """Writes to the stream of a queue; waits for each answer, or the client would write again what took long."""
    parts = urlsplit(url)
    client = import_module("redis.asyncio").Redis(host=parts.hostname, port=parts.port, socket_timeout=None)

    async def put(one: Raw) -> None:
        meta = f"{one.time}\n{one.headers}\n{one.id}".encode()
        await client.xadd(parts.path.strip("/"), {"meta": meta, "body": one.body})

    try:
        yield put
    finally:
        await client.aclose()


INSERT: Final = """
INSERT INTO asyncpc.message (seq, due, queue, id, body, headers, time)
VALUES (1000 * nextval('asyncpc.statement_number'), now(), $1, $2, $3, $4, $5)
"""


@asynccontextmanager
async def postgresql(url: str) -> AsyncIterator[Put]:
    """Writes to the table of a queue."""
    parts = urlsplit(url)
    (queue,) = parse_qs(parts.query)["queue"]
    client = await import_module("asyncpg").connect(
        f"postgresql://postgres:x@{parts.netloc.rpartition('@')[2]}/postgres", ssl=False
    )

    async def put(one: Raw) -> None:
        await client.execute(INSERT, queue, one.id, one.body, one.headers, one.time)

    try:
        yield put
    finally:
        await client.close()


CLIENTS: Final = {"redis": redis, "postgresql": postgresql}


@pytest.fixture(params=CLIENTS)
def engine(request: pytest.FixtureRequest) -> str:
    """Each in turn."""
    client_of(request.param)
    name: str = request.param
    return name


@pytest.fixture
def place(engine: str, tmp_path: Path) -> Iterator[Place]:
    """Its server."""
    (tmp_path / "server").mkdir()
    place = PLACES[engine].place(tmp_path / "server")
    place.start()
    yield place
    place.stop()


def memory_of(program: Program) -> int:
    """Bytes that a process has in memory."""
    return int(Path(f"/proc/{program.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def one_round(turn: int, opened: OpenQueue[Job], put: Put, is_done: Callable[[str], bool]) -> None:
    """All that is hostile, and a good one behind it: the good one is handled, and all else is a dead letter."""
    given = set()
    for one in hostile(turn):
        await put(one)
        given.add(one.id)
    await opened.put(Job(f"good-{turn}"))
    async with asyncio.timeout(PATIENCE):
        while not is_done(f"good-{turn}") or (await opened.depth())[:3] != (0, 0, 0):  # noqa: ASYNC110  # only it knows
            await asyncio.sleep(0.05)
    letters = await opened.broker.dead(len(given) + 1, "")
    assert {one.message.id for one in letters} == given
    assert len(letters) == len(given)
    assert await opened.broker.purge(True) == len(given)


def test_a_worker_outlives_what_anybody_writes(
    engine: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects a service from whoever may write to its server: what it holds in memory does not grow (F3 to F10)."""
    for name, value in GIVEN_BACK.items():
        monkeypatch.setenv(name, value)
    used: list[int] = []
    with crew_at(place, tmp_path, SAFE_LEASE, prefetch=16) as crew:
        queue = remote_queue(crew.url, Job)
        (worker,) = crew.start("working")

        def is_done(message: str) -> bool:
            assert worker.lives(), crew.told("the worker has ended")
            crew.judge.read()
            return message in crew.judge.handled

        async def main() -> None:
            async with queue.open() as opened, CLIENTS[engine](crew.url) as put:
                for turn in range(ROUNDS):
                    await one_round(turn, opened, put, is_done)
                    await opened.put(Job(f"small-{turn}"))  # or a client may still hold the large one, its last reply
                    async with asyncio.timeout(PATIENCE):
                        while not is_done(f"small-{turn}"):  # noqa: ASYNC110  # only it knows
                            await asyncio.sleep(0.05)
                    used.append(memory_of(worker))

        asyncio.run(main())
    print(engine, [one // 2**10 for one in used])
    assert max(used[EARLY:]) <= max(used[:EARLY]) + MORE, used
