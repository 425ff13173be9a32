"""asyncpc and its peers: for each one small function that does a job as its users would write it.

One async generator (or several) → a bounded buffer → n consumers. Where a library has no buffer of its own, or no
several producers, it does without; that only makes it faster. Each imports its library itself.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module, metadata, util
from typing import Any, Literal, cast

import asyncpc

from .work import Handle, Job, Source

Put = Callable[[Any], Awaitable[object]]
Service = Callable[[Handle, int], AbstractAsyncContextManager[Put]]

END = object()


@dataclass(frozen=True)
class Peer:
    """One implementation."""

    name: str
    run: Callable[[Job], Any]
    package: str | None = None
    """Its name on PyPI; None: nothing to install."""
    module: str | None = None
    """What is imported, if that is another name."""
    home: Literal["asyncio", "trio", "thread"] = "asyncio"
    """Where it runs: in the suite's loop, in trio, or in a loop and thread of its own."""

    def missing(self) -> str | None:
        """Why it can't take part, or None if it can."""
        if self.package is None:
            return None
        module = self.module or self.package
        if util.find_spec(module.partition(".")[0]) is None:
            return "not installed"
        try:
            with warnings.catch_warnings(action="ignore"):
                import_module(module)
        except Exception as error:
            return f"does not import here: {type(error).__name__}: {error}"
        return None

    def version(self) -> str | None:
        """The version installed."""
        try:
            return metadata.version(self.package) if self.package else None
        except metadata.PackageNotFoundError:
            return None


# -- asyncpc ---------------------------------------------------------------------------------------


async def run_asyncpc(job: Job) -> None:
    """A pipeline with everything on; its own books must say what the job's check says."""
    await run_defined(defined(job), job)


def defined(job: Job) -> asyncpc.Pipeline[Any, Any]:
    """The pipeline for a job."""
    sources: list[Any] = [asyncpc.producer(source) for source in job.sources]
    source: Any = sources[0] if len(sources) == 1 else asyncpc.merge(*sources)
    stage: Any = asyncpc.consumer(concurrency=job.shape.concurrency)
    make: Any = asyncpc.Pipeline  # type checkers refuse more than two parts
    return cast("asyncpc.Pipeline[Any, Any]", make(source, *map(stage, job.handlers), maxsize=job.shape.bound))


async def run_defined(pipeline: asyncpc.Pipeline[Any, Any], job: Job) -> None:
    """Run what may have been defined long before."""
    report = await pipeline
    assert report.complete
    assert report.done == job.shape.items


@asynccontextmanager
async def serve_asyncpc(handle: Handle, concurrency: int) -> AsyncIterator[Put]:
    """A pipeline without a producer, as a web app has it."""
    stage: Any = asyncpc.consumer(concurrency=concurrency)
    async with asyncpc.Pipeline(stage(handle)) as running:
        yield running.put


# -- nothing but asyncio ---------------------------------------------------------------------------


async def run_bare_loop(job: Job) -> None:
    """The limit: no queue, no tasks."""
    for source in job.sources:
        async for item in source():
            for handle in job.handlers:
                item = await handle(item)


async def run_bare_tasks(job: Job) -> None:
    """The limit for handlers that wait: as many tasks as consumers, each calls the handler again and again."""

    async def some(first: int) -> None:
        for n in range(first, job.shape.items, job.shape.concurrency):
            await job.handlers[0](n)

    async with asyncio.TaskGroup() as tasks:
        for first in range(job.shape.concurrency):
            tasks.create_task(some(first))


async def run_task_per_sleep(job: Job) -> None:
    """The same sleeps, each as a task of its own, as many at a time as there are consumers."""
    for first in range(0, job.shape.items, job.shape.concurrency):
        async with asyncio.TaskGroup() as tasks:
            for n in range(first, min(first + job.shape.concurrency, job.shape.items)):
                tasks.create_task(_once(job.handlers[0], n))


async def _once(handle: Handle, item: Any) -> None:
    await handle(item)


async def run_hand_written(job: Job) -> None:
    """What people write: asyncio.Queue, TaskGroup, a sentinel per consumer, task_done in a finally."""
    await _by_hand(job, [asyncio.Queue(job.shape.bound) for _ in job.handlers])


async def _by_hand(job: Job, queues: list[Any]) -> None:
    async with asyncio.TaskGroup() as tasks:
        workers = [tasks.create_task(_produce(source, queues[0])) for source in job.sources]
        for handle, inbox, outbox in zip(job.handlers, queues, [*queues[1:], None], strict=True):
            tasks.create_task(_end(workers, inbox, job.shape.concurrency))
            consume = _consume(handle, inbox) if outbox is None else _transform(handle, inbox, outbox)
            workers = [tasks.create_task(consume()) for _ in range(job.shape.concurrency)]


async def _produce(source: Source, queue: Any) -> None:
    async for item in source():
        await queue.put(item)


async def _end(workers: list[asyncio.Task[None]], queue: Any, consumers: int) -> None:
    """When those who put are done: one sentinel per consumer."""
    await asyncio.wait(workers)
    for _ in range(consumers):
        await queue.put(END)


def _consume(handle: Handle, queue: Any) -> Callable[[], Any]:
    async def consume() -> None:
        while (item := await queue.get()) is not END:
            try:
                await handle(item)
            finally:
                queue.task_done()

    return consume


def _transform(handle: Handle, inbox: Any, outbox: Any) -> Callable[[], Any]:
    async def transform() -> None:
        while (item := await inbox.get()) is not END:
            try:
                await outbox.put(await handle(item))
            finally:
                inbox.task_done()

    return transform


@asynccontextmanager
async def serve_by_hand(handle: Handle, concurrency: int) -> AsyncIterator[Put]:
    """The same without a producer: the callers put."""
    queue: asyncio.Queue[Any] = asyncio.Queue(128)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(concurrency):
            tasks.create_task(_consume(handle, queue)())
        yield queue.put
        for _ in range(concurrency):
            await queue.put(END)


async def run_semaphore(job: Job) -> None:
    """A task per item, as many at once as the semaphore allows."""
    limit = asyncio.Semaphore(job.shape.concurrency)

    async def one(item: Any) -> None:
        try:
            await job.handlers[0](item)
        finally:
            limit.release()

    async with asyncio.TaskGroup() as tasks:
        async for item in job.sources[0]():
            await limit.acquire()
            tasks.create_task(one(item))


# -- other queues, with the hand-written loops -----------------------------------------------------


async def run_janus(job: Job) -> None:
    """janus, the async side on both ends."""
    import janus

    queue: Any = janus.Queue(job.shape.bound)
    await _by_hand(job, [queue.async_q])
    await queue.aclose()


async def run_culsans(job: Job) -> None:
    """culsans, the async side on both ends."""
    import culsans

    await _by_hand(job, [culsans.Queue(job.shape.bound).async_q])


async def run_aiochan(job: Job) -> None:
    """A channel with a buffer; closing it ends the consumers."""
    import aiochan

    channel = aiochan.Chan(job.shape.bound)

    async def produce() -> None:
        async for item in job.sources[0]():
            await channel.put(item)
        channel.close()

    async def consume() -> None:
        async for item in channel:
            await job.handlers[0](item)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(produce())
        for _ in range(job.shape.concurrency):
            tasks.create_task(consume())


# -- from a thread ---------------------------------------------------------------------------------


async def put_from_threads(job: Job, put: Callable[[Any], object]) -> None:
    """All items, put one by one, by a thread for each producer."""
    shape, loop = job.shape, asyncio.get_running_loop()

    def give(first: int) -> None:
        for n in range(first, shape.items, shape.producers):
            put(n)

    pool = ThreadPoolExecutor(shape.producers)
    try:
        await asyncio.gather(*[loop.run_in_executor(pool, give, first) for first in range(shape.producers)])
    finally:
        pool.shutdown(wait=False)


async def run_culsans_threads(job: Job) -> None:
    """culsans, its two sides used as meant."""
    import culsans

    await _take_from_thread(job, culsans.Queue(job.shape.bound))


async def run_janus_threads(job: Job) -> None:
    """janus, its two sides used as meant."""
    import janus

    queue: Any = janus.Queue(job.shape.bound)
    await _take_from_thread(job, queue)
    await queue.aclose()


async def _take_from_thread(job: Job, queue: Any) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(put_from_threads(job, queue.sync_q.put))
        for _ in range(job.shape.items):
            await job.handlers[0](await queue.async_q.get())
            queue.async_q.task_done()


# -- structured channels ---------------------------------------------------------------------------


async def run_anyio(job: Job) -> None:
    """A memory object stream with a clone per consumer."""
    import anyio

    async with anyio.create_task_group() as tasks:
        await _by_channel(job, tasks, anyio.create_memory_object_stream[Any](job.shape.bound))


async def run_trio(job: Job) -> None:
    """A memory channel with a clone per consumer."""
    import trio

    async with trio.open_nursery() as tasks:
        await _by_channel(job, tasks, trio.open_memory_channel[Any](job.shape.bound))


async def _by_channel(job: Job, tasks: Any, ends: Iterable[Any]) -> None:
    """What trio and anyio share."""
    send, receive = ends

    async def consume(receive: Any) -> None:
        async with receive:
            async for item in receive:
                await job.handlers[0](item)

    for _ in range(job.shape.concurrency):
        tasks.start_soon(consume, receive.clone())
    await receive.aclose()
    async with send:
        async for item in job.sources[0]():
            await send.send(item)


# -- stream libraries ------------------------------------------------------------------------------


async def run_aiostream(job: Job) -> None:
    """Map with task_limit, results as they come."""
    from aiostream import stream

    handle: Any = job.handlers[0]
    mapped = stream.map(job.sources[0](), handle, ordered=False, task_limit=job.shape.concurrency)
    async with mapped.stream() as results:
        async for _ in results:
            pass


async def run_streamable(job: Job) -> None:
    """Map with concurrency, results as they come."""
    from streamable import stream

    handle: Any = job.handlers[0]
    async for _ in stream(job.sources[0]()).map(handle, concurrency=job.shape.concurrency, as_completed=True):
        pass


async def run_pypeln(job: Job) -> None:
    """pypeln.task.each."""
    import pypeln

    handle: Any = job.handlers[0]
    await pypeln.task.each(handle, job.sources[0](), workers=job.shape.concurrency, maxsize=job.shape.bound)


async def run_pyper(job: Job) -> None:
    """Two tasks; the first one's throttle is the bound."""
    from pyper import task

    source = task(job.sources[0], branch=True, throttle=job.shape.bound)
    pipeline: Any = source | task(job.handlers[0], workers=job.shape.concurrency)
    async for _ in pipeline():
        pass


def run_spdl(job: Job) -> None:
    """A pipeline in a thread with a loop of its own, read here."""
    from spdl.pipeline import PipelineBuilder

    builder: Any = PipelineBuilder().add_source(job.sources[0]())
    builder = builder.pipe(job.handlers[0], concurrency=job.shape.concurrency).add_sink(job.shape.bound)
    pipeline = builder.build(num_threads=1)
    with pipeline.auto_stop():
        for _ in pipeline:
            pass


ASYNCPC = Peer("asyncpc", run_asyncpc)
HAND_WRITTEN = Peer("hand-written", run_hand_written)
BARE_LOOP = Peer("bare loop", run_bare_loop)
BARE_TASKS = Peer("bare tasks", run_bare_tasks)
TASK_PER_SLEEP = Peer("task per sleep", run_task_per_sleep)

STREAMABLE = Peer("streamable", run_streamable, "streamable")

LIBRARIES = (
    Peer("aiochan", run_aiochan, "aiochan"),
    Peer("culsans", run_culsans, "culsans"),
    Peer("janus", run_janus, "janus"),
    STREAMABLE,
    Peer("trio", run_trio, "trio", home="trio"),
    Peer("pypeln", run_pypeln, "pypeln", "pypeln.task"),
    Peer("anyio", run_anyio, "anyio"),
    Peer("pyper", run_pyper, "python-pyper", "pyper"),
    Peer("aiostream", run_aiostream, "aiostream"),
    Peer("spdl", run_spdl, "spdl-core", "spdl.pipeline", home="thread"),
)
THREAD_QUEUES = (Peer("culsans", run_culsans_threads, "culsans"), Peer("janus", run_janus_threads, "janus"))
TASK_PER_ITEM = Peer("task per item", run_semaphore)
EVERYBODY = (BARE_LOOP, ASYNCPC, HAND_WRITTEN, TASK_PER_ITEM, *LIBRARIES)
