"""Kill programs, and the servers between them, at random moments under load; judged by their log.

    python -m tests.remote.kills --engine sqlite --kills 200 --terms 100 --crashes 20

prints a table. ``test_crashes`` runs a few of each.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from asyncpc.remote.broker import Depth
from asyncpc.remote.queue import RemoteQueue, remote_queue

from .judge import Judge
from .programs import CONCURRENCY, Job, Log
from .servers import PLACES, Place
from .stalls import Stalls

__all__ = ["DRAIN", "SAFE_LEASE", "Result", "crashes", "crew_at", "kills", "poison", "terms"]

TESTS: Final = Path(__file__).parent.parent

PATIENCE: Final = 60.0
"""Seconds after which something that should happen is missed."""

SLOWEST: Final = 100
"""Messages a second that two workers handle at least, however busy the machine is; on a quiet one it is 800."""

DRAIN: Final = 10.0
"""Seconds that a program may take to end after SIGTERM."""

LEASE: Final = 2.0
"""Seconds of a lease where processes are killed; long enough for a busy machine."""

SAFE_LEASE: Final = 30.0
"""Seconds of a lease where nobody dies."""

NOTED: Final = 3.0
"""Seconds after which a server has noted on disk that a queue was made: RabbitMQ may lose one that is newer."""

KINDS: Final = ("working", "working", "publishing", "publishing")

R = TypeVar("R")


class Result(NamedTuple):
    """What the judge says of one run."""

    what: str
    times: int
    confirmed: int
    lost: int
    """Messages that were confirmed and not handled."""
    duplicates: int
    slowest: float
    """Seconds: of a dead worker's message until another had handled it, without those in which the machine stood still,
    of an end after SIGTERM, or of the run's going on after its server is back."""
    at_rest: float
    """Seconds from the end of the last publisher until nothing was pending."""
    dead: int
    """Dead letters."""

    def row(self) -> str:
        """A line of the table."""
        each = self.duplicates / self.times
        return (
            f"{self.what:<12} {self.times:>5} {self.confirmed:>9} {self.lost:>5} {self.duplicates:>10} {each:>6.2f} "
            f"{self.slowest:>9.2f} {self.at_rest:>8.2f} {self.dead:>5}"
        )


HEADER: Final = "what         times confirmed  lost duplicates   each slowest s at rest s  dead"


class Program:
    """One of the programs, in a process of its own."""

    def __init__(self, crew: Crew, kind: str) -> None:
        self.kind = kind
        self.who = f"{kind[0]}{next(crew.numbers)}"
        given = {"url": crew.url, "log": str(crew.log), "who": self.who}
        if kind == "working":
            given |= {"lease": str(crew.lease), "prefetch": str(crew.prefetch)}
        words = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
        command = ["-m", "asyncpc", "run", f"remote.programs:{kind}", *words]
        command += ["--drain-timeout", f"{DRAIN:g}", "--log-level", "warning", "--quiet"]
        with crew.said.open("ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, *command], cwd=TESTS, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )

    def lives(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def end(self, how: signal.Signals) -> float:
        """Send it a signal, and wait for its end; return when it was sent (monotonic)."""
        sent = time.monotonic()
        self.process.send_signal(how)
        self.process.wait(PATIENCE)
        return sent


class Crew:
    """Programs that work at one queue, and the judge of what they do."""

    def __init__(self, place: Place, folder: Path, lease: float, prefetch: int = 64) -> None:
        self.url = place.url()
        self.lease = lease
        self.prefetch = prefetch
        self.log = folder / "log"
        self.said = folder / "said"
        self.numbers = count()
        self.programs: list[Program] = []
        self.log.touch()
        self.judge = Judge(self.log)

    def start(self, *kinds: str) -> list[Program]:
        """Start programs, and wait until they are at work."""
        started = [Program(self, kind) for kind in kinds]
        self.programs += started
        for one in started:
            self.until(partial(self.judge.is_up, one.who), f"{one.who} is up")
        return started

    def start_all(self) -> None:
        """Start the usual ones, and wait until each has done something, so that its first connection has come about."""
        for one in self.start(*KINDS):
            self.until(partial(self.judge.has_worked, one.who), f"{one.who} has done something")

    def until_at_work(self, since: float) -> None:
        """Wait until something was put and something handled since then (monotonic)."""
        for what in "confirmed", "handled":
            self.until(partial(self.judge.was, what, since), f"something is {what} again")

    def end(self, program: Program, how: signal.Signals) -> float:
        """End one, which must have lived till then."""
        assert program.lives(), self.told(f"{program.who} ended by itself, with {program.process.returncode}")
        self.programs.remove(program)
        return program.end(how)

    def until(self, is_so: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
        """Wait until the log says so."""
        ends = time.monotonic() + seconds
        while True:
            self.judge.read()
            if is_so():
                return
            assert time.monotonic() < ends, self.told(f"it never came to be that {what}")
            time.sleep(0.01)

    def told(self, what: str) -> str:
        """A fault, with what the programs said last."""
        return f"{what}; the programs said:\n{self.said.read_text()[-10000:]}"

    def rest(self) -> tuple[float, Depth]:
        """Let the publishers end, then wait until nothing is pending; seconds, and what is left."""
        for one in [one for one in self.programs if one.kind == "publishing"]:
            self.end(one, signal.SIGTERM)
        began = time.monotonic()
        self.judge.read()
        behind = len(self.judge.lost())  # publishers put at a steady pace, and a busy machine may not keep up
        what = f"each of {behind} messages that had not been handled at the end was"
        self.until(lambda: not self.judge.lost(), what, PATIENCE + behind / SLOWEST)
        ends = time.monotonic() + PATIENCE
        asyncio.run(at_rest(remote_queue(self.url, Job), ends))  # but for what others hold on RabbitMQ
        took = time.monotonic() - began
        for one in [*self.programs]:
            self.end(one, signal.SIGTERM)
        return took, asyncio.run(remote_queue(self.url, Job).depth())

    def result(self, what: str, times: int, slowest: float) -> Result:
        """Let it come to rest, and judge."""
        took, depth = self.rest()
        self.judge.read()
        judge = self.judge
        assert depth[:3] == (0, 0, 0), self.told(f"{depth} is left")
        assert not judge.invented()
        return Result(
            what, times, len(judge.confirmed), len(judge.lost()), judge.duplicates(), slowest, took, depth.dead
        )


async def at_rest(queue: RemoteQueue[Job], deadline: float) -> Depth:
    """How many messages there are once none is pending, or at a deadline (monotonic)."""
    async with queue.open() as opened:
        while True:
            depth = await opened.depth()
            if depth[:3] == (0, 0, 0) or time.monotonic() > deadline:
                return depth
            await asyncio.sleep(0.05)


@contextmanager
def crew_at(place: Place, folder: Path, lease: float, prefetch: int = 64) -> Iterator[Crew]:
    """A crew of which nobody stays behind."""
    crew = Crew(place, folder, lease, prefetch)
    try:
        yield crew
    finally:
        for one in crew.programs:
            one.process.kill()
            one.process.wait()
        crew.judge.close()


# -- what is done to them -------------------------------------------------------------------------


def kills(place: Place, folder: Path, times: int, seed: int) -> Result:
    """SIGKILL one of two workers and two publishers at random moments, and start another in its place."""
    draw = random.Random(seed)
    died: dict[str, float] = {}
    with Stalls() as stalls, crew_at(place, folder, LEASE) as crew:
        crew.start_all()
        for _ in range(times):
            time.sleep(draw.uniform(0.1, 0.7))
            chosen = draw.choice(crew.programs)
            if not died and chosen.kind == "working":  # of the first, others have something to take over
                crew.until(partial(crew.judge.is_busy, chosen.who), f"{chosen.who} has begun something")
            moment = crew.end(chosen, signal.SIGKILL)
            if chosen.kind == "working":
                died[chosen.who] = moment
            crew.start(chosen.kind)
        result = crew.result("kills", times, 0.0)
        waited = [end - begin - stalls.within(begin, end) for begin, end in crew.judge.taken_over(died)]
        return result._replace(slowest=max(waited, default=0.0))


def terms(place: Place, folder: Path, times: int, seed: int) -> Result:
    """SIGTERM instead: they end in order, and nobody waits for a lease."""
    draw = random.Random(seed)
    slowest = 0.0
    with crew_at(place, folder, SAFE_LEASE) as crew:
        crew.start_all()
        for _ in range(times):
            time.sleep(draw.uniform(0.1, 0.7))
            chosen = draw.choice(crew.programs)
            crew.until(partial(crew.judge.has_worked, chosen.who), f"{chosen.who} has done something")  # so it runs
            moment = crew.end(chosen, signal.SIGTERM)
            slowest = max(slowest, time.monotonic() - moment)
            status = chosen.process.returncode
            assert status == 128 + signal.SIGTERM, crew.told(f"{chosen.who} ended with {status}")
            crew.start(chosen.kind)
        return crew.result("terms", times, slowest)


def crashes(place: Place, folder: Path, times: int, seed: int) -> Result:
    """SIGKILL the server, and start it again; the programs go on by themselves.

    Where there is no server, all programs are killed at once, in the middle of their transactions.
    """
    draw = random.Random(seed)
    slowest = 0.0
    with crew_at(place, folder, LEASE) as crew:
        crew.start_all()
        time.sleep(NOTED)
        for _ in range(times):
            time.sleep(draw.uniform(0.3, 1.0))
            if place.port:
                place.kill()
                time.sleep(draw.uniform(0.0, 1.0))
                place.start()
                back = time.monotonic()
            else:
                for one in crew.programs:
                    one.process.kill()
                for one in [*crew.programs]:
                    crew.programs.remove(one)
                    one.process.wait()
                back = time.monotonic()
                crew.start_all()
            crew.until_at_work(back)
            slowest = max(slowest, time.monotonic() - back)
        return crew.result("crashes", times, slowest)


def poison(place: Place, folder: Path) -> Result:
    """One message among 300 kills whoever begins it; the worker is started again and again, and nobody helps it."""
    ids = [f"m-{number}" for number in range(300)]
    with crew_at(place, folder, 1.0, prefetch=200) as crew:
        log = Log(str(crew.log), "test")
        log.write("attempted", *ids)
        asyncio.run(put(remote_queue(crew.url, Job), [Job(one, one == "m-100") for one in ids]))
        log.write("confirmed", *(one for one in ids if one != "m-100"))
        deaths = 0
        ends = time.monotonic() + PATIENCE
        (worker,) = crew.start("working")
        while asyncio.run(remote_queue(crew.url, Job).depth())[:4] != (0, 0, 0, 1) or crew.judge.lost():
            crew.judge.read()
            assert time.monotonic() < ends, crew.told("the poison is still there")
            if not worker.lives():
                deaths += 1
                crew.programs.remove(worker)
                (worker,) = crew.start("working")
            time.sleep(0.1)
        return crew.result("poison", deaths, 0.0)


async def put(queue: RemoteQueue[Job], jobs: list[Job]) -> None:
    """All, confirmed."""
    async with queue.open() as opened:
        await opened.put_many(jobs)


# -- by hand --------------------------------------------------------------------------------------


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.remote.kills", description="Kill programs and servers under load."
    )
    parser.add_argument("--engine", choices=PLACES, action="append", help="one or more; all by default")
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs of workers and publishers")
    parser.add_argument("--terms", type=int, default=100, help="SIGTERMs of workers and publishers")
    parser.add_argument("--crashes", type=int, default=20, help="SIGKILLs of the server")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    asked = parser.parse_args()
    for engine in asked.engine or PLACES:
        print(f"\n{engine} (seed {asked.seed}, concurrency {CONCURRENCY}, lease {LEASE:g} s)\n{HEADER}", flush=True)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            place = PLACES[engine].place(folder)
            place.start()
            try:
                for what, times in (kills, asked.kills), (terms, asked.terms), (crashes, asked.crashes):
                    if times:
                        print(what(place, made(folder, what.__name__), times, asked.seed).row(), flush=True)
                print(poison(place, made(folder, "poison")).row(), flush=True)
            finally:
                place.stop()


def made(folder: Path, name: str) -> Path:
    """A folder in it."""
    (folder / name).mkdir()
    return folder / name


if __name__ == "__main__":
    main()
