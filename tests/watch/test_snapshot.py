"""What a screen shows of a run comes through JSON unchanged, without what the items were."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest
from support import endless, named

from asyncpc import Pipeline, Rate, consumer, remote_queue, source, testing
from asyncpc.watch.failures import KEPT
from asyncpc.watch.snapshot import as_dict, view_of
from asyncpc.watch.watcher import View, Watcher


@consumer(on_error="skip", concurrency=2)
async def fails(n: int) -> int:
    await asyncio.sleep(0.1)
    if n == 3:
        raise KeyError("canary")
    if n % 10 == 0:
        raise ValueError("canary")
    return n


@consumer(rate=Rate(5))
async def limited(n: int) -> None: ...


def view_after(pipeline: Any, seconds: float) -> View:
    """What is seen of a run that was watched for so long."""

    async def main() -> View:
        async with pipeline as running:
            watcher = Watcher(running)
            for _ in range(int(2 * seconds)):
                watcher.look()
                await asyncio.sleep(0.5)
            view = watcher.look()
            await running.drain(timeout=0)
        assert view is not None
        return view

    return testing.run(main())


def through_json(view: View, **options: Any) -> View:
    return view_of(json.loads(json.dumps(as_dict(view, **options), allow_nan=False)))


def test_a_queue_that_is_put_into_comes_through_json() -> None:
    """Protects ``asyncpc top``: what the queue holds is not read as a list of numbers."""
    view = view_after(Pipeline(source(range(10_000)), fails >> remote_queue("memory://snapshot", int)), 5)
    assert view.stages[-1].now.remote is not None
    assert view.stages[-1].now.remote.depth is not None
    assert through_json(view).stages[-1].now == view.stages[-1].now


def test_a_view_comes_through_json_unchanged() -> None:
    """The terminal of another machine shows the same as the one of the run."""
    view = view_after(Pipeline(source(range(10_000)), fails >> limited, name="orders"), 30)
    assert view.pipeline == "orders"
    assert view.standing is not None
    assert view.standing.total == 10_000
    assert len(view.stages[0].rates) > 20
    assert view.stages[0].now.held_back == ()
    assert view.stages[1].now.held_back != ()
    assert through_json(view, payloads=True) == view


def test_messages_of_errors_are_left_out_unless_asked_for() -> None:
    """They may tell of items, and a page may be seen by many."""
    view = view_after(source(range(1000)) >> fails, 30)
    assert "canary" in json.dumps(as_dict(view, payloads=True))
    assert "canary" not in json.dumps(as_dict(view))
    assert [one.kind for one in through_json(view).failures] == ["ValueError", "KeyError"]


def test_a_loop_that_is_closed_is_told_in_plain_json() -> None:
    """JSON knows no infinity, and browsers refuse it."""
    view = view_after(endless >> fails, 1)._replace(silent=math.inf)
    assert through_json(view).silent == math.inf


def test_what_is_new_in_another_version_is_left_out() -> None:
    """``asyncpc top`` may be older than the run that it shows."""
    view = view_after(endless >> fails, 2)
    told = as_dict(view, payloads=True)
    told["new"] = told["stages"][0]["new"] = told["stages"][0]["now"]["new"] = told["progress"]["new"] = 1
    assert view_of(told) == view


@pytest.mark.parametrize("told", [{}, {"progress": None}, {"progress": None, "stages": [1]}])
def test_what_is_no_view_is_refused(told: Any) -> None:
    """The address may be that of something else."""
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        view_of(told)


# -- failures -------------------------------------------------------------------------------------


def test_failures_alike_are_counted_together() -> None:
    """Thirty alike do not push the other one out; the place is a line of the user's code."""
    last, other = view_after(source(range(1000)) >> fails, 30).failures
    assert (other.stage, other.kind, other.times) == ("fails", "KeyError", 1)
    assert (last.kind, last.message) == ("ValueError", "canary")
    assert last.times > 30
    assert last.place.startswith("test_snapshot.py:")
    assert last.place.endswith(" in fails")


def test_kinds_of_failures_are_bounded() -> None:
    """A handler may make up classes of errors for ever."""

    async def raises(n: int) -> None:
        await asyncio.sleep(0.01)
        raise type(f"Error{n}", (Exception,), {})()

    view = view_after(endless >> named("raises", raises, on_error="skip"), 5)
    assert len(view.failures) == KEPT
    assert view.failures[0].kind > "Error400"
