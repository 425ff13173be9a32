"""``asyncpc run --processes`` on a SQLite file: nothing is lost, whoever is stopped or killed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import anyio
import httpx
import pytest
from children import PATIENCE, Child, Ended, run_child
from remote.servers import client_of, free_port
from support import until

from asyncpc import RemoteQueue, remote_queue
from asyncpc.remote.processes.parent import Processes, Terms

pytestmark = [pytest.mark.realtime, pytest.mark.processes]

APP = """
import asyncio, os, signal, sys, time
from asyncpc import Pipeline, consumer, remote_queue

jobs = remote_queue("sqlite:///jobs.db?queue=jobs", int, lease=2.0, synchronous="NORMAL")

def note(*words):
    os.write(LOG, (" ".join(map(str, words)) + "\\n").encode())

LOG = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@consumer(concurrency=4)
async def handle(n):
    note("begun", n, os.getpid())
    while os.path.exists("hold"):
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.005)
    note("done", n, os.getpid())

@consumer(on_error="skip")
async def picky(n):
    if n % 2:
        raise ValueError(f"{n} at redis://me:hunter2@host/")

@consumer
async def dies(n):
    os._exit(3)

@consumer
async def blocks(n):
    note("blocks", n, os.getpid())
    time.sleep(60)

work = Pipeline(jobs, handle, name="work", drain_timeout=20)
skipping = Pipeline(jobs, picky, name="skipping")
deadly = Pipeline(remote_queue("sqlite:///jobs.db?queue=jobs", int, prefetch=1), dies)
blocking = Pipeline(jobs, blocks, drain_timeout=0.2)

def into_nowhere(port: int) -> Pipeline[int, None]:
    @consumer
    async def same(n: int) -> int:
        return n

    return jobs >> same >> remote_queue(f"redis://127.0.0.1:{port}/elsewhere", int)

def make(secret: str) -> Pipeline[int, None]:
    return work
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@pytest.fixture
def queue(folder: Path) -> RemoteQueue[int]:
    """That of the program, for a test with a loop of its own: to make one reads files."""
    return queue_in(folder)


def queue_in(folder: Path) -> RemoteQueue[int]:
    return remote_queue(f"sqlite:///{folder}/jobs.db?queue=jobs", int, synchronous="NORMAL")


async def put_into(queue: RemoteQueue[int], numbers: range) -> None:
    async with queue.open() as opened:
        await opened.put_many(numbers)


def put(folder: Path, numbers: range) -> None:
    asyncio.run(put_into(queue_in(folder), numbers))


def command(folder: Path, target: str, *options: str, own_group: bool = False) -> Child:
    return Child(folder, "-m", "asyncpc", "run", target, "--processes", "2", *options, own_group=own_group)


def noted(folder: Path, word: str = "done") -> list[tuple[int, int]]:
    """What the handlers have written: the item and the process."""
    path = folder / "log"
    rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(int(row[1]), int(row[2])) for row in rows if row[0] == word]


def wait_for(condition: Callable[[], object]) -> None:
    """Wait for what other processes do."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def times(folder: Path) -> Counter[int]:
    """How many times each number was handled."""
    return Counter([number for number, _ in noted(folder)])


def has_handled_more(folder: Path, than: int) -> bool:
    return len(noted(folder)) > than


def hold(folder: Path) -> Path:
    """Nothing is done while this file is there."""
    held = folder / "hold"
    held.touch()
    return held


def wait_for_both(folder: Path) -> None:
    """Wait until both processes have begun an item; with :func:`hold`, or one might do all before the other runs."""
    wait_for(lambda: len({pid for _, pid in noted(folder, "begun")}) == 2)


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def children_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def stopped(child: Child, number: signal.Signals = signal.SIGTERM) -> Ended:
    child.send(number)
    return child.end()


def test_two_processes_handle_all_of_it_once(folder: Path) -> None:
    """Protects what --processes is for: both work, each message is handled once, and the report is one."""
    put(folder, range(300))
    child = command(folder, "app:work", "--loop", "asyncio")
    wait_for(lambda: len(noted(folder)) >= 300)
    ended = stopped(child)
    assert ended.status == 143
    assert times(folder) == Counter(range(300))
    assert ended.row("handle")[:2] == ["300", "300"]
    assert "300 produced, 300 done" in ended.out
    assert ended.out.endswith("\nin 2 processes\n")
    assert ended.err == "asyncpc: SIGTERM: all processes drain; a second signal cancels now\n"


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_loses_nothing_and_repeats_nothing(folder: Path, number: signal.Signals) -> None:
    """Protects a deployment: at any moment a stop leaves each message handled or in the queue, never both."""
    put(folder, range(4000))
    moments = random.Random(number)
    for stops in range(1, 6):
        handled = min(len(noted(folder)), 3999)  # all of them, if this process had to wait for the processor
        child = command(folder, "app:work", own_group=True)
        wait_for(partial(has_handled_more, folder, handled))
        time.sleep(moments.random() / 2)
        child.send_to_group(number)  # as a terminal does, and systemd
        ended = child.end()
        assert (ended.status, ended.err.count("second signal")) == (128 + number, 1), stops
    child = command(folder, "app:work")
    wait_for(lambda: len(times(folder)) == 4000)
    stopped(child)
    assert times(folder) == Counter(range(4000))


@pytest.mark.thorough
def test_a_child_that_is_killed_is_replaced_and_nothing_is_lost(folder: Path) -> None:
    """Protects the work of a process that the system kills: what it had comes again when its lease has run out."""
    put(folder, range(2000))
    held = hold(folder)
    child = command(folder, "app:work")
    wait_for_both(folder)
    held.unlink()
    wait_for(lambda: noted(folder))
    victim = noted(folder)[-1][1]
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: "another one starts in" in child.errors_so_far())
    wait_for(lambda: len(times(folder)) == 2000)
    ended = stopped(child)
    assert ended.status == 143
    assert set(times(folder)) == set(range(2000))
    assert sum(times(folder).values()) - 2000 <= 100  # what it had done and not flushed
    assert "was ended by SIGKILL; another one starts in 1 s" in ended.err
    assert "in 2 processes, of which 1 ended unexpectedly and were replaced" in ended.out


@pytest.mark.thorough
def test_a_parent_that_is_killed_leaves_no_orphans(folder: Path) -> None:
    """Protects the machine: the children drain and end, all they had is done, and the next start has the rest."""
    put(folder, range(2000))
    held = hold(folder)
    child = command(folder, "app:work", "--quiet")
    wait_for_both(folder)
    pids = children_of(child.pid)
    child.send(signal.SIGKILL)
    wait_for(lambda: child.errors_so_far().count("the parent process has ended: draining") == 2)
    held.unlink()
    assert child.end().status == -signal.SIGKILL
    wait_for(lambda: not any(map(is_there, pids)))
    assert len(times(folder)) < 2000
    child = command(folder, "app:work")
    wait_for(lambda: len(times(folder)) == 2000)
    stopped(child)
    assert times(folder) == Counter(range(2000))


@pytest.mark.thorough
def test_a_child_whose_loop_is_blocked_does_not_outlive_its_parent(folder: Path) -> None:
    """Protects the machine from a handler that holds the loop: nobody is left who could kill it but itself."""
    put(folder, range(2))
    child = command(folder, "app:blocking")
    wait_for(lambda: noted(folder, "blocks"))
    pids = children_of(child.pid)
    child.send(signal.SIGKILL)
    child.end()
    began = time.monotonic()
    wait_for(lambda: not any(map(is_there, pids)))
    assert time.monotonic() - began < 20  # not the 60 seconds of the handler


@pytest.mark.thorough
def test_a_child_whose_loop_is_blocked_is_killed_after_its_drain(folder: Path) -> None:
    """Protects the stop: it ends two seconds after the drain may take, whatever a handler does."""
    put(folder, range(2))
    child = command(folder, "app:blocking", "--json")
    wait_for(lambda: noted(folder, "blocks"))
    ended = stopped(child)
    assert ended.status == 1
    assert 2.0 < ended.seconds < 20
    found = json.loads(ended.out)
    assert found["state"] == "failed"
    assert any("since it took longer than its drain may" in error for error in found["errors"])


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("import nothing_of_that_name", "asyncpc: 'app' cannot be imported: ModuleNotFoundError: "),
        pytest.param(
            "from asyncpc import *\nwork = source([1], 'numbers') >> consumer(print)",
            "source 'numbers' is no remote",
            marks=pytest.mark.thorough,
        ),
        ("from asyncpc import *\nwork = remote_queue('memory://x', int) >> consumer(print)", "memory:// is a queue"),
        ("import os\nos._exit(7)", "ended with status 7 before it was running"),
    ],
)
def test_a_start_that_fails_is_told_once(folder: Path, program: str, error: str) -> None:
    """Protects who typed it wrong: one message, the status of one process, and no second try."""
    (folder / "app.py").write_text(program)
    ended = command(folder, "app:work").end()
    assert ended.status == (7 if "_exit" in program else 2)
    assert (ended.out, ended.err.count("asyncpc: ")) == ("", 1)
    assert error in ended.err


@pytest.mark.thorough
def test_a_signal_while_they_import_ends_them(folder: Path) -> None:
    """Protects a stop just after the start: there is nothing to drain, and no failure."""
    (folder / "app.py").write_text("print('importing', flush=True)\nimport time\ntime.sleep(60)")
    child = command(folder, "app:work")
    child.line_with("importing")
    ended = stopped(child)
    assert ended.status == 143
    assert ended.seconds < 20
    assert "before it was running" not in ended.err


@pytest.mark.thorough
def test_sighup_brings_new_code_without_a_gap(folder: Path) -> None:
    """Protects a deployment in place: the new code handles what comes next, and nothing is lost or repeated."""
    put(folder, range(1000))
    held = hold(folder)
    child = command(folder, "app:work")
    wait_for_both(folder)
    held.unlink()
    old = set(children_of(child.pid))
    (folder / "app.py").write_text(APP.replace('note("done", n, os.getpid())', 'note("done", n, os.getpid(), "new")'))
    child.send(signal.SIGHUP)
    wait_for(lambda: len(children_of(child.pid)) == 2 and not old & set(children_of(child.pid)))
    put(folder, range(1000, 1100))
    wait_for(lambda: len(times(folder)) == 1100)
    ended = stopped(child)
    assert ended.status == 143
    assert times(folder) == Counter(range(1100))
    assert (folder / "log").read_text().count("new") >= 100
    assert ended.row("handle")[:2] == ["1100", "1100"]
    assert "replacing one process after the other" in ended.err


ON_A_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "asyncpc", "run", "app:work", "--processes", "2"])
"""


@pytest.mark.thorough
def test_a_terminal_that_is_closed_drains_it(folder: Path) -> None:
    """Protects from processes that nobody sees any more: the SIGHUP of a closed window is not that of an operator."""
    put(folder, range(2000))
    held = hold(folder)
    errors = folder / "errors"
    ours, theirs = os.openpty()
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", ON_A_TERMINAL],
            cwd=folder,
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
    os.close(theirs)
    wait_for_both(folder)
    os.close(ours)
    wait_for(lambda: "SIGHUP: all processes drain" in errors.read_text())
    held.unlink()
    assert process.wait(PATIENCE) == 128 + signal.SIGHUP
    handled = len(noted(folder))
    assert handled < 2000
    child = command(folder, "app:work")
    wait_for(lambda: len(times(folder)) == 2000)
    stopped(child)
    assert times(folder) == Counter(range(2000))


@pytest.mark.thorough
@pytest.mark.timeout(120)
def test_five_crashes_within_a_minute_end_it(folder: Path) -> None:
    """Protects from processes that die of every message: it waits longer each time, and then gives up."""
    put(folder, range(20))
    child = Child(folder, "-m", "asyncpc", "run", "app:deadly", "--processes", "1", "--json", patience=100)
    ended = child.end()
    assert ended.status == 1
    assert [float(one) for one in re.findall(r"another one starts in (\d+) s", ended.err)] == [1, 2, 4, 8]
    assert "process 1 ended with status 3, as 5 times within a minute" in ended.err
    assert json.loads(ended.out)["processes"] == {"count": 1, "crashes": 5}


def test_the_parent_serves_the_sum(folder: Path) -> None:
    """Protects a scrape: one port for all processes, counts that are sums, and probes that know how many run."""
    put(folder, range(200))
    child = command(folder, "app:work", "--metrics", "0")
    wait_for(lambda: len(noted(folder)) == 200)
    told = re.search(r"http://127\.0\.0\.1:\d+", child.errors_so_far())
    assert told is not None

    def text(path: str) -> str:
        return httpx.get(f"{told[0]}{path}").text

    wait_for(lambda: 'asyncpc_items_done_total{pipeline="work",stage="handle"} 200.0' in text("/metrics"))
    assert 'asyncpc_items_produced_total{pipeline="work",source="jobs"} 200.0' in text("/metrics")
    wait_for(lambda: 'asyncpc_workers{pipeline="work",stage="handle"} 8.0' in text("/metrics"))
    wait_for(lambda: text("/ready") == "work: 2 of 2 processes running\n")  # the second may still connect
    assert text("/live") == "work: 2 of 2 processes running\n"
    assert httpx.get(f"{told[0]}/ready").status_code == 200
    assert stopped(child).status == 143


def test_what_fails_is_written_and_told_as_for_one_process(folder: Path) -> None:
    """Protects --json and --failed: one object, one file of whole lines, no password."""
    put(folder, range(100))
    child = command(folder, "app:skipping", "--json", "--failed", "failed.jsonl")
    path = folder / "failed.jsonl"
    wait_for(lambda: path.exists() and path.read_text().count("\n") == 50)
    ended = stopped(child)
    found = json.loads(ended.out)
    assert ended.status == found["exit_status"] == 143
    assert (found["state"], found["signal"], found["unfinished"]) == ("closed", signal.SIGTERM, {})
    assert found["processes"] == {"count": 2, "crashes": 0}
    assert [(one["name"], one["failed"]) for one in found["statistics"]["stages"]] == [("picky", 50)]
    assert len(found["failures"]) == 50
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(one["item"] for one in rows) == list(range(1, 100, 2))
    assert "hunter2" not in ended.out + ended.err + path.read_text()


@pytest.mark.thorough
def test_no_password_is_in_the_list_of_processes(folder: Path) -> None:
    """Protects a value of --set from everybody who can type ps: the children get it through the pipe."""
    put(folder, range(100))
    held = hold(folder)
    child = command(folder, "app:make", "--set", "secret=hunter2")
    wait_for_both(folder)
    held.unlink()
    lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in children_of(child.pid)]
    ended = stopped(child)
    assert len(lines) == 2
    assert "hunter2" not in "".join(lines) + ended.out + ended.err


async def test_commands_of_the_parent_reach_the_runs(
    folder: Path, queue: RemoteQueue[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects pause, resume and scale over the pipe, and the answer to a stage that is not there."""
    monkeypatch.chdir(folder)
    options = dict.fromkeys(("drain_timeout", "log_level", "failed"), None)
    told: list[str] = []
    terms = Terms(
        1,
        [sys.executable, "-m", "asyncpc.cli.child"],
        options | {"target": "app:work", "set": [], "loop": "auto", "traceback": False, "views": "none"},
    )
    processes = Processes(terms, told.append, told.append, told.append)

    async def steer() -> None:
        await until(lambda: "work" in told)
        processes.pause()
        await put_into(queue, range(100))
        processes.scale("nothing", 3)
        await until(lambda: any("no stage 'nothing'" in one for one in told))
        assert noted(folder) == []
        processes.resume()
        processes.scale("handle", 7)
        await until(lambda: len(noted(folder)) == 100)
        now = processes.statistics
        await until(lambda: (seen := now()) is not None and seen.done == 100 and seen.stages[0].concurrency == 7)
        processes.drain(5.0)

    async with anyio.create_task_group() as group:
        group.start_soon(steer)
        outcome = await processes.run(nullcontext(), lambda processes: None)
    assert outcome.exit_status == 0
    assert outcome.report is not None
    assert outcome.report.done == 100


@pytest.mark.thorough
def test_a_value_that_only_one_process_would_get_is_passed_on(folder: Path) -> None:
    """Protects --drain-timeout and --quiet: a child drains within that time, and nothing but errors is shown."""
    ended = run_child(folder, "-m", "asyncpc", "run", "app:make", "--processes", "2", "--quiet")
    assert ended.status == 2
    assert ended.err == "asyncpc: 'app:make' needs --set secret=… (text)\n"


@pytest.mark.thorough
def test_a_queue_to_put_into_that_nobody_can_reach_ends_the_command(folder: Path) -> None:
    """Protects from trying for ever, as with the queue that is read: each try takes 15 s, so five a minute never come.

    What was received meanwhile is there.
    """
    client_of("redis")
    put(folder, range(10))
    ended = run_child(
        folder, "-m", "asyncpc", "run", "app:into_nowhere", "--processes", "2", "--set", f"port={free_port()}"
    )
    assert ended.status == 1
    assert "ended with status 1 before it was connected" in ended.err
    assert "elsewhere" in ended.err
    assert "another one starts" not in ended.err
    assert asyncio.run(queue_in(folder).depth())[:4] == (10, 0, 0, 0)


@pytest.mark.thorough
def test_sigusr1_tells_where_the_workers_of_all_processes_are(folder: Path) -> None:
    """Also of those whose loop a handler blocks; and nobody is disturbed by the question."""
    put(folder, range(200))
    child = command(folder, "app:blocking")
    wait_for(lambda: len(noted(folder, "blocks")) == 2)
    child.send(signal.SIGUSR1)
    wait_for(lambda: child.errors_so_far().count("blocks-1: at work") == 2)
    text = child.errors_so_far()
    child.send(signal.SIGTERM)
    ended = child.end()
    for _, pid in noted(folder, "blocks"):
        assert re.search(
            rf"asyncpc: process {pid}: pipeline '.*blocks': the event loop has not answered for \d\.\d s: "
            r"it is blocked by blocks \(app\.py:\d+ in blocks\)",
            text,
        )
    assert ended.status != -signal.SIGUSR1
