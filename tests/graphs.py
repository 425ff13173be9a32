"""Pipelines of any shape, drawn at random, for tests of what follows from their shape."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from typing import Any, cast

from hypothesis import strategies as st

from asyncpc import Consumer, Pipeline, broadcast, consumer, merge, route, source

__all__ = ["KINDS", "Chain", "Graph", "Shape", "chains", "graphs", "stage", "starts"]


def stage(name: str, **options: Any) -> Consumer[Any, Any, ..., Any]:
    """A stage that passes items on."""

    async def handle(item: Any) -> Any:
        return item

    return cast("Consumer[Any, Any, ..., Any]", consumer(name=name, **options)(handle))


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
