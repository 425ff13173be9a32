"""What the live view draws, at several widths: rows are pure functions of a view, and the runs are in virtual time."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support import endless, named

from asyncpc import Batch, Breaker, Pipeline, Rate, RemoteCounts, Retry, Statistics, consumer, route, source, testing
from asyncpc.core.seams import Depth
from asyncpc.run.verdict import Verdict
from asyncpc.watch.columns import brief
from asyncpc.watch.drawing import width
from asyncpc.watch.screen import screen
from asyncpc.watch.watcher import View, Watcher

AT = time.mktime((2026, 3, 1, 3, 4, 5, 0, 0, -1))
"""When everything failed."""


def seen(pipeline: Any, seconds: float, begin: Any = None, end: Any = None) -> View:
    """What a screen sees of a run after so long; it is ended."""

    async def main() -> View | None:
        running = await pipeline.__aenter__()
        watcher, loop = Watcher(running), asyncio.get_running_loop()
        began = loop.time()
        if begin is not None:
            begin(running)
        while loop.time() - began < seconds:
            watcher.look()
            await asyncio.sleep(0.25)
        view = watcher.look()
        if end is not None:
            end(running)
        await running.drain(timeout=0)
        await pipeline.__aexit__(None, None, None)
        return view

    view = testing.run(main())
    assert view is not None
    return view._replace(failures=tuple([one._replace(at=AT) for one in view.failures]))


def text(view: View, columns: int = 130, lines: int = 30, **options: Any) -> list[str]:
    """The rows without their styles, as the terminal shows them."""
    rows = ["".join([text for text, _ in row]).rstrip() for row in screen(view, columns, lines, **options)]
    rows = [re.sub(r"test_screen.py:\d+", "test_screen.py:83", row) for row in rows]
    assert len(rows) <= lines
    assert all(row.isprintable() for row in rows)
    return rows


def table_of(rows: list[str]) -> list[str]:
    """The heads of the columns, and the rows of the stages."""
    begin = next(at for at, row in enumerate(rows) if row.startswith(" stage "))
    return rows[begin : begin + 6]


def taking(seconds: float) -> Any:
    async def handle(n: int) -> int:
        await asyncio.sleep(seconds)
        return n

    return handle


# -- golden ---------------------------------------------------------------------------------------


class Rejected(Exception): ...


def shop() -> Any:
    """A pipeline with a slow stage, a full queue, failures of two kinds, and workers that are stuck."""
    drawn = random.Random(1)

    async def fetch(n: int) -> int:
        if n and n % 300 == 0:
            await asyncio.Event().wait()
        await asyncio.sleep(drawn.expovariate(80))
        return n

    async def parse(n: int) -> int:
        await asyncio.sleep(0.03)
        if n % 211 == 5:
            raise Rejected(f"item {n}: \x1b[31m<script> is no price")
        if n == 13:
            raise KeyError(n)
        return n

    first = named("fetch", fetch, concurrency=24, maxsize=400) >> named(
        "parse", parse, concurrency=6, maxsize=128, on_error="skip"
    )
    branches = {"even": named("store", taking(0.005)), "odd": named("倉庫", taking(0.004), concurrency=2)}
    return Pipeline(source(range(60_000)), first >> route(lambda n: ("even", "odd")[n % 2], branches), name="shop")


@pytest.fixture(scope="module")
def shop_view() -> View:
    view = seen(shop(), 30)
    timed = [stage._replace(now=stage.now._replace(latency_p50=2e-6, latency_p99=4e-6)) for stage in view.stages[2:3]]
    return view._replace(stages=(*view.stages[:2], *timed, *view.stages[3:]))  # a call takes as long as it takes


@pytest.mark.parametrize("columns", [80, 130, 200])
def test_the_view_at_three_widths(columns: int, shop_view: View) -> None:
    """A person sees the sentence, how far it is, where items wait, and what failed; at 80 columns only p50 is gone."""
    rows = text(shop_view, columns)
    golden = Path(__file__).parent / "screens" / f"{columns}.txt"
    assert "\n".join(rows) + "\n" == golden.read_text(encoding="utf-8")
    assert max(map(width, rows[:-3])) <= columns  # of the others the terminal's foot shows as much as fits


@pytest.mark.parametrize("columns", range(40, 260, 7))
def test_every_width_shows_what_failed(columns: int, shop_view: View) -> None:
    """Whatever has no room, never that; and a row that is too long would tear the screen apart."""
    head, *stages = table_of(text(shop_view, columns))
    assert head.endswith("failed")
    assert all(width(row) <= columns for row in (head, *stages))
    assert next(row for row in stages if "parse" in row).endswith(f" {shop_view.stages[1].now.failed}")


def test_the_first_columns_to_go_are_those_that_say_least(shop_view: View) -> None:
    """p50 says less than the last minute, and that less than how long the oldest item waits."""
    shown = [table_of(text(shop_view, columns))[0].split() for columns in (130, 80, 70, 40)]
    assert "p50" in shown[0]
    assert ("p50" in shown[1], "minute" in shown[1]) == (False, True)
    assert ("minute" in shown[2], "oldest" in shown[2]) == (False, True)
    assert shown[3][-1] == "failed"


# -- line 1 ---------------------------------------------------------------------------------------


async def hang(n: int) -> None:
    await asyncio.Event().wait()


async def sometimes_hangs(n: int) -> None:
    await asyncio.sleep(0.01)
    if n in (30, 40, 50):
        await asyncio.Event().wait()


async def fails(n: int) -> None:
    raise OSError


async def idle() -> AsyncIterator[int]:
    yield 1
    await asyncio.Event().wait()
    yield 2


STALLS: dict[str, tuple[Any, str, bool]] = {
    "stuck": (endless >> named("fetch", sometimes_hangs, concurrency=8), "fetch: 3 of 8 workers are stuck", True),
    "hangs": (source(range(100)) >> named("store", hang), "store: nothing settled for 70 s", True),
    "full": (endless >> named("parse", taking(0.01)) >> named("store", taking(2.0)), "store: busy 100%", False),
    "rate": (endless >> named("call", taking(0.0), rate=Rate(1, per=5)), "call: held back", False),
    "back-off": (
        source(range(3)) >> named("call", fails, retry=Retry(100, wait=lambda attempt: 1000.0)),
        "call: held back 100% of the time of 1 worker by ",
        False,
    ),
    "breaker": (
        source(range(3))
        >> named("call", fails, retry=Retry(100, wait=lambda attempt: 0.0), breaker=Breaker(1, reset_after=1000)),
        "call: held back 100% of the time of 1 worker by its breaker",
        False,
    ),
    "source": (source(idle(), name="feed") >> named("call", taking(0.0)), "feed: too slow", False),
}


@pytest.mark.parametrize("stall", STALLS)
def test_a_stall_is_named_in_the_first_line(stall: str) -> None:
    """The stage and the reason, so that nobody has to read the table first."""
    pipeline, said, is_alarm = STALLS[stall]
    healths: list[str] = []
    view = seen(pipeline, 70, end=lambda running: healths.append(running.health().why))
    assert said in healths[0]
    assert text(view)[0].replace("FINISHING", "RUNNING").startswith(f" RUNNING  {said}")
    assert (screen(view, 130, 30)[0][-1][1] == "bold red") == is_alarm


def test_a_paused_run_is_named_in_the_first_line() -> None:
    """Nobody should look for a fault."""
    view = seen(Pipeline(named("call", taking(0.0))), 5, begin=lambda running: running.pause())
    assert text(view)[0] == " RUNNING  paused: no handler takes an item before resume()"


def test_what_workers_do_is_told_apart() -> None:
    """At work, stuck, waiting for room, held back, idle."""

    def bar(pipeline: Any, stage: int = 0) -> str:
        rows = table_of(text(seen(pipeline, 60)))
        return rows[1 + stage][rows[0].index("workers") :].split()[0]

    assert set(bar(endless >> named("stage", taking(1.0)))) == {"█"}
    assert bar(endless >> named("fetch", sometimes_hangs, concurrency=6)) == "!!!!!!!██·····"
    assert set(bar(endless >> named("stage", taking(0.0), rate=Rate(1, per=5)))) == {"~"}
    assert set(bar(endless >> named("stage", taking(0.0)) >> named("slow", taking(1.0)))) == {"▒"}
    assert set(bar(source(idle()) >> named("stage", taking(0.0)))) == {"·"}


def test_workers_with_a_batch_count_as_workers() -> None:
    """Not as many as the items that they have."""

    async def store(batch: list[int]) -> None:
        await asyncio.sleep(5)

    view = seen(endless >> named("store", store, batch=Batch(10), concurrency=4), 20)
    assert view.stages[0].now.in_flight == 40
    assert " 4/4 " in text(view)[3]


# -- many stages, odd names -----------------------------------------------------------------------


def test_of_many_stages_those_that_matter_are_shown() -> None:
    """Stuck ones, those that fail, and the busiest; and how many others there are."""

    @consumer(on_error="skip")
    async def failing(n: int) -> int:
        if n % 2:
            raise ValueError
        return n // 2

    pipeline: Any = endless
    for number in range(20):
        pipeline = pipeline >> named(f"quick{number}", taking(0.0))
    view = seen(pipeline >> failing >> named("fetch", sometimes_hangs, concurrency=8) >> named("last", hang), 120)
    rows = text(view, lines=15)
    assert len(rows) == 15
    assert [name for name in ("failing", "fetch", "last") if any(f" {name} " in row for row in rows)] == [
        *("failing", "fetch", "last"),
    ]
    assert any(row.startswith(" … and 1") and row.endswith(" more, which are less busy") for row in rows)
    assert len(text(view, lines=60)) < 60
    assert text(view, lines=4)  # hardly any room is no error


def test_names_and_messages_cannot_move_the_cursor(shop_view: View) -> None:
    """What comes from another process, or an error, may hold anything."""
    odd = "\x1b[2J\r\n\u202eabc\x9b"
    [stage, *others] = shop_view.stages
    view = shop_view._replace(
        pipeline=odd,
        verdict=Verdict(f"{odd}: postgres://me:canary@host", True),
        stages=(stage._replace(now=stage.now._replace(name=odd)), *others),
        failures=tuple([one._replace(stage=odd, kind=odd, place=odd, message=odd) for one in shop_view.failures]),
        statistics=shop_view.statistics._replace(state=odd),
    )
    assert "canary" not in "".join(text(view, is_named=True))


def test_a_long_verdict_is_told_to_its_end_on_more_lines(shop_view: View) -> None:
    """The line of code stands at its end."""
    words = " ".join([f"word{n}" for n in range(20)])
    rows = text(shop_view._replace(verdict=Verdict(words, True)), 80)
    assert " ".join([row.replace("RUNNING", "").strip() for row in rows[:2]]) == words


def test_a_verdict_without_end_is_cut(shop_view: View) -> None:
    """``asyncpc top`` shows what a stranger tells: drawing nothing of it is read that nobody can see."""
    rows = text(shop_view._replace(verdict=Verdict("word " * 400_000, True)), 80)
    assert max([len(row) for row in rows]) < 300


def test_a_remote_queue_has_a_line() -> None:
    """How many messages wait there, the oldest, and whether there is a connection."""
    view = seen(source(idle(), name="jobs") >> named("work", taking(0.0)), 2)
    assert not any(" ready" in row for row in text(view))
    counts = RemoteCounts(9, 7, 1, 2, 0, 3, Depth(1234, 5, 6, 7, 12.4), 0.0, 65.0)
    one = view.statistics.sources[0]._replace(remote=counts)
    remote: Statistics = view.statistics._replace(sources=(one,))
    assert text(view._replace(statistics=remote))[2] == (
        " jobs · no connection for 65 s · 1,234 ready · 5 in hand · 6 delayed · the oldest waits for 12 s · 7 dead · "
        "7 acknowledged · 3 reconnects"
    )


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        *((0, "0.0 s"), (4e-6, "4 µs"), (0.0009996, "1 ms"), (0.503, "503 ms"), (7.34, "7.3 s"), (9.96, "10 s")),
        *((67, "67 s"), (720, "12 min"), (11_520, "3.2 h"), (4 * 86400, "4 d")),
    ],
)
def test_times_take_six_columns(seconds: float, said: str) -> None:
    """So that the columns do not jump."""
    assert brief(seconds) == said
    assert len(said) <= 6
