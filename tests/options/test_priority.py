"""``priority=``: the lowest comes first; priorities that cannot be compared lose nothing and hold nobody up."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spy import Sink
from support import balanced, both

from asyncpc import Pipeline, PipelineError, Report, consumer, testing
from asyncpc.options.priority import PriorityHeap


class Odd:
    """A priority that can be compared with some."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __lt__(self, other: Any) -> bool:
        if abs(self.number - other.number) == 7:
            raise TypeError("these two cannot be compared")
        return bool(self.number < other.number)


class Parts(tuple[int, ...]):
    """Compared by what may not be there."""

    def __lt__(self, other: Any) -> bool:
        return bool(self[0] < other[0])


# -- the lowest first -----------------------------------------------------------------------------


@both
def test_the_lowest_priority_value_comes_first(eager: bool) -> None:
    """Triage: what is urgent is handled before what came earlier; equal ones in the order they came."""
    sink = Sink()

    async def main() -> None:
        @consumer(priority=lambda order: order[0])
        async def handle(order: tuple[int, str]) -> None:
            await sink(order)
            await asyncio.sleep(1)

        async with Pipeline(handle) as running:
            running.put_nowait((5, "first of all"))
            await asyncio.sleep(0.5)
            for order in [(3, "a"), (1, "b"), (3, "c"), (0, "d"), (1, "e")]:
                running.put_nowait(order)

    testing.run(main(), eager=eager)
    assert [name for _, name in sink.items] == ["first of all", "d", "b", "e", "a", "c"]


def test_a_priority_that_raises_is_an_error_of_whoever_puts() -> None:
    """The item was not accepted, so nobody has to account for it."""

    async def main() -> None:
        @consumer(priority=lambda n: 1 / n)
        async def handle(n: int) -> None: ...

        async with Pipeline(handle) as running:
            with pytest.raises(ZeroDivisionError):
                await running.put(0)
            await running.put(1)
        assert running.report is not None
        assert (running.report.produced, running.report.done) == (1, 1)

    testing.run(main())


# -- priorities that cannot be compared -----------------------------------------------------------


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

    testing.run(ended(), eager=eager)


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

    report = testing.run(main(), eager=eager)
    assert (report.produced, report.done, len(report.unfinished)) == (4, 1, 3)


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

    testing.run(main(), eager=eager)


@pytest.fixture(params=["accelerated", "plain Python"])
def any_heapq(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The standard library's ``heapq`` in both of its forms, which leave a heap differently when they raise."""
    if request.param == "plain Python":
        spec = importlib.util.find_spec("heapq")
        assert spec is not None
        assert spec.loader is not None
        plain = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "_heapq", None)  # then its Python functions stay
        spec.loader.exec_module(plain)
        monkeypatch.undo()
        for module in [module for name, module in sys.modules.items() if name.startswith("asyncpc")]:
            for name in "heappush", "heappop":
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, getattr(plain, name))
    return str(request.param)


@pytest.mark.timeout(5)
@pytest.mark.parametrize("seed", range(8))
def test_a_priority_that_cannot_be_compared_changes_nothing(any_heapq: str, seed: int) -> None:
    """Whatever heapq does inside: a put that raised is not in, the others come in their order, and nothing hangs."""
    numbers = Random(seed).choices(range(30), k=40)
    kept: list[int] = []
    handled: list[int] = []

    @consumer(priority=Odd, maxsize=0)
    async def handle(n: int) -> None:
        handled.append(n)
        await asyncio.sleep(1)

    async def main() -> Report | None:
        async with Pipeline(handle) as running:
            running.pause()
            for number in numbers:
                try:
                    running.put_nowait(number)
                except TypeError:
                    continue
                kept.append(number)
            running.resume()
        return running.report

    try:
        report = testing.run(main())
    except PipelineError as failed:  # two that were never compared before meet when one is taken
        report = failed.report
    assert report is not None
    assert len(kept) < len(numbers)
    left = [one.item for one in report.unfinished]
    assert sorted(handled + left) == sorted(kept)
    assert balanced(report)
