"""``on_unfinished=``: whoever wants to keep what a run has left gets it, exactly once, whatever ended the run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext, suppress
from typing import Any

import anyio
import pytest
from support import balanced, both, error_types

from asyncpc import (
    DefinitionError,
    DrainTimeout,
    Pipeline,
    PipelineError,
    Running,
    Unfinished,
    broadcast,
    consumer,
    producer,
    route,
    source,
    testing,
)
from asyncpc.testing import now

Items = tuple[Unfinished, ...]


@consumer(name="slow")
async def slow(n: int) -> int:
    """One item a second."""
    await asyncio.sleep(1)
    return n


@producer
async def endless() -> AsyncIterator[int]:
    """Six at once, then idle."""
    for n in range(6):
        yield n
    await asyncio.Event().wait()


class Kept:
    """Keeps what it gets, and when."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def now(self, items: Items) -> None:
        self.calls.append(items)

    async def later(self, items: Items) -> None:
        await asyncio.sleep(5)
        self.calls.append(items)


async def at_a_deadline(on_unfinished: Any) -> None:
    async with Pipeline(endless, slow, drain_timeout=1.5, on_unfinished=on_unfinished) as running:
        await asyncio.sleep(1)
        running.stop()


async def at_a_stop(on_unfinished: Any) -> None:
    pipeline = Pipeline(endless, slow, on_unfinished=on_unfinished)
    async with pipeline as running, running.on_signals():
        await asyncio.sleep(2.5)
        await running.drain(0)


async def in_a_failure(on_unfinished: Any) -> None:
    @consumer
    async def fails(n: int) -> None:
        await asyncio.sleep(1)
        raise ValueError

    await Pipeline(range(6), fails, on_unfinished=on_unfinished)


async def cancelled(on_unfinished: Any) -> None:
    async with asyncio.timeout(2.5):
        await Pipeline(endless, slow, on_unfinished=on_unfinished)


async def streamed(on_unfinished: Any) -> None:
    async with Pipeline(endless, slow, on_unfinished=on_unfinished).stream() as values:
        async for _ in values:
            break


async def interrupted(on_unfinished: Any) -> None:
    @consumer
    async def interrupts(n: int) -> None:
        raise SystemExit

    await Pipeline(range(6), interrupts, on_unfinished=on_unfinished)


WAYS = [
    (at_a_deadline, PipelineError, [2, 3, 4, 5]),
    (at_a_stop, None, [2, 3, 4, 5]),
    (in_a_failure, PipelineError, [1, 2, 3, 4, 5]),
    (cancelled, TimeoutError, [2, 3, 4, 5]),
    (streamed, None, [1, 2, 3, 4, 5]),
]


@both
@pytest.mark.parametrize("kind", ["now", "later"])
@pytest.mark.parametrize(("way", "raised", "left"), WAYS)
def test_what_a_run_left_is_handed_over_once(
    way: Callable[[Any], Awaitable[None]], raised: type[Exception] | None, left: list[int], kind: str, eager: bool
) -> None:
    """After the end of the run and before its caller goes on; what comes out is what would have come out anyway."""
    kept = Kept()

    async def main() -> None:
        if raised is None:
            await way(getattr(kept, kind))
        else:
            with pytest.raises(raised):
                await way(getattr(kept, kind))
        assert len(kept.calls) == 1

    testing.run(main(), eager=eager)
    ((*items,),) = kept.calls
    assert [one.item for one in items] == left
    assert all(isinstance(one, Unfinished) for one in items)


def test_an_interrupt_hands_over_too() -> None:
    """SystemExit of a handler comes out as itself, and nothing is lost without a word."""
    kept = Kept()
    with pytest.raises(SystemExit):
        testing.run(interrupted(kept.now))
    assert [one.item for one in kept.calls[0]] == [1, 2, 3, 4, 5]  # 0 is the one that failed


def test_a_run_that_left_nothing_calls_nobody() -> None:
    """Saving nothing would overwrite what an earlier run has saved."""
    kept = Kept()

    async def main() -> None:
        await Pipeline(range(3), slow, on_unfinished=kept.now)

    testing.run(main())
    assert kept.calls == []


def test_the_report_is_reachable_and_logged_after_a_deadline(caplog: pytest.LogCaptureFixture) -> None:
    """A lifespan whose deadline passes: the block raises, ``running.report`` is there, the log has a line per stage."""
    kept = Kept()

    @consumer(name="tcp://me:canary@next")
    async def stuck(n: int) -> None:
        await asyncio.Event().wait()

    web = Pipeline(slow, stuck, name="web", drain_timeout=3.5, on_unfinished=kept.later)
    entered: list[Running[int, None]] = []

    async def lifespan() -> None:
        async with web as running:
            entered.append(running)
            for n in range(6):
                await running.put(n)

    async def main() -> None:
        with pytest.raises(PipelineError) as failed:
            await lifespan()
        (running,) = entered
        assert error_types(failed.value) == [DrainTimeout]
        assert running.report is failed.value.report
        assert running.report is not None
        assert running.report.unfinished == kept.calls[0]
        assert balanced(running.report)
        assert now() == 3.5 + 5

    testing.run(main())
    assert [record.getMessage() for record in caplog.records] == [
        "pipeline 'web': stage 'slow' left 3 of 6 items unfinished (3 done, 0 failed, 0 dropped)",
        "pipeline 'web': stage 'tcp://me:***@next' left 3 of 3 items unfinished (0 done, 0 failed, 0 dropped)",
    ]


async def raises_later(items: Items) -> None:
    await asyncio.sleep(1)
    raise OSError("disk full")


def raises(items: Items) -> None:
    raise OSError("disk full")


@pytest.mark.parametrize("on_unfinished", [raises, raises_later])
@pytest.mark.parametrize("waits", [False, True])
def test_what_it_raises_fails_the_run_and_breaks_no_count(
    on_unfinished: Any, waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The items could not be kept: that must be told, also to a caller who has seen the report already."""

    async def work() -> None:
        async with Pipeline(endless, slow, drain_timeout=0, on_unfinished=on_unfinished) as running:
            await asyncio.sleep(0.5)
            running.stop()
            if waits:
                await running.wait()

    async def main() -> PipelineError:
        with pytest.raises(PipelineError) as failed:
            await work()
        return failed.value

    failed = testing.run(main())
    assert error_types(failed) == [OSError]
    assert failed.exceptions[0].__notes__ == ["asyncpc: in on_unfinished= of pipeline 'endless >> slow'"]
    assert balanced(failed.report)
    assert failed.report.exit_status == 1
    assert "on_unfinished= raised OSError: disk full" in caplog.text


def test_a_cancel_while_it_saves_cancels_it() -> None:
    """Who has waited long enough for the drain does not wait for ever for what follows."""
    kept = Kept()
    pipeline = Pipeline(endless, slow, drain_timeout=0, on_unfinished=kept.later)

    async def work() -> None:
        async with pipeline as running:
            await asyncio.sleep(0.5)
            running.stop()

    async def main() -> None:
        task = asyncio.create_task(work())
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert now() == 1
        assert kept.calls == []
        await (source([1]) >> slow)

    testing.run(main())


def test_it_belongs_to_the_first_part_that_sets_it() -> None:
    """A pipeline that is part of another keeps its promise there, as with ``drain_timeout``."""
    kept, other = Kept(), Kept()
    part = Pipeline(slow, on_unfinished=kept.now)
    for pipeline in (
        endless >> part,
        Pipeline(endless, part, on_unfinished=None),
        endless >> broadcast(part, slow),
        endless >> route(lambda n: 0, {0: part}),
        endless >> part >> Pipeline(slow, on_unfinished=other.now),
    ):

        async def main(pipeline: Any = pipeline) -> None:
            async with pipeline as running:
                await asyncio.sleep(0.5)
                await running.drain(0)

        testing.run(main())
    assert len(kept.calls) == 5
    assert other.calls == []

    async def outer() -> None:
        async with Pipeline(endless, part, on_unfinished=other.now) as running:
            await asyncio.sleep(0.5)
            await running.drain(0)

    testing.run(outer())
    assert (len(kept.calls), len(other.calls)) == (5, 1)


def test_what_is_no_function_is_refused() -> None:
    """A list looks as if items were appended to it."""
    with pytest.raises(DefinitionError, match=r"pipeline 'slow': on_unfinished=\[\] must be a function of the items"):
        Pipeline(slow, on_unfinished=[])  # type: ignore[call-overload]  # the mistake under test


# -- how long it may take -------------------------------------------------------------------------


def test_a_cancel_that_anyio_delivers_again_does_not_end_it() -> None:
    """``move_on_after`` cancels in every iteration of the loop; that is one cancel, and the items are kept."""
    saved: list[int] = []

    async def save(items: Items) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        saved.append(len(items))

    async def main() -> None:
        with anyio.move_on_after(0.1) as scope:
            await Pipeline(range(5), slow, on_unfinished=save)
        assert scope.cancelled_caught

    testing.run(main())
    assert saved == [5]


@pytest.mark.parametrize("ignores_cancels", [False, True])
@pytest.mark.parametrize(("stop_after", "seconds"), [(None, 30), (2, 2)])
def test_it_has_a_deadline_and_a_stop_shortens_it(
    stop_after: float | None, seconds: float, ignores_cancels: bool
) -> None:
    """A database that hangs must not keep the program from ending: it has 30 s, or what a stop leaves it."""

    async def hangs(items: Items) -> None:
        while now() < 1000:
            with suppress(asyncio.CancelledError) if ignores_cancels else nullcontext():
                await asyncio.sleep(1000)

    async def stopped() -> None:
        async with Pipeline(slow, drain_timeout=0, on_unfinished=hangs) as running:
            await running.put(1)
            if stop_after is not None:
                asyncio.get_running_loop().call_later(stop_after, running.stop, 0)

    async def main() -> None:
        with pytest.raises(PipelineError) as failed:
            await stopped()
        assert DrainTimeout in error_types(failed.value)
        assert "on_unfinished= was cancelled" in "".join(map(str, failed.value.exceptions))
        assert seconds <= now() <= seconds + 0.1
        await asyncio.sleep(2000)  # what ignores cancels ends by itself, or the loop would complain

    testing.run(main())
