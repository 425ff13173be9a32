"""The cases: each says what it measures and gives its lines. All figures are costs, so less is better."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import log
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import asyncpc

from .measure import Bench, Line
from .peers import (
    ASYNCPC,
    BARE_LOOP,
    BARE_TASKS,
    EVERYBODY,
    HAND_WRITTEN,
    STREAMABLE,
    TASK_PER_ITEM,
    TASK_PER_SLEEP,
    THREAD_QUEUES,
    Peer,
    Put,
    Service,
    defined,
    put_from_threads,
    run_defined,
    serve_asyncpc,
    serve_by_hand,
)
from .work import Gated, Handle, Job, OpenLoop, Shape, ShortJob, WrongResult, compute

OURS_AND_HAND = (ASYNCPC, HAND_WRITTEN)
EACH_TIME, ONE_BY_ONE = "defined each time", "BoundedQueue put, get"
OURS = (ASYNCPC.name, EACH_TIME, ONE_BY_ONE)
"""asyncpc, and other ways to use it."""
JANUS = "janus"
CROWDS = [(threads, bound) for threads in (1, 2, 4, 16) for bound in (1, 8, 32, 128)]
FEW_CROWDS = [(1, 1), (1, 128), (4, 1), (16, 8), (16, 128)]
"""Those of a quick run."""
SERVICES = {ASYNCPC.name: serve_asyncpc, HAND_WRITTEN.name: serve_by_hand}


@dataclass(frozen=True)
class Case:
    """A question, the lines that answer it, and what their ratios refer to."""

    name: str
    what: str
    references: tuple[str, ...]
    lines: Callable[[Bench], Iterator[Line]]


CASES: dict[str, Case] = {}


def _by_python(python: str, loop: str) -> float:
    return 2.0 if python.startswith("CPython 3.11") else 1.8


def _crowd_line(threads: int, bound: int) -> str:
    return f"{threads} × bound {bound}"


WANTED: dict[tuple[str, str], Callable[[str, str], float]] = {
    ("throughput", ""): _by_python,
    ("yield", ""): lambda python, loop: 1.6 if loop == "uvloop" else 1.45,
    ("stages", "4 stages"): lambda python, loop: 2.0,
    ("bounds", "bound 1"): lambda python, loop: 1.0,
    ("threads", ""): lambda python, loop: 2.5,
    **{("crowd", _crowd_line(*crowd)): lambda python, loop: 1.0 for crowd in CROWDS},
    ("processes", ""): lambda python, loop: 1.7,
    ("runs", "bound 128"): lambda python, loop: 6.0,
    ("io", "10,000 consumers"): lambda python, loop: 0.95,
    ("latency", "50 % load p99"): lambda python, loop: 1.0,
    ("hold", "per item"): _by_python,
    ("startup", ""): lambda python, loop: 1 / 1.5,
    ("short", "1 item"): lambda python, loop: 0.5,
    ("short", "400 items"): lambda python, loop: 1.0,
    ("import", ""): lambda python, loop: 1 / 1.2,
}
"""The ratio to the first reference that asyncpc should reach, by case and line; shown, not judged."""

LIMITS = {("hold", "p99"): 0.002, ("growth", "items exponent"): 1.02, ("growth", "consumers 10,000 : 10"): 1.3}
"""What it should not exceed, likewise."""

REQUIRED = {"crowd": (JANUS, 1.0)}
"""The ratio to a peer that ``--require`` asks of every line of a case, beside what it asks of throughput."""

BEST_LIBRARY = 4.0
"""How many times as fast as the best other library asyncpc should be, with no work in the handler."""


def case(
    name: str, what: str, references: tuple[str, ...] = (HAND_WRITTEN.name,)
) -> Callable[[Callable[[Bench], Iterator[Line]]], None]:
    """Enter a case into :data:`CASES`."""

    def enter(lines: Callable[[Bench], Iterator[Line]]) -> None:
        CASES[name] = Case(name, what, references, lines)

    return enter


# -- throughput ------------------------------------------------------------------------------------


@case("throughput", "no work in the handler: what an item costs", (HAND_WRITTEN.name, BARE_LOOP.name))
def _throughput(bench: Bench) -> Iterator[Line]:
    yield bench.line("", Shape(100_000), EVERYBODY)


@case("yield", "one sleep(0) in the handler", (HAND_WRITTEN.name, BARE_LOOP.name))
def _yield(bench: Bench) -> Iterator[Line]:
    yield bench.line("", Shape(50_000, wait=0), EVERYBODY)


@case(
    "io",
    "1 ms of simulated I/O, beside the same sleeps as bare tasks",
    (BARE_TASKS.name, TASK_PER_SLEEP.name, HAND_WRITTEN.name),
)
def _io(bench: Bench) -> Iterator[Line]:
    for consumers, items in (10, 1_000), (100, 5_000), (1_000, 20_000), (10_000, 80_000):
        shape = Shape(items, wait=0.001, concurrency=consumers)
        yield replace(
            bench.line(f"{consumers:,} consumers", shape, (BARE_TASKS, TASK_PER_SLEEP, *OURS_AND_HAND)),
            rounds=3 if bench.quick else 9,
        )


@case("stages", "stages in a row, no work")
def _stages(bench: Bench) -> Iterator[Line]:
    for stages in 1, 2, 4, 8:
        yield bench.line(f"{stages} stages", Shape(100_000, stages=stages), OURS_AND_HAND)


@case("bounds", "items a queue may hold, no work; at bound 1 every item is a switch of tasks")
def _bounds(bench: Bench) -> Iterator[Line]:
    for bound in 1, 16, 128, 1_024:
        yield bench.line(f"bound {bound:,}", Shape(100_000, bound=bound), OURS_AND_HAND)


@case("fan", "producers → consumers, no work")
def _fan(bench: Bench) -> Iterator[Line]:
    for producers, consumers in (1, 8), (8, 1), (8, 8):
        shape = Shape(100_000, producers=producers, concurrency=consumers)
        yield bench.line(f"{producers} → {consumers}", shape, OURS_AND_HAND)


@case("put", "callers outside the pipeline that put item by item, no work")
def _put(bench: Bench) -> Iterator[Line]:
    peers = [Peer(name, partial(_put_from_outside, serve)) for name, serve in SERVICES.items()]
    for callers in 1, 8, 100:
        yield bench.line(f"{callers} callers", Shape(100_000, producers=callers), peers)


async def _put_from_outside(serve: Service, job: Job) -> None:
    async def call(put: Put, first: int) -> None:
        for n in range(first, job.shape.items, job.shape.producers):
            await put(n)

    async with serve(job.handlers[0], job.shape.concurrency) as put, asyncio.TaskGroup() as tasks:
        for first in range(job.shape.producers):
            tasks.create_task(call(put, first))


@case("options", "what each option adds to an item of a stage of four workers that do nothing", ("plain",))
def _options(bench: Bench) -> Iterator[Line]:
    for name, stages in OPTIONS.items():
        plain = Peer("plain", partial(through, _ordered(False) if name == "ordered" else _stage()))
        yield bench.line(name, Shape(50_000), (plain, Peer(ASYNCPC.name, partial(through, stages))))


Stages = Callable[[Job], list[Any]]


def _stage(**options: Any) -> Stages:
    return lambda job: [_four(**options)(job.handlers[0])]


def _four(**options: Any) -> Any:
    return asyncpc.consumer(**{"concurrency": 4} | options)


def _ordered(ordered: bool) -> Stages:
    """Only what goes on can be in order."""
    return lambda job: [_four(ordered=ordered)(_same), asyncpc.consumer(job.handlers[0])]


async def _same(item: int) -> int:
    return item


def _batched(job: Job) -> list[Any]:
    async def handle(items: list[int]) -> None:
        job.seen.extend(items)

    return [_four(batch=asyncpc.Batch(100))(handle)]


def _with_resource(job: Job) -> list[Any]:
    async def handle(item: int, resource: None) -> None:
        job.seen.append(item)

    return [_four(context=asynccontextmanager(_nothing))(handle)]


async def _nothing() -> AsyncIterator[None]:
    yield


def _routed(job: Job) -> list[Any]:
    return [asyncpc.route(lambda n: n % 2, {rest: _four()(job.handlers[0]) for rest in (0, 1)})]


def _in_threads(job: Job) -> list[Any]:
    return [_four(run_in="thread")(lambda item: job.seen.append(item))]


OPTIONS: dict[str, Stages] = {
    "retry": _stage(retry=3),
    "on_error": _stage(on_error="skip", max_failures=0.01),
    "timeout": _stage(timeout=10.0),
    "rate": _stage(rate=asyncpc.Rate(1e9)),
    "breaker": _stage(breaker=asyncpc.Breaker(5, 30.0)),
    "batch of 100": _batched,
    "key": _stage(key=lambda n: n % 100),
    "ordered": _ordered(True),
    "priority": _stage(priority=lambda n: n),
    "overflow": _stage(overflow="drop_newest", maxsize=0),
    "context": _with_resource,
    "adaptive": _stage(concurrency=asyncpc.Adaptive(1, 4, target=1.0)),
    "route to two": _routed,
    "thread": _in_threads,
}


async def through(stages: Stages, job: Job) -> None:
    """Run the job through the stages; asyncpc's books must agree."""
    report = await asyncpc.Pipeline(asyncpc.producer(job.sources[0]), *stages(job))
    assert report.done == job.shape.items


@case("threads", "a thread that puts, a pipeline or coroutine that takes, no work", ("culsans", "janus"))
def _threads(bench: Bench) -> Iterator[Line]:
    peers = (Peer(ASYNCPC.name, _from_thread), *THREAD_QUEUES)
    yield bench.line("", Shape(100_000, concurrency=1), peers)


async def _from_thread(job: Job) -> None:
    async with asyncpc.Pipeline(asyncpc.consumer(job.handlers[0]), maxsize=job.shape.bound) as running:
        await put_from_threads(job, running.put_from_thread)


@case("crowd", "1 to 16 threads that put, bounds from 1 to 128, no work", (JANUS,))
def _crowd(bench: Bench) -> Iterator[Line]:
    peers = [Peer(ASYNCPC.name, _from_thread), *(peer for peer in THREAD_QUEUES if peer.name == JANUS)]
    for threads, bound in FEW_CROWDS if bench.quick else CROWDS:
        shape = Shape(100_000, concurrency=1, producers=threads, bound=bound)
        yield bench.line(_crowd_line(threads, bound), shape, peers)


@case("processes", "5 ms of arithmetic an item, in worker processes that run already", ("1 process",))
def _processes(bench: Bench) -> Iterator[Line]:
    items = 20 if bench.quick else 200
    samples = {name: partial(_in_processes, bench, count, items) for name, count in _PROCESSES.items()}
    yield Line("", samples, rounds=3 if bench.quick else 5)


_PROCESSES = {"1 process": 1, ASYNCPC.name: 2}


def _in_processes(bench: Bench, processes: int, items: int) -> float:
    """Seconds per item, from the first result that comes back from each process."""
    stage: Any = asyncpc.consumer(concurrency=processes, run_in="process")(compute)
    began: list[float] = []

    async def work() -> AsyncIterator[int]:
        for _ in range(processes):
            yield 3_000_000  # keeps each process busy until all have started
        for _ in range(items):
            yield 100_000

    @asyncpc.consumer
    async def note(size: int) -> None:
        if size > 100_000:
            began.append(perf_counter())

    async def job() -> None:
        report = await asyncpc.Pipeline(asyncpc.producer(work), stage >> note)
        assert report.done == items + processes

    bench.runner.run(job())
    return (perf_counter() - max(began)) / items


@case("runs", "just the queue: put_many and get_many in runs of 100, beside put and get", ("asyncio.Queue",))
def _runs(bench: Bench) -> Iterator[Line]:
    peers = (
        Peer("asyncio.Queue", partial(_one_by_one, asyncio.Queue)),
        Peer(ONE_BY_ONE, partial(_one_by_one, asyncpc.BoundedQueue)),
        Peer(ASYNCPC.name, _in_runs),
    )
    for bound in 128, 1_024:
        yield bench.line(f"bound {bound:,}", Shape(100_000, bound=bound), peers)


async def _one_by_one(make: Callable[[int], asyncio.Queue[int]], job: Job) -> None:
    queue = make(job.shape.bound)

    async def give() -> None:
        for n in range(job.shape.items):
            await queue.put(n)

    async def take() -> None:
        for _ in range(job.shape.items):
            job.seen.append(await queue.get())

    await asyncio.gather(give(), take())


async def _in_runs(job: Job) -> None:
    queue: asyncpc.BoundedQueue[int] = asyncpc.BoundedQueue(job.shape.bound)

    async def give() -> None:
        for first in range(0, job.shape.items, 100):
            await queue.put_many(range(first, min(first + 100, job.shape.items)))

    async def take() -> None:
        while len(job.seen) < job.shape.items:
            job.seen.extend(await queue.get_many(100))

    await asyncio.gather(give(), take())


# -- delays ----------------------------------------------------------------------------------------


@case("latency", "from the moment an item is due to its handler, under an open load")
def _latency(bench: Bench) -> Iterator[Line]:
    """The load is a share of what the hand-written pipeline can carry, measured just before."""
    shape = Shape(5_000)
    if "capacity" not in bench.known:
        times = [bench.time(HAND_WRITTEN, OpenLoop(shape, 0)) / shape.items for _ in range(9)]
        bench.known["capacity"] = statistics.median(times)
    for load in 20, 50, 80:
        gap = bench.known["capacity"] * 100 / load
        samples = {peer.name: partial(_waits, bench, peer, shape, gap) for peer in OURS_AND_HAND}
        yield Line(f"{load} % load", samples)


def _waits(bench: Bench, peer: Peer, shape: Shape, gap: float) -> dict[str, float]:
    """Medians of some short runs, so that what the machine does to one of them is left out."""
    shares: dict[str, list[float]] = {}
    for _ in range(3 if bench.quick else 9):
        job = OpenLoop(shape, gap)
        bench.time(peer, job)
        for share in 50, 99, 99.9:
            shares.setdefault(f"p{share:g}", []).append(percentile(job.waits, share))
    return {name: statistics.median(values) for name, values in shares.items()}


def percentile(values: list[float], share: float) -> float:
    """The value that ``share`` per cent do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share / 100))]


@case("hold", "how late a 1 ms timer is beside a pipeline that never waits, and what an item costs meanwhile")
def _hold(bench: Bench) -> Iterator[Line]:
    items = 200_000 if bench.quick else 1_000_000
    yield Line("", {peer.name: partial(_late, bench, peer, items) for peer in OURS_AND_HAND}, rounds=9)


def _late(bench: Bench, peer: Peer, items: int) -> dict[str, float]:
    late: list[float] = []

    async def tick() -> None:
        while True:
            started = perf_counter()
            await asyncio.sleep(0.001)
            late.append(max(0.0, perf_counter() - started - 0.001))

    async def beside(job: Job) -> None:
        ticking = asyncio.create_task(tick())
        await peer.run(job)
        ticking.cancel()

    seconds = bench.time(replace(peer, run=beside), Job(Shape(items)))
    return {"p99": percentile(late, 99), "longest": max(late), "per item": seconds / items}


@case("startup", "start and drain a pipeline of four consumers that gets nothing, or an item for each, to do")
def _startup(bench: Bench) -> Iterator[Line]:
    """The second line has all four at work, since asyncpc starts a consumer when there is work for it."""
    times = 30 if bench.quick else 300
    services = {ASYNCPC.name: _serve_defined(asyncpc.Pipeline(asyncpc.consumer(concurrency=4)(_yield_once)))}
    services[HAND_WRITTEN.name] = serve_by_hand

    async def again(serve: Service, items: int, job: Job) -> None:
        for _ in range(times):
            async with serve(_yield_once, 4) as put:
                for _ in range(items):
                    await put(None)

    def sample(name: str, items: int) -> float:
        return bench.time(Peer(name, partial(again, services[name], items)), Job(Shape(0))) / times

    for items, label in (0, ""), (4, "four items"):
        yield Line(label, {name: partial(sample, name, items) for name in services})


def _serve_defined(pipeline: asyncpc.Pipeline[Any, Any]) -> Service:
    """A pipeline defined once, as definitions are."""

    @asynccontextmanager
    async def serve(handle: Handle, concurrency: int) -> AsyncIterator[Put]:
        async with pipeline as running:
            yield running.put

    return serve


async def _yield_once(item: object) -> None:
    await asyncio.sleep(0)


@case("short", "runs of few items, start and end included, of a pipeline defined once, or before each run")
def _short(bench: Bench) -> Iterator[Line]:
    for items in 1, 10, 100, 400, 1_000:
        times = max(1, (1_000 if bench.quick else 4_000) // (items + 20))
        once = ShortJob(Shape(items))
        runs = [
            (ASYNCPC.name, replace(ASYNCPC, run=partial(run_defined, defined(once))), once),
            (EACH_TIME, ASYNCPC, ShortJob(Shape(items))),
            *[
                (peer.name, peer, ShortJob(Shape(items)))
                for peer in bench.present((HAND_WRITTEN, TASK_PER_ITEM, STREAMABLE))
            ],
        ]
        yield Line(_items(items), {name: partial(_again, bench, peer, job, times) for name, peer, job in runs})


def _items(count: int) -> str:
    return "1 item" if count == 1 else f"{count:,} items"


def _again(bench: Bench, peer: Peer, job: Job, times: int) -> float:
    """Seconds per item, the mean of many runs; the result of the last one is checked."""

    async def again(job: Job) -> None:
        for _ in range(times):
            job.seen.clear()
            await peer.run(job)

    return bench.time(replace(peer, run=again), job) / times / job.shape.items


@case("import", "import asyncpc, beside import asyncio, anyio", ("asyncio, anyio",))
def _import(bench: Bench) -> Iterator[Line]:
    with TemporaryDirectory() as compiled:
        modules = {ASYNCPC.name: "asyncpc", "asyncio, anyio": "asyncio, anyio"}
        samples = {name: partial(_seconds_to_import, what, Path(compiled)) for name, what in modules.items()}
        for sample in samples.values():
            sample()  # compiles what has not been compiled yet, as pip does
        yield Line("", samples)


OPTIONAL = ("uvloop", "rich", "trio", "redis", "nats", "msgspec", "starlette", "uvicorn", "prometheus_client")


def _seconds_to_import(modules: str, compiled: Path) -> float:
    code = f"import sys, time; t = time.perf_counter(); import {modules}; print(time.perf_counter() - t, *sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(compiled)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    seconds, *imported = done.stdout.split()
    if optional := set(OPTIONAL) & set(imported):
        raise WrongResult(f"import {modules} imports what is optional: {', '.join(sorted(optional))}")
    return float(seconds)


# -- memory and growth -----------------------------------------------------------------------------


@case("memory", "bytes per queued item, per idle consumer, per idle pipeline of one consumer")
def _memory(bench: Bench) -> Iterator[Line]:
    items = 10_000
    queues: dict[str, Callable[[int], Any]] = {ASYNCPC.name: asyncpc.BoundedQueue, HAND_WRITTEN.name: asyncio.Queue}

    def each(count: int, held: Callable[[int], Any], besides: int = 0) -> float:
        return float(bench.runner.run(held(count + besides)) - bench.runner.run(held(besides))) / count

    yield Line("item", {name: partial(each, items, partial(_queued, make)) for name, make in queues.items()}, "B", 3)
    consumers = {name: partial(each, 1_000, partial(_idle, serve, 1), 10) for name, serve in SERVICES.items()}
    yield Line("consumer", consumers, "B", 3)
    pipelines = {name: partial(each, 50, partial(_idle, serve, consumers=1)) for name, serve in SERVICES.items()}
    yield Line("pipeline", pipelines, "B", 3)


async def _queued(make: Callable[[int], Any], count: int) -> int:
    tracemalloc.start()
    queue = make(0)
    for _ in range(count):
        queue.put_nowait(None)
    return _traced()


async def _idle(serve: Service, pipelines: int, consumers: int) -> int:
    async with AsyncExitStack() as stack:
        tracemalloc.start()
        for _ in range(pipelines):
            put = await stack.enter_async_context(serve(_wait, consumers))
            for _ in range(consumers):
                await put(None)  # so that all consumers have come into being
        await asyncio.sleep(0.1)
        return _traced()


async def _wait(item: object) -> None:
    await asyncio.sleep(0.01)


def _traced() -> int:
    traced, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return traced


@case("growth", "cost per item from 10^3 to 10^7 items and from 1 to 10^4 consumers; exponent of the growth")
def _growth(bench: Bench) -> Iterator[Line]:
    sizes = [10**power for power in range(3, 6 if bench.quick else 8)]
    items = {peer.name: partial(_by_items, bench, peer, sizes) for peer in OURS_AND_HAND}
    yield Line("items", items, rounds=3, numbers=("exponent",))
    shape = Shape(20_000 if bench.quick else 100_000)
    consumers = {peer.name: partial(_by_consumers, bench, peer, shape) for peer in OURS_AND_HAND}
    yield Line("consumers", consumers, rounds=5, numbers=("exponent", "10,000 : 10"))


def _by_items(bench: Bench, peer: Peer, sizes: list[int]) -> dict[str, float]:
    """Of the whole run: 1 is a cost per item that stays the same."""
    costs = {}
    for size in sizes:
        again = range(max(1, min(20, 100_000 // size)))  # what is short is noisy
        costs[size] = statistics.median(bench.time(peer, Job(Shape(size))) / size for _ in again)
    return {f"{size:,}": cost for size, cost in costs.items()} | {"exponent": 1 + exponent(costs)}


def _by_consumers(bench: Bench, peer: Peer, shape: Shape) -> dict[str, float]:
    """Of an item, the start of the consumers left out: 0 is a cost that stays the same."""
    costs = {}
    for consumers in 1, 10, 100, 1_000, 10_000:
        job = Gated(replace(shape, concurrency=consumers))
        bench.time(peer, job)
        costs[consumers] = job.seconds / shape.items
    figures = {f"{consumers:,}": cost for consumers, cost in costs.items()}
    return figures | {"exponent": exponent(costs), "10,000 : 10": costs[10_000] / costs[10]}


def exponent(costs: dict[int, float]) -> float:
    """The slope of the cost over the size, both as logarithms, by least squares."""
    return statistics.linear_regression([log(size) for size in costs], [log(cost) for cost in costs.values()]).slope
