"""What goes along with a call into another process or interpreter, where its context variables do not."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Final, Protocol

__all__ = ["Carried", "carried"]


class Carried(Protocol):
    """Makes a call over there, in what belongs to it here; can be pickled."""

    def __call__(self, function: Any, /, *args: Any) -> Any:
        """What the function returns."""
        ...


carried: Final[ContextVar[Carried | None]] = ContextVar("asyncpc_carried", default=None)
"""What goes along with the calls that are made in this context."""
