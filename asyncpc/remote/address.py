"""The URL of a remote queue: which engine carries it, and what messages may show of it."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import cast
from urllib.parse import urlsplit

from ..errors import DefinitionError
from ..wording import redacted, shown
from .broker import Engine

__all__ = ["engine_of", "name_in", "system_of"]

GROUP = "asyncpc.brokers"

SYSTEMS = {"rediss": "redis", "postgres": "postgresql", "tls": "nats", "amqp": "rabbitmq", "amqps": "rabbitmq"}
"""The kind of server behind a scheme that has another name."""


def engine_of(url: object) -> Engine:
    """The engine of a URL's scheme, as its package's entry point names it; for the own ones, this package's.

    Raises ``DefinitionError`` for a scheme that no engine is there for, and for a client that is not installed.
    """
    try:
        scheme = urlsplit(url).scheme if isinstance(url, str) else ""
    except ValueError:  # such as a bracket that is not closed
        raise DefinitionError(f"remote_queue: {redacted(shown(url))} is no URL") from None
    found = [one for one in entry_points(group=GROUP) if one.name == scheme]
    if not found:
        known = ", ".join(sorted({f"{one.name}://" for one in entry_points(group=GROUP)}))
        raise DefinitionError(f"remote_queue: {redacted(shown(url))} names no engine; it has to begin with {known}")
    try:
        return cast(Engine, found[0].load())
    except ImportError as missing:
        raise DefinitionError(
            f"remote_queue: {scheme}:// needs {missing.name or 'its client'}: pip install {_requirement(found[0])}"
        ) from missing


def _requirement(engine: EntryPoint) -> str:
    package = engine.dist.name if engine.dist is not None else "asyncpc"
    return f"'{package}[{engine.extras[0]}]'" if engine.extras else package


def name_in(url: str) -> str:
    """The name of the queue in a URL: that of its query, or the last part of its path, or else its host."""
    parts = urlsplit(url)
    for part in parts.query.split("&"):
        if part.startswith("queue="):
            return part.removeprefix("queue=")
    return parts.path.rpartition("/")[2] or parts.hostname or "queue"


def system_of(url: str) -> str:
    """The kind of server that a URL names: ``redis``, ``rabbitmq``."""
    scheme = urlsplit(url).scheme
    return SYSTEMS.get(scheme, scheme)
