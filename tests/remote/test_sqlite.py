"""The engine in a SQLite file keeps the contract of all engines, and the promises of its own."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from support import BUSY

from asyncpc import DefinitionError, remote_queue
from asyncpc.offload.calls import Job
from asyncpc.remote.broker import SUSPECT_AFTER, Disconnected, Message, Outgoing, PublishError, Settings
from asyncpc.remote.codec import new_ids
from asyncpc.remote.contract import BrokerContract, outgoing, received
from asyncpc.remote.engines.sqlite import broker as sqlite_broker
from asyncpc.remote.engines.sqlite import file as sqlite_file
from asyncpc.remote.engines.sqlite import ids as sqlite_ids
from asyncpc.remote.engines.sqlite import queue as sqlite_queue
from asyncpc.remote.engines.sqlite import tables as sqlite_tables
from asyncpc.remote.engines.sqlite.broker import SqliteBroker
from asyncpc.remote.engines.sqlite.queue import QueueFile
from asyncpc.remote.engines.sqlite.receipts import Run, Taken, runs_of
from asyncpc.remote.engines.sqlite.turns import Line

LEASE = 1.0
"""That of the programs in ``sqlite_workers``."""

TESTS = Path(__file__).parent.parent


@pytest.mark.processes  # it waits for leases
class TestSqlite(BrokerContract):
    """The contract."""

    engine = SqliteBroker
    misses_queues = True
    lease = 0.5
    client = {"synchronous": "NORMAL"}  # noqa: RUF012  # a class variable of the contract

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        """A file of its own for each test."""
        return url_of(tmp_path / "queues.db")

    @pytest.fixture
    def refused(self) -> Outgoing:
        """An id that is no text."""
        return Outgoing("\ud800", b"")


def url_of(path: Path, queue: str = "jobs") -> str:
    return f"sqlite:///{path}?queue={queue}"


@asynccontextmanager
async def opened(url: str, lease: float = 30.0, **client: Any) -> AsyncIterator[SqliteBroker]:
    broker = SqliteBroker(url, Settings(lease, "dead", client))
    await broker.open()
    try:
        yield broker
    finally:
        await broker.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """The turn to write is taken, as by a process that was stopped."""
    with Path(f"{path}-lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def unprivileged() -> Iterator[Path]:
    """A directory of a user who, unlike root, is refused what permissions forbid; meanwhile the process is his."""
    with tempfile.TemporaryDirectory() as name:
        user = os.geteuid()
        if user == 0:
            os.chown(name, 65534, 65534)
            os.seteuid(65534)
        try:
            yield Path(name)
        finally:
            os.seteuid(user)


# -- addresses and options ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://jobs.db?queue=jobs",
        "sqlite://user:canary@host/jobs.db?queue=jobs",
        "sqlite:///jobs.db",
        "sqlite:///jobs.db?queue=",
        "sqlite:///?queue=jobs",
        "sqlite:///:memory:?queue=jobs",
        "sqlite:///jobs.db?queue=jobs&mode=ro",
        "sqlite:///jobs.db?queue=jobs#1",
    ],
)
def test_a_wrong_url_says_what_was_expected(url: str) -> None:
    """Nobody has to guess how many slashes there are; a password that was put there is not shown (fault F7)."""
    with pytest.raises(DefinitionError, match="expected sqlite:///relative/file") as caught:
        SqliteBroker(url, Settings(30.0, "dead", {}))
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("client", [{"synchronous": "OFF"}, {"timeout": 3}])
def test_a_wrong_option_is_refused(client: dict[str, Any]) -> None:
    """An option that has no effect would be a promise that is not kept."""
    with pytest.raises(DefinitionError, match="synchronous"):
        SqliteBroker("sqlite:///jobs.db?queue=jobs", Settings(30.0, "dead", client))


async def test_a_relative_path_and_one_with_odd_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes begin at the working directory at opening, and keep to it; ``%`` escapes what a URL cannot hold."""
    monkeypatch.chdir(tmp_path)
    async with opened("sqlite:///a%3Fb%20%C3%A9.db?queue=jobs") as broker:
        await broker.publish([outgoing(b"here")])
        monkeypatch.chdir("/")
        await broker.close()
        await broker.open()
        assert [one.body for one in await received(broker, 1)] == [b"here"]
    assert (tmp_path / "a?b é.db").exists()


@pytest.mark.parametrize(("synchronous", "level"), [("FULL", 2), ("NORMAL", 1)])
def test_how_safe_a_confirmed_message_is(tmp_path: Path, synchronous: str, level: int) -> None:
    """Protects what was confirmed: FULL, the default, waits for the disk at each commit, but not for one of leases."""
    file = QueueFile(str(tmp_path / "queues.db"), "jobs", Settings(30.0, "dead", {}), synchronous)

    def level_after(*calls: tuple[Any, ...]) -> int:
        """That of one commit of all of these."""
        jobs = [job(function, file, *args) for function, *args in calls]
        file.make(jobs)
        assert [one.error for one in jobs] == [None] * len(calls)
        (found,) = file.reading().execute("PRAGMA synchronous").fetchone()
        return int(found)

    level_after((QueueFile.open,))
    assert file.reading().execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert level_after((QueueFile.put, [outgoing(), outgoing(), outgoing()])) == level
    taken = made(file, QueueFile.take, file, 2, 1)
    assert level_after((QueueFile.extend, taken), (QueueFile.release, taken[1:], 0.0, False)) == 1
    assert level_after((QueueFile.take, 1, 1), (QueueFile.ack, taken[:1])) == level
    assert level_after((QueueFile.extend, taken)) == 1
    assert level_after((QueueFile.bury, [])) == level
    file.close()


# -- files that cannot be used --------------------------------------------------------------------


async def refused(path: Path) -> str:
    """What the user is told of a file that cannot be used; there is no point in trying again."""
    with pytest.raises(DefinitionError) as caught:
        async with opened(url_of(path)):
            pass
    assert path.name in str(caught.value)
    return str(caught.value)


async def test_a_directory_that_is_missing(tmp_path: Path) -> None:
    """It is not made: its name may be wrong."""
    assert "directory does not exist" in await refused(tmp_path / "missing" / "queues.db")


async def test_a_directory_in_place_of_the_file(tmp_path: Path) -> None:
    """It is no file."""
    assert "unable to open" in await refused(tmp_path)


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """It is left as it was."""
    path = tmp_path / "notes.txt"
    text = "not a database, but long enough to be looked at as if it were one" * 100
    await asyncio.to_thread(path.write_text, text)
    assert "not a database" in await refused(path)
    assert await asyncio.to_thread(path.read_text) == text


async def test_the_database_of_another_program(tmp_path: Path) -> None:
    """Its tables may have the same names."""
    connection = sqlite3.connect(tmp_path / "app.db")
    connection.execute("CREATE TABLE message(text TEXT)")
    connection.close()
    assert "another program" in await refused(tmp_path / "app.db")


async def test_a_file_of_a_newer_version(tmp_path: Path) -> None:
    """An old program does not write what it does not know."""
    async with opened(url_of(tmp_path / "queues.db")):
        pass
    connection = sqlite3.connect(tmp_path / "queues.db")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    assert "newer version" in await refused(tmp_path / "queues.db")


async def test_a_file_that_may_not_be_written() -> None:
    """It says so at the beginning, not at the first message."""
    with unprivileged() as folder:
        async with opened(url_of(folder / "queues.db")):
            pass
        (folder / "queues.db").chmod(0o444)
        assert "readonly" in await refused(folder / "queues.db")
        (folder / "queues.db").chmod(0o000)
        assert "unable to open" in await refused(folder / "queues.db")


async def test_a_directory_that_may_not_be_written() -> None:
    """SQLite needs two more files beside the database, and the queue of writers one."""
    with unprivileged() as folder:
        folder.chmod(0o555)
        assert "may not be written" in await refused(folder / "queues.db")
        folder.chmod(0o755)


# -- a file that fails later ----------------------------------------------------------------------


def test_a_full_disk_undoes_the_call_and_says_so(tmp_path: Path) -> None:
    """What was confirmed before is there, the call that failed has left nothing; with room again, all goes on."""
    file = QueueFile(str(tmp_path / "queues.db"), "jobs", Settings(30.0, "dead", {}), "NORMAL")
    made(file, file.open)
    made(file, file.put, [outgoing(b"kept")])
    file.reading().execute("PRAGMA max_page_count=20")
    with pytest.raises(Disconnected, match=r"queues\.db.*disk is full"):
        made(file, file.put, [outgoing(b"x" * 50_000) for _ in range(10)])
    assert [one.body for one in made(file, file.peek, 10)] == [b"kept"]
    file.reading().execute("PRAGMA max_page_count=1000")
    made(file, file.put, [outgoing(b"more")])
    assert [one.body for one in made(file, file.take, 10, 1)] == [b"kept", b"more"]
    file.close()


def made(file: QueueFile, function: Any, *args: Any) -> Any:
    """What the thread of a broker does with one call."""
    only = job(function, *args)
    file.make([only])
    if only.error is not None:
        raise only.error
    return only.value


def job(function: Any, *args: Any) -> Job:
    """A call that nobody awaits."""
    loop = asyncio.new_event_loop()
    try:
        return Job(loop.create_future(), copy_context(), function, args)
    finally:
        loop.close()


async def test_a_file_that_was_removed_is_noticed(tmp_path: Path) -> None:
    """Messages put into a file without a name would be lost silently, as would those of whoever makes a new one."""
    async with opened(url_of(tmp_path / "queues.db")) as broker:
        await broker.publish([outgoing()])
        for name in os.listdir(tmp_path):
            os.unlink(tmp_path / name)
        with pytest.raises(Disconnected, match="removed or replaced"):
            await broker.publish([outgoing()])
        with pytest.raises(Disconnected, match="removed or replaced"):
            await broker.receive(1, 60.0, 1)
        await broker.close()
        await broker.open()
        await broker.publish([outgoing(b"new")])
        assert [one.body for one in await received(broker, 1)] == [b"new"]


async def test_close_ends_calls_that_wait_for_their_turn(tmp_path: Path) -> None:
    """A process that was stopped in the middle of a write holds up no drain (the harness looks for the thread)."""
    async with opened(url_of(tmp_path / "queues.db")) as broker:
        with locked(tmp_path / "queues.db"):
            calls = [asyncio.create_task(broker.publish([outgoing()])) for _ in range(3)]
            await asyncio.sleep(0.05)
            began = time.monotonic()
            await broker.close()
            assert time.monotonic() - began < min(BUSY, sqlite_file.PATIENCE / 2)
            errors = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in errors} == {Disconnected}
        with pytest.raises(Disconnected):
            await broker.depth()
        await broker.open()
        assert (await broker.depth()).ready == 0


async def test_close_ends_a_receive_that_waits(tmp_path: Path) -> None:
    """A session that has lost its file connects again, whatever its receiver does."""
    async with opened(url_of(tmp_path / "queues.db")) as broker:
        waiting = asyncio.create_task(broker.receive(1, 60.0, 1))
        await asyncio.sleep(0.05)
        await broker.close()
        with pytest.raises(Disconnected, match="closed"):
            await waiting


@pytest.mark.thorough
async def test_a_writer_that_hangs_is_noticed_within_15_seconds(tmp_path: Path) -> None:
    """Every call raises; afterwards everything is as before."""
    async with opened(url_of(tmp_path / "queues.db")) as broker:
        began = time.monotonic()
        with locked(tmp_path / "queues.db"):
            calls = [broker.publish([outgoing()]), broker.ack([]), broker.publish([outgoing()])]
            errors = await asyncio.gather(*calls, return_exceptions=True)
            assert time.monotonic() - began < 15.0
        assert "locked by another process" in str(errors[0])
        await broker.close()
        await broker.open()
        await broker.publish([outgoing()])
        assert len(await received(broker, 1)) == 1


async def test_a_writer_that_does_not_know_the_lock_file_is_waited_for(tmp_path: Path) -> None:
    """Somebody may look at the file with another program."""
    async with opened(url_of(tmp_path / "queues.db")) as broker:
        other = sqlite3.connect(tmp_path / "queues.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(broker.publish([outgoing()]))
        await asyncio.sleep(2 * sqlite_file.BUSY)
        assert not waiting.done()
        other.execute("ROLLBACK")
        other.close()
        await waiting


# -- messages -------------------------------------------------------------------------------------


async def test_queues_in_one_file_are_apart(tmp_path: Path) -> None:
    """Their messages, their dead letters and their ids."""
    path = tmp_path / "queues.db"
    async with opened(url_of(path)) as jobs, opened(url_of(path, "mails")) as mails:
        await jobs.publish([Outgoing("1", b"job")])
        await mails.publish([Outgoing("1", b"mail")])
        (mail,) = await received(mails, 1)
        await mails.bury([(mail, b"{}")])
        assert [one.message.body for one in await mails.dead(10, "")] == [b"mail"]
        assert await jobs.dead(10, "") == []
        assert (await jobs.depth())[:4] == (1, 0, 0, 0)
        assert (await mails.depth())[:4] == (0, 0, 0, 1)
        assert [one.body for one in await received(jobs, 1)] == [b"job"]


async def test_brokers_of_one_process_notice_each_other_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipeline that puts into its own queue does not wait for the next look."""
    monkeypatch.setattr(sqlite_broker, "FIRST_PAUSE", 60.0)
    url = url_of(tmp_path / "queues.db")
    async with opened(url) as one, opened(url) as other:
        for broker in (one, other):
            waiting = asyncio.create_task(other.receive(10, 60.0, 1))
            await asyncio.sleep(0.05)
            await broker.publish([outgoing()])
            async with asyncio.timeout(BUSY):
                assert len(await waiting) == 1


async def test_ids_are_forgotten_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file does not grow with every message there ever was; but an id is known while its message is there."""
    monkeypatch.setattr(sqlite_ids, "REMEMBERED", 0.05)
    async with opened(url_of(tmp_path / "queues.db")) as broker:
        await broker.publish([Outgoing("waits", b"", delay=60.0), *(Outgoing(f"old-{n}", b"") for n in range(50))])
        assert await broker.ack(await received(broker, 50)) == 50
        await asyncio.sleep(0.1)
        for _ in range(40):
            await broker.publish([outgoing()])
        await broker.publish([Outgoing("waits", b""), Outgoing("old-7", b"")])
        assert {one.id for one in await received(broker, 41)} >= {"old-7"}
        assert (await broker.depth())[:3] == (0, 41, 1)
    connection = sqlite3.connect(tmp_path / "queues.db")
    assert connection.execute("SELECT count(*) FROM seen").fetchone()[0] <= 42
    connection.close()


async def test_an_old_id_is_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects messages whose ids come again every night: however many there were, each is taken, also in a batch."""
    now = [1_000_000.0]
    monkeypatch.setattr(sqlite_queue, "time", lambda: now[0])
    ids = [str(number) for number in range(50)]
    async with opened(url_of(tmp_path / "queues.db")) as broker:
        await broker.publish([Outgoing(one, b"") for one in ids])
        assert await broker.ack(await received(broker, 49, limit=49)) == 49
        now[0] += sqlite_ids.REMEMBERED + 1
        await broker.publish([Outgoing("47", b"")])
        await broker.publish([Outgoing("48", b""), Outgoing("49", b""), Outgoing("48", b"")])
        await broker.publish([Outgoing("48", b""), Outgoing("46", b"")])
        assert [one.id for one in await broker.peek(10)] == ["49", "47", "48", "46"]


async def test_an_old_id_is_a_new_one_whoever_has_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects messages whose ids come again in another order, or in another queue: numbers come again, too."""
    now = [1_000_000.0]
    monkeypatch.setattr(sqlite_queue, "time", lambda: now[0])
    path, ids = tmp_path / "queues.db", [str(number) for number in range(10)]
    async with opened(url_of(path)) as broker, opened(url_of(path, "other")) as other:
        await broker.publish([Outgoing(one, b"") for one in ids])
        await broker.publish([Outgoing("twice", b"", delay=1.0)])
        now[0] += 2
        assert await broker.ack(await received(broker, 11)) == 11
        now[0] += sqlite_ids.REMEMBERED + 1
        await other.publish([Outgoing("twice", b"", delay=1.0)])
        made = [str(number) for number in range(100, 120)]
        await broker.publish([Outgoing(one, b"", has_new_id=True) for one in made])
        for one in (*reversed(ids), "twice"):
            await broker.publish([Outgoing(one, b"")])
        assert [one.id for one in await broker.peek(100)] == [*made, *reversed(ids), "twice"]


async def test_ids_are_forgotten_though_the_clock_was_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects the file from growth without end: a clock may be a year ahead for a moment."""
    now = [1_000_000.0]
    monkeypatch.setattr(sqlite_queue, "time", lambda: now[0])
    async with opened(url_of(tmp_path / "queues.db")) as broker:
        now[0] += 365 * 86400
        await broker.publish([Outgoing("ahead", b"")])
        now[0] -= 365 * 86400
        for number in range(20):
            await broker.publish([Outgoing(str(number), b"")])
            await broker.ack(await received(broker, 1))
            now[0] += sqlite_ids.REMEMBERED / 2
    with closing(sqlite3.connect(tmp_path / "queues.db")) as connection:
        assert connection.execute("SELECT count(*) FROM seen").fetchone()[0] <= 4


async def test_a_receipt_names_one_delivery(tmp_path: Path) -> None:
    """It settles no later one (fault E9), not even one with the same count to the same process."""
    async with opened(url_of(tmp_path / "queues.db")) as broker:
        await broker.publish([outgoing()])
        (first,) = await received(broker, 1)
        await broker.release([first], 0.0, counted=False)
        await broker.close()
        await broker.open()
        (second,) = await received(broker, 1)
        assert second.attempt == first.attempt
        assert await broker.ack([first]) == 0
        assert await broker.extend([first, second]) == [first]
        assert await broker.ack([second]) == 1


def test_deliveries_that_follow_one_another_are_settled_together() -> None:
    """Protects deliveries of others: a run has the numbers of one owner, without a gap, in whatever order they come."""
    assert runs_of([]) == []
    assert runs_of([(3, 7), (1, 7), (2, 7)]) == [Run(1, 3, 7)]
    assert runs_of([(1, 7), (3, 7), (4, 8), (5, 8)]) == [Run(1, 1, 7), Run(3, 3, 7), Run(4, 5, 8)]
    for numbers in range(0), range(4, 5), range(4, 9):
        assert Taken(7, numbers).runs() == Taken(7, list(numbers)).runs() == runs_of([(one, 7) for one in numbers])


async def test_only_the_deliveries_that_are_named_are_settled(tmp_path: Path) -> None:
    """Protects those beside them: of messages that follow one another, each goes its own way, nobody else's does."""
    async with opened(url_of(tmp_path / "queues.db")) as broker, opened(url_of(tmp_path / "queues.db")) as other:
        await broker.publish([outgoing(str(number).encode()) for number in range(8)])
        ours, theirs = await received(broker, 3, limit=3), await received(other, 2, limit=2)
        more = await received(broker, 3, limit=3)
        assert await broker.ack([ours[0], ours[2], more[0]]) == 3
        await broker.release([more[2]], 0.0, counted=False)
        assert await broker.extend([*ours, *theirs, *more]) == [ours[0], ours[2], more[0], more[2]]
        assert await other.ack(theirs) == 2
        assert [one.body for one in await received(other, 1)] == [b"7"]
        assert await broker.ack([*ours, *more]) == 2


async def test_what_was_delayed_comes_when_it_is_due(tmp_path: Path) -> None:
    """Protects the order: that of the times at which messages became due, though they are read by their numbers."""
    async with opened(url_of(tmp_path / "queues.db")) as broker:
        await broker.publish([outgoing(b"later", delay=0.05), outgoing(b"sooner", delay=0.02)])
        await asyncio.sleep(0.1)
        assert [one.body for one in await broker.receive(10, 1.0, 1)] == [b"sooner", b"later"]


async def test_an_idle_queue_takes_no_turn_to_write(tmp_path: Path) -> None:
    """Protects those who put: whoever waits for messages only looks, also when it has had some."""
    async with opened(url_of(tmp_path / "queues.db")) as broker:
        await broker.publish([outgoing()])
        await broker.ack(await received(broker, 1))
        assert await broker.receive(10, 0.0, 1) == []
        with locked(tmp_path / "queues.db"):
            assert await broker.receive(10, 0.1, 1) == []


def test_threads_of_one_process_have_their_turns_in_order() -> None:
    """Protects a pipeline that takes from one that puts, and the other way round; one that gives up holds up nobody."""
    line, came, gives_up = Line(), list[str](), threading.Event()

    def standing(name: str, gives_up: threading.Event) -> threading.Thread:
        stands = threading.Event()

        def go_on() -> None:
            stands.set()
            if gives_up.is_set():
                raise TimeoutError

        def wait() -> None:
            try:
                assert line.join(go_on)
            except TimeoutError:
                came.append(f"{name} gave up")
            else:
                came.append(name)
                line.leave()

        thread = threading.Thread(target=wait)
        thread.start()
        assert stands.wait(BUSY)
        return thread

    assert not line.join(never)
    first, second = standing("first", threading.Event()), standing("second", gives_up)
    third = standing("third", threading.Event())
    gives_up.set()
    second.join()
    line.leave()
    first.join()
    third.join()
    assert came == ["second gave up", "first", "third"]
    assert not line.join(never)


def test_a_turn_that_comes_to_who_gives_up_goes_on_to_the_next() -> None:
    """Protects those behind: the one before may leave in the very moment in which somebody ceases to wait."""
    line = Line()
    assert not line.join(never)

    def go_on() -> None:
        line.leave()
        raise TimeoutError

    with pytest.raises(TimeoutError):
        line.join(go_on)
    assert not line.join(never)


@contextmanager
def file_of_two(path: Path) -> Iterator[QueueFile]:
    """A file with two messages, in this thread."""
    file = QueueFile(str(path), "jobs", Settings(30.0, "dead", {}), "NORMAL")
    made(file, QueueFile.open, file)
    made(file, QueueFile.put, file, [Outgoing("1", b"1"), Outgoing("2", b"2")])
    try:
        yield file
    finally:
        file.close()


def test_what_is_taken_is_read_as_it_is_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects others: between the lease and the reading a message may have gone, or to somebody else."""
    with file_of_two(tmp_path / "queues.db") as file:
        end = file._end

        def change() -> None:
            end()
            with sqlite3.connect(tmp_path / "queues.db") as other:
                other.execute("UPDATE lease SET owner = 7")
            other.close()

        monkeypatch.setattr(file, "_end", change)  # the moment between the two cannot be met otherwise
        take = job(QueueFile.take, file, 10, 1)
        file.make([take])
        assert (take.value, take.error) == ([], None)


def test_what_was_committed_is_not_said_to_have_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects a put whose file is closed just after it: only what was to be read after the commit fails."""
    with file_of_two(tmp_path / "queues.db") as file:
        end = file._end

        def close() -> None:
            end()
            file.interrupt()

        monkeypatch.setattr(file, "_end", close)  # the moment between the two cannot be met otherwise
        put, take = job(QueueFile.put, file, [outgoing(b"3")]), job(QueueFile.take, file, 10, 1)
        file.make([put, take])
        assert put.error is None
        assert isinstance(take.error, Disconnected)


async def test_a_publish_whose_answer_was_lost_is_not_taken_apart(tmp_path: Path) -> None:
    """Protects from duplicates: what one publish has put is known only together."""
    queue = await asyncio.to_thread(remote_queue, url_of(tmp_path / "queues.db"), int)
    async with queue.open() as q:
        broker: Any = q.broker
        publish, open_again = broker.publish, broker.open

        async def lose_the_answer(messages: Any) -> None:
            await publish(messages)
            broker.publish = publish
            raise Disconnected("the answer is lost")

        async def refuse() -> None:
            broker.open = open_again
            raise DefinitionError("refused once")

        broker.publish, broker.open = lose_the_answer, refuse
        told = await asyncio.gather(*[q.put(number) for number in range(10)], return_exceptions=True)
        assert {type(one) for one in told} == {PublishError}
        assert (await q.depth()).ready == 10


async def test_a_program_that_seeds_random_loses_nothing(tmp_path: Path) -> None:
    """Protects from ids and owners that come again: what is known already is not put, and a receipt is for one only."""
    async with opened(url_of(tmp_path / "queues.db")) as broker:
        await broker.publish([outgoing(b"1"), outgoing(b"2")])
        owners = set[int]()
        for _ in range(2):
            random.seed(1)
            owners |= {message.receipt[1] for message in await broker.receive(1, 0.0, 1)}
        assert len(owners) == 2
    ids = set[str]()
    for _ in range(300):
        random.seed(1)
        ids |= set(new_ids(3))
    assert len(ids) == 900


def never() -> None:
    """Nobody is before."""
    raise AssertionError


async def test_more_than_a_thousand_at_once(tmp_path: Path) -> None:
    """Large batches are written in parts, between which others have their turn."""
    async with opened(url_of(tmp_path / "queues.db"), synchronous="NORMAL") as broker:
        await broker.publish([outgoing(str(n).encode()) for n in range(2500)])
        messages = await broker.receive(2500, 1.0, 1)
        assert [one.body for one in messages] == [str(n).encode() for n in range(2500)]
        assert await broker.extend(messages) == []
        await broker.release(messages[2000:], 0.0, counted=False)
        assert await broker.ack(messages) == 2000
        await broker.publish([outgoing() for _ in range(2000)])
        assert await broker.purge(dead=False) == 2500


async def test_calls_that_wait_together_are_one_transaction(tmp_path: Path) -> None:
    """Acks, releases and puts of a session need one commit; their results are their own."""
    async with opened(url_of(tmp_path / "queues.db")) as broker:
        await broker.publish([outgoing(str(n).encode()) for n in range(10)])
        messages = await received(broker, 10)
        with locked(tmp_path / "queues.db"):
            calls = asyncio.gather(
                broker.ack(messages[:4]),
                broker.extend(messages[3:]),
                broker.bury([(messages[4], b"{}")]),
                broker.publish([outgoing(), outgoing()]),
                broker.depth(),
            )
            await asyncio.sleep(0.05)
            assert not calls.done()
        acked, lost, _, _, depth = await calls
        assert (acked, lost) == (4, [messages[3]])
        assert depth[:4] == (2, 5, 0, 1)


async def test_many_suspects_cost_no_search(tmp_path: Path) -> None:
    """A receive that may have none does not read them one by one, each time that somebody has written."""
    path = tmp_path / "queues.db"
    async with opened(url_of(path), synchronous="NORMAL") as broker:
        await broker.publish([outgoing()])
    connection = sqlite3.connect(path)
    plans = [
        row[3]
        for which in (sqlite_tables.FRESH, sqlite_tables.SUSPECT)
        for statement in (
            f"SELECT due, seq, body FROM apart WHERE queue=1 AND {which} AND due<=1 ORDER BY due, seq LIMIT 9",
            f"SELECT min(due) FROM apart WHERE queue=1 AND {which}",
        )
        for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")
    ]
    connection.close()
    assert len(plans) == 4
    assert all("INDEX apart_fresh" in plan for plan in plans[:2])
    assert all("INDEX apart_suspect" in plan for plan in plans[2:])
    assert SUSPECT_AFTER == 2  # it is part of the file: another value is another version of it


# -- processes ------------------------------------------------------------------------------------


def worker(what: str, path: Path, name: str, seconds: float = 0.0) -> subprocess.Popen[str]:
    arguments = [what, url_of(path), str(path.with_suffix(".log")), name, str(seconds)]
    command = [sys.executable, "-m", "remote.sqlite_workers", *arguments]
    return subprocess.Popen(command, cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def waited(begin: float, end: float, stalls: list[tuple[float, float]]) -> float:
    """The seconds between, but for those in which the process stood still."""
    return end - begin - sum(max(0.0, min(end, stall_end) - max(begin, stall)) for stall, stall_end in stalls)


@pytest.mark.thorough
@pytest.mark.timeout(180)
def test_eight_processes_share_the_turns(tmp_path: Path) -> None:
    """Protects each from the others: nobody has half of what another has, or waits 250 ms, or loses a lease.

    Time for which a process has to wait for a processor does not count: each notices how much that is, but not what it
    loses while it works, so then a quarter is enough, and a second is not too long. Where the disk stands still, all
    wait: nobody has a turn meanwhile, and a lease may run out.
    """
    workers = [worker("turns", tmp_path / "queues.db", str(number), 10.0) for number in range(8)]
    for one in workers:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in workers:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    told = [json.loads(one.communicate()[0]) for one in workers]
    spans = [(one["took"][0][0], one["took"][-1][1]) for one in told]
    could = [waited(*span, one["stalls"]) for span, one in zip(spans, told, strict=True)]
    is_free = all(seconds > 0.95 * (end - begin) for seconds, (begin, end) in zip(could, spans, strict=True))
    rates = [one["acked"] / seconds for one, seconds in zip(told, could, strict=True)]
    assert min(rates) / max(rates) > (0.5 if is_free else 0.25)
    ends = sorted(end for one in told for _, end in one["took"])
    long = [(begin, end, one["stalls"]) for one in told for begin, end in one["took"] if end - begin > 0.25]
    while_others_had_turns = [one for one in long if bisect(ends, one[1]) - bisect(ends, one[0]) > 3 * 8]
    assert [one for one in while_others_had_turns if waited(*one) > (0.25 if is_free else 1.0)] == []
    longest = max([end - begin for begin, end, _ in long], default=0.0)
    assert sum(one["lost"] for one in told) == 0 or longest > LEASE / 2


@pytest.mark.thorough
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(2))
async def test_a_kill_in_the_middle_of_a_transaction_loses_nothing(tmp_path: Path, seed: int) -> None:
    """Whoever is killed, when, and how often: what was confirmed is handled, and nothing stays behind."""
    await asyncio.to_thread(_kill, tmp_path / "queues.db", random.Random(seed), 20)
    left: list[Message] = []
    async with opened(url_of(tmp_path / "queues.db")) as broker:
        while (depth := await broker.depth()).ready + depth.unacknowledged:
            messages = await broker.receive(1000, 2.0, 1)
            left += messages
            await broker.ack(messages)
    lines = (await asyncio.to_thread((tmp_path / "queues.log").read_text)).splitlines()
    confirmed = {line.removeprefix("confirmed ") for line in lines if line.startswith("confirmed ")}
    handled = Counter(line.removeprefix("handled ") for line in lines if line.startswith("handled "))
    handled += Counter(one.id for one in left)
    assert len(confirmed) > 1000
    assert confirmed - set(handled) == set()
    assert sum(handled.values()) - len(handled) <= 20 * 20  # a batch for each kill of a consumer
    connection = sqlite3.connect(tmp_path / "queues.db")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def _kill(path: Path, draw: random.Random, times: int) -> None:
    """Let two put and two take, and kill one of them again and again."""
    names = iter(range(1000))
    kinds = ["put", "put", "take", "take"]
    workers = [worker(kind, path, str(next(names))) for kind in kinds]
    for _ in range(times):
        time.sleep(draw.uniform(0.2, 0.8))
        place = draw.randrange(4)
        _end(workers[place])
        workers[place] = worker(kinds[place], path, str(next(names)))
    time.sleep(1.0)
    for one in workers:
        _end(one)


def _end(process: subprocess.Popen[str]) -> None:
    assert process.poll() is None
    process.kill()
    process.communicate()
