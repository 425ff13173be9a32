"""Where the command serves pages: a port is taken at once, so that a run does not begin if it is in use."""

from __future__ import annotations

import socket
from typing import Final

from ..errors import StateError

__all__ = ["THIS_MACHINE", "Address", "listening_at", "url_of"]

Address = tuple[str, int]

THIS_MACHINE: Final = "127.0.0.1"


def listening_at(where: Address, option: str) -> socket.socket:
    """A socket that listens; raises ``StateError``, which names the option, if that cannot be."""
    try:
        return socket.create_server(where, family=socket.AF_INET6 if ":" in where[0] else socket.AF_INET)
    except OSError as error:
        what = (error.strerror or str(error)).partition(" (while")[0]  # Python repeats the address
        raise StateError(f"{option}: cannot listen at {url_of(*where)}: {what}") from error


def url_of(host: str, port: int) -> str:
    """The address of what is served there."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
