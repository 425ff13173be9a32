"""``live``: a run on a terminal, as a person sees it; what is drawn is tried in ``watch/test_screen.py``."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from children import Ended, run_child, run_on_terminal
from support import ignore

from asyncpc import DefinitionError, Pipeline, run, testing
from asyncpc.live import live

PROGRAM = """
import asyncio, logging, sys, time
if "without" in sys.argv:
    sys.modules["rich"] = sys.modules["rich.segment"] = None
from asyncpc import Pipeline, consumer, run, source
from asyncpc.live import live
logging.basicConfig(format="%(message)s")

written, write = [], sys.stderr.write
sys.stderr.write = lambda text: written.append(text) or write(text)

@consumer(concurrency=4)
async def fetch(n):
    if n == 30:
        logging.error("a line of the log")
    while n == 50 and "blocked" in sys.argv and sum(["not answered for" in text for text in written]) < 2:
        time.sleep(0.05)
    await asyncio.sleep(0.02)
    return n

@consumer(on_error="skip")
async def store(n):
    if n % 50 == 7:
        raise ValueError("\\x1b[2J is no price")
    print("stored", n, flush=True) if n == 60 else None

pipeline = Pipeline(source(range(200)), fetch >> store, name="shop")

async def main():
    async with pipeline as running, live(running):
        await running.wait()
"""

ENDS = {"run": "print(run(pipeline, live=True))", "live": "asyncio.run(main())"}

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def shown(folder: Path, *how: str, columns: int = 130, end: str = ENDS["run"]) -> Ended:
    pytest.importorskip("rich")
    return run_on_terminal(folder, "-c", PROGRAM + end, *how, columns=columns)


def left_of(text: str) -> list[str]:
    """What is left to be read: of the rows that were erased nothing, of the others no colours."""
    lines, row = [""], 0
    for piece in re.split(r"(\x1b\[[0-9;]*[A-Za-z]|\r|\n)", text):
        if piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif piece == "\x1b[2K":
            lines[row] = ""
        elif piece == "\x1b[1A":
            row -= 1
        elif piece and piece[0] not in "\r\x1b":
            lines[row] += piece
    return [line for line in lines if line]


@pytest.mark.realtime
@pytest.mark.parametrize("end", ENDS)
def test_the_view_moves_and_the_last_one_equals_the_report(tmp_path: Path, end: str) -> None:
    """A person sees each stage at work; what the program logs and prints stays above, and so does the last state."""
    ended = shown(tmp_path, end=ENDS[end])
    assert ended.status == 0
    drawn = re.findall(r"(\d+)%\S* of 200 ·\S* (\d+) done", ended.out)
    assert len(set(drawn)) >= 3
    drawings = ended.out.count("p99")
    assert drawings <= (4 + 10) * ended.seconds + 2
    left = [line for line in left_of(ended.out) if not line.startswith("stage 'store': ")]
    assert left[:3] == ["a line of the log", "stored 60", left[2]]
    assert left[2].startswith(" ENDED  ")
    assert re.search(r"100% of 200 · 196 done · 4 failed · \d+/s · 0:0\d$", left[3])
    assert re.search(r"^ store .*  4$", left[6])
    assert left[7].endswith(r"\x1b[2J is no price")
    assert " store ValueError ×4 (<string>" in left[7] or " store ValueError ×4: " in left[7]
    if end == "run":
        assert "200 produced, 196 done in" in ended.out


@pytest.mark.realtime
def test_a_blocked_loop_is_told_while_it_is_blocked(tmp_path: Path) -> None:
    """The one moment at which the loop itself can tell nothing."""
    ended = shown(tmp_path, "blocked")
    told = re.findall(r"the event loop has not answered for (\d+\.\d) s: it is blocked by fetch", ended.out)
    assert len(set(told)) >= 2
    assert ended.status == 0


@pytest.mark.realtime
def test_piped_output_has_no_control_characters(tmp_path: Path) -> None:
    """A log gets the lines of progress, as without it."""
    pytest.importorskip("rich")
    ended = run_child(tmp_path, "-c", PROGRAM + ENDS["run"])
    assert ended.status == 0
    assert not CONTROL.search(ended.out + ended.err)
    assert "shop: 100 % · 200/200 · " in ended.err


@pytest.mark.realtime
def test_a_dumb_terminal_gets_lines(tmp_path: Path) -> None:
    """Such as that of an editor, which shows no colours and moves no cursor."""
    pytest.importorskip("rich")
    dumb = "import os; os.environ['TERM'] = 'dumb'\n"
    ended = run_on_terminal(tmp_path, "-c", dumb + PROGRAM + ENDS["run"])
    assert not CONTROL.search(ended.out)
    assert "shop: 100 % · 200/200 · " in ended.out


@pytest.mark.realtime
def test_it_is_as_wide_as_its_terminal_when_stdout_is_a_file(tmp_path: Path) -> None:
    """``… --live > report.txt``: rows that are too long would be folded, and could not be erased."""
    pytest.importorskip("rich")
    into_file = "import os; os.dup2(os.open(os.devnull, os.O_WRONLY), 1)\n"
    ended = run_on_terminal(tmp_path, "-c", into_file + PROGRAM + ENDS["run"], columns=60)
    pieces = re.split(r"\r|\n|\x1b\[1A", ended.out)
    rows = [row for row in (re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", piece) for piece in pieces) if row.startswith(" ")]
    assert 50 < max(map(len, rows)) <= 60


MANY = """
import asyncio
from contextlib import AsyncExitStack
from asyncpc import Pipeline, consumer
from asyncpc.live import live

@consumer
async def work(n): await asyncio.sleep(0.6)

async def main():
    async with AsyncExitStack() as stack:
        runs = [await stack.enter_async_context(Pipeline(range(1), work, name=f"run {n}")) for n in range(40)]
        for running in runs:
            await stack.enter_async_context(live(running))
        print("all")
        await runs[0].wait()
        print("over")

asyncio.run(main())
"""


@pytest.mark.realtime
def test_more_runs_than_lines_fill_the_terminal_and_no_more(tmp_path: Path) -> None:
    """A row that has left the screen at its top could not be erased; with a line for none of them nothing is seen."""
    pytest.importorskip("rich")
    ended = run_on_terminal(tmp_path, "-c", MANY)  # of 30 lines
    under_way = ended.out.partition("all")[2].partition("over")[0]
    erased = [up.count("\x1b[1A") for up in re.findall(r"(?:\x1b\[1A\x1b\[2K)+", under_way)]
    assert len(erased) > 1
    assert set(erased) == {28}


@pytest.mark.realtime
@pytest.mark.parametrize("what", ["run", "live"])
def test_without_rich_it_says_what_to_install(tmp_path: Path, what: str) -> None:
    """Before anything has run."""
    ended = run_child(tmp_path, "-c", PROGRAM + ENDS[what], "without")
    name = {"run": "run(live=True)", "live": "live()"}[what]
    assert ended.err.endswith(f"asyncpc.errors.DefinitionError: {name} needs rich: pip install 'asyncpc[rich]'\n")
    if what == "run":
        assert "stored" not in ended.out


def test_live_takes_a_run() -> None:
    """A pipeline would have to be entered first."""
    pipeline: Any = Pipeline(range(3), ignore)

    async def main() -> None:
        async with live(pipeline):
            pass

    with pytest.raises(DefinitionError, match=r"live\(\) takes a run, as 'async with pipeline as running' gives it"):
        testing.run(main())


def test_a_run_leaves_no_thread_and_gives_the_streams_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the run nothing of the view is left, neither when the terminal breaks in its midst."""
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    before = set(threading.enumerate())
    for broken in (False, True):
        with terminal(broken=broken) as stream:
            monkeypatch.setattr(sys, "stderr", stream)
            report = run(Pipeline(range(100), ignore), live=True)
        assert report.done == 100
        assert "write" not in vars(stream)
        while set(threading.enumerate()) - before:
            time.sleep(0.01)  # it is told to end, and nobody waits for it


def test_without_room_for_its_thread_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process may have as many threads as it is allowed; the streams are given back then, too."""
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    before = threading.stack_size(1 << 50)  # more than there can be
    try:
        with terminal(broken=False) as stream:
            monkeypatch.setattr(sys, "stderr", stream)
            assert run(Pipeline(range(100), ignore), live=True).done == 100
    finally:
        threading.stack_size(before)
    assert "no live view is shown: RuntimeError" in caplog.text
    assert "write" not in vars(stream)


@contextmanager
def terminal(broken: bool) -> Iterator[Any]:
    """A stream that says it is a terminal; nothing can be written to a broken one."""
    ours, theirs = os.openpty()
    stream = open(theirs, "w", encoding="utf-8")  # noqa: SIM115 — it cannot be closed as usual when it is broken
    if broken:
        os.close(ours)
    yield stream
    with suppress(OSError):
        stream.close()
    if not broken:
        os.close(ours)


# -- in tmux --------------------------------------------------------------------------------------


@contextmanager
def tmux(folder: Path, columns: int, command: str) -> Iterator[Any]:
    """A terminal of that width that runs a command; gives what shows its screen."""
    if shutil.which("tmux") is None:
        assert "ASYNCPC_REQUIRE_SERVERS" not in os.environ
        pytest.skip("tmux is not installed")
    server = ["tmux", "-u", "-S", str(folder / "tmux"), "-f", os.devnull]

    def screen() -> list[str]:
        shown = subprocess.run([*server, "capture-pane", "-p"], capture_output=True, text=True, check=True).stdout
        return [line for line in shown.splitlines() if line]

    size = ["-x", str(columns), "-y", "40"]
    environment = os.environ | {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}
    subprocess.run([*server, "new-session", "-d", *size, command], env=environment, cwd=folder, check=True)
    try:
        yield screen
    finally:
        subprocess.run([*server, "kill-server"], check=False)


@pytest.mark.thorough
@pytest.mark.realtime
@pytest.mark.parametrize("columns", [80, 130, 200])
def test_on_a_real_terminal_bars_move_and_the_last_screen_equals_the_report(tmp_path: Path, columns: int) -> None:
    """No row is folded or torn, whatever the width; the terminal is one that others wrote."""
    pytest.importorskip("rich")
    (tmp_path / "program.py").write_text(PROGRAM.replace("range(200)", "range(700)") + ENDS["run"])
    screens: list[list[str]] = []
    with tmux(tmp_path, columns, f"{sys.executable} program.py; read") as screen:
        end = time.monotonic() + 30
        while not any("produced," in line for line in screens[-1:] or [[]]) and time.monotonic() < end:
            if (now := screen()) not in screens:
                screens.append(now)
            if any("produced," in line for line in now):
                break
            time.sleep(0.1)  # real time passes on a real terminal
    under_way = [one for one in screens if any(" RUNNING " in line for line in one)]
    bars = {line for one in under_way for line in one if " of 700 · " in line}
    assert len({bar.count("█") for bar in bars}) >= 5
    for one in under_way:
        begin = next(at for at, line in enumerate(one) if " RUNNING " in line)
        assert sum([" RUNNING " in line for line in one]) == 1
        heads = next(line for line in one[begin:] if line.startswith(" stage "))
        assert heads.endswith("failed")
    last = screens[-1]
    assert [line for line in last if line in ("a line of the log", "stored 60")] == ["a line of the log", "stored 60"]
    assert any("100% of 700 · 686 done · 14 failed" in line for line in last)
    assert any("700 produced, 686 done in" in line for line in last)


# -- cost -----------------------------------------------------------------------------------------

COST = """
import asyncio, resource, sys
from time import perf_counter
from asyncpc import Pipeline, consumer, run, source

@consumer
async def nothing(n): return n

@consumer
async def last(n): ...

def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_nvcsw

for number, live in enumerate(map(int, "10110" if len(sys.argv) < 2 else sys.argv[1])):
    (before, waited), began = cpu(), perf_counter()
    run(Pipeline(source(range(2_000_000 if number else 100_000)), nothing >> last), live=bool(live))
    after, waits = cpu()
    print("CPU", live, after - before, perf_counter() - began, waits - waited)
"""


@pytest.mark.thorough
@pytest.mark.realtime
@pytest.mark.timeout(180)
def test_the_view_costs_less_than_three_in_a_hundred(tmp_path: Path) -> None:
    """By CPU time in each second, since the view is drawn so often a second, however busy the machine is.

    The run does nothing else; the two without the view tell how far the machine can be trusted. A thread that waits for
    the GIL in vain waits thousands of times.
    """
    pytest.importorskip("rich")
    views: list[float] = []
    differences: list[float] = []
    waits: list[int] = []
    for _ in range(5):
        ended = run_on_terminal(tmp_path, "-c", COST)
        told = [tuple(map(float, line.split())) for line in re.findall(r"CPU \d ([\d. ]+)", ended.out)]
        (first, *_), (on, took, waited), (again, took_again, waited_again), (last, *_) = told[1:]  # the first warms up
        views.append((on + again - first - last) / (took + took_again))
        differences.append(abs(first - last) / (first + last))
        waits += [int(waited), int(waited_again)]
    cost, noise = statistics.median(views), statistics.median(differences)
    assert cost <= 0.03 + noise, (views, differences)
    assert statistics.median(waits) <= 500, waits
