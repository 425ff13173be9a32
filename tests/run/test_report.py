"""The report and the statistics: they can be read, copied and taken for an exit status."""

from __future__ import annotations

import asyncio
import copy
import pickle
import time
from collections.abc import AsyncIterator

import pytest
from spy import Sink
from support import AnyStage, named

from asyncpc import PipelineError, Report, Retry, Statistics, consumer, producer, source, testing


def test_statistics_are_a_table() -> None:
    """Protects who prints them while it runs: what is in hands and queues can be read at a glance."""

    @consumer(maxsize=2)
    async def slow(item: int) -> None:
        await asyncio.sleep(1)

    async def main() -> str:
        async with source(range(5)) >> slow as running:
            await asyncio.sleep(1.5)
            return str(running.statistics())

    lines = testing.run(main()).splitlines()
    assert lines[0].split() == ["stage", "received", "done", "in", "flight", "queued", "rate"]
    assert lines[2].split() == ["source(range)", "4"]
    assert lines[3].split()[:5] == ["slow", "4", "1", "1", "2"]
    assert lines[4] == "running: 4 produced in 1.500 s"


def test_a_table_leaves_out_the_columns_that_say_nothing() -> None:
    """What is 0 in every stage is not read; what is not has a column, in every row."""

    @consumer(name="first")
    async def first(n: int) -> int:
        return n

    @consumer(name="second", on_error="skip", retry=Retry(2, wait=lambda attempt: 1.5))
    async def second(n: int) -> None:
        if n == 2:
            raise ValueError(n)

    assert str(testing.run(source(range(2)) >> first)).splitlines()[0].split() == [
        "stage",
        "received",
        "done",
        "peak",
        "queued",
        "rate",
    ]
    head, _, _, *rows, _, _ = str(testing.run(source(range(5)) >> first >> second)).splitlines()
    assert head.split() == ["stage", "received", "done", "failed", "retried", "peak", "queued", "held", "back", "rate"]
    assert [row.split()[:5] for row in rows] == [["first", "5", "5", "0", "0"], ["second", "5", "4", "1", "1"]]
    assert [row.split()[6:8] for row in rows] == [["0.0", "s"], ["1.5", "s"]]


def test_a_notebook_shows_tables() -> None:
    """Statistics and reports are HTML there: names are text and not tags, and show no password."""

    @consumer(name="a<b>", on_error="skip")
    async def odd(n: int) -> None:
        if n % 2:
            raise ValueError("no <i>luck</i> at redis://me:canary@host")
        await asyncio.sleep(1)

    async def main() -> tuple[str, str]:
        async with source(range(5), "ftp://me:canary@host") >> odd as running:
            await asyncio.sleep(1.5)
            now: str = running.statistics()._repr_html_()
            report = await running.wait()
        return now, report._repr_html_()

    now, report = testing.run(main())
    assert "<tr><th>a&lt;b&gt;</th><td>5</td><td>1</td><td>1</td><td>1</td><td>2</td>" in now
    assert now.endswith("<div>draining: 5 produced in 1.500 s</div>")
    assert "<tr><th>ftp://me:***@host</th><td></td><td>5</td>" in report
    told = "<div>a&lt;b&gt;: 2 failed, the last on 3: ValueError: no &lt;i&gt;luck&lt;/i&gt; at redis://me:***@"
    assert told in report
    assert report.count("<tr>") == report.count("</tr>") == 3
    assert "canary" not in now + report


def test_a_failure_can_be_pickled_and_copied() -> None:
    """A pipeline run in another process can fail in full: exceptions, report and notes come back."""

    @consumer(name="bad")
    async def bad(n: int) -> None:
        raise ValueError(n)

    async def main() -> PipelineError:
        with pytest.raises(PipelineError) as failed:
            await (source([1, 2]) >> bad)
        return failed.value

    failed = testing.run(main())
    failed.add_note("shard 7")
    for again in (pickle.loads(pickle.dumps(failed)), copy.copy(failed)):
        assert type(again) is PipelineError
        assert again.report == failed.report
        assert [repr(error) for error in again.exceptions] == ["ValueError(1)"]
        assert again.__notes__ == ["shard 7"]


def test_a_handler_that_held_the_event_loop_is_named_with_the_cure() -> None:
    """Protects who writes ``async def`` and blocks in it: the report says so where it is much, and only there."""

    def statistics(seconds: float, elapsed: float, of_source: float = 0.0) -> Statistics:
        async def main() -> Report:
            return await (source([1]) >> named("h", Sink()))

        now = testing.run(main()).statistics
        (stage,), (first,) = now.stages, now.sources
        return now._replace(
            elapsed=elapsed,
            stages=(stage._replace(loop_held=seconds),),
            sources=(first._replace(name="rows", loop_held=of_source),),
        )

    told = str(Report(statistics(9.8, 10)))
    assert "\n'h' held the event loop 98 % of the time: write it without async\n" in told
    assert "held" not in str(Report(statistics(4.9, 10)))
    assert "held" not in str(Report(statistics(0.09, 0.1)))
    told = str(Report(statistics(0, 10, of_source=7)))
    assert "\n'rows' held the event loop 70 % of the time: read it in a thread, as a plain generator is\n" in told
    assert "<div>&#x27;h&#x27; held the event loop 98 % of" in Report(statistics(9.8, 10))._repr_html_()


@pytest.mark.realtime
def test_a_handler_that_computes_is_measured_and_named() -> None:
    """The whole way: what is measured in a run reaches the report; a handler that waits is not blamed."""

    @consumer
    async def computes(n: int) -> None:
        until = time.perf_counter() + 0.02
        while time.perf_counter() < until:
            pass

    @consumer
    async def waits(n: int) -> None:
        await asyncio.sleep(0.02)

    async def told(stage: AnyStage) -> str:
        return str(await (source(range(10)) >> stage))

    assert "'computes' held the event loop" in asyncio.run(told(computes))
    assert "held" not in asyncio.run(told(waits))


def test_a_failed_run_has_a_failed_exit_status() -> None:
    """Also when no item failed: a source that raises must not look well to the shell."""

    @producer
    async def bad() -> AsyncIterator[int]:
        yield 1
        raise ValueError

    @consumer
    async def handle(n: int) -> None: ...

    async def main() -> None:
        with pytest.raises(PipelineError) as failed:
            await (bad >> handle)
        assert (failed.value.report.done, failed.value.report.exit_status) == (1, 1)

    testing.run(main())
