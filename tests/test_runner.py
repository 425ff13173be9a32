"""``asyncpc.run``: it owns the loop and the signals, and gives both back.

``python tests/test_runner.py 20`` measures how fast SIGTERM is heard with millions of items queued, 20 times per loop.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from children import Child, run_child, run_on_terminal
from support import BUSY, switching_often

import asyncpc
from asyncpc import DefinitionError, Pipeline, PipelineError, Report, StateError, consumer, producer, source
from asyncpc.runner import Loop, run_watched

pytestmark = pytest.mark.realtime

LOOPS: tuple[Loop, ...] = ("asyncio", "uvloop")
both_loops = pytest.mark.parametrize("loop", LOOPS)

BACKLOG = 3_000_000

HEARING = """
import asyncio, os, signal, sys, time
from asyncpc import Pipeline, consumer, merge, producer, run

count = int(sys.argv[2])
queued = asyncio.Event()
done, sent = 0, (0.0, 0.0)

def clocks():
    return time.monotonic(), time.process_time()

@producer
async def backlog():
    for n in range(count):
        yield n
    queued.set()

@producer
async def ear():
    yield -1
    try:
        await asyncio.Event().wait()
    finally:
        print(*(heard - begun for heard, begun in zip(clocks(), sent)), count - done, flush=True)
        os._exit(0)

@consumer
async def work(n):
    global done, sent
    if not queued.is_set():
        await queued.wait()
    done += 1
    if done == 1000:
        sent = clocks()
        os.kill(os.getpid(), signal.SIGTERM)

run(Pipeline(merge(ear, backlog), work, maxsize=0), loop=sys.argv[1])
"""
"""Sends itself SIGTERM in the midst of a backlog, and tells when its idle source hears of it."""


def until_sigterm_is_heard(folder: Path, loop: str, backlog: int) -> tuple[float, float, int]:
    """From SIGTERM to the moment the idle source is told to stop: seconds, CPU seconds, and the items then queued."""
    ended = run_child(folder, "-c", HEARING, loop, str(backlog), COVERAGE_PROCESS_CONFIG="")  # else it would be slow
    assert ended.status == 0, ended.err
    seconds, cpu, left = ended.out.split()
    return float(seconds), float(cpu), int(left)


@pytest.mark.parametrize("backlog", [BACKLOG // 20, pytest.param(BACKLOG, marks=pytest.mark.thorough)])
@both_loops
def test_sigterm_is_heard_while_millions_are_queued(tmp_path: Path, loop: str, backlog: int) -> None:
    """A backlog must not delay a stop: no loop of the framework keeps the event loop for long (promise 7, fault D1).

    The promise is 10 ms on a machine of its own (see ``python tests/test_runner.py``). Here it is held to the CPU time
    that the process used, which does not count what other programs take, and to the items that it handled meanwhile:
    without turns those are all of them.
    """
    _, cpu, left = until_sigterm_is_heard(tmp_path, loop, backlog)
    assert cpu < 0.05
    assert left > 0.9 * backlog


# -- what a run returns ---------------------------------------------------------------------------


@producer
async def numbers() -> AsyncIterator[int]:
    for n in range(10):
        yield n


@consumer
async def work(n: int) -> int:
    return n


@both_loops
def test_run_returns_the_report_and_can_be_repeated(loop: Loop) -> None:
    """The smallest program: no loop, no signals, no clean-up of the user's own; and nothing is left of a run."""
    pipeline = numbers >> work
    for _ in range(3):
        report = asyncpc.run(pipeline, loop=loop)
        assert (report.produced, report.done, report.signal, report.exit_status) == (10, 10, None, 0)
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


@both_loops
def test_loop_is_the_one_asked_for(loop: Loop) -> None:
    """An option that does nothing is worse than none."""
    seen = []

    @consumer
    async def look(n: int) -> None:
        seen.append(type(asyncio.get_running_loop()).__module__.split(".")[0])

    asyncpc.run(Pipeline([1], look), loop=loop)
    assert seen == [loop]


def test_loop_auto_is_uvloop_where_it_is_installed() -> None:
    """The faster loop is taken without being asked for."""
    pytest.importorskip("uvloop")
    seen = []

    @consumer
    async def look(n: int) -> None:
        seen.append(type(asyncio.get_running_loop()).__module__)

    asyncpc.run(Pipeline([1], look))
    assert seen == ["uvloop"]


WITHOUT_UVLOOP = """
import asyncio, sys
sys.modules["uvloop"] = None  # as if it were not installed
from asyncpc import Pipeline, consumer, run
@consumer
async def look(n):
    print(type(asyncio.get_running_loop()).__module__.split(".")[0])
run(Pipeline([1], look))
try:
    run(Pipeline([1], look), loop="uvloop")
except TypeError as error:
    print(error)
"""


def test_without_uvloop_auto_is_asyncio_s_loop(tmp_path: Path) -> None:
    """It is not there on Windows and PyPy; asking for it by name says what to install."""
    ended = run_child(tmp_path, "-c", WITHOUT_UVLOOP)
    assert ended.err == ""
    assert ended.out.splitlines() == ["asyncio", "loop='uvloop' needs uvloop: pip install uvloop"]


@both_loops
def test_a_failed_run_raises_what_failed_with_its_report(loop: Loop) -> None:
    """Nothing is swallowed: ``except*`` sees the handler's own exception, and the report tells the rest."""

    @consumer
    async def bad(n: int) -> None:
        raise ValueError(n)

    with pytest.raises(PipelineError) as failed:
        asyncpc.run(numbers >> bad, loop=loop)
    assert [type(error) for error in failed.value.exceptions] == [ValueError]
    assert failed.value.report.exit_status == 1
    assert failed.value.report.failed == 1


@both_loops
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_keyboard_interrupt_and_system_exit_of_a_handler_come_out(loop: Loop, error: type[BaseException]) -> None:
    """They are the user's will, not a failure of an item (fault B13); no task is left behind."""

    @consumer(concurrency=2)
    async def leaves(n: int) -> None:
        if n == 3:
            raise error
        await asyncio.sleep(0)

    with pytest.raises(error):
        asyncpc.run(numbers >> leaves, loop=loop)


# -- what cannot run ------------------------------------------------------------------------------


def test_a_pipeline_without_a_source_is_refused_with_the_cure() -> None:
    """It would wait for ever for items that nobody can put."""
    with pytest.raises(DefinitionError, match=r"'work' has no source.*begin it with a producer.*running\.put"):
        asyncpc.run(Pipeline(work))


def test_what_is_no_pipeline_is_refused() -> None:
    """``run(work)`` is the first mistake everyone makes."""
    with pytest.raises(DefinitionError, match=r"takes a Pipeline, such as numbers >> show, not <Consumer work>"):
        asyncpc.run(work)  # type: ignore[arg-type]  # the mistake under test


def test_what_is_no_pipeline_is_told_how_to_become_one() -> None:
    """A coroutine belongs to ``asyncio.run``, and is not left un-awaited; a stage needs a source, a source a stage."""

    async def main() -> None: ...

    wrong: list[tuple[Any, str]] = [
        (main(), r"not the coroutine main\(\): write asyncio\.run\(main\(\)\)"),
        (work, r"<Consumer work>: write source\(items\) >> it"),
        (source([1]), r"<Source source\(list\)>: write it >> a consumer"),
        (3, "not 3$"),
    ]
    for thing, cure in wrong:
        with pytest.raises(DefinitionError, match=cure):
            asyncpc.run(thing)
    gc.collect()


@pytest.mark.parametrize("wrong", ["5", -1, float("nan"), True])
def test_a_drain_timeout_that_is_none_is_refused_at_once(wrong: Any) -> None:
    """It would be needed when SIGTERM comes, which is too late to find out."""
    with pytest.raises(DefinitionError, match=r"drain_timeout=.* must be 0 or more seconds"):
        asyncpc.run(Pipeline([1], consumer(print)), drain_timeout=wrong)


INTERRUPTED = """
import os, signal
from asyncpc import consumer, run, source

@consumer
async def store(item):
    os.kill(os.getpid(), signal.SIGINT)

run(source([1]) >> store, drain_timeout=9)
"""


def test_a_person_who_interrupts_is_told_what_happens(tmp_path: Path) -> None:
    """Protects the drain from a second Ctrl-C by someone who saw no answer to the first; logs and pipes stay clean."""
    told = "asyncpc: SIGINT: draining for at most 9 s; a second signal cancels now"
    assert told in run_on_terminal(tmp_path, "-c", INTERRUPTED).out
    assert run_child(tmp_path, "-c", INTERRUPTED).err == ""


def test_runs_in_several_threads_do_not_meet() -> None:
    """Each thread has its loop and its runs; what the package keeps for all of them is changed by all of them."""
    errors: list[BaseException] = []

    @consumer
    async def nothing(n: int) -> None: ...

    def work() -> None:
        async def main() -> None:
            for _ in range(200):
                await (source([1]) >> nothing)

        try:
            asyncio.run(main())
        except BaseException as error:
            errors.append(error)

    with switching_often():
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []


@both_loops
def test_a_pipeline_that_runs_in_another_thread_is_refused_and_goes_on(loop: Loop) -> None:
    """A mistake costs the run that makes it, and not the one that was there before: that ends, and reports."""
    started, go_on = threading.Event(), threading.Event()

    @consumer
    async def waits(n: int) -> None:
        started.set()
        await asyncio.to_thread(go_on.wait)

    pipeline = source([1]) >> waits
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(asyncpc.run, pipeline, loop=loop)
        started.wait()
        try:
            with pytest.raises(StateError, match="is running already"):
                asyncpc.run(pipeline, loop=loop)
            assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
        finally:
            go_on.set()
        assert other.result().done == 1


def test_an_unknown_loop_is_refused() -> None:
    """A typing error must not silently mean "auto"."""
    with pytest.raises(DefinitionError, match="loop='trio' must be"):
        asyncpc.run(numbers >> work, loop="trio")  # type: ignore[arg-type]  # the mistake under test


async def test_run_inside_a_running_loop_is_refused_with_the_cure() -> None:
    """In async code it is ``await pipeline``; and no coroutine is left un-awaited (fault B9)."""
    with pytest.raises(StateError, match="await"):
        asyncpc.run(numbers >> work)


# -- signals --------------------------------------------------------------------------------------


def mine(number: int, frame: Any) -> None:
    """A signal handler of the user's own."""


@pytest.fixture
def my_handlers() -> Iterator[None]:
    """SIGINT and SIGTERM handled by the program itself."""
    before = {number: signal.signal(number, mine) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers() -> tuple[Any, Any]:
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)


@consumer
async def bad(n: int) -> None:
    raise ValueError(n)


@consumer
async def interrupts(n: int) -> None:
    raise KeyboardInterrupt


@consumer
async def signals_itself(n: int) -> None:
    if n == 0:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.01)


@both_loops
@pytest.mark.parametrize("stage", [work, bad, interrupts, signals_itself], ids=lambda stage: repr(stage)[1:-1])
@pytest.mark.parametrize("whose", ["python's", "mine"])
def test_signal_handlers_are_restored(loop: Loop, stage: Any, whose: str, request: pytest.FixtureRequest) -> None:
    """The program has its signals back after a run, however it ended (faults D2, D3)."""
    if whose == "mine":
        request.getfixturevalue("my_handlers")
    before = handlers()
    with suppress(PipelineError, KeyboardInterrupt):
        asyncpc.run(numbers >> stage, loop=loop)
    assert handlers() == before
    if whose == "mine":
        assert before == (mine, mine)


@both_loops
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_and_the_report_names_it(loop: Loop, number: signal.Signals) -> None:
    """Everything accepted before the signal is handled; ``exit_status`` is what a shell expects."""

    @producer
    async def endless() -> AsyncIterator[int]:
        n = 0
        while True:
            yield n
            n += 1
            if n == 100:
                os.kill(os.getpid(), number)

    @consumer(concurrency=3)
    async def handle(n: int) -> None:
        await asyncio.sleep(0)

    report = asyncpc.run(endless >> handle, loop=loop)
    assert (report.signal, report.exit_status) == (number, 128 + number)
    assert report.produced == report.done >= 100
    assert report.unfinished == ()


WHOLE_JOB = """\
@producer
async def events():
    async for event in websocket:
        yield event

@consumer(concurrency=4, maxsize=100, retry=3)
async def store(event): await save(event)

report = run(events >> store, drain_timeout=30)
"""
"""The whole job in eight lines."""

AROUND_IT = """\
import asyncio, collections, sys
from asyncpc import consumer, producer, run

class WebSocket:
    async def __aiter__(self):
        for event in range(10):
            yield event
        print("idle", flush=True)
        await asyncio.Event().wait()

async def save(event):
    calls[event] += 1
    await asyncio.sleep(0.05 if event == 9 else 0)
    if event % 3 == 0 and calls[event] < 3:
        raise ConnectionError
    saved.append(event)

websocket, calls, saved = WebSocket(), collections.Counter(), []
{}
assert sorted(saved) == list(range(10)), saved
print(report)
sys.exit(report.exit_status)
"""


@pytest.mark.parametrize("loop", ["auto", pytest.param("asyncio", marks=pytest.mark.thorough)])
def test_the_whole_job_ends_within_a_second_of_sigterm(loop: str, tmp_path: Path) -> None:
    """The whole job with an idle source, a slow item and three attempts: all is stored, and accounted for."""
    assert len([line for line in WHOLE_JOB.splitlines() if line]) <= 8
    job = WHOLE_JOB.replace("drain_timeout=30", f"drain_timeout=30, loop={loop!r}")

    child = Child(tmp_path, "-c", AROUND_IT.format(job))
    child.line_with("idle")
    child.send(signal.SIGTERM)
    ended = child.end()
    assert (ended.status, ended.err) == (128 + signal.SIGTERM, "")
    assert ended.row("store")[:2] == ["10", "10"]
    assert ended.cpu < 1.0
    assert ended.seconds < BUSY


@both_loops
def test_the_signal_of_an_incomplete_drain_is_in_the_report(loop: Loop) -> None:
    """Whoever catches the error can tell a signal from a failure; the exit status is 1 all the same."""

    @consumer
    async def hangs(n: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    with pytest.raises(PipelineError) as failed:
        asyncpc.run(Pipeline(range(3), hangs), loop=loop, drain_timeout=0.01)
    report = failed.value.report
    assert (report.signal, report.exit_status) == (signal.SIGTERM, 1)
    assert [(one.item, one.stage) for one in report.unfinished] == [(0, "hangs"), (1, "hangs"), (2, "hangs")]


@both_loops
@pytest.mark.parametrize("by", ["pipeline", "run"])
def test_drain_timeout_is_run_s_or_else_the_pipeline_s(loop: Loop, by: str) -> None:
    """A deadline holds wherever it was written, and the nearer place wins."""

    @consumer
    async def hangs(n: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    pipeline = Pipeline([1], hangs, drain_timeout=0.05 if by == "pipeline" else 60.0)
    started = time.monotonic()
    with pytest.raises(PipelineError):
        asyncpc.run(pipeline, loop=loop, drain_timeout=None if by == "pipeline" else 0.05)
    assert 0.05 <= time.monotonic() - started < BUSY


@both_loops
def test_run_works_outside_the_main_thread(loop: Loop) -> None:
    """Python allows signal handlers in the main thread only: elsewhere the run does without (fault D3)."""
    reports: list[Report] = []
    before = handlers()
    thread = threading.Thread(target=lambda: reports.append(asyncpc.run(numbers >> work, loop=loop)))
    thread.start()
    thread.join()
    assert [report.done for report in reports] == [10]
    assert handlers() == before


@both_loops
def test_stop_at_once_twice_is_harmless(loop: Loop) -> None:
    """The second signal may come while the first one's deadline of 0 s is being kept."""

    @contextmanager
    def stop(running: Any) -> Iterator[None]:
        def twice() -> None:
            stopped.append(running.stop(0))
            stopped.append(running.stop(0))

        asyncio.get_running_loop().call_later(0.01, twice)
        yield

    @consumer
    async def hangs(n: int) -> None:
        await asyncio.Event().wait()

    stopped: list[None] = []
    with pytest.raises(PipelineError):
        run_watched(Pipeline([1], hangs), loop=loop, watch=stop)
    assert stopped == [None, None]


BLOCKS = """
import os, signal, sys
from asyncpc import Pipeline, consumer, run
@consumer
async def blocks(n):
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGINT)  # without a yield: the loop hears none of them
    os._exit(99)
run(Pipeline([1], blocks), loop=sys.argv[1])
"""


@both_loops
def test_the_third_signal_ends_a_process_whose_loop_is_blocked(tmp_path: Path, loop: str) -> None:
    """A handler that never yields cannot be drained, but it can still be ended by hand, without SIGKILL."""
    assert run_child(tmp_path, "-c", BLOCKS, loop).status == -signal.SIGINT


ELSEWHERE = """
import asyncio, logging, signal, sys, threading
from asyncpc import Pipeline, consumer, run
logging.getLogger("asyncpc").addHandler(logging.NullHandler())
@consumer
async def waits(n):
    sleeping = threading.Timer(0.1, signal.raise_signal, [signal.SIGTERM])  # in that thread
    sleeping.start()
    await asyncio.Event().wait()
try:
    run(Pipeline([1], waits, drain_timeout=0.1), loop=sys.argv[1])
except Exception as error:
    print(error.report.signal)
"""


@both_loops
def test_a_signal_that_does_not_interrupt_the_sleeping_loop_wakes_it(tmp_path: Path, loop: str) -> None:
    """One that another thread takes, or that comes just before the loop sleeps, must not wait for the next event."""
    ended = run_child(tmp_path, "-c", ELSEWHERE, loop)
    assert (ended.out, ended.err, ended.status) == (f"{int(signal.SIGTERM)}\n", "", 0)
    assert ended.seconds < BUSY


ABANDONS = """
import asyncio, logging, sys
from asyncpc import Pipeline, PipelineError, consumer, run
logging.getLogger("asyncpc").addHandler(logging.NullHandler())  # what asyncpc says of it is tested elsewhere
@consumer
async def swallows(n):
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
@consumer
async def fails(n):
    if n == 1:
        await asyncio.sleep(0.01)
        raise ValueError
    return n
for _ in range(2):
    try:
        run(Pipeline(range(2), fails, swallows, drain_timeout=0.05), loop=sys.argv[1])
    except PipelineError as error:
        print(*error.report.abandoned)
async def other():
    return "another loop works"
print(asyncio.run(other()))
"""


@both_loops
def test_an_abandoned_worker_neither_holds_up_nor_litters_the_process(tmp_path: Path, loop: str) -> None:
    """A handler that ignores every cancel is named, and Python does not complain at exit (faults B4, B9)."""
    ended = run_child(tmp_path, "-c", ABANDONS, loop)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.splitlines() == ["swallows-1", "swallows-1", "another loop works"]


INNER = """
import asyncio, gc, logging, sys
from asyncpc import Pipeline, PipelineError, consumer, run
logging.getLogger("asyncpc").addHandler(logging.NullHandler())
@consumer
async def swallows(n):
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
inner = Pipeline([1], swallows)
@consumer
async def outer(n):
    async with inner as running:
        await asyncio.sleep(0)
        report = await running.drain(0.1)
        print(*report.abandoned)
    del running
    gc.collect()  # nothing but asyncpc refers to the worker's task any more
run(Pipeline([1], outer), loop=sys.argv[1])
print("done")
"""


@both_loops
def test_a_worker_abandoned_by_a_run_inside_a_handler_does_not_hold_up_the_process(tmp_path: Path, loop: str) -> None:
    """The loop's owner must not wait for what another run has given up (fault B4), nor Python complain of it (B9)."""
    ended = run_child(tmp_path, "-c", INNER, loop)
    assert (ended.status, ended.out, ended.err) == (0, "swallows-1\ndone\n", "")


if __name__ == "__main__":
    samples = int(sys.argv[1]) if sys.argv[1:] else 20
    for which in LOOPS:
        with tempfile.TemporaryDirectory() as folder:
            took = sorted(until_sigterm_is_heard(Path(folder), which, BACKLOG)[0] for _ in range(samples))
        median, worst = took[samples // 2] * 1e3, took[-1] * 1e3
        queued = f"{samples} × SIGTERM with {BACKLOG:,} items queued"
        print(f"{which}: {queued}: median {median:.2f} ms, most {worst:.2f} ms")
