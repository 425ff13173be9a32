"""``on_error=`` and ``max_failures=``: what becomes of an item that has failed at last. All in virtual time."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import signal
import weakref
from collections.abc import Sequence
from traceback import walk_tb
from typing import Any, cast

import pytest
from spy import Flaky, Sink
from support import balanced, both, counts_by_stage, cut_short, error_types, no_wait

from asyncpc import (
    Batch,
    BoundedQueue,
    Consumer,
    Failure,
    Pipeline,
    PipelineError,
    Report,
    Retry,
    RetryLater,
    Running,
    TooManyFailures,
    consumer,
    source,
    testing,
)
from asyncpc.events import Event, ItemFailed
from asyncpc.testing import now

# -- policies -------------------------------------------------------------------------------------


@both
def test_skip_goes_on_and_counts(eager: bool) -> None:
    """What failed is counted, is not passed on, and the rest is handled."""
    seen = Flaky(0)

    @consumer(on_error="skip", concurrency=2)
    async def odd(n: int) -> int:
        if n % 2 == 0:
            raise ValueError(n)
        return n

    report = testing.run(source(range(10)) >> odd >> consumer(seen), eager=eager)
    assert sorted(item for _, item in seen.calls) == [1, 3, 5, 7, 9]
    assert (report.stages[0].done, report.stages[0].failed, report.stages[1].received) == (5, 5, 5)
    assert report.exit_status == 1  # a script should not take it for a success
    last = f"8: ValueError: 8 (test_failures.py:{odd.__wrapped__.__code__.co_firstlineno + 3})"
    assert report.stages[0].last_failure == last
    assert f"odd: 5 failed, the last on {last}" in str(report).splitlines()
    report.signal = signal.SIGTERM  # a service that was stopped has done what it should
    assert report.exit_status == 143


@both
@pytest.mark.parametrize("option", ["key", "priority"])
def test_an_error_of_a_function_of_the_item_says_whose_it_is(option: str, eager: bool) -> None:
    """Whoever gives the item meets it, and would be blamed for it."""

    @consumer(**{option: lambda item: item["id"]})  # type: ignore[call-overload,untyped-decorator]  # which option it is, only the test knows
    async def handle(item: dict[str, int]) -> None: ...

    with pytest.raises(PipelineError) as failed:
        testing.run(source([{}]) >> handle, eager=eager)
    (error,) = failed.value.exceptions
    assert isinstance(error, KeyError)
    assert error.__notes__[0] == f"asyncpc: in {option}= of stage 'handle'"


def dead_letters() -> tuple[list[Failure], dict[str, Any]]:
    """The ways to give a destination, and the list that all of them fill."""
    told: list[Failure] = []

    async def slowly(failure: Failure) -> None:
        await asyncio.sleep(1)
        told.append(failure)

    class Box(asyncio.Queue[Failure]):
        async def put(self, item: Failure) -> None:
            told.append(item)

    return told, {"function": told.append, "async function": slowly, "queue": Box()}


@pytest.mark.parametrize("way", dead_letters()[1])
def test_a_destination_is_told_each_failure_as_text(way: str) -> None:
    """Fault C8: item, error, attempts and stage; the traceback is text, so no frame is kept alive."""
    told, ways = dead_letters()
    flaky = Flaky(9)
    report = testing.run(
        source([1, 2]) >> consumer(on_error=ways[way], retry=Retry(2, wait=no_wait), name="flaky")(flaky)
    )
    assert [(one.item, one.error, one.attempts, one.stage) for one in told] == [
        (n, f"ValueError: {n}", 2, "flaky") for n in (1, 2)
    ]
    assert "raise self.error(item)" in told[0].traceback
    assert told[0].traceback == report.failures[0].traceback
    assert f"asyncpc{os.sep}core" not in told[0].traceback  # it begins in the user's own code
    assert (report.done, report.failed) == (0, 2)


def test_a_dead_letter_keeps_nothing_alive_but_the_item() -> None:
    """Fault C8: a kept exception would hold its frames, and all that is in them."""
    told: list[Failure] = []

    class Big:
        pass

    held: list[weakref.ref[Big]] = []

    @consumer(on_error=told.append)
    async def fails(n: int) -> None:
        big = Big()
        held.append(weakref.ref(big))
        raise ValueError

    testing.run(source([1]) >> fails)
    gc.collect()
    assert told
    assert held[0]() is None


def test_a_destination_that_fails_is_a_failure() -> None:
    """Fault C9: an item that nobody was told of is not given up in silence."""

    async def broken(failure: Failure) -> None:
        raise OSError("disk full")

    @consumer(on_error=broken)
    async def fails(n: int) -> None:
        raise ValueError(n)

    with pytest.raises(PipelineError) as failed:
        testing.run(source([1, 2]) >> fails)
    (error,) = failed.value.exceptions
    assert isinstance(error, OSError)
    assert isinstance(error.__context__, ValueError)
    report = failed.value.report
    assert (report.failed, [left.item for left in report.unfinished]) == (1, [2])


@both
def test_a_destination_queue_is_backpressure(eager: bool) -> None:
    """A full queue of dead letters holds the stage up, not the memory."""
    letters: BoundedQueue[Failure] = BoundedQueue(1)

    @consumer(on_error=letters)
    async def fails(n: int) -> None:
        raise ValueError(n)

    async def main() -> list[int]:
        async with source(range(5)) >> fails as running:
            await asyncio.sleep(1)
            assert running.statistics().failed == 1
            got = [(await letters.get()).item for _ in range(5)]
            report = await running.wait()
        assert report.failed == 5
        return got

    assert testing.run(main(), eager=eager) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("most", "failed"), [(0, 1), (3, 4), (0.0, 1), (0.02, 3), (0.5, 51)])
def test_one_failure_too_many_stops_the_run(most: float, failed: int) -> None:
    """A number of items, or a share of those settled, judged over at least a hundred."""

    @consumer(on_error="skip", max_failures=most)
    async def fails(n: int) -> None:
        raise ValueError(n)

    with pytest.raises(PipelineError) as stopped:
        testing.run(source(range(1000)) >> fails)
    (error,) = stopped.value.exceptions
    assert isinstance(error, TooManyFailures)
    assert str(error).startswith(f"stage 'fails': {failed} items failed, max_failures={most}")
    assert isinstance(error.__cause__, ValueError)
    assert stopped.value.report.failed == failed


def test_a_share_is_of_all_items_settled() -> None:
    """One per cent of ten thousand is a hundred, not the first of the first hundred."""

    @consumer(on_error="skip", max_failures=0.01)
    async def one_in_a_hundred(n: int) -> None:
        if n % 100 == 99:
            raise ValueError(n)

    assert testing.run(source(range(10_000)) >> one_in_a_hundred).failed == 100


def test_a_share_counts_each_run_by_itself() -> None:
    """A run that goes on where another stopped has settled nothing yet: its second failure may be one too many."""

    @consumer(on_error="skip", max_failures=0.01)
    async def fails(n: int) -> None:
        if n in failing:
            raise ValueError(n)

    failing = {998, 999}
    pipeline = source(range(1000)) >> fails
    assert testing.run(pipeline).failed == 2
    failing = {0, 198}  # the second of 199 items
    with pytest.raises(PipelineError):
        testing.run(pipeline)
    failing = {0, 199}
    assert testing.run(pipeline).failed == 2


@both
def test_an_item_whose_failure_was_not_told_has_not_failed(eager: bool) -> None:
    """The report says what the last one failed with that did fail; this one is unfinished."""

    async def tell(failure: Failure) -> None:
        await asyncio.sleep(1000)

    @consumer(on_error=tell)
    async def handle(n: int) -> None:
        raise ValueError

    async def main() -> Report:
        async with Pipeline(handle) as running:
            await running.put(1)
            await asyncio.sleep(1)
            return await running.drain(timeout=0)

    report = testing.run(main(), eager=eager)
    assert (report.failed, report.stages[0].last_failure, len(report.unfinished)) == (0, "", 1)


# -- a consumer that is told of failures ----------------------------------------------------------


@both
def test_a_consumer_told_of_failures_is_a_stage(eager: bool) -> None:
    """It has its queue, workers and line in the report; one consumer for several stages is one stage."""
    dead = Sink("dead", batch=Batch(2), concurrency=2)

    @consumer(on_error=dead.consumer, retry=2)
    async def half(n: int) -> int:
        if n % 2:
            raise ValueError(f"odd: {n}")
        return n // 2

    @consumer(on_error=dead.consumer)
    async def invert(n: int) -> float:
        return 1 / n

    report = testing.run(source(range(8)) >> half >> invert, eager=eager)
    assert counts_by_stage(report) == {"half": (8, 4, 4), "invert": (4, 3, 1), "dead": (5, 5, 0)}
    told = [failure for batch in dead.items for failure in batch]
    assert {(failure.stage, failure.item, failure.attempts) for failure in told} == {
        *(("half", n, 2) for n in (1, 3, 5, 7)),
        ("invert", 0, 1),
    }
    assert (report.done, report.failed) == (3, 5)


def test_a_full_consumer_of_failures_holds_up_those_who_tell_it() -> None:
    """Fault C7: failures count against a bound too, and one told while it was cancelled is in the queue."""

    @consumer(maxsize=1)
    async def dead(failure: Failure) -> None:
        await asyncio.Event().wait()

    @consumer(on_error=dead)
    async def fails(n: int) -> None:
        raise ValueError(n)

    async def main() -> Report:
        async with Pipeline(range(9), fails) as running:
            await asyncio.sleep(1)
            assert counts_by_stage(cast(Any, running.statistics()))["fails"][2] == 2
            return await running.drain(timeout=0)

    report = testing.run(main())
    assert counts_by_stage(report)["fails"][2] == counts_by_stage(report)["dead"][0] == 3
    left = [one.item for one in report.unfinished]
    assert sorted(one.item if isinstance(one, Failure) else one for one in left) == list(range(9))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_batch_cancelled_while_its_failures_are_told_is_counted_once(size: int) -> None:
    """Invariants 2 and 4: of a batch that failed, each item is told and failed, or unfinished, never both."""

    @consumer(maxsize=1)
    async def dead(failure: Failure) -> None:
        await asyncio.Event().wait()

    @consumer(on_error=dead, batch=Batch(size))
    async def fails(batch: list[int]) -> None:
        raise ValueError(batch)

    report = cut_short(Pipeline(range(9), fails))
    left = [one.item for one in report.unfinished]
    assert sorted(one.item if isinstance(one, Failure) else one for one in left) == list(range(9))
    assert counts_by_stage(report)["fails"] == (9, 0, 3)


def test_a_batch_cancelled_while_a_function_is_told_is_counted_once() -> None:
    """The same for a destination that is a function: who it was told of has failed, the rest is unfinished."""
    told: list[int] = []

    async def tell(failure: Failure) -> None:
        told.append(failure.item)
        await (asyncio.Event().wait() if failure.item == 2 else asyncio.sleep(0))

    @consumer(on_error=tell, batch=Batch(4))
    async def fails(batch: list[int]) -> None:
        raise ValueError(batch)

    report = cut_short(Pipeline(range(4), fails))
    assert told == [0, 1, 2]
    assert counts_by_stage(report)["fails"] == (4, 0, 2)
    assert [one.item for one in report.unfinished] == [2, 3]


def test_a_consumer_of_failures_that_fails_stops_the_run() -> None:
    """Fault C9: a destination that fails is a failure; it may have a policy and a destination of its own."""
    last = Sink("last")

    @consumer
    async def breaks(failure: Failure) -> None:
        raise OSError("disk full")

    @consumer(on_error=last.consumer)
    async def breaks_too(failure: Failure) -> None:
        raise OSError("disk full")

    def failing(dead: Any) -> Consumer[int, None, ..., Any]:
        @consumer(on_error=dead)
        async def fails(n: int) -> None:
            raise ValueError(n)

        return fails

    with pytest.raises(PipelineError) as failed:
        testing.run(source([1]) >> failing(breaks))
    assert [type(error) for error in failed.value.exceptions] == [OSError]
    report = testing.run(source([1]) >> failing(breaks_too))
    assert counts_by_stage(report) == {"fails": (1, 0, 1), "breaks_too": (1, 0, 1), "last": (1, 1, 0)}
    assert last.items[0].item.item == 1


def test_a_consumer_told_by_one_that_is_told_comes_after_both() -> None:
    """END reaches a stage when all that may tell it have ended, in whatever order they were named."""
    last = Sink("last")

    @consumer(on_error=last.consumer)
    async def letters(failure: Failure) -> None:
        await asyncio.sleep(1)
        raise OSError

    @consumer(on_error=last.consumer)
    async def first(n: int) -> int:
        if n == 0:
            raise ValueError
        return n

    @consumer(on_error=letters)
    async def second(n: int) -> None:
        raise ValueError

    report = testing.run(source(range(3)) >> first >> second)
    assert counts_by_stage(report)["last"] == (3, 3, 0)
    assert [stage.name for stage in report.stages] == ["first", "second", "letters", "last"]


@both
@pytest.mark.parametrize("kind", ["items", "batches"])
def test_a_consumer_of_failures_without_room_ends_the_run(kind: str, eager: bool) -> None:
    """Fault C9: ``overflow="raise"`` there is a failure of the run, at once; the books balance."""

    @consumer(maxsize=1, overflow="raise")
    async def told(failure: Failure) -> None:
        await asyncio.sleep(500)

    async def handle(item: Any) -> None:
        await asyncio.sleep(1)
        raise ValueError

    options: dict[str, Any] = {"batch": Batch(3)} if kind == "batches" else {}
    first: Consumer[Any, Any, ..., Any] = consumer(name="handle", on_error=told, **options)(handle)

    async def main() -> None:
        try:
            await (source(range(6)) >> first)
        finally:
            assert now() < 5

    with pytest.raises(PipelineError) as failed:
        testing.run(main(), eager=eager)
    assert [type(error) for error in failed.value.exceptions] == [asyncio.QueueFull]
    report = failed.value.report
    assert balanced(report)
    assert report.produced == 6
    handled, letters = report.stages
    assert 1 <= handled.failed <= 3
    assert letters.received <= handled.failed


# -- which items failed ---------------------------------------------------------------------------


@both
@pytest.mark.parametrize("policy", ["skip", "function", "queue", "consumer", "stop"])
def test_the_report_names_what_failed_wherever_it_went(policy: str, eager: bool) -> None:
    """Protects who asks which item failed, with what, after how many calls and where: the report says it."""
    queue: asyncio.Queue[Failure] = asyncio.Queue()
    letters: Any = {"function": lambda failure: None, "queue": queue, "consumer": consumer(Sink())}

    @consumer(on_error=letters.get(policy, policy), retry=Retry(2, wait=no_wait))
    async def fetch(url: str) -> None:
        if url.endswith("3"):
            raise ConnectionError("503")

    urls = source([f"https://a/{n}" for n in range(6)])
    if policy == "stop":
        with pytest.raises(PipelineError) as failed:
            testing.run(urls >> fetch, eager=eager)
        assert "asyncpc: item 'https://a/3'" in failed.value.exceptions[0].__notes__
        report = failed.value.report
    else:
        report = testing.run(urls >> fetch, eager=eager)
    (failure,) = report.failures
    assert failure[:4] == ("https://a/3", "ConnectionError: 503", 2, "fetch")
    assert 'raise ConnectionError("503")' in failure.traceback
    if policy != "stop":
        assert "fetch: 1 failed, the last on 'https://a/3': ConnectionError: 503 (test_failures.py:" in str(report)


@both
def test_the_report_keeps_the_last_hundred_failures_and_no_error(eager: bool) -> None:
    """Protects memory: whatever fails, a hundred items with texts are kept, and no error with its frames."""

    class Heavy(Exception):
        pass

    made: list[weakref.ref[Heavy]] = []

    @consumer(on_error="skip")
    async def fails(n: int) -> None:
        error = Heavy(n)
        made.append(weakref.ref(error))
        raise error

    report = testing.run(source(range(250)) >> fails, eager=eager)
    assert [failure.item for failure in report.failures] == list(range(150, 250))
    gc.collect()
    assert [one for one in made if one() is not None] == []


async def refused(failure: Failure) -> None:
    raise OSError("no dead letters today")


@both
@pytest.mark.parametrize(
    ("options", "items", "told"),
    [
        pytest.param({"on_error": "skip"}, 250, range(250), id="skip"),
        pytest.param({}, 9, [0], id="stop"),
        pytest.param({"retry": Retry(3, wait=no_wait)}, 9, [0], id="retry"),
        pytest.param({"on_error": "skip", "max_failures": 2}, 9, [0, 1, 2], id="too many"),
        pytest.param({"on_error": refused}, 9, [0], id="receiver that raises"),
        pytest.param({"on_error": Sink()}, 9, range(9), id="receiver"),
        pytest.param({"on_error": consumer(Sink())}, 9, range(9), id="consumer"),
        pytest.param({"batch": Batch(4)}, 9, range(4), id="batch"),
        pytest.param({"batch": Batch(4), "on_error": "skip", "max_failures": 5}, 9, range(8), id="too many in a batch"),
        pytest.param({"batch": Batch(4, split_on_error=True), "on_error": "skip"}, 9, range(9), id="split batch"),
        pytest.param({"ordered": True, "on_error": "skip"}, 9, range(9), id="ordered"),
    ],
)
def test_each_item_that_fails_is_told_once_as_it_fails(
    options: Any, items: int, told: Sequence[int], eager: bool
) -> None:
    """Protects the dead letters on disk: all that count as failed, in their order, with their own error and calls."""

    @consumer(**options)  # type: ignore[untyped-decorator]  # which options, only the test knows
    async def fails(taken: Any) -> Any:
        raise ValueError("no")

    found: list[ItemFailed] = []

    def keep(event: Event) -> None:
        if isinstance(event, ItemFailed):
            found.append(event)

    async def main() -> Report:
        pipeline = source(range(items)) >> fails >> consumer(Sink())
        pipeline.listen(keep)
        try:
            report: Report = await pipeline
            return report
        except PipelineError as error:
            return error.report

    report = testing.run(main(), eager=eager)
    assert [failure.item for failure in found] == list(told)
    assert {(failure.error, failure.attempts, failure.stage) for failure in found} == {
        ("ValueError: no", 3 if "retry" in options else 1, "fails")
    }
    assert balanced(report)
    assert report.failed == len(told)


@both
def test_an_item_whose_handler_ends_the_program_is_told_too(eager: bool) -> None:
    """Protects the item that a SystemExit took with it: it counts as failed, so it is named."""

    @consumer
    async def ends(n: int) -> None:
        if n == 5:
            raise SystemExit(3)

    async def main() -> Report:
        running: Running[Any, Any] | None = None
        with pytest.raises(SystemExit):
            async with source(range(9)) >> ends as running:
                await running.wait()
        assert running is not None
        assert running.report is not None
        return running.report

    report = testing.run(main(), eager=eager)
    assert [failure[:4] for failure in report.failures] == [(5, "SystemExit: 3", 1, "ends")]
    assert balanced(report)


def test_a_failed_batch_says_how_many_items_were_in_it() -> None:
    """Protects who looks for the bad row: the note names the first item of the call and counts the others."""

    @consumer(batch=Batch(4))
    async def insert(rows: list[int]) -> None:
        raise ValueError("bad row")

    with pytest.raises(PipelineError) as failed:
        testing.run(source(range(4)) >> insert)
    assert "asyncpc: item 0 and 3 more in its batch" in failed.value.exceptions[0].__notes__


def test_a_call_that_failed_is_in_the_report() -> None:
    """Protects who looks at a service: its caller got the error, and the report names the item too."""

    @consumer
    async def answer(n: int) -> int:
        raise ValueError(n)

    async def main() -> Report:
        async with Pipeline(answer) as running:
            with pytest.raises(ValueError, match="7"):
                await running.call(7)
        assert running.report is not None
        return running.report

    assert [failure.item for failure in testing.run(main()).failures] == [7]


def test_a_report_is_pickled_with_its_failures() -> None:
    """Protects runs in other processes: what failed there arrives as texts."""

    @consumer(on_error="skip")
    async def fails(n: int) -> None:
        raise ValueError(n)

    report = testing.run(source(range(3)) >> fails)
    again = pickle.loads(pickle.dumps(report))
    assert again == report
    assert again.failures == report.failures
    assert len(again.failures) == 3


@both
def test_the_item_that_fails_counts_in_its_share(eager: bool) -> None:
    """Half of the items may fail: of 100 done and 100 failed ones that is so, of 101 failed ones not any more."""

    @consumer(on_error="skip", max_failures=0.5)
    async def handle(n: int) -> None:
        if n >= 100:
            raise ValueError

    assert testing.run(source(range(200)) >> handle, eager=eager).failed == 100
    with pytest.raises(PipelineError) as failed:
        testing.run(source(range(201)) >> handle, eager=eager)
    assert error_types(failed.value) == [TooManyFailures]


# -- one error for many items ---------------------------------------------------------------------


def raised_by(how: str) -> tuple[ValueError, Any]:
    """An error, and a handler that raises it for every item: from one failed future, or as an object of the program."""
    error = ValueError("no connection")
    error.add_note("a note of the program's")

    async def from_future(n: int) -> None:
        future = asyncio.get_running_loop().create_future()
        future.set_exception(error)
        await future

    async def itself(n: int) -> None:
        raise error

    return error, from_future if how == "future" else itself


@both
@pytest.mark.parametrize("how", ["future", "itself"])
def test_one_error_raised_for_many_items_stays_small(how: str, eager: bool) -> None:
    """Protects a service that lost its connection: notes and traceback do not grow with the items that fail."""

    def told(items: int) -> tuple[list[str], Failure]:
        error, handler = raised_by(how)
        stage: Any = consumer(on_error=lambda failure: None, retry=Retry(2, wait=no_wait))(handler)
        report = testing.run(source(range(items)) >> stage, eager=eager)
        assert report.failed == items
        return error.__notes__, report.failures[-1]

    notes, failure = told(10)
    assert notes == ["a note of the program's", "asyncpc: after 2 calls"]
    again, later = told(110)
    assert again == notes
    assert later.traceback.count("\n") == failure.traceback.count("\n") < 50
    assert "line" in later.traceback


@both
@pytest.mark.parametrize("how", ["future", "itself"])
def test_one_error_of_many_runs_names_the_last_item(how: str, eager: bool) -> None:
    """Protects who reads it: it says once which item it is about, and once where."""
    error, handler = raised_by(how)
    stage: Any = consumer(name="store")(handler)
    for n in range(20):
        with pytest.raises(PipelineError):
            testing.run(Pipeline([n], stage, name="orders"), eager=eager)
    assert error.__notes__[1:] == ["asyncpc: item 19", "asyncpc: in store-1 of pipeline 'orders'"]


@both
def test_one_error_that_stops_many_workers_names_one_of_them(eager: bool) -> None:
    """The same where a thousand handlers wait for it at once."""
    error, handler = raised_by("itself")

    async def main() -> None:
        gate = asyncio.Event()

        async def wait(n: int) -> None:
            await gate.wait()
            await handler(n)

        stage: Any = consumer(name="store", concurrency=100)(wait)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(Pipeline(range(100), stage).collect())
            await asyncio.sleep(1)
            gate.set()

    with pytest.raises(ExceptionGroup):
        testing.run(main(), eager=eager)
    assert len(error.__notes__) == 3


@both
def test_one_retry_later_for_many_calls_keeps_no_old_frames(eager: bool) -> None:
    """Protects memory: an object of the program that asks for another attempt a thousand times."""
    later, calls = RetryLater(1), 0

    @consumer
    async def busy(n: int) -> None:
        nonlocal calls
        calls += 1
        if calls <= 1000:
            raise later

    assert testing.run(source([1]) >> busy, eager=eager).done == 1
    assert len(list(walk_tb(later.__traceback__))) < 20


def test_an_error_keeps_the_way_through_the_runs_that_call_each_other() -> None:
    """Protects the traceback of a call inside a handler: it is no repetition."""

    @consumer
    async def inner(n: int) -> None:
        raise ValueError(n)

    async def main() -> None:
        async with Pipeline(inner) as running:

            @consumer
            async def outer(n: int) -> None:
                await running.call(n)

            await (source([1]) >> outer)

    with pytest.raises(PipelineError) as failed:
        testing.run(main())
    names = [frame.f_code.co_name for frame, _ in walk_tb(failed.value.exceptions[0].__traceback__)]
    assert names[0] == "outer"
    assert names[-1] == "inner"
