"""Handlers in interpreters: the rules of processes hold there, and no call is taken for one that has ended."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import types
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import elsewhere
import pytest

from asyncpc import DefinitionError, NotPicklable, Pipeline, PipelineError, StateError, consumer, source
from asyncpc.offload.interpreters import to_its_end
from asyncpc.testing import collect

THERE = sys.version_info >= (3, 13)
"""Whether this Python has interpreters to make calls in."""


# -- a call is awaited to its end ------------------------------------------------------------------


async def cancelled_twice(call: Coroutine[Any, Any, Any], until: asyncio.Event) -> asyncio.Task[Any]:
    """A task that awaits ``call`` to its end, and is cancelled twice before ``until`` lets the call end."""

    async def work() -> Any:
        return await to_its_end(call)

    task = asyncio.ensure_future(work())
    for _ in range(2):
        await asyncio.sleep(0)
        task.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
    until.set()
    await asyncio.wait([task])
    return task


@pytest.mark.parametrize("error", [None, ValueError])
async def test_a_cancel_waits_for_the_end_of_the_call(error: type[Exception] | None) -> None:
    """The call sees nothing of the cancel, so anyio does not give its interpreter to the next one; it is not lost."""
    until, ended = asyncio.Event(), []

    async def call() -> int:
        await asyncio.sleep(0)
        await until.wait()
        await asyncio.sleep(0.001)
        ended.append(1)
        if error is not None:
            raise error
        return 1

    task = await cancelled_twice(call(), until)
    assert ended == [1]
    assert task.cancelled()


async def test_a_call_that_is_not_cancelled_gives_its_value_or_error() -> None:
    """And it may wait for nothing at all, for one iteration of the loop, or for a future."""

    async def call(fails: bool) -> int:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        if fails:
            raise ValueError("mine")
        return 7

    async def at_once() -> int:
        return 8

    assert [await to_its_end(call(False)), await to_its_end(at_once())] == [7, 8]
    with pytest.raises(ValueError, match="mine"):
        await to_its_end(call(True))


# -- calls -----------------------------------------------------------------------------------------

if THERE:

    async def test_calls_are_made_in_interpreters_and_come_back() -> None:
        """Each item once, in other interpreters than ours, no more of them than the concurrency says."""
        stage: Any = consumer(run_in="interpreter", concurrency=2)(elsewhere.double)
        assert sorted(await collect(source(range(6)) >> stage)) == [0, 2, 4, 6, 8, 10]
        told = await collect(
            source(range(6)) >> consumer(run_in="interpreter", concurrency=2)(elsewhere.interpreter_of)
        )
        assert 0 not in told
        assert 1 <= len(set(told)) <= 2

    async def test_an_error_in_an_interpreter_comes_out_as_itself() -> None:
        """With its class, so that ``except*`` and ``Retry(on=)`` work, and its traceback as a note."""
        with pytest.raises(PipelineError) as caught:
            await (source([1]) >> consumer(run_in="interpreter")(elsewhere.raises))
        (error,) = caught.value.exceptions
        assert isinstance(error, ValueError)
        assert "in an interpreter of stage 'raises'" in "".join(error.__notes__)
        assert "elsewhere.py" in "".join(error.__notes__)

    async def test_a_drain_leaves_a_call_that_goes_on_behind_by_name(tmp_path: Path) -> None:
        """Promise 5; and its interpreter makes no other call until then, so later runs come to no harm."""
        path = str(tmp_path / "begun")
        async with Pipeline(consumer(run_in="interpreter")(elsewhere.takes_long)) as running:
            await running.put(path)
            while not os.path.exists(path):  # noqa: ASYNC110, ASYNC240  # no event tells of it; a stat takes 2 µs
                await asyncio.sleep(0.01)
            report = await running.drain(timeout=0.05)
        assert (report.abandoned, [one.item for one in report.unfinished]) == (("takes_long-1",), [path])
        for _ in range(2):
            later = await (source(["", ""]) >> consumer(run_in="interpreter")(elsewhere.takes_long))
            assert later.done == 2
        while any(task.get_name() == "asyncpc:takes_long-1" for task in asyncio.all_tasks()):  # noqa: ASYNC110  # its end tells nobody
            await asyncio.sleep(0.01)

    @pytest.mark.parametrize(
        ("function", "item", "told"),
        [
            (elsewhere.double, threading.Lock(), "its item cannot be sent to an interpreter"),
            (elsewhere.gives_a_function, 1, "its result cannot be sent back"),
        ],
    )
    async def test_what_cannot_be_pickled_for_an_interpreter_is_explained(
        function: Any, item: object, told: str
    ) -> None:
        """The error names the stage and what could not travel."""
        with pytest.raises(PipelineError) as caught:
            await (source([item]) >> consumer(run_in="interpreter")(function))
        (error,) = caught.value.exceptions
        assert isinstance(error, NotPicklable)
        assert f"stage {function.__name__!r}: {told}" in str(error)

    async def test_feed_in_an_interpreter_says_what_to_do_instead() -> None:
        """It has no way to the run; a silent loss would look like a crawl that ends early."""
        with pytest.raises(PipelineError) as caught:
            await (source([1]) >> consumer(run_in="interpreter")(elsewhere.feeds_plainly))
        (error,) = caught.value.exceptions
        assert isinstance(error, StateError)
        assert "interpreter of stage 'feeds_plainly': return the items, or yield them" in str(error)

    async def test_functions_that_an_interpreter_cannot_find_are_refused() -> None:
        """The main module too, which an interpreter does not have: before anything runs."""
        with pytest.raises(DefinitionError, match="must be defined at the top level of a module"):
            consumer(run_in="interpreter")(lambda n: n)
        in_main = types.FunctionType(elsewhere.double.__code__, {"__name__": "__main__"}, "double")
        with pytest.raises(DefinitionError, match="cannot import the program's main module: define the function in"):
            await (source([1]) >> consumer(run_in="interpreter")(in_main))

    def test_a_timeout_in_an_interpreter_is_refused() -> None:
        """Such a call cannot be ended."""
        with pytest.raises(DefinitionError, match="use run_in='process'"):
            consumer(run_in="interpreter", timeout=1)(elsewhere.double)

else:

    def test_interpreters_need_a_newer_python() -> None:
        """The error says which, and what to use instead."""
        with pytest.raises(DefinitionError, match=r"needs CPython 3\.13 or newer; use run_in='process'"):
            consumer(run_in="interpreter")(elsewhere.double)
