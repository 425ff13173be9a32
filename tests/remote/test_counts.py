"""The statistics and the report tell what became of the messages of a remote queue, and what it holds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from support import until

from asyncpc import Pipeline, RemoteCounts, Report, consumer, source, testing
from asyncpc.metrics import Metrics
from asyncpc.remote import Broker, Depth, Disconnected, Message, OpenQueue, Outgoing, Settings
from asyncpc.remote.codec import codec_for
from asyncpc.remote.engines.memory.broker import MemoryBroker
from asyncpc.remote.queue import RemoteQueue, remote_queue
from asyncpc.remote.session import Terms
from asyncpc.run.statistics import read_statistics

_names = count()

eager = pytest.mark.parametrize("eager", [False, True])


def fresh(**options: Any) -> RemoteQueue[int]:
    """A queue of its own."""
    return remote_queue(f"memory://counts-{next(_names)}", int, name="jobs", **options)


async def put(queue: RemoteQueue[int], *numbers: int) -> None:
    async with queue.open() as opened:
        await opened.put_many(numbers)


@consumer
async def odd_ones_fail(number: int) -> None:
    if number % 2:
        raise ValueError(number)


@consumer
async def same(number: int) -> int:
    return number


@consumer
async def hang(number: int) -> None:
    await asyncio.Event().wait()


def counts_of(report: Report) -> RemoteCounts:
    """Those of its only source."""
    (one,) = report.sources
    assert one.remote is not None
    return one.remote


@eager
def test_the_report_counts_messages(eager: bool) -> None:
    """Protects who reads it: what was acknowledged, what is in the dead letters; also what the last flush did."""
    queue = fresh()

    async def main() -> None:
        await put(queue, *range(7))
        async with queue >> odd_ones_fail as running:
            await asyncio.sleep(1)
            report = await running.drain()
        counts = counts_of(report)
        assert counts == RemoteCounts(7, 4, 0, 3, 0, 0, connections=1)
        assert (report.dead_letters, report.failed, report.complete, report.exit_status) == (3, 3, True, 1)
        assert "jobs: 4 acknowledged, 3 to the dead letters" in str(report)
        assert "<div>jobs: 4 acknowledged, 3 to the dead letters</div>" in report._repr_html_()

    testing.run(main(), eager=eager)


def test_a_run_without_trouble_says_nothing() -> None:
    """Protects short reports; and a source that is no remote queue has no such counts."""
    queue = fresh()

    async def main() -> None:
        report = await (source([2, 4]) >> queue)
        assert report.sources[0].remote is None
        assert report.dead_letters == 0
        async with queue >> odd_ones_fail as running:
            await asyncio.sleep(1)
            report = await running.drain()
        assert counts_of(report).acknowledged == 2
        assert "jobs:" not in str(report)
        assert report.exit_status == 0

    testing.run(main())


def test_a_message_that_cannot_be_decoded_is_no_success() -> None:
    """Protects a script: no stage saw the message, but it was given up, so the status is not 0."""
    queue = fresh()

    async def main() -> None:
        async with queue.open() as opened:
            await opened.broker.publish([Outgoing("bad", b"{")])
        async with queue >> odd_ones_fail as running:
            await asyncio.sleep(1)
            report = await running.drain()
        assert (report.dead_letters, report.failed, report.complete, report.exit_status) == (1, 0, True, 1)
        report.signal = 15
        assert report.exit_status == 143

    testing.run(main())


def test_what_is_given_back_is_counted() -> None:
    """Protects who reads it after a stop: what was received and not handled comes again."""
    queue = fresh(prefetch=4)

    async def main() -> None:
        await put(queue, *range(10))
        async with queue >> hang as running:
            await asyncio.sleep(1)
            running.stop(1)
            await running.wait()
        report = running.report
        assert report is not None
        assert counts_of(report) == RemoteCounts(4, 0, 4, 0, 0, 0, connections=1)
        assert "jobs: 0 acknowledged, 4 given back" in str(report)

    testing.run(main())


def test_reconnects_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Protects who wonders why a run was slow: its connection was lost."""
    lost = [1, 2]

    class Flaky(MemoryBroker):
        async def ack(self, messages: Sequence[Message]) -> int:
            if lost:
                lost.pop()
                raise Disconnected("lost")
            return await super().ack(messages)

    def broker() -> Broker:
        return Flaky("memory://counts-flaky", Settings(60.0, "dead", {}))

    queue = RemoteQueue[int]("jobs", broker, codec_for("", int, "json", 99), Terms(None, 60.0, 5), "memory://…", "")

    async def main() -> None:
        await put(queue, 2, 4)
        async with queue >> odd_ones_fail as running:
            await asyncio.sleep(60)
            report = await running.drain()
        assert counts_of(report) == RemoteCounts(2, 2, 0, 0, 0, 2, connections=3)
        assert "jobs: 2 acknowledged, 2 reconnects" in str(report)

    testing.run(main())


@pytest.mark.parametrize("place", ["source", "sink", "resource"])
def test_a_run_without_a_connection_is_not_ready_and_stops_at_once(place: str) -> None:
    """Protects a rollout, which would end old processes for new ones that nobody can reach; and who stops those."""

    class Unreachable(MemoryBroker):
        async def open(self) -> None:
            raise Disconnected("nobody is there")

    settings = Settings(60.0, "dead", {})
    queue = RemoteQueue[int](
        "jobs",
        lambda: Unreachable("memory://counts-unreachable", settings),
        codec_for("", int, "json", 99),
        Terms(None, 60.0, 5),
        "memory://…",
    )

    @consumer(context=queue.open)
    async def put_into_it(number: int, opened: OpenQueue[int]) -> None:
        await opened.put(number)

    readable = fresh()
    pipelines: dict[str, Pipeline[int, None]] = {
        "source": queue >> odd_ones_fail,
        "sink": readable >> queue,
        "resource": readable >> put_into_it,
    }

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with pipelines[place] as running:
            await asyncio.sleep(5)
            health = running.health()
            assert (health.live, health.ready) == (True, False)
            assert health.why == "running; not connected yet to each of its queues and resources"
            began = loop.time()
            report = await running.drain()
        assert loop.time() - began < 0.1
        assert (counts_of(report).connections, report.complete, report.exit_status) == (int(place != "source"), True, 0)

    testing.run(main())


def test_a_run_of_an_empty_queue_is_ready_soon() -> None:
    """Protects a rollout, which waits for that: a first receive waits for a message 50 ms only, not 5 s."""
    queue = fresh()

    async def main() -> None:
        async with queue >> odd_ones_fail as running:
            await asyncio.sleep(0.1)
            assert running.health().ready
            await running.drain()

    testing.run(main())


@eager
def test_statistics_know_the_depth_of_who_looks_now_and_then(eager: bool) -> None:
    """Protects who scales by it: what waits in the queue is seen while the run is under way, and can be JSON."""
    queue = fresh(prefetch=2)

    async def main() -> None:
        await put(queue, *range(10))
        async with queue >> hang as running:
            await asyncio.sleep(60)
            first, *_ = running.statistics().sources
            assert first.remote is not None
            assert (first.remote.depth, first.remote.lag, first.remote.seen) == (None, None, None)
            await asyncio.sleep(1)
            statistics = running.statistics()
            counts = statistics.sources[0].remote
            assert counts is not None
            assert counts.depth == Depth(8, 2, 0, 0, 60.0)
            assert counts.lag == 60.0
            assert "jobs holds 8 ready, 2 unacknowledged, 0 delayed, 0 dead, the oldest waits for 60.0 s" in str(
                statistics
            )
            told = json.loads(json.dumps(statistics.as_dict()))["sources"][0]["remote"]
            assert told["depth"] == {"ready": 8, "unacknowledged": 2, "delayed": 0, "dead": 0, "oldest": 60.0}
            assert told["received"] == 2
            await running.drain(0)

    testing.run(main(), eager=eager)


@eager
def test_statistics_know_the_depth_of_a_queue_that_is_put_into(eager: bool) -> None:
    """Protects who watches the first half of a job: whether the second half keeps up, and for how long items wait."""
    queue = fresh()

    async def main() -> None:
        async with Pipeline(same, queue) as running:
            await running.put(0)
            await asyncio.sleep(60)
            assert running.statistics().stages[-1].remote == RemoteCounts(0, 0, 0, 0, 0, 0, connections=1)
            await running.put(1)
            await asyncio.sleep(1)
            statistics = running.statistics()
            counts = statistics.stages[-1].remote
            assert counts is not None
            assert counts.depth == Depth(1, 0, 0, 0, 60.0)
            assert counts.lag == 60.0
            assert "jobs holds 1 ready" in str(statistics)
            assert read_statistics(json.loads(json.dumps(statistics.as_dict()))) == statistics
            await asyncio.sleep(10)
            counts = running.statistics().stages[-1].remote
            assert counts is not None
            assert counts.depth == Depth(2, 0, 0, 0, 70.0)
        assert running.report is not None
        assert running.report.stages[-1].remote == counts

    testing.run(main(), eager=eager)


@pytest.mark.realtime
def test_statistics_know_the_depth_of_a_queue_in_a_file(tmp_path: Path) -> None:
    """Protects the real thing: another process puts into the same queue, and one more takes from it."""
    queue = remote_queue(f"sqlite:///{tmp_path}/jobs.db?queue=jobs", int)

    async def main() -> None:
        await put(queue, 7, 8)
        async with Pipeline(same, queue) as running:

            def remote() -> RemoteCounts | None:
                return running.statistics().stages[-1].remote

            await running.put(9)
            await until(lambda: running.statistics().done == 1)
            await until(lambda: (found := remote()) is not None and found.depth is not None)
            counts = remote()
            assert counts is not None
            assert counts.depth is not None
            assert counts.depth[:4] == (3, 0, 0, 0)
            assert counts.lag is not None
            assert counts.lag > 0

    asyncio.run(main())


def test_prometheus_sees_a_queue_that_is_put_into() -> None:
    """Protects an autoscaler of whatever reads the queue: it may ask who puts."""
    registry, queue = CollectorRegistry(), fresh()
    pipeline = Pipeline(same, queue)
    metrics = Metrics(registry)
    metrics.watch(pipeline, name="work")
    labels = {"pipeline": "work", "source": "jobs"}

    async def main() -> None:
        async with pipeline as running:
            await running.put(0)
            await asyncio.sleep(1)
            assert registry.get_sample_value("asyncpc_queue_ready", labels) is None
            await asyncio.sleep(1)
            assert registry.get_sample_value("asyncpc_queue_ready", labels) == 1
            assert registry.get_sample_value("asyncpc_queue_lag_seconds", labels) == 1

    testing.run(main())


def test_prometheus_sees_the_queue_that_is_read_where_one_of_the_same_name_is_put_into() -> None:
    """Protects an autoscaler where messages move to another server: what is there is not what is left."""
    registry, here, there = CollectorRegistry(), fresh(), fresh()
    metrics = Metrics(registry)
    pipeline = here >> there
    metrics.watch(pipeline, name="move")

    async def main() -> None:
        await put(there, 1, 2, 3)
        async with pipeline:
            labels = {"pipeline": "move", "source": "jobs"}
            await asyncio.sleep(1)
            assert registry.get_sample_value("asyncpc_queue_ready", labels) is None
            await asyncio.sleep(1)
            assert registry.get_sample_value("asyncpc_queue_ready", labels) == 0

    testing.run(main())


def test_the_lag_of_an_empty_queue_is_nothing() -> None:
    """Protects an autoscaler: no message waits, which is not the same as not knowing."""
    counts = RemoteCounts(0, 0, 0, 0, 0, 0)
    assert counts.lag is None
    assert counts._replace(depth=Depth(0, 3, 0, 0, None)).lag == 0.0
    assert counts._replace(depth=Depth(2, 0, 0, 0, None)).lag is None


def test_prometheus_sees_the_queue() -> None:
    """Protects dashboards and alerts: what this process did, and what the queue holds, by pipeline and source."""
    registry, queue = CollectorRegistry(), fresh(prefetch=2)
    pipeline = queue >> odd_ones_fail
    metrics = Metrics(registry)
    metrics.watch(pipeline, name="work")

    def found() -> dict[str, float]:
        return {
            one.name.removeprefix("asyncpc_"): one.value
            for family in metrics.collect()
            for one in family.samples
            if one.labels == {"pipeline": "work", "source": "jobs"}
        }

    counted = {
        "items_produced_total": 0,
        "messages_received_total": 0,
        "messages_acknowledged_total": 0,
        "messages_released_total": 0,
        "messages_overtaken_total": 0,
        "dead_letters_total": 0,
        "reconnects_total": 0,
    }
    assert found() == counted

    async def main() -> None:
        await put(queue, *range(5))
        async with pipeline:
            found()
            await asyncio.sleep(1)
            seen = found()
            assert seen["messages_acknowledged_total"] == 3
            assert seen["dead_letters_total"] == 2
            await asyncio.sleep(20)
            held = {name: value for name, value in found().items() if name.startswith("queue_")}
            assert held == {
                "queue_ready": 0,
                "queue_unacknowledged": 0,
                "queue_delayed": 0,
                "queue_dead": 2,
                "queue_lag_seconds": 0,
            }

    testing.run(main())
    done = {"items_produced_total": 5, "messages_received_total": 5}
    assert found() == counted | done | {"messages_acknowledged_total": 3, "dead_letters_total": 2}
