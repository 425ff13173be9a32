"""``Budget``: how much is done before others run (invariant 10)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from support import both

from asyncpc import BoundedQueue, testing

BUDGET = 128
"""Items that one queue moves without letting others run."""


VERBS: dict[str, Callable[[BoundedQueue[int]], Any]] = {
    "get": lambda queue: queue.get(),
    "get_many": lambda queue: queue.get_many(1),
    "put": lambda queue: queue.put(0),
}


@both
@pytest.mark.parametrize("verb", VERBS)
def test_a_budget_is_as_many_calls_as_it_says(verb: str, eager: bool) -> None:
    """Invariant 10: 128 calls, then others run once, before the next call moves its item."""

    async def main() -> list[int]:
        queue: BoundedQueue[int] = BoundedQueue(0)
        for n in range(5 * BUDGET if verb != "put" else 0):
            queue.put_nowait(n)
        turn, turns = 0, list[int]()

        async def others() -> None:
            nonlocal turn
            while True:
                turn += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(others())
        await asyncio.sleep(0)
        for _ in range(4 * BUDGET):
            await VERBS[verb](queue)
            turns.append(turn)
        beside.cancel()
        return turns

    turns = testing.run(main(), eager=eager)
    assert turns == [turns[0] + call // BUDGET for call in range(4 * BUDGET)]
