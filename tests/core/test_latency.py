"""How long calls take."""

from __future__ import annotations

import asyncio

import pytest

from asyncpc import consumer, source, testing
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
