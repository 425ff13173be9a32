"""The log breaks nothing: whatever a log handler raises, a run goes on (H2)."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from children import UNMEASURED, run_child
from support import Broken, both, cancelled_with, error_types, left_after_cancel, named, until

from asyncpc import Batch, Failure, Pipeline, PipelineError, QueueShutDown, Report, consumer, producer, source, testing
from asyncpc.testing import now


class BrokenHandler(logging.Handler):
    """Raises for each record."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        raise Broken


class BrokenFilter(logging.Filter):
    """Raises for each record."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        self.lines.append(record.getMessage())
        raise Broken


@contextmanager
def broken_log(how: str, level: int = logging.WARNING) -> Iterator[list[str]]:
    """The log ``asyncpc`` with a handler or filter that raises; gives the lines it raised for."""
    log = logging.getLogger("asyncpc")
    before = log.level
    log.setLevel(level)
    try:
        if how == "handler":
            handler = BrokenHandler()
            log.addHandler(handler)
            yield handler.lines
            log.removeHandler(handler)
        else:
            refusing = BrokenFilter()
            log.addFilter(refusing)
            yield refusing.lines
            log.removeFilter(refusing)
    finally:
        log.setLevel(before)
        log.handlers = [one for one in log.handlers if not isinstance(one, BrokenHandler)]
        log.filters = [one for one in log.filters if not isinstance(one, BrokenFilter)]


breaking = pytest.mark.parametrize("how", ["handler", "filter"])


@both
@breaking
def test_h2_a_broken_log_at_a_change_of_state_stops_no_run(how: str, eager: bool) -> None:
    """The line for each state, at level DEBUG: the run starts, drains and closes as without it."""

    @consumer
    async def handle(n: int) -> None: ...

    async def main() -> Report:
        async with Pipeline(handle) as running:
            for n in range(3):
                await running.put(n)
            return await running.drain(timeout=1)

    with broken_log(how, logging.DEBUG) as lines:
        report = testing.run(main(), eager=eager)
        assert lines
        assert (report.statistics.state, report.done, report.complete) == ("closed", 3, True)
        lines.clear()
        report = testing.run(source(range(3)) >> handle, eager=eager)
        assert lines
        assert (report.statistics.state, report.done) == ("closed", 3)


@both
@breaking
@pytest.mark.parametrize("batch", [None, Batch(2)], ids=["items", "batches"])
def test_h2_a_broken_log_at_a_failed_item_leaves_its_policy_alone(how: str, batch: Any, eager: bool) -> None:
    """The line that counts failed items: each is counted, none ends the run."""

    @consumer(on_error="skip", batch=batch)
    async def handle(n: Any) -> None:
        raise ValueError(n)

    with broken_log(how) as lines:
        report = testing.run(source(range(6)) >> handle, eager=eager)
    assert lines
    assert (report.failed, report.complete, report.statistics.state) == (6, True, "closed")
    assert ": ValueError" in report.stages[0].last_failure


@both
@breaking
def test_h2_a_broken_log_at_the_failure_of_an_entered_run_hides_no_error(how: str, eager: bool) -> None:
    """The run fails at once, refuses what is put from then on, and its error comes out."""

    @consumer
    async def handle(n: int) -> None:
        raise ValueError(n)

    async def main() -> None:
        async with Pipeline(handle, drain_timeout=5) as running:
            await running.put(1)
            await asyncio.sleep(1)
            assert running.statistics().state == "failed"
            with pytest.raises(QueueShutDown):
                await running.put(2)

    with broken_log(how) as lines, pytest.raises(PipelineError) as failed:
        testing.run(main(), eager=eager)
    assert lines
    assert error_types(failed.value) == [ValueError]


@both
@breaking
def test_h2_a_broken_log_at_an_abandoned_worker_holds_up_no_drain(how: str, eager: bool) -> None:
    """Promise 5: ``drain(0.1)`` returns, names the worker, and the run is over."""

    async def main() -> None:
        over = asyncio.Event()

        @consumer
        async def stubborn(n: int) -> None:
            while not over.is_set():
                try:
                    await over.wait()
                except asyncio.CancelledError:
                    continue

        running = await Pipeline(stubborn).__aenter__()
        try:
            await running.put(1)
            await asyncio.sleep(1)
            report = await running.drain(timeout=0.1)
            assert now() <= 1.2
            assert report.abandoned == ("stubborn-1",)
            assert [one.item for one in report.unfinished] == [1]
            assert report.statistics.state == "failed"
        finally:
            over.set()
            await asyncio.sleep(0.1)

    with broken_log(how) as lines:
        testing.run(main(), eager=eager)
    assert lines


@both
@breaking
def test_h2_a_broken_log_at_unfinished_items_takes_no_report(how: str, eager: bool) -> None:
    """The line that counts what was left: the report still lists it, and nothing is said to be a bug of ours."""

    @consumer
    async def slow(n: int) -> None:
        await asyncio.Event().wait()

    async def main() -> Report:
        async with Pipeline(slow) as running:
            for n in range(3):
                await running.put(n)
            await asyncio.sleep(1)
            return await running.drain(timeout=1)

    with broken_log(how) as lines:
        report = testing.run(main(), eager=eager)
    assert lines
    assert sorted(one.item for one in report.unfinished) == [0, 1, 2]


@both
@breaking
def test_h2_a_broken_log_at_a_cancelled_run_lets_the_cancel_out(how: str, eager: bool) -> None:
    """Faults B5, B6, H10: ``CancelledError`` comes out with its report, and no task is left."""

    @consumer
    async def slow(n: int) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async def run() -> Report:
            return await (source(range(6)) >> slow)

        assert left_after_cancel(await cancelled_with(run)) == {"slow": 6}

    with broken_log(how) as lines:
        testing.run(main(), eager=eager)
    assert lines


@breaking
async def test_h2_a_broken_log_at_a_thread_that_is_too_slow_leaves_the_timeout_alone(how: str) -> None:
    """The line that says that a thread cannot be interrupted: its item fails, the next ones are handled."""
    gate = Event()
    failed = asyncio.Event()

    def tell(failure: Failure) -> None:
        gate.set()  # the call ends only now
        failed.set()

    @consumer(timeout=0.01, on_error=tell)
    def handle(n: int) -> None:
        if n == 0:
            gate.wait(20)

    with broken_log(how) as lines:
        async with Pipeline(handle) as running:
            await running.put(0)
            async with asyncio.timeout(10):
                await failed.wait()
            await running.put(1)
            report = await running.drain(timeout=10)
    assert lines
    assert (report.done, report.failed) == (1, 1)


@breaking
async def test_h2_a_broken_log_at_a_call_left_behind_holds_up_no_drain(how: str) -> None:
    """The line that names threads still in a call: the drain ends, and the report names them too."""
    gate, begun = Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    @consumer
    def handle(n: int) -> None:
        loop.call_soon_threadsafe(begun.set)
        gate.wait(20)

    try:
        with broken_log(how) as lines:
            running = await Pipeline(handle).__aenter__()
            await running.put(1)
            await begun.wait()
            async with asyncio.timeout(10):
                report = await running.drain(timeout=0)
        assert lines
        assert report.abandoned == ("handle-1",)
        assert [one.item for one in report.unfinished] == [1]
    finally:
        gate.set()


@breaking
async def test_h2_a_broken_log_at_a_blocked_source_holds_up_no_drain(how: str) -> None:
    """The line that names a source which blocks: the drain ends, and what the source gave is handled."""
    at_gate, gate = Event(), Event()

    @producer
    def blocked() -> Iterator[int]:
        yield 1
        at_gate.set()
        gate.wait(20)

    handled = asyncio.Event()

    @consumer
    async def handle(n: int) -> None:
        handled.set()

    try:
        with broken_log(how) as lines:
            async with Pipeline(blocked, handle) as running:
                await handled.wait()
                await until(at_gate.is_set)
                async with asyncio.timeout(10):
                    report = await running.drain(timeout=5)
        assert lines
        assert (report.done, report.complete, report.statistics.state) == (1, True, "closed")
    finally:
        gate.set()


@breaking
async def test_h2_a_broken_log_at_a_source_that_raises_late_leaves_no_noise(how: str) -> None:
    """The line for a source that raised after it was left to its thread: the thread ends all the same."""
    at_gate, gate, ended = Event(), Event(), Event()

    @producer
    def late() -> Iterator[int]:
        try:
            yield 1
            at_gate.set()
            gate.wait(20)
            raise ValueError
        finally:
            ended.set()

    handled = asyncio.Event()

    @consumer
    async def handle(n: int) -> None:
        handled.set()

    excepthook: list[Any] = []
    with broken_log(how) as lines, pytest.MonkeyPatch.context() as patch:
        patch.setattr("threading.excepthook", excepthook.append)
        async with Pipeline(late, handle) as running:
            await handled.wait()
            await until(at_gate.is_set)  # or a stop would close it before
            report = await running.drain(timeout=5)
        told = len(lines)
        gate.set()
        await until(lambda: ended.is_set() and len(lines) > told)
        await until(lambda: not any(thread.name.startswith("asyncpc:late") for thread in threading.enumerate()))
    assert report.done == 1
    assert excepthook == []


@both
def test_the_log_names_the_workers_that_could_not_be_stopped(eager: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Fault B4: by name, each of them, and none of those that ended."""

    async def main() -> Report:
        over = asyncio.Event()

        @consumer(concurrency=3)
        async def handle(n: int) -> None:
            while not over.is_set():
                try:
                    await over.wait()
                except asyncio.CancelledError:
                    if n == 1:
                        raise

        running = await Pipeline(handle).__aenter__()
        try:
            for n in range(3):
                await running.put(n)
            await asyncio.sleep(1)
            return await running.drain(timeout=0)
        finally:
            over.set()
            await asyncio.sleep(1)

    with caplog.at_level(logging.ERROR, "asyncpc"):
        report = testing.run(main(), eager=eager)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert report.abandoned == ("handle-1", "handle-3")
    assert all(name in line for name in report.abandoned)
    assert "handle-2" not in line


# -- without any logging set up -------------------------------------------------------------------

UNHEARD = """
import asyncio, logging, sys
from asyncpc import Pipeline, PipelineError, consumer, source
if sys.argv[1] == "quiet":
    logging.getLogger("asyncpc").addHandler(logging.NullHandler())
@consumer(on_error="skip")
async def skips(n):
    raise ValueError("no luck")
@consumer
async def stops(n):
    raise ValueError("no luck")
async def main():
    await (source(range(100)) >> skips)
    try:
        async with Pipeline(stops) as running:
            await running.put(1)
    except PipelineError:
        pass
asyncio.run(main())
"""


@pytest.mark.realtime
def test_a_program_without_logging_reads_what_went_wrong(tmp_path: Path) -> None:
    """Nobody else would say that a service takes no more items, or that all are skipped; and it is a few lines."""
    heard = run_child(tmp_path, "-c", UNHEARD, "heard", **UNMEASURED)
    lines = heard.err.splitlines()
    assert lines[0] == "stage 'skips': 1 failed, the last on 0: ValueError: no luck"
    assert len([line for line in lines if line.startswith("stage 'skips'")]) == 7
    assert any(line.startswith("pipeline 'stops' failed in stops-1: ValueError: no luck") for line in lines)
    quiet = run_child(tmp_path, "-c", UNHEARD, "quiet", **UNMEASURED)
    assert (quiet.status, quiet.err) == (0, "")


# -- fields ---------------------------------------------------------------------------------------


def fields(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """The pipeline and the stage of each warning and error."""
    ours = [record for record in caplog.records if record.name == "asyncpc"]  # asyncio tells of slow steps
    records = [vars(record) for record in ours if record.levelno >= logging.WARNING]
    return [(record["pipeline"], record["stage"]) for record in records]


@both
def test_a_record_names_pipeline_and_stage_in_fields(eager: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Who collects logs filters by a field, and need not take a sentence apart: a skipped item, the run inside too."""

    @consumer(on_error="skip")
    async def skips(n: int) -> None:
        raise ValueError(n)

    @consumer(on_error="skip")
    async def nests(n: int) -> None:
        await Pipeline([n], skips, name="inner")
        raise ValueError(n)

    testing.run(Pipeline([1], nests, name="outer"), eager=eager)
    assert fields(caplog) == [("inner", "skips"), ("outer", "nests")]


@both
def test_a_record_of_a_run_s_end_names_pipeline_and_stage(eager: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The failure of an entered run, and what each stage left; a state concerns the whole pipeline."""

    @consumer(concurrency=2)
    async def handle(n: int) -> None:
        if n:
            raise ValueError(n)
        await asyncio.Event().wait()

    async def main() -> None:
        async with Pipeline(handle, name="orders") as running:
            await running.put(0)
            await running.put(1)

    with caplog.at_level(logging.DEBUG, "asyncpc"), pytest.raises(PipelineError):
        testing.run(main(), eager=eager)
    assert fields(caplog) == [("orders", "handle")] * 2
    states = [vars(record) for record in caplog.records if record.levelno == logging.DEBUG]
    assert [(record["pipeline"], record["stage"]) for record in states] == [("orders", "")] * len(states)


async def test_a_record_of_a_thread_names_pipeline_and_stage(caplog: pytest.LogCaptureFixture) -> None:
    """A call that is too slow, and a source that blocks, both in threads."""
    gate = Event()

    @producer
    def blocked() -> Iterator[int]:
        yield 1
        gate.wait(20)

    failed = asyncio.Event()

    @consumer(timeout=0.01, on_error=lambda failure: failed.set())
    def slow(n: int) -> None:
        gate.wait(20)

    async with Pipeline(blocked, slow, name="files") as running:
        async with asyncio.timeout(10):
            await failed.wait()
        running.stop()
        await until(lambda: "blocked" in caplog.text)
        gate.set()
    assert set(fields(caplog)) == {("files", "slow"), ("files", "blocked")}


def test_a_field_shows_no_password(caplog: pytest.LogCaptureFixture) -> None:
    """Fault F7: a name may be made of a URL."""

    async def fails(n: int) -> None:
        raise ValueError(n)

    url = "redis://me:canary@host"
    testing.run(Pipeline([1], named(url, fails, on_error="skip"), name=url))
    assert fields(caplog) == [("redis://me:***@host", "redis://me:***@host")]
    assert "canary" not in caplog.text
