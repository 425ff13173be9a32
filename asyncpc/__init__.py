"""Producers and consumers for asyncio: bounded, supervised, drained, and every accepted item accounted for.

::

                items flow this way ──────────────────────────────────────────►
     producer ──► BoundedQueue ──► consumer × n ──► BoundedQueue ──► consumer × m ──► (results)
     ◄───────────────────────────────────────────── room (backpressure) flows back
                after the last item: one END per consumer, stage by stage
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

Floors, from the ground up (imports only go down): ``errors`` · ``queue``, ``policies``, ``report`` · ``stages`` (what
the user wrote), ``containers``, ``limits`` · ``plan`` (how it is joined), ``stage`` (what workers share) · ``handling``
(how a handler is called) · ``worker`` (the loops) · ``books`` (the counts) · ``supervisor`` (the tasks) · ``running``,
``pipeline``, ``definitions`` (the user's side) · ``runner`` and ``cli`` (loops, signals, terminals).
"""

from .definitions import broadcast, consumer, merge, producer, route, source
from .errors import (
    AsyncpcError,
    ConservationError,
    DefinitionError,
    DrainTimeout,
    NotPicklable,
    PipelineError,
    QueueShutDown,
    RetryLater,
    StateError,
    TooManyFailures,
    Unroutable,
    WorkerCancelled,
    WorkerDied,
)
from .pipeline import Consumer, Pipeline, Producer, Source
from .policies import Adaptive, Batch, Breaker, Failure, Rate, Restart, Retry, exponential
from .queue import DEFAULT_MAXSIZE, END, BoundedQueue, QueueStatistics
from .report import Report, SourceStatistics, StageStatistics, Statistics, Unfinished
from .runner import run
from .running import Results, Running
from .supervisor import feed

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
    "NotPicklable",
    "Pipeline",
    "PipelineError",
    "Producer",
    "QueueShutDown",
    "QueueStatistics",
    "Rate",
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
    "broadcast",
    "consumer",
    "exponential",
    "feed",
    "merge",
    "producer",
    "route",
    "run",
    "source",
]

__version__ = "0.1.0"
