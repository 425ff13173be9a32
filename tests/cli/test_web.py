"""``asyncpc run --web``: the page tells of the run from a thread of its own, and both end together."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import httpx
import pytest
from children import Child, run_child
from cli.programs import NUMBERS

from asyncpc.cli.web import PageTerms, page_served
from asyncpc.web.app import Page
from asyncpc.web.guard import Guard

pytestmark = [pytest.mark.realtime, pytest.mark.processes]

APP = f"""{NUMBERS}
@producer
async def one():
    yield 1
    await asyncio.Event().wait()

@consumer
async def blocks(n):
    await asyncio.sleep(0.7)
    print("ready", flush=True)
    time.sleep(20)

waiting = Pipeline(numbers, work, name="jobs")
blocked = Pipeline(one, blocks, name="jobs")

@consumer(concurrency=2, on_error="skip")
async def handle(n):
    if n == 7:
        raise ValueError("canary")
    await asyncio.sleep(0.01)

jobs = remote_queue("sqlite:///jobs.db?queue=jobs", int)
filled = Pipeline(range(100), jobs)
shared = Pipeline(jobs, handle, name="jobs")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


class Served:
    """``asyncpc run --web`` in a process, as somebody sees it who reads its stderr."""

    def __init__(self, folder: Path, target: str, *options: str) -> None:
        self.child = Child(folder, "-m", "asyncpc", "run", target, "--web", "0", *options)
        deadline = time.monotonic() + 20
        while not (found := re.search(r"(http://\S+) shows the run; .* token (\S+)", self.child.errors_so_far())):
            assert time.monotonic() < deadline
            time.sleep(0.01)  # nothing says when a file has grown
        self.url, self.token = found[1], found[2]

    def get(self, path: str = "/api/snapshot") -> Any:
        try:
            return httpx.get(self.url + path, timeout=10).json()
        except httpx.ConnectError:
            ended = self.child.end()
            raise AssertionError(f"it has ended with {ended.status}: {ended.out}{ended.err}") from None

    def view_with(self, true: Any, pipeline: int = 0) -> Any:
        """What it shows as soon as that is true of it."""
        deadline = time.monotonic() + 20
        while True:
            told = self.get()["pipelines"]
            if len(told) > pipeline and told[pipeline]["view"] is not None and true(told[pipeline]["view"]):
                return told[pipeline]["view"]
            assert time.monotonic() < deadline, told
            time.sleep(0.05)  # two looks a second are all that there are

    def command(self, action: str, **more: Any) -> httpx.Response:
        told = {"pipeline": "jobs", "action": action, **more}
        return httpx.post(f"{self.url}/api/control", json=told, headers={"asyncpc-token": self.token}, timeout=10)


def test_the_page_shows_the_run_until_it_ends(folder: Path) -> None:
    """It is there from the start, hides payloads, carries out what the token asks, and holds up no end."""
    served = Served(folder, "app:waiting")
    served.child.line_with("ready")
    view = served.view_with(lambda view: view["totals"]["done"] == 9)
    assert (view["state"], view["totals"]["failed"]) == ("running", 1)
    assert "canary" not in httpx.get(f"{served.url}/api/snapshot").text
    assert httpx.post(f"{served.url}/api/control", json={"pipeline": "jobs", "action": "drain"}).status_code == 401
    with httpx.stream("GET", f"{served.url}/api/events", timeout=10) as stream:
        lines = stream.iter_lines()
        next(lines)
        assert served.command("drain").status_code == 200
        last = [line for line in lines if line][-1]
    assert '"state": "closed"' in last
    ended = served.child.end()
    assert ended.status == 1  # one item failed
    assert "10 produced, 9 done" in ended.out
    assert "Traceback" not in ended.err


@pytest.mark.thorough
def test_a_blocked_loop_is_told_while_it_is_blocked(folder: Path) -> None:
    """The page names the stage and the line; a command says that nothing was done, and is not done later."""
    served = Served(folder, "app:blocked")
    served.child.line_with("ready")
    view = served.view_with(lambda view: view["silent"])
    assert re.fullmatch(
        r"the event loop has not answered for [\d.]+ s: it is blocked by blocks \(app\.py:\d+ in blocks\)",
        view["verdict"],
    )
    assert view["alarm"]
    workers = served.get("/api/workers?pipeline=jobs&stage=blocks")["workers"]
    assert re.fullmatch(r"app\.py:\d+ in blocks", workers[0]["place"])
    answer = served.command("pause")
    assert (answer.status_code, answer.json()["why"]) == (
        503,
        "the event loop of the run does not answer, so nothing was done",
    )
    for _ in range(3):
        served.child.send(signal.SIGTERM)
    served.child.end()


def test_several_processes_are_on_one_page(folder: Path) -> None:
    """All together and each one; a command goes to all, and one process alone is not commanded."""
    assert run_child(folder, "-m", "asyncpc", "run", "app:filled", "--quiet").status == 0
    served = Served(folder, "app:shared", "--processes", "2")
    view = served.view_with(lambda view: view["totals"]["done"] == 99)
    assert view["totals"]["failed"] == 1
    assert view["stages"][0]["now"]["concurrency"] == 4
    assert [one["kind"] for one in view["failures"]] == ["ValueError"]
    assert view["failures"][0]["message"] == ""
    assert "canary" not in httpx.get(f"{served.url}/api/snapshot").text
    told = served.get()["pipelines"]
    assert [one["name"] for one in told] == ["jobs", "jobs, process 1", "jobs, process 2"]
    assert served.command("scale", stage="handle", workers=5).status_code == 200
    served.view_with(lambda view: view["stages"][0]["now"]["concurrency"] == 10)
    assert served.command("rate", stage="handle", calls=50, seconds=1).status_code == 200
    assert served.command("rate", stage="nope", calls=50, seconds=1).status_code == 409
    alone = {"pipeline": "jobs, process 1", "action": "pause"}
    headers = {"asyncpc-token": served.token}
    assert httpx.post(f"{served.url}/api/control", json=alone, headers=headers).status_code == 409
    assert served.command("pause").status_code == 200
    served.view_with(lambda view: view["verdict"].startswith("process 1: paused"))
    workers = served.get("/api/workers?pipeline=jobs&stage=handle")["workers"]
    assert workers  # a process that got no message has none
    assert {one["name"].partition(",")[0] for one in workers} <= {"process 1", "process 2"}
    seen = run_child(folder, "-m", "asyncpc", "top", served.url)
    assert [row.split("  ")[0] for row in seen.out.splitlines() if " RUNNING " in row] == [
        " jobs",
        " jobs, process 1",
        " jobs, process 2",
    ]
    assert served.command("resume").status_code == 200
    assert served.command("drain").status_code == 200
    ended = served.child.end()
    assert "in 2 processes" in ended.out
    assert "Traceback" not in ended.err


def test_live_of_several_processes_says_what_to_type(folder: Path) -> None:
    """One terminal shows one process; what the message says is tried above."""
    ended = run_child(folder, "-m", "asyncpc", "run", "app:shared", "--processes", "2", "--live")
    assert ended.status == 2
    assert ended.err == (
        "asyncpc: --live shows one process: leave --processes out, or write --web 8000 in place of --live, "
        "and type in another terminal: asyncpc top http://127.0.0.1:8000\n"
    )


def test_the_port_is_taken_before_the_run_begins(folder: Path) -> None:
    """A port that is in use is told at once, and nothing has run."""
    served = Served(folder, "app:waiting")
    port = served.url.rpartition(":")[2]
    ended = run_child(folder, "-m", "asyncpc", "run", "app:waiting", "--web", port)
    assert ended.status == 2
    assert f"--web: cannot listen at http://127.0.0.1:{port}: Address already in use" in ended.err
    assert ended.out == ""
    assert run_child(folder, "-m", "asyncpc", "run", "app:waiting", "--web", "http").status == 2
    served.child.send(signal.SIGTERM)
    served.child.end()


def test_it_runs_without_a_stderr(folder: Path) -> None:
    """Nobody reads the address then, and the run is not to fail of that."""
    command = 'exec "$0" -m asyncpc run app:filled "$@" 2>&-'
    for options in (["--web", "0"], ["--metrics", "0"]):
        ended = subprocess.run(["sh", "-c", command, sys.executable, *options], cwd=folder, timeout=60, check=False)
        assert ended.returncode == 0, options


def test_without_the_extra_it_says_what_to_install(folder: Path) -> None:
    """Not a traceback."""
    (folder / "uvicorn.py").write_text("raise ImportError('not here')")
    ended = run_child(folder, "-m", "asyncpc", "run", "app:waiting", "--web", "0", PYTHONPATH=str(folder))
    assert ended.status == 2
    assert "pip install 'asyncpc[web]'" in ended.err


def test_a_page_for_this_machine_asks_no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that does not answer would hold up the start, for a name that does not lead here."""

    def asked() -> str:
        raise AssertionError("a name server was asked")

    monkeypatch.setattr("socket.getfqdn", asked)
    found: list[tuple[str, ...]] = []

    def page(terms: PageTerms) -> Page:
        found.append(terms.hosts)
        return Page(list, Guard(terms.token, terms.hosts), payloads=terms.payloads)

    with page_served(page, Namespace(web=0, web_host="127.0.0.1", web_payloads=False)):
        assert found == [()]
