"""Producers and consumers for asyncio: bounded, supervised, drained, and every accepted item accounted for.

::

                items flow this way ──────────────────────────────────────────►
     producer ──► BoundedQueue ──► consumer × n ──► BoundedQueue ──► consumer × m ──► (results)
     ◄───────────────────────────────────────────── room (backpressure) flows back
                after the last item: one END per worker, stage by stage
                the Supervisor owns every task: start · watch · drain · close

Two decorators, one object, one awaitable::

    @producer
    async def numbers():
        for n in range(10):
            yield n

    @consumer(concurrency=4)
    async def show(n: int) -> None:
        print(n)

    run(numbers >> show)              # owns the loop; SIGINT and SIGTERM drain
    report = await (numbers >> show)  # or inside an async program

The package is divided into wings. Imports only go down this list, and within a wing no two modules import each
other::

    cli       reads arguments, writes to the terminal, sets exit codes
    testing   lets a user's tests run in virtual time, drive a pipeline, and see what it did
    runner    owns a loop
    remote    carries items between processes: queues with a URL, on engines such as SQLite or Redis
    live      shows a run on the terminal
    web       shows runs on a page in a browser, and controls them
    metrics   lets Prometheus read counters, and tells probes whether runs are well
    otel      traces items, and gives counters and events to OpenTelemetry
    watch     shows a pipeline, a run or a profile to people
    graph     what a user writes: sources and stages, joined into pipelines
    run       runs a pipeline: its supervisor, its accounts, its report, the object that its user gets
    options   what a user asks of a stage, one file each
    offload   calls and sources that would block the event loop: threads, processes, interpreters
    core      what every item goes through: channels, stages, workers
    errors, failure, events, wording, checks, mistakes, backoff, logs: everything above may use them
"""

import sys as _sys
import typing as _typing

from .backoff import Restart, exponential
from .core.queue import DEFAULT_MAXSIZE, END, BoundedQueue, QueueStatistics
from .core.seams import RemoteCounts
from .errors import (
    AsyncpcError,
    ConservationError,
    DefinitionError,
    DrainTimeout,
    NotPicklable,
    QueueShutDown,
    RetryLater,
    StateError,
    TooManyFailures,
    Unroutable,
    WorkerCancelled,
    WorkerDied,
)
from .failure import Failure
from .graph.branches import broadcast, merge, route
from .graph.decorators import consumer, producer, source
from .graph.pipeline import Consumer, Pipeline, Producer, Source
from .mistakes import unknown_attribute as _unknown_attribute
from .options.adaptive import Adaptive
from .options.batch import Batch
from .options.breaker import Breaker
from .options.rate import Rate
from .options.retry import Retry
from .remote.queue import RemoteQueue, remote_queue
from .run.health import Health
from .run.intake import feed
from .run.report import PipelineError, Report, Unfinished
from .run.results import Results
from .run.running import Running
from .run.statistics import SourceStatistics, StageStatistics, Statistics
from .run.workers import WorkerState
from .runner import run

__all__ = [
    "DEFAULT_MAXSIZE",
    "END",
    "Adaptive",
    "AsyncpcError",
    "Batch",
    "BoundedQueue",
    "Breaker",
    "ConservationError",
    "Consumer",
    "DefinitionError",
    "DrainTimeout",
    "Failure",
    "Health",
    "NotPicklable",
    "Pipeline",
    "PipelineError",
    "Producer",
    "QueueShutDown",
    "QueueStatistics",
    "Rate",
    "RemoteCounts",
    "RemoteQueue",
    "Report",
    "Restart",
    "Results",
    "Retry",
    "RetryLater",
    "Running",
    "Source",
    "SourceStatistics",
    "StageStatistics",
    "StateError",
    "Statistics",
    "TooManyFailures",
    "Unfinished",
    "Unroutable",
    "WorkerCancelled",
    "WorkerDied",
    "WorkerState",
    "broadcast",
    "consumer",
    "exponential",
    "feed",
    "merge",
    "producer",
    "remote_queue",
    "route",
    "run",
    "source",
]

__version__ = "0.2.0.dev0"


def __dir__() -> list[str]:
    return sorted(__all__)


if not _typing.TYPE_CHECKING:  # checkers know what there is

    def __getattr__(name: str) -> None:
        raise _unknown_attribute(_sys.modules[__name__], name)
