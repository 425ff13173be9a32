"""``asyncpc top URL``: the runs of a process that serves a page, on this terminal, as ``--live`` shows them there."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from ..live import need_rich
from ..watch.foot import FOOT, Row, has_screen
from ..watch.screen import screen
from ..watch.snapshot import view_of
from ..watch.watcher import View
from ..wording import escaped, redacted, shown
from .output import UsageError, print_text

__all__ = ["top"]

EVERY: Final = 0.5
"""Seconds between two questions."""

PATIENCE: Final = 5.0
"""Seconds that an answer may take."""

LONGEST: Final = 16 * 1024 * 1024
"""Bytes of an answer that are read."""

PATH: Final = "/api/snapshot"

VARIABLE: Final = "ASYNCPC_TOKEN"
"""The environment variable for a token, which others could read in the list of processes."""

TOKEN_HEADER: Final = "asyncpc-token"
"""As in ``web.guard``, which needs an extra."""


class _Seen(NamedTuple):
    """What a process tells of a pipeline."""

    name: str
    view: View | None
    """None if it is not running, or runs in other processes."""


def top(url: str, token: str | None = None) -> int:
    """Show the runs until Ctrl-C; without a terminal, print them once.

    ``token`` is that of the page, which other machines need; by default the environment variable ``ASYNCPC_TOKEN``.
    """
    token = os.environ.get(VARIABLE, "") if token is None else token
    if not (token.isascii() and token.isprintable()):
        raise UsageError("top: the token must be printable ASCII characters, as --web printed them")
    url = url if "://" in url else f"http://{url}"
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"top: {shown(url)} must be an http address, such as http://worker:9000")
    if not has_screen():
        for row in _rows(_asked(url, token), 120, 10_000):
            print_text("".join([text for text, _ in row]))
        return 0
    need_rich("asyncpc top")
    shows = _Top(_asked(url, token))  # an address that is wrong is told at once
    FOOT.enter(shows)
    try:
        with suppress(KeyboardInterrupt):
            while True:
                FOOT.draw()
                time.sleep(EVERY)  # this program has no loop and does nothing else; Ctrl-C ends the wait
                shows.ask(url, token)
    finally:
        FOOT.leave(shows, shows.rows(1))
    return 0


class _Top:
    """The rows at the foot of the terminal."""

    def __init__(self, seen: Sequence[_Seen]) -> None:
        self._seen = seen
        self._at = time.monotonic()
        self._trouble = ""

    def ask(self, url: str, token: str) -> None:
        """Ask again; without an answer, keep the last one, and say so."""
        try:
            self._seen = _asked(url, token)
        except UsageError as error:
            self._trouble = str(error)
        else:
            self._at, self._trouble = time.monotonic(), ""

    def rows(self, parts: int) -> list[Row]:
        """What was seen last."""
        columns, lines = FOOT.size()
        rows: list[Row] = []
        if self._trouble:
            silent = time.monotonic() - self._at
            rows.append([(f" no news for {silent:.0f} s, this is the past: {self._trouble}", "bold red")])
        return [*rows, *_rows(self._seen, columns, lines - 1 - len(rows))]


def _rows(seen: Sequence[_Seen], columns: int, lines: int) -> list[Row]:
    rows: list[Row] = []
    for one in seen:
        if one.view is None:
            rows.append([(f" {escaped(one.name)}: no run in this process", "dim")])
        else:
            view = one.view._replace(pipeline=one.name)
            rows += screen(view, columns, max(1, lines // len(seen)), is_named=True)
    return rows or [[(" no pipeline is watched there", "dim")]]


def _asked(url: str, token: str) -> list[_Seen]:
    """What the process tells now; raises ``UsageError`` with what is wrong."""
    where = url.partition("?")[0].rstrip("/").removesuffix("/metrics").removesuffix(PATH) + PATH
    page = redacted(where)
    try:
        question = urllib.request.Request(where)
        if token:
            question.add_unredirected_header(TOKEN_HEADER, token)  # it is for nobody else
        with urllib.request.urlopen(question, timeout=PATIENCE) as answer:
            text = answer.read(LONGEST)
    except urllib.error.HTTPError as error:
        error.close()
        raise UsageError(f"top: {page} answers {error.code}: {_advice(error.code, bool(token))}") from None
    except (ValueError, http.client.InvalidURL):  # the errors repeat the address with its password
        raise UsageError(f"top: {page} must be an address, such as http://worker:9000") from None
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "reason", error)
        raise UsageError(f"top: no answer from {page}: {redacted(str(why)) or type(error).__name__}") from error
    try:
        return [_seen(one) for one in json.loads(text)["pipelines"]]
    except Exception as error:  # a stranger's answer may raise anything, such as RecursionError
        raise UsageError(f"top: what {page} answers is not what asyncpc tells of its runs") from error


def _advice(status: int, has_token: bool) -> str:
    if status == HTTPStatus.UNAUTHORIZED and has_token:
        return "this is not its token; --web printed it when the run began"
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return (
            f"other machines need the token that --web printed: set {VARIABLE} to it, or ask at the port of --metrics"
        )
    return "is that where asyncpc serves its pages?"


def _seen(told: Any) -> _Seen:
    view = None if told["view"] is None else view_of(told["view"])
    if view is not None:
        for lines in (100, 1):  # with all stages, and with those that matter
            screen(view, 200, lines)  # what cannot be drawn is no view either
    return _Seen(str(told["name"]), view)
