"""``Sampler``: which items are traced. Asked where an item comes in; the others carry nothing."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from ..logs import WARNING, log
from ..wording import summary

__all__ = ["Sampler"]


class Sampler:
    """A share of the items, or those for which a function says so.

    Of a share it draws how many items come before the next one, so that these are only counted.
    """

    def __init__(self, sample: float | Callable[[Any], bool], rng: random.Random | None = None) -> None:
        self.function: Callable[[Any], bool] | None = sample if callable(sample) else None
        self._share = 1.0 if callable(sample) else float(sample)
        self._random = rng or random.Random()
        self._left = self.gap()
        self._has_failed = False

    def gap(self) -> float:
        """The place of the next item to be traced among those to come, from 1 up; infinite if there is none."""
        if self._share in (0.0, 1.0):
            return 1 if self._share else math.inf
        return 1 + math.log(1.0 - self._random.random()) // math.log1p(-self._share)

    def takes(self, item: Any) -> bool:
        """Whether to trace one item."""
        if self.function is not None:
            return self._asked(self.function, item)
        self._left -= 1
        if self._left > 0:
            return False
        self._left = self.gap()
        return True

    def _asked(self, function: Callable[[Any], bool], item: Any) -> bool:
        """What the function of the user says; what only looks on cannot disturb a run, so an error means no."""
        try:
            return bool(function(item))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a cancelled future that it looks at raises no Exception
            if not self._has_failed:
                self._has_failed = True
                log(WARNING, "an item is not traced, as sample= raised %s", summary(error), error=error)
            return False
