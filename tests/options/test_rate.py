"""``rate=``: calls begin no faster than it allows, wherever the consumer is used. All in virtual time."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from contextvars import ContextVar
from typing import Any

import pytest
from spy import Sink
from support import AnyStage, named, places, same
from virtual import both, now, ran, run_virtual

from asyncpc import Pipeline, Rate, Report, broadcast, consumer, source
from asyncpc.core.channel import Channel
from asyncpc.core.plan import Handler
from asyncpc.core.stage import ConsumerWorker, RunLinks, Stage
from asyncpc.options.rate import Throttle

# -- a rate ---------------------------------------------------------------------------------------


def most_in_a_window(times: list[float], seconds: float) -> int:
    return max(sum(first <= time < first + seconds - 1e-9 for time in times) for first in times)


@both
@pytest.mark.parametrize("burst", [1, 20])
def test_rate_holds_in_every_window(burst: int, eager: bool) -> None:
    """Rate(100, per=1) over ten seconds: never more than 100 and the burst in any second, and not much less."""
    calls: list[float] = []

    @consumer(rate=Rate(100, per=1, burst=burst), concurrency=50)
    async def call(n: int) -> None:
        calls.append(now())

    ran(source(range(1000)) >> call, eager=eager)
    assert most_in_a_window(calls, 1.0) <= 100 + burst
    assert calls[-1] - calls[0] == pytest.approx((1000 - burst) / 100, abs=0.1)


def test_each_key_has_its_own_rate() -> None:
    """Twenty customers of an API, each with his own limit: none pays for another."""
    calls: dict[int, list[float]] = {}

    @consumer(rate=Rate(10, per=1, key=lambda n: n % 20), concurrency=1000)
    async def call(n: int) -> None:
        calls.setdefault(n % 20, []).append(now())

    ran(Pipeline(range(1000), call, maxsize=1000))
    for times in calls.values():
        assert most_in_a_window(times, 1.0) <= 11
        assert times[-1] - times[0] == pytest.approx(4.9, abs=0.1)


def test_a_rate_forgets_keys_that_rest() -> None:
    """Memory: a million keys seen once must not be a million entries for ever."""
    handler = Handler("stage", print, False, 1)
    links = RunLinks(False, lambda error, name: None, lambda worker: None)
    throttle = Throttle(Rate(10, key=lambda n: n))

    async def main() -> None:
        async def nothing(n: int) -> None: ...

        call = throttle.limit(nothing, ConsumerWorker("worker", Stage(handler, Channel(0), links)))
        for n in range(20_000):
            await call(n)
            await asyncio.sleep(0.001)

    run_virtual(main)
    assert len(throttle._due) < 2_500


@both
@pytest.mark.parametrize("options", [{}, {"timeout": 5}, {"ordered": True}, {"context": nullcontext()}])
def test_a_stage_without_a_rate_can_be_given_one(options: dict[str, Any], eager: bool) -> None:
    """Workers at work and idle ones keep to it from their next call on, and nothing else changes."""
    seen: ContextVar[int] = ContextVar("seen", default=-1)
    called: list[float] = []

    async def ask(n: int, *resource: Any) -> int:
        assert seen.get() == -1  # of another item
        seen.set(n)
        called.append(now())
        await asyncio.sleep(0.01)
        return n

    stage: Any = consumer(concurrency=4, name="fetch", **options)

    async def main() -> None:
        async with Pipeline(range(10_000), stage(ask) >> consumer(Sink()), drain_timeout=0) as running:
            await asyncio.sleep(1)
            assert len(called) >= 300
            called.clear()
            running.set_rate("fetch", Rate(10, per=1))
            await asyncio.sleep(10)
            assert 98 <= len(called) <= 102
            await running.drain()

    run_virtual(main, eager=eager)


# -- a new rate holds at once (H12) ---------------------------------------------------------------


def test_set_rate_takes_effect_at_once() -> None:
    """An API that asks for less gets less, without a restart."""
    sink = Sink()

    async def main() -> None:
        stage = consumer(rate=Rate(10), name="ask")
        async with Pipeline(range(10_000), stage(sink)) as running:
            await asyncio.sleep(10.01)
            assert len(sink.items) == pytest.approx(100, abs=2)
            running.set_rate("ask", Rate(100))
            await asyncio.sleep(10)
            assert len(sink.items) == pytest.approx(1100, rel=0.03)
            await running.drain(timeout=0)

    run_virtual(main)


@both
@pytest.mark.parametrize("concurrency", [1, 4])
def test_h12_calls_that_have_not_begun_follow_a_faster_rate_at_once(concurrency: int, eager: bool) -> None:
    """From one a minute to a thousand a second: nobody waits for a minute any more."""
    sink = Sink()

    async def main() -> None:
        async with Pipeline(named("call", sink, rate=Rate(1, per=60), concurrency=concurrency)) as running:
            for n in range(10):
                await running.put(n)
            await asyncio.sleep(1)
            assert sink.times == [0]
            running.set_rate("call", Rate(1000))
            await running.drain(timeout=30)

    run_virtual(main, eager=eager)
    assert len(sink.times) == 10
    assert 1 <= sink.times[1] <= sink.times[-1] <= 1.1
    gaps = [later - sooner for sooner, later in zip(sink.times[1:], sink.times[2:], strict=False)]
    assert min(gaps) > 0.0009


@both
def test_h12_a_call_that_comes_later_follows_the_new_rate(eager: bool) -> None:
    """The old due time does not hold back who was not even there."""
    sink = Sink()

    async def main() -> None:
        async with Pipeline(named("call", sink, rate=Rate(1, per=60))) as running:
            await running.put(0)
            await asyncio.sleep(1)
            running.set_rate("call", Rate(1000))
            await running.put(1)
            await asyncio.sleep(1)
            assert sink.times == pytest.approx([0, 1], abs=0.01)

    run_virtual(main, eager=eager)


@both
def test_h12_each_key_follows_the_new_rate(eager: bool) -> None:
    """A rate by key: those of all keys that wait go on."""
    sink = Sink()

    def key(n: int) -> int:
        return n % 3

    async def main() -> None:
        async with Pipeline(named("call", sink, rate=Rate(1, per=60, key=key), concurrency=9)) as running:
            for n in range(9):
                await running.put(n)
            await asyncio.sleep(1)
            assert sink.times == [0, 0, 0]
            running.set_rate("call", Rate(10, key=key))
            await running.drain(timeout=30)

    run_virtual(main, eager=eager)
    assert 1 <= sink.times[3] <= sink.times[-1] <= 1.3


@both
def test_h12_calls_that_have_not_begun_follow_a_slower_rate_too(eager: bool) -> None:
    """The other way round, nobody begins at the old rate any more."""
    sink = Sink()

    async def main() -> None:
        async with Pipeline(named("call", sink, rate=Rate(10), concurrency=5)) as running:
            for n in range(5):
                await running.put(n)
            await asyncio.sleep(0.05)
            running.set_rate("call", Rate(1, per=60))
            await running.drain(timeout=1000)

    run_virtual(main, eager=eager)
    gaps = [later - sooner for sooner, later in zip(sink.times[1:], sink.times[2:], strict=False)]
    assert len(gaps) == 3
    assert min(gaps) > 59


# -- one consumer in several places (H16) ---------------------------------------------------------


def twice(stage: AnyStage, how: str) -> Pipeline[Any, Any]:
    """``stage`` in two places of one pipeline, both given all that comes."""
    if how == "chain":
        return stage >> stage
    one, two = named("one", same), named("two", same)
    return broadcast(one >> stage, two >> stage)


@both
@places
def test_h16_the_places_of_a_consumer_share_its_rate(how: str, eager: bool) -> None:
    """``Rate(50)`` is what the service behind it allows, however often the consumer is written."""
    times: list[float] = []

    @consumer(rate=Rate(50), concurrency=10)
    async def call(n: int) -> int:
        times.append(now())
        return n

    report = ran(source(range(100)) >> twice(call, how), eager=eager)
    assert [stage.name for stage in report.stages if stage.name.startswith("call")] == ["call", "call#2"]
    assert len(times) == 200
    assert max(times) - min(times) == pytest.approx(199 / 50, rel=0.02)
    for begin in range(200 - 52):
        assert times[begin + 51] - times[begin] > 1.0 - 1e-6


@both
def test_h16_each_place_has_a_concurrency_of_its_own(eager: bool) -> None:
    """Two places with two workers each handle four items at once."""
    running, peak = 0, 0

    @consumer(concurrency=2, rate=Rate(1e6))
    async def call(n: int) -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(1)
        running -= 1

    ran(source(range(20)) >> twice(call, "branches"), eager=eager)
    assert peak == 4


@both
def test_h16_two_runs_share_nothing(eager: bool) -> None:
    """Invariant 9: a definition is inert, so each run has a rate of its own."""
    times: list[float] = []

    @consumer(rate=Rate(10))
    async def call(n: int) -> None:
        times.append(now())

    async def main() -> None:
        async def run() -> Report:
            return await (source(range(10)) >> call)

        await asyncio.gather(run(), run())

    run_virtual(main, eager=eager)
    assert max(times) == pytest.approx(0.9)


@both
def test_h16_a_new_rate_is_shared_too(eager: bool) -> None:
    """``set_rate`` for one place holds for the consumer, which has one rate."""
    times: list[float] = []

    @consumer(rate=Rate(1, per=60), concurrency=4)
    async def call(n: int) -> None:
        times.append(now())

    async def main() -> None:
        async with Pipeline(twice(call, "branches")) as running:
            for n in range(20):
                await running.put(n)
            await asyncio.sleep(1)
            running.set_rate("call", Rate(10))
            await running.drain(timeout=1000)

    run_virtual(main, eager=eager)
    assert len(times) == 40
    assert times[-1] == pytest.approx(1 + 38 / 10, abs=0.2)
