"""The one deadline of a stop."""

from __future__ import annotations

import asyncio

from support import both

from asyncpc import testing
from asyncpc.run.deadline import GRACE, Deadline


@both
def test_a_deadline_comes_earlier_and_never_later(eager: bool) -> None:
    """Promise 5: whoever stops a run again can hasten its end, and nobody can put it off."""
    passed: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        deadline = Deadline(loop, lambda: passed.append(loop.time() - began))
        began = loop.time()
        for seconds in 8, 4, 6:
            deadline.limit(seconds)
        await asyncio.sleep(5)
        deadline.renew()
        await asyncio.sleep(5)
        deadline.renew()
        deadline.close()
        deadline.limit(0)
        await asyncio.sleep(5)

    testing.run(main(), eager=eager)
    assert passed == [4, 5 + GRACE]
