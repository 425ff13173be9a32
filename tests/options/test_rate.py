"""``rate=``: calls begin no faster than it allows, wherever the consumer is used. All in virtual time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from typing import Any

import pytest
from spy import Sink
from support import AnyStage, both, endless, named, places, same

from asyncpc import Batch, Breaker, Pipeline, Rate, Report, Retry, broadcast, consumer, source, testing
from asyncpc.core.channel import Channel
from asyncpc.core.plan import Handler
from asyncpc.core.stage import ConsumerWorker, RunLinks, Stage
from asyncpc.options.rate import Throttle
from asyncpc.testing import now

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

    testing.run(source(range(1000)) >> call, eager=eager)
    assert most_in_a_window(calls, 1.0) <= 100 + burst
    assert calls[-1] - calls[0] == pytest.approx((1000 - burst) / 100, abs=0.1)


def test_each_key_has_its_own_rate() -> None:
    """Twenty customers of an API, each with his own limit: none pays for another."""
    calls: dict[int, list[float]] = {}

    @consumer(rate=Rate(10, per=1, key=lambda n: n % 20), concurrency=1000)
    async def call(n: int) -> None:
        calls.setdefault(n % 20, []).append(now())

    testing.run(Pipeline(range(1000), call, maxsize=1000))
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

    testing.run(main())
    assert sum(map(len, throttle._portions.values())) < 2_500


@pytest.mark.parametrize("key", [lambda n: n, str, lambda n: ("host", n)], ids=["number", "text", "tuple"])
def test_many_keys_that_do_not_rest_are_kept_in_small_portions(key: Any) -> None:
    """Invariant 10: to look through a portion, or to make it larger, takes no time to speak of."""
    throttle = Throttle(Rate(1, per=600, key=key))

    async def main() -> None:
        for n in range(20_000):
            throttle._reserve(n)

    testing.run(main())
    sizes = [len(keys) for keys in throttle._portions.values()]
    assert sum(sizes) == 20_000
    assert max(sizes) < 2 * 20_000 / 64


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

    testing.run(main(), eager=eager)


@both
@pytest.mark.parametrize("how", ["chain", "branches"])
def test_a_rate_given_later_holds_for_all_places_of_the_consumer(how: str, eager: bool) -> None:
    """Like one that it had from the beginning."""
    times: list[float] = []

    @consumer(concurrency=4)
    async def call(n: int) -> int:
        times.append(now())
        return n

    async def main() -> None:
        async with Pipeline(twice(call, how)) as running:
            await running.put(0)
            await asyncio.sleep(1)
            times.clear()
            running.set_rate("call", Rate(10))
            for n in range(20):
                await running.put(n)
            await running.drain(timeout=1000)

    testing.run(main(), eager=eager)
    assert len(times) == 40
    assert times[-1] - times[0] == pytest.approx(3.9, abs=0.1)


@both
def test_a_rate_given_later_does_not_count_what_a_breaker_or_a_batch_waits_for(eager: bool) -> None:
    """It nests where one from the beginning would: calls that waited for the breaker begin at the rate too."""
    times: list[float] = []

    @consumer(concurrency=20, batch=Batch(1), breaker=Breaker(1, reset_after=2.5), on_error="skip", timeout=1)
    async def call(rows: list[int]) -> None:
        times.append(now())
        if rows == [0]:
            raise ConnectionError

    async def main() -> None:
        async with Pipeline(call) as running:
            await asyncio.sleep(0)
            running.set_rate("call", Rate(10))
            for n in range(30):
                await running.put(n)
            await running.drain(timeout=1000)

    testing.run(main(), eager=eager)
    assert times[:2] == pytest.approx([0, 2.5])
    assert min(later - sooner for sooner, later in itertools.pairwise(times)) > 0.0999
    assert len(times) == 30


@both
@pytest.mark.parametrize(
    "options",
    [{}, {"timeout": 5}, {"ordered": True}, {"context": nullcontext()}],
    ids=["none", "timeout", "ordered", "context"],
)
def test_a_rate_given_later_holds_for_the_attempts_of_an_item(options: dict[str, Any], eager: bool) -> None:
    """An item that is tried again and again is the very one that should be tried less often."""
    times: list[float] = []
    stage: Any = consumer(retry=Retry(100, wait=lambda attempt: 0.001), on_error="skip", name="call", **options)

    async def call(n: int, *resource: Any) -> None:
        seen.set(n)
        times.append(now())
        if n or len(times) < 60:
            raise ValueError

    seen: ContextVar[int] = ContextVar("seen", default=-1)

    async def main() -> None:
        async with Pipeline(stage(call) >> consumer(Sink())) as running:
            await running.put(0)
            await running.put(1)
            await asyncio.sleep(0.0105)
            assert len(times) == 11
            running.set_rate("call", Rate(10))
            await asyncio.sleep(10)
            assert len(times) == pytest.approx(11 + 100, abs=2)
            await running.drain(timeout=0)

    testing.run(main(), eager=eager)
    late = [later - sooner for sooner, later in itertools.pairwise(times[11:])]
    assert min(late) > 0.0999


# -- a new rate holds at once (H12) ---------------------------------------------------------------


def test_h17_a_rate_that_follows_a_server_is_one_thing_that_holds_back() -> None:
    """Protects who sets a rate every second: the statistics do not grow, and the limit is named as it is now."""

    @consumer
    async def ask(n: int) -> None: ...

    async def main() -> None:
        async with Pipeline(endless(), ask) as running:
            for n in range(100):
                running.set_rate("ask", Rate(10 + n % 7))
                await asyncio.sleep(1)
            now = running.statistics()
            assert [why for why, _ in now.stages[0].held_back] == ["its rate of 11 calls in 1 s"]
            assert "held back 100% of the time of 1 worker by its rate of 11 calls in 1 s" in now.bottleneck()

    testing.run(main())


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

    testing.run(main())


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

    testing.run(main(), eager=eager)
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

    testing.run(main(), eager=eager)


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

    testing.run(main(), eager=eager)
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

    testing.run(main(), eager=eager)
    gaps = [later - sooner for sooner, later in zip(sink.times[1:], sink.times[2:], strict=False)]
    assert len(gaps) == 3
    assert min(gaps) > 59


NEW_RATES: dict[str, Callable[[int], Rate]] = {
    "the same": lambda n: Rate(5),
    "written in another way": lambda n: Rate(10, per=2),
    "a bit more or less": lambda n: Rate(5 + n % 2 / 10),
    "with a burst": lambda n: Rate(5 + n % 2 / 10, burst=3),
    "by a new function": lambda n: Rate(5, key=lambda n: "key"),
}


@both
@pytest.mark.parametrize("new", NEW_RATES.values(), ids=NEW_RATES.keys())
def test_a_rate_that_is_set_with_each_call_lifts_no_limit(new: Callable[[int], Rate], eager: bool) -> None:
    """A server says with each answer how much it bears; who obeys must not ask more often for that."""
    times: list[float] = []

    async def main() -> None:
        @consumer(rate=new(0), concurrency=3, maxsize=1000)
        async def ask(n: int) -> None:
            times.append(now())
            running.set_rate("ask", new(n))

        async with Pipeline(ask) as running:
            for n in range(1000):
                await running.put(n)
            await asyncio.sleep(10)
            await running.drain(timeout=0)

    testing.run(main(), eager=eager)
    assert most_in_a_window(times, 1.0) <= 6 + new(0).burst
    assert len(times) == pytest.approx(50, abs=4)


@both
def test_what_was_used_of_a_large_burst_does_not_count_against_a_small_one(eager: bool) -> None:
    """Fifty calls at once, then one each ten seconds: not one after 500 seconds."""
    sink = Sink()

    async def main() -> None:
        async with Pipeline(named("call", sink, rate=Rate(50, burst=50))) as running:
            for n in range(50):
                await running.put(n)
            await asyncio.sleep(0.1)
            assert sink.times == [0] * 50
            running.set_rate("call", Rate(0.1))
            await running.put(50)
            await running.put(51)
            await running.drain(timeout=1000)

    testing.run(main(), eager=eager)
    assert sink.times[50:] == pytest.approx([10.1, 20.1])


@both
def test_a_faster_rate_counts_the_time_that_has_passed(eager: bool) -> None:
    """Half of the time to the next call is over: half of the new time is left."""
    sink = Sink()

    async def main() -> None:
        async with Pipeline(named("call", sink, rate=Rate(1, per=60), concurrency=2)) as running:
            for n in range(3):
                await running.put(n)
            await asyncio.sleep(30)
            running.set_rate("call", Rate(1, per=10))
            await running.drain(timeout=1000)

    testing.run(main(), eager=eager)
    assert sink.times == pytest.approx([0, 35, 45])


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

    report = testing.run(source(range(100)) >> twice(call, how), eager=eager)
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

    testing.run(source(range(20)) >> twice(call, "branches"), eager=eager)
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

    testing.run(main(), eager=eager)
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

    testing.run(main(), eager=eager)
    assert len(times) == 40
    assert times[-1] == pytest.approx(1 + 38 / 10, abs=0.2)
