"""How long calls take."""

from __future__ import annotations

import asyncio
import math

import pytest

from asyncpc import consumer, source, testing
from asyncpc.core.latency import Latency
from asyncpc.testing import now
from asyncpc.testing.clock import measuring_with


def test_the_latency_of_a_handler_is_without_the_wait_for_room() -> None:
    """Who looks for the slow stage must not be shown the one before it."""

    @consumer(name="fast")
    async def fast(n: int) -> int:
        return n

    @consumer(maxsize=1)
    async def slow(n: int) -> None:
        await asyncio.sleep(3)

    with measuring_with(now):
        report = testing.run(source(range(50)) >> fast >> slow)
    assert report.stages[0].latency_p50 < 0.001
    assert report.stages[1].latency_p50 == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 63, 64, 65, 100])
def test_percentiles_of_few_calls_are_those_of_many(count: int) -> None:
    """Up to 63 durations are kept as they are, more are counted in buckets: both are within 1 % of the true ones."""
    latency, durations = Latency(), [0.001 * 1.1**n for n in range(count)]
    for seconds in reversed(durations):
        latency.add(seconds)
    true = [durations[math.ceil(share * count) - 1] for share in (0.5, 0.9, 0.99)]
    assert latency.percentiles(0.5, 0.9, 0.99) == pytest.approx(true, rel=0.01)


def test_there_are_no_percentiles_before_the_first_call() -> None:
    """A report of a run without items shows zeros."""
    assert Latency().percentiles(0.5, 0.9, 0.99) == [0.0, 0.0, 0.0]
