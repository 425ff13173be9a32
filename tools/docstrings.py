"""Turns the roles and literal blocks of docstrings into Markdown, for the reference pages of the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

ELSEWHERE = {"asyncpc.run": "asyncpc.runner.run"}
"""Where the pages describe a name that is also that of a wing."""

ROLE = re.compile(r":(?:class|data|func|meth|mod):`(~?)\.?([\w.]+)`")


def as_markdown(text: str, public: frozenset[str]) -> str:
    """``text`` with links in place of roles, where a page describes what they name, and with no ``::``."""

    def link(role: re.Match[str]) -> str:
        name = role[2].rpartition(".")[2]
        for path in (f"asyncpc.{role[2]}", f"asyncpc.{name}"):
            if path in public:
                return f"[`{name}`][{ELSEWHERE.get(path, path)}]"
        return f"`{name if role[1] else role[2]}`"

    return re.sub(r"::$", ":", ROLE.sub(link, text), flags=re.MULTILINE).replace("``", "`")


class Docstrings(griffe.Extension):
    """Rewrites the docstrings of the package when it has been read."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """See the class."""
        names = [str(name) for name in pkg.exports or []]
        public = {f"asyncpc.{name}" for name in names}
        for name in names:
            target = pkg.members[name]
            if not target.is_alias or target.resolved:  # type: ignore[union-attr]
                public |= {f"asyncpc.{name}.{member}" for member in target.all_members}
        for each in _objects(pkg):
            if each.docstring is not None:
                each.docstring.value = as_markdown(each.docstring.value, frozenset(public))


def _objects(parent: griffe.Object) -> list[griffe.Object]:
    own = [each for each in parent.members.values() if isinstance(each, griffe.Object)]
    return [parent, *(inner for each in own for inner in _objects(each))]
