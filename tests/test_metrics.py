"""Prometheus reads what the report says, and probes are told whether to restart or to send work."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from children import UNMEASURED, run_child
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from starlette.applications import Starlette
from starlette.routing import Mount
from support import named, until

from asyncpc import DefinitionError, Pipeline, PipelineError, consumer, testing
from asyncpc.metrics import Metrics, metrics_in


async def same(item: Any) -> Any:
    return item


async def hang(item: Any) -> None:
    await asyncio.Event().wait()


Samples = dict[tuple[str, ...], float]


def samples(registry: CollectorRegistry) -> Samples:
    """All samples of a scrape: name, then the values of the labels."""
    text = generate_latest(registry).decode()
    return {(one.name, *one.labels.values()): one.value for family in parse(text) for one in family.samples}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


# -- counters -------------------------------------------------------------------------------------


def test_a_scrape_shows_what_the_report_says(registry: CollectorRegistry) -> None:
    """One truth: whoever compares a dashboard with the report finds the same numbers."""
    metrics = Metrics(registry)
    pipeline = Pipeline(range(10), named("double", same) >> named("store", same, maxsize=7), name="numbers")
    metrics.watch(pipeline)

    async def main() -> Samples:
        async with pipeline as running:
            await running.wait()
            return samples(registry)

    for found in (testing.run(main()), samples(registry)):
        assert found["asyncpc_items_produced_total", "numbers", "source(range)"] == 10
        for stage in ("double", "store"):
            assert found["asyncpc_items_received_total", "numbers", stage] == 10
            assert found["asyncpc_items_done_total", "numbers", stage] == 10
            assert found["asyncpc_items_failed_total", "numbers", stage] == 0
        assert found["asyncpc_maxsize", "numbers", "store"] == 7
        assert found["asyncpc_running", "numbers"] == 0


def test_several_pipelines_are_told_apart(registry: CollectorRegistry) -> None:
    """One process, one registry, one page; names that clash are refused where they are written."""
    metrics = Metrics(registry)
    one, other = Pipeline([1], named("stage", same), name="jobs"), Pipeline([1, 2], named("stage", same), name="jobs")
    metrics.watch(one)
    metrics.watch(one)  # once is enough
    with pytest.raises(DefinitionError, match="another pipeline is watched as 'jobs': give this one a name"):
        metrics.watch(other)
    metrics.watch(other, name="others")

    async def main() -> None:
        await one
        await other

    testing.run(main())
    found = samples(registry)
    assert found["asyncpc_items_done_total", "jobs", "stage"] == 1
    assert found["asyncpc_items_done_total", "others", "stage"] == 2


async def test_a_run_under_way_can_be_watched_from_another_thread(registry: CollectorRegistry) -> None:
    """A web server in a thread of its own may begin to watch what the main thread runs."""
    metrics = Metrics(registry)
    pipeline = Pipeline(named("stage", same), name="jobs")
    async with pipeline as running:
        await running.put(1)
        thread = Thread(target=lambda: metrics.watch(pipeline))
        thread.start()
        thread.join()
        await until(lambda: running.statistics().done == 1)
        assert samples(registry)["asyncpc_running", "jobs"] == 1
    assert samples(registry)["asyncpc_items_done_total", "jobs", "stage"] == 1


def test_only_a_pipeline_can_be_watched(registry: CollectorRegistry) -> None:
    """The mistake of whoever has a stage at hand, or a run."""
    with pytest.raises(DefinitionError, match="watch\\(\\) takes a Pipeline, such as numbers >> show, not <Consumer"):
        Metrics(registry).watch(named("stage", same))  # type: ignore[arg-type]


def test_labels_are_safe(registry: CollectorRegistry) -> None:
    """Fault F7: no password; and a name with quotes, or with half a character, does not spoil the page for all."""
    metrics = Metrics(registry)
    for name in ('a"b\\c', "redis://me:canary@host"):
        metrics.watch(Pipeline(named(name, same), name=name))
    for name in ("\udcff", "a\nb"):
        with pytest.raises(DefinitionError, match="must be printable, on one line"):
            metrics.watch(Pipeline(named("stage", same)), name=name)
    text = generate_latest(registry).decode()
    assert "canary" not in text
    assert {one[1] for one in samples(registry)} == {'a"b\\c', "redis://me:***@host"}


def test_each_family_says_what_it_is(registry: CollectorRegistry) -> None:
    """Counters end in _total; nothing is told that is not described, and both formats can be read."""
    metrics = Metrics(registry)
    metrics.watch(Pipeline(named("stage", same)))
    families = {family.name: family for family in parse(generate_latest(registry).decode())}
    assert {family.name for family in metrics.describe()} == {name.removesuffix("_total") for name in families}
    assert all(family.documentation.endswith(".") for family in families.values())
    assert all(
        sample.name.endswith("_total") for one in families.values() if one.type == "counter" for sample in one.samples
    )


def test_a_registry_has_one(registry: CollectorRegistry) -> None:
    """Two would show each series twice, and Prometheus would drop the page; who wants the first one gets it."""
    metrics = Metrics(registry)
    with pytest.raises(ValueError, match="this registry has Metrics\\(\\) already"):
        Metrics(registry)
    assert metrics_in(registry) is metrics
    other = CollectorRegistry()
    assert metrics_in(other) is metrics_in(other) is not metrics


# -- pages ----------------------------------------------------------------------------------------


def client(metrics: Metrics, at: str = "/ops") -> httpx.AsyncClient:
    """What asks a web app in which the pages are mounted."""
    app = Starlette(routes=[Mount(at, app=metrics.asgi())])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def told(metrics: Metrics, path: str) -> tuple[int, str]:
    """The status and text of a page."""
    async with client(metrics) as web:
        answer = await web.get(f"/ops{path}")
    return answer.status_code, answer.text


async def test_pages_of_a_mounted_app(registry: CollectorRegistry) -> None:
    """The whole life of a run: before its start, while it takes items, while it drains, and after its end."""
    metrics = Metrics(registry)
    gate = asyncio.Event()

    @consumer
    async def waits(n: int) -> None:
        await gate.wait()

    pipeline = Pipeline(waits, name="orders")
    assert await told(metrics, "/live") == (200, "no pipeline is watched\n")
    assert await told(metrics, "/ready") == (503, "no pipeline is watched\n")
    metrics.watch(pipeline)
    assert await told(metrics, "/live") == (200, "orders: not started\n")
    assert await told(metrics, "/ready") == (503, "orders: not started\n")
    async with pipeline as running:
        await running.put(1)
        for page in "/live", "/ready":
            status, text = await told(metrics, page)
            assert (status, text.partition(";")[0].strip()) == (200, "orders: running")
        running.stop()
        assert (await told(metrics, "/live"))[1].startswith("orders: draining")
        assert (await told(metrics, "/ready"))[0] == 503
        gate.set()
    assert await told(metrics, "/live") == (200, "orders: ended\n")
    assert await told(metrics, "/ready") == (503, "orders: ended\n")


async def test_a_failed_run_is_not_live(registry: CollectorRegistry) -> None:
    """The process is restarted; a pipeline that runs beside the work of a service can be left out."""

    async def fails(n: int) -> None:
        raise ValueError("canary")

    metrics = Metrics(registry)
    metrics.watch(Pipeline(named("stage", same), name="main"))
    nightly = Pipeline([1], named("stage", fails), name="nightly")
    metrics.watch(nightly, health=False)
    with pytest.raises(PipelineError):
        await nightly
    assert await told(metrics, "/live") == (200, "main: not started\n")
    failing = Pipeline([1], named("stage", fails), name="failing")
    metrics.watch(failing)
    with pytest.raises(PipelineError):
        await failing
    status, text = await told(metrics, "/live")
    assert status == 503
    assert text.startswith("main: not started\nfailing: failed: ValueError (test_metrics.py:")
    assert "canary" not in text


def test_a_stalled_stage_is_named_on_the_pages(registry: CollectorRegistry) -> None:
    """It is no reason to restart, but the first thing to know."""
    metrics = Metrics(registry, stalled_after=10)
    pipeline = Pipeline(named("store", hang), name="orders", drain_timeout=0)
    metrics.watch(pipeline)

    async def main() -> list[tuple[int, str]]:
        found = []
        running = await pipeline.__aenter__()
        await running.put(1)
        for _ in range(2):
            found.append(await told(metrics, "/live"))
            await asyncio.sleep(12)
        await running.drain()
        await pipeline.__aexit__(None, None, None)
        return found

    assert testing.run(main()) == [
        (200, "orders: running; store: busy 100% of 1 worker\n"),
        (200, "orders: running; store: busy 100% of 1 worker; store: nothing settled for 12 s\n"),
    ]


async def test_the_page_of_metrics_shows_the_whole_registry(registry: CollectorRegistry) -> None:
    """The program's own metrics come along, in the format that is asked for; HEAD and a mount at /metrics work."""
    metrics = Metrics(registry)
    Counter("own_events", "Own.", registry=registry).inc(5)
    metrics.watch(Pipeline(named("stage", same), name="orders"))
    async with client(metrics) as web:
        plain = await web.get("/ops/metrics")
        modern = await web.get("/ops/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
        head = await web.head("/ops/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=")
    assert plain.headers["cache-control"] == "no-store"
    assert "own_events_total 5.0" in plain.text
    assert "asyncpc_items_done_total" in plain.text
    assert modern.headers["content-type"].startswith("application/openmetrics-text")
    assert "asyncpc_items_done" in {family.name for family in parse_openmetrics(modern.text)}  # type: ignore[no-untyped-call]
    assert (head.status_code, head.text) == (200, "")
    assert int(head.headers["content-length"]) == len(plain.content)
    async with client(metrics, at="/metrics") as web:
        assert (await web.get("/metrics/")).text == plain.text
        assert (await web.get("/metrics/live")).status_code == 200


async def test_what_is_no_page_is_refused(registry: CollectorRegistry) -> None:
    """A typo in a probe's path must not look healthy."""
    metrics = Metrics(registry)
    assert (await told(metrics, "/livez"))[0] == 404
    async with client(metrics) as web:
        refused = await web.post("/ops/live")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    with pytest.raises(ValueError, match="only, not lifespan"):
        await metrics.asgi()({"type": "lifespan"}, _never, _never)


async def _never(*args: Any) -> Any:
    raise AssertionError


async def test_a_collector_that_fails_costs_its_page_only(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """Another collector of the program must not make a probe restart it."""

    class Broken:
        def describe(self) -> Iterator[Any]:
            return iter(())

        def collect(self) -> Iterator[Any]:
            raise OSError("redis://me:canary@host is gone")

    metrics = Metrics(registry)
    registry.register(Broken())
    assert (await told(metrics, "/metrics"))[0] == 500
    assert (await told(metrics, "/live"))[0] == 200
    assert "/metrics cannot be shown: OSError" in caplog.text
    assert "canary" not in caplog.text


# -- the extra ------------------------------------------------------------------------------------


def test_without_the_extra_the_error_says_what_to_install(tmp_path: Path) -> None:
    """Who imports it without prometheus_client learns the line to type."""
    program = "import sys; sys.modules['prometheus_client'] = None; import asyncpc.metrics"
    ended = run_child(tmp_path, "-c", program, **UNMEASURED)
    assert ended.status == 1
    assert ended.err.splitlines()[-1] == (
        "ImportError: asyncpc.metrics needs prometheus_client: pip install 'asyncpc[metrics]'"
    )
