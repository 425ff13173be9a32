"""The options of a stage, one file each: its policy, its check, its machine and its words.

:data:`ORDER` is the order in which options are checked and installed, so it is the order in which they nest: an attempt
waits for the breaker, then for its rate (and looks at the breaker again), then its time is measured. Batches form
outside of these, and the order of values is restored outside of everything. ``docs/adding-an-option.md`` says how to
add one.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any, Final

from ..core.seams import Option
from .adaptive import Concurrency
from .batch import Batching
from .breaker import Breaking
from .failures import Failures
from .key import Key
from .ordered import Ordered
from .overflow import Overflowing
from .priority import Priority
from .rate import RateLimit
from .retry import Retrying
from .timeout import Timeout

__all__ = ["ARGUMENTS", "ORDER", "options_from"]

ORDER: Final[tuple[tuple[type[Option], tuple[str, ...]], ...]] = (
    (Priority, ("priority",)),
    (Key, ("key",)),
    (Timeout, ("timeout",)),
    (RateLimit, ("rate",)),
    (Breaking, ("breaker",)),
    (Batching, ("batch",)),
    (Overflowing, ("overflow", "on_drop")),
    (Failures, ("on_error", "max_failures")),
    (Retrying, ("retry",)),
    (Ordered, ("ordered",)),
    (Concurrency, ("concurrency",)),
)
"""The options, each with the arguments of a consumer that it takes."""

ARGUMENTS: Final[Mapping[str, Any]] = {
    name: signature(kind.made_from).parameters[name].default for kind, names in ORDER for name in names
}
"""The arguments of a consumer that are options, with their defaults."""


_KINDS: Final = {name: kind for kind, names in ORDER for name in names}

_ALWAYS: Final = frozenset([kind for kind, _ in ORDER if kind.made_from("") is not None])
"""The options that every stage has, whatever the arguments."""


def options_from(where: str, given: Mapping[str, Any]) -> tuple[Option, ...]:
    """The options that the arguments ask for, not yet checked; raises ``DefinitionError`` for what cannot be one."""
    asked: dict[type[Option], dict[str, Any]] = {}
    for name, value in given.items():
        if (kind := _KINDS.get(name)) is not None:
            asked.setdefault(kind, {})[name] = value
    made = [kind.made_from(where, **asked.get(kind, {})) for kind, _ in ORDER if kind in asked or kind in _ALWAYS]
    return tuple([option for option in made if option is not None])
