"""How things are measured: warm-up, interleaved rounds, medians and quartiles, and a ratio per round.

A noisy machine changes its speed from second to second. Rounds are interleaved (A B C, A B C, …), so that neighbours in
time meet the same machine, and each round gives its own ratio; the median of those is what can be trusted.
"""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

from .peers import ASYNCPC, HAND_WRITTEN, Peer
from .work import Job, Shape, WrongResult

BEFORE, AGAIN = "before", "asyncpc again"
"""An asyncpc of another checkout; and the same asyncpc once more at the end of each round: by what it seems to differ
from itself, the machine deceives."""

Sample = Callable[[], float | dict[str, float]]
"""One round of one implementation; by name, if it gives several figures. Less is better. It may raise ``Fails``."""


class Fails(Exception):
    """An implementation cannot do what is measured; the message says why. The others go on."""


@dataclass(frozen=True)
class Line:
    """Implementations that are compared with each other."""

    name: str
    samples: Mapping[str, Sample]
    unit: str = "s"
    """``s`` (seconds), ``B`` (bytes) or nothing."""
    rounds: int | None = None
    """Fewer rounds than usual, where one takes long."""
    numbers: tuple[str, ...] = ()
    """Those of its figures that are plain numbers, without a unit or a ratio."""
    failed: dict[str, str] = field(default_factory=dict)
    """Implementations that fail, and why."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    quartiles: tuple[float, float]

    @property
    def spread(self) -> float:
        """Half of the range between the quartiles, as a share of the median."""
        low, high = self.quartiles
        return (high - low) / 2 / self.median if self.median else 0.0

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Of all rounds."""
        if len(values) == 1:
            return cls(values[0], (values[0], values[0]))
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(middle, (low, high))


@dataclass(frozen=True)
class Result:
    """What one implementation reached."""

    unit: str
    rounds: int
    value: Spread
    ratios: dict[str, Spread]
    """By reference: how many times as fast (as small) as that; the median of the rounds' ratios."""


Results = dict[str, dict[str, Result]]
"""By line and implementation."""


def reference_of(ratios: Iterable[str]) -> str:
    """The first of them that a case names; empty if none of those took part."""
    return next((name for name in ratios if name not in (BEFORE, AGAIN)), "")


@dataclass
class Bench:
    """What the cases run on: one loop for all rounds, and what is known about the peers."""

    runner: asyncio.Runner
    quick: bool = False
    rounds: int = 11
    loop: str = "asyncio"
    missing: dict[str, str] = field(default_factory=dict)
    """Peers that can't take part, and why."""
    failed: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    """By case and line, the implementations that fail, and why."""
    versions: dict[str, str] = field(default_factory=dict)
    load: float = field(default_factory=lambda: os.getloadavg()[0])
    """How many processes wanted a processor before it began, as far as that is known."""
    known: dict[str, float] = field(default_factory=dict)
    """What a case measured before its lines; another process needs the same to give its asyncpc the same load."""
    alone: bool = False
    """Only asyncpc and the pipeline by hand take part."""

    def time(self, peer: Peer, job: Job) -> float:
        """Seconds that ``peer`` takes for ``job``, the start of its loop or thread left out; checked."""

        async def timed() -> float:
            started = perf_counter()
            await peer.run(job)
            return perf_counter() - started

        gc.collect()
        if peer.home == "thread":
            started = perf_counter()
            peer.run(job)
            seconds = perf_counter() - started
        elif peer.home == "trio":
            import trio

            seconds = trio.run(timed)
        else:
            seconds = self.runner.run(timed())
        job.check(peer.name)
        return seconds

    def job(self, peer: Peer, shape: Shape) -> Job:
        """A fresh job, in the flavour of the peer's loop."""
        if peer.home == "trio":
            import trio

            return Job(shape, trio.sleep)
        return Job(shape)

    def line(self, name: str, shape: Shape, peers: Iterable[Peer]) -> Line:
        """Seconds per item of all ``peers`` that are there, after a warm-up."""
        samples = {}
        for peer in self.present(peers):
            try:
                samples[peer.name] = self._per_item(peer, shape)
            except WrongResult:
                raise
            except Exception as error:
                if peer.package is None:
                    raise
                self.missing[peer.name] = f"fails: {type(error).__name__}: {error}"
        return Line(name, samples)

    def present(self, peers: Iterable[Peer]) -> Iterator[Peer]:
        """Those of ``peers`` that are there; why the others are not is kept, and which versions these are."""
        for peer in peers:
            if self.alone and peer.name not in (ASYNCPC.name, HAND_WRITTEN.name):
                continue
            if why := self.missing.get(peer.name) or peer.missing():
                self.missing[peer.name] = why
                continue
            if version := peer.version():
                self.versions[peer.name] = version
            yield peer

    def _per_item(self, peer: Peer, shape: Shape) -> Sample:
        """Slow peers get fewer items: as many as they handle in a moment, found in the warm-up."""
        moment = 1.0 if shape.wait else 0.15  # seconds
        if self.quick:
            moment = 0.15 if shape.wait else 0.04
        least = max(300, 2 * shape.concurrency)
        warm_up = self._warm_up(peer, shape, least)
        if warm_up * least < moment / 10:  # so short that its start weighs on it
            warm_up = self._warm_up(peer, shape, 10 * least)
        shape = replace(shape, items=min(shape.items, max(least, rounded(moment / warm_up))))
        return lambda: self.time(peer, self.job(peer, shape)) / shape.items

    def _warm_up(self, peer: Peer, shape: Shape, items: int) -> float:
        return self.time(peer, self.job(peer, replace(shape, items=items))) / items


def rounded(count: float) -> int:
    """``count`` down to 1, 2 or 5 times a power of ten."""
    power = 1
    while power * 10 <= count:
        power *= 10
    return max(step * power for step in (1, 2, 5) if step * power <= max(count, power))


def measure(
    line: Line, rounds: int, references: Collection[str], tick: Callable[[], Any] = lambda: None
) -> dict[str, dict[str, Result]]:
    """All rounds of a line, interleaved: results by figure ('' if there is one only) and implementation.

    One that fails has no results, not even those of the rounds before; ``line.failed`` gets to know why.
    """
    figures: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds if line.rounds is None else min(rounds, line.rounds)):
        for name, sample in line.samples.items():
            for figure, value in _taken(line, name, sample).items():
                figures.setdefault(figure, {}).setdefault(name, []).append(value)
        tick()
    whole = {
        figure: {name: values for name, values in of.items() if name not in line.failed}
        for figure, of in figures.items()
    }
    return {
        figure: _results("", of, ()) if figure in line.numbers else _results(line.unit, of, references)
        for figure, of in whole.items()
        if of
    }


def _taken(line: Line, name: str, sample: Sample) -> dict[str, float]:
    if name in line.failed:
        return {}
    try:
        given = sample()
    except Fails as why:
        line.failed[name] = str(why)
        return {}
    return given if isinstance(given, dict) else {"": given}


def _results(unit: str, values: dict[str, list[float]], references: Collection[str]) -> dict[str, Result]:
    known = [reference for reference in references if reference in values]
    return {
        name: Result(
            unit=unit,
            rounds=len(own),
            value=Spread.of(own),
            ratios={
                reference: Spread.of([theirs / ours for theirs, ours in zip(values[reference], own, strict=True)])
                for reference in known
            },
        )
        for name, own in values.items()
    }
