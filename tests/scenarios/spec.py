"""What a scenario is, and how it is drawn from a seed: sources, stages, queues, and one or two things that go wrong.

Times in a scenario are seconds of virtual time, except on uvloop, which has only the real one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

__all__ = [
    "AMPLE",
    "FURTHER",
    "OPTIONS",
    "WAITING",
    "Layout",
    "Sabotage",
    "Scenario",
    "SourceSpec",
    "StageSpec",
    "draw",
]

WAITING: Final = frozenset[str]()
"""Draws of :data:`FURTHER` that show a fault which is not mended yet: only ``--ahead`` draws them."""

AMPLE: Final = 1000.0
"""A drain timeout (seconds) that no healthy scenario comes near; whoever needs it is stuck."""


@dataclass(frozen=True)
class SourceSpec:
    """One source: ``kind`` is list, iterator, generator, iterable (async, without aclose) or remote (a queue)."""

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
    prefetch: int | None = None
    """Of a remote queue."""
    latency: float = 0.0
    """Seconds that a remote queue takes at times to answer."""


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
    """What else the consumer asks for: some of :data:`OPTIONS`, ``raise`` (``overflow="raise"``), and ``stop``
    (``on_error="stop"``, written out)."""
    branching: str = ""
    """No consumer, but a route or broadcast; it has only ``maxsize``, ``trouble`` and, for ``by``, ``refuses``."""
    refuses: str = ""
    """Which function of an item raises for some items: key, priority, weigh, batch key, by."""
    refuses_at: int = 0
    """Which items those are."""
    gathers: str = ""
    """What its batches go by: weigh, key; else by their number."""
    keys: int = 3
    """How many keys there are for its batches to go by."""
    size: int = 0
    """Items of a batch, however long they take; 0: one or two, as the ledger draws, and perhaps for a while only."""
    changes: str = ""
    """What its handler does to the list of a batch: pops, appends, reverses."""
    gives_list: bool = False
    """A generator of batches that gives the list it got as one of its values."""

    @property
    def refuses_items(self) -> bool:
        """Whether its queue refuses some items, whoever gives them."""
        return self.refuses not in ("", "by") or "raise" in self.options


OPTIONS: Final = (
    *("batch", "breaker", "key", "dead letters", "ordered", "overflow"),
    *("priority", "rate", "retry", "skip", "timeout"),
)
"""Names of arguments; ``skip`` and ``dead letters`` (a consumer that is told of failures) are for ``on_error``."""

Layout = tuple[Any, ...]
"""How stages are joined: places, one after the other; for a branching, the place and the layouts of its branches."""


@dataclass(frozen=True)
class Sabotage:
    """Something that happens ``after`` seconds and then ``steps`` loop steps.

    ``deed`` is cancel, kill (a worker's task), scale (a stage), pause (for a moment) or stop (begin to drain).
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
    parts: tuple[Layout, ...] = ()
    """Pipelines that are merged before the others; one without stages is a source."""
    into: tuple[int, ...] = ()
    """For each source, the part that it belongs to."""
    threads: bool = False
    """Whether putters also put from threads, and handlers feed from them."""
    sinks: bool = False
    """Whether a remote queue takes the values of the last stages."""
    traced: str = ""
    """Which items are traced: all, share (half of them), odd (a function says it, which raises for some)."""
    listener: str = ""
    """What a listener does at event ``meddles_at``: nothing, raise, interrupt, stop, scale, pause."""
    meddles_at: int = 0

    @property
    def is_remote(self) -> bool:
        """Whether a source is a remote queue."""
        return any(source.kind == "remote" for source in self.sources)

    @property
    def following(self) -> list[list[int]]:
        """The places each stage gives to; an end gives to one more than there are, the results."""
        following: list[list[int]] = [[] for _ in self.stages]
        for part in filter(None, self.parts):
            _join(part, _first(self.layout), following)
        _join(self.layout, len(self.stages), following)
        return following

    @property
    def entries(self) -> list[int]:
        """The place that each source gives to."""
        if not self.parts:
            return [_first(self.layout)] * len(self.sources)
        return [_first(self.parts[part] or self.layout) for part in self.into]

    @property
    def before(self) -> list[list[int]]:
        """The places that give to each stage, and to the results."""
        following = self.following
        return [[one for one, to in enumerate(following) if place in to] for place in range(len(self.stages) + 1)]


def _first(layout: Layout) -> int:
    place: int = layout[0] if isinstance(layout[0], int) else layout[0][0]
    return place


def _join(layout: Layout, after: int, following: list[list[int]]) -> None:
    for element, then in zip(layout, (*layout[1:], None), strict=True):
        to = after if then is None else _first((then,))
        if isinstance(element, int):
            following[element] = [to]
        else:
            place, *branches = element
            following[place] = [_first(branch) for branch in branches]
            for branch in branches:
                _join(branch, to, following)


def draw(seed: int, waiting: frozenset[str] = WAITING) -> Scenario:
    """The scenario of ``seed``, without what is ``waiting``.

    Each of :data:`FURTHER` has a generator of its own: one more, or one that waits no longer, changes no other draw.
    """
    scenario = _drawn(Random(seed), seed)
    for name, change in FURTHER.items():
        if name not in waiting:
            scenario = change(scenario, Random(f"{seed} {name}"))
    return scenario


def _drawn(rng: Random, seed: int) -> Scenario:
    """What is drawn first: most of it."""
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
    if "batch" in options:
        options -= {"priority"}
    if "skip" in options:
        options -= {"dead letters"}
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
    stages = tuple(
        replace(stage, options=stage.options - {"dead letters", "retry", "skip"}) for stage in scenario.stages
    )
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
    return _change(scenario, rng.randrange(len(scenario.stages)), **change)


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


# -- further draws --------------------------------------------------------------------------------


def _with_merged_pipelines(scenario: Scenario, rng: Random) -> Scenario:
    """Some of its sources go through stages of their own before they are merged."""
    if not scenario.sources or rng.random() > 0.12:
        return scenario
    stages: list[StageSpec] = []
    parts: list[Layout] = []
    for count in (rng.choice([1, 1, 2]), *(rng.choice([0, 1, 1]) for _ in range(rng.randint(1, 2)))):
        parts.append(tuple(range(len(stages), len(stages) + count)))
        stages += [_stage(rng) for _ in range(count)]
    into = list(range(len(parts)))
    into += [rng.choice(into) for _ in scenario.sources[len(parts) :]]
    sources = [*scenario.sources, *(_source(rng) for _ in range(len(parts) - len(scenario.sources)))]
    if rng.random() < 0.2:
        place = rng.randrange(len(stages))
        stages[place] = replace(stages[place], trouble="raise", at=rng.randrange(4))
    return replace(
        scenario,
        sources=tuple(sources),
        stages=tuple(replace(stage, feeds=False) for stage in (*stages, *scenario.stages)),  # into which of them?
        layout=_moved(scenario.layout, len(stages)),
        parts=tuple(parts),
        into=tuple(into),
    )


def _moved(layout: Layout, by: int) -> Layout:
    return tuple(
        element + by if isinstance(element, int) else (element[0] + by, *(_moved(one, by) for one in element[1:]))
        for element in layout
    )


def _with_gathering(scenario: Scenario, rng: Random) -> Scenario:
    """Batches that go by weight, or by a key of their own."""
    stages = list(scenario.stages)
    for place, spec in enumerate(stages):
        if "batch" in spec.options and rng.random() < 0.5:
            stages[place] = replace(spec, gathers=rng.choice(["weigh"] if "key" in spec.options else ["weigh", "key"]))
    return replace(scenario, stages=tuple(stages))


def _with_generator_of_batches(scenario: Scenario, rng: Random) -> Scenario:
    """A handler that gets batches and gives any number of values."""
    places = [place for place, spec in enumerate(scenario.stages) if not spec.branching and spec.maxsize != 1]
    if scenario.calls or not places or rng.random() > 0.08:
        return scenario
    place = rng.choice(places)
    options = scenario.stages[place].options - {"ordered", "priority"} | {"batch"}
    return _change(scenario, place, options=options, generates=True)


def _with_lists_as_items(scenario: Scenario, rng: Random) -> Scenario:
    """What a generator of batches gives is also the very list it got; at times the next stage fails with it."""
    following = scenario.following
    for place, spec in enumerate(scenario.stages):
        if spec.generates and "batch" in spec.options and rng.random() < 0.7:
            scenario = _change(scenario, place, gives_list=True)
            for to in following[place]:
                if to < len(scenario.stages) and rng.random() < 0.5:
                    scenario = _change(scenario, to, trouble="raise", at=rng.randrange(3))
    return scenario


def _with_changed_lists(scenario: Scenario, rng: Random) -> Scenario:
    """Handlers that change the list of a batch."""
    for place, spec in enumerate(scenario.stages):
        if "batch" in spec.options and rng.random() < 0.5:
            scenario = _change(scenario, place, changes=rng.choice(["pops", "appends", "reverses"]))
    return scenario


def _with_by_that_raises(scenario: Scenario, rng: Random) -> Scenario:
    """Routes that find no branch for some items, with each policy for those."""
    for place, spec in enumerate(scenario.stages):
        if spec.branching == "route" and rng.random() < 0.4:
            options = rng.choice([frozenset[str](), frozenset({"skip"}), frozenset({"dead letters"})])
            scenario = _change(scenario, place, refuses="by", refuses_at=rng.randrange(MODULUS), options=options)
    return scenario


def _with_refused_items(scenario: Scenario, rng: Random) -> Scenario:
    """What sources and callers give is refused at times, by a function of the first stage."""
    if rng.random() > 0.12:
        return scenario
    before = scenario.before
    places = [place for place in {_first(scenario.layout), *scenario.entries} if not before[place]]
    return _with_refusal(scenario, rng, sorted(places))


def _with_slow_end(scenario: Scenario, rng: Random) -> Scenario:
    """Sources that take their time to close after an item of theirs was refused, so that a stop may come meanwhile."""
    if not any(scenario.stages[place].refuses_items for place in scenario.entries):
        return scenario
    sources = [replace(spec, clean_up=spec.clean_up or rng.choice(["", "slow"])) for spec in scenario.sources]
    return replace(scenario, sources=tuple(sources))


def _with_refused_values(scenario: Scenario, rng: Random) -> Scenario:
    """What a stage gives is refused at times, by a function of the next, under each policy of the one that gave it."""
    if rng.random() > 0.2:
        return scenario
    places = [place for place, before in enumerate(scenario.before[:-1]) if before]
    changed = _with_refusal(scenario, rng, places)
    if changed is scenario or not _policies_hold(scenario):
        return changed
    for place, spec in enumerate(changed.stages):
        if not spec.branching and rng.random() < 0.5:
            policy = rng.choice([{"skip"}, {"dead letters"}, {"retry"}, {"retry", "skip"}])
            changed = _change(changed, place, options=spec.options - {"skip", "dead letters"} | policy)
    return changed


def _policies_hold(scenario: Scenario) -> bool:
    """See :func:`_without_policies`."""
    return not any(spec.swallows or spec.clean_up == "raise" for spec in scenario.stages)


def _with_refusal(scenario: Scenario, rng: Random, places: list[int]) -> Scenario:
    """One of the places has a function of an item that raises for some, if any of them can."""
    places = [place for place in places if _can_refuse(scenario, place)]
    if not places:
        return scenario
    place = rng.choice(places)
    spec = scenario.stages[place]
    options = spec.options - {"ordered", "overflow"}  # what is dropped is refused by nobody
    if "batch" in options:
        gathers = spec.gathers or rng.choice(["weigh", "key"])
        change = {"gathers": gathers, "refuses": {"weigh": "weigh", "key": "batch key"}[gathers]}
    else:
        refuses = rng.choice(sorted(options & {"key", "priority"} or {"key", "priority"}))
        change = {"refuses": refuses}
        options |= {refuses}
    return _with_plain_sources(_change(scenario, place, refuses_at=rng.randrange(MODULUS), options=options, **change))


def _with_raise_when_full(scenario: Scenario, rng: Random) -> Scenario:
    """A stage with ``overflow="raise"`` and little room."""
    if rng.random() > 0.15:
        return scenario
    places = [place for place in range(len(scenario.stages)) if _can_refuse(scenario, place)]
    if not places:
        return scenario
    place = rng.choice(places)
    spec = scenario.stages[place]
    maxsize = None if "batch" in spec.options else rng.choice([1, 2, 2, 3])
    return _with_plain_sources(
        _change(scenario, place, options=spec.options - {"overflow"} | {"raise"}, maxsize=maxsize)
    )


def _can_refuse(scenario: Scenario, place: int) -> bool:
    """Whether somebody will see what was refused: nobody sees what a broadcast gives to another one."""
    if scenario.stages[place].branching:
        return False
    following = scenario.following
    beside = [scenario.stages[one] for giver in scenario.before[place] for one in following[giver]]
    return not any(spec.branching == "broadcast" for spec in beside)


def _with_plain_sources(scenario: Scenario) -> Scenario:
    """A source that is started again would go on after an item that was refused; for the rest see the slow end."""
    sources = [replace(spec, trouble="", restarts=0) if spec.restarts else spec for spec in scenario.sources]
    return replace(scenario, sources=tuple(replace(spec, clean_up="") for spec in sources))


def _with_puts_from_threads(scenario: Scenario, rng: Random) -> Scenario:
    """Callers that put from a thread, while the loop stands still; into an order they would need the loop."""
    first = scenario.stages[_first(scenario.layout)]
    plain = not first.options & {"batch", "key", "overflow", "priority", "raise"}
    return replace(scenario, threads=scenario.shape == "pushed" and plain and rng.random() < 0.5)


def _with_batches_that_wait(scenario: Scenario, rng: Random) -> Scenario:
    """Several batches that are complete with more items only, in a queue that has little room for them."""
    first = _first(scenario.layout)
    places = [
        place
        for place, spec in enumerate(scenario.stages)
        if not (spec.branching or spec.refuses or "raise" in spec.options or (scenario.threads and place == first))
    ]
    if not places or rng.random() > 0.12:
        return scenario
    place, size = rng.choice(places), rng.choice([2, 3, 3, 4])
    options = scenario.stages[place].options - {"ordered", "priority"} | {"batch"}
    if rng.random() < 0.7:
        options |= {"key"}
    maxsize = size + rng.choice([0, 1, 2, 3, 5, 8])
    change = {"gathers": "key", "keys": rng.choice([2, 4, 5, 7]), "size": size, "maxsize": maxsize, "options": options}
    return _change(scenario, place, **change)


def _with_remote_source(scenario: Scenario, rng: Random) -> Scenario:
    """One of its sources, or several, are remote queues, which never end by themselves."""
    refusing = any(scenario.stages[place].refuses_items for place in scenario.entries)
    if not scenario.sources or refusing or rng.random() > 0.25:
        return scenario
    remote = set(rng.sample(range(len(scenario.sources)), rng.choice([1, 1, len(scenario.sources)])))
    sources = tuple(_remote(spec, rng) if place in remote else spec for place, spec in enumerate(scenario.sources))
    stages = [replace(spec, clean_up=spec.clean_up.replace("raise", "slow")) for spec in scenario.stages]
    for place, spec in enumerate(stages):
        if not (spec.branching or spec.options & {"skip", "dead letters"}) and rng.random() < 0.2:
            stages[place] = replace(spec, options=spec.options | {"stop"})
    scenario = replace(
        scenario, sources=sources, stages=tuple(stages), shape=scenario.shape.replace("awaited", "entered")
    )
    if scenario.shape == "streamed":
        stop = Sabotage("stop", _moment(rng), rng.choice([0, 0, 1, 2, 5, 20]))
        return replace(scenario, sabotage=(*scenario.sabotage, stop))
    ending = rng.choice(["leave", "drain", "stop", "raise"]) if scenario.ending == "wait" else scenario.ending
    return replace(scenario, ending=ending, ends_after=scenario.ends_after or _moment(rng))


def _remote(spec: SourceSpec, rng: Random) -> SourceSpec:
    count, prefetch = spec.count or rng.choice([5, 14]), rng.choice([None, None, 1, 2, 3, 10])
    latency = rng.choice([0.0, 0.0, 0.001, 0.005])
    return SourceSpec("remote", count, idles=True, prefetch=prefetch, latency=latency)


def _with_remote_sink(scenario: Scenario, rng: Random) -> Scenario:
    """What the last stages give is published."""
    following = scenario.following
    ends = [spec for spec, to in zip(scenario.stages, following, strict=True) if len(scenario.stages) in to]
    if scenario.shape == "streamed" or scenario.calls or any(spec.gives_list for spec in ends) or rng.random() > 0.15:
        return scenario
    return replace(scenario, sinks=True)


def _with_feeds_from_threads(scenario: Scenario, rng: Random) -> Scenario:
    """Handlers that feed from a thread; into an order they would need the loop, which stands still."""
    plain = not scenario.stages[_first(scenario.layout)].options & {"batch", "key", "overflow", "priority", "raise"}
    feeds = any(spec.feeds for spec in scenario.stages)
    if not (plain and feeds) or scenario.threads or scenario.shape == "pushed":
        return scenario
    return replace(scenario, threads=rng.random() < 0.5)


def _with_traces(scenario: Scenario, rng: Random) -> Scenario:
    """Spans for all of its items, or some."""
    return replace(scenario, traced=rng.choice(["", "", "all", "share", "odd"]))


def _with_listener(scenario: Scenario, rng: Random) -> Scenario:
    """Somebody listens, and may do at any event what is allowed at any time."""
    if rng.random() > 0.4:
        return scenario
    deeds = ["nothing", "nothing", "raise", "interrupt", "scale", "pause"]
    if scenario.shape in ("entered", "pushed", "streamed"):
        deeds += ["stop", "stop"]
    return replace(scenario, listener=rng.choice(deeds), meddles_at=rng.choice([1, 2, 3, 4, 5, 7, 10, 15, 25]))


def _change(scenario: Scenario, place: int, **change: Any) -> Scenario:
    stages = list(scenario.stages)
    stages[place] = replace(stages[place], **change)
    return replace(scenario, stages=tuple(stages))


MODULUS: Final = 5
"""A function of an item that raises does so for one in so many."""

FURTHER: Final[dict[str, Callable[[Scenario, Random], Scenario]]] = {
    "merged pipelines": _with_merged_pipelines,
    "gathering": _with_gathering,
    "generator of batches": _with_generator_of_batches,
    "list as an item": _with_lists_as_items,
    "changed list": _with_changed_lists,
    "by that raises": _with_by_that_raises,
    "refused item": _with_refused_items,
    "refused value": _with_refused_values,
    "raise when full": _with_raise_when_full,
    "slow end of a refused source": _with_slow_end,
    "put from a thread": _with_puts_from_threads,
    "batches that wait": _with_batches_that_wait,
    "remote source": _with_remote_source,
    "remote sink": _with_remote_sink,
    "feed from a thread": _with_feeds_from_threads,
    "traces": _with_traces,
    "listener": _with_listener,
}
"""What is drawn after the rest, in this order."""
