"""A stage's workers: they start when there is work, and there are as many as asked for."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from spy import spying
from support import EAGER, both, ignore, lines_run, workers

from asyncpc import Pipeline, consumer, testing
from asyncpc.testing import idle, now

# -- workers start when there is work -------------------------------------------------------------


@both
def test_workers_start_as_work_comes_and_idle_ones_are_taken_first(eager: bool) -> None:
    """Ten thousand consumers cost nothing until ten thousand items wait; the books know them all the same."""
    spy = spying(1.0, concurrency=10_000)

    async def main() -> None:
        async with Pipeline(spy) as running:
            await idle()
            assert workers() == {}
            await asyncio.sleep(2)
            assert running.statistics().stages[0].get_waited == pytest.approx(20_000)
            for n in range(3):
                await running.put(n)
                await asyncio.sleep(2)
            assert set(workers()) == {"spy-1"}
            await asyncio.gather(*(running.put(n) for n in range(7)))
            await idle()
            assert spy.running == 7
            assert set(workers()) == {f"spy-{n}" for n in range(1, 8)}
            await running.drain()
        assert running.report is not None
        assert running.report.done == 10
        assert running.report.stages[0].concurrency == 10_000

    testing.run(main(), eager=eager)


@both
@pytest.mark.parametrize("maxsize", [1, 2, 128, 0])
def test_a_backlog_soon_has_all_the_workers_it_may_have(maxsize: int, eager: bool) -> None:
    """Protects the concurrency: 200 items of a second each on 50 workers take four seconds, whatever the bound."""
    spy = spying(1.0, concurrency=50)

    async def main() -> None:
        report = await Pipeline(range(200), spy, maxsize=maxsize)
        assert report.done == 200
        assert spy.peak == 50
        assert now() == pytest.approx(4.0)

    testing.run(main(), eager=eager)


@both
def test_workers_with_a_resource_start_at_once(eager: bool) -> None:
    """Opening takes time, and a mistake in it should show when the app starts, not at the first order."""
    opened: list[float] = []

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        opened.append(now())
        await asyncio.sleep(1)
        yield

    @consumer(concurrency=3, context=resource)
    async def handle(n: int, resource: None) -> None: ...

    async def main() -> None:
        async with Pipeline(handle) as running:
            await asyncio.sleep(5)
            assert opened == [0, 0, 0]
            await running.put(1)

    testing.run(main(), eager=eager)


def test_eager_workers_do_not_start_inside_each_other() -> None:
    """Fault B3: two hundred stages whose workers would each start the next one's would be too deep for any stack."""
    stages = [consumer(ignore.__wrapped__) for _ in range(200)]
    report = testing.run(Pipeline([1], *stages)._complete(), eager=EAGER[-1])
    assert report.done == 1


@pytest.mark.realtime
def test_handlers_that_never_wait_are_not_given_helpers() -> None:
    """Promise 7: others could only take turns, a turn of the loop for each; so one worker works off the backlog."""
    loop_held: list[float] = []

    @consumer(concurrency=100)
    async def busy(n: int) -> None:
        until = time.thread_time() + 20e-6
        while time.thread_time() < until:
            pass

    async def main() -> int:
        async with Pipeline(busy, maxsize=0) as running:
            for n in range(3000):
                running.put_nowait(n)
            before = time.thread_time()
            while running.statistics().done < 3000:
                await asyncio.sleep(0)
                loop_held.append(time.thread_time() - before)
                before = time.thread_time()
            return len(workers())

    assert asyncio.run(main()) <= 2
    assert statistics.median(loop_held) < 0.005


@pytest.mark.parametrize("how", ["drained", "cancelled", "with a resource"])
def test_the_cost_of_workers_grows_with_their_number_and_no_faster(how: str) -> None:
    """Protects from what only hurts at 10,000 workers: that each one's start or end looks at all the others."""

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        yield

    async def main(count: int) -> None:
        spy = spying(1.0)

        async def handle(n: int, resource: None = None) -> int:
            return int(await spy(n))

        context: Any = resource if how == "with a resource" else None
        stage: Any = consumer(concurrency=count, context=context)(handle)
        async with Pipeline(range(count), stage).stream() as values:
            if how != "cancelled":
                async for _ in values:
                    pass

    def cost(count: int) -> int:
        return lines_run(lambda: testing.run(main(count)))

    cost(100)
    assert cost(800) < 5 * cost(200)


# -- how many at once -----------------------------------------------------------------------------


def test_concurrency_is_exact() -> None:
    """As many calls at once as asked for, no more, no fewer."""
    spy = spying(1, concurrency=4)

    async def main() -> None:
        await Pipeline(range(20), spy)
        assert (spy.peak, now()) == (4, 5.0)

    testing.run(main())
