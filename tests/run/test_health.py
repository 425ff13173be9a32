"""A probe that asks whether a run is well gets the truth, from any thread, and no false alarm."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from threading import Event, Thread
from typing import Any

import pytest
from support import AnyStage, both, endless, named, until

from asyncpc import (
    Batch,
    Breaker,
    DefinitionError,
    Health,
    Pipeline,
    PipelineError,
    Rate,
    Retry,
    Running,
    consumer,
    source,
    testing,
)
from asyncpc.graph.pipeline import run_beside


async def hang(item: Any) -> None:
    await asyncio.Event().wait()


async def quick(item: Any) -> Any:
    return item


def taking(seconds: float) -> AnyStage:
    """A stage whose calls take so long."""

    async def handle(item: Any) -> None:
        await asyncio.sleep(seconds)

    return named("stage", handle)


hangs = named("hangs", hang)


def healths(
    pipeline: Pipeline[Any, Any],
    *,
    items: int = 3,
    minutes: int = 3,
    begin: Callable[[Running[Any, Any]], object] = lambda running: None,
) -> list[Health]:
    """What a probe is told once a minute of a run that has got so many items, which is then ended."""

    async def main() -> list[Health]:
        told: list[Health] = []
        running = await pipeline.__aenter__()
        begin(running)
        for n in range(items):
            running.put_nowait(n)
        for _ in range(minutes):
            await asyncio.sleep(60)
            told.append(running.health())
        await running.drain(timeout=0)
        await pipeline.__aexit__(None, None, None)
        return told

    return testing.run(main())


# -- live and ready -------------------------------------------------------------------------------


@both
def test_a_run_is_live_throughout_and_ready_while_it_takes_items(eager: bool) -> None:
    """Traffic goes to a process only while it can take it; nothing restarts one that drains or has ended."""
    told: list[Health] = []

    @contextmanager
    def before(running: Running[Any, Any]) -> Iterator[None]:
        told.append(running.health())
        yield

    async def main() -> None:
        await run_beside(source([1]) >> named("quick", quick), before)
        async with Pipeline(taking(1)) as running:
            await running.put(1)
            told.append(running.health())
            running.stop()
            told.append(running.health())
            await running.wait()
            told.append(running.health())

    testing.run(main(), eager=eager)
    assert [one._replace(why=one.why.partition(";")[0]) for one in told] == [
        Health(True, False, (), "not started"),
        Health(True, True, (), "running"),
        Health(True, False, (), "draining"),
        Health(True, False, (), "ended"),
    ]


@both
def test_a_run_that_failed_is_not_live_and_says_what_it_failed_with(eager: bool) -> None:
    """Its process is to be restarted. A message may tell of an item, so a probe's page shows the kind of error only."""

    @consumer
    async def fails(n: int) -> None:
        raise ConnectionError("canary")

    async def main() -> tuple[Health, Health]:
        pipeline = Pipeline(fails)
        running = await pipeline.__aenter__()
        await running.put(1)
        await asyncio.sleep(1)
        failed = running.health()
        with pytest.raises(PipelineError):
            await pipeline.__aexit__(None, None, None)
        return failed, running.health()

    failed, ended = testing.run(main(), eager=eager)
    assert (failed.live, failed.ready) == (False, False)
    assert failed.why.startswith("failed: ConnectionError (test_health.py:")
    assert ended == failed


def test_a_run_that_left_items_is_not_live() -> None:
    """It is over, and did not do what it was to do."""

    async def main() -> Health:
        pipeline = Pipeline(hangs, drain_timeout=0)
        running = await pipeline.__aenter__()
        await running.put(1)
        await running.drain()
        await pipeline.__aexit__(None, None, None)
        return running.health()

    assert testing.run(main()) == Health(False, False, (), "failed: it was stopped before it was done")


# -- stalled --------------------------------------------------------------------------------------


def test_a_stage_that_settles_nothing_is_named() -> None:
    """The one that hangs, not those before it that wait for it; and since when, as far as was looked."""
    first, second, third = healths(named("first", quick) >> hangs >> named("last", quick), items=100)
    assert first[:3] == (True, True, ())
    assert first.why.startswith("running; hangs: busy 100% of 1 worker; first waits ")
    why = second.why
    assert second == Health(True, True, (("hangs", 60.0),), why)
    assert why.startswith("running; hangs: nothing settled for 60 s; its worker is on one item (test_health.py:")
    assert why.endswith(" in hang)")
    assert third.stalled == (("hangs", 120.0),)


def test_a_stage_behind_a_full_queue_is_not_named() -> None:
    """It waits for the next stage, which is the one that hangs."""
    pipeline = named("first", quick, concurrency=3) >> named("hangs", hang, maxsize=1)
    assert [one.stalled for one in healths(pipeline, items=20)] == [(), (("hangs", 60.0),), (("hangs", 120.0),)]


def test_a_stage_whose_resource_never_opens_is_named() -> None:
    """It has items, and no worker takes any."""

    @asynccontextmanager
    async def opening() -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield

    @consumer(context=opening)
    async def store(n: int, resource: None) -> None: ...

    assert healths(Pipeline(store))[-1].stalled == (("store", 120.0),)


def test_a_stalled_stage_that_goes_on_is_stalled_no_more() -> None:
    """A single item that settles shows that it works."""
    gate = asyncio.Event()

    @consumer
    async def waits(n: int) -> None:
        await gate.wait()

    async def main() -> list[Any]:
        async with Pipeline(waits) as running:
            await running.put(1)
            told = []
            for _ in range(4):
                told.append(running.health(stalled_after=10).stalled)
                await asyncio.sleep(10)
                if len(told) == 2:
                    gate.set()
                    await running.put(2)
        return told

    assert testing.run(main()) == [(), (("waits", 10.0),), (("waits", 20.0),), ()]


def test_an_item_that_came_after_a_long_rest_is_given_its_time() -> None:
    """What a stage did not settle while it had nothing to do is no news."""

    async def main() -> list[Any]:
        async with Pipeline(taking(50)) as running:
            told = [running.health()]
            await asyncio.sleep(600)
            await running.put(1)
            told.append(running.health())
            await asyncio.sleep(40)
            told.append(running.health())
        return [one.stalled for one in told]

    assert testing.run(main()) == [(), (), ()]


async def always_fails(n: int) -> None:
    raise OSError


QUIET: dict[str, AnyStage] = {
    "slow": taking(50),
    "rate": named("stage", quick, rate=Rate(1, per=1000)),
    "back-off": named("stage", always_fails, retry=Retry(100, wait=lambda attempt: 1000.0)),
    "breaker": named("stage", always_fails, retry=100, breaker=Breaker(1, reset_after=1000)),
    "batch": named("stage", quick, batch=Batch(10, within=1000)),
}


@pytest.mark.parametrize("kind", QUIET)
def test_a_stage_that_waits_for_good_reason_is_not_named(kind: str) -> None:
    """False alarms teach people to look away."""
    assert [one.stalled for one in healths(Pipeline(QUIET[kind]), minutes=5)] == [()] * 5


def test_a_paused_run_is_not_stalled() -> None:
    """Somebody asked for the pause; an item in flight still has to end."""
    paused = healths(Pipeline(named("quick", quick)), begin=lambda running: running.pause())
    assert [one.stalled for one in paused] == [()] * 3
    assert paused[-1].ready


def test_the_time_of_a_pause_does_not_count() -> None:
    """What was queued before a long pause is given its time after it."""

    async def main() -> list[Any]:
        async with Pipeline(taking(50)) as running:
            running.put_nowait(1)
            told = [running.health()]
            running.pause()
            for _ in range(2):
                await asyncio.sleep(600)
                told.append(running.health())
            running.resume()
            await asyncio.sleep(40)
            told.append(running.health())
        return [one.stalled for one in told]

    assert testing.run(main()) == [()] * 4


def test_each_call_has_its_own_patience() -> None:
    """An alert and a page may look at one run with different ideas of slow."""

    async def main() -> list[Any]:
        pipeline = Pipeline(hangs, drain_timeout=0)
        running = await pipeline.__aenter__()
        await running.put(1)
        running.health()
        await asyncio.sleep(30)
        told = [running.health(seconds).stalled for seconds in (20, 40)]
        with pytest.raises(DefinitionError, match="stalled_after=-1 must be 0 or more seconds"):
            running.health(-1)
        with pytest.raises(PipelineError):
            await pipeline.__aexit__(None, None, None)
        return told

    assert testing.run(main()) == [(("hangs", 30.0),), ()]


def test_names_are_told_without_passwords() -> None:
    """Fault F7: a stage may be named after what it writes to, and a probe's page is read by others."""
    (*_, last) = healths(Pipeline(named("redis://me:canary@host", hang)))
    assert "redis://me:***@host: nothing settled" in last.why
    assert "canary" not in last.why


# -- from another thread --------------------------------------------------------------------------


class Prober(Thread):
    """Asks for the health of a run, in a thread of its own, until it is told to stop."""

    def __init__(self, running: Running[Any, Any], stalled_after: float = 60.0) -> None:
        super().__init__()
        self.running = running
        self.stalled_after = stalled_after
        self.told: list[Health] = []
        self.error: BaseException | None = None
        self.over = Event()

    def run(self) -> None:
        try:
            while not self.over.is_set():
                self.told.append(self.running.health(self.stalled_after))
        except BaseException as error:
            self.error = error

    async def __aenter__(self) -> Prober:
        self.start()
        return self

    async def __aexit__(self, *details: object) -> None:
        self.over.set()
        await until(lambda: not self.is_alive())  # and answer its last question
        assert self.error is None


async def test_another_thread_is_told_the_same() -> None:
    """A health server in a thread, such as that of Flask, asks the loop, which counts while nothing changes."""
    async with endless >> named("quick", quick, concurrency=3) as running:
        async with Prober(running) as prober:
            await until(lambda: len(prober.told) > 20)
        running.stop()
        async with Prober(running) as last:
            await until(lambda: bool(last.told) and not last.told[-1].ready)
    assert any(one.ready and one.why.startswith("running") for one in prober.told)
    assert all(one.live for one in prober.told)  # a busy machine may be late with an answer
    async with Prober(running) as after:
        await until(lambda: bool(after.told))
    assert after.told[-1].why == "ended"


@pytest.mark.realtime
async def test_another_thread_is_told_that_the_loop_does_not_answer() -> None:
    """The question of a liveness probe: a process whose loop is blocked looks alive from outside."""
    at_work = Event()
    told: dict[float, Health] = {}

    @consumer
    async def blocks(n: int) -> None:
        at_work.set()
        while len(told) < 2:
            pass

    async with Pipeline(blocks) as running:

        def ask(stalled_after: float) -> None:
            at_work.wait(20)
            told[stalled_after] = running.health(stalled_after)

        threads = [Thread(target=ask, args=(seconds,)) for seconds in (60.0, 0.0)]
        for thread in threads:
            thread.start()
        await running.put(1)
        await until(lambda: len(told) == 2)
        async with Prober(running) as afterwards:
            await until(lambda: any(one.ready for one in afterwards.told))
        for thread in threads:
            thread.join()
    assert (told[60].live, told[60].ready) == (True, False)
    assert "the event loop has not answered for 0." in told[60].why
    assert not told[0].live


def test_a_run_whose_loop_was_closed_under_it_is_not_live() -> None:
    """Nothing will ever move again, and nobody has said so."""
    pipeline = Pipeline(named("quick", quick))
    loop = asyncio.new_event_loop()
    running = loop.run_until_complete(pipeline.__aenter__())

    async def probe() -> None:
        async with Prober(running) as prober:
            await until(lambda: len(prober.told) > 3)

    loop.run_until_complete(probe())
    loop.close()
    assert running.health() == Health(False, False, (), "running; its event loop is closed")
    assert running.bottleneck() == "its event loop is closed"
    told: list[Health] = []
    thread = Thread(target=lambda: told.append(running.health()))
    thread.start()
    thread.join()
    assert told == [running.health()]


async def test_another_loop_is_not_held_up() -> None:
    """A web server in a loop of its own must not wait half a second for the loop of the run."""
    told: list[Health] = []
    async with Pipeline(named("quick", quick)) as running:

        async def ask() -> None:
            told.append(running.health())

        thread = Thread(target=lambda: asyncio.run(ask()))
        thread.start()
        thread.join()  # the loop of the run stands still meanwhile
    assert told == [Health(True, True, (), "running")]
