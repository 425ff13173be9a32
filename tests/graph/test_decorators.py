"""``@producer`` and ``@consumer``: the function stays what it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from inspect import signature

from asyncpc import consumer, producer


def test_a_decorated_function_keeps_its_name_and_docstring() -> None:
    """Protects help(), documentation and logs: they show the user's function, not asyncpc's class."""

    @consumer
    async def handle(item: int) -> None:
        """Handle one."""

    @producer
    async def items() -> AsyncIterator[int]:
        """Give some."""
        yield 1

    names = [getattr(one, "__name__", None) for one in (handle, items)]
    assert (names[0], handle.__doc__, handle.__module__) == ("handle", "Handle one.", __name__)
    assert (names[1], items.__doc__) == ("items", "Give some.")
    assert list(signature(handle).parameters) == ["item"]
