"""Headers of messages as JSON text, for engines that keep them in a column; most messages have the same ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

__all__ = ["headers_of", "text_of"]


def text_of(headers: Mapping[str, str]) -> str:
    """The headers as text; ``''`` for none."""
    return _text(tuple(headers.items())) if headers else ""


@lru_cache(256)
def _text(headers: tuple[tuple[str, str], ...]) -> str:
    return json.dumps(dict(headers))


@lru_cache(256)
def headers_of(text: str) -> Mapping[str, str]:
    """The headers again; they cannot be changed, as messages share them."""
    return MappingProxyType(json.loads(text) if text else {})
