"""``asyncpc queue``: who looks after a queue sees what is in it, and changes nothing by accident."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from children import Ended, run_child, run_on_terminal
from support import until

from asyncpc import consumer, remote_queue
from asyncpc.cli.main import main
from asyncpc.cli.target import load_queue
from asyncpc.remote import Outgoing

_names = count()

APP = """
from typing import NamedTuple
from asyncpc import consumer, remote_queue
from asyncpc.remote import Disconnected, Settings
from asyncpc.remote.codec import codec_for
from asyncpc.remote.engines.memory.broker import MemoryBroker
from asyncpc.remote.queue import RemoteQueue
from asyncpc.remote.session import Terms

class Job(NamedTuple):
    number: int

jobs = remote_queue("sqlite:///jobs.db?queue=jobs", Job, dead_letter="given-up")

@consumer
async def odd_ones_fail(job: Job) -> None:
    if job.number % 2:
        raise ValueError(f"number {job.number} is odd")

class Nowhere(MemoryBroker):
    async def open(self):
        raise Disconnected("nobody listens at nowhere://me:canary@host")

class Lost(MemoryBroker):
    async def depth(self):
        raise Disconnected("no answer from lost://me:canary@host")

class Broken(MemoryBroker):
    async def open(self):
        raise PermissionError("not allowed as broken://me:canary@host")

def made(kind):
    broker = lambda **_: kind("memory://made", Settings(1.0, "dead", {}))
    return RemoteQueue("made", broker, codec_for("", int, "json", 9),
        Terms(1, 1.0, 1), "memory://made", "")

class other:
    nowhere, lost, broken = made(Nowhere), made(Lost), made(Broken)
"""

FILL = """
import asyncio
from app import jobs, odd_ones_fail, Job

async def main():
    async with jobs.open() as opened:
        await opened.put_many([Job(n) for n in range(6)])
        async with jobs >> odd_ones_fail as running:
            while running.statistics().done + running.statistics().failed < 6:
                await asyncio.sleep(0.01)
        await opened.put(Job(8), id="eight")

asyncio.run(main())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's directory with a program in it."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "fill.py").write_text(FILL)
    return tmp_path


class Told(NamedTuple):
    """What the command told."""

    status: int
    out: str
    err: str


class Queue:
    """A queue in the memory of this process, and the command that looks at it."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.url = f"memory://cli-{next(_names)}"
        self._capsys = capsys

    def fill(self, ready: Sequence[Outgoing], dead: Sequence[Outgoing] = (), retry: int = 1) -> None:
        """Put messages, and others that fail, after so many calls."""

        @consumer(retry=retry)
        async def fails(item: object) -> None:
            raise ValueError("no at redis://me:canary@host\x1b[2J")

        queue = remote_queue(self.url, object_or_list)

        async def put() -> None:
            async with queue.open() as opened:
                await opened.broker.publish(dead)
                async with queue >> fails as running:
                    await until(lambda: running.statistics().dead_letters == len(dead))
                await opened.broker.publish(ready)

        asyncio.run(put())

    def __call__(self, command: str, *arguments: str) -> Told:
        status = main(["queue", command, self.url, *arguments])
        return Told(status, *self._capsys.readouterr())


object_or_list: Any = dict | list


@pytest.fixture
def queue(capsys: pytest.CaptureFixture[str]) -> Queue:
    return Queue(capsys)


def message(name: str, body: bytes = b'{"n": 1}', **options: Any) -> Outgoing:
    return Outgoing(name, body, time=1_700_000_000.0, **options)


def lines(told: Told) -> list[Any]:
    """The JSON that it printed."""
    return [json.loads(line) for line in told.out.splitlines()]


def test_stats(queue: Queue) -> None:
    """Protects the first look: how many messages there are, and for how long the oldest has waited."""
    queue.fill([message("a"), message("b"), message("late", delay=1000.0)], [message("d")])
    told = queue("stats")
    assert (told.status, told.err) == (0, "")
    assert [line.split()[:2] for line in told.out.splitlines()[:4]] == [
        ["ready", "2"],
        ["unacknowledged", "0"],
        ["delayed", "1"],
        ["dead", "1"],
    ]
    assert told.out.splitlines()[4].startswith("oldest ")
    (found,) = lines(queue("stats", "--json"))
    oldest = found.pop("oldest")
    assert found == {"ready": 2, "unacknowledged": 0, "delayed": 1, "dead": 1}
    assert oldest >= 0


def test_peek_leaves_messages_where_they_are(queue: Queue) -> None:
    """Protects against surprises: no attempt is counted, and payloads are short, escaped and without passwords."""
    hostile = json.dumps(["redis://me:canary@host", "\x1b[2J", "x" * 1000]).encode()
    queue.fill([message("a", hostile, headers={"x-tenant": "7"}), message("b", b"\xff\xfe"), message("c")])
    for _ in range(3):
        told = queue("peek", "--limit", "2")
    out = told.out.splitlines()
    assert (told.status, told.err) == (0, "asyncpc: there are more: --limit shows more of them\n")
    assert (out[0], out[3]) == ("a", "b")
    assert "deliveries 0" in out[1]
    assert out[2].startswith("    ['redis://me:***@host', '\\x1b[2J', 'xxx")
    assert len(out[2]) == 4 + 80
    assert out[5] == "    b'\\xff\\xfe'"
    first, second = lines(queue("peek", "--limit", "2", "--json"))
    assert first == {
        "id": "a",
        "deliveries": 0,
        "put": 1_700_000_000.0,
        "headers": {"x-tenant": "7"},
        "item": ["redis://me:***@host", "\x1b[2J", "x" * 1000],
    }
    assert second["item"] == "b'\\xff\\xfe'"


def test_dead_shows_why(queue: Queue) -> None:
    """Protects who looks for the cause: error, stage, counts, times, id and payload of each."""
    queue.fill([], [message("a"), message("b", b"{")])
    told = queue("dead")
    assert "canary" not in told.out + told.err
    assert "\x1b" not in told.out
    letters = lines(queue("dead", "--json"))
    by_id = {letter["id"]: letter for letter in letters}
    assert by_id["a"]["item"] == {"n": 1}
    assert by_id["a"]["stage"] == "fails"
    assert (by_id["a"]["calls"], by_id["a"]["deliveries"], by_id["b"]["calls"]) == (1, 1, 0)
    assert "Traceback" in by_id["a"]["traceback"]
    assert by_id["b"]["item"] == "b'{'"
    place = by_id["a"]["place"]
    at = next(n for n, line in enumerate(told.out.splitlines()) if line.startswith(place))
    reason, counts, payload = told.out.splitlines()[at : at + 3]
    assert reason.startswith(f"{place}  ValueError: no at redis://me:***@host\\x1b[2J")
    assert counts.startswith("    stage fails, calls 1, deliveries 1, put 2023-11-1")
    assert counts.endswith(", id a")
    assert payload == "    {'n': 1}"
    in_full = queue("dead", "--traceback").out
    assert "    Traceback (most recent call last):\n" in in_full
    assert "canary" not in in_full
    assert "\x1b" not in in_full
    assert lines(queue("dead", "--json", "--after", letters[0]["place"])) == letters[1:]
    one = queue("dead", "--limit", "1")
    assert (len(one.out.splitlines()), one.err) == (3, "asyncpc: there are more: --limit shows more of them\n")


def test_dead_shows_what_failed_before(queue: Queue) -> None:
    """Protects who looks for the cause: of a message that was tried again, each error, on a line of its own."""
    queue.fill([], [message("a")], retry=3)
    (letter,) = lines(queue("dead", "--json"))
    assert letter["history"] == [letter["reason"]] * 2
    earlier = queue("dead").out.splitlines()[3:]
    assert earlier == ["    earlier call: ValueError: no at redis://me:***@host\\x1b[2J"] * 2


def test_requeue_some_or_all(queue: Queue) -> None:
    """Protects who mended the cause: what is named comes again; what is not there is said, in the status too."""
    queue.fill([], [message(f"m{n}") for n in range(5)])
    places = [letter["place"] for letter in lines(queue("dead", "--json"))]
    assert queue("requeue", *places[:2])[:2] == (0, "2 put back into the queue\n")
    told = queue("requeue", places[0], places[2], places[2], "none", "--json")
    assert (told.status, lines(told)) == (1, [{"requeued": 1}])
    assert told.err == "asyncpc: 2 of 3 are not among the dead letters\n"
    assert queue("requeue", "--all")[:2] == (0, "2 put back into the queue\n")
    assert queue("requeue", "--all") == (0, "0 put back into the queue\n", "")
    assert lines(queue("stats", "--json"))[0]["ready"] == 5
    for wrong in ([], [places[0], "--all"]):
        told = queue("requeue", *wrong)
        assert (told.status, told.out) == (2, "")
        assert told.err.startswith("asyncpc: requeue takes the places of dead letters")


def test_purge_forgets_one_of_the_two(queue: Queue) -> None:
    """Protects the rest: messages or dead letters, and never without a yes."""
    queue.fill([message("a"), message("b", delay=1000.0)], [message("c")])
    told = queue("purge")
    assert (told.status, told.out) == (2, "")
    assert told.err == "asyncpc: purge asks before it forgets messages, and there is no terminal: write --yes\n"
    assert queue("purge", "--dead", "--yes") == (0, "1 purged\n", "")
    assert lines(queue("purge", "--yes", "--json")) == [{"purged": 2}]
    assert lines(queue("stats", "--json"))[0] == {
        "ready": 0,
        "unacknowledged": 0,
        "delayed": 0,
        "dead": 0,
        "oldest": None,
    }


def test_nothing_is_said_to_be_nothing(queue: Queue) -> None:
    """Protects who mistyped a name: an empty list is no silence; scripts that read stdout get no word of it."""
    assert queue("peek") == (0, "", "asyncpc: no message is ready\n")
    assert queue("dead", "--json") == (0, "", "asyncpc: no dead letters\n")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("kafka://me:canary@host/jobs", "'kafka://me:***@host/jobs' names no engine; it has to begin with amqp://"),
        ("sqlite:///jobs.db", "expected sqlite:///relative/file.db?queue=name"),
        ("nowhere/me:canary@host", "expected the URL of a queue, such as redis://host/jobs, or module:queue"),
        ("no_such_module:jobs", "no module 'no_such_module' in "),
        ("json:loads", "'json:loads' is a function, not a remote_queue; 'json' has no remote_queue"),
        ("json:queue", "no 'queue' in 'json:queue'; 'json' has no remote_queue"),
        ("json", "'json' has no remote_queue"),
    ],
)
def test_a_wrong_target_says_what_is_right(capsys: pytest.CaptureFixture[str], target: str, message: str) -> None:
    """Protects a first hour: one line, status 2, and no password."""
    assert main(["queue", "stats", target]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("asyncpc: ")
    assert message in told.err
    assert "canary" not in told.err


def test_the_only_queue_of_a_module_need_not_be_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects typing, as with pipelines; several have to be told apart."""
    monkeypatch.chdir(folder)
    (folder / "one_queue.py").write_text("from asyncpc import remote_queue\njobs = remote_queue('memory://a', int)\n")
    (folder / "two_queues.py").write_text("from one_queue import jobs\nmore = jobs\n")
    assert repr(load_queue("one_queue")) == "<RemoteQueue a at memory://a>"
    with pytest.raises(
        Exception, match=r"which queue of 'two_queues'\? 'two_queues' has: two_queues:jobs, two_queues:more"
    ):
        load_queue("two_queues")


# -- processes ------------------------------------------------------------------------------------


def asyncpc(folder: Path, *arguments: str) -> Ended:
    """Run the command in a process."""
    return run_child(folder, "-m", "asyncpc", "queue", *arguments)


@pytest.mark.realtime
def test_a_queue_in_a_file_is_looked_after_from_outside(folder: Path) -> None:
    """Protects the real thing: a program fills the queue, and the command sees, by the program's own settings, why."""
    assert run_child(folder, "fill.py").status == 0
    found = json.loads(asyncpc(folder, "stats", "app:jobs", "--json").out)
    assert (found["ready"], found["dead"]) == (1, 3)
    by_url = json.loads(asyncpc(folder, "stats", "sqlite:///jobs.db?queue=jobs", "--json").out)
    assert (by_url["ready"], by_url["dead"]) == (1, 0)  # of jobs.dead, since the URL knows no other name
    dead = asyncpc(folder, "dead", "app")
    assert (dead.status, dead.err) == (0, "")
    assert dead.out.count("ValueError: number ") == 3
    assert asyncpc(folder, "requeue", "app:jobs", "--all").out == "3 put back into the queue\n"
    assert asyncpc(folder, "peek", "app:jobs").out.splitlines()[0] == "eight"


@pytest.mark.parametrize("command", [["stats"], ["peek"], ["dead"], ["requeue", "--all"], ["purge", "--yes"]])
def test_a_mistyped_queue_is_not_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """Protects who mistyped a name: zeros would be the answer about another queue; and nothing is made."""
    monkeypatch.chdir(folder)
    before = sorted(os.listdir(folder))

    def asked(url: str) -> Told:
        name, *options = command
        return Told(main(["queue", name, url, *options]), *capsys.readouterr())

    told = asked("sqlite:///jobbs.db?queue=jobs")
    assert (told.status, told.out) == (2, "")
    assert told.err == (
        "asyncpc: there is no queue at 'jobbs.db', nor such a file; the first program that opens it makes it\n"
    )
    assert sorted(os.listdir(folder)) == before

    (folder / "empty.db").touch()
    told = asked("sqlite:///empty.db?queue=jobs")
    assert (told.status, told.out) == (2, "")
    assert told.err == (
        "asyncpc: there is no queue at 'empty.db', which is empty; the first program that opens it makes it\n"
    )
    assert sorted(os.listdir(folder)) == sorted([*before, "empty.db"])
    assert (folder / "empty.db").stat().st_size == 0

    assert asyncio.run(remote_queue("sqlite:///jobs.db?queue=jobs", int).depth()).ready == 0
    told = asked("sqlite:///jobs.db?queue=jobbs")
    assert (told.status, told.out) == (2, "")
    assert told.err.startswith("asyncpc: there is no queue 'jobbs' in ")
    assert told.err.endswith("jobs.db', which has 'jobs'; the first program that opens it makes it\n")
    assert asked("sqlite:///jobs.db?queue=jobs").status == 0


@pytest.mark.realtime
def test_purge_asks_on_a_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Protects against a slip: only a yes forgets messages."""
    assert run_child(folder, "fill.py").status == 0
    asyncpc(folder, "requeue", "app:jobs", "--all")
    for answer, status, told, left in [("\n", 1, "nothing was purged", 4), ("y\n", 0, "4 purged", 0)]:
        ended = run_on_terminal(folder, "-m", "asyncpc", "queue", "purge", "app:jobs", typed=answer)
        assert ended.status == status
        assert "Forget 4 ready and 0 delayed messages for good? [y/N]" in ended.out
        assert told in ended.out
        capsys.readouterr()
        assert main(["queue", "stats", f"sqlite:///{folder / 'jobs.db'}?queue=jobs", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["ready"] == left


@pytest.mark.realtime
@pytest.mark.parametrize(
    ("target", "status", "message"),
    [
        ("app:other.lost", 1, "asyncpc: no answer from lost://me:***@host\n"),
        (
            "app:other.broken",
            2,
            "asyncpc: no connection to the queue: PermissionError: not allowed as broken://me:***@host (app.py:30)\n",
        ),
    ],
)
def test_what_goes_wrong_is_told_in_a_line(folder: Path, target: str, status: int, message: str) -> None:
    """Protects the terminal of who looks: no traceback unless it is asked for, and no password."""
    ended = asyncpc(folder, "stats", target)
    assert (ended.status, ended.out, ended.err) == (status, "", message)
    more = asyncpc(folder, "stats", target, "--traceback")
    assert "Traceback" in more.err
    assert "canary" not in more.err


@pytest.mark.realtime
@pytest.mark.thorough
def test_no_server_is_said_after_15_seconds(folder: Path) -> None:
    """Protects who mistyped a host: the command says that it tries, and ends."""
    ended = asyncpc(folder, "stats", "app:other.nowhere")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == (
        "asyncpc: there is no connection yet; still trying\n"
        "asyncpc: no connection to the queue: nobody listens at nowhere://me:***@host\n"
    )
    assert 14 < ended.seconds < 25
