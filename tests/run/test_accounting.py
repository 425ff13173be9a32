"""The accounts of a run, when it ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support import both, ignore, lines_run

import asyncpc
from asyncpc import Pipeline, consumer, testing
from asyncpc.run.accounting import Accounts as Books_


@both
def test_what_is_left_is_looked_at_once(eager: bool) -> None:
    """Promise 5 with a backlog: what a drain costs at its end must not grow by lines of Python for each item."""

    @consumer
    async def hangs(n: int) -> None:
        await asyncio.sleep(1000)

    def work(items: int) -> int:
        async def main() -> None:
            async with Pipeline(hangs, maxsize=0) as running:
                running._run.first.items.extend(range(items))
                running._run.first.came_from_outside(items)
                await running.put(-1)
                await asyncio.sleep(1)
                report = await running.drain(timeout=0.1)
                assert sum(report.left_by_stage().values()) == items + 1

        return lines_run(lambda: testing.run(main(), eager=eager))

    assert work(10_000) - work(10) < 10


@both
def test_a_run_ends_also_if_its_report_cannot_be_written(eager: bool) -> None:
    """A mistake of ours at the very end must not become a run that never ends."""

    class Broken(Books_):
        """Books that cannot be read."""

        __slots__ = ()

        def left(self) -> Any:
            raise ZeroDivisionError

    async def main() -> None:
        with pytest.raises(asyncpc.ConservationError, match="the report cannot be written") as failed:
            async with Pipeline(range(3), ignore) as running:
                running._run.accounts.__class__ = Broken
        assert isinstance(failed.value.__cause__, ZeroDivisionError)

    testing.run(main(), eager=eager)
