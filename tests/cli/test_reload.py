"""``asyncpc run --reload``: the command again in a child process, whenever a file changes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from children import Child, run_child
from support import BUSY

pytestmark = [pytest.mark.realtime, pytest.mark.processes]

APP = """
import asyncio, os
from asyncpc import Pipeline, consumer, producer

stopped = asyncio.Event()

@producer
async def ready():
    yield 1
    print("ready VERSION", os.getpid(), flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("draining", flush=True)
        stopped.set()

@consumer
async def handle(n):
    await stopped.wait()
    await asyncio.sleep(SECONDS)  # in a child that is told to stop meanwhile

pipeline = Pipeline(ready, handle, drain_timeout=20)
"""


def write(folder: Path, version: str, seconds: float = 0.0) -> None:
    """Write the user's module, as an editor does: at once."""
    (folder / "new").write_text(APP.replace("VERSION", version).replace("SECONDS", str(seconds)))
    (folder / "new").rename(folder / "app.py")


def reloaded(folder: Path, *options: str, own_group: bool = False) -> Child:
    return Child(folder, "-m", "asyncpc", "run", "app", "--reload", *options, own_group=own_group)


def pid_in(line: str) -> int:
    return int(line.split()[-1])


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.thorough)])
def test_a_change_drains_the_run_and_starts_it_again(tmp_path: Path, number: signal.Signals) -> None:
    """Whoever edits a worker sees what it does now, and no item is lost on the way; a signal drains the last one."""
    write(tmp_path, "one")
    child = reloaded(tmp_path)
    first = pid_in(child.line_with("ready one"))
    write(tmp_path, "three")  # longer: Python tells two versions of one second apart by their lengths
    child.line_with("1 produced, 1 done")
    second = pid_in(child.line_with("ready three"))
    assert first != second
    assert not is_there(first)
    child.send(number)
    ended = child.end()
    assert ended.status == 128 + number
    assert ended.seconds < BUSY
    assert ended.out.count("1 produced, 1 done") == 2
    assert ended.err == "asyncpc: app.py changed\n"
    assert not is_there(second)


def test_ctrl_c_at_a_terminal_counts_once(tmp_path: Path) -> None:
    """A terminal tells every process; the run must not take its parent's word for a second signal, which cancels."""
    write(tmp_path, "one", seconds=0.3)
    child = reloaded(tmp_path, own_group=True)
    child.line_with("ready")
    child.send_to_group(signal.SIGINT)
    ended = child.end()
    assert (ended.status, ended.err) == (130, "")
    assert "1 produced, 1 done" in ended.out


def test_a_second_signal_cancels(tmp_path: Path) -> None:
    """As without ``--reload``; and the status is that of the run."""
    write(tmp_path, "one", seconds=60)
    child = reloaded(tmp_path)
    pid = pid_in(child.line_with("ready"))
    child.send(signal.SIGINT)
    child.line_with("draining")
    child.send(signal.SIGINT)
    ended = child.end()
    assert ended.status == 1
    assert ended.seconds < BUSY
    assert "left unfinished: 1 items (handle 1)" in ended.err
    assert not is_there(pid)


def test_a_stop_keeps_to_its_drain_timeout(tmp_path: Path) -> None:
    """The child has as long as it would have without a parent, and no longer."""
    write(tmp_path, "one", seconds=60)
    child = reloaded(tmp_path, "--drain-timeout", "0.2")
    child.line_with("ready")
    child.send(signal.SIGINT)
    ended = child.end()
    assert ended.status == 1
    assert 0.2 <= ended.seconds < BUSY
    assert "left unfinished: 1 items (handle 1)" in ended.err


IN_ONE = """
import os, sys
os.dup2(1, 2)  # what is told on stderr can be waited for
os.execv(sys.executable, [sys.executable, "-m", "asyncpc", *sys.argv[1:]])
"""


def test_a_run_that_has_ended_waits_for_a_change(tmp_path: Path) -> None:
    """A typing error ends one run, not the whole; what is no module of Python changes nothing."""
    (tmp_path / "app.py").write_text("1 / 0")
    child = Child(tmp_path, "-c", IN_ONE, "run", "app", "--reload", "--quiet")
    child.line_with("ended with status 2; a change runs it again")
    (tmp_path / "notes.txt").write_text("no program")
    write(tmp_path, "one")
    child.line_with("app.py changed")
    child.line_with("ready one")
    child.send(signal.SIGTERM)
    ended = child.end()
    assert ended.status == 143
    assert ended.out.count("ZeroDivisionError") == 1
    assert "notes" not in ended.out


def test_a_signal_between_two_runs_ends_it(tmp_path: Path) -> None:
    """There is no run to drain then, so nothing is waited for."""
    (tmp_path / "app.py").write_text("1 / 0")
    child = Child(tmp_path, "-c", IN_ONE, "run", "app", "--rel")  # argparse takes that for --reload
    child.line_with("ended with status 2")
    child.send(signal.SIGINT)
    ended = child.end()
    assert ended.status == 130
    assert ended.seconds < BUSY


def test_without_watchfiles_it_says_what_to_install(tmp_path: Path) -> None:
    """The extra is optional; who needs it reads the command that installs it."""
    program = "import sys; sys.modules['watchfiles'] = None\nfrom asyncpc.cli.main import main\n"
    ended = run_child(tmp_path, "-c", program + "sys.exit(main(['run', 'app', '--reload']))")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == "asyncpc: --reload needs watchfiles: pip install 'asyncpc[reload]'\n"
