"""``asyncpc profile``: the measuring in virtual time, so that rates are known; the command in processes of its own."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import pytest
from children import Child, run_child, run_on_terminal
from support import BUSY, EAGER

from asyncpc import (
    Adaptive,
    Batch,
    BoundedQueue,
    DefinitionError,
    Failure,
    Pipeline,
    PipelineError,
    Rate,
    Retry,
    broadcast,
    consumer,
    feed,
    producer,
    route,
    source,
    testing,
)
from asyncpc.cli.main import main
from asyncpc.graph.pipeline import handler_of
from asyncpc.testing import now
from asyncpc.testing.clock import measuring_with
from asyncpc.watch.findings import Measurement, Profile, Record, verdict
from asyncpc.watch.profile import profile


def profiled(
    pipeline: Pipeline[Any, Any], items: int = 50, eager: bool = False, clock: Callable[[], float] = now
) -> tuple[Record, list[Profile], str]:
    """What is found out about ``pipeline`` in virtual time, and the verdict without what is said of the calls.

    ``clock`` takes the time of what really works, and by default of nothing: the machine may be as busy as it likes.
    """

    async def measure() -> list[Any]:
        return [part async for part in profile(pipeline, items, seconds=10)]

    with measuring_with(clock):
        record, *profiles = testing.run(measure(), eager=eager)
    return record, profiles, verdict(record, profiles).splitlines()[0]


def rates(found: Profile) -> dict[int, float]:
    return {one.concurrency: one.rate for one in found.measurements}


def takes(seconds: float, **options: Any) -> Any:
    """A stage whose calls take so long."""

    @consumer(name="work", **options)  # type: ignore[untyped-decorator]  # which options, only the test knows
    async def work(item: Any) -> Any:
        await asyncio.sleep(seconds)
        return item

    return work


GIL = "it is bound by the GIL, which lets one thread compute at a time"


def measured(run_in: Any, busy: tuple[float, ...], rates: tuple[float, ...]) -> Profile:
    """The profile of a stage that is set to one worker, at rising concurrency."""

    @consumer(name="work")
    def work(item: int) -> None: ...

    handler = handler_of(work)._replace(run_in=run_in)
    found = [
        Measurement(2**power, rate, 0.01, 0.01, 0, 9, used, held=0.0)
        for power, (rate, used) in enumerate(zip(rates, busy, strict=True))
    ]
    return Profile(handler, 9, 1.0, tuple(found), 27)


# -- measuring ------------------------------------------------------------------------------------


@pytest.mark.parametrize("eager", EAGER)
def test_the_concurrency_that_is_enough_is_found(eager: bool) -> None:
    """The point of it all: what the stage gives now, what it could give, and where more workers are no use."""
    server = asyncio.Semaphore(8)

    @consumer(concurrency=4)
    async def fetch(n: int) -> None:
        async with server:
            await asyncio.sleep(0.1)

    record, [found], words = profiled(Pipeline(range(1000), fetch), 64, eager)
    assert (record.items, record.source) == (64, "source(range)")
    assert rates(found) == pytest.approx({1: 10, 2: 20, 4: 40, 8: 80, 16: 80, 32: 80}, rel=0.05)
    assert (found.present.concurrency, found.enough.concurrency) == (4, 8)
    assert words == "fetch limits: 40 items/s at concurrency 4; 8 would give 80"


def test_the_table_marks_the_setting_and_what_is_enough() -> None:
    """It is read by people, and by programs that split lines."""
    _, [found], _ = profiled(Pipeline([1], takes(0.5, concurrency=2)))
    head, columns, rule, *rows = str(found).splitlines()
    assert head == "work: concurrency 2, 1 item recorded"
    assert columns.split() == ["concurrency", "items/s", "p50", "p99", "failed"]
    assert set(rule) == {"-", " "}
    assert [row.split()[:2] for row in rows[:3]] == [["1", "2"], ["2", "4"], ["4", "8"]]
    assert rows[1].endswith("  its setting")
    assert rows[-1].endswith("  enough: more gains less than 10 %")


def test_few_items_are_used_again() -> None:
    """A source that gives two items says nothing about 32 workers, unless they come again."""
    _, [found], words = profiled(Pipeline([1, 2], takes(0.1)))
    assert rates(found)[32] == pytest.approx(320, rel=0.02)
    assert words == "work limits: 10 items/s at concurrency 1; 32 would give 320, and more may give more"


def test_a_high_concurrency_is_measured_up_to_its_double() -> None:
    """Whoever has 40 workers wants to know about 80."""
    _, [found], _ = profiled(Pipeline([1], takes(0.1, concurrency=40)))
    assert list(rates(found)) == [1, 2, 4, 8, 16, 32, 40, 64, 80]


def test_stages_are_compared_by_items_of_the_first() -> None:
    """A generator in between makes three items of one, so the stage behind it limits, though it gives more items/s."""

    @consumer
    async def thrice(n: int) -> AsyncIterator[int]:
        await asyncio.sleep(0.001)
        for _ in range(3):
            yield n

    parse, store = takes(0.1), takes(0.05)
    _, found, words = profiled(source(range(90)) >> parse >> thrice >> store)
    assert [one.share for one in found] == [1, 1, 3]
    assert words == (
        "work#2 limits: 20 items/s at concurrency 1, which is 6.67 of those that come in; 32 would give 640, and more "
        "may give more (but then work limits, at 10 of those that come in)"
    )


def test_what_a_stage_gives_is_the_input_of_the_next() -> None:
    """Each stage is measured on what it gets in the pipeline, a filter's few items included."""
    seen: set[int] = set()

    @consumer
    async def even(n: int) -> AsyncIterator[int]:
        if n % 2 == 0:
            yield n * 10

    @consumer
    async def see(n: int) -> None:
        seen.add(n)

    _, [_, found], _ = profiled(source(range(10)) >> even >> see)
    assert seen == {0, 20, 40, 60, 80}
    assert (found.items, found.share) == (5, 0.5)


def test_a_rate_stays_and_is_named() -> None:
    """No concurrency helps against a rate; whoever reads the advice must be told so."""
    _, [found], words = profiled(Pipeline(range(50), takes(0, rate=Rate(10), concurrency=2)))
    assert rates(found)[32] == pytest.approx(10, rel=0.1)
    assert words.endswith("raising it does not help: it is bound by its rate of 10 calls in 1 s")


def test_a_stage_that_waits_for_one_thing_is_told_so() -> None:
    """A lock makes workers useless; that is no reason to advise more of them."""
    lock = asyncio.Lock()

    @consumer(concurrency=2)
    async def locked(n: int) -> None:
        async with lock:
            await asyncio.sleep(0.1)

    words = profiled(Pipeline(range(50), locked))[2]
    assert words.startswith("locked limits: 10 items/s at concurrency 2; raising it does not help: its calls wait for")


def test_a_stage_that_computes_is_told_so() -> None:
    """More workers would only be more of the same; other processes would help, where a stage may have them."""

    @consumer
    async def compute(n: int) -> None:
        until = process_time() + 0.0005
        while process_time() < until:
            pass

    record, [found], _ = profiled(Pipeline(range(20), compute), clock=perf_counter)
    assert found.present.busy > 0.1
    [waiting] = profiled(Pipeline(range(20), takes(0.1)))[1]
    assert waiting.present.busy < 0.1
    full = found._replace(measurements=(found.present._replace(rate=20.0, busy=1.0),))
    assert verdict(record, [full]).splitlines()[0] == (
        "compute limits: 20 items/s at concurrency 1; raising it does not help: it is bound by the processor; as a "
        "plain function, run_in='process' would use more of them"
    )


@pytest.mark.parametrize(
    ("busy", "run_in", "told"),
    [
        ((0.95, 1.0, 1.0), "thread", f"raising it does not help: {GIL}; run_in='process' would use more processors"),
        ((0.2, 0.2, 0.2), "thread", "raising it does not help: its calls wait for the same thing"),
        ((1.9, 1.9, 1.9), "thread", "it is bound by the processor; run_in='process' would use more of them"),
        (
            (0.95, 1.0, 1.0),
            "loop",
            "it is bound by the processor; as a plain function, run_in='process' would use more",
        ),
    ],
)
def test_threads_that_wait_for_the_gil_are_told_so(busy: tuple[float, ...], run_in: Any, told: str) -> None:
    """More threads are no use to what computes in Python; whoever reads "one processor" must learn what would help."""
    assert told in verdict(Record("numbers", 9, 0.0), [measured(run_in, busy, rates=(100, 101, 99))])


def test_threads_that_come_to_the_gil_are_told_so() -> None:
    """Half of a call waits, half computes: two workers give twice as much, and beyond that only processes would."""
    record = Record("numbers", 9, 0.0)
    words = verdict(record, [measured("thread", (0.5, 1.0, 1.0), rates=(100, 198, 200))])
    assert "2 would give 198, and beyond that the GIL binds it; run_in='process' would use more processors" in words
    assert "GIL" not in verdict(record, [measured("thread", (0.1, 0.2, 0.2), rates=(100, 198, 200))])
    assert "GIL" not in verdict(record, [measured("thread", (0.5, 1.0, 1.0), rates=(100, 198, 380))])


def test_an_adaptive_stage_is_measured_at_its_highest() -> None:
    """A concurrency that moves during a measurement would make the table a lie."""
    _, [found], words = profiled(Pipeline([1], takes(0.1, concurrency=Adaptive(2, 12, target=1))))
    assert found.present.concurrency == 12
    assert words.startswith("work limits: 120 items/s at concurrency 12; 32 would give 320")


def test_batches_stay_batches() -> None:
    """A stage that takes ten at once is measured with ten at once, however few items were recorded."""
    sizes: set[int] = set()

    @consumer(batch=Batch(10))
    async def write(items: list[int]) -> None:
        sizes.add(len(items))
        await asyncio.sleep(0.1)

    _, [found], _ = profiled(Pipeline([1, 2, 3], write))
    assert max(sizes) == 10
    assert rates(found)[1] == pytest.approx(100, rel=0.02)


def test_opening_and_closing_a_resource_is_not_measured() -> None:
    """A connection is opened once in a run of hours; it must not look like a slow handler."""

    @asynccontextmanager
    async def session() -> AsyncIterator[None]:
        await asyncio.sleep(3)
        yield
        await asyncio.sleep(3)

    @consumer(context=session)
    async def ask(n: int, _: None) -> None:
        await asyncio.sleep(0.1)

    _, [found], _ = profiled(Pipeline([1], ask))
    assert rates(found)[1] == pytest.approx(10, rel=0.02)


# -- recording ------------------------------------------------------------------------------------


@pytest.mark.parametrize("eager", EAGER)
def test_an_idle_source_is_closed_in_time_and_may_be_what_limits(eager: bool) -> None:
    """A source that waits for events must not hold the command up; its ``finally`` runs before anything is measured."""
    closed: list[float] = []

    @producer
    async def events() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
            await asyncio.Event().wait()
        finally:
            closed.append(now())

    record, _, words = profiled(events >> takes(0.1), eager=eager)
    assert closed == [10]
    assert record[1] == 2
    assert record[2] == pytest.approx(10, abs=0.1)
    assert words == "events limits: 0.2 items/s came while it was recorded; work, the slowest stage, could handle 10"


@pytest.mark.parametrize("eager", EAGER)
def test_a_source_is_asked_for_little_more_than_is_recorded(eager: bool) -> None:
    """What is taken out of a real queue is gone, so no more than needed is taken; and the source is closed."""
    given: list[Any] = []

    @producer
    async def endless() -> AsyncIterator[int]:
        try:
            while True:
                given.append(len(given))
                yield given[-1]
        finally:
            given.append("closed")

    record, _, _ = profiled(endless >> takes(0.1), items=20, eager=eager)
    assert record.items == 20
    assert given[-1] == "closed"
    assert len(given) <= 24


def test_a_source_that_fails_is_a_failure() -> None:
    """Its error comes out as it does from a run."""

    @producer
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise OSError("gone")

    with pytest.raises(PipelineError) as failed:
        profiled(broken >> takes(0))
    assert [type(error) for error in failed.value.exceptions] == [OSError]


def test_what_the_first_stage_feeds_is_recorded() -> None:
    """A crawl begins with one address; measured on that alone it would tell nothing."""
    seen: set[int] = set()

    @consumer
    async def crawl(n: int) -> None:
        seen.add(n)
        feed(n + 1)

    _, [found], _ = profiled(Pipeline([0], crawl), items=30)
    assert seen == set(range(30))
    assert found.items == 30


def test_what_another_stage_feeds_never_comes_to_the_wrong_one() -> None:
    """What is fed belongs to the first stage, also while another one runs alone."""
    seen: set[str] = set()

    @consumer
    async def parse(page: str) -> None:
        seen.add(page)
        feed("an address")

    profiled(source(["a page"]) >> takes(0) >> parse)
    assert seen == {"a page"}


def test_a_pipeline_without_a_source_is_refused() -> None:
    """There is nothing to record; the sooner that is said the better."""
    with pytest.raises(DefinitionError, match="no source"):
        profile(Pipeline(takes(0)))


def test_no_item_is_no_crash() -> None:
    """An empty source is told, whatever the stages."""
    _, [found], words = profiled(Pipeline([], takes(0)))
    assert not found.failed
    assert found.trouble == "no item came to it"
    assert words == "nothing was measured: the sources produced no item"


# -- what fails -----------------------------------------------------------------------------------


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_failures_are_counted_and_nobody_is_told() -> None:
    """One bad item must not end it, nor fill the dead letters, which nobody empties meanwhile."""
    letters: BoundedQueue[Failure] = BoundedQueue(1)

    @consumer(retry=Retry(2, wait=lambda attempt: 0), on_error=letters, max_failures=1)
    async def fragile(n: int) -> None:
        if n % 10 == 0:
            raise ValueError(n)

    _, [found], _ = profiled(Pipeline(range(50), fragile))
    assert found.trouble is None
    assert found.present.failed == 5
    assert letters.empty()


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_stage_that_fails_on_everything_is_reported(on_error: Any) -> None:
    """The others may still be measured, and its error is what the user has to mend."""

    @consumer(on_error=on_error)
    async def bad(n: int) -> None:
        raise ValueError("boom")

    _, found, words = profiled(source([1, 2]) >> takes(0.1) >> bad >> takes(0.1))
    assert [one.failed for one in found] == [False, True, False]
    assert found[1].trouble == "every item failed, the first with ValueError: boom"
    assert found[2].trouble == "no item came to it"
    assert words == "not all stages could be measured, see above"


def test_a_route_that_refuses_everything_is_reported() -> None:
    """Whoever misspelt a key is told so, and not that the sources gave nothing."""
    record, [found, a], words = profiled(source(range(20)) >> route(lambda n: 7, {0: takes(0)}, on_error="skip"))
    assert record.items == 20
    assert found.failed
    error = "Unroutable: route 'route': no branch for 7, only for 0; add it, or a default="
    assert str(found) == f"route: 20 items recorded\n20 of them failed, the first with {error}"
    assert (a.failed, a.trouble) == (False, "no item came to it")
    assert words == "not all stages could be measured, see above"


def test_what_a_route_refuses_is_told_and_the_rest_is_measured() -> None:
    """A route that lets some items fail may be a filter: that is worth a line, but it is no failure."""
    filtering = route(lambda n: n % 2, {0: takes(0.1)}, on_error="skip", name="filter")
    _, [found, a], words = profiled(source(range(20)) >> filtering)
    assert not found.failed
    assert (found.items, found.refused, found.calls) == (20, 10, 20)
    assert a.share == 0.5
    assert words.startswith("work limits: 10 items/s at concurrency 1, which is 20 of those that come in; ")


def test_an_error_that_cannot_be_shown_is_reported_all_the_same() -> None:
    """An exception whose ``__str__`` raises must not end the command."""

    def by(n: int) -> int:
        raise Mute

    @asynccontextmanager
    async def session() -> AsyncIterator[None]:
        raise Mute
        yield

    @consumer(context=session)
    async def ask(n: int, _: None) -> None: ...

    found = profiled(source([1]) >> broadcast(route(by, {0: takes(0)}), ask))[1]
    mute = "Mute: (its message cannot be shown)"
    assert [one.trouble for one in found] == [f"1 of them failed, the first with {mute}", "no item came to it", mute]


def test_a_resource_that_does_not_open_is_reported() -> None:
    """The stage cannot be measured, and the reason is told."""

    @asynccontextmanager
    async def session() -> AsyncIterator[None]:
        raise OSError("refused")
        yield

    @consumer(context=session)
    async def ask(n: int, _: None) -> None: ...

    _, [found], _ = profiled(Pipeline([1], ask))
    assert (found.failed, found.trouble) == (True, "OSError: refused")


def test_too_few_connections_for_many_workers_are_reported() -> None:
    """What was measured before a server refused is kept, and so is the verdict."""
    open_now = 0

    @asynccontextmanager
    async def session() -> AsyncIterator[None]:
        nonlocal open_now
        open_now += 1
        try:
            if open_now > 10:
                raise OSError("too many")
            yield
        finally:
            open_now -= 1

    @consumer(context=session)
    async def ask(n: int, _: None) -> None:
        await asyncio.sleep(0.1)

    _, [found], words = profiled(Pipeline([1], ask))
    assert list(rates(found)) == [1, 2, 4, 8]
    assert (found.failed, found.trouble) == (False, "at concurrency 16, OSError: too many")
    assert words.startswith("ask limits: 10 items/s at concurrency 1; 8 would give 80")


def test_a_handler_that_hangs_is_given_up() -> None:
    """It may cost ten seconds, not the evening."""

    async def main() -> tuple[Any, float]:
        hangs = takes(3600)
        [_, found] = [part async for part in profile(Pipeline([1], hangs))]
        return found, now()

    found, seconds = testing.run(main())
    assert found.failed
    assert found.trouble == "no item was done after 10 s"
    assert seconds < 15


def test_nothing_is_dropped() -> None:
    """A stage that drops what it has no room for is asked what it can do, not how much it can lose."""
    _, [found], _ = profiled(Pipeline(range(50), takes(0.1, maxsize=1, overflow="raise")))
    assert rates(found)[1] == pytest.approx(10, rel=0.02)


# -- the command ----------------------------------------------------------------------------------

APP = """
import asyncio, os, subprocess, sys, time
from asyncpc import Pipeline, consumer, producer, route, source

out = os.dup(1)  # for the test that waits for a word; what is printed is hidden

@producer
async def events():
    try:
        yield 1
        yield 2
        os.write(out, b"waiting\\n")
        await asyncio.Event().wait()
    finally:
        os.write(out, b"closed\\n")

@producer
async def broken():
    yield 1
    raise OSError("gone, see https://me:hunter2@host/")

@consumer(concurrency=2)
async def fetch(n):
    await asyncio.sleep(0.005)
    return n

@consumer
async def bad(n):
    raise ValueError("boom")

@consumer
async def hangs(n):
    os.write(out, b"hanging\\n")
    await asyncio.Event().wait()

@consumer(run_in="process")
def double(n):
    time.sleep(0.001)  # work for a process, where it blocks nobody
    return 2 * n

@consumer
async def loud(n):
    print("NOISE")
    print("NOISE", file=sys.stderr)
    os.write(1, b"NOISE")
    os.write(2, b"NOISE")
    return n

@consumer(run_in="process")
def apart_and_loud(n):
    print("NOISE", flush=True)
    subprocess.run("echo NOISE; echo NOISE >&2", shell=True)

noisy = Pipeline(range(3), loud)
noisy_apart = Pipeline(range(3), apart_and_loud)
good = Pipeline(range(40), fetch)
failing = source([1]) >> fetch >> bad
unsourced = Pipeline(fetch)
waiting = events >> fetch
gone = broken >> fetch
empty = Pipeline([], fetch)
hanging = events >> hangs
apart = Pipeline(range(20), double)
refused = source(range(20)) >> route(lambda n: 7, {0: fetch}, on_error="skip")
filtered = source(range(20)) >> route(lambda n: n % 2, {0: fetch}, on_error="skip")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's directory with ``app.py`` in it."""
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def says(sources: str, stages: str) -> str:
    """The line on stderr while it measures."""
    return f"asyncpc: recording {sources}, then calling {stages}, many times; what they print is hidden\n"


def asyncpc_profile(folder: Path, name: str, *options: str) -> Child:
    return Child(folder, "-m", "asyncpc", "profile", f"app:{name}", *options)


@pytest.mark.parametrize("loop", ["uvloop", pytest.param("asyncio", marks=pytest.mark.thorough)])
@pytest.mark.realtime
def test_the_command_tells_what_it_does_and_found(folder: Path, loop: str) -> None:
    """It says before it begins that the handlers run many times; at the end a table per stage, then the verdict."""
    ended = asyncpc_profile(folder, "good", "--items", "20", "--loop", loop).end()
    assert ended.status == 0
    assert ended.err == says("source(range)", "fetch")
    first, blank, head, *_ = ended.out.splitlines()
    assert first.startswith("20 items recorded from source(range) in 0.")
    assert first.endswith("; each stage's handler was called with them, many times over")
    assert (blank, head) == ("", "fetch: concurrency 2, 20 items recorded")
    *_, limits, called = ended.out.splitlines()
    assert limits.startswith("fetch limits: ")
    assert " would give " in limits
    assert "Called: fetch " in called


@pytest.mark.parametrize(
    ("name", "stage"),
    [("noisy", "loud"), pytest.param("noisy_apart", "apart_and_loud", marks=pytest.mark.thorough)],
)
@pytest.mark.realtime
def test_what_the_program_prints_is_hidden(folder: Path, name: str, stage: str) -> None:
    """A few thousand calls would bury the tables: nothing is seen of handlers, processes and their children."""
    ended = asyncpc_profile(folder, name, "--items", "3").end()
    assert ended.status == 0
    assert ended.err == says("source(range)", stage)
    assert "NOISE" not in ended.out
    assert f"{stage}: concurrency 1, 3 items recorded" in ended.out
    assert ended.out.index(" limits: ") > ended.out.rindex("its setting")


@pytest.mark.realtime
def test_a_terminal_shows_what_is_measured_now(folder: Path) -> None:
    """It takes a while: the line says how far it is, and is gone before the tables."""
    ended = run_on_terminal(folder, "-m", "asyncpc", "profile", "app:good", "--items", "20")
    assert ended.status == 0
    line, tables = ended.out.index("asyncpc: measuring fetch, 1 of 1 stages"), ended.out.index("20 items recorded")
    assert ended.out.index("asyncpc: recording source(range)") < line < tables
    assert re.search(r"\r +\r20 items recorded", ended.out)


@pytest.mark.thorough
@pytest.mark.realtime
def test_processes_are_measured_without_their_start(folder: Path) -> None:
    """A process takes longer to start than to handle all that was recorded."""
    ended = asyncpc_profile(folder, "apart").end()
    assert (ended.status, ended.err) == (0, says("source(range)", "double"))
    rate = next(line.split()[1] for line in ended.out.splitlines() if line.split()[:1] == ["1"])
    assert float(rate.replace(",", "")) > 100


@pytest.mark.parametrize(
    ("name", "status", "out", "err"),
    [
        ("failing", 1, "not measured: every item failed, the first with ValueError: boom", ""),
        pytest.param("refused", 1, "20 of them failed, the first with Unroutable: ", "", marks=pytest.mark.thorough),
        ("filtered", 0, "10 of them failed, the first with Unroutable: ", ""),
        pytest.param("gone", 1, "", "  OSError: gone, see https://me:***@host/ (app.py:", marks=pytest.mark.thorough),
        pytest.param("empty", 1, "nothing was measured: the sources produced no item", "", marks=pytest.mark.thorough),
        pytest.param("unsourced", 2, "", "has no source, so there is nothing to record", marks=pytest.mark.thorough),
        ("missing", 2, "", "no 'missing' in 'app:missing'"),
    ],
)
@pytest.mark.realtime
def test_the_exit_status_tells_how_it_went(folder: Path, name: str, status: int, out: str, err: str) -> None:
    """As with the other commands: 0 done, 1 failed, 2 could not begin; and the reason is told in a line."""
    ended = asyncpc_profile(folder, name).end()
    assert ended.status == status
    assert out in ended.out
    assert err in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.realtime
def test_seconds_limits_the_recording(folder: Path) -> None:
    """An idle source is left after as long as the user says."""
    ended = asyncpc_profile(folder, "waiting", "--seconds", "0.2").end()
    assert ended.status == 0
    recorded = re.search(r"2 items recorded from events in ([\d.]+) s", ended.out)
    assert recorded is not None, ended.out
    assert ended.out.index("closed") < recorded.start()
    assert 0.2 <= float(recorded[1]) < 5  # of the 10 seconds that it would take by itself
    assert "events limits: " in ended.out


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.thorough)])
@pytest.mark.parametrize(("name", "word"), [("waiting", "waiting"), ("hanging", "hanging")])
@pytest.mark.realtime
def test_a_signal_stops_it_at_once(folder: Path, name: str, word: str, number: signal.Signals) -> None:
    """While it records and while it measures; the source is closed, and the status tells the signal."""
    child = asyncpc_profile(folder, name, "--seconds", "0.2" if name == "hanging" else "20")
    child.line_with(word)
    child.send(number)
    ended = child.end()
    assert ended.status == 128 + number
    assert ended.err == says("events", "hangs" if name == "hanging" else "fetch") + (
        "asyncpc: stopped before all stages were measured\n"
    )
    assert ended.seconds < BUSY
    assert "closed" in ended.out


@pytest.mark.parametrize("wrong", [["--items", "0"], ["--items", "many"], ["--seconds", "-1"], ["--loop", "trio"]])
def test_wrong_usage_exits_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake on the command line is told before anything runs."""
    with pytest.raises(SystemExit) as exit_:
        main(["profile", "app:good", *wrong])
    assert exit_.value.code == 2
    assert "usage: asyncpc profile" in capsys.readouterr().err


def test_help_says_that_the_handlers_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody should learn that from an invoice."""
    with pytest.raises(SystemExit):
        main(["profile", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "The handlers really run, many times with the same items" in told


@pytest.mark.realtime
def test_importing_the_command_line_imports_no_profiler(tmp_path: Path) -> None:
    """It is a tool of one command; nobody else pays for it."""
    program = "import asyncpc, asyncpc.cli.main, sys; print('asyncpc.watch.profile' in sys.modules)"
    assert run_child(tmp_path, "-c", program).out == "False\n"
