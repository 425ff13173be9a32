"""What monitoring systems are told of a pipeline: the one list that Prometheus and OpenTelemetry get."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["KINDS", "Kind"]


class Kind(NamedTuple):
    """A family of figures."""

    rises: bool
    """Whether it counts; else it tells what is so now."""
    name: str
    """Its parts are separated by dots."""
    unit: str
    """As OpenTelemetry writes it: ``s``, ``{item}``."""
    help: str
    labels: tuple[str, ...] = ("pipeline", "stage")


OF_SOURCES: Final = ("pipeline", "source")

KINDS: Final = {
    "produced": Kind(True, "items.produced", "{item}", "Items that came in from a source, or by put().", OF_SOURCES),
    "received": Kind(True, "items.received", "{item}", "Items that the queue of the stage accepted."),
    "done": Kind(True, "items.done", "{item}", "Items handled to their end."),
    "failed": Kind(True, "items.failed", "{item}", "Items that failed for good."),
    "dropped": Kind(True, "items.dropped", "{item}", "Items dropped by a policy."),
    "retried": Kind(True, "items.retried", "{item}", "Calls of the handler after the first one for an item."),
    "held_back": Kind(
        True,
        "held_back",
        "s",
        "Seconds for which a rate, a breaker or a back-off delayed calls, summed over the calls.",
        ("pipeline", "stage", "cause"),
    ),
    "messages_received": Kind(
        True, "messages.received", "{message}", "Deliveries of messages from the remote queue.", OF_SOURCES
    ),
    "acknowledged": Kind(
        True, "messages.acknowledged", "{message}", "Messages of which all that was made has been handled.", OF_SOURCES
    ),
    "released": Kind(
        True, "messages.released", "{message}", "Messages that were given back, to come again.", OF_SOURCES
    ),
    "overtaken": Kind(
        True, "messages.overtaken", "{message}", "Messages whose lease ran out before their handling ended.", OF_SOURCES
    ),
    "dead_letters": Kind(
        True, "dead_letters", "{message}", "Messages that this process has moved to the dead letters.", OF_SOURCES
    ),
    "reconnects": Kind(
        True, "reconnects", "{connection}", "Times that the connection to the remote queue was made again.", OF_SOURCES
    ),
    "ready": Kind(
        False, "queue.ready", "{message}", "Messages of the remote queue that could be received.", OF_SOURCES
    ),
    "unacknowledged": Kind(
        False,
        "queue.unacknowledged",
        "{message}",
        "Messages of the remote queue that some process is handling.",
        OF_SOURCES,
    ),
    "delayed": Kind(
        False, "queue.delayed", "{message}", "Messages of the remote queue whose time has not come.", OF_SOURCES
    ),
    "dead": Kind(False, "queue.dead", "{message}", "Dead letters of the remote queue.", OF_SOURCES),
    "lag": Kind(False, "queue.lag", "s", "Seconds for which the oldest ready message has waited.", OF_SOURCES),
    "queued": Kind(False, "items.queued", "{item}", "Items in the queue of the stage."),
    "in_flight": Kind(False, "items.in_flight", "{item}", "Items that workers of the stage are handling."),
    "workers": Kind(False, "workers", "{worker}", "The most calls that the stage makes at once."),
    "maxsize": Kind(False, "maxsize", "{item}", "The most items that the queue of the stage holds; +Inf: any number."),
    "stalled": Kind(False, "stalled", "s", "Seconds for which the stage had work and settled none of it."),
    "running": Kind(False, "running", "1", "1 while a run of the pipeline is under way, else 0.", ("pipeline",)),
}
"""The families, by what they tell (``totals.Figures``)."""
