"""Several processes as one: started, watched, stopped and replaced; what they have done together is one report.

The processes of most tests here are small programs that speak the protocol of ``asyncpc.remote.processes.pipe`` and
nothing else; those of ``test_processes_for_real`` are the command itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from anyio.abc import Process
from support import named, until

from asyncpc import DefinitionError, merge, remote_queue, source
from asyncpc.cli.main import main
from asyncpc.core.seams import Depth
from asyncpc.graph.pipeline import plan_of
from asyncpc.remote.processes.child import check_shared
from asyncpc.remote.processes.outcome import Outcome
from asyncpc.remote.processes.parent import Processes, Terms
from asyncpc.remote.processes.pipe import Lines, line
from asyncpc.remote.processes.spawned import Child

pytestmark = [pytest.mark.realtime, pytest.mark.processes]

CHILD = """
import json, os, signal, socket, sys, time
pipe = socket.socket(fileno=int(sys.argv[-1]))
lines = pipe.makefile("r")
def say(kind, **rest):
    pipe.sendall(json.dumps({"kind": kind, **rest}).encode() + b"\\n")
def hear():
    try:
        return json.loads(lines.readline() or '{"kind": "end"}')
    except ConnectionResetError:  # the parent is gone, and has not read all
        return {"kind": "end"}
def noted(what):
    with open("log", "a") as log:
        log.write(f"{what} {os.getpid()}\\n")
STAGE = {"name": "work", "concurrency": 2, "received": 3, "done": 3, "failed": 0, "last_failure": "", "retried": 0,
    "dropped": 0, "in_flight": 0, "queued": 0, "peak_queued": 2, "emitted": 3, "unread": False, "put_waited": 0.0,
    "get_waited": 1.0, "out_waited": 0.0, "held_back": [["its rate", 0.5]], "loop_held": 0.1, "latency_p50": 0.1,
    "latency_p90": 0.2, "latency_p99": 0.3, "rate": 3.0}
DEPTH = {"ready": 9, "unacknowledged": 3, "delayed": 0, "dead": 1, "oldest": 2.5}
REMOTE = {"received": 3, "acknowledged": 3, "released": 0, "dead_letters": 0, "overtaken": 0, "reconnects": 1,
    "connections": 1, "depth": DEPTH, "seen": float(os.getpid()), "of a later version": 1}
SOURCE = {"name": "jobs", "produced": 3, "restarts": 0, "loop_held": 0.0, "remote": REMOTE}
def statistics(**other):
    return {"state": "running", "elapsed": 1.0, "sources": [SOURCE], "stages": [STAGE | other], "put": 0, "fed": 0,
        "ends": ["work"], "stop_asked": False}
def run():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # from now on the pipe says what to do
    say("running", pipeline="work", drain_timeout=20.0, bounds={"work": 128}, statistics=statistics())
def report(status=0, state="closed", number=None, failures=(), **other):
    say("report", report={"state": state, "exit_status": status, "signal": number, "statistics": statistics(**other),
        "failures": failures, "unfinished": {}, "abandoned": [], "errors": []})
    sys.exit(status)
def until_drain():
    while (heard := hear())["kind"] not in ("drain", "end"):
        noted(json.dumps(heard))
    noted("drained")
options = hear()["options"]
"""


class Told:
    """What the parent tells its user."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: list[str] = []


def parent(folder: Path, program: str, told: Told, count: int = 2, first_wait: float = 0.01) -> Processes:
    """Processes that run a program of the kind above."""
    (folder / "child.py").write_text(CHILD + program)
    command = [sys.executable, "-S", "-E", str(folder / "child.py")]
    terms = Terms(count, command, {"folder": str(folder)}, first_wait)
    return Processes(terms, told.lines.append, told.lines.append, told.names.append)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The children log into their directory, which is that of the test."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def reaped_by_the_loop() -> Iterator[None]:
    """Ended children are reaped by the event loop, as by default from Python 3.12 on Linux, and not in a thread."""
    if sys.version_info < (3, 12):
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
    yield
    if sys.version_info < (3, 12):
        asyncio.set_child_watcher(asyncio.ThreadedChildWatcher())  # the default


async def run(processes: Processes, *steps: Callable[[], Any]) -> Outcome:
    """Run them; between the steps, each of which returns true when its time has come, nothing is done."""

    async def steer() -> None:
        for step in steps:
            await until(step)

    found: list[Outcome] = []
    async with anyio.create_task_group() as group:
        group.start_soon(steer)
        found.append(await processes.run(nullcontext(), lambda processes: None))
        group.cancel_scope.cancel()
    return found[0]


def log(folder: Path, word: str = "") -> list[str]:
    """The lines of the children that begin with a word."""
    path = folder / "log"
    return [one for one in path.read_text().splitlines() if one.startswith(word)] if path.exists() else []


def has(folder: Path, word: str, count: int) -> Callable[[], bool]:
    return lambda: len(log(folder, word)) >= count


def all_run(processes: Processes) -> Callable[[], bool]:
    """Whether the parent knows it; a child that has said so may have written to the log before the parent read it."""
    return lambda: processes.health(1.0).ready


def drained(processes: Processes) -> Callable[[], bool]:
    """Ends it, as a step."""

    def drain() -> bool:
        processes.drain()
        return True

    return drain


def next_runs(processes: Processes, folder: Path) -> Callable[[], bool]:
    """Whether another process has begun in the place of the only one, and the parent knows it."""
    return lambda: has(folder, "ready", 2)() and all_run(processes)()


async def test_their_reports_are_one(tmp_path: Path) -> None:
    """Protects the sums: counts are added, what cannot be added is that of the highest, and all of it ends well."""
    told = Told()
    processes = parent(tmp_path, "run(); noted('ready'); report(latency_p99=0.3 + (os.getpid() % 2))", told)
    outcome = await run(processes)
    assert outcome.report is not None
    (stage,) = outcome.report.stages
    assert (outcome.exit_status, outcome.report.produced, outcome.report.done) == (0, 6, 6)
    assert (stage.concurrency, stage.peak_queued, stage.get_waited) == (4, 2, 2.0)
    assert stage.held_back == (("its rate", 1.0),)
    remote = outcome.report.sources[0].remote
    assert remote is not None
    assert (remote.acknowledged, remote.reconnects, remote.depth, remote.lag) == (6, 2, Depth(9, 3, 0, 1, 2.5), 2.5)
    assert remote.seen == max([int(one.split()[1]) for one in log(tmp_path)])
    assert outcome.report.complete
    assert told.names == ["work", "work"]
    assert told.lines == []


async def test_a_signal_drains_all_and_is_the_exit_status(tmp_path: Path) -> None:
    """Protects the first signal: each process is told once, also by a terminal that tells them itself."""
    told = Told()
    processes = parent(tmp_path, "run(); until_drain(); report()", told, 3)

    def stop() -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return True

    outcome = await run(processes, all_run(processes), stop)
    assert outcome.exit_status == 143
    assert outcome.report is not None
    assert (outcome.report.signal, outcome.report.done) == (signal.SIGTERM, 9)
    assert len(log(tmp_path, "drained")) == 3
    assert told.lines == ["asyncpc: SIGTERM: all processes drain; a second signal cancels now"]


async def test_what_outlasts_its_drain_is_killed(tmp_path: Path) -> None:
    """Protects the end: a second signal leaves two seconds, whatever a handler does; what it had is left."""
    told = Told()
    program = """
run()
say("statistics", statistics=statistics(in_flight=2, queued=1), stalled=[["work", 7.0]], silent=0.0)
noted("ready")
until_drain()
until_drain()
signal.pause()
"""
    processes = parent(tmp_path, program, told, 1)
    seen: list[Any] = []

    def stop() -> bool:
        seen.extend([processes.see(), processes.health(5.0)])
        for _ in range(2):
            processes._signalled(signal.SIGINT)
        return True

    outcome = await run(processes, lambda: (seen := processes.statistics()) is not None and seen.stages[0].queued, stop)
    assert outcome.exit_status == 1
    assert outcome.report is not None
    assert outcome.report.left_by_stage() == {"work": 3}
    assert [error for error in outcome.errors if "SIGKILL, since it took longer than its drain may" in error]
    figures, health = seen
    assert (figures.running, figures.present["in_flight", "work"], figures.present["maxsize", "work"]) == (True, 2, 128)
    assert (figures.present["ready", "jobs"], figures.counts["acknowledged", "jobs"]) == (9, 3)
    assert (figures.present["stalled", "work"], figures.counts["done", "work"]) == (7.0, 3)
    assert (health.live, health.ready, health.stalled) == (True, True, (("work", 7.0),))
    assert health.why == "1 of 1 processes running; work: nothing settled for 7 s"


async def test_one_that_dies_is_replaced_and_its_counts_stay(tmp_path: Path) -> None:
    """Protects the work of the others: a crash is told, another process goes on, and no counter falls."""
    told = Told()
    program = """
run()
say("statistics", statistics=statistics(), stalled=[], silent=0.0)
noted("ready")
if len(open("log").readlines()) == 1:
    os.kill(os.getpid(), signal.SIGKILL)
until_drain()
report()
"""
    processes = parent(tmp_path, program, told, 1)

    def stop() -> bool:
        processes.scale("work", 3)
        processes.drain()
        return True

    outcome = await run(processes, next_runs(processes, tmp_path), stop)
    assert outcome.report is not None
    assert (outcome.exit_status, outcome.crashes, outcome.report.done) == (0, 1, 6)
    assert outcome.report.stages[0].concurrency == 2
    assert told.lines == ["asyncpc: process 1 was ended by SIGKILL; another one starts in 0.01 s"]


async def test_five_crashes_of_one_end_all(tmp_path: Path) -> None:
    """Protects from processes that die again and again: the others drain, and the status says that it failed."""
    told = Told()
    program = """
run()
try:
    open("good", "x").close()
except FileExistsError:
    report(1, "failed")
until_drain()
report()
"""
    outcome = await run(parent(tmp_path, program, told))
    assert outcome.report is not None
    assert (outcome.exit_status, outcome.crashes, outcome.report.statistics.state) == (1, 5, "failed")
    assert outcome.report.done == 18
    assert len(log(tmp_path, "drained")) == 1
    place = told.lines[0].split()[2]
    waits = [
        f"asyncpc: process {place} ended with status 1; another one starts in {s} s" for s in (0.01, 0.02, 0.04, 0.08)
    ]
    assert told.lines == [
        *waits,
        f"asyncpc: process {place} ended with status 1, as 5 times within a minute: all others drain",
    ]


async def test_a_parent_that_is_cancelled_leaves_nobody(tmp_path: Path) -> None:
    """Protects who runs the parent in a program of its own: the end of the pipe drains, and it waits for that."""
    processes = parent(tmp_path, "run(); until_drain()", Told())
    with anyio.CancelScope() as scope:

        def cancel() -> bool:
            scope.cancel()
            return True

        await run(processes, all_run(processes), cancel)
    assert len(log(tmp_path, "drained")) == 2


async def test_a_start_that_fails_ends_all_and_is_told_once(tmp_path: Path) -> None:
    """Protects from trying for ever: a wrong name in the command is told as for one process, with its status."""
    told = Told()
    outcome = await run(parent(tmp_path, "say('failed', status=2, lines=['no such name']); sys.exit(2)", told, 3))
    assert (outcome.exit_status, outcome.lines, outcome.report) == (2, ["no such name"], None)
    assert told.lines == []


async def test_one_that_dies_before_it_runs_is_a_start_that_failed(tmp_path: Path) -> None:
    """Protects the same where the process could not say why, as in a crash of a library that it imports."""
    told = Told()
    outcome = await run(parent(tmp_path, "os.kill(os.getpid(), signal.SIGSEGV)", told, 1))
    assert outcome.exit_status == 128 + signal.SIGSEGV
    assert outcome.lines == ["asyncpc: process 1 was ended by SIGSEGV before it was running"]


UNREACHABLE = """
def run_in_vain():
    REMOTE["connections"] = 0
    run()
    noted("in vain")
    report(1, "failed")
"""
"""What a child does whose queue nobody can reach."""


async def test_a_first_connection_that_fails_is_a_start_that_failed(tmp_path: Path) -> None:
    """Protects from trying for ever where each try takes so long that five within a minute never come."""
    told = Told()
    outcome = await run(parent(tmp_path, UNREACHABLE + "run_in_vain()", told, 1))
    assert (outcome.exit_status, outcome.crashes, len(log(tmp_path, "in vain"))) == (1, 0, 1)
    assert outcome.lines == ["asyncpc: process 1 ended with status 1 before it was connected"]
    assert told.lines == []


async def test_one_that_is_stopped_before_it_is_connected_is_replaced(tmp_path: Path) -> None:
    """Protects whoever stops one process only: that is no failure, at whatever moment it comes."""
    told = Told()
    program = """
noted("ready")
if len(open("log").readlines()) == 1:
    REMOTE["connections"] = 0
    run()
    report(143, "closed", signal.SIGTERM)
run()
until_drain()
report()
"""
    processes = parent(tmp_path, program, told, 1)

    outcome = await run(processes, next_runs(processes, tmp_path), drained(processes))
    assert (outcome.exit_status, outcome.crashes) == (0, 0)
    assert told.lines == ["asyncpc: somebody else has stopped process 1: another one takes its place"]


async def test_one_that_cannot_connect_beside_one_that_could_is_replaced(tmp_path: Path) -> None:
    """Protects the work of the others: what has worked is worth another try."""
    told = Told()
    program = """
try:
    open("first", "x").close()
except FileExistsError:
    while not os.path.exists("log") or not open("log").readlines():  # the other one makes it
        time.sleep(0.005)
    if len(open("log").readlines()) == 1:
        run_in_vain()
run()
noted("ready")
until_drain()
report()
"""
    processes = parent(tmp_path, UNREACHABLE + program, told)

    outcome = await run(processes, has(tmp_path, "ready", 2), all_run(processes), drained(processes))
    assert (outcome.exit_status, outcome.crashes) == (0, 1)
    (line,) = told.lines
    assert line.endswith("ended with status 1; another one starts in 0.01 s")


async def test_what_cannot_connect_replaces_nothing(tmp_path: Path) -> None:
    """Protects a service from new code with a wrong URL, for which all old processes would have drained."""
    told = Told()
    program = """
if os.path.exists("broken"):
    run_in_vain()
run(); until_drain(); report()
"""
    processes = parent(tmp_path, UNREACHABLE + program, told)

    def roll() -> bool:
        (tmp_path / "broken").touch()
        processes.roll()
        return True

    steps = all_run(processes), roll, lambda: any("as they are" in one for one in told.lines), drained(processes)
    outcome = await run(processes, *steps)
    assert (outcome.exit_status, outcome.crashes, len(log(tmp_path, "in vain"))) == (0, 0, 1)
    assert told.lines[1:] == [
        "asyncpc: the new process ended with status 1 before it was connected; the others go on as they are"
    ]


async def test_a_signal_while_they_start_is_no_failure(tmp_path: Path) -> None:
    """Protects a stop at an early moment: a process that still imports ends at once, by the signal."""
    told = Told()

    def stop() -> bool:
        processes._signalled(signal.SIGTERM)
        return True

    processes = parent(tmp_path, "noted('importing'); signal.pause()", told)
    outcome = await run(processes, has(tmp_path, "importing", 2), stop)
    assert (outcome.exit_status, outcome.report, outcome.crashes) == (143, None, 0)


async def test_sighup_replaces_one_after_the_other(tmp_path: Path) -> None:
    """Protects a change of the code: the next one drains when the new one runs, so there are never fewer."""
    told = Told()
    program = "signal.signal(signal.SIGTERM, signal.SIG_IGN); noted('ready'); run(); until_drain(); report()"
    processes = parent(tmp_path, program, told)

    def roll() -> bool:
        os.kill(os.getpid(), signal.SIGHUP)
        return True

    outcome = await run(processes, all_run(processes), roll, has(tmp_path, "drained", 2), drained(processes))
    assert outcome.report is not None
    assert (outcome.exit_status, outcome.crashes, outcome.report.done) == (0, 0, 12)
    words = [one.split()[0] for one in log(tmp_path)]
    assert words[:6] == ["ready", "ready", "ready", "drained", "ready", "drained"]
    assert len({one.split()[1] for one in log(tmp_path, "ready")}) == 4


async def test_sigusr1_asks_each_process_where_its_workers_are(tmp_path: Path) -> None:
    """The signal itself would end a process that has no run yet, or none any more."""
    told = Told()
    program = "noted('ready'); run(); noted(hear()['kind']); until_drain(); report()"
    processes = parent(tmp_path, program, told)

    def ask() -> bool:
        os.kill(os.getpid(), signal.SIGUSR1)
        return True

    outcome = await run(processes, all_run(processes), ask, has(tmp_path, "where", 2), drained(processes))
    assert (outcome.exit_status, outcome.crashes) == (0, 0)


@pytest.mark.parametrize(
    ("end", "how", "failures"),
    [
        ("os._exit(3)", "ended with status 3", []),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL", []),
        ("report(1, 'failed', failures=[{'item': '7'}])", "ended with status 1", [{"item": "7"}] * 2),
    ],
    ids=["exit", "kill", "report"],
)
async def test_one_that_fails_while_it_is_replaced_is_told(
    tmp_path: Path, end: str, how: str, failures: list[Any]
) -> None:
    """Protects from silence: a process may also crash while it drains, and what it reports is not lost with it."""
    told = Told()
    program = f"""
first = not os.path.exists("rolled")
run()
until_drain()
if first:
    {end}
report()
"""
    processes = parent(tmp_path, program, told)

    def roll() -> bool:
        (tmp_path / "rolled").touch()
        processes.roll()
        return True

    crashed = [f"asyncpc: process {n} {how} before it had drained; another one runs" for n in (1, 2)]
    outcome = await run(
        processes, all_run(processes), roll, lambda: set(crashed) <= set(told.lines), drained(processes)
    )
    assert (outcome.crashes, outcome.failures) == (2, failures)


async def test_one_that_came_in_vain_is_counted(tmp_path: Path) -> None:
    """Protects the sums: the old process ends by itself just when the new one has begun, which then is not needed."""
    told = Told()
    program = """
def until(path):
    while not os.path.exists(path):
        time.sleep(0.005)
if os.path.exists("rolled"):
    noted("second"); until("gone"); run(); until_drain(); report()
run(); until("go"); report()
"""
    processes = parent(tmp_path, program, told, 1)

    def make(name: str) -> Callable[[], bool]:
        def write() -> bool:
            (tmp_path / name).touch()
            return True

        return write

    def roll() -> bool:
        processes.roll()
        return True

    begun = has(tmp_path, "second", 1)
    steps = all_run(processes), make("rolled"), roll, begun, make("go"), lambda: not processes.health(60).ready
    outcome = await run(processes, *steps, make("gone"))
    assert outcome.report is not None
    assert outcome.report.done == 6


async def test_what_cannot_start_replaces_nothing(tmp_path: Path) -> None:
    """Protects a service from a broken change: those that run go on."""
    told = Told()
    program = """
if os.path.exists("broken"):
    say("failed", status=2, lines=["broken"]); sys.exit(2)
run(); until_drain(); report()
"""
    processes = parent(tmp_path, program, told)

    def roll() -> bool:
        (tmp_path / "broken").touch()
        processes.roll()
        return True

    outcome = await run(
        processes, all_run(processes), roll, lambda: any("as they are" in one for one in told.lines), drained(processes)
    )
    assert (outcome.exit_status, outcome.crashes) == (0, 0)
    assert told.lines[1:] == [
        "broken",
        "asyncpc: the new process ended with status 2 before it was running; the others go on as they are",
    ]


async def test_commands_reach_all_and_those_that_start_later(tmp_path: Path) -> None:
    """Protects what a screen can ask for: pause, resume, scale, for every process, and an answer to what cannot be."""
    told = Told()
    program = "run(); say('refused', why='no such stage'); until_drain(); report()"
    processes = parent(tmp_path, program, told, 1)

    def command() -> bool:
        processes.pause()
        processes.scale("work", 3)
        processes.resume()
        return True

    def roll() -> bool:
        processes.roll()
        return True

    def stop() -> bool:
        processes.drain(20.0)
        return True

    refused = ["asyncpc: no such stage"]
    await run(
        processes, lambda: told.lines == refused, command, has(tmp_path, "{", 3), roll, has(tmp_path, "{", 5), stop
    )
    commands = [json.loads(one.rpartition(" ")[0]) for one in log(tmp_path, "{")]
    scale = {"kind": "scale", "stage": "work", "concurrency": 3}
    assert commands == [{"kind": "pause"}, scale, {"kind": "resume"}, {"kind": "resume"}, scale]


async def test_a_child_that_somebody_else_stops_is_replaced(tmp_path: Path) -> None:
    """Protects the number of processes: a signal to one of them is no crash, and no end of the whole."""
    told = Told()
    program = """
run()
noted("ready")
if len(open("log").readlines()) == 1:
    report(143, number=15)
until_drain()
report()
"""
    processes = parent(tmp_path, program, told, 1)

    outcome = await run(processes, next_runs(processes, tmp_path), drained(processes))
    assert (outcome.exit_status, outcome.crashes) == (0, 0)
    assert told.lines == ["asyncpc: somebody else has stopped process 1: another one takes its place"]


async def test_a_signal_to_what_has_just_ended_leaves_its_status(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, reaped_by_the_loop: None
) -> None:
    """Protects the status of a process: to send it a signal is not to take note of its end before asyncio does."""
    program = """
import time
run()
until_drain()
while not os.path.exists("end"):
    time.sleep(0.001)
os._exit(3)
"""
    processes = parent(tmp_path, program, Told(), 1)

    def drain() -> bool:
        processes._signalled(signal.SIGINT)
        return True

    def kill() -> bool:
        (tmp_path / "end").touch()
        pid = log(tmp_path, "drained")[0].split()[1]
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            pass  # asyncio cannot see that it has ended, since its loop does not go on
        for _ in range(2):
            processes._signalled(signal.SIGINT)
        return True

    outcome = await run(processes, all_run(processes), drain, has(tmp_path, "drained", 1), kill)
    assert [error.partition(" ended ")[2] for error in outcome.errors] == ["with status 3"]
    assert caplog.messages == []


async def test_a_system_that_refuses_processes_ends_it(tmp_path: Path) -> None:
    """Protects the message: one line, no traceback."""
    told = Told()
    terms = Terms(2, [str(tmp_path / "no python")], {})
    outcome = await run(Processes(terms, told.lines.append, told.lines.append, told.names.append))
    assert outcome.exit_status == 1
    assert outcome.lines == ["asyncpc: cannot start a process: No such file or directory"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux names a process by more than its number")
def test_a_signal_never_reaches_a_process_that_has_the_number_of_another() -> None:
    """Protects everybody else: a process ends, and its number is given anew before asyncio knows of the end."""

    class Numbered:
        returncode = None
        pid = 0

    process = Numbered()

    async def child_at(pipe: socket.socket) -> Child:
        return Child(cast(Process, process), pipe)

    ours, theirs = socket.socketpair()
    ended, other = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(2)]
    with ours, theirs, ended, other:
        process.pid = ended.pid
        child = asyncio.run(child_at(ours))
        ended.kill()
        ended.wait()
        process.pid = other.pid
        child.kill()
        other.communicate(b"\n")
        assert other.returncode == 0


def test_lines_arrive_in_any_pieces() -> None:
    """Protects the protocol: a socket cuts where it likes, and what is no message is passed over."""
    text = line("pause") + b"nonsense\n[1]\n" + line("drain", timeout=None)
    for size in (1, 7, len(text)):
        lines = Lines()
        found = [one for at in range(0, len(text), size) for one in lines.messages(text[at : at + size])]
        assert found == [{"kind": "pause"}, {"kind": "drain", "timeout": None}]


async def handle(item: int) -> None: ...


def test_what_processes_cannot_share_is_refused() -> None:
    """Protects from work that is done N times, or vanishes: the message says why, and what works."""
    stage = named("handle", handle)
    jobs = remote_queue("sqlite:///unused.db?queue=jobs", int)
    memory = remote_queue("memory://mine", int)
    check_shared(plan_of(jobs >> stage))
    for pipeline, why in (
        (
            source([1], "numbers") >> stage,
            r"'numbers' is no remote queue: each process would read all of it; .*jobs >> …",
        ),
        (merge(jobs, source([1], "numbers")) >> stage, "'numbers' is no remote queue"),
        (memory >> stage, "'mine' cannot be shared: memory:// is a queue within one process, .*sqlite:///"),
        (jobs >> named("same", same) >> memory, "nobody could read 'mine': memory:// is a queue within one process"),
    ):
        with pytest.raises(DefinitionError, match=why):
            check_shared(plan_of(pipeline))


async def same(item: int) -> int:
    return item


def test_reload_is_refused_with_what_works(capsys: pytest.CaptureFixture[str]) -> None:
    """Protects from two parents of which each restarts the other's processes."""
    assert main(["run", "app", "--processes", "2", "--reload"]) == 2
    assert "leave --processes out while you edit; with --processes, SIGHUP replaces" in capsys.readouterr().err


@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_a_number_of_processes_is_one(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Protects the command line: what is typed is told as it was."""
    with pytest.raises(SystemExit):
        main(["run", "app", "--processes", count])
    assert "is not a whole number, at least 1" in capsys.readouterr().err
