"""``Adaptive``: as many workers as a stage's calls stay quick with. All in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from virtual import measuring_with, now, run_virtual

from asyncpc import Adaptive, Pipeline, consumer


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

    run_virtual(main)
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

    assert run_virtual(lambda: main(1.0, 10**6)) == 2
    assert run_virtual(lambda: main(0.01, 10**6)) == 5
    assert run_virtual(lambda: main(0.01, 3)) == 2
