"""What follows from a plan's shape alone: its pictures, and how far a run of it has come."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from itertools import count, pairwise
from time import perf_counter
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import BUSY
from virtual import run_virtual

from asyncpc import Consumer, Pipeline, broadcast, consumer, merge, route, source
from asyncpc.core.plan import Plan
from asyncpc.watch.drawing import draw, mermaid
from asyncpc.watch.progress import _Extent


def stage(name: str, **options: Any) -> Consumer[Any, Any, ..., Any]:
    """A stage that passes items on."""

    async def handle(item: Any) -> Any:
        return item

    return cast("Consumer[Any, Any, ..., Any]", consumer(name=name, **options)(handle))


def drawn(pipeline: Pipeline[Any, Any], columns: int) -> list[str]:
    """The lines of the picture, without the notes."""
    return draw(pipeline._plan, columns).partition("\n\n")[0].splitlines()


# -- pictures -------------------------------------------------------------------------------------


def test_show_draws_a_graph() -> None:
    """Branches below each other, a bracket where they meet, and who is told of failures."""
    dead = stage("dead")
    swiss, german = stage("swiss", concurrency=2, on_error=dead), stage("german")
    branches = {"CH": swiss, "DE": german >> stage("pack")}
    checked = source([1], "shop") >> stage("check", on_error=dead)
    pipeline = merge(checked, source([], "mail")) >> route(str, branches, maxsize=5) >> stage("save")
    assert drawn(pipeline, 200) == [
        "shop ─► [128] ─► check ×1 ─┐",
        "mail ──────────────────────┴─► [5] ─► route",
        "                                      ├─ CH ─► [128] ─► swiss ×2 ──────────────────────┐",
        "                                      └─ DE ─► [128] ─► german ×1 ─► [128] ─► pack ×1 ─┴─► [128] ─► save ×1",
        "failures of check, swiss ─► [128] ─► dead ×1",
    ]
    assert drawn(pipeline, 30) == [
        *("┌ shop", "│   ▼ [128]", "│ check ×1", "├ mail", "└─┐", "  ▼ [5]", "route"),
        *("├─ CH", "│   ▼ [128]", "│ swiss ×2", "└─ DE", "    ▼ [128]", "  german ×1", "    ▼ [128]", "  pack ×1"),
        *("  ▼ [128]", "save ×1", "failures of check, swiss", "  ▼ [128]", "dead ×1"),
    ]
    chart = mermaid(pipeline._plan).splitlines()
    assert '    stage1 -->|"CH"| queue2' in chart
    assert '    stage0 -.->|"failures"| queue6' in chart
    assert chart.count('    source1(["mail"]) --> queue1') == 1


def test_merged_parts_stand_beside_each_other_downwards_too() -> None:
    """One below the other, without a line that leads past it, the first would seem to give to the second."""
    inner = merge(source([], "s1") >> stage("a"), source([], "s2")) >> stage("x")
    pipeline = merge(inner, source([], "s3") >> stage("b")) >> stage("y")
    assert drawn(pipeline, 1) == [
        *("┌ ┌ s1", "│ │   ▼ [128]", "│ │ a ×1", "│ ├ s2", "│ └─┐", "│   ▼ [128]", "│ x ×1"),
        *("├ s3", "│   ▼ [128]", "│ b ×1", "└─┐", "  ▼ [128]", "y ×1"),
    ]
    assert drawn(pipeline, 200) == [
        "s1 ─► [128] ─► a ×1 ─┐",
        "s2 ──────────────────┴─► [128] ─► x ×1 ─┐",
        "s3 ─► [128] ─► b ×1 ────────────────────┴─► [128] ─► y ×1",
    ]


def test_one_branch_is_drawn_as_what_it_is() -> None:
    """A route with one branch is a filter: nothing parts there and nothing meets, but what passes is told."""
    pipeline: Any = (
        source([], "s") >> route(str, {"CH": stage("a")}, on_error="skip") >> broadcast(stage("b")) >> stage("c")
    )
    assert drawn(pipeline, 200) == [
        "s ─► [128] ─► route ─ CH ─► [128] ─► a ×1 ─► [128] ─► broadcast ─► [128] ─► b ×1 ─► [128] ─► c ×1"
    ]
    assert drawn(pipeline, 1) == [
        *("s", "  ▼ [128]", "route", "  │ CH", "  ▼ [128]", "a ×1"),
        *("  ▼ [128]", "broadcast", "  ▼ [128]", "b ×1", "  ▼ [128]", "c ×1"),
    ]


def test_the_notes_name_the_consumer_of_failures_as_the_picture_does() -> None:
    """Of two consumers of the same name, the second has another one in the picture and in the report."""
    first, second = stage("a", on_error=stage("dead")), stage("b", on_error=stage("dead"))
    picture, notes = draw((source([], "s") >> first >> second)._plan, 200).split("\n\n")
    assert picture.splitlines()[1:] == [
        "failures of a ─► [128] ─► dead ×1",
        "failures of b ─► [128] ─► dead#2 ×1",
    ]
    assert notes.splitlines()[1:] == ["a: what fails goes to dead", "b: what fails goes to dead#2"]


@pytest.mark.parametrize(
    "stages",
    [
        [stage("a")] * 1_200,
        [broadcast(stage("a"), stage("b"))] * 100,
        [broadcast(stage("a"))] * 1_200,
        [broadcast(*[stage("a")] * 500)] * 2,
    ],
    ids=["stages", "broadcasts", "one branch each", "many branches"],
)
def test_a_long_pipeline_is_drawn_in_no_time(stages: list[Any]) -> None:
    """Looking at a pipeline costs about as much as there is to be seen, and no depth of Python's stack."""
    plan = Pipeline[Any, Any](source([]), *stages)._plan
    for picture in (partial(draw, plan, 10**6), partial(draw, plan, 1), partial(mermaid, plan)):
        began = perf_counter()
        assert picture().count("[") >= len(plan.nodes)
        assert perf_counter() - began < BUSY  # it was exponential once


# -- any graph ------------------------------------------------------------------------------------

Shape = str | tuple[str, tuple["Chain", ...]]
Chain = tuple[Shape, ...]
"""Stages by what they do, and branchings."""

KINDS = ("one", "two", "told", "told too", "skip")

chains: st.SearchStrategy[Chain] = st.recursive(
    st.sampled_from(KINDS).map(lambda kind: (kind,)),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: (*two[0], *two[1])),
        st.tuples(st.sampled_from(["route", "filter", "broadcast"]), st.lists(inner, min_size=1, max_size=3)).map(
            lambda one: ((one[0], tuple(one[1])),)
        ),
    ),
    max_leaves=6,
)
starts: st.SearchStrategy[Any] = st.recursive(
    st.just(()), lambda inner: st.tuples(st.lists(inner, min_size=1, max_size=3), st.just(()) | chains), max_leaves=4
)
"""Sources, which are nothing, and merged parts with the stages that follow them, if any."""


class Graph:
    """A pipeline made from what was drawn, in which every name stands once."""

    def __init__(self, start: Any, chain: Chain) -> None:
        self.numbers = count()
        last = stage("l0")
        self.letters = {"told": last, "told too": stage("l1", on_error=last)}
        self.sources = 0
        self.pipeline = self.started(start) >> Pipeline[Any, Any](*self.stages(chain))

    def started(self, start: Any) -> Any:
        """A source, or parts that are merged and the stages that follow."""
        if not start:
            self.sources += 1
            return source(range(3), f"s{self.sources}")
        parts, chain = start
        merged = merge(*map(self.started, parts))
        return Pipeline[Any, Any](merged, *self.stages(chain)) if chain else merged

    def stages(self, chain: Chain) -> Iterator[Any]:
        """The stages of a chain."""
        for shape in chain:
            if isinstance(shape, str):
                yield self.stage(shape)
                continue
            kind, inner = shape
            name, branches = f"b{next(self.numbers)}", [Pipeline[Any, Any](*self.stages(one)) for one in inner]
            if kind == "broadcast":
                yield broadcast(*branches, name=name)
            else:
                on_error: Any = "skip" if kind == "filter" else self.letters["told"]
                keyed = {f"k{key}": branch for key, branch in enumerate(branches)}
                yield route(self.by(len(branches) + 1), keyed, on_error=on_error, name=name)

    @staticmethod
    def by(several: int) -> Callable[[int], str]:
        """A function of an item that gives so many keys, the last of which has no branch."""
        return lambda n: f"k{n % several}"

    def stage(self, kind: str) -> Consumer[Any, Any, ..., Any]:
        """One that gives two values for an item, or one that may fail."""

        async def two(n: int) -> AsyncIterator[int]:
            yield n
            await asyncio.sleep(1)
            yield n + 1

        async def one(n: int) -> int:
            await asyncio.sleep(n)
            if kind != "one" and n % 2:
                raise ValueError(n)
            return n + 1

        name = f"c{next(self.numbers)}"
        on_error: Any = self.letters.get(kind, "skip" if kind == "skip" else "stop")
        return consumer(name=name, on_error=on_error)(two if kind == "two" else one)


graphs = st.builds(Graph, starts, chains)

Edge = tuple[str, str]


def edges(plan: Plan) -> list[Edge]:
    """Who gives to whom, or tells whom of failures."""
    names = [node.handler.name for node in plan.nodes]
    found = [(origin.name, names[origin.into or 0]) for origin in plan.origins]
    for node in plan.nodes:
        found += [(node.handler.name, names[following]) for following in node.following]
        if node.failures_to is not None:
            found.append((node.handler.name, names[node.failures_to]))
    return sorted(found)


def edges_across(lines: Sequence[str]) -> list[Edge]:
    """Who gives to whom in a picture from left to right, found by going along its lines as the eye does."""

    def at(line: int, column: int) -> str:
        return lines[line][column : column + 1]

    def follow(line: int, column: int) -> str:
        led = re.compile(r" ?─+( k\d+ ─)?(?=[►┐┤┴])").match(lines[line], column)
        assert led, lines[line]
        column = led.end()
        if at(line, column) in "┐┤":
            line += 1
            while at(line, column) != "┴":
                assert at(line, column) in "│┤"
                line += 1
        if at(line, column) == "┴":
            column += 1
            assert at(line, column) == "─"
            column += 1
        reached = re.compile(r"► \[128\] ─► (\w+)").match(lines[line], column)
        assert reached, lines[line]
        return reached[1]

    found: list[Edge] = []
    for line, text in enumerate(lines):
        if text.startswith("failures of "):
            tellers, told = text.removeprefix("failures of ").split(" ─► [128] ─► ")
            found += [(teller, told.split()[0]) for teller in tellers.split(", ")]
            continue
        for name in re.finditer(r"\b([sbcl]\d+)( ×1)?", text):
            if text.startswith(" ─", name.end()):
                found.append((name[1], follow(line, name.end())))
            below = line + 1
            while below < len(lines) and at(below, name.start()) in ("├", "│", "└"):
                if at(below, name.start()) != "│":
                    found.append((name[1], follow(below, name.start() + 1)))
                below = below + 1 if at(below, name.start()) != "└" else len(lines)
    return sorted(found)


def edges_down(lines: Sequence[str]) -> list[Edge]:
    """Who gives to whom in a picture from top to bottom, by what stands beside and below what."""
    found: list[Edge] = []

    def inner(rest: list[str], prefix: str) -> list[str]:
        taken: list[str] = []
        while rest and rest[0].startswith(prefix) and not rest[0].startswith("  ▼"):
            taken.append(rest.pop(0)[2:])
        return taken

    def block(lines: Sequence[str], ends: list[str]) -> list[str]:
        """The stages that lead on from a block that ``ends`` lead to."""
        rest, head = list(lines), ends
        while rest:
            line = rest.pop(0)
            if line.startswith(("┌ ", "├ ")):
                ends = [*ends, *block([line[2:], *inner(rest, "│ ")], [])]
            elif line.startswith(("├─", "└─")) and line != "└─┐":
                assert re.fullmatch(r"[├└]─(──┐| k\d+)", line)
                ends = [*([] if ends == head else ends), *block(inner(rest, "│ " if line[0] == "├" else "  "), head)]
            elif line.startswith("  ▼ "):
                name = rest.pop(0).split()[0]
                found.extend((end, name) for end in ends)
                head = ends = [name]
            elif line.startswith("failures of "):
                ends = line.removeprefix("failures of ").split(", ")
            elif line != "└─┐" and not line.startswith("  │ "):
                ends = [line]
        return ends

    block(lines, [])
    return sorted(found)


@given(graph=graphs)
def test_every_graph_can_be_drawn(graph: Graph) -> None:
    """Each stage and source stands once in the picture, whatever its direction, and leads to where it gives."""
    plan = graph.pipeline._plan
    names = sorted([*(origin.name for origin in plan.origins), *(node.handler.name for node in plan.nodes)])
    for columns, read in ((10_000, edges_across), (1, edges_down)):
        lines = drawn(graph.pipeline, columns)
        picture = [line for line in lines if not line.startswith("failures of ")]
        picture += [line.partition("─►")[2] for line in lines if line.startswith("failures of ")]
        assert sorted(re.findall(r"\b[sbcl]\d+\b", "\n".join(picture))) == names
        assert read(lines) == edges(plan), "\n".join(lines)
    assert mermaid(plan).count(" --> stage") == len(plan.nodes)


# -- how far a run has come -----------------------------------------------------------------------


def throughs(pipeline: Pipeline[Any, Any]) -> list[int]:
    """How many items of the sources were through, every half second of a run, and at its end."""

    async def main() -> list[int]:
        way, seen = _Extent(pipeline._plan), list[int]()
        async with pipeline as running:
            waiting = asyncio.ensure_future(running.wait())
            while not waiting.done():
                await asyncio.sleep(0.5)
                seen.append(way.through(running.statistics()))
            return [*seen, way.through((await waiting).statistics)]

    return run_virtual(main)


@consumer
async def slow(n: int) -> int:
    await asyncio.sleep(1)
    return n


async def dead(failure: object) -> None: ...


@pytest.mark.parametrize(
    "stages",
    [
        [route(lambda n: n % 2, {0: stage("a")}, on_error=consumer(dead))],
        [route(lambda n: n % 2, {0: stage("a")}, on_error="skip"), stage("b")],
        [consumer(on_error="skip")(lambda n: 1 // (n % 2)), stage("a")],
        [stage("a", overflow="drop_newest", maxsize=1), slow],
        [broadcast(stage("a", overflow="drop_oldest", maxsize=1), slow), stage("b")],
    ],
    ids=["told", "skipped by a route", "skipped by a stage", "dropped", "dropped by a branch"],
)
def test_an_item_that_failed_or_was_dropped_is_through(stages: list[Any]) -> None:
    """A bar that never gets full looks as if the run was cut short."""
    assert throughs(Pipeline[Any, Any](range(10), *stages))[-1] == 10


@pytest.mark.parametrize(
    "stages",
    [
        [slow],
        [broadcast(slow, stage("sink"))],
        [broadcast(slow, slow)],
        [broadcast(stage("sink"), route(lambda n: 0, {0: slow}, default=stage("a") >> stage("b"))), stage("save")],
        [broadcast(stage("sink"), stage("a") >> slow)],
        [route(lambda n: 0, {0: slow, 1: stage("sink")}), stage("a")],
        [broadcast(slow, stage("sink")), stage("save")],
    ],
)
def test_an_item_is_through_when_the_slowest_branch_has_it_done(stages: list[Any]) -> None:
    """A bar that is full at once, while all the work is still to be done, tells nothing."""
    seen = throughs(Pipeline[Any, Any](range(100), *stages))
    assert all(after - before <= 1 for before, after in pairwise([0, *seen]))
    assert seen[-1] == 100


def test_what_comes_behind_a_generator_is_not_counted() -> None:
    """Nobody can tell which items of the sources the values there come from, nor how many there will be."""

    @consumer
    async def many(n: int) -> AsyncIterator[int]:
        for more in range(1000):
            yield more

    assert throughs(Pipeline(range(3), many >> stage("a", on_error=stage("told"))))[-1] == 3
    merged = merge(source(range(5)) >> slow, source(range(2)) >> many) >> stage("a")
    seen = throughs(merged)
    assert (max(seen), seen[-1]) == (7, 7)


@given(graph=graphs)
def test_never_more_items_are_through_than_there_are(graph: Graph) -> None:
    """In any graph, at any moment; and at the end it is all of them, whatever became of each."""
    seen = throughs(graph.pipeline)
    assert all(0 <= through <= 3 * graph.sources for through in seen)
    assert seen[-1] == 3 * graph.sources
