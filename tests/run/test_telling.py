"""SIGUSR1: a person asks a process where its workers are, and is told, whatever the process is busy with."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from children import PATIENCE, Child

pytestmark = pytest.mark.realtime

APP = """
import asyncio, logging, os, signal, sys, time
from asyncpc import Pipeline, consumer, run, source

@consumer(concurrency=5)
async def fetch(n):
    if n == 4:
        print("ready", flush=True)
    if n < 2:
        await asyncio.sleep(3600)  # the line of two
    await asyncio.Event().wait()  # the line of three

@consumer
async def blocks(n):
    print("ready", flush=True)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        ...

@consumer
async def idle(n): ...

waiting = Pipeline(source(range(5)), fetch >> idle, name="shop")
blocking = Pipeline(source(range(5)), blocks, name="shop")

async def on_signals(pipeline):
    async with pipeline as running, running.on_signals():
        await running.wait()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def line_of(comment: str) -> int:
    return next(number for number, line in enumerate(APP.splitlines(), 1) if line.endswith(comment))


def told(child: Child, is_told: Callable[[str], bool]) -> str:
    """What it has written to stderr once the answer is there; then it is killed."""
    deadline = time.monotonic() + PATIENCE
    while not is_told(child.errors_so_far()):
        assert time.monotonic() < deadline, child.errors_so_far()
        time.sleep(0.01)
    text = child.errors_so_far()
    child.send(signal.SIGKILL)
    child.end()
    return text


RUNS = {
    "run()": ["-c", "from app import *; run(waiting)"],
    "on_signals()": ["-c", "from app import *; asyncio.run(on_signals(waiting))"],
    "asyncpc run": ["-m", "asyncpc", "run", "app:waiting"],
}


@pytest.mark.parametrize("how", RUNS)
def test_each_worker_is_told_with_its_line(folder: Path, how: str) -> None:
    """Those that do the same at the same place together; without any logging set up it is on stderr."""
    child = Child(folder, *RUNS[how])
    child.line_with("ready")
    child.send(signal.SIGUSR1)
    text = told(child, lambda text: "waiting for items" in text or text.count("\n") >= 3)
    assert text.startswith("pipeline 'shop': ")
    two, three = line_of("the line of two"), line_of("the line of three")
    assert re.search(rf"\n  fetch-1, fetch-2: at work.* \(app.py:{two} in fetch\)\n", text)
    assert re.search(rf"\n  fetch-3, fetch-4, fetch-5: at work.* \(app.py:{three} in fetch\)\n", text)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_blocked_loop_is_told_with_the_line_that_blocks_it(folder: Path, loop: str) -> None:
    """The loop can answer nothing then, and that is when a person asks."""
    child = Child(folder, "-c", f"from app import *; run(blocking, loop={loop!r})")
    child.line_with("ready")
    child.send(signal.SIGUSR1)
    text = told(child, lambda text: text.count("\n") >= 2)
    assert re.search(r"'shop': the event loop has not answered for 0.\d s: it is blocked by blocks \(app.py:", text)
    assert re.search(r"  blocks-1: at work.* \(app.py:\d+ in blocks\)", text)


def test_how_long_it_has_lasted_is_told(folder: Path) -> None:
    """As far as anybody has looked: the first question is a look."""
    child = Child(folder, *RUNS["on_signals()"])
    child.line_with("ready")
    child.send(signal.SIGUSR1)
    deadline = time.monotonic() + PATIENCE
    while "in fetch" not in child.errors_so_far():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(1.1)  # what is to be told is that time has passed
    child.send(signal.SIGUSR1)
    assert "at work for up to 1 s (app.py:" in told(child, lambda text: " for up to 1 s" in text)


def test_a_handler_of_the_program_stays(folder: Path) -> None:
    """The signal may mean something else there."""
    own = "signal.signal(signal.SIGUSR1, lambda *_: os.write(2, b'its own\\n'))"
    child = Child(folder, "-c", f"from app import *; {own}; run(waiting)")
    child.line_with("ready")
    child.send(signal.SIGUSR1)
    assert told(child, lambda text: "\n" in text) == "its own\n"


def test_a_question_fails_no_run_where_no_thread_can_be_had(folder: Path) -> None:
    """As at a limit of processes: what the signal interrupts is any line of the program, and it must go on."""
    program = (
        "from app import *\n"
        "import threading\n"
        "@consumer\n"
        "async def asks(n):\n"
        "    threading.stack_size(2**46)\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    await asyncio.sleep(0.01)\n"
        "print(run(Pipeline(range(3), asks)).done)\n"
    )
    ended = Child(folder, "-c", program).end()
    assert (ended.status, ended.out) == (0, "3\n"), ended.err


def test_afterwards_the_signal_is_as_it_was(folder: Path) -> None:
    """What was installed for a run goes with it."""
    done = "from app import *; run(Pipeline(range(3), idle)); assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL"
    assert Child(folder, "-c", done).end().status == 0


def test_many_questions_at_once_disturb_nothing(folder: Path) -> None:
    """Each comes between two steps of the program, wherever it is: a lock that it has must not be waited for."""
    busy = (
        "from app import *\n"
        "import threading\n"
        "@consumer(concurrency=4)\n"
        "async def busy(n):\n"
        "    if n == 0: print('ready', flush=True)\n"
        "    thread = threading.Thread(target=int); thread.start(); thread.join()\n"
        "    logging.getLogger('x').warning('%s', n)\n"
        "    await asyncio.sleep(0)\n"
        "logging.basicConfig(level='CRITICAL')\n"
        "print(run(Pipeline(range(3000), busy)).done)\n"
    )
    child = Child(folder, "-c", busy)
    child.line_with("ready")
    with_errors = False
    for _ in range(200):
        try:
            os.kill(child.pid, signal.SIGUSR1)
        except ProcessLookupError:
            with_errors = True
        time.sleep(0.001)
    ended = child.end()
    assert not with_errors
    assert ended.status in (0, -signal.SIGUSR1)  # the default action, if one came after the run
    if ended.status == 0:
        assert ended.out.splitlines()[-1] == "3000"
