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

The floors of the house. A module knows only those below its floor, and does what no other does::

    13  __main__     ``python -m asyncpc``
    12  cli.main         reads arguments, writes to the terminal, sets exit codes
    12  graph.branches   ``route``, ``broadcast``, ``merge``: where pipelines part and meet
    11  graph.decorators ``@producer``, ``@consumer``, ``source``: makes typed definitions of what is written
    11  runner           owns a loop, handles signals
    11  watch.profile    runs stages alone and measures them
    10  graph.pipeline   joins definitions, refuses what cannot be joined, starts runs
    10  watch.progress   draws the line at the foot of the terminal
    10  watch.findings   puts in words what a profile means
     9  run.running      gives the user a handle of a run: put, read, look, stop
     9  watch.drawing    draws a plan
     8  run.supervisor   makes tasks, cancels them, judges how they ended
     7  run.accounting   reads the counts of all parts, and compares them
     7  offload.sources  reads a source that blocks, in a thread
     6  core.worker      the loops: take, handle, pass on, settle
     5  core.emit        makes one way of calling a handler out of another
     4  options.failures decides what becomes of an item whose handler raised
     4  run.scaling      changes how many workers a stage has; pauses
     4  offload.handlers gives a plain function its threads or processes for a run
     3  core.stage       one stage in one run: what its workers share
     3  core.plan        joins definitions into a graph
     2  graph.definitions what the user wrote: frozen sources and handlers
     2  core.isolation   gives an item a context of its own
     2  offload.bridge   takes items from threads
     2  offload.processes makes calls in a process
     1  core.channel     the queue before a stage, as the workers on both sides of it see it
     1  options.batch    keeps a queue's items in another order than they came
     1  options.rate     holds calls back, or cuts them short
     1  checks           refuses a definition that cannot work
     1  offload.threads  makes calls in threads
     0  wording          puts errors in words
     0  core.queue       ``BoundedQueue``: waits, and wakes those who wait
     0  core.fairness    shares a channel's room where branches meet
    -1  core.waiting     a queue of those who wait
    -1  core.seams   what an option must offer to fit in
     0  options.retry    what a user may ask for: frozen numbers
     0  run.report       what a run tells: frozen counts
     0  core.latency     how long calls take
    -2  errors           what can go wrong, as a tree
"""

from .graph.branches import broadcast, merge, route
from .graph.decorators import consumer, producer, source
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
from .graph.pipeline import Consumer, Pipeline, Producer, Source
from .options.retry import Adaptive, Batch, Breaker, Failure, Rate, Restart, Retry, exponential
from .core.queue import DEFAULT_MAXSIZE, END, BoundedQueue, QueueStatistics
from .run.report import Report, SourceStatistics, StageStatistics, Statistics, Unfinished
from .runner import run
from .run.running import Results, Running
from .run.supervisor import feed

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

__version__ = "0.2.0.dev0"
