"""Plays a scenario on a fresh loop: the caller, those who disturb it, and what they have in hand when it is over."""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from asyncpc import Failure, Pipeline, QueueShutDown, Report, Running, Statistics, merge
from asyncpc.events import Event
from asyncpc.testing import Deadlock, VirtualLoop
from asyncpc.testing.clock import measuring_with

from .ledger import CALLERS, Boom, Item, Ledger
from .program import make_branching, make_dead_letters, make_source, make_stage, pause, put_all
from .remote import make_remote_sink
from .spec import AMPLE, Layout, Sabotage, Scenario
from .watching import Ears, follow_with

__all__ = ["Outcome", "guarded", "perform"]

SINK: Final = "asyncpc:out"
"""The session of the remote queue that takes the values."""

GUARD: Final = 20.0
"""Seconds of real time without another item begun after which a scenario on a real loop counts as stuck."""


@dataclass
class Outcome:
    """What the caller has in hand when the run is over, and what is still there at that very moment."""

    error: BaseException | None = None
    report: Report | None = None
    returned: bool = False
    told: bool = False
    """The block got the report of an incomplete drain itself."""
    stuck: str = ""
    """Who waits where, if nothing can go on."""
    ended: float = 0.0
    alive: tuple[str, ...] = ()
    ends: tuple[int, ...] = ()
    workers: tuple[int, ...] = ()
    """How many each stage started; at most its concurrency."""
    open: tuple[str, ...] = ()
    timers: tuple[str, ...] = ()
    """Those of asyncpc that are still set."""
    spans: tuple[str, ...] = ()
    """Those that are still open."""
    unfinished: tuple[frozenset[Item], ...] = ()
    loose: tuple[frozenset[Item], ...] = ()
    refused_when_full: int = 0
    """How many values that a full queue refused should fail the run."""
    done: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()
    accepted: tuple[int, ...] = ()
    emitted: tuple[int, ...] = ()
    outside: int = 0
    errors: tuple[Exception, ...] = ()
    refusals: tuple[Exception, ...] = ()
    noise: list[str] = field(default_factory=list)


class _Inside:
    """What a scenario needs of a run that its caller does not get; here only, so that it is easy to follow the code."""

    def __init__(self, run: Any) -> None:
        self._run = run
        self.count: int = len(run.stages)
        self.pause: Callable[[], None] = run.scaling.pause
        self.resume: Callable[[], None] = run.scaling.resume

    def scale(self, place: int, concurrency: int) -> None:
        self._run.scaling.scale(self._run.stages[place], concurrency)

    @property
    def report(self) -> Report | None:
        report: Report | None = self._run.outcome.report
        return report

    @property
    def ends(self) -> tuple[int, ...]:
        """How often END was told, by stage."""
        return tuple(stage.inbox.statistics().ends for stage in self._run.stages)

    @property
    def workers(self) -> tuple[int, ...]:
        """How many workers were started, by stage."""
        return tuple(stage.staff.started for stage in self._run.stages)


class _Play:
    """One scenario on a running loop."""

    def __init__(self, scenario: Scenario, ledger: Ledger) -> None:
        self.scenario = scenario
        self.ledger = ledger
        self.outcome = Outcome()
        self.dead_letters = make_dead_letters(ledger)
        stages = self.compose(scenario.layout)
        sources = [make_source(spec, place, ledger) for place, spec in enumerate(scenario.sources)]
        parts = [merge(*self.merged(sources)), *stages] if sources else stages
        parts += [make_remote_sink(ledger)] if scenario.sinks else []
        self.pipeline: Pipeline[Any, Any] = Pipeline(
            *parts, maxsize=scenario.maxsize, drain_timeout=scenario.drain_timeout
        )
        self.run: _Inside | None = None
        self.running: Running[Any, Any] | None = None
        self.ears = Ears(scenario.meddles_at, self.meddle, self.count)
        if scenario.listener:
            self.pipeline.listen(self.ears)
        if scenario.traced:
            follow_with(ledger.spans, self.pipeline, scenario)

    def merged(self, sources: list[Any]) -> list[Any]:
        """The sources, each behind the stages of its own part if that has any."""
        merged: list[Any] = []
        for part, layout in enumerate(self.scenario.parts):
            own = [one for one, into in zip(sources, self.scenario.into, strict=True) if into == part]
            merged += [Pipeline(merge(*own), *self.compose(layout))] if layout else own
        return merged or sources

    def compose(self, layout: Layout) -> list[Any]:
        """The stages of a layout, as a user would pass them."""
        parts: list[Any] = []
        for element in layout:
            if isinstance(element, int):
                parts.append(make_stage(self.scenario.stages[element], element, self.ledger, self.dead_letters))
            else:
                place, *within = element
                branches = [Pipeline(*self.compose(branch)) for branch in within]
                spec = self.scenario.stages[place]
                parts.append(make_branching(spec, place, self.ledger, branches, self.dead_letters))
        return parts

    async def drive(self) -> None:
        """Start the caller and those who disturb it; wait for all of them."""
        CALLERS.set(self.ledger.token)
        for deliveries in self.ledger.deliveries:
            await deliveries.fill()
        caller = asyncio.get_running_loop().create_task(self.call(), name="caller")
        disturbers = [asyncio.create_task(self.disturb(one, caller)) for one in self.scenario.sabotage]
        await asyncio.wait([caller])
        caller.result()  # an error of the play itself
        self.ledger.released.set()
        for task in disturbers:
            task.cancel()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=60)
        self.outcome.noise += [f"still there: {task!r}" for task in others if not task.done()]
        self.outcome.noise += [repr(task.exception()) for task in others if task.done() and _failed(task)]

    async def call(self) -> None:
        """The caller's part, and a snapshot at the moment it ends."""
        try:
            await getattr(self, self.scenario.shape)()
            self.outcome.returned = True
        except BaseException as error:
            self.outcome.error = error
        self.snapshot()

    async def awaited(self) -> None:
        self.outcome.report = await self.watched()

    async def watched(self) -> Report:
        asyncio.get_running_loop().call_soon(self.seize)
        return await self.pipeline

    def count(self) -> Statistics:
        """The counts of the run at this moment."""
        assert self.pipeline._run is not None
        return self.pipeline._run.statistics()

    def meddle(self, event: Event) -> None:
        """What the listener does."""
        deed, ledger = self.scenario.listener, self.ledger
        if self.run is None:
            self.seize()
        if deed == "raise":
            raise BaseException("a listener")
        if deed == "interrupt":
            if ledger.over:
                return
            ledger.interrupts.append(error := KeyboardInterrupt())
            raise error
        if deed == "stop" and self.running is not None:
            ledger.stopped = True
            ledger.limit(self.scenario.drain_timeout)
            self.running.stop()
        elif deed == "scale" and self.running is not None:
            run = _Inside(self.pipeline._run)
            for place in range(run.count):
                concurrency = ledger.rng.randint(1, 6)
                ledger.scaled = max(ledger.scaled, concurrency)
                run.scale(place, concurrency)
        elif deed == "pause" and self.running is not None:
            run = _Inside(self.pipeline._run)
            run.pause()
            asyncio.get_running_loop().call_later(0.002, lambda: run.resume())

    def seize(self) -> None:
        if self.pipeline._run is not None:
            self.run = _Inside(self.pipeline._run)

    async def entered(self) -> None:
        async with self.pipeline as running:
            self.seize()
            self.running = running
            await self.in_block(running)
        self.outcome.report = running.report

    async def pushed(self) -> None:
        async with self.pipeline as running:
            self.seize()
            self.running = running
            putters = [
                asyncio.create_task(put_all(running, f"putter-{place}", count, self.scenario.calls, self.ledger))
                for place, count in enumerate(self.scenario.putters)
            ]
            if self.scenario.ends_after > 0.005:
                hangs = any(stage.trouble == "hang" for stage in self.scenario.stages)
                await asyncio.wait(putters, timeout=0.05 if hangs else None)
            await self.in_block(running)
        self.outcome.report = running.report

    async def in_block(self, running: Running[Any, Any]) -> None:
        scenario, ledger = self.scenario, self.ledger
        if scenario.ending == "wait":
            self.outcome.report = await running.wait()
            return
        await asyncio.sleep(scenario.ends_after)
        ledger.limit(scenario.drain_timeout)
        if scenario.ending == "raise":
            raise Boom("in the block")
        if scenario.ending == "drain":
            self.outcome.report = await running.drain()
            self.outcome.told = True
        elif scenario.ending == "stop":
            running.stop()
            running.stop()
            await running.wait()
            self.outcome.told = True

    async def streamed(self) -> None:
        scenario, ledger = self.scenario, self.ledger
        async with self.pipeline.stream() as values:
            self.seize()
            self.running = values.running
            left = scenario.reads if scenario.ending != "read" else sys.maxsize
            value = None
            while left:
                ledger.read.add(ledger.known(value)) if value is not None else None
                try:
                    value = await anext(values)
                except StopAsyncIteration:
                    break
                ledger.start(len(scenario.stages), ledger.known(value))
                left -= 1
                await pause(ledger, "some")
            if not left:
                ledger.stopped = True
                ledger.limit(scenario.drain_timeout)
            if scenario.ending == "raise":
                raise Boom("in the block")
            ledger.read.add(ledger.known(value)) if value is not None else None
        self.outcome.report = values.report

    async def disturb(self, sabotage: Sabotage, caller: asyncio.Task[None]) -> None:
        await asyncio.sleep(sabotage.after)
        for _ in range(sabotage.steps):
            await asyncio.sleep(0)
        if sabotage.deed == "cancel":
            if caller.cancel():
                self.ledger.cancels += 1
                self.ledger.limit(self.scenario.drain_timeout if self.ledger.cancels == 1 else 0.0)
            return
        if sabotage.deed == "stop":
            if self.running is not None:
                self.ledger.limit(self.scenario.drain_timeout)
                self.running.stop()
            return
        if sabotage.deed in ("scale", "pause"):
            await self.control(sabotage.deed)
            return
        workers = sorted(
            (t for t in asyncio.all_tasks() if t.get_name().startswith("asyncpc:") and t.get_name() != SINK),
            key=lambda t: t.get_name(),
        )
        if workers and self.ledger.rng.choice(workers).cancel("from outside"):
            self.ledger.kills += 1

    async def control(self, deed: str) -> None:
        """Change the run under way, if it is."""
        run, rng = self.run, self.ledger.rng
        if run is None:
            return
        if deed == "scale":
            for _ in range(rng.randint(1, 3)):
                place, concurrency = rng.randrange(run.count), rng.randint(1, 6)
                self.ledger.scaled = max(self.ledger.scaled, concurrency)
                run.scale(place, concurrency)
                await pause(self.ledger, "some")
        else:
            run.pause()
            await pause(self.ledger, "timed")
            run.resume()

    def timers(self, loop: VirtualLoop) -> list[str]:
        """Of the package, but those of callers of ``put`` who were woken at the end and have not run since."""
        woken = any(getattr(task.get_coro(), "__name__", "") == put_all.__name__ for task in asyncio.all_tasks())
        return [one for one in loop.timers(of="asyncpc") if not (woken and "WaitQueue._expire" in one)]

    def snapshot(self) -> None:
        outcome, books = self.outcome, self.ledger.books
        self.ledger.over = True
        loop = asyncio.get_running_loop()
        outcome.ended = loop.time()
        outcome.timers = tuple(self.timers(loop)) if isinstance(loop, VirtualLoop) else ()
        outcome.alive = tuple(
            task.get_name().removeprefix("asyncpc:")
            for task in asyncio.all_tasks()
            if task.get_name().startswith("asyncpc:") and not task.done()
        )
        if self.run is not None:
            outcome.report, outcome.ends, outcome.workers = self.run.report, self.run.ends, self.run.workers
        outcome.spans = tuple(self.ledger.spans.open)
        if self.scenario.listener not in ("", "raise") and outcome.report is not None:
            self.ledger.problems += self.ears.compare(outcome.report)
        if outcome.report is not None:
            for place, item in self.left(outcome.report):
                self.ledger.notice(place, item)
            self.look_into_broadcasts(outcome.report)
            outcome.refused_when_full = self.ledger.settle_offers()
        outcome.open = tuple(f"{name}" for name, task in self.ledger.open.values() if task is None or task.done())
        outcome.unfinished = tuple(frozenset(book.unfinished()) for book in books)
        outcome.loose = tuple(frozenset(book.loose) for book in books)
        outcome.done = tuple(len(book.done) for book in books)
        outcome.failed = tuple(len(book.failed) for book in books)
        outcome.dropped = tuple(len(book.dropped) for book in books)
        outcome.accepted = tuple(len(book.accepted) for book in books)
        outcome.emitted = tuple(self.ledger.emitted)
        outcome.outside = self.ledger.outside
        outcome.errors = tuple(self.ledger.errors)
        outcome.refusals = tuple(self.ledger.refusals)

    def left(self, report: Report) -> Iterator[tuple[int, Item]]:
        """The items that the report lists, with the places of their stages."""
        for one in report.unfinished:
            if not isinstance(one.item, Failure):
                ends = one.stage == "out"
                place = len(self.scenario.stages) if ends else int(one.stage.removeprefix("stage-"))
                yield place, self.ledger.known(one.item)

    def look_into_broadcasts(self, report: Report) -> None:
        """No code of the user is called there: believe the report as to what is left, and hold it to the rest of it.

        A branch that refuses items got those that were seen in it.
        """
        ledger, left = self.ledger, set(self.left(report))
        for place, spec in enumerate(self.scenario.stages):
            if spec.branching != "broadcast":
                continue
            book = ledger.books[place]
            book.started = [item for item in book.accepted if (place, item) not in left]
            book.done = set(book.started)
            refusing = [to for to in ledger.following[place] if self.scenario.stages[to].refuses_items]
            for to in ledger.following[place]:
                seen = {*ledger.books[to].started, *ledger.books[to].dropped, *(item for at, item in left if at == to)}
                for item in book.accepted if refusing else book.started:
                    if not refusing or item in seen:
                        ledger.emitted[place] += 1
                        ledger.accept(to, item)
                    elif item in book.done and ledger.fails_the_run(place, [item]):  # so it has failed
                        ledger.stopped_by_refusal.add(place)


def _failed(task: asyncio.Task[Any]) -> bool:
    """Whether a task that helps the scenario failed; that a put was refused is what it waited for."""
    return not task.cancelled() and not isinstance(task.exception(), (QueueShutDown, type(None)))


def perform(scenario: Scenario) -> tuple[Ledger, Outcome]:
    """Run the scenario in a fresh loop; what its parts wrote down, and what came of it."""
    loop = _new_loop(scenario.loop)
    ledger = Ledger(scenario, loop)
    noise: list[str] = []
    loop.set_exception_handler(lambda _, context: noise.append(f"the loop was told: {context}"))
    with _listening(noise), _clock(scenario, loop):
        game = _Play(scenario, ledger)
        try:
            loop.run_until_complete(_to_its_end(game.drive(), scenario, ledger))
        except (Deadlock, TimeoutError) as stuck:
            game.outcome.stuck = f"stuck: {stuck}"
            _dismiss(loop, ledger)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
    game.outcome.noise += noise
    return ledger, game.outcome


async def _to_its_end(main: Coroutine[Any, Any, None], scenario: Scenario, ledger: Ledger) -> None:
    """In virtual time a run that is stuck has nothing left to wait for, unless it has a session, which always looks."""
    if scenario.loop == "uvloop":
        await guarded(main, GUARD, lambda: sum(len(book.started) for book in ledger.books))
        return
    looks = scenario.is_remote or scenario.sinks
    async with asyncio.timeout(100 * AMPLE if looks else None):
        await main


async def guarded(main: Coroutine[Any, Any, None], patience: float, progress: Callable[[], int]) -> None:
    """Await ``main``; raise ``TimeoutError`` once there was no ``progress`` for that many seconds.

    However long it takes otherwise: items that are fed behind several branches may be tens of thousands.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle
    async with asyncio.timeout(patience) as limit:

        def look(before: int) -> None:
            nonlocal timer
            now = progress()
            if now != before and not limit.expired():
                limit.reschedule(loop.time() + patience)
            timer = loop.call_later(patience / 4, look, now)

        timer = loop.call_later(patience / 4, look, progress())
        try:
            await main
        finally:
            timer.cancel()


def _dismiss(loop: asyncio.AbstractEventLoop, ledger: Ledger) -> None:
    """End what is stuck, so that nothing is left to be collected without a loop."""
    ledger.over = True
    ledger.released.set()
    for _ in range(4):
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=1))


def _new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    loop = VirtualLoop()
    loop.set_debug(kind == "debug")
    loop.slow_callback_duration = 60
    if kind == "eager" and sys.version_info >= (3, 12):
        loop.set_task_factory(asyncio.eager_task_factory)
    return loop


@contextmanager
def _clock(scenario: Scenario, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let the workers' clock, which ends their turns, run as the seed says: turns of every length are seen."""
    if scenario.loop == "uvloop":
        yield
        return
    rng, passed = Random(~scenario.seed), 0.0
    pace = rng.choice([0.0, 0.0001, 0.001])

    def clock() -> float:
        nonlocal passed
        passed += rng.random() * pace
        return loop.time() + passed

    with measuring_with(clock):
        yield


@contextmanager
def _listening(noise: list[str]) -> Iterator[None]:
    """Hear what Python prints about coroutines never awaited and exceptions in finalizers."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: noise.append(
        f"unraisable: {unraisable.exc_value!r} in {unraisable.object!r}"
    )
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
            noise += [f"warning: {warning.message}" for warning in caught]
    finally:
        sys.unraisablehook = hook
