"""Which modules of ``peers`` have implementations for an engine; asyncpc's comes first."""

from __future__ import annotations

MODULES = {
    "sqlite": ("ours", "sqlite"),
    "redis": ("ours", "redis", "redis5"),
    "postgres": ("ours", "postgres"),
    "nats": ("ours", "nats"),
    "rabbitmq": ("ours", "rabbitmq"),
}
