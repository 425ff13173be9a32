"""The virtual clock itself: a harness that is wrong makes every test above it worthless."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextvars import copy_context
from functools import partial
from typing import Any

import pytest
from support import EAGER

from asyncpc import testing
from asyncpc.core.isolation import InContext
from asyncpc.testing import Deadlock, LeftBehind, VirtualLoop, idle, now

pytestmark = pytest.mark.parametrize("eager", EAGER)


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()


def test_time_jumps_exactly_to_each_timer(eager: bool) -> None:
    """Protects exact times: a sleep ends at its deadline, not a rounding error beside it."""

    async def main() -> list[float]:
        seen = []
        for seconds in (0.1, 0.2, 0.3, 86_400 * 400.0, 0.7):
            expected = now() + seconds
            await asyncio.sleep(seconds)
            assert now() == expected
            seen.append(now())
        return seen

    assert testing.run(main(), eager=eager, debug=True)[0] == 0.1


def test_timers_run_in_the_order_of_their_times(eager: bool) -> None:
    """Protects the order of timers, however they were set."""

    async def main() -> None:
        order: list[int] = []
        for n in (3, 1, 2):
            asyncio.get_running_loop().call_later(n, order.append, n)
        cancelled = asyncio.get_running_loop().call_later(0.5, order.append, 0)
        cancelled.cancel()
        await asyncio.sleep(4)
        assert order == [1, 2, 3]

    testing.run(main(), eager=eager)


def test_a_timeout_takes_virtual_time(eager: bool) -> None:
    """Protects tests of timeouts: asyncio.timeout ends when the virtual clock says so."""

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await _forever()
        assert now() == 10.0

    testing.run(main(), eager=eager)


def test_a_deadlock_is_found_and_names_the_tasks(eager: bool) -> None:
    """Protects "no deadlock" tests: one that hangs must fail, and say who waits where."""

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_forever(), name="the stuck one")
            await asyncio.sleep(5)

    with pytest.raises(Deadlock, match=r"task 'the stuck one' at .*test_virtual.py:\d+ in _forever"):
        testing.run(main(), eager=eager)


def test_a_deadlock_names_what_waits_in_a_context_and_behind_an_iterator(eager: bool) -> None:
    """Protects the line: a handler runs in the context of its item, and an awaitable may know who awaits it."""

    class Knowing:
        def __init__(self) -> None:
            self.future = asyncio.get_running_loop().create_future()
            self.future._asyncio_future_blocking = True  # as "await" sets it
            task = asyncio.current_task()
            self.awaited_by = None if task is None else task.get_coro()

        def __await__(self) -> Any:
            return self

        def __iter__(self) -> Iterator[Any]:
            return self

        def __next__(self) -> Any:
            return self.future

    async def knowing() -> None:
        await Knowing()

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(knowing(), name="knowing")
            await InContext(_forever(), copy_context())

    with pytest.raises(Deadlock) as deadlock:
        testing.run(main(), eager=eager)
    assert re.search(r"task 'knowing' at .*test_virtual.py:\d+ in knowing", str(deadlock.value))
    # CPython 3.13.0 calls the main task 'None' where the loop has a task factory, as with eager tasks.
    assert re.search(r"task '(Task-\d+|None)' at .*test_virtual.py:\d+ in _forever", str(deadlock.value))


def test_a_task_left_behind_is_told(eager: bool) -> None:
    """Protects ownership (invariant 6): a task still pending at the end fails the run."""
    kept = []

    async def main() -> None:
        kept.append(asyncio.create_task(_forever(), name="orphan"))
        await asyncio.sleep(0)

    with pytest.raises(LeftBehind, match="orphan"):
        testing.run(main(), eager=eager)


def test_a_timer_left_behind_is_told(eager: bool) -> None:
    """Protects the end of a run: a timer that nobody cancelled fails it, and says what it would have called."""

    def ring() -> None:
        raise AssertionError("it rang after the end")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.call_later(1, ring).cancel()
        loop.call_later(2, partial(ring))
        loop.call_later(3, print)
        assert len(loop.timers()) == 2
        assert loop.timers(of=__name__) == [f"a timer is still set: {ring.__qualname__} at 2 s"]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await asyncio.sleep(5)
        assert len(loop.timers()) == 2

    with pytest.raises(LeftBehind, match=r"a timer is still set: .*ring at 2 s\na timer is still set: print at 3 s"):
        testing.run(main(), eager=eager)


def test_an_exception_nobody_asked_for_is_told(eager: bool) -> None:
    """Fault B9: "Task exception was never retrieved" fails the run."""

    async def fail() -> None:
        raise ValueError("unseen")

    async def main() -> None:
        task = asyncio.create_task(fail())
        await asyncio.sleep(1)
        assert task.done()

    with pytest.raises(LeftBehind, match="never retrieved"):
        testing.run(main(), eager=eager)


def test_idle_waits_for_all_that_is_ready_and_moves_no_clock(eager: bool) -> None:
    """Protects idle(): everything that can run has run, and no time has passed."""

    async def busy(steps: list[int]) -> None:
        for step in range(100):
            await asyncio.sleep(0)
            steps.append(step)
        await asyncio.sleep(1)
        steps.append(-1)

    async def main() -> None:
        steps: list[int] = []
        task = asyncio.create_task(busy(steps))
        await idle()
        assert len(steps) == 100
        assert now() == 0.0
        await task
        assert now() == 1.0

    testing.run(main(), eager=eager)


def test_the_result_and_the_error_come_out(eager: bool) -> None:
    """Protects run's own contract: result, arguments and exceptions pass through."""

    async def divide(a: float, b: float) -> float:
        await asyncio.sleep(1)
        return a / b

    assert testing.run(divide(6, 3), eager=eager) == 2
    with pytest.raises(ZeroDivisionError):
        testing.run(divide(6, 0), eager=eager)
