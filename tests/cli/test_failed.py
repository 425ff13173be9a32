"""``asyncpc run --failed FILE``: what failed and what was left can be read back, whatever else happens."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from children import PATIENCE, Child
from support import BUSY

from asyncpc.cli.main import main

APP = r"""
import asyncio, sys
from asyncpc import Batch, Retry, consumer, producer, source

def at_once(attempt):
    return 0

@consumer(on_error="skip", retry=Retry(2, wait=at_once), name="odd")
async def odd(item):
    if isinstance(item, int) and item % 2:
        raise ValueError(f"boom {item} at redis://me:hunter2@host/0\nagain")
    return item

@consumer(on_error="skip", name="ftp://me:hunter2@host")
async def picky(item):
    raise KeyError(item)

@consumer(batch=Batch(4))
async def bulk(items):
    raise OSError("full")

all_given = False

@producer
async def three():
    global all_given
    all_given = False
    for n in range(3):
        yield n
    all_given = True

async def all_three():
    while not all_given:
        await asyncio.sleep(0)

@consumer
async def leaves(item):
    await all_three()
    sys.exit(7)

@consumer
async def interrupts(item):
    await all_three()
    raise KeyboardInterrupt

@producer
async def ready():
    for n in range(3):
        yield n
    print("ready", flush=True)
    await asyncio.Event().wait()

@consumer
async def hangs(item):
    await asyncio.Event().wait()

many = source(range(300)) >> odd
various = source([{"id": 1, "url": "ftp://me:hunter2@host/"}, ("a", None), b"ftp://me:hunter2@host/", {1}]) >> picky
batched = source(range(6)) >> bulk
leaving = three >> leaves
interrupted = three >> interrupts
stalled = ready >> hangs
done = source([2]) >> odd
headless = odd >> odd
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's directory with ``app.py`` in it."""
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@pytest.fixture
def called(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str]]]:
    """``main`` called there: its status and stderr."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(*arguments: str) -> tuple[int, str]:
        return main(["run", *arguments]), capsys.readouterr().err

    yield call
    sys.modules.pop("app", None)


def rows(path: Path) -> list[dict[str, Any]]:
    """The lines of the file."""
    assert "hunter2" not in path.read_text()
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_item_that_fails_is_written(folder: Path, called: Callable[..., tuple[int, str]]) -> None:
    """All of them, not only the last hundred that the report keeps; with error, calls and stage; no password (F7)."""
    assert called("app:many", "--failed", "failed.jsonl") == (1, "")
    assert rows(folder / "failed.jsonl") == [
        {"stage": "odd", "item": n, "error": f"ValueError: boom {n} at redis://me:***@host/0\nagain", "attempts": 2}
        for n in range(1, 300, 2)
    ]


def test_an_item_stays_what_it_is_where_json_has_it(folder: Path, called: Callable[..., tuple[int, str]]) -> None:
    """What was read from JSON can be tried again from the file; anything else is named at least."""
    called("app:various", "--failed", "failed.jsonl")
    written = rows(folder / "failed.jsonl")
    items = [{"id": 1, "url": "ftp://me:***@host/"}, ["a", None], "b'ftp://me:***@host/'", "{1}"]
    assert [one["item"] for one in written] == items
    assert {one["stage"] for one in written} == {"ftp://me:***@host"}


def test_what_a_failure_took_with_it_is_written_too(folder: Path, called: Callable[..., tuple[int, str]]) -> None:
    """Each item of a failed batch has failed; what was still queued is unfinished: a line for each item."""
    status, err = called("app:batched", "--failed", "failed.jsonl")
    assert status == 1
    assert "OSError: full" in err
    assert rows(folder / "failed.jsonl") == [
        *({"stage": "bulk", "item": n, "error": "OSError: full", "attempts": 1} for n in range(4)),
        *({"stage": "bulk", "item": n, "unfinished": True} for n in (4, 5)),
    ]


@pytest.mark.parametrize(("name", "status", "error"), [("leaving", 7, "SystemExit: 7"), ("interrupted", 130, "")])
def test_a_run_that_the_program_ends_is_written(
    folder: Path, called: Callable[..., tuple[int, str]], name: str, status: int, error: str
) -> None:
    """However a run ends, what it took is told."""
    assert called(f"app:{name}", "--failed", "failed.jsonl")[0] == status
    first, *rest = rows(folder / "failed.jsonl")
    assert (first["item"], first["error"].startswith(error)) == (0, True)
    assert [(one["item"], one["unfinished"]) for one in rest] == [(1, True), (2, True)]


def test_a_file_that_is_there_is_kept(folder: Path, called: Callable[..., tuple[int, str]]) -> None:
    """It may hold what is yet to be tried again: a run that is done adds nothing, one that fails adds its own."""
    (folder / "failed.jsonl").write_text('{"item": "of yesterday"}\n')
    assert called("app:done", "--failed", "failed.jsonl") == (0, "")
    assert rows(folder / "failed.jsonl") == [{"item": "of yesterday"}]
    called("app:batched", "--failed", "failed.jsonl")
    assert [one["item"] for one in rows(folder / "failed.jsonl")] == ["of yesterday", *range(6)]


def test_a_file_that_cannot_be_opened_is_refused_before_anything_runs(called: Callable[..., tuple[int, str]]) -> None:
    """Nobody should learn after a night that nothing was written."""
    assert called("app:leaving", "--failed", "no/such/folder.jsonl") == (
        2,
        "asyncpc: --failed: cannot write to no/such/folder.jsonl: No such file or directory\n",
    )
    assert called("app:leaving", "--failed", ".") == (2, "asyncpc: --failed: cannot write to .: Is a directory\n")
    assert called("app:headless", "--failed", "failed.jsonl")[0] == 2


@pytest.mark.parametrize("name", ["many", "batched", "done"])
def test_a_full_disk_disturbs_no_run(called: Callable[..., tuple[int, str]], name: str) -> None:
    """The run ends as it would have, and its status says that the file is not all there is."""
    status, err = called(f"app:{name}", "--failed", "/dev/full")
    told = "asyncpc: --failed: /dev/full is not complete: No space left on device\n"
    assert (status, told in err) == ((0, False) if name == "done" else (1, True))


def test_a_full_disk_changes_no_count(folder: Path) -> None:
    """Neither the counts nor a drain notice that nothing can be written."""
    child = Child(folder, "-m", "asyncpc", "run", "app:stalled", "--failed", "/dev/full", "--drain-timeout", "0.1")
    child.line_with("ready")
    child.send(signal.SIGTERM)
    ended = child.end()
    assert (ended.status, ended.row("hangs")[:3]) == (1, ["3", "0", "3"])
    assert ended.seconds < BUSY
    assert "left unfinished: 3 items (hangs 3)" in ended.err
    assert ended.err.endswith("asyncpc: --failed: /dev/full is not complete: No space left on device\n")


def test_what_has_failed_is_in_the_file_at_once(folder: Path) -> None:
    """Who looks while it runs sees it, and a process that is killed has written it."""
    program = APP.replace("async def hangs(item):", "async def hangs(item):\n    assert item\n", 1)
    (folder / "app.py").write_text(
        program.replace("@consumer\nasync def hangs", '@consumer(on_error="skip")\nasync def hangs')
    )
    child = Child(folder, "-m", "asyncpc", "run", "app:stalled", "--failed", "failed.jsonl")
    child.line_with("ready")
    until = time.monotonic() + PATIENCE
    while not (folder / "failed.jsonl").read_text():
        assert time.monotonic() < until
    child.send(signal.SIGKILL)
    assert child.end().status == -signal.SIGKILL
    assert [one["item"] for one in rows(folder / "failed.jsonl")] == [0]
