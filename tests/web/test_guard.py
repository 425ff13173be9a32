"""Who may read the page and who may control a run: each way in that is closed, and each one that is open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import pytest

from asyncpc import DefinitionError
from asyncpc.web.guard import TOKEN_HEADER, Asked, Guard

TOKEN = "0123456789abcdef-token"
LOCAL = "127.0.0.1"
ELSEWHERE = "203.0.113.9"

guard = Guard(TOKEN, ["pipelines.example.com"])


def asked(client: str | None = LOCAL, host: str = "localhost:8000", **more: str) -> Asked:
    """A request; ``_`` in the name of a header stands for ``-``."""
    return Asked(client, {"host": host} | {name.replace("_", "-"): value for name, value in more.items()})


def with_token(client: str | None = LOCAL, host: str = "localhost:8000", token: str = TOKEN, **more: str) -> Asked:
    return asked(client, host, **{TOKEN_HEADER: token}, **more)


def status(refusal: object) -> int | None:
    return None if refusal is None else int(getattr(refusal, "status"))  # noqa: B009


READS: Mapping[str, tuple[Asked, int | None]] = {
    "this machine": (asked(), None),
    "by address": (asked(host="127.0.0.1:8000"), None),
    "by IPv6": (asked("::1", "[::1]:8000"), None),
    "in capitals": (asked(host="LOCALHOST"), None),
    "the page itself": (asked(sec_fetch_site="same-origin"), None),
    "typed": (asked(sec_fetch_site="none"), None),
    "a name that was bound to this address": (asked(host="evil.example:8000"), 421),
    "a name that begins as one of ours": (asked(host="localhost.evil.example"), 421),
    "an address in disguise": (asked(host="127.0.0.1.evil.example"), 421),
    "a name with a user": (asked(host="localhost@evil.example"), 421),
    "no name": (asked(host=""), 421),
    "no port": (asked(host="localhost:evil"), 421),
    "a foreign name with the token": (with_token(host="evil.example"), 421),
    "another site": (asked(sec_fetch_site="cross-site"), 403),
    "another port of this machine": (asked(sec_fetch_site="same-site"), 403),
    "another site with the token": (with_token(sec_fetch_site="cross-site"), 403),
    "another machine": (asked(ELSEWHERE, "192.0.2.1:8000"), 401),
    "another machine that asks for localhost": (asked(ELSEWHERE), 401),
    "another machine by an allowed name": (asked(ELSEWHERE, "pipelines.example.com"), 401),
    "another machine with the token": (with_token(ELSEWHERE, "pipelines.example.com"), None),
    "another machine with a wrong token": (with_token(ELSEWHERE, "192.0.2.1", token=TOKEN[:-1]), 401),
    "another machine with an empty token": (with_token(ELSEWHERE, "192.0.2.1", token=""), 401),
    "another machine with a strange token": (with_token(ELSEWHERE, "192.0.2.1", token="ü€"), 401),
    "a proxy that passes the name on": (asked(LOCAL, "pipelines.example.com"), 401),
    "a proxy that says who asks": (asked(x_forwarded_for=ELSEWHERE), 401),
    "a proxy that says so in the new way": (asked(forwarded=f"for={ELSEWHERE}"), 401),
    "a proxy that says what it is": (asked(via="1.1 proxy"), 401),
    "a proxy that tells the scheme only": (asked(x_forwarded_proto="https"), 401),
    "a proxy of a cloud": (asked(cf_connecting_ip=ELSEWHERE), 401),
    "another site, by a browser that says no more": (asked(origin="https://evil.example"), 403),
    "a frame without an origin": (asked(origin="null"), 403),
    "a socket without address": (asked(None), 401),
}


@pytest.mark.parametrize("case", READS)
def test_who_may_read(case: str) -> None:
    """Figures of a run are for this machine, or for those who have the token; never for a site that a browser shows."""
    request, expected = READS[case]
    assert status(guard.check_read(request)) == expected


CONTROLS: Mapping[str, tuple[Asked, int | None]] = {
    "a program": (with_token(), None),
    "the page": (with_token(origin="http://localhost:8000", sec_fetch_site="same-origin"), None),
    "the page behind TLS": (
        with_token(ELSEWHERE, "pipelines.example.com", origin="https://pipelines.example.com"),
        None,
    ),
    "the page behind TLS, with a port": (
        with_token(ELSEWHERE, "pipelines.example.com:443", origin="https://pipelines.example.com"),
        None,
    ),
    "no token": (asked(), 401),
    "a wrong token": (with_token(token="0123456789abcdef-other"), 401),
    "an empty token": (with_token(token=""), 401),
    "another site": (with_token(origin="https://evil.example"), 403),
    "another port": (with_token(origin="http://localhost:8001"), 403),
    "another name of this machine": (with_token(origin="http://127.0.0.1:8000"), 403),
    "no origin to speak of": (with_token(origin="null"), 403),
    "an empty origin": (with_token(origin=""), 403),
    "a cross-site fetch": (with_token(sec_fetch_site="cross-site"), 403),
    "a fetch of the same site": (with_token(sec_fetch_site="same-site"), 403),
    "a fetch that no page has made": (with_token(sec_fetch_site="none"), 403),
    "a foreign name": (with_token(host="evil.example:8000", origin="http://evil.example:8000"), 421),
}


@pytest.mark.parametrize("case", CONTROLS)
def test_who_may_control(case: str) -> None:
    """A run is stopped only by who has the token, and from the page itself, whatever else a browser has open."""
    request, expected = CONTROLS[case]
    assert status(guard.check_control(request)) == expected


def test_without_a_token_nothing_is_controlled() -> None:
    """A page that was mounted without a token shows, and does nothing; other machines cannot even read it."""
    closed = Guard(None, ["pipelines.example.com"])
    assert not closed.allows_control
    assert closed.check_read(asked()) is None
    assert status(closed.check_control(with_token())) == HTTPStatus.FORBIDDEN
    for token in ("", "None", TOKEN):
        assert status(closed.check_read(with_token(ELSEWHERE, "pipelines.example.com", token=token))) == 401


@pytest.mark.parametrize("token", ["", "short", " " * 3, "ü" * 20, "0123456789abcdef\n"])
def test_a_weak_token_is_refused(token: str) -> None:
    """An empty variable of the environment must not open the door."""
    with pytest.raises(DefinitionError, match="at least 16 printable ASCII characters"):
        Guard(token, [])


def test_one_name_is_not_taken_for_its_letters() -> None:
    """``hosts="a.example"`` would allow ``a``, ``.`` and so on."""
    hosts: Sequence[str] = "pipelines.example.com"
    with pytest.raises(DefinitionError, match="takes several names"):
        Guard(None, hosts)
