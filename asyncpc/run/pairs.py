"""``collect(pairs=True)``: each item of the sources with the one result that was made from it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any

from ..core.plan import Origin, Plan
from ..core.seams import Takes
from ..core.tracked import NO_TRACE, Tracked
from ..errors import DefinitionError
from ..failure import KeptFailure

__all__ = ["Pairs"]


class Pairs:
    """Gets the result of each item that a run's sources give, or its error."""

    def __init__(self) -> None:
        self.found: list[tuple[Any, Any]] = []
        """An item and its result, or its error, in the order in which they came."""

    def plan(self, plan: Plan) -> Plan:
        """``plan`` with sources whose items have a ticket; raises ``DefinitionError`` if they cannot be paired."""
        if plan.is_attended:
            raise DefinitionError(
                "collect(pairs=True) needs sources that end, and a remote queue does not: use stream()"
            )
        for node in plan.nodes[: plan.main]:
            handler = node.handler
            if handler.gives_several:
                raise DefinitionError(
                    f"collect(pairs=True) needs one result for each item, but stage {handler.name!r} may give more "
                    "than one: use collect() or stream()"
                )
            if handler.dead_letters is not None:
                raise DefinitionError(
                    f"collect(pairs=True) gives failures as values, but those of stage {handler.name!r} go to consumer "
                    f"{handler.dead_letters.name!r}: write on_error='skip', or name a function"
                )
        return plan._replace(origins=tuple([self._with_tickets(origin) for origin in plan.origins]))

    def _with_tickets(self, origin: Origin) -> Origin:
        def opened() -> AsyncIterable[Any] | Iterable[Any]:
            items = origin.open()
            return (
                _each_later(items, self._tracked) if isinstance(items, AsyncIterable) else _each(items, self._tracked)
            )

        return origin._replace(open=opened)

    def _tracked(self, item: Any) -> Tracked:
        return Tracked(item, _PairTicket(item, self.found))


class _PairTicket:
    """The ticket of an item from which one result is made."""

    __slots__ = ("_found", "_item")

    @property
    def takes_failures(self) -> Takes:
        """None: the policies of the stages hold."""
        return "none"

    def __init__(self, item: Any, found: list[tuple[Any, Any]]) -> None:
        self._item = item
        self._found = found

    @property
    def wants_value(self) -> bool:
        """Yes."""
        return True

    @property
    def trace(self) -> Mapping[str, str]:
        """None."""
        return NO_TRACE

    def hold(self, more: int = 1) -> None:
        """Nothing: no stage gives several values."""

    def for_fed(self) -> None:
        """Nothing: what is fed has no pair."""

    def settle(self, value: Any = None) -> None:
        """Keep the result."""
        self._found.append((self._item, value))

    def skip(self, error: Exception) -> None:
        """Keep the error in its place."""
        self._found.append((self._item, error))

    def fail(self, error: Exception, failure: KeptFailure) -> None:
        """See skip."""
        self.skip(error)

    def stop(self, error: Exception) -> None:
        """See skip."""
        self.skip(error)

    def release(self) -> None:
        """Nothing: the report lists the item as unfinished."""


def _each(items: Iterable[Any], tracked: Callable[[Any], Tracked]) -> Iterator[Tracked]:
    iterator = iter(items)
    try:
        for item in iterator:
            yield tracked(item)
    finally:
        if (close := getattr(iterator, "close", None)) is not None:
            close()


async def _each_later(items: AsyncIterable[Any], tracked: Callable[[Any], Tracked]) -> AsyncIterator[Tracked]:
    iterator = aiter(items)
    try:
        async for item in iterator:
            yield tracked(item)
    finally:
        if isinstance(iterator, AsyncGenerator):
            await iterator.aclose()
