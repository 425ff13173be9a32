"""The cases: one for each engine, with the same lines. All figures are costs of a message, so less is better."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

from ..cases import percentile
from ..measure import Bench, Fails, Line, Result, Sample, rounded
from ..peers import ASYNCPC
from ..report import readable
from .fleet import Fleet, Worker
from .roster import MODULES
from .work import Peer, loops_of

RAW, FASTSTREAM, BATCH, ONE = "raw batched", "FastStream", "FastStream batch", "1 process"
REFERENCES = {
    "sqlite": (RAW, ONE),
    "redis": (RAW, FASTSTREAM, BATCH, ONE),
    "postgres": (RAW, ONE),
    "nats": (RAW, FASTSTREAM, BATCH, ONE),
    "rabbitmq": (RAW, FASTSTREAM, ONE),
}
WANTED: dict[tuple[str, str], dict[str, float]] = {
    ("redis", "64 B consume"): {FASTSTREAM: 15, BATCH: 1.3, RAW: 0.55},
    ("nats", "64 B consume"): {FASTSTREAM: 6},
    ("rabbitmq", "64 B consume"): {FASTSTREAM: 2},
    ("sqlite", "64 B consume"): {RAW: 0.75},
    ("postgres", "64 B consume"): {RAW: 0.75},
    **{(engine, "processes client CPU"): {ONE: 0.9} for engine in REFERENCES},
    **{(engine, "processes"): {ONE: 1.7} for engine in REFERENCES},
}
"""The ratios that asyncpc should reach, by engine, figure and reference."""

LIMITS = {
    ("redis", "64 B consume server CPU"): 5e-6,
    **{(engine, "20 % load p99"): seconds for engine, seconds in (("redis", 0.01), ("nats", 0.01))},
    **{(engine, "20 % load p99"): seconds for engine, seconds in (("sqlite", 0.025), ("postgres", 0.025))},
}
"""What it should not exceed, likewise."""

MOST = 100_000
"""Messages of a round."""

LEAST = 200
"""Messages of a round whose handlers do not wait, however slow an implementation is."""

FEWEST = 10
"""Messages of a round whose handlers wait, if an implementation handles one after the other."""

MOMENT = 0.5
"""Seconds that a round should take; less with ``--quick``."""

TWO_PROCESSES = 1_000
"""Messages that one process handles, or two together."""


class Handling(NamedTuple):
    """What is done with the messages of a line."""

    size: int
    wait: float = 0.0
    at_once: int = 10


HANDLINGS = {
    "64 B": Handling(64),
    "10 kB": Handling(10_000),
    "1 ms": Handling(64, 0.001, 100),
    "100 ms": Handling(64, 0.1, 100),
}


LONG = 0.1
"""Seconds of a handler that waits so long that a round has no more messages than some receive at once."""

Measured = Callable[[Fleet, Handling, Worker, int], dict[str, float]]
"""Figures of a round with so many messages."""


class Goal(NamedTuple):
    """What a figure of asyncpc should reach."""

    told: str
    figure: str
    """What it has reached; empty without the reference."""
    is_reached: bool

    @property
    def sign(self) -> str:
        """Whether it is reached; a question mark if nobody can say."""
        return "?" if not self.figure else "✓" if self.is_reached else "✗"


def goals(engine: str, figure: str, result: Result, share: float = 1.0) -> Iterator[Goal]:
    """Those of a figure; with ``share`` 0.9 each is reached that is missed by no more than a tenth."""
    if limit := LIMITS.get((engine, figure)):
        value = result.value.median
        yield Goal(f"≤ {readable(limit, result.unit)}", readable(value, result.unit), value * share <= limit)
    for reference, least in WANTED.get((engine, figure), {}).items():
        ratio = result.ratios[reference].median if reference in result.ratios else 0.0
        yield Goal(f"≥ {least:g} × {reference}", f"{ratio:.2f} ×" if ratio else "", ratio >= least * share)


def peers_on(engine: str, bench: Bench) -> list[Peer]:
    """All implementations whose modules import here."""
    found: list[Peer] = []
    for module in MODULES[engine]:
        try:
            found += import_module(f"{__package__}.peers.{module}").PEERS[engine]
        except ImportError as error:
            bench.missing[f"{module} on {engine}"] = f"does not import here: {error}"
    return found


def lines(fleet: Fleet, bench: Bench) -> Iterator[Line]:
    """Those of one engine."""
    peers = peers_on(fleet.engine, bench)
    for name, handling in HANDLINGS.items():
        yield _line(name, fleet, bench, peers, handling, _put_and_handled)
    yield _line("end to end", fleet, bench, peers, HANDLINGS["64 B"], _at_the_same_time)
    if any(peer.name == ASYNCPC.name for peer in peers) and f"{ASYNCPC.name} on {fleet.engine}" not in bench.missing:
        for name, line in ("20 % load", _latency), ("processes", _processes):
            try:
                yield line(name, fleet, bench)
            except Fails as why:
                yield Line(name, {}, failed={ASYNCPC.name: str(why)})


def _line(name: str, fleet: Fleet, bench: Bench, peers: list[Peer], handling: Handling, measured: Measured) -> Line:
    """One round of each peer that works, with as many messages as it manages in a moment."""
    samples: dict[str, Sample] = {}
    failed: dict[str, str] = {}
    for peer in peers:
        key = f"{peer.name} on {fleet.engine}"
        if key in bench.missing:
            continue
        try:
            worker = fleet.worker(peer.name, peer.project)
        except Fails as why:
            bench.missing[key] = f"does not start: {why}"
            continue
        bench.versions.update(worker.versions)
        try:
            count = _count(bench, peer, handling, partial(measured, fleet, handling, worker))
        except Fails as why:
            failed[peer.name] = str(why)
        else:
            samples[peer.name] = partial(measured, fleet, handling, worker, count)
    return Line(name, samples, failed=failed)


def _count(bench: Bench, peer: Peer, handling: Handling, measured: Callable[[int], dict[str, float]]) -> int:
    """How many messages take a moment, found by more and more of them; where handlers wait, no more than they could."""
    moment = MOMENT / 3 if bench.quick else MOMENT
    least, most = min(MOST, max(LEAST, 10 * peer.batch if peer.batch > 1 else 0)), MOST
    if handling.wait:
        most = handling.at_once * max(2, int(moment / handling.wait))
        least = min(least, most) if peer.batch > 1 else FEWEST
    measured(FEWEST)  # imports what it needs
    count = least
    while True:
        figures = measured(count)
        seconds = max(figures[name] for name in figures if not name.endswith("CPU"))
        if count >= most or seconds * count > moment / 3:
            return max(least, min(most, rounded(moment / max(seconds, 1e-9))))
        count = min(most, 10 * count)


def _put_and_handled(fleet: Fleet, handling: Handling, worker: Worker, count: int) -> dict[str, float]:
    """First all are put, then all are handled.

    Of putting nothing is told if the handlers wait, since it is the same then; of processor time nothing if they wait
    for long, since most messages have been received when the meter starts.
    """
    queue, terms = fleet.queue(), {"count": count, **handling._asdict()}
    put = worker.do("publish", queue, **terms)
    handled = _costs("consume", worker.do("consume", queue, **terms))
    if handling.wait >= LONG:
        return {"consume": handled["consume"]}
    return handled if handling.wait else _costs("publish", put) | handled


def _at_the_same_time(fleet: Fleet, handling: Handling, worker: Worker, count: int) -> dict[str, float]:
    return _costs("", worker.do("both", fleet.queue(), count=count, **handling._asdict()))


def _costs(what: str, answer: dict[str, Any]) -> dict[str, float]:
    """Of a message, under their names."""
    names = {"wall": what, "client": f"{what} client CPU", "server": f"{what} server CPU"}
    return {name.strip(): answer[key] for key, name in names.items() if key in answer}


# -- asyncpc, and at most the client by hand -------------------------------------------------------


def _latency(name: str, fleet: Fleet, bench: Bench) -> Line:
    """From the moment a message is due, through the queue, to its handler, at 20 % of what one process carries.

    The client by hand has the same load as asyncpc.
    """
    worker, handling = fleet.worker(ASYNCPC.name), HANDLINGS["64 B"]
    warm = min(MOST, 2_000 if bench.quick else 20_000)
    gap = 5 * statistics.median(_at_the_same_time(fleet, handling, worker, warm)[""] for _ in range(3))
    count = min(MOST, rounded((0.5 if bench.quick else 3.0) / gap))

    def sample(of: Worker) -> dict[str, float]:
        late = of.do("both", fleet.queue(), count=count, gap=gap, **handling._asdict())["late"]
        return {f"p{share}": percentile(late, share) for share in (50, 99)}

    samples: dict[str, Sample] = {ASYNCPC.name: partial(sample, worker)}
    with suppress(Fails):  # it does not start, as the other lines tell
        samples[RAW] = partial(sample, fleet.worker(RAW))
    return Line(name, samples)


def _processes(name: str, fleet: Fleet, bench: Bench) -> Line:
    """2 ms of arithmetic a message, in one process and in two that share the queue.

    Twice as many are put as are handled: else the last process would wait for what the first has received and does not
    handle any more, until that one has stopped and given it back.
    """
    burn, count = loops_of(0.002), TWO_PROCESSES // 5 if bench.quick else TWO_PROCESSES
    first, second = (fleet.worker(ASYNCPC.name, place=place) for place in (0, 1))

    def sample(workers: tuple[Worker, ...]) -> dict[str, float]:
        queue = fleet.queue()
        first.do("publish", queue, count=2 * count, size=64)
        share = count // len(workers)
        for worker in workers:
            worker.tell("consume", queue, count=share, of=2 * count, size=64, burn=burn)
        answers = [worker.answer() for worker in workers]
        wall = statistics.mean(answer["wall"] for answer in answers) / len(workers)
        return {"": wall, "client CPU": statistics.mean(answer["client"] for answer in answers)}

    return Line(name, {ONE: partial(sample, (first,)), ASYNCPC.name: partial(sample, (first, second))})
