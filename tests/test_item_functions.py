"""Functions of an item that raise, such as ``key=``: whoever gives the item meets the error, and nobody else.

Nothing is lost, nobody waits for ever, the books balance. All in virtual time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual import EAGER, ran, run_virtual

from asyncpc import Batch, Failure, Pipeline, PipelineError, Report, Retry, Running, consumer, source
from asyncpc.options.key import KeyedQueue
from asyncpc.options.priority import PriorityHeap

both = pytest.mark.parametrize("eager", EAGER)


class Odd:
    """A priority that can be compared with some."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __lt__(self, other: Any) -> bool:
        if abs(self.number - other.number) == 7:
            raise TypeError("these two cannot be compared")
        return bool(self.number < other.number)


@given(st.lists(st.integers(0, 20)))
def test_a_heap_loses_nothing_whatever_a_comparison_raises(numbers: list[int]) -> None:
    """A push that raised left nothing behind, and the others where they were; a pop that raised took nothing."""
    heap = PriorityHeap(Odd)
    kept: list[int] = []
    for number in numbers:
        before = list(heap._heap)
        try:
            heap.append(number)
        except TypeError:
            assert heap._heap == before
        else:
            kept.append(number)
    assert sorted(heap) == sorted(kept)
    while kept:
        try:
            kept.remove(heap.popleft())
        except TypeError:
            break
        assert len(heap) == len(kept)
    assert sorted(heap) == sorted(kept)


def test_lanes_ask_for_the_priority_before_they_change_anything() -> None:
    """A key whose first item was refused is free; a parked item needs no function to be asked when its turn comes."""
    asked: list[Any] = []

    def priority(item: dict[str, int]) -> int:
        asked.append(item)
        return item["p"]

    lanes = KeyedQueue(lambda item: "a", priority)
    with pytest.raises(KeyError):
        lanes.append({})
    assert (len(lanes), bool(lanes)) == (0, False)
    lanes.append({"p": 2})
    lanes.append({"p": 1})
    with pytest.raises(KeyError):
        lanes.append({})
    assert (len(lanes), lanes.take()) == (2, ("a", {"p": 2}))
    count = len(asked)
    lanes.end_lease("a")
    assert (lanes.take(), len(lanes), len(asked)) == (("a", {"p": 1}), 0, count)


@both
@pytest.mark.parametrize("end", ["drain", "leave", "cancel"])
def test_priorities_that_cannot_be_compared_hold_up_no_end(end: str, eager: bool) -> None:
    """The put that cannot be ordered raises and is not in; whatever ends the run then, it ends, and in time."""

    @consumer(priority=lambda order: order.get("urgency"))
    async def handle(order: dict[str, int]) -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        async with Pipeline(handle) as running:
            await running.put({"urgency": 1})
            await asyncio.sleep(0.1)
            await running.put({"urgency": 2})
            with pytest.raises(TypeError):
                await running.put({})
            assert running.statistics().produced == 2
            if end == "drain":
                assert (await running.drain(timeout=10)).done == 2
            elif end == "cancel":
                raise asyncio.CancelledError
        assert running.report is not None
        assert running.report.done == (0 if end == "cancel" else 2)

    async def ended() -> None:
        if end == "cancel":
            with pytest.raises(asyncio.CancelledError):
                await main()
        else:
            await main()

    run_virtual(ended, eager=eager)


@both
def test_priorities_that_meet_later_fail_the_run_and_list_the_items(eager: bool) -> None:
    """Two that were never compared when they came are, when one is taken: the run fails, and all are accounted for."""
    gate: list[asyncio.Event] = []

    @consumer(priority=lambda item: item)
    async def handle(item: tuple[int, Any]) -> None:
        await gate[0].wait()

    async def main() -> Report:
        gate.append(asyncio.Event())
        async with Pipeline(handle) as running:
            for item in (0, ""), (0, ""), (2, "x"), (2, None):
                await running.put(item)
                await asyncio.sleep(0)
            gate[0].set()
            with pytest.raises(PipelineError) as failed:
                await running.drain()
        assert isinstance(failed.value.exceptions[0], TypeError)
        return failed.value.report

    report = run_virtual(main, eager=eager)
    assert (report.produced, report.done, len(report.unfinished)) == (4, 1, 3)


@both
@pytest.mark.parametrize("end", ["drain", "cancel"])
def test_values_that_are_refused_at_the_end_have_failed(end: str, eager: bool) -> None:
    """Behind a slow head, in order, lies a value that the next stage's ``key=`` refuses: the run ends, and tells."""

    @consumer(concurrency=3, ordered=True)
    async def fetch(n: int) -> dict[str, int]:
        if n == 0:
            await asyncio.sleep(1000)
        return {"n": n} if n == 2 else {"n": n, "site": 1}

    @consumer(key=lambda page: page["site"])
    async def save(page: dict[str, int]) -> None: ...

    async def main(told: list[Running[int, None]]) -> None:
        async with Pipeline(fetch, save) as running:
            told.append(running)
            for n in range(3):
                await running.put(n)
            await asyncio.sleep(1)
            if end == "cancel":
                raise asyncio.CancelledError
            await running.drain(timeout=1)

    async def ended() -> Report:
        told: list[Running[int, None]] = []
        with pytest.raises((PipelineError, asyncio.CancelledError)):
            await main(told)
        assert [type(error) for error in told[0]._run.outcome.errors] == [KeyError]
        return cast(Report, told[0].report)

    report = run_virtual(ended, eager=eager)
    assert [(one.item, one.stage) for one in report.unfinished] == [
        (0, "fetch"),
        ({"n": 1, "site": 1}, "save"),
    ]
    assert report.failed == 1


class Parts(tuple[int, ...]):
    """Compared by what may not be there."""

    def __lt__(self, other: Any) -> bool:
        return bool(self[0] < other[0])


@both
def test_an_index_error_of_a_comparison_is_no_empty_queue(eager: bool) -> None:
    """It would be taken for one: the worker would look again and again, and never see the end."""

    @consumer(priority=Parts)
    async def handle(item: tuple[int, ...]) -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        async with Pipeline(handle) as running:
            await running.put((1,))
            await running.put((1,))
            with pytest.raises(TypeError, match="cannot be compared"):
                await running.put(())

    run_virtual(main, eager=eager)


@both
def test_a_key_whose_next_item_cannot_be_compared_fails_the_run(eager: bool) -> None:
    """The key is released when the worker looks for more, with an item that has been settled: it counts once."""

    @consumer(key=lambda item: item[0], priority=lambda item: item[1])
    async def handle(item: tuple[str, Any]) -> None:
        await asyncio.sleep(1)

    async def main() -> Report:
        async with Pipeline(handle) as running:
            await running.put(("k", 1))
            await running.put(("k", 2))
            await asyncio.sleep(0.5)
            await running.put(("x", "high"))
            with pytest.raises(PipelineError) as failed:
                await running.wait()
        return failed.value.report

    report = run_virtual(main, eager=eager)
    assert (report.done, report.failed, len(report.unfinished)) == (1, 0, 2)


@both
@pytest.mark.parametrize("end", ["runs on", "is cancelled"])
def test_a_value_in_order_that_is_refused_has_failed(end: str, eager: bool) -> None:
    """Invariant 2: whoever passes on the values of others must not lose one of them."""

    @consumer(concurrency=4, ordered=True)
    async def first(n: int) -> int:
        await asyncio.sleep(1 if n % 4 == 0 else 0)
        return n

    @consumer(maxsize=1, key=lambda n: {5: 1}[n] if n == 6 else n)
    async def second(n: int) -> None:
        await asyncio.sleep(1000 if end == "is cancelled" and n == 4 else 0)

    with pytest.raises(PipelineError) as failed:
        ran(Pipeline(range(8), first >> second, drain_timeout=5), eager=eager)
    report = failed.value.report
    assert [type(error) for error in failed.value.exceptions] == [KeyError]
    left = [(one.item, one.stage) for one in report.unfinished]
    assert 6 not in [item for item, _ in left]
    assert report.failed == 1
    assert report.done + len(left) + report.failed == 8


@both
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_the_values_of_a_cancelled_batch_are_counted_where_they_are(bad: int, eager: bool) -> None:
    """Invariant 4: one of them is refused by the next stage's ``key=``, in the midst of a cancel."""

    @consumer(batch=Batch(6))
    async def double(items: list[int]) -> list[int]:
        return items

    @consumer(maxsize=1, key=lambda n: {0: 0}[n] if n == 3 + bad else n)
    async def second(n: int) -> None:
        await asyncio.sleep(1000)

    async def main() -> Report:
        async with Pipeline(range(6), double >> second) as running:
            await asyncio.sleep(1)
            running.stop(0)
            with pytest.raises(PipelineError):
                await running.wait()
        return cast(Report, running.report)

    run_virtual(main, eager=eager)


@both
def test_the_context_of_an_item_that_was_tried_again_is_gone_with_it(eager: bool) -> None:
    """Fault B12: the next item fails without another attempt, and has no context of its own."""
    variable: ContextVar[str] = ContextVar("variable", default="none")
    told: list[tuple[int, str]] = []
    calls: list[int] = []

    @consumer(
        retry=Retry(2, on=ConnectionError, wait=lambda attempt: 0.0),
        on_error=lambda f: told.append((f.item, variable.get())),
    )
    async def handle(n: int) -> None:
        calls.append(n)
        if n == 2:
            raise ValueError
        if calls.count(1) == 1:
            raise ConnectionError
        variable.set("of item 1")

    ran(source([1, 2]) >> handle, eager=eager)
    assert told == [(2, "none")]


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

    report = run_virtual(main, eager=eager)
    assert (report.failed, report.stages[0].last_failure, len(report.unfinished)) == (0, "", 1)


OPTIONS: list[Callable[[Callable[[Any], Any]], dict[str, Any]]] = [
    lambda of: {"key": of},
    lambda of: {"priority": of},
    lambda of: {"batch": Batch(1, key=of)},
    lambda of: {"batch": Batch(1, weigh=of)},
]


@both
@pytest.mark.parametrize("option", OPTIONS, ids=["key", "priority", "batch key", "weigh"])
def test_a_put_that_raises_passes_the_room_on(option: Any, eager: bool) -> None:
    """Fault A3: one bad request that had waited for room must not leave the next one waiting at an empty queue."""

    @consumer(maxsize=1, **option(lambda item: item["n"]))  # type: ignore[untyped-decorator]  # which options, only the test knows
    async def handle(item: object) -> None:
        await asyncio.sleep(1)

    async def put(running: Running[Any, None], item: object) -> str:
        try:
            await running.put(item)
        except KeyError:
            return "refused"
        return "in"

    async def main() -> list[str]:
        async with Pipeline(handle) as running:
            await running.put({"n": 1})
            await asyncio.sleep(0.1)
            await running.put({"n": 1})
            return await asyncio.gather(*[put(running, item) for item in ({}, {"n": 1}, {}, {"n": 1})])

    assert run_virtual(main, eager=eager) == ["refused", "in", "refused", "in"]


@both
def test_a_worker_whose_value_is_refused_passes_the_room_on(eager: bool) -> None:
    """The same between stages: the value is the failure of whoever gave it, and the others go on."""

    @consumer(concurrency=4, on_error="skip")
    async def first(item: str) -> AsyncIterator[str]:
        yield item

    @consumer(maxsize=1, key=lambda item: {"a": 1, "b": 2, "c": 3}[item])
    async def second(item: str) -> None:
        await asyncio.sleep(1)

    report = ran(source(["a", "b", "bad", "c", "bad", "a"]) >> first >> second, eager=eager)
    assert (report.stages[0].failed, report.stages[1].done) == (2, 4)


@both
def test_who_is_told_of_a_failure_sees_the_context_of_its_item(eager: bool) -> None:
    """Fault B12: a dead letter must not carry the request id of another item."""
    request: ContextVar[str | None] = ContextVar("request", default=None)
    told: list[tuple[int, str | None]] = []

    def tell(failure: Failure) -> None:
        told.append((failure.item, request.get()))

    @consumer(on_error=tell)
    async def handle(n: int) -> None:
        if n != 2:
            request.set(f"request {n}")
        raise ValueError(n)

    ran(source(range(4)) >> handle, eager=eager)
    assert told == [(0, "request 0"), (1, "request 1"), (2, None), (3, "request 3")]


@both
def test_an_interrupt_of_on_drop_keeps_the_books(eager: bool) -> None:
    """Fault B13: whoever put the item may catch it; the item was dropped all the same."""

    def interrupt(item: int) -> None:
        raise SystemExit

    @consumer(maxsize=1, overflow="drop_newest", on_drop=interrupt)
    async def handle(item: int) -> None:
        await asyncio.sleep(1)

    async def main() -> Report:
        async with Pipeline(handle) as running:
            await running.put(0)
            await asyncio.sleep(0.1)
            await running.put(1)
            with pytest.raises(SystemExit):
                running.put_nowait(2)
        return cast(Report, running.report)

    report = run_virtual(main, eager=eager)
    assert (report.produced, report.done, report.dropped) == (3, 2, 1)
