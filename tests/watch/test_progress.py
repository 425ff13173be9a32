"""What progress shows, in each place where a program may run; whole commands on a terminal are in ``cli/``."""

from __future__ import annotations

import asyncio
import io
import re
import sys
import types
from collections.abc import AsyncIterator, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import pytest
from children import run_child, run_on_terminal
from support import ignore

from asyncpc import DefinitionError, Pipeline, PipelineError, Report, consumer, feed, merge, producer, source, testing
from asyncpc.watch import foot


@consumer
async def slow(n: object) -> object:
    """Ten items a second, and a little more, so that no item is done at the very moment of a look."""
    await asyncio.sleep(0.0999)
    return n


def shown(pipeline: Pipeline[Any, Any], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that a pipe gets, without the pipeline's name."""

    async def main() -> Report:
        async with pipeline.progress():
            return await pipeline

    testing.run(main())
    return [line.partition(": ")[2] for line in capsys.readouterr().err.splitlines()]


# -- in a pipe ------------------------------------------------------------------------------------


def test_a_pipe_gets_a_line_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """A log file shows percent, n/N, rate, elapsed and the time left moving, and is not flooded; the last stays."""
    assert shown(Pipeline(range(600), slow, maxsize=1), capsys) == [
        "16 % · 100/600 · 10/s · 0:10 · 0:50 left · slow queue 1/1",
        "33 % · 200/600 · 10/s · 0:20 · 0:40 left · slow queue 1/1",
        "50 % · 300/600 · 10/s · 0:30 · 0:30 left · slow queue 1/1",
        "66 % · 400/600 · 10/s · 0:40 · 0:20 left · slow queue 1/1",
        "83 % · 500/600 · 10/s · 0:50 · 0:10 left · slow queue 1/1",
        "100 % · 600/600 · 10/s · 0:59",
    ]


def test_a_pipe_gets_the_name_of_the_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    """Several may share a log."""

    async def main() -> Report:
        pipeline = Pipeline(range(40), slow, name="orders")
        async with pipeline.progress():
            return await pipeline

    testing.run(main())
    assert capsys.readouterr().err == "orders: 100 % · 40/40 · 10/s · 0:03\n"


def test_without_a_stderr_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under pythonw there is none; the run goes on."""

    async def main() -> Report:
        pipeline = Pipeline(range(300), slow)
        async with pipeline.progress():
            return await pipeline

    monkeypatch.setattr(sys, "stderr", None)
    assert testing.run(main()).done == 300


def test_a_stderr_that_is_gone_does_not_disturb_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader of a pipe may end before the program does."""

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    async def main() -> Report:
        pipeline = Pipeline(range(300), slow)
        async with pipeline.progress():
            return await pipeline

    monkeypatch.setattr(sys, "stderr", Gone())
    assert testing.run(main()).done == 300


def test_a_stream_that_has_no_such_characters_gets_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old log is ASCII."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(written, "ascii", write_through=True))

    async def main() -> Report:
        pipeline = Pipeline(range(40), slow)  # long enough that a busy machine does not change its rate
        async with pipeline.progress():
            return await pipeline

    testing.run(main())
    assert written.getvalue() == b"source(range) >> slow: 100 %, 40/40, 10/s, 0:03\n"


# -- totals ---------------------------------------------------------------------------------------


@producer(total=len)
async def each(rows: list[int]) -> AsyncIterator[int]:
    for row in rows:
        yield row


@producer(total=300)
async def thirty() -> AsyncIterator[int]:
    for n in range(300):
        yield n


@producer(total=300)
def plain_thirty() -> Iterator[int]:
    yield from range(300)


@pytest.mark.parametrize(
    "origin",
    [
        each(list(range(300))),
        thirty,
        source((n for n in range(300)), total=300),
        source([*range(300)], total=len),
        merge(each(list(range(200))), range(100)),
    ],
    ids=["a function", "a number", "an iterator", "a list", "merged"],
)
def test_a_total_that_is_told_is_shown(origin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Percent and the time left need a total, and only the user may know it."""
    first = shown(Pipeline(origin, slow, maxsize=1), capsys)[0]
    assert first.startswith("33 % · 100/300 · 10/s · 0:10 · 0:20 left")


def test_a_total_is_asked_for_when_progress_is_shown() -> None:
    """It may be a query of a database, so neither import nor a run without progress pays for it."""
    asked = []

    def count(rows: list[int]) -> int:
        asked.append(rows)
        return len(rows)

    @producer(total=count)
    async def rows(rows: list[int]) -> AsyncIterator[int]:
        for row in rows:
            yield row

    many = [1]
    pipeline = rows(many) >> ignore
    many.append(2)

    async def main() -> None:
        await pipeline
        assert asked == []
        async with pipeline.progress():
            await pipeline

    testing.run(main())
    assert asked == [[1, 2]]


def test_without_a_total_there_is_none_until_the_sources_have_ended(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody can tell the end before; then what is left in the queues is known."""
    lines = shown(Pipeline((n for n in range(400)), slow, maxsize=180), capsys)
    assert lines[0].startswith("100 · 10/s · 0:10 · slow queue ")
    assert lines[2] == "75 % · 300/400 · 10/s · 0:30 · 0:10 left · slow queue 99/180"


def test_a_total_that_is_too_small_is_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    """A bar beyond 100 % would be a lie, and so would one that stays at 100 %."""
    lines = shown(Pipeline(source((n for n in range(400)), total=150), slow, maxsize=1), capsys)
    assert lines[0].startswith("66 % · 100/150 · ")
    assert lines[1].startswith("200 · 10/s · 0:20 · ")
    assert lines[-1] == "100 % · 400/400 · 10/s · 0:39"


def test_a_total_that_is_too_large_is_corrected_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    """When the sources have ended, what they gave is the total."""
    lines = shown(Pipeline(source((n for n in range(200)), total=1000), slow, maxsize=1), capsys)
    assert lines[0].startswith("10 % · 100/1,000 · ")
    assert lines[-1] == "100 % · 200/200 · 10/s · 0:19"


def fails(rows: list[int]) -> int:
    raise OSError("no connection to db://me:canary@host")


@pytest.mark.parametrize("total", [fails, lambda rows: "many", lambda rows: -1])
def test_a_total_that_fails_is_logged_and_the_run_goes_on(
    total: Any, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever only counts cannot stop the work."""
    assert shown(Pipeline(source([*range(20)], total=total), slow, maxsize=1), capsys)[-1].startswith("100 % · 20/20")
    assert "source 'source(list)': total= " in caplog.text
    assert "so its progress has no total" in caplog.text
    assert "canary" not in caplog.text


@pytest.mark.parametrize("wrong", ["1000", -1, 1.5, True])
def test_a_total_that_is_no_number_of_items_is_refused(wrong: Any) -> None:
    """A mistake is told where it is written, with what to write."""
    with pytest.raises(DefinitionError, match=r"total=.* must be a number of items, 0 or more, or a function such as"):
        source([1], total=wrong)
    with pytest.raises(DefinitionError, match=r"producer 'plain_thirty': total=.* must be"):
        producer(total=wrong)(plain_thirty.__wrapped__)


# -- what the line says ---------------------------------------------------------------------------


@consumer(maxsize=0)
async def crawl(page: int) -> None:
    """Finds ten pages on each of the first thirty; a page takes a little less than a second."""
    await asyncio.sleep(0.999)
    if page < 30:
        for link in range(10):
            feed(30 + link if page > 3 else page + 1 + link)


def test_a_run_that_feeds_itself_says_what_is_done_and_what_waits(capsys: pytest.CaptureFixture[str]) -> None:
    """With ``feed`` nobody knows the end, so there is no percent; but whether a crawl gets anywhere can be seen."""
    lines = shown(Pipeline([3], crawl), capsys)
    assert lines[0] == "10 done, 91 waiting · 1/s · 0:10 · crawl queue 90"
    assert not any("%" in line or "left" in line for line in lines[:-1])
    assert lines[-1] == "100 % · 111/111 · 1/s · 1:50"


def test_a_crawl_that_was_stopped_says_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    """What is still fed while it drains is counted too; what was left at the deadline waits."""
    lines = stopped_after(9, Pipeline([3], crawl), 4, capsys)
    assert lines == [
        "10 done, 91 waiting · 1/s · 0:10 · draining · crawl queue 90",
        "stopped at 13 done, 98 waiting · 1/s · 0:13",
    ]


def test_failures_and_filters_are_through(capsys: pytest.CaptureFixture[str]) -> None:
    """An item that failed or was filtered out needs no more time; how many failed is said."""

    @consumer(on_error="skip", concurrency=2, retry=2)
    async def odd(n: int) -> AsyncIterator[int]:
        await asyncio.sleep(1)
        if n == 5:
            raise ValueError
        if n % 2:
            yield n

    lines = shown(Pipeline(range(300), odd >> ignore), capsys)
    assert "1 failed" in lines[0]
    assert lines[-1].startswith("100 % · 300/300 · ")


def test_draining_is_said_only_when_a_stop_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """At the natural end of its sources a run drains too; the word would look as if somebody had stopped it."""
    assert not any("draining" in line for line in shown(Pipeline(range(200), slow), capsys))

    async def main() -> None:
        pipeline = Pipeline(range(1000), slow, maxsize=200)
        async with pipeline.progress(), pipeline as running:
            await asyncio.sleep(5)
            assert not running.statistics().stop_asked
            running.stop()
            assert running.statistics().stop_asked

    testing.run(main())
    lines = capsys.readouterr().err.splitlines()
    assert ["draining" in line for line in lines] == [True] * (len(lines) - 1) + [False]
    assert len(lines) > 1


def test_a_source_that_fails_asks_for_no_stop() -> None:
    """What it produced is drained, but nobody asked."""

    @producer
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise ValueError

    async def main() -> None:
        with pytest.raises(PipelineError) as failed:
            await (broken >> slow)
        assert not failed.value.report.statistics.stop_asked

    testing.run(main())


def test_the_time_left_follows_the_rate_of_the_last_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """After a slow start the mean rate would promise hours."""

    @consumer
    async def warms_up(n: int) -> None:
        await asyncio.sleep(50 if n == 0 else 0.1)

    lines = shown(Pipeline(range(1001), warms_up), capsys)
    after = next(line for line in lines if "· 1:20 ·" in line)
    left = re.search(r"1:20 · (\d+):(\d+) left", after)
    assert left
    assert 60 <= 60 * int(left[1]) + int(left[2]) <= 90  # 70 s at the rate of now; at the mean rate it is 187 s


def test_100_percent_is_said_only_when_all_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    """Values behind a generator may be most of the work; how long they take nobody knows, so no time is promised."""

    @consumer
    async def expand(n: int) -> AsyncIterator[int]:
        for _ in range(50):
            yield n

    @consumer(maxsize=0)
    async def handle(n: int) -> None:
        await slow(n)

    lines = shown(source(range(10)) >> expand >> handle, capsys)
    assert lines[0] == "99 % · 10/10 · 0.59/s · 0:10 · finishing · handle queue 399"
    assert not any("left" in line for line in lines)
    assert lines[-1].startswith("100 % · 10/10 · ")


def test_the_time_left_is_that_of_the_items_while_few_values_wait_behind(capsys: pytest.CaptureFixture[str]) -> None:
    """With a bound between the stages it is a good guess until near the end."""

    @consumer
    async def expand(n: int) -> AsyncIterator[int]:
        yield n
        yield n

    lines = shown(Pipeline(range(200), expand >> slow, maxsize=4), capsys)
    assert lines[0].startswith("26 % · 52/200 · 5.1/s · 0:10 · 0:29 left · ")


def stopped_after(seconds: float, pipeline: Pipeline[Any, Any], drain: float, capsys: Any) -> list[str]:
    """The lines of a run that somebody stops."""

    async def main() -> None:
        with suppress(PipelineError):
            async with pipeline.progress(), pipeline as running:
                await asyncio.sleep(seconds)
                running.stop(drain)
                await running.wait()

    testing.run(main())
    return [line.partition(": ")[2] for line in capsys.readouterr().err.splitlines()]


def test_a_run_that_was_stopped_says_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    """What the sources would still have given is not done; while it drains, the time left is that of the drain."""
    lines = stopped_after(9, Pipeline(range(100_000), slow, maxsize=200), 100, capsys)
    assert lines[0] == "0 % · 100/100,000 · 10/s · 0:10 · 0:11 left · draining · slow queue 100/200"
    assert lines[-1] == "stopped at 0 % · 201/100,000 · 10/s · 0:20"


def test_a_run_of_unknown_length_that_was_stopped_shows_no_share(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody can say what 100 % would have been."""
    lines = stopped_after(9, Pipeline((n for n in range(100_000)), slow, maxsize=200), 100, capsys)
    assert lines[0] == "100 · 10/s · 0:10 · 0:11 left · draining · slow queue 100/200"
    assert lines[-1] == "stopped at 201 · 10/s · 0:20"


def test_what_is_put_in_has_no_other_end_than_a_stop(capsys: pytest.CaptureFixture[str]) -> None:
    """To leave the block is the natural end of a pipeline without a source; what was left at a deadline is said."""

    async def run(drain_timeout: float) -> None:
        pipeline = Pipeline(slow, drain_timeout=drain_timeout)
        with suppress(PipelineError):
            async with pipeline.progress(), pipeline as running:
                for n in range(40):
                    await running.put(n)

    testing.run(run(30))
    assert capsys.readouterr().err == "slow: 100 % · 40/40 · 10/s · 0:03\n"
    testing.run(run(2))
    assert capsys.readouterr().err == "slow: stopped at 50 % · 20/40 · 10/s · 0:02\n"


def test_values_that_were_left_behind_the_items_are_not_done(capsys: pytest.CaptureFixture[str]) -> None:
    """All items may be through when the deadline comes, and what was made of them not."""

    @consumer
    async def expand(n: int) -> AsyncIterator[int]:
        for _ in range(50):
            yield n

    lines = stopped_after(2, Pipeline([1], expand >> slow), 1, capsys)
    assert lines == ["stopped at 99 % · 1/1 · 0.29/s · 0:03"]


@pytest.mark.parametrize("total", [None, 1000])
def test_a_run_that_failed_says_how_far_it_came(total: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    """A source that raises would have given more, so what it gave is not 100 %, neither while that is drained."""

    @producer(total=total)
    async def broken() -> AsyncIterator[int]:
        for n in range(120):
            yield n
        raise ValueError

    async def main() -> None:
        pipeline = Pipeline(broken, slow, maxsize=128)
        with suppress(PipelineError):
            async with pipeline.progress():
                await pipeline

    testing.run(main())
    lines = [line.partition(": ")[2] for line in capsys.readouterr().err.splitlines()]
    share, of = ("10 % · ", "/1,000") if total else ("", "")
    assert lines == [
        f"{share}100{of} · 10/s · 0:10 · 0:02 left · slow queue 19/128",
        f"failed at {share.replace('10', '12')}120{of} · 10/s · 0:11",
    ]


def test_an_empty_source_is_all_done(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing of nothing is all of it."""
    assert shown(Pipeline([], slow), capsys) == ["100 % · 0/0 · 0/s · 0:00"]


# -- in a notebook --------------------------------------------------------------------------------


def test_a_notebook_gets_a_bar_that_is_redrawn_in_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One output below the cell, not hundreds; names are text, not HTML."""
    outputs: list[list[str]] = []

    class Handle:
        def update(self, shown: Any) -> None:
            outputs[-1].append(shown._repr_html_())

    def display(shown: Any, *, display_id: bool) -> Handle:
        assert display_id
        outputs.append([shown._repr_html_()])
        return Handle()

    ipython, module = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    monkeypatch.setattr(ipython, "get_ipython", lambda: types.SimpleNamespace(kernel=1), raising=False)
    monkeypatch.setattr(module, "display", display, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", module)

    async def main() -> None:
        pipeline = Pipeline(range(40), slow, name="<b>a")
        async with pipeline.progress():
            await pipeline

    testing.run(main())
    ((first, *_, last),) = outputs
    assert first.startswith('<div>&lt;b&gt;a <progress value="0.0500"></progress> 5 % · 2/40 · ')
    assert last == '<div>&lt;b&gt;a <progress value="1.0000"></progress> 100 % · 40/40 · 10/s · 0:03</div>'
    assert capsys.readouterr().err == ""


# -- at the foot of a screen ----------------------------------------------------------------------


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Tee:
    """What many programs put in the place of a stream: it can be written to, and no more."""

    __slots__ = ("written",)

    def __init__(self) -> None:
        self.written: list[str] = []

    def write(self, text: str) -> int:
        self.written.append(text)
        return len(text)

    def flush(self) -> None: ...


@pytest.fixture(params=["rich", "plain"])
def screen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Screen:
    """A terminal, with rich and without."""
    if request.param == "plain":
        monkeypatch.setitem(sys.modules, "rich", None)
    else:
        pytest.importorskip("rich.live")  # here, since it reads files
        pytest.importorskip("rich.text")
    monkeypatch.setenv("TERM", "xterm")
    return Screen()


def run_shown(pipeline: Pipeline[Any, Any], screen: Screen, stdout: Any = None) -> None:
    """Run it with ``screen`` as stderr."""

    async def main() -> None:
        async with pipeline.progress():
            await pipeline

    with redirect_stderr(screen), redirect_stdout(stdout):
        testing.run(main())


def test_a_stdout_that_can_only_be_written_to_is_no_terminal(screen: Screen) -> None:
    """Whoever copies stdout into a file sees the progress all the same, and gets the streams back as they were."""
    tee = Tee()

    @consumer
    async def talks(n: int) -> None:
        await slow(n)
        print("line", n)

    run_shown(Pipeline(range(10), talks), screen, tee)
    assert "% · 2/10 · " in screen.getvalue()
    assert ": 100 % · 10/10 · " in screen.getvalue()
    assert "".join(tee.written) == "".join(f"line {n}\n" for n in range(10))
    assert "write" not in vars(screen)


def test_a_stream_that_gets_no_other_write_leaves_the_others_as_they_were(
    screen: Screen, caplog: pytest.LogCaptureFixture
) -> None:
    """The line would be torn apart by what such a stream writes: there is none, and it is said."""

    class Fixed(Tee):
        __slots__ = ()

        def isatty(self) -> bool:
            return True

    run_shown(Pipeline(range(10), slow), screen, Fixed())
    assert "no progress is shown" in caplog.text
    assert "write" not in vars(screen)


def test_nothing_written_takes_no_room(screen: Screen) -> None:
    """``print(end="")`` is how some libraries flush: the line must not wait for the end of a line for ever."""

    @consumer
    async def flushes(n: int) -> None:
        print("", end="", file=screen)
        await slow(n)

    run_shown(Pipeline(range(10), flushes), screen)
    assert "% · 2/10 · " in screen.getvalue()


def test_the_line_stays_where_it_began_when_stderr_is_redirected(screen: Screen) -> None:
    """Who collects what a call says on stderr must not find a progress line in it."""
    elsewhere = io.StringIO()

    @consumer
    async def redirects(n: int) -> None:
        sys.stderr = elsewhere
        await slow(n)

    run_shown(Pipeline(range(10), redirects), screen)
    assert elsewhere.getvalue() == ""
    assert "% · 2/10 · " in screen.getvalue()
    assert ": 100 % · 10/10 · " in screen.getvalue()


def test_a_screen_that_is_closed_gets_its_write_back(screen: Screen) -> None:
    """What the line replaced must not outlive it, whatever happens to the terminal."""

    @consumer
    async def closes(n: int) -> None:
        await slow(n)
        screen.close()

    run_shown(Pipeline(range(10), closes), screen)
    assert "write" not in vars(screen)


def test_what_is_printed_when_the_screen_is_gone_fails_no_item(screen: Screen) -> None:
    """The line cannot be drawn any more; what the program writes elsewhere is none of its business."""
    printed = Screen()

    @consumer
    async def talks(n: int) -> None:
        await slow(n)
        if n == 5:  # something is drawn by then
            screen.close()
        print("line", n)

    run_shown(Pipeline(range(10), talks), screen, printed)
    assert printed.getvalue() == "".join(f"line {n}\n" for n in range(10))


def test_a_write_that_the_program_replaces_meanwhile_draws_no_line_after_the_end(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that copies what is written goes on with the function that it has found during the run."""
    monkeypatch.setattr(foot, "SOON", 0)

    @consumer
    async def replaces(n: int) -> None:
        await slow(n)
        if n == 5:
            found = screen.write
            vars(screen)["write"] = lambda text: found(text)

    run_shown(Pipeline(range(10), replaces), screen)
    before = screen.getvalue()
    screen.write("later\n")
    assert screen.getvalue().removeprefix(before) == "later\n"


def test_a_write_that_the_program_had_replaced_is_there_again(screen: Screen) -> None:
    """A program may copy what is written by such a replacement; it must not lose it to the line."""
    copied: list[str] = []

    def copies(text: str) -> int:
        copied.append(text)
        return len(text)

    vars(screen)["write"] = copies
    run_shown(Pipeline(range(10), slow), screen)
    assert "% · 2/10 · " in "".join(copied)
    assert vars(screen)["write"] is copies


# -- on a terminal --------------------------------------------------------------------------------

PROGRAM = """
import asyncio, logging, sys
if "plain" in sys.argv:
    sys.modules["rich"] = None
from asyncpc import Pipeline, consumer, run
logging.basicConfig(format="%(message)s")

@consumer
async def slow(n):
    if n == 30:
        logging.error("a line of the log, from a handler that keeps its stream")
    await asyncio.sleep(0.02)

def pipeline(name):
    return Pipeline(range(40), slow, name=name)

async def several():
    first, second = pipeline("first"), pipeline("second")
    async with first.progress(), second.progress():
        await asyncio.gather(ended(first), ended(second))

async def ended(pipeline):
    await pipeline

if "several" in sys.argv:
    asyncio.run(several())
else:
    run(pipeline("only"), progress=True)
print("write" in vars(sys.stdout), "write" in vars(sys.stderr))
"""


def on_screen(text: str) -> list[str]:
    """What is left to be read on a terminal that is wide enough."""
    lines, column = [""], 0
    for piece in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", text):
        if piece == "\n":
            lines.append("")
            column = 0
        elif piece == "\r":
            column = 0
        elif piece == "\x1b[2K":
            lines[-1], column = "", 0
        elif piece == "\x1b[1A":
            del lines[-1]
            column = min(column, len(lines[-1]))
        elif not piece.startswith("\x1b"):
            lines[-1] = lines[-1][:column] + piece + lines[-1][column + len(piece) :]
            column += len(piece)
    return [line.rstrip() for line in lines if line.strip()]


@pytest.mark.thorough
@pytest.mark.realtime
@pytest.mark.parametrize("how", ["rich", "plain"])
def test_the_last_state_and_all_that_was_logged_stay_on_the_terminal(tmp_path: Path, how: str) -> None:
    """``run(progress=True)``: the line moves, makes room for log lines too, and is gone but for its last state."""
    ended = run_on_terminal(tmp_path, "-c", PROGRAM, how)
    assert ended.status == 0
    drawn = re.findall(r"(\d+) % · (\d+)/40 · \d+/s · 0:0\d · 0:0\d left", ended.out)
    assert len(drawn) >= 2
    assert len(set(drawn)) >= 2
    assert [line for line in on_screen(ended.out) if "slow queue" not in line] == [
        "a line of the log, from a handler that keeps its stream",
        next(line for line in on_screen(ended.out) if line.startswith("only: 100 % · 40/40 · ")),
        "False False",
    ]


@pytest.mark.thorough
@pytest.mark.realtime
@pytest.mark.parametrize("how", ["rich", "plain"])
def test_several_runs_share_the_foot_of_the_terminal(tmp_path: Path, how: str) -> None:
    """Each has its line, with its name; they do not write over each other."""
    ended = run_on_terminal(tmp_path, "-c", PROGRAM, how, "several", columns=160)
    assert ended.status == 0
    assert re.search(r"first: \d+ % .*(\n|\|).*second: \d+ % ", ended.out)
    assert [line[:12] for line in on_screen(ended.out)][-3:] in (
        ["first: 100 %", "second: 100 ", "False False"],
        ["second: 100 ", "first: 100 %", "False False"],
    )


@pytest.mark.realtime
def test_run_shows_no_progress_unless_it_is_asked_to(tmp_path: Path) -> None:
    """A program that runs a pipeline owns its streams."""
    ended = run_child(tmp_path, "-c", PROGRAM.replace(", progress=True", ""))
    assert "%" not in ended.err
    assert "only: 100 % · 40/40 · " in run_child(tmp_path, "-c", PROGRAM).err
