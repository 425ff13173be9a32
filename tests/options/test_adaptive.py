"""``Adaptive``: as many workers as a stage's calls stay quick with. All in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from asyncpc import Adaptive, Breaker, Pipeline, Rate, Retry, StageStatistics, consumer, testing
from asyncpc.testing import now
from asyncpc.testing.clock import measuring_with


@pytest.fixture
def virtual_clock() -> Iterator[None]:
    """Let the workers measure their calls in virtual time too."""
    with measuring_with(now):
        yield


def test_adaptive_concurrency_finds_what_the_service_bears(virtual_clock: None) -> None:
    """Up while calls stay quick, down when they do not: a service that bears 20 at once is given about 20."""
    busy = 0
    seen: list[int] = []

    async def ask(n: int) -> None:
        nonlocal busy
        busy += 1
        await asyncio.sleep(0.1 if busy <= 20 else 0.5)
        busy -= 1

    async def main() -> None:
        stage = consumer(concurrency=Adaptive(min=2, max=100, target=0.15, every=1.0), name="ask")
        async with Pipeline(range(10**9), stage(ask)) as running:
            for _ in range(200):
                await asyncio.sleep(1)
                seen.append(running.statistics().stages[0].concurrency)
            await running.drain(timeout=0)

    testing.run(main())
    assert seen[0] <= 3
    later = seen[50:]
    assert min(later) >= 8
    assert max(later) <= 30


def test_adaptive_concurrency_stays_within_its_bounds(virtual_clock: None) -> None:
    """Never fewer than min, however slow; never more than max, however quick; not more than there is work for."""

    async def main(seconds: float, items: int) -> int:
        async def ask(n: int) -> None:
            await asyncio.sleep(seconds)

        stage = consumer(concurrency=Adaptive(min=2, max=5, target=0.15, every=1.0), name="ask")
        async with Pipeline(range(items), stage(ask)) as running:
            await asyncio.sleep(30)
            concurrency = running.statistics().stages[0].concurrency
            await running.drain(timeout=0)
        return concurrency

    assert testing.run(main(1.0, 10**6)) == 2
    assert testing.run(main(0.01, 10**6)) == 5
    assert testing.run(main(0.01, 3)) == 2


HELD: dict[str, dict[str, Any]] = {
    "rate": {"rate": Rate(2, key=lambda n: n % 40)},
    "breaker": {"breaker": Breaker(1, reset_after=1), "on_error": "skip"},
    "retry": {"retry": Retry(2, wait=lambda attempt: 1), "on_error": "skip"},
}


@pytest.mark.parametrize("options", HELD.values(), ids=HELD.keys())
def test_calls_that_are_held_back_are_not_slow(virtual_clock: None, options: dict[str, Any]) -> None:
    """What a call waits for before it begins says nothing of the service: no workers are taken away for it."""

    async def ask(n: int) -> None:
        await asyncio.sleep(0.02)
        if "rate" not in options and n % 10 == 0:
            raise ValueError

    async def main() -> StageStatistics:
        stage = consumer(concurrency=Adaptive(2, 20, target=0.1, every=0.2), name="ask", **options)
        async with Pipeline(range(10**6), stage(ask)) as running:
            await asyncio.sleep(60)
            (statistics,) = running.statistics().stages
            await running.drain(timeout=0)
        return statistics

    ask_statistics = testing.run(main())
    assert ask_statistics.concurrency == 20
    assert ask_statistics.latency_p99 == pytest.approx(0.02, rel=0.02) or "retry" in options
    assert sum(seconds for _, seconds in ask_statistics.held_back) > 60
