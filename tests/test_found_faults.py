"""Faults that programs found, one after the other: each test is the program that shows one, and says what must hold.

The names begin with the fault's number. All in virtual time but for what belongs to threads and to the command line.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from virtual import EAGER, now, ran, run_virtual

from asyncpc import (
    Batch,
    Breaker,
    Consumer,
    DefinitionError,
    Failure,
    Pipeline,
    PipelineError,
    QueueShutDown,
    Rate,
    Report,
    Retry,
    RetryLater,
    Running,
    StageStatistics,
    TooManyFailures,
    Unroutable,
    WorkerCancelled,
    broadcast,
    consumer,
    feed,
    producer,
    route,
    source,
)

both = pytest.mark.parametrize("eager", EAGER)

Stage = Consumer[Any, Any, ..., Any]


def no_wait(attempt: int) -> float:
    return 0.0


async def until(condition: Callable[[], bool]) -> None:
    """Return once it holds, within 10 s of the loop's time."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # no event of this loop tells of it
            await asyncio.sleep(0)


class Sink:
    """A last stage's handler that remembers what came and when, and takes ``seconds`` for each."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.items: list[Any] = []
        self.times: list[float] = []
        self.seconds = seconds

    async def __call__(self, item: Any) -> None:
        self.items.append(item)
        self.times.append(now())
        if self.seconds:
            await asyncio.sleep(self.seconds)


def named(name: str, function: Any, **options: Any) -> Stage:
    """A stage of that name, whatever the function is."""
    made: Stage = consumer(name=name, **options)(function)
    return made


def counts(stage: StageStatistics) -> tuple[int, int, int]:
    """Received, done and failed."""
    return stage.received, stage.done, stage.failed


def balanced(report: Report) -> bool:
    """Whether each stage accounts for all that it received."""
    left = report.left_by_stage()
    return all(s.received == s.done + s.failed + s.dropped + left.get(s.name, 0) for s in report.stages)


# -- H1: a batch handler that changes its list ----------------------------------------------------


def empty(rows: list[Any]) -> None:
    while rows:
        rows.pop()


CHANGES: dict[str, Callable[[list[Any]], object]] = {
    "pops all": empty,
    "pops one": lambda rows: rows.pop(),
    "appends": lambda rows: rows.append("more"),
    "replaces": lambda rows: rows.__setitem__(slice(None), ["other"] * len(rows)),
}
changing = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())


@both
@changing
def test_h1_a_batch_handler_that_changes_its_list_leaves_the_books_alone(change: Any, eager: bool) -> None:
    """What is counted is kept aside: the handler's list is its own."""

    @consumer(batch=Batch(4))
    async def handle(rows: list[Any]) -> None:
        change(rows)

    report = ran(source(range(12)) >> handle, eager=eager)
    assert counts(report.stages[0]) == (12, 12, 0)


@both
@changing
def test_h1_a_list_that_was_changed_before_it_failed_counts_all_its_items(change: Any, eager: bool) -> None:
    """Whoever is told of the failures learns of each item, as it came."""
    told: list[Any] = []

    @consumer(batch=Batch(4), on_error=lambda failure: told.append(failure.item))
    async def handle(rows: list[Any]) -> None:
        change(rows)
        raise ValueError

    report = ran(source(range(12)) >> handle, eager=eager)
    assert counts(report.stages[0]) == (12, 0, 12)
    assert told == list(range(12))


@both
def test_h1_a_list_that_was_changed_is_skipped_whole(eager: bool) -> None:
    """With ``on_error="skip"`` each of the items is in a count, the popped ones too."""

    @consumer(batch=Batch(4), on_error="skip")
    async def handle(rows: list[int]) -> None:
        rows.pop()
        raise ValueError

    report = ran(source(range(12)) >> handle, eager=eager)
    assert counts(report.stages[0]) == (12, 0, 12)


@both
@changing
def test_h1_a_retry_gets_the_items_as_they_came(change: Any, eager: bool) -> None:
    """Items that the first attempt took out of its list are tried again."""
    calls: list[list[Any]] = []

    @consumer(batch=Batch(3), retry=Retry(2, wait=no_wait))
    async def handle(rows: list[Any]) -> None:
        calls.append(list(rows))
        change(rows)
        if len(calls) == 1:
            raise ValueError

    report = ran(source(range(3)) >> handle, eager=eager)
    assert calls == [[0, 1, 2], [0, 1, 2]]
    assert counts(report.stages[0]) == (3, 3, 0)


@both
def test_h1_a_split_batch_tries_the_items_as_they_came(eager: bool) -> None:
    """``split_on_error`` gives back each item of the batch, also those that the handler took out of its list."""
    calls: list[list[int]] = []

    @consumer(batch=Batch(3, split_on_error=True), on_error="skip")
    async def handle(rows: list[int]) -> None:
        calls.append(list(rows))
        bad = 1 in rows
        empty(rows)
        if bad:
            raise ValueError

    report = ran(source(range(3)) >> handle, eager=eager)
    assert calls == [[0, 1, 2], [0], [1], [2]]
    assert counts(report.stages[0]) == (3, 2, 1)


@both
def test_h1_results_belong_to_the_items_as_they_came(eager: bool) -> None:
    """A handler that takes its list apart still gives one result for each item that came."""
    sink = Sink()

    @consumer(batch=Batch(4))
    async def double(rows: list[int]) -> list[int]:
        results = []
        while rows:
            results.append(2 * rows.pop(0))
        return results

    report = ran(source(range(8)) >> double >> consumer(sink), eager=eager)
    assert sink.items == [0, 2, 4, 6, 8, 10, 12, 14]
    assert counts(report.stages[0]) == (8, 8, 0)


@both
def test_h1_a_generating_batch_handler_may_change_its_list(eager: bool) -> None:
    """The same for a handler that yields."""
    sink = Sink()

    @consumer(batch=Batch(4))
    async def each(rows: list[int]) -> AsyncIterator[int]:
        while rows:
            yield rows.pop(0)

    report = ran(source(range(8)) >> each >> consumer(sink), eager=eager)
    assert sink.items == list(range(8))
    assert counts(report.stages[0]) == (8, 8, 0)


@both
def test_h1_a_cancelled_batch_is_listed_as_it_came(eager: bool) -> None:
    """Invariant 2: at the deadline all items of the batch are unfinished, also those taken out of the list."""

    @consumer(batch=Batch(4))
    async def handle(rows: list[int]) -> None:
        rows.pop()
        rows.append(99)
        rows.append(100)
        await asyncio.Event().wait()

    async def main() -> Report:
        async with Pipeline(handle) as running:
            for n in range(4):
                await running.put(n)
            await asyncio.sleep(1)
            return await running.drain(timeout=0)

    report = run_virtual(main, eager=eager)
    assert sorted(one.item for one in report.unfinished) == [0, 1, 2, 3]


@both
def test_h1_a_batch_that_ends_the_run_counts_all_its_items(eager: bool) -> None:
    """By default the run fails of it; its report says that all of them failed."""

    @consumer(batch=Batch(4))
    async def handle(rows: list[int]) -> None:
        empty(rows)
        raise ValueError

    with pytest.raises(PipelineError) as failed:
        ran(source(range(4)) >> handle, eager=eager)
    assert [type(error) for error in failed.value.exceptions] == [ValueError]
    assert counts(failed.value.report.stages[0]) == (4, 0, 4)


# -- H2: what is told, and to whom, stops nothing -------------------------------------------------


class Broken(RuntimeError):
    """Raised where a log record should have been written."""


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
        report = run_virtual(main, eager=eager)
        assert lines
        assert (report.statistics.state, report.done, report.complete) == ("closed", 3, True)
        lines.clear()
        report = ran(source(range(3)) >> handle, eager=eager)
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
        report = ran(source(range(6)) >> handle, eager=eager)
    assert lines
    assert (report.failed, report.complete, report.statistics.state) == (6, True, "closed")
    assert report.stages[0].last_failure.startswith("ValueError")


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
        run_virtual(main, eager=eager)
    assert lines
    assert types(failed.value) == [ValueError]


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
        run_virtual(main, eager=eager)
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
        report = run_virtual(main, eager=eager)
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

        assert left(await cancelled_with(run)) == {"slow": 6}

    with broken_log(how) as lines:
        run_virtual(main, eager=eager)
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
    gate = Event()

    @producer
    def blocked() -> Iterator[int]:
        yield 1
        gate.wait(20)

    handled = asyncio.Event()

    @consumer
    async def handle(n: int) -> None:
        handled.set()

    try:
        with broken_log(how) as lines:
            async with Pipeline(blocked, handle) as running:
                await handled.wait()
                async with asyncio.timeout(10):
                    report = await running.drain(timeout=5)
        assert lines
        assert (report.done, report.complete, report.statistics.state) == (1, True, "closed")
    finally:
        gate.set()


@breaking
async def test_h2_a_broken_log_at_a_source_that_raises_late_leaves_no_noise(how: str) -> None:
    """The line for a source that raised after it was left to its thread: the thread ends all the same."""
    gate, ended = Event(), Event()

    @producer
    def late() -> Iterator[int]:
        try:
            yield 1
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
            report = await running.drain(timeout=5)
        told = len(lines)
        gate.set()
        await until(lambda: ended.is_set() and len(lines) > told)
        await until(lambda: not any(thread.name.startswith("asyncpc:late") for thread in threading.enumerate()))
    assert report.done == 1
    assert excepthook == []


def _refuses(self: Any, *args: Any) -> Any:
    raise Broken


def hostile(**attributes: Any) -> type[Exception]:
    """An exception class, some of whose attributes raise."""
    return type("Hostile", (Exception,), attributes)


HOSTILE: dict[str, type[Exception]] = {
    "__traceback__": hostile(__traceback__=property(_refuses, _refuses)),
    "with_traceback": hostile(with_traceback=_refuses),
    "add_note": hostile(add_note=_refuses),
    "__str__": hostile(__str__=_refuses),
    "__notes__": hostile(__notes__=property(_refuses, _refuses)),
    "all": hostile(
        __traceback__=property(_refuses, _refuses),
        with_traceback=_refuses,
        add_note=_refuses,
        __str__=_refuses,
        __notes__=property(_refuses, _refuses),
    ),
}


def hostiles(test: Callable[..., None]) -> Callable[..., None]:
    """The test for each of these classes; where it fails it says so in words, since pytest would look at the error."""

    @functools.wraps(test)
    def in_words(*args: Any, **options: Any) -> None:
        try:
            test(*args, **options)
        except Exception as error:
            found = type(error).__name__
            with suppress(Exception):
                found += f": {error}"
        else:
            return
        pytest.fail(found)

    marked: Callable[..., None] = pytest.mark.parametrize("kind", HOSTILE.values(), ids=HOSTILE.keys())(in_words)
    return marked


def types(error: PipelineError) -> list[type[BaseException]]:
    return [type(one) for one in error.exceptions]


@both
@hostiles
@pytest.mark.parametrize("retry", [None, Retry(2, wait=no_wait)], ids=["once", "retried"])
def test_h2_an_error_that_refuses_to_be_looked_at_ends_the_run_and_comes_out(
    kind: type[Exception], retry: Any, eager: bool
) -> None:
    """Its own class decides what its attributes do; the run fails of it, in time, and it is what comes out."""

    @consumer(retry=retry)
    async def handle(n: int) -> None:
        raise kind

    with pytest.raises(PipelineError) as failed:
        ran(source(range(3)) >> handle, eager=eager)
    assert types(failed.value) == [kind]
    assert failed.value.report.failed == 1
    assert balanced(failed.value.report)


@both
@hostiles
def test_h2_an_entered_run_that_fails_of_such_an_error_does_not_run_on(kind: type[Exception], eager: bool) -> None:
    """Puts are refused, the drain returns, and the error is not swallowed."""

    @consumer
    async def handle(n: int) -> None:
        raise kind

    async def main() -> None:
        async with Pipeline(handle, drain_timeout=5) as running:
            await running.put(1)
            await asyncio.sleep(1)
            assert running.statistics().state == "failed"
            with pytest.raises(QueueShutDown):
                await running.put(2)
            try:
                await running.drain(timeout=0.1)
            finally:
                assert now() < 1.2

    with pytest.raises(PipelineError) as failed:
        run_virtual(main, eager=eager)
    assert types(failed.value) == [kind]


@both
@hostiles
@pytest.mark.parametrize("on_error", ["skip", "told"])
def test_h2_an_item_that_fails_with_such_an_error_is_counted(kind: type[Exception], on_error: str, eager: bool) -> None:
    """Its policy holds, whatever the error does when it is looked at."""
    told: list[Failure] = []

    @consumer(on_error="skip" if on_error == "skip" else told.append)
    async def handle(n: int) -> None:
        if n == 1:
            raise kind

    report = ran(source(range(3)) >> handle, eager=eager)
    assert counts(report.stages[0]) == (3, 2, 1)
    assert report.stages[0].last_failure.startswith("Hostile")
    assert [one.item for one in told] == ([1] if on_error == "told" else [])


@both
@hostiles
def test_h2_a_source_that_raises_such_an_error_ends_the_run(kind: type[Exception], eager: bool) -> None:
    """Fault C13: what it gave is handled, then the error comes out."""
    sink = Sink()

    @producer
    async def numbers() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise kind

    with pytest.raises(PipelineError) as failed:
        ran(numbers >> consumer(sink), eager=eager)
    assert types(failed.value) == [kind]
    assert sink.items == [1, 2]


@both
@hostiles
def test_h2_on_drop_that_raises_such_an_error_ends_the_run(kind: type[Exception], eager: bool) -> None:
    """It runs in the midst of somebody else's put, which has nothing to do with it."""

    def dropped(n: int) -> None:
        raise kind

    @consumer(maxsize=1, overflow="drop_newest", on_drop=dropped)
    async def handle(n: int) -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        async with Pipeline(handle, drain_timeout=5) as running:
            for n in range(3):
                running.put_nowait(n)
            await asyncio.sleep(0.1)
            assert running.statistics().state == "failed"

    with pytest.raises(PipelineError) as failed:
        run_virtual(main, eager=eager)
    assert types(failed.value) == [kind]


# -- H3: emitted stays emitted; a refused value is a failure of the stage that gave it -----------


class Refusing:
    """The next stage: its ``key=`` raises for some values, or it has no room for more than a few."""

    def __init__(self, *refused: Any) -> None:
        self.sink = Sink()
        self.refused = refused
        self.stage: Stage = consumer(key=self.key, name="second")(self.sink)

    def key(self, value: Any) -> Any:
        if value in self.refused:
            raise KeyError(value)
        return value


KINDS = ["plain", "generator", "batch", "ordered", "ordered generator", "route"]
kinds = pytest.mark.parametrize("kind", KINDS)


def giver(kind: str, calls: Counter[int], second: Stage, **options: Any) -> Pipeline[Any, Any]:
    """A stage ``first`` of that kind that gives each of its items to ``second``, and counts the calls per item."""

    async def plain(n: int) -> int:
        calls[n] += 1
        return n

    async def generator(n: int) -> AsyncIterator[int]:
        calls[n] += 1
        yield n

    async def batch(rows: list[int]) -> list[int]:
        calls.update(rows)
        return rows

    def by(n: int) -> str:
        calls[n] += 1
        return "all"

    if kind == "route":
        return route(by, {"all": second}, name="first", **options)
    if kind == "batch":
        return named("first", batch, batch=Batch(6), **options) >> second
    function: Any = generator if "generator" in kind else plain
    return named("first", function, ordered="ordered" in kind, **options) >> second


@both
@kinds
def test_h3_a_refused_value_fails_its_item_and_the_others_go_on(kind: str, eager: bool) -> None:
    """With ``on_error="skip"`` the run goes on; one item of six failed, the others are done and passed on."""
    second, calls = Refusing(3), Counter[int]()
    report = ran(source(range(6)) >> giver(kind, calls, second.stage, on_error="skip"), eager=eager)
    assert sorted(second.sink.items) == [0, 1, 2, 4, 5]
    assert (counts(report.stages[0]), counts(report.stages[1])) == ((6, 5, 1), (5, 5, 0))
    assert report.stages[0].emitted == 5
    assert report.stages[0].last_failure.startswith("KeyError")
    assert calls == Counter(range(6))


@both
@kinds
def test_h3_whoever_is_told_of_failures_is_told_of_a_refused_value(kind: str, eager: bool) -> None:
    """As of any other failure: the item, what it failed with, and in which stage."""
    second, calls, told = Refusing(3), Counter[int](), list[Failure]()
    report = ran(source(range(6)) >> giver(kind, calls, second.stage, on_error=told.append), eager=eager)
    assert [(one.item, one.error.split(":")[0], one.stage, one.attempts) for one in told] == [
        (3, "KeyError", "first", 1)
    ]
    assert counts(report.stages[0]) == (6, 5, 1)


@both
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "route"])  # a route has no retry
def test_h3_a_refused_value_is_never_retried(kind: str, eager: bool) -> None:
    """The handler did its work, and would do it twice; what was emitted would be emitted twice."""
    second, calls = Refusing(3), Counter[int]()
    options: dict[str, Any] = {"on_error": "skip", "retry": Retry(2, wait=no_wait)}
    report = ran(source(range(6)) >> giver(kind, calls, second.stage, **options), eager=eager)
    assert calls == Counter(range(6))
    assert sorted(second.sink.items) == [0, 1, 2, 4, 5]
    assert (report.stages[0].failed, report.stages[0].retried) == (1, 0)


@both
def test_h3_a_batch_whose_value_was_refused_is_not_split(eager: bool) -> None:
    """``split_on_error`` is for what the handler failed with; one of its values was refused, and only that fails."""
    second, calls = Refusing(3), Counter[int]()

    @consumer(batch=Batch(6, split_on_error=True), on_error="skip", name="first")
    async def first(rows: list[int]) -> list[int]:
        calls.update(rows)
        return rows

    report = ran(source(range(6)) >> first >> second.stage, eager=eager)
    assert calls == Counter(range(6))
    assert sorted(second.sink.items) == [0, 1, 2, 4, 5]
    assert counts(report.stages[0]) == (6, 5, 1)


@both
@kinds
def test_h3_by_default_the_run_fails_of_a_refused_value(kind: str, eager: bool) -> None:
    """The item failed, what was emitted before it stays emitted, and the error comes out."""
    second, calls = Refusing(3), Counter[int]()
    with pytest.raises(PipelineError) as failed:
        ran(source(range(6)) >> giver(kind, calls, second.stage), eager=eager)
    report = failed.value.report
    assert types(failed.value) == [KeyError]
    assert report.stages[0].failed == 1
    assert report.stages[0].emitted == report.stages[1].received
    assert balanced(report)
    assert 3 not in [one.item for one in report.unfinished]


@both
@pytest.mark.parametrize("ordered", [False, True])
def test_h3_what_a_generator_gave_before_a_refused_value_stays_given(ordered: bool, eager: bool) -> None:
    """It is closed where it gave the refused one; what came before is not given again, whatever ``retry`` says."""
    second, closed = Refusing("3b"), list[int]()

    @consumer(on_error="skip", retry=Retry(3, wait=no_wait), ordered=ordered)
    async def first(n: int) -> AsyncIterator[str]:
        try:
            yield f"{n}a"
            yield f"{n}b"
        finally:
            closed.append(n)

    report = ran(source(range(6)) >> first >> second.stage, eager=eager)
    assert second.sink.items == ["0a", "0b", "1a", "1b", "2a", "2b", "3a", "4a", "4b", "5a", "5b"]
    assert closed == list(range(6))
    assert counts(report.stages[0]) == (6, 5, 1)


@both
def test_h3_a_generating_batch_whose_value_was_refused_fails_as_one(eager: bool) -> None:
    """Its values belong to all of its items; what it gave before stays given, once."""
    second = Refusing(3)

    @consumer(batch=Batch(6), on_error="skip", retry=Retry(2, wait=no_wait))
    async def first(rows: list[int]) -> AsyncIterator[int]:
        for row in rows:
            yield row

    report = ran(source(range(6)) >> first >> second.stage, eager=eager)
    assert second.sink.items == [0, 1, 2]
    assert counts(report.stages[0]) == (6, 0, 6)


@both
@pytest.mark.parametrize("concurrency", [1, 3])
def test_h3_order_holds_past_a_refused_value(concurrency: int, eager: bool) -> None:
    """Whoever passes on the values of others meets the refusal of one; that one's item fails, in its stage."""
    second, told = Refusing(2), list[int]()

    @consumer(ordered=True, concurrency=concurrency, on_error=lambda failure: told.append(failure.item))
    async def first(n: int) -> int:
        await asyncio.sleep(3 - n % 3)
        return n

    report = ran(source(range(9)) >> first >> second.stage, eager=eager)
    assert second.sink.items == [0, 1, 3, 4, 5, 6, 7, 8]
    assert told == [2]
    assert counts(report.stages[0]) == (9, 8, 1)


@both
def test_h3_a_broadcast_keeps_what_it_gave_to_other_branches(eager: bool) -> None:
    """One branch refuses: the item failed in the broadcast; the branch before it has it all the same, once."""
    one, two = Sink(), Refusing(3)
    with pytest.raises(PipelineError) as failed:
        ran(source(range(6)) >> broadcast(named("one", one), two.stage), eager=eager)
    report = failed.value.report
    assert types(failed.value) == [KeyError]
    first, *branches = report.stages
    assert first.failed == 1
    assert first.emitted == sum(branch.received for branch in branches)
    assert balanced(report)


@both
def test_h3_a_caller_learns_that_its_value_was_refused(eager: bool) -> None:
    """A ``call`` fails for its caller alone; the run goes on."""
    second = Refusing(3)

    @consumer
    async def first(n: int) -> int:
        return n

    async def main() -> None:
        async with Pipeline(first, second.stage) as running:
            with pytest.raises(KeyError):
                await running.call(3)
            await running.call(4)
            report = await running.drain()
        assert counts(report.stages[0]) == (2, 1, 1)

    run_virtual(main, eager=eager)


@both
@kinds
@pytest.mark.parametrize("on_error", ["skip", "stop"])
def test_h3_a_queue_that_raises_when_full_refuses_the_value(kind: str, on_error: Any, eager: bool) -> None:
    """``overflow="raise"`` is such a refusal too: the items without room failed in the stage that gave them."""
    slow, calls = Sink(1.0), Counter[int]()
    second = named("second", slow, maxsize=2, overflow="raise")
    pipeline = source(range(6)) >> giver(kind, calls, second, on_error=on_error)
    if on_error == "stop":
        with pytest.raises(PipelineError) as failed:
            ran(pipeline, eager=eager)
        assert set(types(failed.value)) == {asyncio.QueueFull}
        report = failed.value.report
        assert report.stages[0].failed == 1 or kind == "batch"  # whose other values were refused as well
        assert report.stages[0].failed > 0
    else:
        report = ran(pipeline, eager=eager)
        first, last = report.stages
        assert first.failed > 0
        assert first.done == first.emitted == last.received == last.done == len(slow.items)
        assert (first.received, last.peak_queued) == (6, 2)
    assert balanced(report)
    assert calls[0] == 1


@both
@pytest.mark.parametrize("why", ["key", "overflow"])
def test_h3_an_item_of_a_source_that_is_refused_was_not_taken(why: str, eager: bool) -> None:
    """The source ends with the error; what it gave before is handled, and the refused item is nowhere."""
    slow, given = Sink(1.0), list[int]()
    error: type[Exception]

    @producer
    async def numbers() -> AsyncIterator[int]:
        for n in range(6):
            given.append(n)
            yield n

    if why == "overflow":
        stage, error = named("stage", slow, maxsize=2, overflow="raise"), asyncio.QueueFull
    else:
        stage, error = named("stage", slow, key=lambda n: {0: 0, 1: 1, 2: 2}[n]), KeyError
    with pytest.raises(PipelineError) as failed:
        ran(numbers >> stage, eager=eager)
    report = failed.value.report
    assert types(failed.value) == [error]
    assert slow.items == given[:-1]
    assert report.produced == report.stages[0].received == report.done == len(slow.items)
    assert report.unfinished == ()


# -- H7: no loop of ours holds the event loop -----------------------------------------------------

MOST = 256
"""Items that may move between two turns of another task; the budget is 128, and half a millisecond."""


async def most_between_turns(running: Running[Any, Any], read: Callable[[Any], int]) -> list[int]:
    """How much ``read`` of the statistics grew from one turn of this task to the next, until the run ends."""
    grown, before = [0], 0
    while running.report is None:
        count = read(running.statistics())
        grown.append(count - before)
        before = count
        await asyncio.sleep(0)
    return grown


def watched(pipeline: Pipeline[Any, Any], items: int, read: Callable[[Any], int], eager: bool) -> tuple[Report, int]:
    """The report of ``pipeline``, and how much ``read`` grew at most between two turns of another task."""

    async def main() -> tuple[Report, int]:
        async with pipeline as running:
            for n in range(items):
                running.put_nowait(n)
            watch = asyncio.create_task(most_between_turns(running, read))
            report = await running.drain()
            return report, max(await watch)

    return run_virtual(main, eager=eager)


def _moved_on(statistics: Any) -> int:
    last: StageStatistics = statistics.stages[1]
    return last.queued + last.in_flight + last.done


@both
@pytest.mark.parametrize("how", ["list", "none", "generator"])
def test_h7_the_results_of_a_batch_let_others_run(how: str, eager: bool) -> None:
    """Invariant 10: 10,000 results of one batch are passed on in turns, as 10,000 items are."""
    if how == "generator":

        @consumer(batch=Batch(10_000), maxsize=0)
        async def generates(rows: list[int]) -> AsyncIterator[int]:
            for row in rows:
                yield row

        first: Stage = generates
    else:

        @consumer(batch=Batch(10_000), maxsize=0)
        async def batched(rows: list[int]) -> Any:
            return list(rows) if how == "list" else None

        first = batched

    @consumer(maxsize=0)
    async def last(n: Any) -> None: ...

    report, most = watched(Pipeline(first, last), 10_000, _moved_on, eager)
    assert report.done == 10_000
    assert most <= MOST


@both
@pytest.mark.parametrize("on_error", ["skip", "function", "consumer"])
def test_h7_a_batch_that_is_given_up_lets_others_run(on_error: str, eager: bool) -> None:
    """Invariant 10: its items fail in turns."""

    @consumer(maxsize=0)
    async def told(failure: Failure) -> None: ...

    destination: Any = {"skip": "skip", "function": lambda failure: None, "consumer": told}[on_error]

    @consumer(batch=Batch(5_000), maxsize=0, on_error=destination)
    async def first(rows: list[int]) -> None:
        raise ValueError

    report, most = watched(Pipeline(first), 5_000, lambda statistics: statistics.stages[0].failed, eager)
    assert report.failed == 5_000
    assert most <= MOST


def _seconds_to_give_up(items: int) -> float:
    @consumer(batch=Batch(items), maxsize=0, on_error="skip")
    async def first(rows: list[int]) -> None:
        raise ValueError

    async def main() -> float:
        async with Pipeline(first) as running:
            for n in range(items):
                running.put_nowait(n)
            began = time.process_time()
            report = await running.drain()
            assert report.failed == items
            return time.process_time() - began

    return run_virtual(main)


def test_h7_giving_a_batch_up_takes_time_by_the_number_of_its_items() -> None:
    """Twenty times the items take about twenty times as long, in CPU time; they took sixty times as long."""
    few = min(_seconds_to_give_up(15_000) for _ in range(3))
    assert _seconds_to_give_up(300_000) < 40 * few


@both
def test_h7_a_drain_is_heard_while_a_batch_is_given_up(eager: bool) -> None:
    """Promise 5: at the deadline the rest of the batch is unfinished, each item counted once."""

    @consumer(batch=Batch(20_000), maxsize=0, on_error="skip")
    async def first(rows: list[int]) -> None:
        raise ValueError

    async def main() -> Report:
        async with Pipeline(first) as running:
            for n in range(20_000):
                running.put_nowait(n)
            await until(lambda: running.statistics().failed > 0)
            return await running.drain(timeout=0)

    report = run_virtual(main, eager=eager)
    assert 0 < report.failed < 10_000
    assert report.failed + len(report.unfinished) == 20_000


@both
def test_h7_a_broadcast_to_many_branches_lets_others_run(eager: bool) -> None:
    """What counts is what is put: 20 copies of an item are 20."""
    sinks: list[Stage] = []
    for branch in range(20):

        async def sink(n: int) -> None: ...

        sinks.append(consumer(name=f"sink {branch}")(sink))
    pipeline = Pipeline(broadcast(*sinks, maxsize=0), maxsize=4_000)
    report, most = watched(pipeline, 2_000, lambda statistics: statistics.stages[0].emitted, eager)
    assert report.stages[0].emitted == 40_000
    assert most <= 1_000  # 2,540 before: 127 items


# -- H8: a list that is one item ------------------------------------------------------------------


@both
@pytest.mark.parametrize("on_error", ["stop", "skip", "told"])
@pytest.mark.parametrize("retry", [None, Retry(2, wait=no_wait)], ids=["once", "retried"])
def test_h8_a_batch_that_goes_on_as_one_item_fails_as_one_item(retry: Any, on_error: str, eager: bool) -> None:
    """The stage's option says what a batch is, never the type of an item."""
    told, calls = list[Failure](), list[Any]()

    @consumer(batch=Batch(3))
    async def gather(rows: list[int]) -> AsyncIterator[list[int]]:
        yield rows

    @consumer(retry=retry, on_error=told.append if on_error == "told" else on_error)  # type: ignore[arg-type]
    async def save(rows: list[int]) -> None:
        calls.append(rows)
        if 4 in rows:
            raise ValueError

    pipeline = source(range(9)) >> gather >> save
    if on_error == "stop":
        with pytest.raises(PipelineError) as failed:
            ran(pipeline, eager=eager)
        assert types(failed.value) == [ValueError]
        report = failed.value.report
        assert report.stages[1].failed == 1
        assert balanced(report)
    else:
        report = ran(pipeline, eager=eager)
        assert counts(report.stages[1]) == (3, 2, 1)
        assert calls.count([3, 4, 5]) == (1 if retry is None else 2)
    assert [list(one.item) for one in told] == ([[3, 4, 5]] if on_error == "told" else [])


@both
@pytest.mark.parametrize("options", [{"ordered": True}, {"timeout": 1}, {"batch": Batch(2)}], ids=str)
def test_h8_a_list_as_an_item_is_no_batch_whatever_the_stage(options: dict[str, Any], eager: bool) -> None:
    """In order, with a time limit, or as an item of the next stage's own batches."""

    @consumer(batch=Batch(3))
    async def gather(rows: list[int]) -> AsyncIterator[list[int]]:
        yield rows

    async def save(rows: Any) -> None:
        raise ValueError

    report = ran(source(range(12)) >> gather >> named("save", save, on_error="skip", **options), eager=eager)
    assert counts(report.stages[1]) == (4, 0, 4)


@both
def test_h8_a_list_that_is_routed_or_fed_is_one_item(eager: bool) -> None:
    """The same on the other ways out of a batch stage."""

    @consumer(batch=Batch(3))
    async def gather(rows: list[int]) -> AsyncIterator[list[int]]:
        yield rows

    async def save(rows: list[int]) -> None:
        raise ValueError

    branches: dict[Any, Stage] = {3: named("save", save, on_error="skip")}
    report = ran(source(range(6)) >> gather >> route(len, branches), eager=eager)
    assert [stage.failed for stage in report.stages] == [0, 0, 2]

    @consumer(on_error="skip")
    async def first(item: Any) -> Any:
        if isinstance(item, list):
            raise ValueError
        return item

    @consumer(batch=Batch(3))
    async def back(rows: list[int]) -> None:
        feed(rows)

    report = ran(source(range(6)) >> first >> back, eager=eager)
    assert counts(report.stages[0]) == (8, 6, 2)
    assert report.fed == 2


# -- H9: patience is no failure -------------------------------------------------------------------


@both
@pytest.mark.parametrize("failures", [1, 2])
def test_h9_patience_trips_no_breaker(failures: int, eager: bool) -> None:
    """A sink that asks for patience is no sink that is down."""
    calls: list[float] = []

    @consumer(breaker=Breaker(failures, reset_after=1000))
    async def handle(n: int) -> None:
        calls.append(now())
        if len(calls) <= 3:
            raise RetryLater(1)

    report = ran(source([1]) >> handle, eager=eager)
    assert calls == pytest.approx([0, 1, 2, 3])
    assert (report.done, report.stages[0].retried) == (1, 3)


@both
def test_h9_patience_counts_beside_failures_as_nothing(eager: bool) -> None:
    """Only the failures are counted against the breaker."""
    calls: list[float] = []

    @consumer(breaker=Breaker(2, reset_after=1000), on_error="skip")
    async def handle(n: int) -> None:
        calls.append(now())
        if len(calls) == 1:
            raise ValueError
        if len(calls) == 2:
            raise RetryLater(1)

    ran(source([1, 2, 3]) >> handle, eager=eager)
    assert calls == pytest.approx([0, 0, 1, 1])


@both
@pytest.mark.parametrize("kind", ["plain", "generator", "batch", "ordered"])
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_h9_a_cancel_that_becomes_patience_is_no_failure(kind: str, on_error: Any, eager: bool) -> None:
    """Promise 3: whoever would try again later was cancelled before; the item is released."""

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RetryLater(1) from None

    async def plain(n: Any) -> None:
        await wait()

    async def generator(n: Any) -> AsyncIterator[int]:
        await wait()
        yield 1

    options: dict[str, Any] = {"batch": Batch(1)} if kind == "batch" else {"ordered": kind == "ordered"}
    stage = named("stage", generator if kind == "generator" else plain, on_error=on_error, **options)

    async def main() -> Report:
        async with Pipeline(stage, named("last", Sink())) as running:
            await running.put(1)
            await asyncio.sleep(1)
            return await running.drain(timeout=1)

    report = run_virtual(main, eager=eager)
    assert (report.failed, report.stages[0].last_failure) == (0, "")
    assert [(one.item, one.stage) for one in report.unfinished] == [(1, "stage")]


@both
def test_h9_a_caller_is_told_of_the_end_and_not_of_patience(eager: bool) -> None:
    """``call`` raises what it raises whenever the run ends before it comes to the item."""

    @consumer
    async def stage(n: int) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RetryLater(1) from None

    async def main() -> None:
        async with Pipeline(stage) as running:
            call = asyncio.create_task(running.call(1))
            await asyncio.sleep(1)
            report = await running.drain(timeout=1)
            with pytest.raises(QueueShutDown):
                await call
            assert report.failed == 0

    run_virtual(main, eager=eager)


# -- H10: a cancelled run says what it left -------------------------------------------------------


@consumer(concurrency=2)
async def fetch(n: int) -> int:
    return n


@consumer(concurrency=2)
async def save(n: int) -> None:
    await asyncio.Event().wait()


async def cancelled_with(awaitable: Callable[[], Any], cancels: int = 1) -> asyncio.CancelledError:
    """What comes out of ``awaitable`` when its task is cancelled after a second."""
    found: list[asyncio.CancelledError] = []

    async def work() -> None:
        try:
            await awaitable()
        except asyncio.CancelledError as error:
            found.append(error)
            raise

    task = asyncio.create_task(work())
    await asyncio.sleep(1)
    for _ in range(cancels):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([task])
    assert task.cancelled()
    return found[0]


def left(error: BaseException | None) -> dict[str, int]:
    """What the report of a cancelled run says was left, by stage."""
    report = getattr(error, "report", None)
    assert isinstance(report, Report)
    assert balanced(report)
    assert sorted(one.item for one in report.unfinished) == list(range(6))
    return report.left_by_stage()


@both
@pytest.mark.parametrize("cancels", [1, 2])
def test_h10_the_cancel_of_a_run_carries_its_report(cancels: int, eager: bool) -> None:
    """``await pipeline`` cannot return the report then, so the ``CancelledError`` has it."""

    async def main() -> None:
        async def run() -> Report:
            return await (source(range(6)) >> fetch >> save)

        assert left(await cancelled_with(run, cancels)) == {"save": 6}

    run_virtual(main, eager=eager)


@both
def test_h10_a_timeout_around_a_run_has_the_report_in_its_cause(eager: bool) -> None:
    """``asyncio.timeout`` makes a ``TimeoutError`` of the cancel, whose cause it is."""

    async def main() -> None:
        with pytest.raises(TimeoutError) as late:
            async with asyncio.timeout(1):
                await (source(range(6)) >> fetch >> save)
        assert left(late.value.__cause__) == {"save": 6}

    run_virtual(main, eager=eager)


@both
def test_h10_a_cancelled_run_logs_what_was_left_by_stage(eager: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A warning names the stages and how many items each left; never an item."""

    async def main() -> None:
        async def run() -> Report:
            return await (source(f"item {n}" for n in range(6)) >> named("fetch", _same) >> save)

        await cancelled_with(run)

    with caplog.at_level(logging.WARNING, "asyncpc"):
        run_virtual(main, eager=eager)
    (line,) = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert "save" in line
    assert "6" in line
    assert "item" not in line.replace("items", "")


async def _same(item: Any) -> Any:
    return item


@both
def test_h10_the_report_of_a_cancelled_run_counts_what_failed_meanwhile(eager: bool) -> None:
    """A handler that fails while it is cancelled: the cancel comes out, and its report tells of both."""

    @consumer(concurrency=2)
    async def stage(n: int) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if n == 1:
                raise ValueError from None
            raise

    async def main() -> None:
        async def run() -> Report:
            return await (source(range(3)) >> stage)

        error = await cancelled_with(run)
        report = getattr(error, "report", None)
        assert isinstance(report, Report)
        assert (report.failed, report.left_by_stage()) == (1, {"stage": 2})

    run_virtual(main, eager=eager)


# -- H11: passwords and payloads are not printed --------------------------------------------------

SECRET = "hunter2"
URLS = [
    f"redis://me:{SECRET}@host:6379/0",
    f"amqp://:{SECRET}@host/",
    f"postgresql+asyncpg://me:{SECRET}@host/db?sslmode=require",
    f"nats://a:{SECRET}@one,nats://b:{SECRET}@two",
    f"redis://me:p@{SECRET}@host",
]
urls = pytest.mark.parametrize("url", URLS)
CUT = [f"{'x' * filling} redis://me:{SECRET * 60}@host/0" for filling in (0, 100, 180, 190, 480)]
"""Messages too long to be shown whole; where they are cut, the password has not ended."""


def failing_with(message: str) -> Callable[[Any], Any]:
    async def handle(item: Any) -> None:
        raise ConnectionError(message)

    return handle


@urls
def test_h11_the_report_shows_no_password(url: str) -> None:
    """``last_failure``, and the line of the report that shows it."""
    stage = named("stage", failing_with(f"cannot reach {url}"), on_error="skip")
    report = ran(source([1]) >> stage)
    assert SECRET not in report.stages[0].last_failure
    assert "cannot reach" in report.stages[0].last_failure
    assert SECRET not in str(report)


@pytest.mark.parametrize("message", CUT, ids=len)
def test_h11_a_message_is_redacted_before_it_is_cut(message: str) -> None:
    """Cut first, the password would have no end that tells that it is one."""
    report = ran(source([1]) >> named("stage", failing_with(message), on_error="skip"))
    assert SECRET not in report.stages[0].last_failure
    assert SECRET not in str(report)


@urls
def test_h11_the_log_shows_no_password_of_an_item_that_failed(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The line that counts failed items."""
    with caplog.at_level(logging.DEBUG, "asyncpc"):
        ran(source([1]) >> named("stage", failing_with(f"cannot reach {url}"), on_error="skip"))
    assert "cannot reach" in caplog.text
    assert SECRET not in caplog.text


@urls
def test_h11_the_log_shows_no_password_of_a_run_that_failed(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The line of an entered run that failed, and the traceback below it."""

    async def main() -> None:
        with pytest.raises(PipelineError):
            async with Pipeline(named("stage", failing_with(f"cannot reach {url}"))) as running:
                await running.put(1)

    with caplog.at_level(logging.DEBUG, "asyncpc"):
        run_virtual(main)
    assert "cannot reach" in caplog.text
    assert SECRET not in " ".join(record.getMessage() for record in caplog.records)
    assert SECRET not in caplog.text


@urls
async def test_h11_the_log_shows_no_password_of_a_source_that_raises_late(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The line for a source that was left to its thread: redacted, and on one line."""
    gate, handled = Event(), asyncio.Event()

    @producer
    def late() -> Iterator[int]:
        yield 1
        gate.wait(20)
        raise ConnectionError(f"cannot reach {url}\n\x1b[2J")

    @consumer
    async def handle(n: int) -> None:
        handled.set()

    with caplog.at_level(logging.DEBUG, "asyncpc"):
        async with Pipeline(late, handle) as running:
            await handled.wait()
            await running.drain(timeout=5)
        gate.set()
        await until(lambda: "cannot reach" in caplog.text)
    assert SECRET not in caplog.text
    assert all(record.getMessage().isprintable() for record in caplog.records)


APP = """
from asyncpc import consumer, source

async def fails(n):
    raise ConnectionError(MESSAGE)

skipped = source([1]) >> consumer(on_error="skip", name="stage")(fails)
stopped = source([1]) >> consumer(name="stage")(fails)
"""


@pytest.mark.parametrize("message", [f"cannot reach {URLS[0]}", f"cannot reach {URLS[4]}", CUT[-1]], ids=len)
@pytest.mark.parametrize("pipeline", ["skipped", "stopped"])
def test_h11_the_command_line_shows_no_password(pipeline: str, message: str, tmp_path: Path) -> None:
    """Neither with the report on stdout nor with the errors and log lines on stderr."""
    (tmp_path / "app.py").write_text(APP.replace("MESSAGE", repr(message)))
    command = [sys.executable, "-m", "asyncpc", "run", f"app:{pipeline}", "--traceback"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=50)
    assert ended.returncode == 1
    assert "ConnectionError" in ended.stdout + ended.stderr
    assert SECRET not in ended.stdout
    assert SECRET not in ended.stderr


def unroutable(key: Any) -> str:
    """What ``Unroutable`` says of an item with that key."""
    pipeline = source([1]) >> route(lambda item: key, {"known": named("known", Sink())}, name="sort")
    with pytest.raises(PipelineError) as failed:
        ran(pipeline)
    (error,) = failed.value.exceptions
    assert isinstance(error, Unroutable)
    return str(error)


def test_h11_unroutable_shows_no_password_of_a_key() -> None:
    """A key may be a whole payload, such as a URL; where it is cut, the password may not have ended."""
    for key in [*URLS, f"{'x' * 40} redis://me:{SECRET * 20}@host", (1, URLS[0])]:
        assert SECRET not in unroutable(key)


class Repr:
    """A key with a representation of its own."""

    def __init__(self, text: str | None) -> None:
        self.text = text

    def __repr__(self) -> str:
        if self.text is None:
            raise ValueError
        return self.text


@pytest.mark.parametrize("key", ["k" * 500, Repr("k" * 500), b"k" * 500], ids=["str", "repr", "bytes"])
def test_h11_unroutable_shows_the_beginning_of_a_key_only(key: Any) -> None:
    """At most 80 characters of its representation, which say which kind of key it was."""
    told = unroutable(key)
    assert "kkk" in told
    assert told.count("k") <= 80 + len("sort no branch for known key")


def test_h11_unroutable_shows_nothing_that_plays_with_a_terminal() -> None:
    """Fault F9: a representation is the program's, and may be of data."""
    assert unroutable(Repr("\x1b[2J\nrow")).isprintable()


def test_h11_unroutable_needs_no_representation() -> None:
    """A key that cannot be shown is no branch's all the same."""
    assert "sort" in unroutable(Repr(None))


# -- H12: a new rate holds at once ----------------------------------------------------------------


@both
@pytest.mark.parametrize("concurrency", [1, 4])
def test_h12_calls_that_have_not_begun_follow_a_faster_rate_at_once(concurrency: int, eager: bool) -> None:
    """From one a minute to a thousand a second: nobody waits for a minute any more."""
    sink = Sink()

    async def main() -> None:
        async with Pipeline(named("call", sink, rate=Rate(1, per=60), concurrency=concurrency)) as running:
            for n in range(10):
                await running.put(n)
            await asyncio.sleep(1)
            assert sink.times == [0]
            running.set_rate("call", Rate(1000))
            await running.drain(timeout=30)

    run_virtual(main, eager=eager)
    assert len(sink.times) == 10
    assert 1 <= sink.times[1] <= sink.times[-1] <= 1.1
    gaps = [later - sooner for sooner, later in zip(sink.times[1:], sink.times[2:], strict=False)]
    assert min(gaps) > 0.0009


@both
def test_h12_a_call_that_comes_later_follows_the_new_rate(eager: bool) -> None:
    """The old due time does not hold back who was not even there."""
    sink = Sink()

    async def main() -> None:
        async with Pipeline(named("call", sink, rate=Rate(1, per=60))) as running:
            await running.put(0)
            await asyncio.sleep(1)
            running.set_rate("call", Rate(1000))
            await running.put(1)
            await asyncio.sleep(1)
            assert sink.times == pytest.approx([0, 1], abs=0.01)

    run_virtual(main, eager=eager)


@both
def test_h12_each_key_follows_the_new_rate(eager: bool) -> None:
    """A rate by key: those of all keys that wait go on."""
    sink = Sink()

    def key(n: int) -> int:
        return n % 3

    async def main() -> None:
        async with Pipeline(named("call", sink, rate=Rate(1, per=60, key=key), concurrency=9)) as running:
            for n in range(9):
                await running.put(n)
            await asyncio.sleep(1)
            assert sink.times == [0, 0, 0]
            running.set_rate("call", Rate(10, key=key))
            await running.drain(timeout=30)

    run_virtual(main, eager=eager)
    assert 1 <= sink.times[3] <= sink.times[-1] <= 1.3


@both
def test_h12_calls_that_have_not_begun_follow_a_slower_rate_too(eager: bool) -> None:
    """The other way round, nobody begins at the old rate any more."""
    sink = Sink()

    async def main() -> None:
        async with Pipeline(named("call", sink, rate=Rate(10), concurrency=5)) as running:
            for n in range(5):
                await running.put(n)
            await asyncio.sleep(0.05)
            running.set_rate("call", Rate(1, per=60))
            await running.drain(timeout=1000)

    run_virtual(main, eager=eager)
    gaps = [later - sooner for sooner, later in zip(sink.times[1:], sink.times[2:], strict=False)]
    assert len(gaps) == 3
    assert min(gaps) > 59


# -- H13: who cancelled whom ----------------------------------------------------------------------


async def inner_cancel() -> None:
    """Wait for a task that somebody else cancels."""
    task = asyncio.create_task(asyncio.sleep(1000))
    asyncio.get_running_loop().call_soon(task.cancel)
    await task


CANCELLED = ["plain", "generator", "ordered", "timeout", "rate", "breaker", "context"]
cancelled_kinds = pytest.mark.parametrize("kind", CANCELLED)


def cancelling_stage(kind: str, calls: list[int], **options: Any) -> Stage:
    """A stage ``stage`` of that kind whose call for item 1 ends with somebody else's cancel."""

    async def plain(n: int) -> int:
        calls.append(n)
        if n == 1:
            await inner_cancel()
        return n

    async def generator(n: int) -> AsyncIterator[int]:
        yield await plain(n)

    class Resource:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *details: object) -> None: ...

    async def with_resource(n: int, resource: None) -> int:
        return await plain(n)

    more: dict[str, dict[str, Any]] = {
        "ordered": {"ordered": True},
        "timeout": {"timeout": 10},
        "rate": {"rate": Rate(1000)},
        "breaker": {"breaker": Breaker(5, 10)},
        "context": {"context": Resource},
    }
    function: Any = {"generator": generator, "context": with_resource}.get(kind, plain)
    return named("stage", function, **options, **more.get(kind, {}))


@both
@cancelled_kinds
def test_h13_somebody_elses_cancel_is_a_failure_of_the_item(kind: str, eager: bool) -> None:
    """The handler's own task was not cancelled: with ``on_error="skip"`` the item failed, and the run goes on."""
    calls, sink = list[int](), Sink()
    report = ran(source(range(4)) >> cancelling_stage(kind, calls, on_error="skip") >> consumer(sink), eager=eager)
    assert counts(report.stages[0]) == (4, 3, 1)
    assert sink.items == [0, 2, 3]
    assert report.stages[0].last_failure.startswith("WorkerCancelled")


@both
@cancelled_kinds
def test_h13_it_is_told_as_any_failure_and_never_retried(kind: str, eager: bool) -> None:
    """``retry`` is for what an ``Exception`` says, and a cancel is none."""
    calls, told = list[int](), list[Failure]()
    stage = cancelling_stage(kind, calls, on_error=told.append, retry=Retry(3, wait=no_wait))
    report = ran(source(range(3)) >> stage, eager=eager)
    assert calls == [0, 1, 2]
    assert [(one.item, one.stage, one.attempts) for one in told] == [(1, "stage", 1)]
    assert told[0].error.startswith("WorkerCancelled")
    assert (report.failed, report.stages[0].retried) == (1, 0)


@both
@cancelled_kinds
def test_h13_by_default_the_run_fails_and_the_item_has_failed(kind: str, eager: bool) -> None:
    """As any failure does without a policy: the error names the worker, and no item is unfinished."""
    with pytest.raises(PipelineError) as failed:
        ran(source([0, 1]) >> cancelling_stage(kind, []), eager=eager)
    assert types(failed.value) == [WorkerCancelled]
    report = failed.value.report
    assert counts(report.stages[0]) == (2, 1, 1)
    assert report.unfinished == ()


@both
def test_h13_a_batch_fails_as_one(eager: bool) -> None:
    """All items of the batch, as with any other failure of its handler."""

    @consumer(batch=Batch(3), on_error="skip", retry=2)
    async def handle(rows: list[int]) -> None:
        if 1 in rows:
            await inner_cancel()

    report = ran(source(range(6)) >> handle, eager=eager)
    assert counts(report.stages[0]) == (6, 3, 3)


@both
def test_h13_it_counts_against_max_failures(eager: bool) -> None:
    """One too many ends the run with the error that says so."""

    @consumer(on_error="skip", max_failures=1)
    async def handle(n: int) -> None:
        await inner_cancel()

    with pytest.raises(PipelineError) as failed:
        ran(source(range(3)) >> handle, eager=eager)
    assert types(failed.value) == [TooManyFailures]


@both
def test_h13_a_caller_is_not_cancelled_by_it(eager: bool) -> None:
    """A ``CancelledError`` out of ``call`` would look as if the caller had been cancelled; the run goes on."""

    async def main() -> None:
        async with Pipeline(cancelling_stage("plain", [])) as running:
            with pytest.raises(WorkerCancelled):
                await running.call(1)
            assert await running.call(2) == 2

    run_virtual(main, eager=eager)


@both
def test_h13_the_cancel_of_a_worker_itself_is_none_of_its_item(eager: bool) -> None:
    """Fault B1: whoever cancels the task of a worker ends the run, whatever ``on_error`` says; the item is listed."""

    @consumer(on_error="skip")
    async def handle(n: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    with pytest.raises(PipelineError) as failed:
        ran(source([1]) >> handle, eager=eager)
    assert types(failed.value) == [WorkerCancelled]
    assert (failed.value.report.failed, len(failed.value.report.unfinished)) == (0, 1)


@both
def test_h13_an_inner_cancel_at_the_deadline_is_a_cancel(eager: bool) -> None:
    """The run cancels the worker, the worker its task: neither is a failure."""

    @consumer(on_error="skip")
    async def handle(n: int) -> None:
        await asyncio.create_task(asyncio.sleep(1000))

    async def main() -> Report:
        async with Pipeline(handle) as running:
            await running.put(1)
            await asyncio.sleep(1)
            return await running.drain(timeout=0)

    report = run_virtual(main, eager=eager)
    assert (report.failed, len(report.unfinished)) == (0, 1)


@both
@pytest.mark.timeout(5)
@pytest.mark.parametrize("seconds", [math.nan, -1.0, -math.inf], ids=str)
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_h13_a_wait_that_is_no_time_is_refused(seconds: float, on_error: Any, eager: bool) -> None:
    """It is a mistake in the program: the run fails at once, and the error names the stage and the value."""
    calls: list[int] = []

    @consumer(retry=Retry(3, wait=lambda attempt: seconds), on_error=on_error, name="stage")
    async def handle(n: int) -> None:
        calls.append(n)
        raise ValueError(n)

    with pytest.raises(PipelineError) as failed:
        ran(source([1]) >> handle, eager=eager)
    told = " ".join(str(error) for error in failed.value.exceptions)
    assert "wait" in told
    assert repr(seconds) in told
    assert "stage" in told
    assert calls == [1]
    assert balanced(failed.value.report)


# -- H14: batches of a key ------------------------------------------------------------------------


class PerKey:
    """A handler of batches that sees which keys are being handled at once."""

    def __init__(self, seconds: Callable[[list[Any]], float] = lambda rows: 1.0) -> None:
        self.busy: Counter[Any] = Counter()
        self.clashes = 0
        self.batches: list[list[Any]] = []
        self.seen: dict[Any, list[Any]] = {}
        self.peak = 0
        self.now = 0
        self.seconds = seconds

    async def __call__(self, rows: list[Any]) -> None:
        keys = {key for key, _ in rows}
        self.clashes += sum(1 for key in keys if self.busy[key])
        self.busy.update(keys)
        self.now += 1
        self.peak = max(self.peak, self.now)
        self.batches.append(list(rows))
        try:
            for key, number in rows:
                self.seen.setdefault(key, []).append(number)
            await asyncio.sleep(self.seconds(rows))
        finally:
            self.busy.subtract(keys)
            self.now -= 1


def by_first(item: tuple[Any, int]) -> Any:
    return item[0]


@both
@pytest.mark.parametrize("within", [None, 0.5])
@pytest.mark.parametrize("keys", [1, 3, 10])
def test_h14_batches_of_a_key_come_one_at_a_time_and_in_order(keys: int, within: Any, eager: bool) -> None:
    """No key of a batch that is being handled is in another one that starts before it ends."""
    handler = PerKey(lambda rows: 1.0 + rows[0][1] % 3)
    stage = named("stage", handler, batch=Batch(5, within), key=by_first, concurrency=4)
    report = ran(source([(n % keys, n) for n in range(200)]) >> stage, eager=eager)
    assert handler.clashes == 0
    assert handler.seen == {key: list(range(key, 200, keys)) for key in range(keys)}
    assert counts(report.stages[0]) == (200, 200, 0)
    assert max(map(len, handler.batches)) <= 5


@both
def test_h14_other_keys_go_on_while_one_is_handled(eager: bool) -> None:
    """The point of ``concurrency`` beside ``key=``: a slow key holds up its own items only."""
    handler = PerKey(lambda rows: 100.0 if rows[0][0] == "slow" else 1.0)
    stage = named("stage", handler, batch=Batch(2, within=0.1), key=by_first, concurrency=4)
    items = [("slow", 0), ("slow", 1), ("slow", 2), *[(f"key {n % 3}", n) for n in range(30)]]
    report = ran(source(items) >> stage, eager=eager)
    assert handler.clashes == 0
    assert handler.peak > 1
    assert report.done == 33
    slow = [batch for batch in handler.batches if batch[0][0] == "slow"]
    assert slow[-1] == [("slow", 2)]
    assert handler.batches[-1] == slow[-1]


@both
def test_h14_a_batch_may_hold_several_keys(eager: bool) -> None:
    """With as many keys as items, batches are full; they are not one item each."""
    handler = PerKey()
    stage = named("stage", handler, batch=Batch(5), key=by_first, concurrency=2)
    ran(source([(n, n) for n in range(20)]) >> stage, eager=eager)
    assert sorted(map(len, handler.batches)) == [5, 5, 5, 5]


@both
@pytest.mark.parametrize("keys", [1, 2, 5])
def test_h14_a_small_queue_of_busy_keys_is_no_deadlock(keys: int, eager: bool) -> None:
    """All that is queued may be of keys that are being handled: it waits for them, and goes on."""
    handler = PerKey()
    stage = named("stage", handler, batch=Batch(5), key=by_first, concurrency=3, maxsize=5)
    report = ran(source([(n % keys, n) for n in range(53)]) >> stage, eager=eager)
    assert handler.clashes == 0
    assert report.done == 53


@both
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("retry", [None, Retry(2, wait=lambda attempt: 5.0)], ids=["once", "retried"])
def test_h14_a_batch_that_failed_keeps_its_keys_until_it_is_settled(retry: Any, split: bool, eager: bool) -> None:
    """Attempts, and the items of a split batch, come before later items of their keys."""
    seen: dict[int, list[int]] = {}
    busy: Counter[int] = Counter()
    clashes = 0

    @consumer(
        batch=Batch(4, within=0.5, split_on_error=split), key=by_first, concurrency=3, retry=retry, on_error="skip"
    )
    async def stage(rows: list[tuple[int, int]]) -> None:
        nonlocal clashes
        keys = {key for key, _ in rows}
        clashes += sum(1 for key in keys if busy[key])
        busy.update(keys)
        for key, number in rows:
            if not seen.setdefault(key, []) or seen[key][-1] != number:
                seen[key].append(number)
        await asyncio.sleep(1)
        busy.subtract(keys)
        if any(number % 7 == 0 for _, number in rows):
            raise ValueError

    report = ran(source([(n % 3, n) for n in range(60)]) >> stage, eager=eager)
    assert clashes == 0
    assert report.done + report.failed == 60
    for numbers in seen.values():
        first_seen, last_seen = list(dict.fromkeys(numbers)), list(dict.fromkeys(reversed(numbers)))
        assert first_seen == sorted(first_seen)
        assert last_seen == sorted(last_seen, reverse=True)


@both
def test_h14_a_drain_flushes_what_waits_for_its_key(eager: bool) -> None:
    """Fault C15: an incomplete batch whose key is being handled is handled after it, not forgotten."""
    handler = PerKey()

    async def main() -> Report:
        async with Pipeline(named("stage", handler, batch=Batch(2), key=by_first, concurrency=2)) as running:
            for n in range(3):
                await running.put(("a", n))
            await asyncio.sleep(0.5)
            return await running.drain(timeout=10)

    report = run_virtual(main, eager=eager)
    assert handler.batches == [[("a", 0), ("a", 1)], [("a", 2)]]
    assert (report.done, report.complete, handler.clashes) == (3, True, 0)


@pytest.mark.parametrize("key", [None, by_first])
def test_h14_a_priority_beside_batches_is_refused(key: Any) -> None:
    """It was switched off in silence; the error names the stage, the pair and the cure."""
    with pytest.raises(DefinitionError) as refused:
        named("stage", PerKey(), batch=Batch(5), key=key, priority=lambda item: item)
    told = str(refused.value)
    assert "'stage'" in told
    assert "batch" in told
    assert "priority" in told
    assert ";" in told or ":" in told.partition("'stage'")[2][2:]  # then it says what to write instead


# -- H16: one consumer in several places ----------------------------------------------------------


def twice(stage: Stage, how: str) -> Pipeline[Any, Any]:
    """``stage`` in two places of one pipeline, both given all that comes."""
    if how == "chain":
        return stage >> stage
    one, two = named("one", _same), named("two", _same)
    return broadcast(one >> stage, two >> stage)


places = pytest.mark.parametrize("how", ["branches", "chain"])


@both
@places
def test_h16_the_places_of_a_consumer_share_its_rate(how: str, eager: bool) -> None:
    """``Rate(50)`` is what the service behind it allows, however often the consumer is written."""
    times: list[float] = []

    @consumer(rate=Rate(50), concurrency=10)
    async def call(n: int) -> int:
        times.append(now())
        return n

    report = ran(source(range(100)) >> twice(call, how), eager=eager)
    assert [stage.name for stage in report.stages if stage.name.startswith("call")] == ["call", "call#2"]
    assert len(times) == 200
    assert max(times) - min(times) == pytest.approx(199 / 50, rel=0.02)
    for begin in range(200 - 52):
        assert times[begin + 51] - times[begin] > 1.0 - 1e-6


@both
@places
def test_h16_the_places_of_a_consumer_share_its_breaker(how: str, eager: bool) -> None:
    """What the second place finds to be down rests in the first place too."""
    calls: list[float] = []
    failed: list[float] = []

    @consumer(breaker=Breaker(1, reset_after=10), on_error="skip")
    async def call(item: Any) -> tuple[str, Any]:
        calls.append(now())
        await asyncio.sleep(0.1)
        if item[0] == "second" and not failed:
            failed.append(now())
            raise ConnectionError
        return "second", item

    pipeline = broadcast(call, named("mark", _mark) >> call) if how == "branches" else call >> call
    report = ran(source(("first", n) for n in range(6)) >> pipeline, eager=eager)
    assert report.failed == 1
    (down,) = failed
    assert [when for when in calls if down < when < down + 10] == []
    assert len(calls) == 12


async def _mark(item: Any) -> tuple[str, Any]:
    return "second", item


@both
def test_h16_each_place_has_a_concurrency_of_its_own(eager: bool) -> None:
    """Two places with two workers each handle four items at once."""
    running, peak = 0, 0

    @consumer(concurrency=2, rate=Rate(1e6))
    async def call(n: int) -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(1)
        running -= 1

    ran(source(range(20)) >> twice(call, "branches"), eager=eager)
    assert peak == 4


@both
def test_h16_two_runs_share_nothing(eager: bool) -> None:
    """Invariant 9: a definition is inert, so each run has a rate of its own."""
    times: list[float] = []

    @consumer(rate=Rate(10))
    async def call(n: int) -> None:
        times.append(now())

    async def main() -> None:
        async def run() -> Report:
            return await (source(range(10)) >> call)

        await asyncio.gather(run(), run())

    run_virtual(main, eager=eager)
    assert max(times) == pytest.approx(0.9)


@both
def test_h16_a_new_rate_is_shared_too(eager: bool) -> None:
    """``set_rate`` for one place holds for the consumer, which has one rate."""
    times: list[float] = []

    @consumer(rate=Rate(1, per=60), concurrency=4)
    async def call(n: int) -> None:
        times.append(now())

    async def main() -> None:
        async with Pipeline(twice(call, "branches")) as running:
            for n in range(20):
                await running.put(n)
            await asyncio.sleep(1)
            running.set_rate("call", Rate(10))
            await running.drain(timeout=1000)

    run_virtual(main, eager=eager)
    assert len(times) == 40
    assert times[-1] == pytest.approx(1 + 38 / 10, abs=0.2)


# -- H17: what limits is named --------------------------------------------------------------------


def limit_of(stage: Stage, items: int = 50, after: float = 20.0) -> tuple[str, str]:
    """What ``bottleneck()`` says of a run with a backlog, in the midst of it and at its end."""

    async def main() -> tuple[str, str]:
        async with Pipeline(named("first", _same), stage, maxsize=100, drain_timeout=1e6) as running:
            for n in range(items):
                await running.put(n)
            await asyncio.sleep(after)
            during = running.bottleneck()
            report = await running.drain()
        return during, report.statistics.bottleneck()

    return run_virtual(main)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_h17_a_rate_that_limits_is_named(concurrency: int) -> None:
    """More workers would only wait with the others for their turn."""
    stage = named("call", Sink(0.01), rate=Rate(1), concurrency=concurrency)
    for told in limit_of(stage):
        assert told.startswith("call")
        assert "rate" in told
        assert "busy" not in told


@pytest.mark.parametrize("how", ["retry", "later"])
def test_h17_a_back_off_that_limits_is_named(how: str) -> None:
    """The workers wait for the next attempt; they do no work."""
    calls: Counter[int] = Counter()

    async def handle(n: int) -> None:
        calls[n] += 1
        if calls[n] < 3:
            raise RetryLater(5) if how == "later" else ConnectionError

    for told in limit_of(named("call", handle, retry=Retry(5, wait=lambda attempt: 5.0), concurrency=2)):
        assert told.startswith("call")
        assert "back-off" in told or "retr" in told
        assert "busy" not in told


def test_h17_a_breaker_that_limits_is_named() -> None:
    """The stage rests, and so do its workers."""
    calls: Counter[int] = Counter()

    async def handle(n: int) -> None:
        calls[n] += 1
        if calls[n] == 1:
            raise ConnectionError

    stage = named("call", handle, breaker=Breaker(1, reset_after=5), retry=Retry(2, wait=no_wait))
    for told in limit_of(stage):
        assert told.startswith("call")
        assert "breaker" in told
        assert "busy" not in told


def test_h17_a_limit_that_does_not_limit_is_not_named() -> None:
    """A stage whose work takes the time is busy, whatever options it has."""
    stage = named("call", Sink(1.0), rate=Rate(1000), breaker=Breaker(3, 10), retry=3)
    for told in limit_of(stage):
        assert told.startswith("call: busy")
        assert "rate" not in told
        assert "breaker" not in told


# -- H19: a rate by key, and batches --------------------------------------------------------------


def refused_pair(told: str) -> None:
    assert "'stage'" in told
    assert "batch" in told
    assert "rate" in told.lower()
    assert "key" in told


@pytest.mark.parametrize("batch", [Batch(5), Batch(1), Batch(5, within=1, key=by_first)], ids=["5", "1", "key"])
def test_h19_a_rate_by_key_beside_batches_is_refused(batch: Batch) -> None:
    """Its function is for an item, and would get the list; the error names the stage, the pair and the cure."""
    with pytest.raises(DefinitionError) as refused:
        named("stage", PerKey(), batch=batch, rate=Rate(10, key=by_first))
    refused_pair(str(refused.value))


@both
def test_h19_a_rate_by_key_is_refused_for_batches_also_later(eager: bool) -> None:
    """``set_rate`` is no way around it; the run goes on at its rate."""

    async def main() -> None:
        async with Pipeline(named("stage", PerKey(), batch=Batch(2), rate=Rate(10))) as running:
            with pytest.raises(DefinitionError) as refused:
                running.set_rate("stage", Rate(10, key=by_first))
            refused_pair(str(refused.value))
            await running.put(("a", 1))
            assert (await running.drain()).done == 1

    run_virtual(main, eager=eager)


def test_h19_a_rate_without_key_beside_batches_is_fine() -> None:
    """It is one of calls, and a call handles a batch."""
    handler = PerKey(lambda rows: 0.0)
    report = ran(source([(0, n) for n in range(20)]) >> named("stage", handler, batch=Batch(5), rate=Rate(1)))
    assert (report.done, len(handler.batches)) == (20, 4)


# -- H18: a source that blocks --------------------------------------------------------------------


def test_h18_a_source_that_blocks_is_named() -> None:
    """``next()`` of a plain iterable holds up the loop like a handler that blocks, and more workers would not help."""

    def rows() -> Iterator[int]:
        for n in range(40):
            until = time.perf_counter() + 0.002
            while time.perf_counter() < until:
                pass
            yield n

    async def waits() -> AsyncIterator[int]:
        for n in range(40):
            await asyncio.sleep(0.002)
            yield n

    async def limit(items: Any) -> str:
        return (await (source(items) >> named("stage", Sink()))).statistics.bottleneck()

    blocks = asyncio.run(limit(rows()))
    assert blocks.startswith("source(generator): holds up the event loop")
    assert "run_in='thread'" in blocks
    assert "holds up" not in asyncio.run(limit(waits()))
