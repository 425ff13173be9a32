"""``asyncpc run --metrics``: serves ``/metrics``, ``/live`` and ``/ready`` while a pipeline runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from ..errors import DefinitionError
from ..wording import shown
from .listening import THIS_MACHINE, Address, listening_at, url_of
from .output import print_error

if TYPE_CHECKING:
    from ..metrics import Metrics

__all__ = ["address", "served"]


def address(text: str) -> Address:
    """``HOST:PORT``, or a port alone, which only this machine can reach."""
    host, colon, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 65536) or bool(host) != bool(colon):
        raise argparse.ArgumentTypeError(
            f"{shown(text)} must be HOST:PORT, such as 0.0.0.0:9000 for everybody, or a port alone for this machine"
        )
    return host.strip("[]") or THIS_MACHINE, int(port)


@contextmanager
def served(watch: Callable[[Metrics], None], where: Address | None) -> Iterator[AbstractAsyncContextManager[None]]:
    """What serves the pages while a run is under way, of what ``watch`` says; nothing if ``where`` is None.

    The port is taken at once, so that the run does not begin if it is in use.
    """
    if where is None:
        yield nullcontext()
        return
    try:
        from ..metrics import metrics_in
        from ..watch.http import serving
    except ImportError as error:
        raise DefinitionError("--metrics needs prometheus_client: pip install 'asyncpc[metrics]'") from error
    metrics = metrics_in()
    watch(metrics)
    with listening_at(where, "--metrics") as listening:
        host, port = listening.getsockname()[:2]
        if where[1] == 0:
            print_error(f"asyncpc: {url_of(host, port)}/metrics, /live, /ready")
        yield serving(metrics.pages(), listening)
