"""What a scenario is, and how it is drawn from a seed: sources, stages, queues, and one or two things that go wrong.

Times in a scenario are seconds of virtual time, except on uvloop, which has only the real one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

__all__ = ["AMPLE", "OPTIONS", "Layout", "Sabotage", "Scenario", "SourceSpec", "StageSpec", "draw"]

AMPLE: Final = 1000.0
"""A drain timeout (seconds) that no healthy scenario comes near; whoever needs it is stuck."""


@dataclass(frozen=True)
class SourceSpec:
    """One source: ``kind`` is list, iterator, generator or iterable (async, without aclose)."""

    kind: str
    count: int
    delay: str = "none"
    idles: bool = False
    """Waits for ever after its last item."""
    trouble: str = ""
    """At item ``at``: raise, cancel (raises CancelledError itself)."""
    at: int = 0
    restarts: int = 0
    clean_up: str = ""
    """When it is closed: slow, raise."""


@dataclass(frozen=True)
class StageSpec:
    generates: bool
    concurrency: int
    maxsize: int | None
    delay: str = "none"
    fan: int = 1
    """A generator gives 0 to ``fan`` values per item."""
    context: str = ""
    """A resource per worker: plain, slow."""
    feeds: bool = False
    sets: bool = False
    """Sets a context variable in each call."""
    trouble: str = ""
    """In call ``at``: raise, cancel (raises CancelledError itself), interrupt (KeyboardInterrupt), hang (until it is
    cancelled)."""
    at: int = 0
    swallows: str = ""
    """What it does with a cancellation: once (ignores the first of each call), ever (all of them)."""
    clean_up: str = ""
    """When it is cancelled: slow, raise."""
    options: frozenset[str] = frozenset()
    """What else the consumer asks for: some of :data:`OPTIONS`."""
    branching: str = ""
    """No consumer, but a route or broadcast; it has only ``maxsize`` and ``trouble``."""


OPTIONS: Final = (
    *("batch", "breaker", "key", "letters", "ordered", "overflow"),
    *("priority", "rate", "retry", "skip", "timeout"),
)
"""Names of arguments; ``skip`` and ``letters`` (a consumer that is told of failures) are for ``on_error``."""

Layout = tuple[Any, ...]
"""How stages are joined: places, one after the other; for a branching, the place and the layouts of its branches."""


@dataclass(frozen=True)
class Sabotage:
    """Something that happens ``after`` seconds and then ``steps`` loop steps.

    ``deed`` is cancel, kill (a worker's task), scale (a stage) or pause (for a moment).
    """

    deed: str
    after: float
    steps: int


@dataclass(frozen=True)
class Scenario:
    seed: int
    loop: str
    """plain, debug, eager, uvloop."""
    shape: str
    """How it is run: awaited, entered, pushed, streamed."""
    ending: str
    """What the caller's block does: wait, leave, drain, stop, raise, read (all results), break (after ``reads``)."""
    ends_after: float
    reads: int
    drain_timeout: float
    maxsize: int
    sources: tuple[SourceSpec, ...]
    putters: tuple[int, ...]
    stages: tuple[StageSpec, ...]
    layout: Layout
    calls: bool
    """Whether putters also ``call``."""
    sabotage: tuple[Sabotage, ...]

    @property
    def following(self) -> list[list[int]]:
        """The places each stage gives to; an end gives to one more than there are, the results."""
        following: list[list[int]] = [[] for _ in self.stages]
        _join(self.layout, len(self.stages), following)
        return following

    @property
    def before(self) -> list[list[int]]:
        """The places that give to each stage, and to the results."""
        following = self.following
        return [[one for one, to in enumerate(following) if place in to] for place in range(len(self.stages) + 1)]


def _join(layout: Layout, after: int, following: list[list[int]]) -> None:
    for element, then in zip(layout, (*layout[1:], None), strict=True):
        to = after if then is None else then if isinstance(then, int) else then[0]
        if isinstance(element, int):
            following[element] = [to]
        else:
            place, *branches = element
            following[place] = [branch[0] if isinstance(branch[0], int) else branch[0][0] for branch in branches]
            for branch in branches:
                _join(branch, to, following)


def draw(seed: int) -> Scenario:
    """The scenario of ``seed``."""
    rng = Random(seed)
    shape = rng.choice(["awaited", "awaited", "entered", "entered", "pushed", "streamed"])
    endings = {
        "awaited": ["wait"],
        "entered": ["wait", "wait", "leave", "drain", "stop", "raise"],
        "pushed": ["leave", "leave", "drain", "raise"],
        "streamed": ["read", "read", "break", "raise"],
    }
    stages: list[StageSpec] = []
    layout = _layout(rng, stages, depth=0)
    if len(stages) <= 2 and not any(stage.feeds for stage in stages):
        stages[0] = replace(stages[0], fan=rng.choice([2, 20]))  # enough for a turn to end in the midst of an item
    one_each = not any(stage.generates or stage.branching == "broadcast" for stage in stages)
    scenario = Scenario(
        seed=seed,
        loop=rng.choice(["plain"] * 6 + ["debug", "eager"]),
        shape=shape,
        ending=rng.choice(endings[shape]),
        ends_after=_moment(rng),
        reads=rng.randrange(12),
        drain_timeout=AMPLE,
        maxsize=_maxsize(rng),
        sources=() if shape == "pushed" else tuple(_source(rng) for _ in range(rng.choice([1, 1, 2, 3]))),
        putters=tuple(rng.randrange(15) for _ in range(rng.randint(1, 4))) if shape == "pushed" else (),
        stages=tuple(stages),
        layout=layout,
        calls=shape == "pushed" and one_each,
        sabotage=(),
    )
    for _ in range(rng.choice([0, 1, 1, 1, 2])):
        scenario = _with_trouble(scenario, rng)
    return _with_end(scenario, rng)


def _layout(rng: Random, stages: list[StageSpec], depth: int) -> Layout:
    """Stages one after the other, or with branches, and branches in these; appends each to ``stages``."""
    layout: list[Any] = []
    for _ in range(rng.choice([1, 1, 2, 2, 3, 4] if depth == 0 else [1, 1, 2])):
        place = len(stages)
        if depth < 2 and rng.random() < 0.15:
            kind = rng.choice(["route", "broadcast"])
            stages.append(StageSpec(False, 1, rng.choice([None, 1, 2]), branching=kind))
            branches = [_layout(rng, stages, depth + 1) for _ in range(rng.choice([1, 2, 2, 3]))]
            layout.append((place, *branches))
        else:
            stages.append(_stage(rng))
            layout.append(place)
    return tuple(layout)


def _moment(rng: Random) -> float:
    return rng.choice([0.0, 0.001, 0.002, 0.003, 0.005, 0.008, 0.013, 0.03])


def _maxsize(rng: Random) -> int:
    return rng.choice([1, 1, 1, 2, 2, 3, 3, 0])


def _delay(rng: Random) -> str:
    return rng.choice(["none", "none", "zero", "some", "some", "timed"])


def _source(rng: Random) -> SourceSpec:
    return SourceSpec(
        kind=rng.choice(["list", "iterator", "generator", "generator", "generator", "iterable"]),
        count=rng.choice([0, 1, 2, 5, 9, 14]),
        delay=_delay(rng),
        clean_up=rng.choice(["", "", "", "slow"]),
    )


def _stage(rng: Random) -> StageSpec:
    generates = rng.random() < 0.35
    maxsize = rng.choice([None, None, 1, 2, 3])
    return StageSpec(
        generates=generates,
        concurrency=rng.choice([1, 1, 2, 3, 4]),
        maxsize=maxsize,
        delay=_delay(rng),
        fan=rng.choice([1, 2, 2, 3]),
        context=rng.choice(["", "", "", "plain", "slow"]),
        feeds=rng.random() < 0.1,
        sets=rng.random() < 0.15,
        clean_up=rng.choice(["", "", "", "slow"]),
        options=_options(rng, generates, maxsize),
    )


def _options(rng: Random, generates: bool, maxsize: int | None) -> frozenset[str]:
    """None, one, or any two that go together."""
    options = frozenset(rng.sample(OPTIONS, rng.choice([0, 0, 0, 1, 1, 2])))
    if generates or maxsize == 1:
        options -= {"batch"}
    if options & {"batch", "key", "priority"}:
        options -= {"ordered"}
    if "skip" in options:
        options -= {"letters"}
    return options


TROUBLES: Final = (
    *(
        "short drain",
        "cancel",
        "cancel",
        "cancel twice",
        "kill",
        "crash",
        "crash",
        "source crash",
        "restart",
        "own cancel",
    ),
    *(
        "scale",
        "scale",
        "pause",
        "source's own cancel",
        "swallow once",
        "swallow ever",
        "swallow ever",
        "swallow ever",
        "interrupt",
        "error in clean-up",
        "hang",
        "hang",
    ),
)


def _with_trouble(scenario: Scenario, rng: Random) -> Scenario:
    """The scenario with one thing more that goes wrong."""
    trouble = rng.choice(TROUBLES)
    if trouble == "short drain":
        return replace(scenario, drain_timeout=rng.choice([0.0, 0.001, 0.004, 0.01]))
    if trouble in ("cancel", "cancel twice", "kill", "scale", "pause"):
        return _sabotaged(scenario, trouble, rng)
    if trouble in ("source crash", "restart", "source's own cancel"):
        change = {"trouble": "cancel" if "cancel" in trouble else "raise", "at": rng.randrange(8), "kind": "generator"}
        return _change_source(scenario, rng, **change, restarts=rng.randint(1, 3) if trouble == "restart" else 0)
    if trouble.startswith("swallow"):
        ever = trouble.endswith("ever")
        scenario = _change_stage(_without_policies(scenario), rng, swallows="ever" if ever else "once")
        scenario = _sabotaged(scenario, rng.choice(["cancel"] if ever else ["cancel", "kill"]), rng)
        return replace(scenario, drain_timeout=min(scenario.drain_timeout, 0.02)) if ever else scenario
    if trouble == "hang":
        return _with_hang(scenario, rng)
    if trouble == "error in clean-up":
        return _with_bad_clean_up(scenario, rng)
    deed = {"crash": "raise", "own cancel": "cancel", "interrupt": "interrupt"}[trouble]
    return _change_stage(scenario, rng, trouble=deed, at=rng.randrange(8))


def _without_policies(scenario: Scenario) -> Scenario:
    """Without those that hold for a handler that raises by itself, and not for one that does when it is cancelled."""
    stages = tuple(replace(stage, options=stage.options - {"letters", "retry", "skip"}) for stage in scenario.stages)
    return replace(scenario, stages=stages)


def _with_bad_clean_up(scenario: Scenario, rng: Random) -> Scenario:
    """Errors raised while others are under way: all of them must come out."""
    scenario = _change_source(_without_policies(scenario), rng, clean_up=rng.choice(["", "raise"]))
    if rng.random() < 0.5:
        return _sabotaged(_change_stage(scenario, rng, clean_up="raise"), "cancel", rng)
    stages = tuple(replace(stage, clean_up="raise") for stage in scenario.stages)
    return _change_stage(replace(scenario, stages=stages), rng, trouble="raise", at=rng.randrange(4))


def _with_hang(scenario: Scenario, rng: Random) -> Scenario:
    """A handler that only the deadline of a drain, or a cancelled caller, ends."""
    if scenario.ending in ("wait", "read", "break") or scenario.shape == "streamed":
        scenario = _sabotaged(scenario, "cancel", rng)
    scenario = replace(scenario, drain_timeout=min(scenario.drain_timeout, rng.choice([0.0, 0.004, 0.02])))
    return _change_stage(scenario, rng, trouble="hang", at=rng.randrange(8))


def _sabotaged(scenario: Scenario, deed: str, rng: Random) -> Scenario:
    times = 2 if deed == "cancel twice" else 1
    deeds = tuple(Sabotage(deed.split()[0], _moment(rng), rng.choice([0, 0, 1, 2, 5, 20])) for _ in range(times))
    return replace(scenario, sabotage=scenario.sabotage + deeds)


def _change_stage(scenario: Scenario, rng: Random, **change: Any) -> Scenario:
    stages = list(scenario.stages)
    place = rng.randrange(len(stages))
    stages[place] = replace(stages[place], **change)
    return replace(scenario, stages=tuple(stages))


def _change_source(scenario: Scenario, rng: Random, **change: Any) -> Scenario:
    if not scenario.sources:
        return scenario
    place = rng.randrange(len(scenario.sources))
    sources = list(scenario.sources)
    sources[place] = replace(sources[place], **change)
    return replace(scenario, sources=tuple(sources))


def _with_end(scenario: Scenario, rng: Random) -> Scenario:
    """Let a source idle for ever if something is certain to end the run all the same."""
    certain = scenario.shape == "entered" and scenario.ending != "wait"
    if (certain or any(sabotage.deed == "cancel" for sabotage in scenario.sabotage)) and rng.random() < 0.5:
        return _change_source(scenario, rng, idles=True)
    return scenario
