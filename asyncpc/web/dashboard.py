"""``dashboard``: the page for a web app of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import DefinitionError, StateError
from ..graph.pipeline import Pipeline, accompany, plan_of
from ..run.running import Running, loop_of, plan_followed
from ..wording import shown
from .guard import Guard
from .runs import PipelineRuns

try:
    from .app import Page
except ImportError as _missing:
    raise ImportError("asyncpc.web needs starlette and uvicorn: pip install 'asyncpc[web]'") from _missing

if TYPE_CHECKING:
    from starlette.applications import Starlette

__all__ = ["dashboard", "page_of"]


def dashboard(
    *runs: Pipeline[Any, Any] | Running[Any, Any],
    token: str | None = None,
    hosts: Sequence[str] = (),
    payloads: bool = False,
) -> Starlette:
    """Show pipelines on a page: a Starlette app, to be mounted as in ``app.mount("/pipelines", …)``.

    A pipeline is shown with each of its runs from now on, also one that is under way; a ``Running`` with that run.

    Without ``token`` the page controls nothing, and only this machine can read it. Whoever has the token can pause,
    resume, drain, scale and set rates, and read from other machines. ``hosts`` are the names, besides ``localhost``,
    under which browsers reach the page. Messages of errors may tell of items: they are shown only with ``payloads``.

    A proxy that neither passes on the name that was asked for nor says that it is one makes everybody look local.

    Raises ``DefinitionError`` for anything else than runs, and for a token below 16 characters.
    """
    if not runs:
        raise DefinitionError("dashboard() needs something to show: dashboard(pipeline)")
    return page_of(*runs, token=token, hosts=hosts, payloads=payloads).app()


def page_of(
    *runs: Pipeline[Any, Any] | Running[Any, Any], token: str | None, hosts: Sequence[str], payloads: bool
) -> Page:
    """The same as a page, whose end can be told."""
    guard = Guard(token, hosts)
    found: list[PipelineRuns] = []
    for one in runs:
        found.append(_shown(one, [other.name for other in found]))
    page = Page(lambda: found, guard, payloads=payloads)
    for each in found:
        each.tell(page.feed)
    return page


def _shown(one: Pipeline[Any, Any] | Running[Any, Any], taken: Sequence[str]) -> PipelineRuns:
    if isinstance(one, Pipeline):
        found = PipelineRuns(_free(plan_of(one).name, taken))
        accompany(one, found.beside)
        return found
    if not isinstance(one, Running):
        raise DefinitionError(f"dashboard() takes pipelines and runs, not {shown(one)}")
    loop = loop_of(one)
    if loop is None:
        raise StateError("dashboard() got a run that has not begun: give it the pipeline")
    found = PipelineRuns(_free(plan_followed(one).name, taken))
    found.show(one, loop)
    return found


def _free(name: str, taken: Sequence[str]) -> str:
    """A name of its own on the page."""
    number, own = 1, name
    while own in taken:
        number += 1
        own = f"{name} ({number})"
    return own
