"""Who may read the page, and who may control a run.

A page on this machine is open to whoever can use the machine, but not to web sites that its browser shows. So a request
without a token has to come from a loopback address, ask for a loopback name (a foreign name may have been bound to this
address: DNS rebinding), and not come through a proxy. All others need the token to read. A control always needs it, and
the page that sends it must be this one.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Final, NamedTuple

from ..errors import DefinitionError

__all__ = ["TOKEN_HEADER", "Asked", "Guard", "Refusal"]

TOKEN_HEADER: Final = "asyncpc-token"

SHORTEST: Final = 16
"""Characters of a token."""

OF_PROXIES: Final = (
    "forwarded",
    "via",
    "x-forwarded",
    "x-real-ip",
    "x-client-ip",
    "cf-connecting-ip",
    "true-client-ip",
)
"""How the headers begin that say that a request came from elsewhere."""

OWN_SITE: Final = ("same-origin", "none")
"""What a browser says of a request that no other site has caused."""

PORTS: Final = {"http": 80, "https": 443}


class Asked(NamedTuple):
    """What is known of a request."""

    client: str | None
    """The address that it came from."""
    headers: Mapping[str, str]
    """By names in lower case."""


class Refusal(NamedTuple):
    """Why a request gets no answer."""

    status: HTTPStatus
    why: str


class Guard:
    """See the module; without a token there is no control, and only this machine can read."""

    def __init__(self, token: str | None, hosts: Collection[str]) -> None:
        if token is not None and (len(token) < SHORTEST or not token.isascii() or not token.isprintable()):
            raise DefinitionError(
                f"dashboard(token=…) needs at least {SHORTEST} printable ASCII characters, such as "
                "secrets.token_urlsafe(): who has it can stop the run"
            )
        if isinstance(hosts, str):
            raise DefinitionError("dashboard(hosts=…) takes several names: hosts=['pipelines.example.com']")
        self._token = token
        self._hosts = {name.lower() for name in hosts}

    @property
    def allows_control(self) -> bool:
        """Whether anybody can."""
        return self._token is not None

    def check_read(self, asked: Asked) -> Refusal | None:
        """Why these figures are not for whoever asks; None if they are."""
        refused = self.check_host(asked)
        if refused is not None:
            return refused
        is_own = _is_own(asked.headers.get("origin"), asked.headers)  # for a browser that does not say more
        if asked.headers.get("sec-fetch-site", "none") not in OWN_SITE or not is_own:
            return Refusal(HTTPStatus.FORBIDDEN, "another site has sent this request")
        if _is_local(asked) or self._has_token(asked):
            return None
        why = (
            "from other machines, reading needs the token too" if self.allows_control else "only this machine can read"
        )
        return Refusal(HTTPStatus.UNAUTHORIZED, why)

    def check_control(self, asked: Asked) -> Refusal | None:
        """Why a command is refused; None if it is to be carried out."""
        refused = self.check_read(asked)
        if refused is not None:
            return refused
        if asked.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return Refusal(HTTPStatus.FORBIDDEN, "another site has sent this command")
        if not self.allows_control:
            return Refusal(HTTPStatus.FORBIDDEN, "this page has no token, so it controls nothing: dashboard(token=…)")
        if not self._has_token(asked):
            return Refusal(HTTPStatus.UNAUTHORIZED, "this is not the token")
        return None

    def check_host(self, asked: Asked) -> Refusal | None:
        """Why the name that was asked for is none of this page's; None if it is one."""
        name, _ = _name_and_port(asked.headers.get("host", ""))
        if name and (_is_loopback(name) or _is_address(name) or name in self._hosts):
            return None
        return Refusal(HTTPStatus.MISDIRECTED_REQUEST, "this page has another name: allow this one with hosts=[…]")

    def _has_token(self, asked: Asked) -> bool:
        given = asked.headers.get(TOKEN_HEADER, "")
        return self._token is not None and hmac.compare_digest(given.encode(), self._token.encode())


def _is_local(asked: Asked) -> bool:
    """Whether a program on this machine has asked, for this machine."""
    if any(name.startswith(OF_PROXIES) for name in asked.headers):
        return False
    name, _ = _name_and_port(asked.headers.get("host", ""))
    return asked.client is not None and _is_loopback(asked.client) and _is_loopback(name)


def _is_own(origin: str | None, headers: Mapping[str, str]) -> bool:
    """Whether a page of this host and port has sent it, by whatever scheme: a proxy may add TLS.

    Programs that are no browsers do not say.
    """
    if origin is None:
        return True
    scheme, separator, place = origin.partition("://")
    name, port = _name_and_port(place)
    own_name, own_port = _name_and_port(headers.get("host", ""))
    usual = PORTS.get(scheme)
    return bool(separator and name) and (name, port or usual) == (own_name, own_port or usual)


def _name_and_port(host: str) -> tuple[str, int | None]:
    """``[::1]:80`` as ``::1`` and 80; an empty name if it is none."""
    name, colon, port = host.strip().lower().rpartition(":")
    if not colon or host.endswith("]"):
        name, port = host.strip().lower(), ""
    if port and not (port.isascii() and port.isdigit() and len(port) <= 5):
        return "", None
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    elif ":" in name:
        return "", None
    return name, int(port) if port else None


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    """Whether it is an address, which no name server can bind to another one."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
