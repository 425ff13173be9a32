"""What is wrong with a run: asyncpc's report is compared with the ledger, and the invariants are checked.

Nothing vanishes, the bound holds, the order is kept, one END per consumer, nothing is left running, the right
exception came out, and in time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from asyncpc import DrainTimeout, Failure, PipelineError, Report, StageStatistics, WorkerCancelled
from asyncpc.failure import FAILURES_KEPT

from .ledger import Boom, Item, Ledger
from .player import Outcome, perform
from .spec import AMPLE, WAITING, Scenario, StageSpec, draw

__all__ = ["failing", "play", "problems"]

SLACK: Final = 0.1
"""Seconds that a run may take beyond its deadline (promise 5)."""

REAL_SLACK: Final = 1.0
"""The same, on a loop with real time and a busy machine."""


def failing(
    seeds: range, stop_at: int = 0, loop: str | None = None, waiting: frozenset[str] = WAITING
) -> dict[int, list[str]]:
    """The seeds whose scenarios fail, with what is wrong; stops after ``stop_at`` of them if that is not 0."""
    failures: dict[int, list[str]] = {}
    for seed in seeds:
        scenario = draw(seed, waiting)
        if found := play(replace(scenario, loop=loop) if loop else scenario):
            failures[seed] = found
            if len(failures) == stop_at:
                break
    return failures


def play(scenario: Scenario) -> list[str]:
    """Run the scenario in a fresh loop; what is wrong with what happened, nothing if all is well."""
    return problems(scenario, *perform(scenario))


def problems(scenario: Scenario, ledger: Ledger, outcome: Outcome) -> list[str]:
    """Everything that is wrong with the run."""
    if outcome.stuck:
        return [outcome.stuck]
    found = [*ledger.problems, *outcome.noise, *_once_each(ledger), *_in_order(scenario, ledger)]
    if outcome.spans:
        found.append(f"spans that never ended: {outcome.spans}")
    report = outcome.report
    if report is None:
        if outcome.returned or ledger.cancels == 0:
            found.append("there is no report")
        return found
    found += _balances(scenario, ledger, outcome, report)
    found += _within_bounds(scenario, ledger, outcome, report)
    found += _all_closed(ledger, outcome, report)
    found += _messages(ledger, outcome, report)
    found += _in_time(scenario, ledger, outcome, report)
    found += _right_ending(scenario, ledger, outcome, report)
    return found


def _once_each(ledger: Ledger) -> Iterator[str]:
    """Promise 1: nothing is handled twice, and only what was accepted."""
    for stage, book in enumerate(ledger.books):
        if len(set(book.started)) != len(book.started):
            yield f"stage {stage} handled an item twice"
        if strangers := set(book.started) - set(book.accepted):
            yield f"stage {stage} handled what nobody gave it: {strangers}"


def _in_order(scenario: Scenario, ledger: Ledger) -> Iterator[str]:
    """Invariant 5: FIFO per source; past a stage with several workers there is no order."""
    if ledger.scaled:
        return
    before = scenario.before
    in_order: list[bool] = []
    for stage, book in enumerate(ledger.books):
        givers = before[stage]
        in_order.append(
            len(givers) < 2 and all(in_order[one] and not _reorders(scenario.stages[one]) for one in givers)
        )
        if stage < len(scenario.stages) and scenario.stages[stage].branching == "broadcast":
            continue  # nobody sees its order; that of its branches is looked at
        here = scenario.stages[stage].options if stage < len(scenario.stages) else frozenset()
        shuffled = here & {"breaker", "rate"} and scenario.stages[stage].concurrency > 1
        by_key = stage < len(scenario.stages) and scenario.stages[stage].gathers == "key"
        if not in_order[stage] or here & {"key", "priority"} or shuffled or by_key:
            continue
        last: dict[str, tuple[int, ...]] = {}
        for item in (one for one in book.started if isinstance(one, Item)):
            if item.path < last.get(item.origin, ()):
                yield f"stage {stage} handled {item} after {last[item.origin]}"
            last[item.origin] = item.path


def _reorders(spec: StageSpec) -> bool:
    """Whether items may leave a stage in another order than they came."""
    if spec.options & {"key", "priority"} or spec.gathers == "key" or (spec.generates and "retry" in spec.options):
        return True
    return spec.concurrency > 1 and "ordered" not in spec.options


def _balances(scenario: Scenario, ledger: Ledger, outcome: Outcome, report: Report) -> Iterator[str]:
    """Invariants 2 and 4: the report's books and the ledger say the same."""
    count = len(scenario.stages)
    unfinished = [(one.stage, one.item) for one in report.unfinished]
    for place, stage in enumerate(report.stages[:count]):
        left = [ledger.known(item) for name, item in unfinished if name == stage.name]
        counted = (stage.received, stage.dropped, stage.emitted)
        expected = (outcome.accepted[place], outcome.dropped[place], outcome.emitted[place])
        if counted != expected:
            yield f"{stage.name}: received, dropped, emitted are {counted}, should be {expected}"
        if not _believed(scenario, place):
            yield from _settled(scenario, ledger, outcome, place, stage, left)
    for stage in report.stages[count + scenario.sinks :]:
        letters = [(item.stage, ledger.known(item.item)) for name, item in unfinished if name == stage.name]
        yield from _all_told(scenario, ledger, outcome, stage, letters)
    if len(report.failures) != min(report.failed, FAILURES_KEPT):
        yield f"{report.failed} failed, but {len(report.failures)} are told"
    if report.produced != outcome.outside or report.fed != ledger.fed:
        yield f"produced {report.produced} and fed {report.fed}, should be {outcome.outside} and {ledger.fed}"
    if (
        scenario.ending == "read"
        and outcome.returned
        and ledger.books[-1].unfinished() != set(ledger.books[-1].started)
    ):
        yield "the reader did not get all results"


def _believed(scenario: Scenario, place: int) -> bool:
    """Whether the report has to be believed: nobody sees what failed of a broadcast, since a branch refused it."""
    broadcasts = scenario.stages[place].branching == "broadcast"
    return broadcasts and any(scenario.stages[to].refuses_items for to in scenario.following[place])


def _settled(
    scenario: Scenario, ledger: Ledger, outcome: Outcome, place: int, stage: StageStatistics, left: list[Item]
) -> Iterator[str]:
    """What became of each item. One with a value that was refused has failed, or is left in a run that ended early."""
    done, failed, loose = outcome.done[place], outcome.failed[place], outcome.loose[place]
    least = failed + len(loose) if _calm(ledger, outcome) else failed
    total = done + failed + len(outcome.unfinished[place]) + len(loose)
    if stage.done != done or not least <= stage.failed <= failed + len(loose):
        yield f"{stage.name}: done, failed are {stage.done, stage.failed}, should be {done, failed}, {len(loose)} open"
    if stage.done + stage.failed + len(left) != total:
        yield f"{stage.name}: {stage.done} done, {stage.failed} failed and {len(left)} left are not {total}"
    if missing := outcome.unfinished[place].difference(left):
        yield f"{stage.name}: not listed as unfinished: {missing}"
    allowed = {*outcome.unfinished[place], *loose}
    if wrong := [item for item in left if item not in allowed and not _made_of(item, loose)]:
        yield f"{stage.name}: wrongly listed as unfinished: {wrong}"


def _made_of(value: Item, items: frozenset[Item]) -> bool:
    """Whether it is a value of one of the items, which stands in its place."""
    return any((value.origin, value.path[:-1]) == (item.origin, item.path) for item in items)


def _all_told(
    scenario: Scenario, ledger: Ledger, outcome: Outcome, stage: StageStatistics, left: list[tuple[str, Item]]
) -> Iterator[str]:
    """The consumer that is told of failures gets each of them once; an item may fail in several branches."""
    tellers = [place for place, spec in enumerate(scenario.stages) if "dead letters" in spec.options]
    books = [ledger.books[place] for place in tellers]
    failed = Counter(item for book in books for item in book.failed | book.loose if not item.is_called)
    letters = {*ledger.told, *left}
    told = [item for _, item in letters]
    if not Counter(told) <= failed:
        yield f"told of {told}, failed: {failed}"
    counts = len(letters), sum(ledger.told.values())
    if (stage.received, stage.done) != counts:
        yield f"dead letters: received, done are {stage.received, stage.done}, should be {counts}"
    if _calm(ledger, outcome) and not ledger.limits and set(failed).difference(told):
        yield f"not told of {set(failed).difference(told)}"


def _within_bounds(scenario: Scenario, ledger: Ledger, outcome: Outcome, report: Report) -> Iterator[str]:
    """Invariant 1: the bound, one more per writer that was cancelled, and what was fed."""
    calm = _calm(ledger, outcome) and not ledger.limits
    before, entries = scenario.before, scenario.entries
    for place, stage in enumerate(report.stages[: len(scenario.stages)]):
        spec, own = scenario.stages[place], scenario.stages[place].maxsize
        maxsize = scenario.maxsize if own is None else own
        if own is None and "batch" in spec.options and spec.gathers != "weigh" and maxsize:
            maxsize = max(maxsize, 4)  # or no batch would ever be full
        givers = [scenario.stages[giver] for giver in before[place]]
        if not calm and any(giver.options & {"batch", "ordered"} for giver in givers):
            continue  # what was finished and had not left has come at the end
        writers = sum(max(giver.concurrency, ledger.scaled) for giver in givers) + entries.count(place)
        allowed = maxsize + (0 if calm else writers) + (0 if place else ledger.fed)
        if maxsize and stage.peak_queued > allowed:
            yield f"{stage.name}: peak {stage.peak_queued} above {allowed}"


def _all_closed(ledger: Ledger, outcome: Outcome, report: Report) -> Iterator[str]:
    """Invariant 6: what is still there when the run returns was abandoned by name."""
    left = [name for name in report.abandoned if name in outcome.alive or not _is_cut_short(name, ledger, outcome)]
    if sorted(outcome.alive) != sorted(left):
        yield f"still running: {outcome.alive}, abandoned: {report.abandoned}"
    if outcome.open:
        yield f"not closed: {outcome.open}"
    if ledger.open:
        yield f"never closed: {[name for name, _ in ledger.open.values()]}"
    yield from () if report.abandoned else outcome.timers  # whoever was left behind keeps that of its call
    if left and not ledger.swallowed:
        yield f"abandoned, though nobody ignored a cancellation: {report.abandoned}"


def _is_cut_short(name: str, ledger: Ledger, outcome: Outcome) -> bool:
    """Whether it is a session that had no time left."""
    return name.startswith("remote queue ") and any(
        outcome.ended >= began + seconds - 1e-9 for began, seconds in ledger.limits
    )


def _messages(ledger: Ledger, outcome: Outcome, report: Report) -> Iterator[str]:
    """Promise 2: what was received is acknowledged, buried or back in the queue, and none of it is left."""
    for one in report.unfinished:
        item = one.item.item if isinstance(one.item, Failure) else one.item
        if early := ledger.known(item).roots & ledger.gone:
            yield f"left in {one.stage}: {item}, whose messages {sorted(early)} are gone"
    # a kill may have hit the session, and a deadline or a second abort cuts it short: then the connection is gone
    cut = any(outcome.ended >= began + seconds - 1e-9 for began, seconds in ledger.limits)
    dropped = cut or ledger.kills > 0 or (ledger.cancels > 0 and ledger.streamed)
    for deliveries in ledger.deliveries:
        if deliveries.unsettled and not dropped:
            yield f"neither acknowledged, buried nor given back: {sorted(deliveries.unsettled)}"
        if _calm(ledger, outcome) and not _late(ledger, outcome):
            wrongly = [one for one, how in deliveries.ended.items() if how == "given back" and ledger.has_begun(one)]
            if wrongly:
                yield f"given back, though all of it was handled: {wrongly}"


def _calm(ledger: Ledger, outcome: Outcome) -> bool:
    """Whether nothing went wrong that may leave items unhandled."""
    return _undisturbed(ledger) and not _refused(ledger, outcome)


def _undisturbed(ledger: Ledger) -> bool:
    """Whether nothing went wrong that may leave items unhandled, but for what a queue refused."""
    wrong = ledger.errors or ledger.interrupts or ledger.cancels or ledger.kills or ledger.own_cancels
    return not wrong and not ledger.stopped


def _refused(ledger: Ledger, outcome: Outcome) -> bool:
    """Whether a queue refused what by no policy may be refused."""
    return bool(ledger.stopped_by_refusal or ledger.refused_sources or outcome.refused_when_full)


def _late(ledger: Ledger, outcome: Outcome) -> bool:
    """Whether a deadline came before the run had ended by itself; a session with a broker has its last tenth."""
    share = 0.9 if ledger.scenario.is_remote else 1.0
    return any(outcome.ended >= began + share * seconds - 1e-9 for began, seconds in ledger.limits)


def _in_time(scenario: Scenario, ledger: Ledger, outcome: Outcome, report: Report) -> Iterator[str]:
    """Promise 5: the run ends by its deadline; invariant 3: each worker that lived to the end saw one END."""
    slack = REAL_SLACK if scenario.loop == "uvloop" else SLACK
    for began, seconds in ledger.limits:
        if outcome.ended > began + seconds + slack + 1e-9:
            yield f"ended at {outcome.ended:.3f}, {seconds} s were allowed from {began:.3f}"
        elif outcome.ended > began + AMPLE / 2:
            yield f"only the deadline ended it, at {outcome.ended:.3f}"
    late = _late(ledger, outcome)
    live = outcome.workers
    most = [*(spec.concurrency for spec in scenario.stages), 2]
    if not ledger.scaled and any(started > allowed for started, allowed in zip(live, most, strict=False)):
        yield f"workers {live}, more than the concurrency"
    if _calm(ledger, outcome) and not late:
        if not report.complete:
            yield f"nothing went wrong, and {len(report.unfinished)} items were left"
        if outcome.ends != live and not ledger.scaled:  # those who left before were not told
            yield f"ENDs {outcome.ends}, workers {live}"
    elif any(ends > count for ends, count in zip(outcome.ends, live, strict=True)):
        yield f"more ENDs {outcome.ends} than workers {live}"


def _right_ending(scenario: Scenario, ledger: Ledger, outcome: Outcome, report: Report) -> Iterator[str]:
    """Invariant 7: exactly what was raised comes out; a cancelled caller gets CancelledError."""
    error = outcome.error
    if ledger.interrupts and error in ledger.interrupts:
        return
    if ledger.cancels:
        if not isinstance(error, asyncio.CancelledError):
            yield f"the caller was cancelled and got {error!r}"
        return
    if ledger.interrupts:
        yield f"KeyboardInterrupt became {error!r}"
        return
    raised = _raised(outcome)
    # In a run that goes on, each refusal is for a policy, or for a caller of put.
    refusals = outcome.refusals if _late(ledger, outcome) or not _calm(ledger, outcome) else ()
    strange = [one for one in raised if not any(one is known for known in (*outcome.errors, *refusals))]
    lost = [one for one in outcome.errors if not any(one is known for known in raised)]
    if lost:
        yield f"lost errors: {lost}, got {error!r}"
    if _undisturbed(ledger) and _refused(ledger, outcome) and not _is_told(raised, outcome):
        yield f"what a queue refused did not come out: {error!r}"
    expected = list(_expected_beside(scenario, ledger, outcome, report))
    kinds = [type(one) for one in strange]
    for kind, needed in expected:
        if needed and kind not in kinds:
            yield f"{kind.__name__} is missing in {error!r}"
        kinds = [one for one in kinds if one is not kind]
    if kinds:
        yield f"unexpected {strange} in {error!r}"
    if error is None and not outcome.returned:
        yield "the caller neither returned nor raised"


def _raised(outcome: Outcome) -> Sequence[BaseException]:
    """What came out, one by one."""
    error = outcome.error
    return error.exceptions if isinstance(error, PipelineError) else [error] if error is not None else []


def _is_told(raised: Sequence[BaseException], outcome: Outcome) -> bool:
    """Whether one of the errors is that of a queue that refused something."""
    return any(isinstance(one, asyncio.QueueFull) or any(one is known for known in outcome.refusals) for one in raised)


def _expected_beside(
    scenario: Scenario, ledger: Ledger, outcome: Outcome, report: Report
) -> Iterator[tuple[type[Exception], bool]]:
    """The kinds of exceptions beside those of sources and handlers, and whether each must be there."""
    cut, refused = ledger.kills + ledger.own_cancels, _refused(ledger, outcome)
    if cut:
        alone = not (
            ledger.errors or refused or ledger.limits or ledger.swallowed or ledger.stopped or ledger.kills > 1
        )
        yield WorkerCancelled, alone and cut == 1 and bool(ledger.own_cancels)
    in_block = scenario.ending == "raise" and not isinstance(outcome.error, PipelineError)
    if scenario.ending == "raise":
        yield Boom, in_block
    if refused and any("raise" in spec.options for spec in scenario.stages):
        yield asyncio.QueueFull, False
    refused = refused or _is_told(_raised(outcome), outcome)
    silent = refused or outcome.told or scenario.ending in ("break", "raise") or outcome.errors
    if not silent and not ledger.stopped:
        yield DrainTimeout, not report.complete and not cut
    elif "stop" in (
        scenario.listener,
        *(one.deed for one in scenario.sabotage),
    ):  # it came before the reader left, or not
        yield DrainTimeout, False
