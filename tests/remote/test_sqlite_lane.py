"""What a SQLite file does with leases of many messages, and with messages that are apart; on a clock of ours."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from remote.sqlite_process import LEASE, Clock, Process, attempts, bodies

from asyncpc import DefinitionError
from asyncpc.remote.broker import Outgoing
from asyncpc.remote.engines.sqlite import lane as sqlite_lane
from asyncpc.remote.engines.sqlite import queue as sqlite_queue
from asyncpc.remote.engines.sqlite.lane import Lane
from asyncpc.remote.engines.sqlite.queue import QueueFile


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stands still unless a test sets it."""
    clock = Clock()
    monkeypatch.setattr(sqlite_queue, "time", clock)
    return clock


@pytest.fixture
def two(tmp_path: Path, clock: Clock) -> Iterator[tuple[Process, Process]]:
    """Two processes at one file."""
    one, other = (Process(tmp_path / "queues.db", clock=clock) for _ in range(2))
    with closing(one), closing(other):
        yield one, other


# -- leases ---------------------------------------------------------------------------------------


def test_a_lease_that_runs_out_half_acknowledged(two: tuple[Process, Process], clock: Clock) -> None:
    """Protects what is left: that comes again, in order and counted; the late ack of its owner changes nothing."""
    one, other = two
    one.put("a", "b", "c", "d")
    ours = one.take()
    assert one.ack([ours[0], ours[2]]) == 2
    clock.now += LEASE - 1
    assert other.take() == []
    clock.now += 2
    assert other.call(QueueFile.depth)[:3] == (2, 0, 0)
    assert attempts(other.call(QueueFile.peek, 10)) == [("b", 1), ("d", 1)]
    theirs = other.take()
    assert attempts(theirs) == [("b", 2), ("d", 2)]
    assert one.ack([ours[1], ours[3]]) == 0
    assert one.lost(ours) == ["a", "b", "c", "d"]
    assert other.call(QueueFile.depth)[:3] == (0, 2, 0)
    assert other.ack(theirs) == 2
    assert other.leases() == 0


def test_who_is_late_but_the_only_one_has_not_lost(two: tuple[Process, Process], clock: Clock) -> None:
    """Protects work that was done: until somebody else receives a message, its owner may acknowledge or keep it."""
    one, other = two
    one.put("a", "b", "c")
    ours = one.take(2)
    clock.now += LEASE + 1
    assert bodies(other.take(1)) == ["c"]  # it was put before that lease has run out
    assert one.ack(ours[:1]) == 1
    assert one.lost(ours[1:]) == []
    assert other.take() == []
    assert one.ack(ours[1:]) == 1


def test_some_in_the_middle_are_given_back(two: tuple[Process, Process]) -> None:
    """Protects those beside them, and the order: what was given back comes before what was put later."""
    one, other = two
    one.put(*"abcdef")
    ours = one.take(5)
    one.call(QueueFile.release, [ours[3], ours[1]], 0.0, False)
    assert one.lost(ours) == ["b", "d"]
    theirs = other.take()
    assert attempts(theirs) == [("b", 1), ("d", 1), ("f", 1)]
    assert one.ack(ours) == 3
    assert one.leases() == 1
    assert other.ack(theirs) == 3
    assert one.leases() == 0


def test_a_part_of_a_lease_begins_anew(two: tuple[Process, Process], clock: Clock) -> None:
    """Protects what is not named: nobody keeps it longer, and the rest is nobody else's meanwhile."""
    one, other = two
    one.put(*"abcd")
    ours = one.take()
    clock.now += LEASE - 1
    assert one.lost(ours[1:3]) == []
    clock.now += 2
    theirs = other.take()
    assert attempts(theirs) == [("a", 2), ("d", 2)]
    assert one.lost(ours) == ["a", "d"]
    clock.now += LEASE - 1
    assert other.ack(theirs) == 2
    assert one.ack(ours) == 2


def test_all_that_is_left_of_a_lease_begins_anew_without_a_change_to_the_messages(
    two: tuple[Process, Process], clock: Clock
) -> None:
    """Protects the disk: leases begin anew every few seconds, of a thousand messages each."""
    one, other = two
    one.put(*"abcd")
    ours = one.take()
    one.ack(ours[:1])
    clock.now += LEASE - 1
    assert one.lost(ours[1:]) == []
    (apart,) = one.file.reading().execute("SELECT count(*) FROM apart").fetchone()
    assert (apart, one.leases()) == (0, 1)
    clock.now += LEASE - 1
    assert other.take() == []


def test_two_processes_whose_fronts_meet(two: tuple[Process, Process]) -> None:
    """Protects each message from two owners: leases end in any order, while others begin and more is put."""
    one, other = two
    one.put(*"abcd")
    first, second = one.take(2), other.take(2)
    assert other.ack(second) == 2  # the last ones are gone before the first ones
    assert other.take() == []
    other.put("e")
    third = other.take()
    assert one.ack(first) == 2
    one.put("f")
    fourth = one.take()
    assert [bodies(part) for part in (first, second, third, fourth)] == [["a", "b"], ["c", "d"], ["e"], ["f"]]
    assert one.ack(third[:0] + fourth) == 1
    assert other.ack(third) == 1
    one.put("g")
    assert bodies(other.take()) == ["g"]


@pytest.mark.parametrize("how", ["ack", "release", "bury"])
def test_a_lease_ends_with_its_last_message(two: tuple[Process, Process], clock: Clock, how: str) -> None:
    """Protects the file from leases of nothing, also where a receive gave messages that had been put with a delay."""
    one, other = two
    one.put("first")
    other.take()
    one.put("delayed", delay=1.0)
    clock.now += 2
    one.put("a", "b")
    ours = one.take()
    assert bodies(ours) == ["delayed", "a", "b"]
    match how:
        case "ack":
            assert one.ack(ours) == 3
        case "release":
            one.call(QueueFile.release, ours, 0.0, False)
        case _:
            one.call(QueueFile.bury, [(message, b"{}") for message in ours])
    assert one.leases() == 1


@pytest.mark.processes
def test_a_kill_between_receive_and_ack_is_an_attempt(tmp_path: Path, clock: Clock) -> None:
    """Protects from a message that kills its process: it is counted before anybody works on it."""
    path, folder = tmp_path / "queues.db", Path(__file__).parent
    program = (
        "import os, signal, sys; from pathlib import Path; from sqlite_process import Process;"
        "Process(Path(sys.argv[1])).take(2); os.kill(os.getpid(), signal.SIGKILL)"
    )
    with closing(Process(path)) as process:
        process.put(*"abc")
        ended = subprocess.run([sys.executable, "-c", program, str(path)], cwd=folder, check=False)
        assert ended.returncode == -signal.SIGKILL
        assert bodies(process.take()) == ["c"]
        (ends,) = process.file.reading().execute("SELECT max(until) FROM lease").fetchone()
        clock.now = ends + 1
        assert ("a", 2) in attempts(process.take())


def test_many_leases_that_have_run_out_end_in_parts(
    two: tuple[Process, Process], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects those who wait for their turn to write: what a thousand processes had is not moved in one."""
    monkeypatch.setattr(sqlite_lane, "AT_ONCE", 3)
    one, other = two
    one.put(*"abcdefgh")
    for _ in range(4):
        one.take(2)
        clock.now += 0.1
    clock.now += LEASE
    assert attempts(other.take()) == [(body, 2) for body in "abcd"]
    assert attempts(other.take()) == [(body, 2) for body in "efgh"]


# -- order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_delayed_ones_come_among_the_others_when_they_are_due(
    two: tuple[Process, Process], clock: Clock, limit: int
) -> None:
    """Protects the order: by the time a message was put, or became due."""
    one, other = two
    one.put("e", delay=6.5)
    one.put("c", delay=4.5)
    one.put("a", "b")
    clock.now += 5
    one.put("d")
    clock.now += 2
    one.put("f")
    came: list[str] = []
    while messages := other.take(limit):
        came += bodies(messages)
    assert came == [*"abcdef"]


def test_the_clock_may_be_set_back(two: tuple[Process, Process], clock: Clock) -> None:
    """Protects from messages that are passed over: those in the lane come in the order of their putting."""
    one, other = two
    one.put("delayed", delay=1)
    clock.now += 10
    one.put("a")
    clock.now -= 8
    one.put("b", "c")
    clock.now += 100
    assert sorted(bodies(other.take(2)) + bodies(other.take(2))) == ["a", "b", "c", "delayed"]
    one.put("d")
    assert bodies(one.take()) == ["d"]


# -- the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", ["", "\n", "a\nb", "\0", "é"])
@pytest.mark.parametrize("size", [0, 1, sqlite_lane.AT_ONCE, 5000])
def test_what_is_read_together_is_what_was_put(tmp_path: Path, odd: str, size: int) -> None:
    """Protects messages from one another: many come in one row, whatever their ids, headers and bodies are."""
    sent = [
        Outgoing("1" + odd, b"\0\xff" * size, {"x-a": odd}, time=1796032359.039183),
        Outgoing("2", b"", {}, time=0.0),
        Outgoing("3" + odd, b"3", {"x-a": "\n"}, time=1.5),
    ]
    with closing(Process(tmp_path / "queues.db")) as process:
        process.call(QueueFile.put, sent)
        came = process.take()
        assert [(m.id, m.body, dict(m.headers), m.attempt) for m in came] == [
            (m.id, m.body, m.headers, 1) for m in sent
        ]
        assert [m.time for m in came] == pytest.approx([m.time for m in sent], abs=2e-6)
        assert process.ack(came) == 3


def test_what_was_purged_leaves_no_trace(two: tuple[Process, Process]) -> None:
    """Protects what is at work, and what is put afterwards, from the numbers of what is gone."""
    one, other = two
    one.put(*"abc")
    ours = one.take(1)
    assert other.call(QueueFile.purge, False) == 2
    one.put("d")
    assert other.call(QueueFile.depth)[:3] == (1, 1, 0)
    assert bodies(other.take()) == ["d"]
    assert one.ack(ours) == 1


def test_nothing_is_searched_for(tmp_path: Path) -> None:
    """Protects a queue from the others in its file, and from its own length: each look goes to a number."""
    path = tmp_path / "queues.db"
    with closing(Process(path)) as first, closing(Process(path, "other")):
        read = first.file.reading()
        asked: list[str] = []
        read.set_trace_callback(asked.append)
        first.call(QueueFile.put, [Outgoing("1", b"1"), Outgoing("2", b"2")])
        Lane(2).ready(read)
        assert first.ack(first.take()) == 2
        read.set_trace_callback(None)
        looks = [one for one in asked if "FROM message" in one or "FROM apart" in one or "FROM lease" in one]
        plans = {row[3] for one in looks for row in read.execute(f"EXPLAIN QUERY PLAN {one}")}
    assert len(looks) >= 6
    assert [
        plan for plan in plans if plan.startswith("SCAN") and "(subquery" not in plan and "CONSTANT ROW" not in plan
    ] == []


@pytest.mark.parametrize("version", [0, 1])
def test_a_file_with_other_tables_is_refused(tmp_path: Path, version: int) -> None:
    """Protects what is in it: a program that took it for its own would not find its messages."""
    path = tmp_path / "queues.db"
    Process(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version={version}")
    with pytest.raises(DefinitionError, match="older version of asyncpc"):
        Process(path)
