"""Handlers in worker processes: nothing is lost when one dies, none is left behind, mistakes are explained."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import elsewhere
import pytest
from children import Child, run_child
from support import BUSY, until

from asyncpc import (
    DefinitionError,
    Failure,
    NotPicklable,
    Pipeline,
    PipelineError,
    StateError,
    WorkerDied,
    consumer,
    source,
)
from asyncpc.offload.calls import Job
from asyncpc.offload.processes import DEPTH, ProcessCaller
from asyncpc.testing import collect

pytestmark = [pytest.mark.realtime, pytest.mark.processes]


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """A run that has ended has no process any more."""
    yield
    assert not multiprocessing.active_children()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def one_gone(processes: set[int]) -> None:
    """Until one of them has ended, which no event tells this loop."""
    while not any(map(gone, processes)):  # noqa: ASYNC110  # no event of this loop tells of it
        await asyncio.sleep(0.01)


async def written_by_another_process(path: Path) -> int:
    """The number in a file that appears whole: no event of this loop tells of it, so it is looked for."""
    while not os.path.exists(path):  # noqa: ASYNC110, ASYNC240  # no event tells of it; a stat takes 2 µs
        await asyncio.sleep(0.01)
    return int(path.read_text())  # noqa: ASYNC240  # a few bytes that are there already


CHILDREN_IGNORED = """
import asyncio, os, signal
from asyncpc import consumer, source

@consumer(concurrency=2, run_in="process", on_error="skip")
def work(n):
    if n == 3:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    async def main():
        return await (source(range(6)) >> work)
    report = asyncio.run(main())
    print("done", report.done, "failed", report.failed, flush=True)
"""


CTRL_C = """
import os, time
from asyncpc import consumer, producer, run

@producer
def numbers():
    while True:
        yield 1

@consumer(concurrency=2, run_in="process")
def work(n):
    time.sleep(0.01)  # work for a process: long enough that both get some; nothing depends on how long
    return os.getpid()

@consumer
async def show(pid):
    print("process", pid, flush=True)

if __name__ == "__main__":
    report = run(numbers >> work >> show)
    print("left", len(report.unfinished), flush=True)
"""


async def test_calls_are_made_in_processes_and_come_back() -> None:
    """Each item once, in other processes than ours, no more of them than the concurrency says."""
    assert sorted(await collect(source(range(200)) >> elsewhere.square)) == [n * n for n in range(200)]
    told = await collect(source(range(200)) >> elsewhere.where)
    assert sorted(n for n, _ in told) == list(range(200))
    processes = {pid for _, pid in told}
    assert os.getpid() not in processes
    assert 1 <= len(processes) <= 2
    assert all(map(gone, processes))


async def test_scale_changes_the_number_of_processes() -> None:
    """The statistics tell what was asked for; more processes start when there is work, those too many end."""

    async def serving() -> set[int]:
        told = await asyncio.gather(*[running.call(n) for n in range(200)])
        return {pid for _, pid in told}

    async with Pipeline(elsewhere.where) as running:
        before = await serving()
        assert (len(before), running.statistics().stages[0].concurrency) == (2, 2)
        running.scale("where", 1)
        assert running.statistics().stages[0].concurrency == 1
        await one_gone(before)
        kept = await serving()
        assert len(kept) == 1
        assert kept < before
        running.scale("where", 2)
        grown = await serving()
        assert len(grown) == 2
        assert kept < grown
        assert not grown & (before - kept)
    assert all(map(gone, before | grown))


async def test_a_generator_gives_any_number() -> None:
    """A generator in a process is a list on its way back; nothing of it is lost."""
    assert await collect(source(["a b", "", "c"]) >> elsewhere.words) == ["a", "b", "c"]
    assert list(elsewhere.words("x y")) == ["x", "y"]  # called, it is just the function


async def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    """SIGKILL in the midst of the run: the process is replaced, its item handled by another, the run goes on."""
    jobs = [(n, str(tmp_path)) for n in range(50)]
    assert sorted(await collect(source(jobs) >> elsewhere.kill_once)) == list(range(50))
    assert (tmp_path / "killed").exists()


async def test_a_process_killed_from_outside_is_replaced(tmp_path: Path) -> None:
    """The same while it waits for work: who finds it dead starts another."""
    async with Pipeline(elsewhere.where) as running:
        _, pid = await running.call(1)
        os.kill(pid, signal.SIGKILL)
        told = [await running.call(n) for n in range(10)]
    assert [n for n, _ in told] == list(range(10))
    assert running.report is not None
    assert running.report.complete


async def test_items_that_travel_together_share_nothing_but_the_trip() -> None:
    """Each fails by itself, has its own place in the order, and changes no list that another item holds as well."""
    shared: list[int] = []
    items = [shared if n % 5 == 0 else "ab" if n % 5 == 1 else n for n in range(500)]
    failures: list[Any] = []

    @consumer
    async def note(failure: Failure) -> None:
        failures.append(failure)

    mixed = consumer(concurrency=2, run_in="process", ordered=True, on_error=note)(elsewhere.mixed)
    given = await collect(source(items) >> mixed)
    refused = [n for n in items if isinstance(n, int) and n % 7 == 3]
    assert sorted(failure.item for failure in failures) == refused
    assert {(failure.error, failure.attempts) for failure in failures} == {(f"ValueError: {n}", 1) for n in refused}
    assert given == [[0] if n is shared else 2 * n for n in items if n not in refused]


async def test_large_items_travel_alone() -> None:
    """Protects memory: dozens of large items in one message, only because each of them is handled quickly."""
    caller = ProcessCaller("stage", ("elsewhere", "mixed", False), generates=False, several=True)

    def make(items: list[Any]) -> None:
        caller.make([Job(loop.create_future(), copy_context(), elsewhere.mixed, (item,)) for item in items])

    loop = asyncio.get_running_loop()
    try:
        for _ in range(30):
            await asyncio.to_thread(make, ["small"] * caller.most())
        together = caller.most()
        await asyncio.to_thread(make, ["x" * 3_000_000])
        assert (together, caller.most()) == (DEPTH // 2, 1)
        for _ in range(30):
            await asyncio.to_thread(make, ["small"] * caller.most())
        assert caller.most() == DEPTH // 2
    finally:
        await asyncio.to_thread(caller.close)


async def test_a_process_that_dies_makes_again_only_the_calls_that_it_had(tmp_path: Path) -> None:
    """Of hundreds that are on their way at once, and all are accounted for."""
    jobs = [(n, str(tmp_path)) for n in range(600)]
    assert sorted(await collect(source(jobs) >> elsewhere.noted)) == list(range(600))
    calls = Counter(map(int, (tmp_path / "calls").read_text().split()))
    assert set(calls) == set(range(600))
    again = [n for n, times in calls.items() if times > 1]
    assert 150 in again
    assert max(calls.values()) == 2
    assert len(again) <= DEPTH // 2  # what travels together at most


async def test_what_is_on_its_way_at_the_deadline_of_a_drain_is_listed(tmp_path: Path) -> None:
    """All that waits behind an item that is stuck: each was done or is listed, whatever was given back meanwhile."""
    path = tmp_path / "pid"
    async with Pipeline(elsewhere.stuck_for_a_path) as running:
        for n in range(100):
            await running.put(n)
        await until(lambda: running.statistics().done == 100)
        for item in [*range(20), str(path), *range(100)]:
            await running.put(item)
        pid = await written_by_another_process(path)
        report = await running.drain(timeout=0.1)
    assert report.stages[0].received == 221
    assert report.done + len(report.unfinished) == 221
    assert str(path) in [one.item for one in report.unfinished]
    await until(lambda: gone(pid))


async def test_an_item_that_kills_its_process_fails_by_name() -> None:
    """Twice is enough: it is counted as failed, and the items around it are handled."""
    report = await (source(range(6)) >> elsewhere.kill_always)
    assert (report.done, report.failed) == (5, 1)
    with pytest.raises(PipelineError) as caught:
        await (source([3]) >> consumer(run_in="process")(elsewhere.kill_always.__wrapped__))
    (error,) = caught.value.exceptions
    assert isinstance(error, WorkerDied)
    assert "'kill_always': two processes died with this item, by SIGKILL: find out what" in str(error)


async def test_a_timeout_ends_the_call() -> None:
    """Unlike a thread, a process can be interrupted: the call fails in time, and the next has a fresh one."""
    report = await (source(range(3)) >> elsewhere.too_slow)
    assert (report.done, report.failed) == (2, 1)


def one_job(handler: Any, path: Path) -> Job:
    """A call that somebody awaits."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    return Job(future, copy_context(), handler, (str(path),))


async def test_a_call_that_was_killed_for_another_is_made_again(tmp_path: Path) -> None:
    """As long as somebody awaits it; it has not failed, and this is no try of its own."""
    caller = ProcessCaller("stage", ("elsewhere", "stuck_once", True), generates=False, several=False)
    job = one_job(elsewhere.stuck_once, tmp_path / "begun")
    made = asyncio.ensure_future(asyncio.to_thread(caller.make, [job]))
    await written_by_another_process(tmp_path / "begun")
    caller.interrupt()
    await made
    assert (job.error, job.tries) == (None, 0)
    assert job.value == str(tmp_path / "begun")
    caller.interrupt()  # it has answered just before
    job = one_job(elsewhere.stuck_once, tmp_path / "begun")
    await asyncio.to_thread(caller.make, [job])
    await asyncio.to_thread(caller.close)
    assert (job.error, job.tries, job.value) == (None, 0, str(tmp_path / "begun"))


async def test_a_timeout_ends_a_call_that_started_a_process(tmp_path: Path) -> None:
    """That one keeps the pipe open, so the pipe does not tell that the process has ended."""
    path = tmp_path / "pid"
    async with Pipeline(elsewhere.forks) as running:
        await running.put(str(path))
        helper = await written_by_another_process(path)
        await until(lambda: running.statistics().failed == 1)
        await running.put("")
        await until(lambda: running.statistics().done == 1)
        assert not gone(helper)
        os.kill(helper, signal.SIGKILL)


async def test_a_drain_interrupts_what_is_stuck(tmp_path: Path) -> None:
    """Promise 5: a drain returns in its time, the item is listed, and the process is gone."""
    path = str(tmp_path / "pid")
    async with Pipeline(elsewhere.announce) as running:
        await running.put(path)
        pid = await written_by_another_process(Path(path))
        began = time.monotonic()
        report = await running.drain(timeout=0.1)
        assert time.monotonic() - began < 0.1 + BUSY
    assert [(one.item, one.stage) for one in report.unfinished] == [(path, "announce")]
    await until(lambda: gone(pid))
    # on a busy machine its thread may be left behind by name before it hears that the process is gone
    await until(lambda: not any(thread.name.startswith("asyncpc:announce") for thread in threading.enumerate()))


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (threading.Lock(), "its item cannot be sent to a process"),
        (
            "unreadably",
            "its handler raised Unreadable: unreadable, which cannot be sent back as it is: let its class pass all",
        ),
        ("as nothing", "its handler raised Vanishing: , which cannot be sent back as it is: let its class pass all"),
        ("unpicklable result", "its result cannot be sent back"),
    ],
)
async def test_what_cannot_be_pickled_is_explained(item: object, told: str) -> None:
    """The error names the stage and what could not travel, instead of showing the insides of pickle only."""
    with pytest.raises(PipelineError) as caught:
        await (source([item]) >> elsewhere.fails)
    (error,) = caught.value.exceptions
    assert isinstance(error, NotPicklable)
    assert f"stage 'fails': {told}" in str(error)


async def test_an_item_that_stops_the_program_does_not_stop_a_thread() -> None:
    """Whatever pickling raises comes out; else the thread would end, and its worker wait for ever (fault B13)."""
    with pytest.raises(KeyboardInterrupt):
        await Pipeline([elsewhere.Explosive()], consumer(run_in="process")(elsewhere.square.__wrapped__))


async def test_feed_in_a_process_says_what_to_do_instead() -> None:
    """It has no way to the run; a silent loss would look like a crawl that ends early."""
    with pytest.raises(PipelineError) as caught:
        await (source([1]) >> elsewhere.feeds)
    (error,) = caught.value.exceptions
    assert isinstance(error, StateError)
    assert "from a process or interpreter of stage 'feeds': return the items, or yield them" in str(error)


async def test_an_error_over_there_comes_out_as_itself() -> None:
    """With its class, so that ``except*`` and ``Retry(on=)`` work, and its traceback as a note without the password."""
    with pytest.raises(PipelineError) as caught:
        await (source(["plainly"]) >> elsewhere.fails)
    (error,) = caught.value.exceptions
    assert isinstance(error, ValueError)
    notes = "".join(error.__notes__)
    assert "elsewhere.py" in notes
    assert "redis://me:***@host" in notes
    assert "hunter2" not in notes


async def test_a_process_may_ask_for_patience(tmp_path: Path) -> None:
    """``RetryLater`` comes back from a process as it was raised there: no failure, and the seconds it said."""
    report = await (source([str(tmp_path / "asked")]) >> consumer(run_in="process")(elsewhere.patient))
    (stage,) = report.stages
    assert (stage.done, stage.failed, stage.retried) == (1, 0, 1)


async def test_functions_that_a_process_cannot_find_are_refused() -> None:
    """Where it is written if that can be seen there, else before anything runs."""
    with pytest.raises(DefinitionError, match="must be defined at the top level of a module"):

        @consumer(run_in="process")
        def inside(n: int) -> int:
            return n

    def moved(n: int) -> int:
        return n

    moved.__qualname__ = "nowhere"
    with pytest.raises(DefinitionError, match="it must be defined at the top level of a module"):
        await (source([1]) >> consumer(run_in="process")(moved))


def test_a_program_that_ignores_its_children(tmp_path: Path) -> None:
    """The system then tells nobody how a process ended; the run knows that it did, and goes on."""
    (tmp_path / "program.py").write_text(CHILDREN_IGNORED)
    ended = run_child(tmp_path, "program.py")
    assert (ended.out, ended.status) == ("done 5 failed 1\n", 0)
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.thorough)])
def test_no_process_outlives_the_program(tmp_path: Path, sent: signal.Signals) -> None:
    """Ctrl-C goes to all processes and drains, with nothing lost; SIGKILL goes to one, and the others follow."""
    (tmp_path / "program.py").write_text(CTRL_C)
    child = Child(tmp_path, "program.py", own_group=True)
    pids = {int(child.line_with("process").split()[1]) for _ in range(20)}
    if sent is signal.SIGINT:
        child.send_to_group(sent)
        assert "left 0" in child.line_with("left")
    else:
        child.send(sent)
    ended = child.end()
    assert "Traceback" not in ended.err
    deadline = time.monotonic() + 10
    while not all(map(gone, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)  # between two looks: who is no parent of a process cannot wait for its end


SPINS = """
import asyncio, os, sys
from asyncpc import Pipeline, consumer, run

def spin(n):
    with open(sys.argv[1], "w") as file:
        file.write(str(os.getpid()))
    while True:
        pass

if __name__ == "__main__":
    run(Pipeline([1], consumer(run_in="process")(spin)))
"""


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc to see whether a process is gone")
def test_h13_a_process_in_a_call_ends_with_its_parent(tmp_path: Path) -> None:
    """Kill -9 of the parent must not leave a process that spins in its call for ever."""
    (tmp_path / "spins.py").write_text(SPINS)
    told = tmp_path / "pid"
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    command = [sys.executable, "spins.py", str(told)]
    with subprocess.Popen(command, cwd=tmp_path, env=environment) as parent:
        until = time.monotonic() + 30
        while not (told.exists() and told.read_text()) and time.monotonic() < until:
            os.sched_yield()
        parent.send_signal(signal.SIGKILL)
    child = int(told.read_text())
    until = time.monotonic() + 20
    while _alive(child) and time.monotonic() < until:
        os.sched_yield()
    assert not _alive(child)
