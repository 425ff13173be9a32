"""The statistics of several processes as those of one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asyncpc import RemoteCounts, Statistics, consumer, source, testing
from asyncpc.core.seams import Depth
from asyncpc.remote.processes.sums import sum_of, without_present
from asyncpc.run.statistics import SourceStatistics, read_statistics


def statistics(*remote: RemoteCounts | None) -> Statistics:
    """Of a run with one source for each."""
    sources = tuple([SourceStatistics(f"jobs-{place}", 3, 0, 0.0, one) for place, one in enumerate(remote)])
    return Statistics("running", 1.0, sources, (), put=0, fed=0, ends=(), stop_asked=False)


@consumer
async def nothing(item: int) -> None: ...


SEEN = RemoteCounts(9, 5, 2, 1, 0, 1, Depth(4, 3, 2, 1, 0.5), 1000.0)
UNSEEN = RemoteCounts(90, 50, 20, 10, 7, 0)


def test_a_process_that_has_ended_misses_no_connection() -> None:
    """Protects the sum: what ended without a connection would be told for ever, whoever took its place."""
    ended = without_present(statistics(SEEN._replace(disconnected=9.0), None))
    assert [one.remote for one in ended.sources] == [SEEN, None]


def test_nor_does_one_that_put_into_a_queue() -> None:
    """Protects the same of a stage; and the sum of the depths that processes saw of one queue, which is the last."""
    report = testing.run(source([1]) >> nothing)
    older = SEEN._replace(depth=Depth(1, 1, 1, 1, 9.0), seen=999.0, disconnected=9.0)
    one, other = (
        report.statistics._replace(stages=(report.stages[0]._replace(remote=remote),)) for remote in (older, SEEN)
    )
    assert [stage.remote for stage in without_present(one).stages] == [older._replace(disconnected=0.0)]
    (stage,) = sum_of([one, other], "running", 1.0).stages
    assert stage.remote is not None
    assert (stage.remote.depth, stage.remote.reconnects) == (SEEN.depth, 2)


def test_a_remote_queue_survives_the_pipe() -> None:
    """Protects the parent: what a child tells of its remote queues is read as what it was."""
    told = statistics(SEEN, UNSEEN, None)
    assert read_statistics(json.loads(json.dumps(told.as_dict()))) == told


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (SEEN, UNSEEN, RemoteCounts(99, 55, 22, 11, 7, 1, SEEN.depth, SEEN.seen)),
        (SEEN, SEEN._replace(depth=None, seen=None), RemoteCounts(18, 10, 4, 2, 0, 2, SEEN.depth, SEEN.seen)),
        (SEEN, SEEN._replace(depth=Depth(1, 0, 0, 0, None), seen=1001.0), None),
        (UNSEEN, UNSEEN, RemoteCounts(180, 100, 40, 20, 14, 0)),
        (None, UNSEEN, UNSEEN),
    ],
)
def test_counts_are_added_and_the_depth_is_not(one: Any, other: Any, both: Any) -> None:
    """Protects the sums: each process counts its own deliveries, and all look at the same queue."""
    for parts in ([one, other], [other, one]):
        (summed,) = sum_of([statistics(part) for part in parts], "running", 2.0).sources
        assert summed.produced == 6
        assert both is None or summed.remote == both
        if both is None:
            assert summed.remote is not None
            assert summed.remote.depth == Depth(1, 0, 0, 0, None)
