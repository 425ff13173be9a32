"""A URL names its engine; a client that is missing names what to install."""

from __future__ import annotations

import ast
import sys
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest

from asyncpc import DefinitionError
from asyncpc.remote.address import GROUP, engine_of, name_in

ENGINES = sorted(entry_points(group=GROUP), key=lambda one: one.name)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda one: one.name)
def test_an_entry_point_leads_to_an_engine(engine: EntryPoint) -> None:
    """Protects against a name that leads nowhere; read from the file, since its client may not be installed."""
    spec = find_spec(engine.module)
    assert spec is not None
    assert spec.origin is not None
    names = [node.name for node in ast.parse(Path(spec.origin).read_text()).body if isinstance(node, ast.ClassDef)]
    assert engine.attr in names


@pytest.mark.parametrize("engine", [one for one in ENGINES if one.extras], ids=lambda one: one.name)
def test_a_missing_client_names_the_extra(engine: EntryPoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects a first hour: the message is the line to type."""
    for client in ("redis", "redis.asyncio", "asyncpg", "nats", "aio_pika", "aiormq", engine.module):
        monkeypatch.setitem(sys.modules, client, None)
    with pytest.raises(DefinitionError, match=rf"pip install 'asyncpc\[{engine.extras[0]}\]'"):
        engine_of(f"{engine.name}://host/jobs")


def test_the_name_of_a_queue_is_in_its_url() -> None:
    """Protects the report: it shows the queue's own name, and no host."""
    assert name_in("sqlite:///a/b.db?queue=jobs") == "jobs"
    assert name_in("redis://user:secret@host:6379/2/orders") == "orders"
    assert name_in("memory://here") == "here"
    assert name_in("postgresql://host/database?sslmode=require&queue=mail") == "mail"
