"""A run under control: its concurrency, pause and resume. All in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from spy import Sink, spying
from support import both

from asyncpc import Pipeline, StateError, broadcast, consumer, route, source, testing
from asyncpc.testing import idle, now


@both
@pytest.mark.parametrize("with_resource", [False, True])
def test_scale_up_and_down(with_resource: bool, eager: bool) -> None:
    """More work at once from now on, or less; nobody is cut off, and what is open is closed."""
    spy, opened = spying(1), 0

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        nonlocal opened
        opened += 1
        yield
        opened -= 1

    async def handle(n: int, *resource: None) -> None:
        await spy(n)

    context: Any = resource if with_resource else None
    stage: Any = consumer(concurrency=2, name="handle", context=context)

    async def main() -> None:
        async with Pipeline(range(10_000), stage(handle)) as running:
            await asyncio.sleep(9.5)
            assert spy.peak == spy.running == 2
            running.scale("handle", 50)
            await asyncio.sleep(10)
            assert spy.peak == spy.running == 50
            assert running.statistics().stages[0].concurrency == 50
            running.scale("handle", 3)
            await asyncio.sleep(2)
            assert spy.running == 3
            if with_resource:
                assert opened == 3
            running.scale("handle", 1)
            running.scale("handle", 4)
            await asyncio.sleep(2)
            assert spy.running == 4
            report = await running.drain(timeout=1e9)
            assert report.complete
        assert opened == 0

    testing.run(main(), eager=eager)


@both
def test_workers_that_come_to_idle_ones_open_their_resource_at_once(eager: bool) -> None:
    """Who scales up before the rush wants the connections before it, and their errors too."""
    opened = 0

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        nonlocal opened
        opened += 1
        yield
        opened -= 1

    @consumer(concurrency=3, context=resource)
    async def handle(n: int, resource: None) -> None: ...

    async def main() -> None:
        async with Pipeline(handle) as running:
            await idle()
            assert opened == 3
            running.scale("handle", 6)
            await idle()
            assert opened == 6
            await asyncio.sleep(1)
            assert running.statistics().stages[0].get_waited == 6
            report = await running.drain(timeout=5)
            assert report.complete
        assert opened == 0

    testing.run(main(), eager=eager)


@pytest.mark.parametrize("branching", ["route", "broadcast"])
def test_a_branching_has_one_worker(branching: str) -> None:
    """With several, items would reach a branch in another order than they came."""
    sink = Sink("sink")
    part: Any = broadcast(sink.consumer) if branching == "broadcast" else route(lambda n: 0, {0: sink.consumer})

    async def main() -> None:
        async with Pipeline(range(300), part) as running:
            with pytest.raises(StateError, match=f"stage '{branching}' has one worker.*scale the stages of its branch"):
                running.scale(branching, 4)
            running.scale("sink", 4)
            await running.wait()

    testing.run(main())
    assert sink.items == list(range(300))


def test_idle_workers_that_are_too_many_leave_at_once() -> None:
    """A connection per worker is given back when it is not needed, not with the next item."""
    opened = 0

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        nonlocal opened
        opened += 1
        yield
        opened -= 1

    @consumer(concurrency=5, context=resource)
    async def handle(n: int, resource: None) -> None: ...

    async def main() -> None:
        async with Pipeline(handle) as running:
            await idle()
            assert opened == 5
            running.scale("handle", 2)
            await idle()
            assert opened == 2
            await asyncio.gather(*(running.put(n) for n in range(300)))

    testing.run(main())


@both
def test_pause_and_resume(eager: bool) -> None:
    """Handlers finish what they are at; callers meet a full queue; nothing is lost."""

    @consumer(concurrency=2, maxsize=3)
    async def handle(n: int) -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        async with Pipeline(range(20), handle) as running:
            await asyncio.sleep(3.5)
            running.pause()
            await asyncio.sleep(100)
            paused = running.statistics().stages[0]
            assert (paused.in_flight, paused.queued, paused.done) == (0, 3, 8)
            running.resume()
            await asyncio.sleep(0.5)
            assert running.statistics().stages[0].in_flight == 2
            report = await running.wait()
            assert report.done == 20

    testing.run(main(), eager=eager)


@both
def test_a_drain_resumes(eager: bool) -> None:
    """A paused run must not sit out its deadline."""

    @consumer
    async def handle(n: int) -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        async with Pipeline(handle) as running:
            running.pause()
            await asyncio.gather(*(running.put(n) for n in range(5)))
            await asyncio.sleep(10)
            assert running.statistics().done == 0
        assert running.report is not None
        assert running.report.done == 5
        assert now() == pytest.approx(15)

    testing.run(main(), eager=eager)


@pytest.mark.parametrize("sources", ["ended", "none"])
@pytest.mark.parametrize("how", ["drain", "stop", "leave"])
def test_a_stop_ends_a_pause_and_allows_no_other(sources: str, how: str) -> None:
    """A drain handles what is queued, so it resumes, whatever ended the intake; nothing pauses it again."""
    sink = Sink()

    async def main() -> None:
        pipeline = Pipeline(range(50), consumer(sink)) if sources == "ended" else Pipeline(consumer(sink))
        async with pipeline as running:
            running.pause()
            if sources == "none":
                for n in range(50):
                    await running.put(n)
            await asyncio.sleep(1)
            assert sink.items == []
            if how != "leave":
                running.stop(1)
                running.pause()
            if how == "drain":
                await running.drain(1)

    testing.run(main())
    assert sink.items == list(range(50))


def test_the_end_of_the_sources_lifts_no_pause() -> None:
    """Whoever paused says when it goes on; the run ends after that."""
    sink = Sink()

    async def main() -> None:
        async with source(range(10)) >> consumer(sink) as running:
            running.pause()
            await asyncio.sleep(10)
            assert sink.items == []
            assert running.statistics().state == "draining"
            running.resume()
            await running.wait()

    testing.run(main())
    assert sink.items == list(range(10))


def test_workers_that_left_are_forgotten() -> None:
    """Memory does not grow with every change of the concurrency; what they did stays in the books."""

    @consumer
    async def handle(n: int) -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        async with Pipeline(handle) as running:
            for n in range(20):
                running.scale("handle", 1 + n % 2 * 3)
                for k in range(8):
                    await running.put(k)
                await asyncio.sleep(20)
            (stage,) = running._run.stages
            assert len(stage.staff.workers) <= 4
            assert stage.staff.started > 20
            assert running.statistics().stages[0].done == 160

    testing.run(main())
