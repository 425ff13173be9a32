"""The options of a stage, one file each: its policy, its check, its machine and its words.

:data:`ORDER` is the order in which options are checked and installed, so it is the order in which they nest: an attempt
waits for the breaker, then for its rate (and looks at the breaker again), then its time is measured. Batches form
outside of these, and the order of values is restored outside of everything. ``docs/adding-an-option.md`` says how to
add one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import signature
from typing import Any, Final

from ..core.plan import Handler
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

__all__ = ["ARGUMENTS", "ORDER", "with_options"]

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


def with_options(where: str, handler: Handler, given: Mapping[str, Any]) -> Handler:
    """``handler`` with the options that the arguments ask for; raises ``DefinitionError`` for what cannot work."""
    options = list(_options(where, given))
    for option in options:
        handler = option.check(where, handler)
    return handler._replace(options=tuple(options))


def _options(where: str, given: Mapping[str, Any]) -> Iterator[Option]:
    for kind, names in ORDER:
        option = kind.made_from(where, **{name: given[name] for name in names if name in given})
        if option is not None:
            yield option
