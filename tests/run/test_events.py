"""Listeners: what they are told, in which order, and that none of them can disturb a run."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest
import structlog
from spy import Flaky, Sink
from structlog.testing import capture_logs
from support import Broken, both

from asyncpc import (
    Batch,
    DefinitionError,
    Pipeline,
    PipelineError,
    Report,
    Retry,
    StageStatistics,
    consumer,
    remote_queue,
    source,
    testing,
)
from asyncpc.events import (
    ConnectionLost,
    ConnectionRestored,
    DrainBegun,
    Event,
    ItemDropped,
    ItemFailed,
    ItemRetried,
    ItemsLeft,
    Paused,
    Resumed,
    Scaled,
    StateChanged,
    WorkerEnded,
    WorkerLeft,
    WorkerStarted,
)
from asyncpc.events.structlog import StructlogListener
from asyncpc.events.words import fields_of
from asyncpc.remote import Disconnected
from asyncpc.remote.engines.memory.broker import MemoryBroker
from asyncpc.run.running import listen_to


@consumer(on_error="skip", name="odd")
async def odd_ones_fail(n: int) -> None:
    if n % 2:
        raise ValueError(n)


@both
def test_a_run_tells_its_states_its_workers_and_what_fails(eager: bool) -> None:
    """Protects who reads the log of a night: each thing once, in the order in which it happened."""
    told: list[Event] = []
    pipeline = source(range(3)) >> odd_ones_fail
    pipeline.listen(told.append)
    name = repr(pipeline).split(";")[0].removeprefix("<Pipeline ")
    report = testing.run(pipeline, eager=eager)
    place = f"test_events.py:{odd_ones_fail.__wrapped__.__code__.co_firstlineno + 3} in odd_ones_fail"
    assert (
        told
        == [
            StateChanged(name, "new", "running"),
            WorkerStarted(name, "odd", "odd-1"),
            ItemFailed(name, "odd", 1, "ValueError: 1", 1, place),
            StateChanged(name, "running", "draining"),
            WorkerEnded(name, "odd", "odd-1", ""),
            StateChanged(name, "draining", "closed"),
        ]
        or eager
    )
    assert {type(event) for event in told} == {StateChanged, WorkerStarted, ItemFailed, WorkerEnded}
    assert report.failed == 1


@both
@pytest.mark.parametrize("on_error", ["skip", "stop"])
@pytest.mark.parametrize("options", [{}, {"batch": Batch(3)}, {"ordered": True, "concurrency": 2}, {"retry": 2}])
def test_what_a_listener_is_told_of_is_counted(options: dict[str, Any], on_error: str, eager: bool) -> None:
    """Protects who reads the counts at an event: an item that failed was in flight still, and -1 items were done."""
    seen: list[StageStatistics] = []
    put: list[int] = []
    put_then: list[int] = []

    async def fails(given: Any) -> None:
        raise ValueError(given)

    stage: Any = consumer(on_error=on_error, **options)  # type: ignore[call-overload]  # one of the lists above
    pipeline = Pipeline(stage(fails))

    async def main() -> None:
        running = await pipeline.__aenter__()

        def count(event: Event) -> None:
            if isinstance(event, ItemFailed):
                seen.append(running.statistics().stages[0])
                put_then.append(len(put))

        listen_to(running, count)
        for n in range(3):
            put.append(n)
            running.put_nowait(n)  # an eager worker handles it meanwhile
        with suppress(PipelineError):
            await pipeline.__aexit__(None, None, None)

    testing.run(main(), eager=eager)
    assert [stage.failed for stage in seen] == [*range(1, len(seen) + 1)] != []
    assert [stage.done for stage in seen] == [0] * len(seen)
    assert [stage.failed + stage.in_flight + stage.queued for stage in seen] == put_then


@both
def test_a_run_tells_what_is_done_to_it(eager: bool) -> None:
    """Protects who looks for the hand that paused or scaled a run; what changes nothing is not told."""
    told: list[Event] = []
    sink = Sink(seconds=10.0)
    pipeline = sink.consumer >> consumer(Sink("end"))
    pipeline.listen(told.append)

    async def main() -> None:
        async with pipeline as running:
            for n in range(9):
                await running.put(n)
            running.pause()
            running.pause()
            running.scale("sink", 3)
            running.scale("sink", 3)
            running.resume()
            running.resume()
            await running.drain(5.0)

    testing.run(main(), eager=eager)
    things = [event[1:] for event in told if isinstance(event, Paused | Resumed | Scaled | DrainBegun | ItemsLeft)]
    assert things == [(), ("sink", 1, 3), (), (5.0,), ("sink", 9)]


def test_retries_and_drops_are_told_with_the_items_of_the_user() -> None:
    """Protects who wants to know what a retry cost: the item, the error, the calls so far and the wait."""
    told: list[Event] = []

    async def main() -> None:
        flaky = consumer(name="flaky", retry=Retry(3, wait=lambda _: 7.0), overflow="drop_newest", maxsize=1)
        pipeline = flaky(Flaky(times=2))
        pipeline_of = pipeline >> consumer(Sink())
        pipeline_of.listen(told.append)
        async with pipeline_of as running:
            assert await running.call("a") is None  # with a ticket, which nobody is to see
            running.put_nowait("b")
            running.put_nowait("c")

    testing.run(main())
    retried = [event[1:] for event in told if isinstance(event, ItemRetried)]
    assert [(stage, item, calls, seconds) for stage, item, _, calls, seconds in retried] == [
        *(("flaky", "a", 1, 7.0), ("flaky", "a", 2, 7.0)),
        *(("flaky", "b", 1, 7.0), ("flaky", "b", 2, 7.0)),
    ]
    assert [event[1:] for event in told if isinstance(event, ItemDropped)] == [("flaky", "c")]


def test_a_lost_connection_is_told_and_its_return_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects who is woken at night: since when the queue is away is told by the run that needs it."""
    told: list[Event] = []
    queue = remote_queue("memory://events", int, name="jobs")
    receive, losses = MemoryBroker.receive, iter([True])

    async def lost_once(self: MemoryBroker, *args: Any) -> Any:
        if next(losses, False):
            raise Disconnected("the server has gone")
        return await receive(self, *args)

    monkeypatch.setattr(MemoryBroker, "receive", lost_once)

    async def main() -> None:
        pipeline = queue >> odd_ones_fail
        pipeline.listen(told.append)
        async with pipeline:
            await asyncio.sleep(1.0)

    testing.run(main())
    assert [event[1:] for event in told if isinstance(event, ConnectionLost | ConnectionRestored)] == [
        ("remote queue 'jobs'", "Disconnected: the server has gone"),
        ("remote queue 'jobs'", 0.0),
    ]


def test_a_worker_that_is_left_behind_is_told() -> None:
    """Protects who looks for the handler that ignores every cancel: it is named."""
    told: list[Event] = []

    @consumer(name="deaf")
    async def deaf(n: int) -> None:
        while True:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                if over:
                    raise

    over: list[bool] = []

    async def main() -> None:
        pipeline = source([1]) >> deaf
        pipeline.listen(told.append)
        async with pipeline as running:
            await asyncio.sleep(1)
            running.stop(0.5)
        raise AssertionError

    async def around() -> None:
        with pytest.raises(PipelineError):
            await main()
        over.append(True)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)

    testing.run(around())
    assert [event[1:] for event in told if isinstance(event, WorkerLeft)] == [("deaf-1",)]


@both
def test_h2_a_listener_that_raises_is_called_once_and_breaks_nothing(
    eager: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Protects counts and the stop from whoever looks on, at each kind of event in turn; others are told on."""
    kinds = [StateChanged, WorkerStarted, ItemFailed, WorkerEnded]
    for kind in kinds:
        calls: list[Event] = []
        told: list[Event] = []

        def broken(event: Event, kind: type = kind, calls: list[Event] = calls) -> None:
            if isinstance(event, kind):
                calls.append(event)
                raise Broken

        pipeline = source(range(5)) >> odd_ones_fail
        pipeline.listen(broken)
        pipeline.listen(told.append)
        caplog.clear()
        report = testing.run(pipeline, eager=eager)
        assert (report.done, report.failed, report.complete) == (3, 2, True)
        assert len(calls) == 1
        assert len([event for event in told if isinstance(event, ItemFailed)]) == 2
        assert [line for line in caplog.messages if "a listener raised Broken" in line]


def test_a_listener_that_is_slow_is_logged_once_and_told_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Protects an alarm from a busy machine: one slow call says nothing about the listener, and does not end it."""
    monkeypatch.setattr(
        import_module("asyncpc.run.events"), "LONGEST", 0.0
    )  # in virtual time each call takes a microsecond
    calls: list[Event] = []
    pipeline = source(range(100)) >> odd_ones_fail
    pipeline.listen(calls.append)
    assert testing.run(pipeline).failed == 50
    assert len([event for event in calls if isinstance(event, ItemFailed)]) == 50
    assert caplog.text.count("a listener held the event loop for 0.0 seconds") == 1


@dataclass
class Ear:
    """Equal to every other with the same name."""

    name: str

    def __post_init__(self) -> None:
        self.calls = 0
        self.fails = False

    def __call__(self, event: Event) -> None:
        self.calls += 1
        if self.fails:
            raise Broken


def test_the_listener_that_raised_is_dropped_and_none_that_is_equal_to_it() -> None:
    """Protects listeners that are dataclasses: which of them failed is a question of identity."""
    fine, fails = Ear("a"), Ear("a")
    fails.fails = True
    pipeline = source(range(5)) >> odd_ones_fail
    pipeline.listen(fine)
    pipeline.listen(fails)
    assert testing.run(pipeline).failed == 2
    assert (fine.calls > 5, fails.calls) == (True, 1)


async def _later(event: Event) -> None: ...


def test_b13_an_interrupt_in_a_listener_stops_the_run_and_comes_out() -> None:
    """Protects Ctrl-C: it is not taken for a mistake of the listener."""

    def interrupted(event: Event) -> None:
        if isinstance(event, ItemFailed):
            raise KeyboardInterrupt

    pipeline = source(range(100)) >> odd_ones_fail
    pipeline.listen(interrupted)

    async def main() -> None:
        with pytest.raises(KeyboardInterrupt):
            await pipeline

    testing.run(main())


@both
@pytest.mark.parametrize("on_error", ["skip", "stop"])
def test_b13_an_interrupt_comes_out_whatever_a_listener_is_told(on_error: Any, eager: bool) -> None:
    """Protects Ctrl-C at any moment: at the first event the run is not quite there, at the last it has ended."""
    told: list[Event] = []
    stage = consumer(name="odd", on_error=on_error)(odd_ones_fail.__wrapped__)
    pipeline = Pipeline(source(range(5)), stage)
    pipeline.listen(told.append)
    with suppress(PipelineError):
        testing.run(pipeline, eager=eager)
    for last in range(len(told)):
        pipeline, left = Pipeline(source(range(5)), stage), [None] * last

        def interrupted(event: Event, left: list[None] = left) -> None:
            if not left:
                raise KeyboardInterrupt
            left.pop()

        pipeline.listen(interrupted)

        testing.run(_interrupted(pipeline), eager=eager)


async def _interrupted(pipeline: Pipeline[Any, Any]) -> None:
    async with asyncio.timeout(1.0):
        with pytest.raises(KeyboardInterrupt):
            await pipeline


def test_no_worker_ends_that_has_not_started() -> None:
    """Protects who counts workers from events: one that was to start when the run was cancelled is told neither way."""
    told: list[Event] = []

    async def main() -> None:
        pipeline = consumer(name="odd", concurrency=2)(odd_ones_fail.__wrapped__) >> consumer(Sink())
        async with pipeline as running:

            def interrupted(event: Event) -> None:
                raise KeyboardInterrupt

            def putting(event: Event) -> None:
                if isinstance(event, WorkerStarted):
                    running.put_nowait(2)  # for which another worker is to start

            for listener in (interrupted, putting, told.append):
                pipeline.listen(listener)
            await running.put(0)
            await running.wait()

    with pytest.raises(KeyboardInterrupt):
        testing.run(main())
    started = {event.worker for event in told if isinstance(event, WorkerStarted)}
    assert started == {event.worker for event in told if isinstance(event, WorkerEnded)} != set()


def test_a_listener_may_stop_the_run_that_it_listens_to() -> None:
    """Protects a program that stops at the first failure of a kind: the run drains as it does for anybody."""
    pipeline = consumer(on_error="skip")(odd_ones_fail.__wrapped__) >> consumer(Sink())

    async def main() -> Report:
        async with pipeline as running:
            pipeline.listen(lambda event: running.stop() if isinstance(event, ItemFailed) else None)
            for n in range(9):
                await running.put(n)
            return await running.wait()

    report = testing.run(main())
    assert (report.failed, report.complete) == (4, True)


def test_only_what_can_be_called_with_an_event_listens() -> None:
    """Protects who writes a coroutine function: its events would be lost without a word."""
    pipeline = source(range(3)) >> odd_ones_fail
    for wrong in (3, lambda: None, _later):
        with pytest.raises(DefinitionError, match="listener="):
            pipeline.listen(wrong)  # type: ignore[arg-type]  # which is the point


def test_structlog_gets_events_without_payloads() -> None:
    """Protects what users have sent: an error is shown by its type, and an item only on request."""
    pipeline = source(["https://me:secret@host"]) >> consumer(on_error="skip", name="fails")(_fail)
    pipeline.listen(StructlogListener())
    with capture_logs() as entries:
        testing.run(pipeline)
        failed = [entry for entry in entries if entry["event"] == "item_failed"]
    assert failed == [
        {
            "event": "item_failed",
            "log_level": "error",
            "pipeline": entries[0]["pipeline"],
            "stage": "fails",
            "error": "ValueError",
            "attempts": 1,
            "place": f"test_events.py:{_fail.__code__.co_firstlineno + 1} in _fail",
        }
    ]
    assert entries[0]["event"] == "state_changed"
    with capture_logs() as entries:
        pipeline = source(["https://me:secret@host"]) >> consumer(on_error="skip", name="fails")(_fail)
        pipeline.listen(StructlogListener(structlog.get_logger("mine"), payloads=True))
        testing.run(pipeline)
    (failed_too,) = [entry for entry in entries if entry["event"] == "item_failed"]
    assert failed_too["item"] == "'https://me:***@host'"
    assert failed_too["error"] == "ValueError: https://me:***@host"


def test_no_items_are_read_that_are_not_told() -> None:
    """Protects the loop from the ``repr`` of a table: a listener is called for each item that is dropped."""
    reads: list[str] = []

    class Table:
        def __repr__(self) -> str:
            reads.append("once")
            return "rows"

    dropped = ItemDropped("orders", "store", Table())
    assert "item" not in fields_of(dropped, payloads=False)
    assert not reads
    assert fields_of(dropped, payloads=True)["item"] == "rows"


async def _fail(item: Any) -> None:
    raise ValueError(item)
