"""What is wrong with a run is said in one sentence, which names the stage and the reason; and nothing else is wrong."""

from __future__ import annotations

import asyncio
import itertools
import runpy
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

import pytest
import uvloop
from support import endless, named, until

from asyncpc import Batch, Breaker, Pipeline, Rate, Retry, Running, consumer, source, testing
from asyncpc.run import looks, turns
from asyncpc.run.running import look_at
from asyncpc.run.verdict import verdict

LOOKS_EVERY = 0.5
"""Seconds, as the screens do it."""


async def told_at(running: Running[Any, Any], *moments: float) -> list[str]:
    """What is said at these moments, in seconds, while somebody looks now and then."""
    loop, told = asyncio.get_running_loop(), []
    began = loop.time()
    for moment in moments:
        while loop.time() - began < moment:
            running.health()
            await asyncio.sleep(LOOKS_EVERY)
        told.append(running.bottleneck())
    return told


def said_of(pipeline: Any, *moments: float, begin: Callable[[Any], object] = lambda running: None) -> list[str]:
    """What is said of a run at these moments; it is ended then."""

    async def main() -> list[str]:
        running = await pipeline.__aenter__()
        begin(running)
        told = await told_at(running, *moments)
        await running.drain(timeout=0)
        await pipeline.__aexit__(None, None, None)
        return told

    return testing.run(main())


def alarms_of(pipeline: Any, seconds: float) -> set[str]:
    """Whatever is said to be wrong in so many seconds, looked at as the screens do it."""

    async def main() -> set[str]:
        running, told = await pipeline.__aenter__(), set()
        for _ in range(int(seconds / LOOKS_EVERY)):
            text, is_alarm = verdict(look_at(running))
            told |= {text} if is_alarm else set()
            await asyncio.sleep(LOOKS_EVERY)
        await running.drain(timeout=0)
        await pipeline.__aexit__(None, None, None)
        return told

    return testing.run(main())


def taking(seconds: Callable[[int], float]) -> Any:
    """A handler that takes so long for each item."""

    async def handle(n: int) -> int:
        await asyncio.sleep(seconds(n))
        return n

    return handle


# -- what is wrong --------------------------------------------------------------------------------


def test_workers_that_are_stuck_are_counted_and_the_place_is_told() -> None:
    """Most still work, and the percentiles say that all is well; what hangs is known by the time it has its item."""

    async def fetch(n: int) -> None:
        await asyncio.sleep(0.01)
        if n in (300, 400, 500):
            await asyncio.Event().wait()  # the line that is told

    (now,) = said_of(endless >> named("fetch", fetch, concurrency=8), 60)
    assert now.startswith("fetch: 3 of 8 workers are stuck, the longest on one item for 5")
    assert "(test_looks.py:" in now
    assert now.endswith(" in fetch)")


def test_no_more_workers_are_stuck_than_there_are() -> None:
    """Those that are stuck do not leave when fewer are wanted."""

    async def fetch(n: int) -> None:
        if n > 30:
            await asyncio.Event().wait()

    async def main() -> list[str]:
        async with endless >> named("fetch", fetch, concurrency=8) as running:
            told = await told_at(running, 30)
            running.scale("fetch", 2)
            told += await told_at(running, 1)
            await running.drain(timeout=0)
        return told

    before, after = testing.run(main())
    assert before.startswith("fetch: 8 of 8 workers are stuck")
    assert after.startswith("fetch: 8 of 8 workers are stuck")


def test_a_handler_that_waits_for_ever_from_the_first_item_is_named() -> None:
    """Nobody knows how long its items usually take, so the fact is told, and after a minute it is an alarm."""

    async def hang(n: int) -> None:
        await asyncio.Event().wait()

    pipeline = source(range(100)) >> named("first", taking(lambda n: 0.0)) >> named("store", hang, concurrency=2)
    early, later = said_of(pipeline, 20, 70)
    assert early.startswith("store: nothing settled for 20 s; its 2 workers are on one item each (test_looks.py:")
    assert later.startswith("store: nothing settled for 70 s")
    assert alarms_of(pipeline, 50) == set()
    assert all("store: nothing settled for 6" in one for one in alarms_of(pipeline, 65))


def test_a_full_sink_is_named_and_who_waits_for_it() -> None:
    """Those before it only wait for room."""
    (now,) = said_of(endless >> named("parse", taking(lambda n: 0.01)) >> named("store", taking(lambda n: 2.0)), 60)
    assert now.startswith("store: busy 100% of 1 worker; parse waits ")


def test_a_reader_of_results_that_is_slow_is_named() -> None:
    """All stages wait for room then, as if too few items came."""

    async def main() -> str:
        async with (endless >> named("parse", taking(lambda n: 0.01))).stream() as values:
            read = 0
            async for _ in values:
                await asyncio.sleep(5)
                values.running.health()
                read += 1
                if read == 20:
                    return values.running.bottleneck()
        raise AssertionError

    assert testing.run(main()) == "the reader of the results is slow: parse waits 100% of its time"


def test_a_rate_is_named() -> None:
    """More workers would wait with the others."""
    (now,) = said_of(endless >> named("call", taking(lambda n: 0.0), rate=Rate(1, per=5)), 60)
    assert now.startswith("call: held back ")
    assert "by its rate of 1 call" in now


def test_a_back_off_is_named() -> None:
    """The handler does nothing; what it waits for is the next attempt."""

    async def fails(n: int) -> None:
        raise OSError

    (now,) = said_of(source(range(3)) >> named("call", fails, retry=Retry(100, wait=lambda attempt: 1000.0)), 60)
    assert now.startswith("call: held back 100% of the time of 1 worker by ")
    assert "retry" in now or "back-off" in now


def test_an_open_breaker_is_named() -> None:
    """As a back-off."""

    async def fails(n: int) -> None:
        raise OSError

    stage = named("call", fails, retry=Retry(100, wait=lambda attempt: 0.0), breaker=Breaker(1, reset_after=1000))
    (now,) = said_of(source(range(3)) >> stage, 60)
    assert now.startswith("call: held back 100% of the time of 1 worker by its breaker")


def test_a_paused_run_is_said_to_be_paused() -> None:
    """Nobody should look for a fault; and ``resume`` is what helps."""
    (now,) = said_of(Pipeline(named("call", taking(lambda n: 0.0))), 60, begin=lambda running: running.pause())
    assert now == "paused: no handler takes an item before resume()"


def test_a_source_that_gives_nothing_is_named() -> None:
    """All stages wait for items."""

    async def idle() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()
        yield 2

    (now,) = said_of(source(idle(), name="feed") >> named("call", taking(lambda n: 0.0)), 60)
    assert now.startswith("feed: too slow to keep the stages busy")


@pytest.mark.realtime
async def test_a_blocked_loop_is_named_with_the_stage_and_the_line() -> None:
    """Only another thread can tell while it lasts."""
    at_work, is_told, told = Event(), Event(), []

    @consumer
    async def blocks(n: int) -> None:
        at_work.set()
        while not is_told.is_set():
            pass

    async with Pipeline(blocks) as running:

        def ask() -> None:
            at_work.wait(20)
            told.extend([running.bottleneck(), running.health().why])
            is_told.set()

        thread = Thread(target=ask)
        thread.start()
        await running.put(1)
        await until(lambda: bool(told))
        thread.join()
    assert told[0].startswith("the event loop has not answered for 0.")
    assert told[1].startswith("running; the event loop has not answered for ")
    for one in told:
        assert "it is blocked by blocks (test_looks.py:" in one
        assert one.endswith(" in blocks)")


async def test_the_loop_lets_in_who_asked_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects the throughput: two threads that both want to go on take the GIL from each other thousands of times."""
    goes_on: list[bool] = []

    def let_in(until: Event) -> None:
        turns.let_in(until)
        goes_on.append(until.is_set())

    monkeypatch.setattr(turns, "MOST", 20)
    monkeypatch.setattr(looks, "let_in", let_in)
    async with endless >> named("passes", taking(lambda n: 0.001)) as running:
        assert (await asyncio.to_thread(running.health)).ready
        await running.drain(timeout=0)
    assert goes_on == [True]


LIBRARY = """
import threading
at_work, is_told = threading.Event(), threading.Event()
async def call(n):
    at_work.set()
    while not is_told.is_set():
        pass
"""


@pytest.mark.realtime
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_library_that_blocks_the_loop_is_told_and_not_who_began_the_loop(tmp_path: Path, loop: Any) -> None:
    """The line of ``asyncio.run`` is on the stack too, and is the only one of the program there."""
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "driver.py").write_text(LIBRARY)
    driver = runpy.run_path(str(tmp_path / "site-packages" / "driver.py"))

    def ask(running: Running[Any, Any]) -> list[str]:
        try:
            driver["at_work"].wait(20)
            return [running.bottleneck(), running.where("call-1")]
        finally:
            driver["is_told"].set()

    async def main() -> list[str]:
        async with Pipeline(named("call", driver["call"])) as running:
            asked = asyncio.get_running_loop().run_in_executor(None, ask, running)
            await running.put(1)
            return await asked

    with asyncio.Runner(loop_factory=loop) as runner:
        said, place = runner.run(main())
    assert place.startswith("driver.py:")
    assert "it is blocked by call (driver.py:" in said


# -- what is not ----------------------------------------------------------------------------------


def bimodal(n: int) -> float:
    """One in fifty takes a thousand times as long."""
    return 9.0 if n % 50 == 49 else 0.009


async def gives_many(n: int) -> AsyncIterator[int]:
    """First items with one value each, so that it is known how long they take, then two with values without end."""
    for value in itertools.count() if n > 50 else range(1):
        await asyncio.sleep(0.1)
        yield value


HONEST: dict[str, Any] = {
    "slow": named("stage", taking(lambda n: 55.0), concurrency=3),
    "bimodal": named("stage", taking(bimodal), concurrency=8),
    "sometimes a minute": named("stage", taking(lambda n: 30.0 if n % 10 == 0 else 9.0), concurrency=8),
    "in order": named("stage", taking(bimodal), concurrency=8, ordered=True),
    "by key": named("stage", taking(bimodal), concurrency=8, key=lambda n: n % 3),
    "by priority": named("stage", taking(bimodal), concurrency=8, priority=lambda n: n % 7),
    "rate": named("stage", taking(lambda n: 0.0), rate=Rate(1, per=300)),
    "back-off": named("stage", taking(lambda n: 1 / 0), retry=Retry(100, wait=lambda attempt: 500.0)),
    "many values": named("stage", gives_many, concurrency=2),
    "many values of the first": source([99]) >> named("stage", gives_many),
    "behind a slow one": named("first", taking(lambda n: 0.01), concurrency=4) >> named("last", taking(lambda n: 40.0)),
}


BUSY_ONES: Final = {"bimodal", "in order", "by key", "by priority"}
"""Those with so many items that a quick run looks at less of their time."""


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        *((kind, 100 if kind in BUSY_ONES else 240) for kind in HONEST),
        *(pytest.param(kind, 240, marks=pytest.mark.thorough) for kind in sorted(BUSY_ONES)),
    ],
)
def test_an_honest_run_gives_no_alarm(kind: str, seconds: int) -> None:
    """False alarms teach people to look away."""
    part = HONEST[kind]
    assert alarms_of(part if isinstance(part, Pipeline) else endless >> part, seconds) == set()


def test_a_batch_that_waits_for_others_gives_no_alarm() -> None:
    """Nothing is in flight; what waits has time."""

    async def store(batch: list[int]) -> None: ...

    pipeline = Pipeline(named("store", store, batch=Batch(10, within=500)))
    told = said_of(pipeline, 60, begin=lambda running: running.put_nowait(1))
    assert "stuck" not in told[0]


# -- what the workers do --------------------------------------------------------------------------


def test_workers_say_what_they_do_and_where() -> None:
    """So that a person finds the line of code."""

    async def main() -> tuple[dict[str, tuple[str, str]], str]:
        gate = asyncio.Event()

        async def helper() -> None:
            await gate.wait()

        async def last(n: int) -> None:
            await helper()

        first = named("first", taking(lambda n: 0.0), concurrency=2)
        limited = named("limited", taking(lambda n: 0.0), rate=Rate(1, per=100))
        async with Pipeline(source(range(100)), first >> limited >> named("last", last), maxsize=1) as running:
            await asyncio.sleep(150)
            seen = {one.name: (str(one.doing), one.why.partition(" of ")[0]) for one in running.workers()}
            place = running.where("last-1")
            assert running.where("nobody-1") == ""
            gate.set()
            running.set_rate("limited", Rate(1000))
        return seen, place

    seen, place = testing.run(main())
    assert seen == {
        "first-1": ("waits for room", "limited"),
        "first-2": ("waits for room", "limited"),
        "limited-1": ("is held back", "its rate"),
        "last-1": ("is at work", ""),
    }
    assert place.startswith("test_looks.py:")
    assert place.endswith(" in helper")


@pytest.mark.realtime
async def test_the_line_of_a_call_in_a_thread_is_told() -> None:
    """The worker itself only waits for the thread."""
    go_on, at_work = Event(), Event()

    def wait_for_it() -> None:
        at_work.set()
        go_on.wait(20)

    @consumer
    def blocks(n: int) -> None:
        wait_for_it()

    async with Pipeline(blocks) as running:
        await running.put(1)
        await until(at_work.is_set)
        place = running.where("blocks-1")
        go_on.set()
    assert place.startswith("test_looks.py:")
    assert place.endswith(" in wait_for_it")
    assert running.where("blocks-1") == ""


def test_the_percentiles_of_all_stages_are_computed_in_two_seconds() -> None:
    """At each look only those of some, since that takes long; a look after a while computes all."""

    async def main() -> list[int]:
        pipeline: Any = endless >> named("stage 0", taking(lambda n: 0.01))
        for number in range(1, 8):
            pipeline = pipeline >> named(f"stage {number}", taking(lambda n: 0.01))
        async with pipeline as running:
            told: list[int] = []
            look_at(running)
            await asyncio.sleep(1.0)
            for _ in range(8):
                await asyncio.sleep(0.25)
                now = look_at(running).statistics
                assert now is not None
                told.append(sum([stage.latency_p50 > 0 for stage in now.stages]))
            await running.drain(timeout=0)
        return told

    told = testing.run(main())
    assert told == sorted(told)
    assert 0 < told[0] < 8
    assert told[-1] == 8
