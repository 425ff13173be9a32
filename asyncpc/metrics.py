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

from .checks import check_name, check_seconds
from .errors import DefinitionError
from .graph.pipeline import Pipeline, accompany, plan_of
from .run.health import Health
from .watch.http import AsgiApp, Page, Pages, asgi_app, text_page
from .watch.snapshot import as_dict
from .watch.totals import Seen, Totals
from .watch.watcher import View
from .wording import shown

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


class _Kind(NamedTuple):
    """A family of metrics."""

    family: type[CounterMetricFamily] | type[GaugeMetricFamily]
    name: str
    """Prometheus adds ``_total`` to that of a counter."""
    help: str
    labels: tuple[str, ...] = ("pipeline", "stage")

    def empty(self) -> CounterMetricFamily | GaugeMetricFamily:
        """The family without samples."""
        return self.family(self.name, self.help, labels=self.labels)


COUNTER: Final = CounterMetricFamily
GAUGE: Final = GaugeMetricFamily
OF_SOURCES: Final = ("pipeline", "source")
KINDS: Final = {
    "produced": _Kind(COUNTER, "asyncpc_items_produced", "Items that came in from a source, or by put().", OF_SOURCES),
    "received": _Kind(COUNTER, "asyncpc_items_received", "Items that the queue of the stage accepted."),
    "done": _Kind(COUNTER, "asyncpc_items_done", "Items handled to their end."),
    "failed": _Kind(COUNTER, "asyncpc_items_failed", "Items that failed for good."),
    "dropped": _Kind(COUNTER, "asyncpc_items_dropped", "Items dropped by a policy."),
    "retried": _Kind(COUNTER, "asyncpc_items_retried", "Calls of the handler after the first one for an item."),
    "held_back": _Kind(
        COUNTER,
        "asyncpc_held_back_seconds",
        "Seconds for which a rate, a breaker or a back-off delayed calls, summed over the calls.",
        ("pipeline", "stage", "cause"),
    ),
    "messages_received": _Kind(
        COUNTER, "asyncpc_messages_received", "Deliveries of messages from the remote queue.", OF_SOURCES
    ),
    "acknowledged": _Kind(
        COUNTER, "asyncpc_messages_acknowledged", "Messages of which all that was made has been handled.", OF_SOURCES
    ),
    "released": _Kind(
        COUNTER, "asyncpc_messages_released", "Messages that were given back, to come again.", OF_SOURCES
    ),
    "overtaken": _Kind(
        COUNTER, "asyncpc_messages_overtaken", "Messages whose lease ran out before their handling ended.", OF_SOURCES
    ),
    "dead_letters": _Kind(
        COUNTER, "asyncpc_dead_letters", "Messages that this process has moved to the dead letters.", OF_SOURCES
    ),
    "reconnects": _Kind(
        COUNTER, "asyncpc_reconnects", "Times that the connection to the remote queue was made again.", OF_SOURCES
    ),
    "ready": _Kind(GAUGE, "asyncpc_queue_ready", "Messages of the remote queue that could be received.", OF_SOURCES),
    "unacknowledged": _Kind(
        GAUGE, "asyncpc_queue_unacknowledged", "Messages of the remote queue that some process is handling.", OF_SOURCES
    ),
    "delayed": _Kind(
        GAUGE, "asyncpc_queue_delayed", "Messages of the remote queue whose time has not come.", OF_SOURCES
    ),
    "dead": _Kind(GAUGE, "asyncpc_queue_dead", "Dead letters of the remote queue.", OF_SOURCES),
    "lag": _Kind(
        GAUGE, "asyncpc_queue_lag_seconds", "Seconds for which the oldest ready message has waited.", OF_SOURCES
    ),
    "queued": _Kind(GAUGE, "asyncpc_items_queued", "Items in the queue of the stage."),
    "in_flight": _Kind(GAUGE, "asyncpc_items_in_flight", "Items that workers of the stage are handling."),
    "workers": _Kind(GAUGE, "asyncpc_workers", "The most calls that the stage makes at once."),
    "maxsize": _Kind(GAUGE, "asyncpc_maxsize", "The most items that the queue of the stage holds; +Inf: any number."),
    "stalled": _Kind(GAUGE, "asyncpc_stalled_seconds", "Seconds for which the stage had work and settled none of it."),
    "running": _Kind(GAUGE, "asyncpc_running", "1 while a run of the pipeline is under way, else 0.", ("pipeline",)),
}
"""The families of metrics, by what they tell."""

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
        if not isinstance(pipeline, Pipeline):
            raise DefinitionError(f"watch() takes a Pipeline, such as numbers >> show, not {shown(pipeline)}")
        if any(one.pipeline is pipeline for one in self._watched.values()):
            return
        plan = plan_of(pipeline)
        name = plan.name if name is None else check_name(name)
        if name in self._watched:
            raise DefinitionError(
                f"another pipeline is watched as {name!r}: give this one a name of its own, watch(pipeline, name='…')"
            )
        totals = Totals(plan)
        self._watched = self._watched | {name: _Watched(pipeline, totals, health)}  # other threads may be reading it
        accompany(pipeline, totals.beside)

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
        return [kind.empty() for kind in KINDS.values()]

    def collect(self) -> Iterable[Metric]:
        """The families with their samples; may be called in any thread.

        In another thread than that of a run it waits up to half a second for that run's loop, then shows what it has
        seen last.
        """
        families = {what: kind.empty() for what, kind in KINDS.items()}
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
