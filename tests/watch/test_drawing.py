"""Pictures of a pipeline: what follows from a plan's shape alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import Any

import pytest
from graphs import Graph, graphs, stage
from hypothesis import given
from support import BUSY

from asyncpc import Adaptive, Batch, Breaker, Pipeline, Rate, broadcast, consumer, merge, route, source
from asyncpc.core.plan import Plan
from asyncpc.watch.drawing import draw, mermaid


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
        [stage("a")] * 600,
        [broadcast(stage("a"), stage("b"))] * 100,
        [broadcast(stage("a"))] * 600,
        [broadcast(*[stage("a")] * 250)] * 2,
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


def test_show_tells_the_options() -> None:
    """Whoever looks at a pipeline sees what it does with an item, in words."""

    def by_user(n: int) -> int:
        return n

    @consumer(key=by_user, retry=3, timeout=10, rate=Rate(100), breaker=Breaker(5, 30), on_error="skip")
    async def store(n: int) -> None: ...

    @consumer(batch=Batch(500, within=1), overflow="drop_newest", on_error=print)
    async def insert(rows: list[None]) -> None: ...

    @consumer(ordered=True, concurrency=Adaptive(1, 9, 0.2), overflow="raise")
    async def last(n: None) -> None: ...

    notes = draw((store >> insert >> last)._plan, 200)
    assert (
        "store: key test_show_tells_the_options.<locals>.by_user, at most 10 s a call, "
        "at most 100 calls in 1 s, rests 30 s after 5 failures in a row, skips what fails, 3 attempts"
    ) in notes
    assert "insert: batches of 500 or after 1 s, drops the newest when full, what fails goes to print" in notes
    assert "last: raises when full, values leave in order, up to 9 workers while calls take at most 0.2 s" in notes


# -- any graph ------------------------------------------------------------------------------------


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


def test_a_notebook_shows_the_picture() -> None:
    """A pipeline at the end of a cell is drawn; its names are text there, and show no password."""
    pipeline = source([1], "redis://me:canary@host") >> stage("a<b>")
    assert pipeline._repr_html_() == (
        "<pre>redis://me:***@host ─► [128] ─► a&lt;b&gt; ×1\n\nredis://me:***@host: 1 items</pre>"
    )
