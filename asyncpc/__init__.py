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
    12  cli          reads arguments, writes to the terminal, sets exit codes
    12  branches     ``route``, ``broadcast``, ``merge``: where pipelines part and meet
    11  decorators   ``@producer``, ``@consumer``, ``source``: makes typed definitions of what is written
    11  runner       owns a loop, handles signals
    11  profile      runs stages alone and measures them
    10  pipeline     joins definitions, refuses what cannot be joined, starts runs
    10  progress     draws the line at the foot of the terminal
    10  findings     puts in words what a profile means
     9  running      gives the user a handle of a run: put, read, look, stop
     9  topology     draws a plan
     8  supervisor   makes tasks, cancels them, judges how they ended
     7  books        reads the counts of all parts, and compares them
     7  blocking     reads a source that blocks, in a thread
     6  worker       the loops: take, handle, pass on, settle
     5  handling     makes one way of calling a handler out of another
     4  recovery     decides what becomes of an item whose handler raised
     4  control      changes how many workers a stage has; pauses
     4  elsewhere    gives a plain function its threads or processes for a run
     3  stage        one stage in one run: what its workers share
     3  plan         joins definitions into a graph
     2  definitions  what the user wrote: frozen sources and handlers
     2  isolation    gives an item a context of its own
     2  bridge       takes items from threads
     2  processes    makes calls in a process
     1  core.channel the queue before a stage, as the workers on both sides of it see it
     1  containers   keeps a queue's items in another order than they came
     1  limits       holds calls back, or cuts them short
     1  checks       refuses a definition that cannot work
     1  threads      makes calls in threads
     0  wording      puts errors in words
     0  core.queue   ``BoundedQueue``: waits, and wakes those who wait
     0  core.fairness shares a channel's room where branches meet
    -1  core.waiting a queue of those who wait
    -1  core.seams   what an option must offer to fit in
     0  policies     what a user may ask for: frozen numbers
     0  report       what a run tells: frozen counts
     0  latency      how long calls take
    -2  errors       what can go wrong, as a tree
"""

from .branches import broadcast, merge, route
from .decorators import consumer, producer, source
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
from .core.queue import DEFAULT_MAXSIZE, END, BoundedQueue, QueueStatistics
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
