"""``nats://host/queue``: what the URL, and the options of the client, say of a server and a queue."""

from __future__ import annotations

import inspect
import os
import re
import ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from nats.aio.client import Client

from ....errors import DefinitionError
from ....wording import shown

__all__ = ["OURS", "read"]

OURS: Final[dict[str, Any]] = {
    "allow_reconnect": False,  # the session does
    "max_reconnect_attempts": 1,  # it knows no fewer
    "reconnect_time_wait": 0,
    "pending_size": 2**30,  # else publish waits for a server that takes nothing, and swallows its cancel
}
"""Options of the client that are the engine's."""

OPTIONS: Final = set(inspect.signature(Client.connect).parameters) - {"self", "error_cb", *OURS}
"""Options of the client that are the user's."""

CREDENTIALS: Final = {"user": "NATS_USER", "password": "NATS_PASSWORD", "token": "NATS_TOKEN"}
"""Where the command ``nats`` too looks for them in the environment."""


def read(url: str, client: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The options of the client, and the name of the queue; raises ``DefinitionError``."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 4222
    except ValueError:  # its text may show a password
        parts, host, port = urlsplit(""), None, 0
    queue = parts.path.removeprefix("/")
    if not host or parts.query or parts.fragment or not re.fullmatch(r"[\w-]+", queue, re.ASCII):
        form = "nats://[user:password@]host[:4222]/queue (or tls://), and a queue of letters, digits, - and _"
        raise DefinitionError(f"remote_queue: expected {form}")
    if unknown := sorted(set(client) - OPTIONS):
        raise DefinitionError(f"remote_queue: nats:// takes no option {shown(unknown[0])}")
    user, password = parts.username, parts.password
    given = {"token": user} if password is None else {"user": user, "password": password}
    given = {name: unquote(value) for name, value in given.items() if value}
    if not given and not {*CREDENTIALS, "user_credentials", "nkeys_seed", "nkeys_seed_str"} & set(client):
        given = {name: os.environ[variable] for name, variable in CREDENTIALS.items() if os.environ.get(variable)}
    options: dict[str, Any] = {"connect_timeout": 5, "ping_interval": 4, "max_outstanding_pings": 2, "name": "asyncpc"}
    address = {"servers": f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"}
    if parts.scheme == "tls" and "tls" not in client:  # the client would read the certificates inside the loop
        options["tls"] = ssl.create_default_context()
    return options | address | given | dict(client), queue
