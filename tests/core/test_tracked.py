"""Items with tickets, sent through every kind of stage: each ticket comes to exactly zero, and says what happened."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from spy import Sink
from stepping import steps
from support import Odd, both, refuse_odd
from tickets import CountingTicket, put_tracked, wrong

from asyncpc import (
    Batch,
    Failure,
    Pipeline,
    PipelineError,
    QueueShutDown,
    Report,
    Retry,
    StateError,
    TooManyFailures,
    Unroutable,
    broadcast,
    consumer,
    route,
    testing,
)
from asyncpc.core.tracked import JointTicket
from asyncpc.testing import idle, now


async def doubled(item: int) -> int:
    return 2 * item


double = consumer(name="double")(doubled)


async def fail_odd(item: int) -> int:
    await asyncio.sleep(0)
    refuse_odd(item)
    return item


@consumer
async def count_to(item: int) -> AsyncIterator[int]:
    for number in range(item):
        yield number


class Sent:
    """What became of a run, and of the tickets of the items that were put into it."""

    def __init__(self) -> None:
        self.tickets: list[CountingTicket] = []
        self.error: BaseException | None = None
        self.report: Report

    @property
    def settled(self) -> list[list[Any]]:
        """The values of each ticket; None for what is finished without one."""
        return [sorted(ticket.settled, key=repr) for ticket in self.tickets]

    @property
    def failed(self) -> list[list[str]]:
        """The kinds of errors of each ticket."""
        return [[type(error).__name__ for error in ticket.failed] for ticket in self.tickets]

    @property
    def released(self) -> list[int]:
        """How many values of each ticket are left."""
        return [ticket.released for ticket in self.tickets]


async def send(*parts: Any, items: Any = range(4), seconds: float | None = None, **options: Any) -> Sent:
    """Put the items into the pipeline with tickets, and drain it; the tickets must all be at zero."""
    sent = Sent()
    pipeline: Pipeline[Any, Any] = Pipeline(*parts, **options)
    try:
        async with pipeline as running:
            await put_tracked(running, items, sent.tickets)
            await running.drain(seconds)
    except (PipelineError, asyncio.CancelledError, KeyboardInterrupt) as error:
        sent.error = error
    assert running.report is not None
    sent.report = running.report
    assert wrong(sent.tickets) == []
    return sent


def sent_by(*parts: Any, eager: bool, **options: Any) -> Sent:
    """:func:`send` in virtual time."""

    async def main() -> Sent:
        return await send(*parts, **options)

    return testing.run(main(), eager=eager)


# -- kinds of stages ------------------------------------------------------------------------------


@both
def test_one_value_settles_with_the_result_of_the_last_stage(eager: bool) -> None:
    """Protects the plain path; nobody reads the results, but whoever waits for an item gets its own."""
    sent = sent_by(double, double, eager=eager)
    assert sent.settled == [[0], [4], [8], [12]]
    assert not any(sent.failed)
    assert not any(sent.released)


@both
@pytest.mark.parametrize("ordered", [False, True])
def test_a_generator_settles_each_value_and_itself(ordered: bool, eager: bool) -> None:
    """Protects acknowledgement: not before the last value is finished; an item that gives no value is finished, too."""

    @consumer(ordered=ordered, concurrency=2)
    async def count(item: int) -> AsyncIterator[int]:
        await asyncio.sleep(1 / (1 + item))
        for number in range(item):
            yield number

    sent = sent_by(count, double, eager=eager)
    assert sent.settled == [[None], [0, None], [0, 2, None], [0, 2, 4, None]]


@both
def test_the_values_of_a_generator_at_the_end_are_finished_there(eager: bool) -> None:
    """Protects a last stage that gives several values that nobody reads."""
    assert sent_by(count_to, eager=eager).settled == [[None], [0, None], [0, 1, None], [0, 1, 2, None]]


@both
@pytest.mark.parametrize("last", [False, True])
def test_each_result_of_a_batch_settles_its_own_item(last: bool, eager: bool) -> None:
    """Protects batches: the items share a call, not their fate."""

    @consumer(batch=Batch(3))
    async def squares(items: list[int]) -> list[int]:
        return [item * item for item in items]

    sent = sent_by(squares, *([] if last else [double]), eager=eager)
    assert sent.settled == [[value if last else 2 * value] for value in (0, 1, 4, 9)]


@both
def test_what_a_generating_batch_gives_is_of_all_its_items(eager: bool) -> None:
    """Protects all that went into a value: none of its items is finished before it is."""

    @consumer(batch=Batch(2))
    async def sums(items: list[int]) -> AsyncIterator[int]:
        yield sum(items)
        yield 100

    sent = sent_by(sums, double, items=range(3), eager=eager)
    assert sent.settled == [[2, 200, None], [2, 200, None], [200, 4, None]]


@both
def test_a_route_passes_the_ticket_on_and_a_broadcast_shares_it(eager: bool) -> None:
    """Protects branches: an item of a broadcast is finished when each of its copies is."""
    odd_or_even = route(lambda item: item % 2, {0: consumer(name="even")(fail_odd), 1: double})
    assert sent_by(odd_or_even, eager=eager).settled == [[0], [2], [2], [6]]
    three = broadcast(double, consumer(name="second")(doubled), consumer(name="third")(doubled))
    sent = sent_by(three, double, eager=eager)
    assert sent.settled == [[0, 0, 0], [4, 4, 4], [8, 8, 8], [12, 12, 12]]


@both
def test_values_in_order_settle_their_own_items(eager: bool) -> None:
    """Protects the order window, where another worker may emit the value."""

    @consumer(ordered=True, concurrency=4)
    async def slow_first(item: int) -> int:
        await asyncio.sleep(4 - item)
        return item

    assert sent_by(slow_first, double, eager=eager).settled == [[0], [2], [4], [6]]


@both
def test_a_retry_settles_once(eager: bool) -> None:
    """Protects against a value that counts for each attempt."""
    called: set[int] = set()

    @consumer(retry=Retry(2, wait=lambda attempt: 0))
    async def second_time(item: int) -> int:
        if item not in called:
            called.add(item)
            raise Odd
        return item

    assert sent_by(second_time, double, eager=eager).settled == [[0], [2], [4], [6]]


# -- failures -------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("batch", [None, Batch(2, split_on_error=True)])
def test_an_item_that_is_given_up_has_failed(batch: Batch | None, eager: bool) -> None:
    """Protects ``on_error="skip"``; of a batch that is split, only the culprit has failed."""

    async def fail_odds(items: list[int]) -> list[int]:
        return [await fail_odd(item) for item in items]

    stage: Any = (
        consumer(on_error="skip")(fail_odd) if batch is None else consumer(on_error="skip", batch=batch)(fail_odds)
    )
    sent = sent_by(stage, double, eager=eager)
    assert sent.failed == [[], ["Odd"], [], ["Odd"]]
    assert sent.settled == [[0], [], [4], []]


@both
def test_a_stage_that_is_told_of_failures_finishes_the_item(eager: bool) -> None:
    """Protects dead letters: the ticket goes with the failure, so nothing has failed if somebody took care of it."""

    @consumer
    async def note(failure: Failure) -> str:
        return f"noted {failure.item}"

    sent = sent_by(consumer(on_error=note)(fail_odd), double, eager=eager)
    assert not any(sent.failed)
    assert sent.settled == [[0], ["noted 1"], [4], ["noted 3"]]


@both
def test_a_function_that_is_told_of_failures_finishes_nothing(eager: bool) -> None:
    """Protects whoever waits: a function that is told is no stage, so the item has failed."""
    told: list[Any] = []
    sent = sent_by(consumer(on_error=told.append)(fail_odd), double, eager=eager)
    assert (len(told), sent.failed) == (2, [[], ["Odd"], [], ["Odd"]])


@both
def test_the_failure_of_a_run_fails_its_item_and_releases_the_others(eager: bool) -> None:
    """Protects the stop policy: one item is the reason, the others can be handled elsewhere."""
    sent = sent_by(consumer(fail_odd), eager=eager)
    assert (sent.settled, sent.failed, sent.released) == ([[0], [], [], []], [[], ["Odd"], [], []], [0, 0, 1, 1])


@both
def test_one_failure_too_many_fails_its_item(eager: bool) -> None:
    """Protects ``max_failures``."""
    sent = sent_by(consumer(on_error="skip", max_failures=1)(fail_odd), items=range(6), eager=eager)
    assert sent.failed == [[], ["Odd"], [], [TooManyFailures.__name__], [], []]
    assert sent.released == [0, 0, 0, 0, 1, 1]


@both
def test_an_interrupt_releases_its_item(eager: bool) -> None:
    """Protects KeyboardInterrupt in a handler, which is no failure of the item; what is given ends at once."""

    @consumer
    async def interrupted(item: int) -> None:
        raise KeyboardInterrupt

    sent = sent_by(interrupted, eager=eager)
    assert isinstance(sent.error, KeyboardInterrupt)
    assert sent.released == ([1] if eager else [1, 1, 1, 1])  # an eager worker takes the first before there is another


@both
@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_a_dropped_item_has_failed(overflow: Any, eager: bool) -> None:
    """Protects overflow: whoever waits for the item learns that it was dropped."""

    @consumer(maxsize=1, overflow=overflow)
    async def slow(item: int) -> int:
        await asyncio.sleep(1)
        return item

    sent = sent_by(double, slow, maxsize=8, eager=eager)
    assert sorted(sent.failed) == [[], [], ["QueueFull"], ["QueueFull"]] or sent.failed.count(["QueueFull"]) == 3
    assert sum(stage.dropped for stage in sent.report.stages) == sent.failed.count(["QueueFull"])


@both
@pytest.mark.parametrize("ordered", [False, True])
def test_a_refused_value_fails_its_item_once(ordered: bool, eager: bool) -> None:
    """Protects against tickets that stay above zero: a generator's values after a refused one do not leave."""

    @consumer(ordered=ordered, on_error="skip")
    async def count(item: int) -> AsyncIterator[int]:
        for number in (0, item, 0, 0):
            yield number

    sent = sent_by(count, consumer(key=refuse_odd)(doubled), eager=eager)
    assert sent.failed == [[], ["Odd"], [], ["Odd"]]
    assert [len(ticket.settled) for ticket in sent.tickets[::2]] == [5, 5]
    given = [[value for value in values if value is not None] for values in sent.settled]
    assert given == [[0, 0, 0, 0], [0], [0, 0, 0, 4], [0]]


@both
def test_a_copy_that_a_branch_refuses_fails_the_item_once(eager: bool) -> None:
    """Protects a broadcast that stops at the first branch that refuses: what it gave goes on."""
    branches = double, consumer(name="refusing", key=refuse_odd)(doubled), consumer(name="last")(doubled)
    sent = sent_by(broadcast(*branches), items=[1], eager=eager)
    assert sent.failed == [["Odd"]]
    assert [len(ticket.settled) + ticket.released for ticket in sent.tickets] == [2]


# -- the end of a run -----------------------------------------------------------------------------


@consumer(maxsize=1, name="stuck")
async def stuck(item: int) -> None:
    await asyncio.Event().wait()


@both
@pytest.mark.parametrize("how", ["cancel", "deadline"])
@pytest.mark.parametrize("kind", ["plain", "generator", "ordered", "batch", "broadcast", "dead letters"])
def test_what_a_run_leaves_is_released(kind: str, how: str, eager: bool) -> None:
    """Protects redelivery: what is queued, in flight, waits for room, or for its turn is released, each once."""

    @consumer(name="dead letters", maxsize=1)
    async def dead_letters(failure: Failure) -> None:
        await asyncio.Event().wait()

    @consumer(ordered=True, concurrency=4)
    async def in_order(item: int) -> int:
        await (asyncio.sleep(0) if item else asyncio.sleep(1))
        return item

    @consumer(batch=Batch(2), maxsize=8)
    async def batched(items: list[int]) -> list[int]:
        return items

    @consumer(on_error=dead_letters)
    async def failing(item: int) -> int:
        raise Odd

    stages: dict[str, list[Any]] = {
        "plain": [double, stuck],
        "generator": [count_to, stuck],
        "ordered": [in_order, stuck],
        "batch": [batched, stuck],
        "broadcast": [broadcast(double, stuck)],
        "dead letters": [failing],
    }

    async def cancelled() -> Sent:
        sent = Sent()
        pipeline: Pipeline[Any, Any] = Pipeline(*stages[kind], maxsize=8)

        try:
            async with pipeline as running:
                await put_tracked(running, range(8), sent.tickets)
                await asyncio.sleep(0.5 if kind == "ordered" else 2)
                raise asyncio.CancelledError
        except asyncio.CancelledError:
            assert running.report is not None
        sent.report = running.report
        assert wrong(sent.tickets) == []
        return sent

    async def at_the_deadline() -> Sent:
        return await send(*stages[kind], items=range(8), maxsize=8, seconds=0.5 if kind == "ordered" else 2)

    sent = testing.run(cancelled() if how == "cancel" else at_the_deadline(), eager=eager)
    assert not any(sent.failed)
    assert sum(sent.released) == len(sent.report.unfinished) > 3


@both
@pytest.mark.parametrize("comes", ["back", "back to the end", "raising", "giving more", "with a batch", "to a policy"])
def test_an_abandoned_worker_has_nothing_more_to_say(comes: str, eager: bool) -> None:
    """Protects against a ticket that is settled after it was released: the message may be with somebody else by then.

    The worker ignores all cancels, and comes back when the run is long over.
    """
    let_go = asyncio.Event()

    async def ignore() -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    async def handle(item: int) -> int:
        await ignore()
        if comes == "raising":
            raise Odd
        return item

    async def generate(item: int) -> AsyncIterator[int]:
        yield 0
        await ignore()
        yield 1

    async def handle_batch(items: list[int]) -> list[int]:
        await ignore()
        return items

    async def told(failure: Failure) -> None:
        await ignore()

    stages: dict[str, Any] = {
        "giving more": consumer(generate),
        "with a batch": consumer(batch=Batch(2))(handle_batch),
        "to a policy": consumer(on_error=told)(fail_odd),
    }

    async def main() -> None:
        tickets: list[CountingTicket] = []
        following = [] if comes == "back to the end" else [double]
        async with Pipeline(stages.get(comes, consumer(handle)), *following) as running:
            await put_tracked(running, [1, 2], tickets)
            await idle()
            report = await running.drain(0)
        assert report.abandoned
        assert wrong(tickets) == []
        before = [(ticket.released, len(ticket.settled)) for ticket in tickets]
        assert sum(ticket.released for ticket in tickets) == len(report.unfinished)
        let_go.set()
        await idle()
        assert wrong(tickets) == []
        assert before == [(ticket.released, len(ticket.settled)) for ticket in tickets]
        assert not any(ticket.failed for ticket in tickets)

    testing.run(main(), eager=eager)


def test_a_joint_ticket_tells_each() -> None:
    """Protects values that were made of several items."""
    tickets = [CountingTicket(1), CountingTicket(2)]
    joint = JointTicket(tickets)
    joint.hold(3)
    joint.settle("value")
    joint.skip(Odd())
    joint.release()
    assert [(ticket.left, ticket.settled, len(ticket.failed), ticket.released) for ticket in tickets] == [
        (1, ["value"], 1, 1),
        (1, ["value"], 1, 1),
    ]


# -- call -----------------------------------------------------------------------------------------


@both
def test_call_returns_the_result_of_its_own_item(eager: bool) -> None:
    """Request and response through all stages, many callers at once, beside plain puts."""

    @consumer(concurrency=3)
    async def double(n: int) -> int:
        await asyncio.sleep(1 / (n + 1))
        return 2 * n

    @consumer
    async def text(n: int) -> str:
        return f"<{n}>"

    async def main() -> None:
        async with Pipeline(double, text) as running:
            await running.put(100)
            answers = await asyncio.gather(*(running.call(n) for n in range(10)))
            assert answers == [f"<{2 * n}>" for n in range(10)]
        assert running.report is not None
        assert running.report.done == 11

    testing.run(main(), eager=eager)


@both
def test_call_raises_what_its_handler_raised_and_nobody_else_is_disturbed(eager: bool) -> None:
    """After its attempts; the run goes on although on_error is "stop", since somebody was told."""
    calls: Counter[int] = Counter()

    @consumer(retry=Retry(2, wait=lambda attempt: 0.0))
    async def odd(n: int) -> int:
        calls[n] += 1
        if n % 2 == 0:
            raise ValueError(n)
        return n

    async def main() -> None:
        async with Pipeline(odd) as running:
            answers = await asyncio.gather(*(running.call(n) for n in range(4)), return_exceptions=True)
            assert [str(answer) for answer in answers] == ["0", "1", "2", "3"]
            assert [type(answer) for answer in answers] == [ValueError, int, ValueError, int]
        assert running.report is not None
        assert (running.report.done, running.report.failed, running.report.stages[0].retried) == (2, 2, 2)

    testing.run(main(), eager=eager)
    assert calls == {0: 2, 1: 1, 2: 2, 3: 1}


@both
def test_cancelling_a_caller_does_not_disturb_the_pipeline(eager: bool) -> None:
    """Its item is handled, its result dropped."""
    sink = Sink()

    async def main() -> None:
        @consumer
        async def slow(n: int) -> int:
            await asyncio.sleep(1)
            await sink(n)
            return n

        async with Pipeline(slow) as running:
            gone = asyncio.ensure_future(running.call(1))
            stays = asyncio.ensure_future(running.call(2))
            await asyncio.sleep(0.5)
            gone.cancel()
            assert await stays == 2
            with pytest.raises(asyncio.CancelledError):
                await gone
        assert sink.items == [1, 2]

    testing.run(main(), eager=eager)


def test_a_caller_is_told_when_the_run_ends_before_its_item() -> None:
    """Promise 5: no caller waits for ever for a run that is over; the item is listed as itself."""

    async def main() -> None:
        @consumer
        async def hangs(n: int) -> int:
            await asyncio.sleep(1e9)
            return n

        async with Pipeline(hangs, drain_timeout=1) as running:
            waiting = [asyncio.ensure_future(running.call(n)) for n in range(3)]
            await asyncio.sleep(1)
            report = await running.drain(timeout=1)
            assert [left.item for left in report.unfinished] == [0, 1, 2]
            for caller in waiting:
                with pytest.raises(QueueShutDown, match="ended before it handled this item"):
                    await caller

    testing.run(main())


@both
def test_call_through_a_batch_is_a_micro_batching_server(eager: bool) -> None:
    """64 callers, batches of 32, 5 ms of fixed cost a batch: at least fifteen times the throughput of one by one."""

    def seconds(**options: Any) -> float:
        async def handle(items: Any) -> Any:
            await asyncio.sleep(0.005)
            return [n + 1 for n in items] if options else items + 1

        stage: Any = consumer(**options)

        async def main() -> float:
            async with Pipeline(stage(handle)) as running:

                async def caller(first: int) -> None:
                    for n in range(10):
                        assert await running.call(first + n) == first + n + 1

                await asyncio.gather(*(caller(10 * each) for each in range(64)))
            return now()

        return testing.run(main(), eager=eager)

    assert seconds() >= 15 * seconds(batch=Batch(32, within=0.01))


def test_a_failing_batch_tells_each_caller() -> None:
    """Those who asked get the error, and the run goes on; a plain item in the same batch would stop it."""

    async def main() -> None:
        @consumer(batch=Batch(3, within=1, split_on_error=True))
        async def handle(items: list[int]) -> list[int]:
            if 1 in items:
                raise ValueError("one")
            return items

        async with Pipeline(handle) as running:
            answers = await asyncio.gather(*(running.call(n) for n in range(3)), return_exceptions=True)
            assert [str(answer) for answer in answers] == ["0", "one", "2"]

    testing.run(main())


def test_call_does_not_wait_for_a_batch_that_nobody_may_fill() -> None:
    """No deadlock: a batch without a limit of time might wait for others for ever, so the call is refused."""

    async def main() -> None:
        batched: Any = consumer(batch=Batch(2))(lambda items: items)
        async with Pipeline(batched) as running:
            with pytest.raises(StateError, match="stage '<lambda>' would wait for others: give Batch"):
                await running.call(1)

    testing.run(main())


def test_call_needs_a_run_that_was_entered() -> None:
    """The results of a stream are read, so there is nobody to answer."""

    async def main() -> None:
        async with Pipeline([1], consumer(Sink())).stream() as values:
            with pytest.raises(StateError, match="async with pipeline as running"):
                await values.running.call(1)

    testing.run(main())


def test_call_needs_one_result_per_item() -> None:
    """A generator gives any number, and none of them is the answer."""

    async def main() -> None:
        @consumer
        async def many(n: int) -> AsyncIterator[int]:
            yield n

        async with Pipeline(many) as running:
            with pytest.raises(StateError, match="stage 'many' may give more"):
                await running.call(1)

    testing.run(main())


@both
def test_a_call_goes_through_a_route(eager: bool) -> None:
    """The caller gets what its own item became, or that no route was for it; nobody else is disturbed."""
    even, odd, join = Sink("even"), Sink("odd"), Sink("join")
    pipeline = Pipeline(route(lambda n: n % 3, {0: even.consumer, 1: odd.consumer}), join.consumer)

    async def main() -> None:
        async with pipeline as running:
            assert await running.call(3) == cast(Any, ("join", ("even", 3)))
            assert await asyncio.gather(*map(running.call, range(0, 30, 3))) == [
                ("join", ("even", n)) for n in range(0, 30, 3)
            ]
            with pytest.raises(Unroutable, match="no branch for 2"):
                await running.call(2)
            assert await running.call(1) == cast(Any, ("join", ("odd", 1)))

    testing.run(main(), eager=eager)


def test_a_call_through_a_broadcast_is_refused() -> None:
    """One request has one result."""

    async def main() -> None:
        async with Pipeline(broadcast(Sink("a").consumer, Sink("b").consumer)) as running:
            with pytest.raises(StateError, match="stage 'broadcast' may give more"):
                await running.call(1)

    testing.run(main())


def test_an_interrupted_handler_tells_its_caller_only_that_there_is_no_more() -> None:
    """Fault B13: KeyboardInterrupt comes out of the run, not of whoever asked for a result."""
    got: list[BaseException] = []

    @consumer
    async def interrupted(n: int) -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        async def ask() -> None:
            try:
                await running.call(1)
            except QueueShutDown as error:
                got.append(error)

        async with Pipeline(interrupted) as running:
            await asyncio.create_task(ask())

    with pytest.raises(KeyboardInterrupt):
        testing.run(main())
    assert len(got) == 1


@both
@pytest.mark.parametrize("retry", [None, 2])
def test_a_caller_is_told_of_a_forgotten_await(retry: int | None, eager: bool) -> None:
    """Protects the caller of a handler whose result is a coroutine: the error names the stage, and the run goes on."""

    @consumer(retry=retry)
    async def forgets(n: int) -> Any:
        return doubled(n) if n == 1 else n

    async def main() -> None:
        async with Pipeline(forgets) as running:
            with pytest.raises(TypeError, match=r"stage 'forgets' gave a coroutine that nobody awaits: write 'await'"):
                await running.call(1)
            assert await running.call(2) == 2
        assert running.report is not None
        assert (running.report.failed, running.report.done) == (1, 1)

    testing.run(main(), eager=eager)


@both
def test_the_first_call_finds_workers_at_work(eager: bool) -> None:
    """Protects runs that look for tickets only from the first call on: workers in the midst of an item, and idle."""

    @consumer(concurrency=2)
    async def slowly(n: int) -> int:
        await asyncio.sleep(1)
        return 2 * n

    async def main() -> list[int]:
        async with Pipeline(slowly >> consumer(_same)) as running:
            for n in range(5):
                await running.put(n)
            await asyncio.sleep(0.5)
            first = await running.call(7)
            await asyncio.sleep(5)
            return [first, *await asyncio.gather(*map(running.call, range(3)))]

    assert testing.run(main(), eager=eager) == [14, 0, 2, 4]


async def _same(n: int) -> int:
    return n


@both
def test_the_first_call_finds_a_worker_in_a_run_of_items(eager: bool) -> None:
    """Protects handlers from an envelope: a worker must not go on to the item of a call as to any other."""
    seen: list[Any] = []
    comes_to_2 = asyncio.Event()

    @consumer
    async def handle(item: Any) -> Any:
        seen.append(item)
        if item == 2:
            comes_to_2.set()
        await steps(3)
        return item

    async def main() -> Any:
        async with Pipeline(handle) as running:
            running.put_nowait(1)
            running.put_nowait(2)
            await comes_to_2.wait()
            return await running.call(3)

    assert testing.run(main(), eager=eager) == 3
    assert seen == [1, 2, 3]


async def test_the_first_call_may_come_from_a_thread() -> None:
    """Protects the same where a thread makes it, while workers handle what was put."""
    async with Pipeline(double) as running:
        for n in range(5):
            await running.put(n)
        assert await asyncio.to_thread(running.call_from_thread, 4) == 8
        assert await asyncio.to_thread(running.call_from_thread, 5) == 10
        with pytest.raises(StateError, match="loop"):
            running.call_from_thread(6)
