"""The page of real runs: what it shows is what ``statistics()`` says, and what it does is what was asked."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from asking import TOKEN, Browser, Stream
from support import endless, named, until

import asyncpc.web.app
from asyncpc import DefinitionError, Pipeline, PipelineError, Running, consumer
from asyncpc.web import dashboard

SECRET = "card-4111-1111"


async def settle(n: int) -> int:
    await asyncio.sleep(0)
    return n


def shop(handle: Callable[..., Any] = settle, **options: Any) -> Pipeline[Any, Any]:
    return Pipeline(endless() >> named("fetch", handle, **options) >> named("store", settle), name="shop")


async def test_figures_are_those_of_the_run_while_it_is_paused() -> None:
    """Nothing is rounded, guessed or late: each count on the page is the one of ``statistics()``."""
    pipeline = shop(concurrency=3, maxsize=8)
    browser = Browser(dashboard(pipeline, token=TOKEN))
    async with pipeline as running:
        await until(lambda: running.statistics().done > 100)
        assert await browser.command("shop", "pause") == (200, "")
        await until(lambda: running.statistics().stages[0].queued == 8)  # the source goes on until it is full
        view, now = await browser.view(), running.statistics(percentiles=False)
        assert view["verdict"] == running.bottleneck() == "paused: no handler takes an item before resume()"
        assert view["alarm"]
        for shown, stage in zip(view["stages"], now.stages, strict=True):
            said = json.loads(json.dumps(stage._asdict()))
            moving = ("put_waited", "get_waited", "out_waited", "rate", "latency_p50", "latency_p90", "latency_p99")
            assert {name: shown["now"][name] for name in said if name not in moving} == {
                name: value for name, value in said.items() if name not in moving
            }
        assert {name: view["totals"][name] for name in ("done", "failed", "dropped")} == {
            "done": now.done,
            "failed": now.failed,
            "dropped": now.dropped,
        }
        await running.drain(timeout=0.1)


async def test_commands_are_carried_out() -> None:
    """Each button does what the method of that name does."""
    pipeline = shop()
    browser = Browser(dashboard(pipeline, token=TOKEN))
    async with pipeline as running:
        assert await browser.command("shop", "pause") == (200, "")
        assert running.bottleneck().startswith("paused")
        assert await browser.command("shop", "resume") == (200, "")
        assert not running.bottleneck().startswith("paused")
        assert await browser.command("shop", "scale", stage="fetch", workers=5) == (200, "")
        assert running.statistics().stages[0].concurrency == 5
        assert await browser.command("shop", "rate", stage="store", calls=2, seconds=1) == (200, "")
        await until(lambda: "its rate of 2 calls in 1 s" in dict(running.statistics().stages[1].held_back))
        assert await browser.command("shop", "scale", stage="nope", workers=5) == (
            409,
            "pipeline 'shop' has no stage 'nope'; it has 'fetch', 'store'",
        )
        assert await browser.command("nope", "pause") == (404, "there is no such pipeline")
        assert await browser.command("shop", "rate", stage="store", calls=1e6, seconds=1) == (200, "")
        assert await browser.command("shop", "drain") == (200, "")
        report = await running.wait()
        assert report.complete
    assert await browser.command("shop", "pause") == (409, "no run is under way")


async def test_a_command_without_the_token_changes_nothing() -> None:
    """What is refused has no effect, however it is refused."""
    pipeline = shop()
    app = dashboard(pipeline, token=TOKEN)
    browser = Browser(app)
    async with pipeline as running:
        pause = b'{"pipeline": "shop", "action": "pause"}'
        wrong = "0123456789abcdef-wrong"
        assert (await Browser(app, token=wrong).post(pause)).status_code == 401
        assert (await browser.post(pause, origin="https://evil.example")).status_code == 403
        assert (await browser.post(pause, **{"sec-fetch-site": "cross-site"})).status_code == 403
        assert (await browser.post(pause, host="evil.example")).status_code == 421
        assert (await browser.post(pause, **{"content-type": "text/plain"})).status_code == 415
        assert (await browser.post(b" " * 5000 + pause)).status_code == 413
        assert (await browser.post(b"{")).status_code == 400
        assert (await browser.get("/api/control")).status_code == 405
        assert not running.bottleneck().startswith("paused")
        assert (await browser.post(pause)).status_code == 200
        await running.drain(timeout=0)


async def test_figures_are_for_this_machine_and_for_the_token() -> None:
    """All that tells of a run asks the guard."""
    pipeline = shop()
    app = dashboard(pipeline, token=TOKEN)
    here, there = Browser(app), Browser(app, client="203.0.113.9")
    async with pipeline as running:
        for path in ("/api/snapshot", "/api/events", "/api/workers?pipeline=shop&stage=fetch"):
            assert (await there.get(path)).status_code == 401
            assert (await here.get(path, host="evil.example")).status_code == 421
            assert (await here.get(path, **{"sec-fetch-site": "cross-site"})).status_code == 403
        assert (await there.get("/api/snapshot", **{"asyncpc-token": TOKEN})).status_code == 200
        assert (await there.get("/")).status_code == 200  # it says nothing of a run
        assert (await here.get("/", host="evil.example")).status_code == 421
        await running.drain(timeout=0)


@pytest.mark.parametrize("payloads", [False, True])
async def test_payloads_are_hidden_unless_asked_for(payloads: bool) -> None:
    """A message of an error tells of its item; the page shows its class and place, and no more."""

    async def refuse(n: int) -> int:
        raise ValueError(f"{SECRET}: {n}")

    pipeline = Pipeline([1, 2, 3], named("fetch", refuse, on_error="skip"), name="shop")
    browser = Browser(dashboard(pipeline, payloads=payloads))
    await pipeline
    told = (await browser.get("/api/snapshot")).text
    workers = (await browser.get("/api/workers?pipeline=shop&stage=fetch")).text
    assert (SECRET in told) == payloads
    assert SECRET not in workers
    failure = (await browser.view())["failures"][0]
    assert (failure["stage"], failure["kind"], failure["times"]) == ("fetch", "ValueError", 3)
    assert re.fullmatch(r"test_app\.py:\d+ in refuse", failure["place"])


async def test_the_dialog_says_where_each_worker_is_and_for_how_long() -> None:
    """From the stage to the line of the user's code."""
    began = asyncio.Event()

    async def hang(n: int) -> int:
        began.set()
        await asyncio.Event().wait()
        return n

    pipeline = shop(hang)
    browser = Browser(dashboard(pipeline))
    async with pipeline as running:
        await began.wait()
        await browser.view()
        workers = (await browser.get("/api/workers?pipeline=shop&stage=fetch")).json()["workers"]
        assert [(one["name"], one["doing"]) for one in workers] == [("fetch-1", "is at work")]
        assert re.fullmatch(r"test_app\.py:\d+ in hang", workers[0]["place"])
        assert workers[0]["seconds"] >= 0
        assert (await browser.get("/api/workers?pipeline=shop&stage=nope")).json() == {"workers": []}
        assert (await browser.get("/api/workers?pipeline=nope&stage=fetch")).status_code == 404
        await running.drain(timeout=0)


async def test_a_loop_that_was_closed_under_its_run_is_no_error_of_the_server() -> None:
    """Nobody works there any more, and nothing can be asked of it; both are answers, and none is a status 500."""
    pipeline = shop()
    browser = Browser(dashboard(pipeline, token=TOKEN))

    async def begin() -> Running[Any, Any]:
        running = await pipeline.__aenter__()
        await until(lambda: running.statistics().done > 0)
        return running

    def abandoned() -> Running[Any, Any]:
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(begin())
        finally:
            for task in asyncio.all_tasks(loop):
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # that is what this is about
            loop.close()

    running = await asyncio.to_thread(abandoned)
    assert running.report is None
    assert (await browser.get("/api/workers?pipeline=shop&stage=fetch")).json() == {"workers": []}
    assert await browser.command("shop", "pause") == (409, "no run is under way")


async def test_a_pipeline_is_shown_from_run_to_run() -> None:
    """Before the first, while one is under way, after it, and the next one."""
    gate = asyncio.Event()
    gate.set()

    async def fetch(n: int) -> None:
        await gate.wait()

    pipeline = Pipeline([1, 2, 3], named("fetch", fetch), name="shop")
    browser = Browser(dashboard(pipeline))
    assert await browser.view() is None
    await pipeline
    first = await browser.view_with(lambda view: view is not None)
    assert (first["state"], first["totals"]["done"]) == ("closed", 3)
    gate.clear()
    async with pipeline as running:
        await browser.view_with(lambda view: view["state"] != "closed" and view["totals"]["done"] == 0)
        gate.set()
        await running.wait()
    await browser.view_with(lambda view: view["state"] == "closed" and view["totals"]["done"] == 3)


async def test_several_pipelines_have_names_of_their_own() -> None:
    """Two of one name can be told apart, and commands go to the right one."""
    one, other = shop(), shop()
    app = dashboard(one, other, token=TOKEN)
    browser = Browser(app)
    async with one as first, other as second:
        told = (await browser.get("/api/snapshot")).json()
        assert [pipeline["name"] for pipeline in told["pipelines"]] == ["shop", "shop (2)"]
        assert await browser.command("shop (2)", "pause") == (200, "")
        assert second.bottleneck().startswith("paused")
        assert not first.bottleneck().startswith("paused")
        await first.drain(timeout=0)
        await second.drain(timeout=0)


async def test_a_run_can_be_shown_by_itself() -> None:
    """Somebody who has the handle of a run need not have its pipeline."""
    async with shop() as running:
        browser = Browser(dashboard(running))
        assert (await browser.view())["state"] == "running"
        assert (await browser.get("/api/snapshot")).json()["controls"] is False
        await running.drain()
        await browser.view_with(lambda view: view["state"] == "closed")


async def test_what_cannot_be_shown_is_refused() -> None:
    """Each with what to write."""
    with pytest.raises(DefinitionError, match=r"dashboard\(pipeline\)"):
        dashboard()
    with pytest.raises(DefinitionError, match="takes pipelines and runs, not 7"):
        dashboard(7)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="16 printable"):
        dashboard(shop(), token="")


# -- news -----------------------------------------------------------------------------------------


@pytest.mark.realtime
async def test_slow_clients_skip_news_and_hold_up_nobody() -> None:
    """A client that does not read for a while gets the newest afterwards, and what it missed is kept nowhere."""
    pipeline = shop()
    app = dashboard(pipeline)
    async with pipeline as running, Stream(app) as quick, Stream(app) as slow:
        await slow.until(lambda: len(slow.pieces) == 1)
        slow.may_read.clear()
        await quick.until(lambda: len(quick.pieces) == 4)
        slow.may_read.set()
        await slow.until(lambda: len(slow.pieces) == 3)
        missed = quick.pieces[2]
        assert missed not in slow.pieces
        await running.drain(timeout=0)


@pytest.mark.realtime
@pytest.mark.parametrize("spec", ["2.3", "2.4"])
async def test_a_client_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    """It takes up a place for a while, and not for ever."""
    monkeypatch.setattr(asyncpc.web.app, "SLOWEST", 0.2)
    pipeline = shop()
    async with pipeline as running, Stream(dashboard(pipeline), spec) as stream:
        await stream.until(lambda: len(stream.pieces) == 1)
        stream.may_read.clear()
        await stream.ended()
        await running.drain(timeout=0)


async def test_there_is_room_for_so_many_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open connections cannot be piled up without end; a place that gets free can be taken again."""
    monkeypatch.setattr(asyncpc.web.app, "MOST", 1)
    app = dashboard(shop())
    async with Stream(app) as stream:
        await stream.until(lambda: len(stream.pieces) == 1)
        assert (await Browser(app).get("/api/events")).status_code == 503
    async with Stream(app) as stream:
        await stream.until(lambda: len(stream.pieces) == 1)


# -- the page -------------------------------------------------------------------------------------


async def test_the_page_needs_nothing_from_elsewhere() -> None:
    """One file, which loads nothing and runs nothing but itself."""
    answer = await Browser(dashboard(shop())).get("/")
    assert answer.headers["content-type"].startswith("text/html")
    addresses = set(re.findall(r"https?://[\w./]+", answer.text))
    assert addresses == {"http://www.w3.org/2000/svg"}
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert len(re.findall("'sha256-", policy)) == 2
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\son\w+=|style=", answer.text)


async def test_a_run_that_fails_is_shown_as_it_ended() -> None:
    """The page stays, with the last figures."""

    @consumer
    async def fetch(n: int) -> None:
        raise ValueError("no")

    pipeline = Pipeline([1], fetch, name="shop")
    browser = Browser(dashboard(pipeline))
    with pytest.raises(PipelineError):
        await pipeline
    assert (await browser.view())["state"] == "failed"
