"""Faults that programs found in threads, processes and interpreters: each test is the program that shows one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import elsewhere
import pytest
from support import switching_often

from asyncpc import DefinitionError, Pipeline, consumer, source

THERE = sys.version_info >= (3, 13)
"""Whether this Python has interpreters to make calls in."""


async def test_h4_threads_that_wait_for_room_need_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes room wakes a thread; with a bound of 1 each item was half a millisecond late."""
    timers: list[Any] = []
    loop = asyncio.get_running_loop()
    if isinstance(loop, asyncio.BaseEventLoop):  # uvloop's methods cannot be replaced
        monkeypatch.setattr(loop, "call_later", lambda *args, **kwargs: timers.append(args))
    got: list[int] = []

    @consumer
    async def keep(n: int) -> None:
        got.append(n)

    async with Pipeline(keep, maxsize=1) as running:

        def put_all(first: int) -> None:
            for n in range(first, 400, 4):
                running.put_from_thread(n)

        await asyncio.gather(*(asyncio.to_thread(put_all, first) for first in range(4)))
        report = await running.drain()
    assert sorted(got) == list(range(400))
    assert report.stages[0].peak_queued <= 1
    assert timers == []


@pytest.mark.parametrize("threads", [2, 4, 16])
@pytest.mark.parametrize("maxsize", [1, 2, 8])
async def test_no_item_of_a_thread_stays_on_its_way(threads: int, maxsize: int) -> None:
    """An item that is taken of a thread that waits for room is moved, also if all threads have gone by then."""
    got: list[int] = []
    all_came = asyncio.Event()

    @consumer
    async def keep(n: int) -> None:
        got.append(n)
        if len(got) == 600:
            all_came.set()

    with switching_often():
        async with Pipeline(keep, maxsize=maxsize) as running:

            def put_all(first: int) -> None:
                for n in range(first, 600, threads):
                    running.put_from_thread(n)

            pool = ThreadPoolExecutor(threads)
            try:
                calls = [asyncio.wrap_future(pool.submit(put_all, first)) for first in range(threads)]
                await asyncio.gather(*calls)
                async with asyncio.timeout(20):
                    await all_came.wait()
            finally:
                pool.shutdown()
    assert sorted(got) == list(range(600))


async def test_h6_what_threads_have_on_their_way_counts_for_everybody() -> None:
    """Threads fill the queue while the loop is busy; ``put_nowait`` finds no room after that."""
    go_on = asyncio.Event()

    @consumer
    async def handle(n: int) -> None:
        await go_on.wait()

    async with Pipeline(handle, maxsize=100) as running:
        accepted = 0

        def put_all() -> None:
            nonlocal accepted
            for n in range(200):
                try:
                    running.put_from_thread(n, timeout=0)
                except TimeoutError:
                    return
                accepted += 1

        thread = threading.Thread(target=put_all)
        thread.start()
        thread.join()  # the loop is busy: nothing is moved
        for n in range(200):
            try:
                running.put_nowait(n)
            except asyncio.QueueFull:
                break
            accepted += 1
        assert accepted == 100
        go_on.set()
        report = await running.drain()
    assert (report.produced, report.done, report.stages[0].peak_queued) == (100, 100, 100)


PLACES = ["thread", "process", *(["interpreter"] if THERE else [])]


@pytest.mark.parametrize("place", PLACES)
async def test_h5_what_a_generator_gave_before_it_raised_is_passed_on(place: Any) -> None:
    """As in the loop: its values are in the next stage, and its item has failed."""
    got: list[int] = []

    @consumer
    async def keep(n: int) -> None:
        got.append(n)

    stage: Any = consumer(run_in=place, on_error="skip")(elsewhere.two_then_fails)
    report = await (source([1, 10]) >> stage >> keep)
    assert sorted(got) == [1, 2, 10, 11]
    assert (report.stages[0].failed, report.stages[0].emitted) == (2, 4)
    assert report.stages[0].last_failure.startswith("ValueError")


async def test_h19_the_threads_of_a_stage_have_names_that_differ() -> None:
    """Or a stack dump cannot tell which worker is stuck."""
    names: set[str] = set()
    together = threading.Barrier(3)

    @consumer(concurrency=3)
    def handle(n: int) -> None:
        together.wait(20)
        names.add(threading.current_thread().name)

    await Pipeline(range(3), handle)
    assert names == {"asyncpc:handle-1", "asyncpc:handle-2", "asyncpc:handle-3"}


async def test_h18_a_blocking_iterable_is_read_in_a_thread() -> None:
    """``source(items, run_in="thread")``: it blocks its own thread, and the loop goes on meanwhile."""
    go_on, threads, ticks = threading.Event(), set[str](), 0

    def rows() -> Iterator[int]:
        threads.add(threading.current_thread().name)
        go_on.wait(20)
        yield from range(3)

    got: list[int] = []

    @consumer
    async def keep(n: int) -> None:
        got.append(n)

    async def tick() -> None:
        nonlocal ticks
        for _ in range(5):
            await asyncio.sleep(0)
            ticks += 1
        go_on.set()

    ticker = asyncio.create_task(tick())
    report = await (source(rows(), "rows", run_in="thread") >> keep)
    await ticker
    assert (got, ticks, report.produced) == ([0, 1, 2], 5, 3)
    assert threads == {"asyncpc:rows"}


def test_h18_what_cannot_be_read_in_a_thread_is_refused() -> None:
    """An async iterable belongs to the loop; and there is no third place."""

    async def numbers() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(DefinitionError, match="is async, so it is read in the loop"):
        source(numbers(), run_in="thread")
    with pytest.raises(DefinitionError, match="must be 'loop' or 'thread'"):
        source([1], run_in="process")  # type: ignore[arg-type]  # the mistake that is refused


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


@pytest.mark.realtime
@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc to see whether a process is gone")
def test_h13_a_process_in_a_call_ends_with_its_parent(tmp_path: Path) -> None:
    """Kill -9 of the parent must not leave a process that spins in its call for ever."""
    (tmp_path / "spins.py").write_text(SPINS)
    told = tmp_path / "pid"
    root = str(Path(__file__).parents[1])
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
