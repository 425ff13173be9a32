"""An engine that is gone is the first thing that every screen says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import Browser
from remote import servers
from support import named, until

from asyncpc import Pipeline, remote_queue
from asyncpc.watch.screen import screen
from asyncpc.watch.watcher import Watcher
from asyncpc.web import dashboard

pytestmark = [pytest.mark.thorough, pytest.mark.realtime, pytest.mark.timeout(120)]

ENGINES = {"redis": servers.Redis, "nats": servers.Nats}


@pytest.fixture(params=ENGINES)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """One of its own, since it is killed, and a queue on it."""
    servers.client_of(request.param)
    server = ENGINES[request.param](tmp_path)
    server.start()
    yield server, remote_queue(server.url(), int)
    server.kill()


async def test_an_engine_that_is_gone_is_named_in_the_first_line(server: tuple[Any, Any]) -> None:
    """By the terminal, the page and the probe, in the same words; and no more once it is there again."""
    engine, jobs = server
    done: list[int] = []

    async def note(n: int) -> None:
        done.append(n)

    await Pipeline(range(3), jobs)
    pipeline = Pipeline(jobs, named("note", note), name="orders")
    browser = Browser(dashboard(pipeline))
    async with pipeline as running:
        watcher = Watcher(running)

        def first_line() -> str:
            view = watcher.look()
            assert view is not None
            return "".join([text for text, _ in screen(view, 300, 30)[0]])

        await until(lambda: len(done) == 3)
        assert "no connection" not in first_line()
        await asyncio.to_thread(engine.kill)
        (source,) = running.statistics().sources
        told = f"{source.name}: no connection to the queue for "
        await until(lambda: told in first_line())
        assert first_line().startswith(f" RUNNING  {told}")
        assert running.bottleneck().startswith(told)
        assert running.health().why.startswith(f"running; {told}")
        view = await browser.view_with(lambda view: told in view["verdict"])
        assert view["verdict"].startswith(told)
        assert view["alarm"]
        await asyncio.to_thread(engine.start)
        await until(lambda: told not in first_line())
        assert told not in running.health().why
        running.stop()
        await running.wait()
