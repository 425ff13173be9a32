"""Definitions joined into a graph: names are unique, and what a part says holds."""

from __future__ import annotations

from typing import Any

from spy import Sink
from support import ignore

from asyncpc import Pipeline, broadcast, consumer, merge, route, source, testing

# -- names ----------------------------------------------------------------------------------------


def test_names_are_made_unique_once() -> None:
    """What is joined from joined parts has a, a#2, a#3, …, and each name stays with its stage."""
    a = Sink("a").consumer
    twice = a >> a
    pipeline = source([1]) >> broadcast(twice, twice) >> a
    assert [handler.name for handler in [node.handler for node in pipeline._plan.nodes]] == [
        "broadcast",
        "a",
        "a#2",
        "a#3",
        "a#4",
        "a#5",
    ]


def test_stages_of_the_same_name_are_told_apart() -> None:
    """Also when a name looks like what asyncpc would add."""

    @consumer(name="a")
    async def first(n: int) -> int:
        return n

    @consumer(name="a#2")
    async def other(n: int) -> int:
        return n

    async def main() -> None:
        report = await (source([1]) >> first >> first >> other)
        assert [stage.name for stage in report.stages] == ["a", "a#2", "a#2#2"]

    testing.run(main())


def endless_of(count: int) -> Any:
    return source(list(range(count)))


def test_the_same_stage_twice_is_two_stages() -> None:
    """A definition is inert, so it may be used twice; the report tells the two apart."""

    @consumer
    async def double(n: int) -> int:
        return 2 * n

    async def main() -> None:
        report = await Pipeline([1, 2], double >> double >> ignore)
        assert [stage.name for stage in report.stages] == ["double", "double#2", "ignore"]
        assert (await Pipeline(merge(endless_of(1), endless_of(1)), ignore)).done == 2

    testing.run(main())


# -- what holds for the whole ---------------------------------------------------------------------


def test_the_bound_of_a_pipeline_holds_wherever_it_is_put() -> None:
    """A ``maxsize`` that was asked for is no option that is parsed and ignored: not after ``>>``, not in ``merge``."""
    a, b, c = (Sink(name).consumer for name in "abc")

    def bounds(pipeline: Pipeline[Any, Any]) -> list[int]:
        return [pipeline._plan.bound(handler) for handler in [node.handler for node in pipeline._plan.nodes]]

    assert bounds(source([1]) >> Pipeline(a, maxsize=5) >> Pipeline(b, maxsize=9)) == [5, 9]
    assert bounds(source([1]) >> a >> Pipeline(b, maxsize=9)) == [128, 9]
    assert bounds(merge(Pipeline([1], a, maxsize=5), [2]) >> b) == [5, 128]
    assert bounds(Pipeline(Pipeline(a, maxsize=5), b, maxsize=7)) == [5, 7]
    assert bounds(Pipeline(a, maxsize=5) >> b) == [5, 5]  # a chain goes on as it began
    assert (source([1]) >> a >> Pipeline(b, drain_timeout=3))._plan.drain_timeout == 3
    assert bounds(source([1]) >> route(str, {"1": a, "2": Pipeline(b, maxsize=2)}) >> Pipeline(c, maxsize=3)) == [
        *(128, 128, 2, 3)
    ]


def test_a_drain_timeout_holds_whichever_part_says_it() -> None:
    """Parsed is not ignored: in a branch, in a merged part, behind ``>>``; the whole's own comes first."""
    a, b = Sink("a").consumer, Sink("b").consumer

    def timeout(pipeline: Pipeline[Any, Any]) -> float:
        return pipeline._plan.drain_timeout

    assert timeout(source([1]) >> route(str, {"1": Pipeline(a, drain_timeout=2)})) == 2
    assert timeout(merge(Pipeline([1], a, drain_timeout=2), [2]) >> b) == 2
    assert timeout(Pipeline(a, drain_timeout=30) >> Pipeline(b, drain_timeout=2)) == 30
    assert timeout(source([1]) >> a >> Pipeline(b, drain_timeout=2)) == 2
    assert timeout(Pipeline(Pipeline(a, drain_timeout=2), drain_timeout=1)) == 1
