"""``Spy``: a stage that remembers its calls, and in which faults can be planted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import wraps
from threading import RLock
from typing import Any, TypeVar, overload

from ..checks import is_async, kind_of
from ..errors import DefinitionError
from ..graph.decorators import consumer
from ..graph.pipeline import Consumer, handler_of
from ..wording import shown
from .clock import now, pause
from .faults import Fault

__all__ = ["Spy"]

A = TypeVar("A")
B = TypeVar("B")


class Spy(Consumer[A, B, ..., Any]):
    """A consumer with all its options, whose calls are remembered.

    ::

        charging = Spy(charge, Crash(7, Declined("no money"), times=2))
        await (source(range(10)) >> charging >> record)
        assert charging.calls[7] == 3

    ``stage``
        A consumer; without one, an item is passed on as it is.
    ``faults``
        What is done to the calls with certain items: :class:`Crash`, :class:`Delay`, :class:`CancelWorker`,
        :class:`Redeliver`. They take effect in this order, before the handler begins.

    Raises ``DefinitionError`` for a consumer that runs in processes or interpreters, which a spy cannot see.
    """

    @overload
    def __init__(self, stage: Consumer[A, B, ..., Any], /, *faults: Fault) -> None: ...
    @overload
    def __init__(self: Spy[Any, Any], stage: None = None, /, *faults: Fault) -> None: ...
    def __init__(self, stage: Consumer[A, B, ..., Any] | None = None, /, *faults: Fault) -> None:
        if stage is not None and not isinstance(stage, Consumer):
            raise DefinitionError(
                f"Spy({shown(stage)}): it looks at a consumer; for those of a pipeline, spied(pipeline, Spy(consumer))"
            )
        spied = handler_of(consumer(name="spy")(_pass_on) if stage is None else stage)
        if spied.run_in in ("process", "interpreter"):
            raise DefinitionError(
                f"Spy({spied.name!r}): it runs in another {spied.run_in}, where nobody can look: spy on a consumer "
                "made of the same function with run_in='thread'"
            )
        self.spied: Callable[..., Any] = spied.function
        """The function that it calls."""
        self.items: list[A] = []
        """The items, in the order in which their calls began."""
        self.times: list[float] = []
        """When the call of each began (:func:`now`)."""
        self.done: list[A] = []
        """The items whose call returned, in the order in which that was."""
        self.running: int = 0
        """How many calls run now."""
        self.peak: int = 0
        """How many ran at once, at most."""
        self._takes_lists = spied.takes_lists
        self._faults = faults
        self._left = [fault.times for fault in faults]
        self._lock = RLock()  # calls may run in threads
        super().__init__(spied._replace(function=self._watched(spied.function)))

    @property
    def calls(self) -> Counter[A]:
        """How many calls each item had."""
        return Counter(self.items)

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with what is done around each call; of the same kind, since it is to run where it would."""
        kind = (kind_of(function), is_async(function))
        make = {
            ("function", True): self._coroutine_function,
            ("generator", True): self._async_generator,
            ("function", False): self._function,
            ("generator", False): self._generator,
        }[kind]
        return wraps(function)(make(function))

    def _coroutine_function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def call(item: Any, *given: Any) -> Any:
            with self._call(item) as faults:
                await _strike(faults)
                return await function(item, *given)

        return call

    def _async_generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def call(item: Any, *given: Any) -> AsyncIterator[Any]:
            with self._call(item) as faults:
                await _strike(faults)
                async with aclosing(function(item, *given)) as values:
                    async for value in values:
                        yield value

        return call

    def _function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(item: Any, *given: Any) -> Any:
            with self._call(item) as faults:
                _strike_in_thread(faults)
                return function(item, *given)

        return call

    def _generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(item: Any, *given: Any) -> Iterator[Any]:
            with self._call(item) as faults:
                _strike_in_thread(faults)
                yield from function(item, *given)

        return call

    @contextmanager
    def _call(self, item: Any) -> Iterator[list[Fault]]:
        """Remember a call while it runs; gives the faults that are for it."""
        items = list(item) if self._takes_lists else [item]
        with self._lock:
            self.items += items
            self.times += [now()] * len(items)
            self.running += 1
            self.peak = max(self.peak, self.running)
            faults = [fault for place, fault in enumerate(self._faults) if self._has(place, items)]
        try:
            yield faults
            self.done += items
        finally:
            with self._lock:
                self.running -= 1

    def _has(self, place: int, items: list[Any]) -> bool:
        """Whether the fault at that place is for a call with these items, which is counted."""
        if self._left[place] <= 0 or not any(self._faults[place].item == one for one in items):
            return False
        self._left[place] -= 1
        return True


async def _pass_on(item: Any) -> Any:
    return item


async def _strike(faults: list[Fault]) -> None:
    for fault in faults:
        if fault.seconds:
            await asyncio.sleep(fault.seconds)
        fault.strike()
        await asyncio.sleep(0)  # where a cancel takes effect


def _strike_in_thread(faults: list[Fault]) -> None:
    for fault in faults:
        if fault.seconds:
            pause(fault.seconds)
        fault.strike()
