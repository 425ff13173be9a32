"""``asyncpc top URL``: what a process tells of its runs over HTTP is what its own terminal would show."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from children import Child, run_on_terminal
from prometheus_client import CollectorRegistry
from support import named

from asyncpc import Pipeline, source, testing
from asyncpc.cli.main import main
from asyncpc.metrics import Metrics
from asyncpc.testing import idle
from asyncpc.watch.snapshot import view_of

APP = """
import asyncio
from asyncpc import Pipeline, consumer, source

@consumer(concurrency=3, on_error="skip")
async def work(n):
    if n == 4:
        raise ValueError("canary")
    if n == 9:
        print("ready", flush=True)
    if n > 6:
        await asyncio.Event().wait()

pipeline = Pipeline(source(range(100)), work, name="jobs")
"""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A process with a run that serves its pages; gives the address."""
    (folder / "app.py").write_text(APP)
    child = Child(folder, "-m", "asyncpc", "run", "app:pipeline", "--metrics", "0", "--drain-timeout", "0")
    child.line_with("ready")
    told = re.search(r"http://127\.0\.0\.1:\d+", child.errors_so_far())
    assert told
    try:
        yield told[0]
    finally:
        child.send(signal.SIGTERM)
        child.end()


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A server that answers everything in one way."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002 — likewise

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


TOKEN = "0123456789abcdef-token"

Called = Callable[..., tuple[int, str, str]]


@pytest.fixture
def called(capsys: pytest.CaptureFixture[str]) -> Called:
    def call(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        return status, *capsys.readouterr()

    return call


@pytest.mark.realtime
def test_without_a_terminal_the_runs_are_printed_once(tmp_path: Path, called: Called) -> None:
    """For a look over ssh, or into a file: no control characters, and no messages of errors."""
    with serving(tmp_path) as url:
        for address in (url, url.removeprefix("http://"), f"{url}/metrics", f"{url}/"):
            status, out, err = called("top", address)
            assert (status, err) == (0, "")
            rows = out.splitlines()
            assert rows[0].startswith(" jobs  FINISHING  work: ")
            assert re.search(r"^ work .* 96/128 .* 3/3 .* 1$|^ work .* 90/128 .* 3/3 ", out, re.MULTILINE)
            assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]|canary", out)


@pytest.mark.realtime
def test_on_a_terminal_it_is_shown_until_ctrl_c(tmp_path: Path) -> None:
    """And when the process is gone, that is said: what is seen is the past then."""
    pytest.importorskip("rich")
    program = (
        "import os, signal, sys, threading\n"
        "from asyncpc.cli.main import main\n"
        "def end():\n"
        "    os.kill(int(sys.argv[2]), signal.SIGKILL)\n"
        "    threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "threading.Timer(1.2, end).start()\n"
        "sys.exit(main(['top', sys.argv[1]]))\n"
    )
    (tmp_path / "app.py").write_text(APP)
    child = Child(tmp_path, "-m", "asyncpc", "run", "app:pipeline", "--metrics", "0")
    child.line_with("ready")
    told = re.search(r"http://127\.0\.0\.1:\d+", child.errors_so_far())
    assert told
    ended = run_on_terminal(tmp_path, "-c", program, told[0], str(child.pid), columns=130)
    child.end()
    assert ended.status == 0
    assert ended.out.count(" FINISHING ") >= 4
    assert re.search(r"no news for [12] s, this is the past: top: no answer from http://127\.0\.0\.1:", ended.out)


@pytest.mark.realtime
@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (404, b"", "answers 404: is that where asyncpc serves its pages?"),
        (200, b"<html>", "is not what asyncpc tells of its runs"),
        (200, b'{"pipelines": [{"name": "a", "view": {}}]}', "is not what asyncpc tells of its runs"),
        (200, b'{"pipelines": 1}', "is not what asyncpc tells of its runs"),
        (200, b'{"pipelines": ' + b"[" * 100_000, "is not what asyncpc tells of its runs"),
        (401, b"", "answers 401: other machines need the token that --web printed: set ASYNCPC_TOKEN to it, or ask at"),
    ],
)
def test_an_address_of_something_else_is_told(status: int, body: bytes, why: str, called: Called) -> None:
    """In one line, and not with a traceback."""
    with answering(status, body) as url:
        code, out, err = called("top", url)
    assert (code, out) == (2, "")
    assert why in err
    assert err.count("\n") == 1


@pytest.mark.realtime
@pytest.mark.parametrize("how", ["option", "variable"])
def test_a_page_of_another_machine_gets_the_token(how: str, called: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page reads none of its figures to another machine without it; nobody else gets it, wherever the page sends."""
    seen: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["asyncpc-token"])
            if self.path == "/moved/api/snapshot":
                self.send_response(302)
                self.send_header("location", "/api/snapshot")
                self.end_headers()
                return
            self.send_response(200 if seen[-1] == TOKEN else 401)
            self.end_headers()
            self.wfile.write(b'{"pipelines": []}')

        def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002 — likewise

    def asked(token: str, path: str = "") -> tuple[int, str, str]:
        if how == "option":
            return called("top", url + path, "--token", token)
        monkeypatch.setenv("ASYNCPC_TOKEN", token)
        return called("top", url + path)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            assert asked(TOKEN) == (0, " no pipeline is watched there\n", "")
            status, _, err = asked("another-token")
            assert (status, err.count("\n")) == (2, 1)
            assert "answers 401: this is not its token" in err
            assert "another-token" not in err
            assert asked(TOKEN, "/moved")[0] == 2
            assert seen == [TOKEN, "another-token", TOKEN, None]
            status, _, err = asked("two\nlines")
            assert (status, len(seen)) == (2, 4)
            assert "the token must be printable ASCII characters" in err
        finally:
            server.shutdown()
            thread.join()


def test_an_address_where_nobody_answers_is_told(called: Called) -> None:
    """Likewise."""
    code, _, err = called("top", "http://127.0.0.1:1")
    assert (code, err.count("\n")) == (2, 1)
    assert "top: no answer from http://127.0.0.1:1/api/snapshot: " in err
    code, _, err = called("top", "file:///etc/passwd")
    assert code == 2
    assert "must be an http address, such as http://worker:9000" in err
    code, _, err = called("top", "http://user:secret@a worker:9000")
    assert (code, err) == (
        2,
        "asyncpc: top: http://user:***@a worker:9000/api/snapshot must be an address, such as http://worker:9000\n",
    )


@pytest.mark.realtime
def test_what_another_process_tells_cannot_move_the_cursor(called: Called) -> None:
    """It may be one that somebody else has written."""
    odd = "\x1b[2J\x9b\u202e"
    told = snapshot()
    (one,) = told["pipelines"]
    one["name"] = one["view"]["pipeline"] = one["view"]["state"] = one["view"]["verdict"] = odd
    stage = one["view"]["stages"][0]
    stage["now"]["name"] = odd
    with answering(200, json.dumps(told).encode()) as url:
        status, out, _ = called("top", url)
    assert status == 0
    assert all(line.isprintable() for line in out.splitlines())
    failure = {"stage": "a", "kind": "b", "times": 1, "at": 0, "place": "", "message": ""}
    one["view"]["failures"].append(failure)
    for place, name, wrong in ((stage["now"], "queued", odd), (stage, "failing", []), (failure, "at", 1e18)):
        before, place[name] = place[name], wrong  # where a number, or a time, should be
        with answering(200, json.dumps(told).encode()) as url:
            assert called("top", url)[0] == 2
        place[name] = before


def snapshot() -> Any:
    """What the page of a run in virtual time tells."""

    async def work(n: int) -> None:
        await asyncio.Event().wait()

    async def run() -> Any:
        metrics = Metrics(CollectorRegistry())
        pipeline = Pipeline(source(range(10)), named("work", work), name="jobs")
        metrics.watch(pipeline)
        page = metrics.pages()["/api/snapshot"]
        assert json.loads(page("").body) == {"pipelines": [{"name": "jobs", "view": None}]}
        async with pipeline as running:
            await idle()
            answer = page("")
            await running.drain(timeout=0)
        assert answer.kind == "application/json"
        return json.loads(answer.body)

    return testing.run(run())


def test_the_page_tells_what_a_screen_shows() -> None:
    """Nothing is kept for it before somebody asks."""
    view = view_of(snapshot()["pipelines"][0]["view"])
    assert view.pipeline == "jobs"
    assert (view.stages[0].now.queued, view.stages[0].busy) == (9, 1)


@pytest.mark.realtime
async def test_the_page_is_part_of_the_asgi_app() -> None:
    """A web app mounts all pages at once."""
    transport = httpx.ASGITransport(Metrics(CollectorRegistry()).asgi())
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        assert (await client.get("/api/snapshot")).json() == {"pipelines": []}
