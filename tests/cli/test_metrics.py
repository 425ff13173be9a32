"""``asyncpc run --metrics``: a worker without a web app answers Prometheus and probes while it runs."""

from __future__ import annotations

import argparse
import re
import signal
import socket
from pathlib import Path

import httpx
import pytest
from children import UNMEASURED, Child, run_child
from cli.programs import NUMBERS

from asyncpc.cli.metrics import address

APP = f"""{NUMBERS}
@producer
async def answering():
    yield "http"
    try:
        await asyncio.Event().wait()
    finally:
        print("draining", flush=True)

@consumer
async def hangs(n):
    print("ready", flush=True)
    await asyncio.Event().wait()

waiting = Pipeline(numbers, work, name="jobs")
stalled = Pipeline(answering, hangs, name="jobs")
done = Pipeline([1, 2], work, name="jobs")
"""

OWN = """
from prometheus_client import Counter
from asyncpc.metrics import Metrics
from app import waiting

Counter("own_events", "Own.").inc(5)
metrics = Metrics()
metrics.watch(waiting, name="mine")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's directory with two modules in it."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


class Worker:
    """``asyncpc run`` in a process, with its pages at a port of its choice."""

    def __init__(self, folder: Path, target: str, *options: str) -> None:
        self.child = Child(folder, "-m", "asyncpc", "run", target, "--metrics", "0", *options)
        self.child.line_with("ready")

    @property
    def port(self) -> int:
        """Where it serves, as it says itself."""
        told = re.search(r"http://127\.0\.0\.1:(\d+)/metrics", self.child.errors_so_far())
        assert told
        return int(told[1])

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}")


both_loops = pytest.mark.parametrize("loop", ["uvloop", pytest.param("asyncio", marks=pytest.mark.thorough)])


@pytest.mark.realtime
@both_loops
def test_a_worker_answers_until_it_ends(folder: Path, loop: str) -> None:
    """Prometheus and probes ask in the midst of it; the signal drains as ever, and stderr stays silent."""
    worker = Worker(folder, "app:waiting", "--loop", loop)
    metrics, live, ready = worker.get("/metrics"), worker.get("/live"), worker.get("/ready")
    assert 'asyncpc_items_produced_total{pipeline="jobs",source="numbers"} 10.0' in metrics.text
    assert 'asyncpc_items_done_total{pipeline="jobs",stage="work"} 9.0' in metrics.text
    assert 'asyncpc_items_failed_total{pipeline="jobs",stage="work"} 1.0' in metrics.text
    assert "canary" not in metrics.text
    assert "python_info" in metrics.text  # the program's own registry, with all that is in it
    assert [(one.status_code, one.text) for one in (live, ready)] == [(200, "jobs: running\n")] * 2
    worker.child.send(signal.SIGTERM)
    ended = worker.child.end()
    assert ended.status == 143
    assert [line for line in ended.err.splitlines() if not re.search("1 failed|/metrics, /live, /ready", line)] == []


@pytest.mark.realtime
@both_loops
def test_a_worker_that_drains_is_live_and_not_ready(folder: Path, loop: str) -> None:
    """Nobody kills it while it finishes its work; a connection that is open does not hold up its end."""
    worker = Worker(folder, "app:stalled", "--loop", loop)
    worker.child.send(signal.SIGTERM)
    worker.child.line_with("draining")
    assert worker.get("/live").status_code == 200
    ready = worker.get("/ready")
    assert (ready.status_code, ready.text.partition(";")[0].strip()) == (503, "jobs: draining")
    with socket.create_connection(("127.0.0.1", worker.port)) as idle:
        idle.send(b"GET / HTTP/1.1\r\n")
        assert worker.get("/live").status_code == 200
        worker.child.send(signal.SIGTERM)
        ended = worker.child.end()
    assert ended.status == 1
    assert "left unfinished: 1 items (hangs 1)" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.realtime
def test_a_program_with_metrics_of_its_own_keeps_them(folder: Path) -> None:
    """Its counters and its names: a module may serve a web app, and workers too."""
    worker = Worker(folder, "own:waiting")
    text = worker.get("/metrics").text
    worker.child.send(signal.SIGTERM)
    assert worker.child.end().status == 143
    assert "own_events_total 5.0" in text
    assert 'asyncpc_items_done_total{pipeline="mine",stage="work"} 9.0' in text
    assert '"jobs"' not in text


@pytest.mark.realtime
def test_any_port_is_told(folder: Path) -> None:
    """Port 0 takes one that is free; stdout belongs to the report."""
    ended = run_child(folder, "-m", "asyncpc", "run", "app:done", "--metrics", "0")
    assert ended.status == 0
    assert re.fullmatch(r"asyncpc: http://127\.0\.0\.1:\d+/metrics, /live, /ready\n", ended.err)
    assert "metrics" not in ended.out


@pytest.mark.realtime
def test_a_port_in_use_ends_the_command_before_the_run_begins(folder: Path) -> None:
    """One line that says which; nothing was handled."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run_child(folder, "-m", "asyncpc", "run", "app:done", "--metrics", f"127.0.0.1:{port}", **UNMEASURED)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == f"asyncpc: --metrics: cannot listen at http://127.0.0.1:{port}: Address already in use\n"


@pytest.mark.realtime
def test_an_address_of_another_machine_ends_the_command(folder: Path) -> None:
    """A typo in the address, told as such."""
    ended = run_child(folder, "-m", "asyncpc", "run", "app:done", "--metrics", "192.0.2.1:9000", **UNMEASURED)
    assert ended.status == 2
    assert ended.err == "asyncpc: --metrics: cannot listen at http://192.0.2.1:9000: Cannot assign requested address\n"


@pytest.mark.realtime
def test_without_the_extra_the_command_says_what_to_install(folder: Path) -> None:
    """The line to type, instead of a traceback."""
    (folder / "prometheus_client.py").write_text("raise ImportError")
    ended = run_child(folder, "-m", "asyncpc", "run", "app:done", "--metrics", "0", **UNMEASURED)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == "asyncpc: --metrics needs prometheus_client: pip install 'asyncpc[metrics]'\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("9000", ("127.0.0.1", 9000)),
        ("0.0.0.0:9000", ("0.0.0.0", 9000)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:9000", ("::1", 9000)),
    ],
)
def test_an_address(text: str, found: tuple[str, int]) -> None:
    """A port alone is for this machine only: what shows the names of stages is opened to others on purpose."""
    assert address(text) == found


@pytest.mark.parametrize("text", ["", ":9000", "host", "host:", "host:65536", "host:-1", "host:²"])
def test_what_is_no_address_is_refused(text: str) -> None:
    """``:9000`` means everybody to some programs and this machine to others."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"must be HOST:PORT, such as 0\.0\.0\.0:9000"):
        address(text)
