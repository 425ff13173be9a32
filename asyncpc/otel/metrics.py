"""Counters of pipelines as OpenTelemetry's observable instruments: the figures that ``asyncpc.metrics`` has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Any, Final, NamedTuple

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter

from ..graph.pipeline import Pipeline
from ..watch.kinds import KINDS, Kind
from ..watch.totals import Seen, Totals
from ..watch.watched import newly_watched

__all__ = ["Metrics"]

TOGETHER: Final = 0.1
"""Seconds after a look in which all instruments show it: a reader asks one after the other."""


class _Watched(NamedTuple):
    """A pipeline and its figures."""

    pipeline: Pipeline[Any, Any]
    totals: Totals


class Metrics:
    """Gives the counters of pipelines to OpenTelemetry, whose reader asks for them; in between nothing is done.

    ``meter_provider`` is by default the global one. Make one for all pipelines of the process.
    """

    def __init__(self, meter_provider: MeterProvider | None = None) -> None:
        self._watched: dict[str, _Watched] = {}
        self._last: tuple[float, Mapping[str, Seen]] = -math.inf, {}
        meter = get_meter("asyncpc", meter_provider=meter_provider)
        for what, kind in KINDS.items():
            make = meter.create_observable_counter if kind.rises else meter.create_observable_gauge
            make(f"asyncpc.{kind.name}", [self._observer(what, kind)], kind.unit, kind.help)

    def watch(self, pipeline: Pipeline[Any, Any], *, name: str | None = None) -> None:
        """Read all runs of ``pipeline`` from now on, also one that is under way; once is enough.

        ``name`` is the attribute ``asyncpc.pipeline``, by default the name of the pipeline. Counts go on from run to
        run. Raises ``DefinitionError`` if another pipeline is watched under that name.
        """
        known = {name: one.pipeline for name, one in self._watched.items()}
        if (found := newly_watched(pipeline, name, known)) is not None:
            name, totals = found
            self._watched = self._watched | {name: _Watched(pipeline, totals)}  # another thread may be reading it
            self._last = -math.inf, {}

    def _observer(self, what: str, kind: Kind) -> Callable[[CallbackOptions], Iterable[Observation]]:
        labels = [f"asyncpc.{label}" for label in kind.labels]

        def observe(options: CallbackOptions) -> Iterable[Observation]:
            for name, seen in self._see().items():
                if what == "running":
                    yield Observation(int(seen.running), {labels[0]: name})
                for (told, *where), figure in (*seen.counts.items(), *seen.present.items()):
                    if told == what and figure != math.inf:
                        yield Observation(figure, dict(zip(labels, [name, *where], strict=True)))

        return observe

    def _see(self) -> Mapping[str, Seen]:
        """The figures of all pipelines, as they are now, or were a moment ago."""
        at, seen = self._last
        if monotonic() - at > TOGETHER:
            seen = {name: one.totals.see() for name, one in self._watched.items()}
            self._last = monotonic(), seen  # only now: a loop that is blocked has held up the look
        return seen
