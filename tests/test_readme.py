"""The README is short, and begins with a program; ``test_docs.py`` runs its programs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_first_screen_has_a_program() -> None:
    """Who opens the page sees code and its output before anything else is asked of them."""
    assert README.index("```python") < README.index("```text") < README.index("python3 -m venv")
    assert README[: README.index("```python")].count("\n") < 8


def test_it_is_short() -> None:
    """Who has read it to the end knows what there is; how it is done stands in the documentation."""
    assert README.count("\n") <= 200


def test_named_tests_exist() -> None:
    """The table of guarantees names tests; they must be there."""
    tests = "".join(path.read_text() + path.name for path in (ROOT / "tests").glob("test_*.py"))
    for name in re.findall(r"`(test_[a-z_0-9.]+)…?`", README):
        assert name in tests
