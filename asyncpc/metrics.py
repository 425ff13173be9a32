"""Metrics for Prometheus, and pages for probes: ``pip install 'asyncpc[metrics]'``.

::

    metrics = Metrics()
    metrics.watch(pipeline)
    app.mount("/ops", metrics.asgi())  # /ops/metrics, /ops/live, /ops/ready

Figures are read when somebody asks for them, in the loop of the run; between two scrapes nothing is done.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple, Protocol

from .checks import check_seconds
from .graph.pipeline import Pipeline
from .run.health import Health
from .watch.http import AsgiApp, Page, Pages, asgi_app, text_page
from .watch.kinds import KINDS, Kind
from .watch.snapshot import as_dict
from .watch.totals import Seen
from .watch.watched import newly_watched
from .watch.watcher import View

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Metric
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.exposition import choose_encoder
except ImportError as _missing:
    raise ImportError("asyncpc.metrics needs prometheus_client: pip install 'asyncpc[metrics]'") from _missing

__all__ = ["Metrics", "Watchable", "metrics_in", "watch_elsewhere"]


class Watchable(Protocol):
    """What can be shown of a pipeline, wherever it runs."""

    def see(self) -> Seen:
        """All figures, as they are now."""
        ...

    def health(self, stalled_after: float) -> Health:
        """Whether it is well."""
        ...

    def view(self) -> View | None:
        """As a screen shows it; None if it is not running, or in other processes."""
        ...


class _Watched(NamedTuple):
    pipeline: Pipeline[Any, Any] | None
    """None if it runs in other processes."""
    totals: Watchable
    health: bool
    """Whether the pages for probes tell of it."""


_made: Final[weakref.WeakKeyDictionary[CollectorRegistry, weakref.ref[Metrics]]] = weakref.WeakKeyDictionary()
"""Which object reads the pipelines for each registry."""


class Metrics:
    """Reads the counters of pipelines when Prometheus scrapes, and answers health probes.

    It registers itself in ``registry``, by default that of prometheus_client, so that every way of serving that shows
    them. ``stalled_after`` is how many seconds of no progress the pages of :meth:`asgi` call stalled. Make one for all
    pipelines of the process. Raises ``ValueError`` for a registry that has one already.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY, *, stalled_after: float = 60.0) -> None:
        check_seconds("Metrics()", "stalled_after", stalled_after)
        self._registry = registry
        self._stalled_after = stalled_after
        self._watched: dict[str, _Watched] = {}
        try:
            registry.register(self)
        except ValueError as error:
            already = "this registry has Metrics() already: let that one watch all pipelines of the process"
            raise ValueError(already) from error
        _made[registry] = weakref.ref(self)

    def watch(self, pipeline: Pipeline[Any, Any], *, name: str | None = None, health: bool = True) -> None:
        """Read all runs of ``pipeline`` from now on, also one that is under way; once is enough.

        ``name`` is the label ``pipeline``, by default the name of the pipeline. Counts go on from run to run. With
        ``health=False`` the pages for probes leave it out: for one that runs now and then beside the work of a service.

        Raises ``DefinitionError`` if another pipeline is watched under that name.
        """
        known = {name: one.pipeline for name, one in self._watched.items()}
        if (found := newly_watched(pipeline, name, known)) is not None:
            name, totals = found
            self._watched = self._watched | {name: _Watched(pipeline, totals, health)}  # other threads may read it

    def asgi(self) -> AsgiApp:
        """An ASGI app with ``/metrics``, ``/live``, ``/ready`` and ``/api/snapshot``, to be mounted in any web app.

        ``/metrics`` shows the whole registry. ``/live`` answers 200, or 503 if a run has failed: then restart the
        process. ``/ready`` answers 200 while every run takes items, 503 before the start, while one drains and
        afterwards. Both say why in a line for each pipeline, and name stages that are stalled. ``/api/snapshot`` is
        what ``asyncpc top`` shows; without items and messages of errors.
        """
        return asgi_app(self.pages())

    def pages(self) -> Pages:
        """The pages by their paths; the first one stands for a mount at ``/metrics``."""
        return {
            "/": self._metrics,
            "/metrics": self._metrics,
            "/live": self._live,
            "/ready": self._ready,
            "/api/snapshot": self._snapshot,
        }

    def describe(self) -> Iterable[Metric]:
        """The families of metrics, for the registry."""
        return [_family(kind) for kind in KINDS.values()]

    def collect(self) -> Iterable[Metric]:
        """The families with their samples; may be called in any thread.

        In another thread than that of a run it waits up to half a second for that run's loop, then shows what it has
        seen last.
        """
        families = {what: _family(kind) for what, kind in KINDS.items()}
        for name, watched in self._watched.items():
            seen = watched.totals.see()
            families["running"].add_metric([name], float(seen.running))
            for (what, *where), figure in (*seen.counts.items(), *seen.present.items()):
                families[what].add_metric([name, *where], figure)
        return families.values()

    def _metrics(self, accept: str) -> Page:
        encode, kind = choose_encoder(accept)
        return Page(HTTPStatus.OK, kind, encode(self._registry))

    def _snapshot(self, accept: str) -> Page:
        views = [(name, one.totals.view()) for name, one in self._watched.items()]
        told = [{"name": name, "view": None if view is None else as_dict(view)} for name, view in views]
        body = json.dumps({"pipelines": told}, allow_nan=False).encode()
        return Page(HTTPStatus.OK, "application/json", body)

    def _live(self, accept: str) -> Page:
        healths = self._healths()
        return _told(healths, all(health.live for health in healths.values()))

    def _ready(self, accept: str) -> Page:
        healths = self._healths()
        return _told(healths, bool(healths) and all(health.ready for health in healths.values()))

    def _healths(self) -> dict[str, Health]:
        watched = self._watched.items()
        return {name: one.totals.health(self._stalled_after) for name, one in watched if one.health}


def _family(kind: Kind) -> CounterMetricFamily | GaugeMetricFamily:
    """A family without samples; Prometheus adds ``_total`` to the name of a counter."""
    name = f"asyncpc_{kind.name.replace('.', '_')}{'_seconds' if kind.unit == 's' else ''}"
    return (CounterMetricFamily if kind.rises else GaugeMetricFamily)(name, kind.help, labels=kind.labels)


def _told(healths: Mapping[str, Health], is_well: bool) -> Page:
    lines = [f"{name}: {health.why}" for name, health in healths.items()] or ["no pipeline is watched"]
    return text_page(HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE, "\n".join(lines))


def watch_elsewhere(metrics: Metrics, name: str, totals: Watchable) -> None:
    """Show a pipeline that runs in other processes, under that name; once is enough."""
    metrics._watched = {**metrics._watched, name: _Watched(None, totals, health=True)}


def metrics_in(registry: CollectorRegistry = REGISTRY) -> Metrics:
    """The object that reads pipelines for a registry, made if there is none."""
    made = _made[registry]() if registry in _made else None
    return Metrics(registry) if made is None else made
