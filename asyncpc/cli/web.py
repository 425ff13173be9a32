"""``asyncpc run --web``: serves the page from a thread of its own, so that it also tells of a loop that is blocked."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

from ..errors import DefinitionError
from .listening import THIS_MACHINE, listening_at, url_of
from .output import print_error

if TYPE_CHECKING:
    from ..web.app import Page
    from ..web.server import PageServer

__all__ = ["PageTerms", "page_served"]


class PageTerms(NamedTuple):
    """What a page needs to know beside what it shows."""

    token: str
    hosts: tuple[str, ...]
    """The names by which browsers may reach it."""
    payloads: bool


@contextmanager
def page_served(page: Callable[[PageTerms], Page], options: Namespace) -> Iterator[None]:
    """Serve a page, if that was asked for, while the block runs; at its end each client gets the last snapshot."""
    if options.web is None:
        yield
        return
    try:
        from ..web.server import PageServer
    except ImportError as error:
        raise DefinitionError("--web needs starlette and uvicorn: pip install 'asyncpc[web]'") from error
    token = secrets.token_urlsafe(16)
    made = page(PageTerms(token, _names_of(options.web_host), options.web_payloads))
    logging.getLogger("uvicorn").addHandler(logging.NullHandler())  # a broken connection is no news for the user
    with listening_at((options.web_host, options.web), "--web") as listening:
        server = PageServer(made.app())
        thread = Thread(target=_serve, args=(server, listening), name="asyncpc:web", daemon=True)
        thread.start()
        url = url_of(*listening.getsockname()[:2])
        try:
            print_error(f"asyncpc: {url} shows the run; its controls need the token {token}")
            yield
        finally:
            made.end()
            server.end()
            thread.join()


def _names_of(host: str) -> tuple[str, ...]:
    """The names by which browsers may reach what is served there."""
    if host == THIS_MACHINE:
        return ()  # its own name does not lead here, and a name server that does not answer holds up the start
    return host, socket.gethostname(), socket.getfqdn()


def _serve(server: PageServer, listening: socket.socket) -> None:
    asyncio.run(server.serve(sockets=[listening]))
