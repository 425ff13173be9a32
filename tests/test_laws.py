"""The law book (``docs/invariants.md``) and the code agree: each number cited is a law, each law has its test.

A citation is a number with its kind ("invariant 4", "faults A2, A3", "promise 5") or a bare one ("B4", "I7"): in
comments, docstrings and documents, in what a planted fault breaks, and in the names of tests (``test_b4_…``).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import asyncpc

ROOT: Final = Path(__file__).parents[1]
BOOK: Final = ROOT / "docs" / "invariants.md"
FOLDERS: Final = ("asyncpc", "tests", "examples", "benchmarks", "docs", "tools")

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


# -- the law book ---------------------------------------------------------------------------------


class Law(NamedTuple):
    """One entry of the law book."""

    numbers: tuple[str, ...]
    """As they are cited: ``invariant 4``, ``promise 5``, ``B4``."""
    status: str
    """``held``, ``open`` (the test comes with the mend) or ``later`` (there is nothing to test yet)."""
    tests: tuple[str, ...]
    """The tests that hold it; a name that ends in ``…`` is the beginning of several."""


STATUS: Final = re.compile(
    r"^  (?:(Held by)|\*(Open):\*) |\*(?:(Later): comes with [^*]+|(No test): [^*]+)\*", re.MULTILINE
)


def laws_in(text: str) -> list[Law]:
    """The entries of a law book: list items that begin in bold; each says how it stands."""
    return [_law(entry) for entry in re.findall(r"^- (\*\*.+(?:\n  .+)*)", text, re.MULTILINE)]


def _law(entry: str) -> Law:
    head = re.match(r"\*\*(?:(Invariant|Promise) (\d+)\b|([A-H]\d+(?:, [A-H]\d+)*)\. [^*]+\.\*\* \S)", entry)
    standing = STATUS.search(entry)
    assert head, f"it has no number, or does not name the fault in bold: {entry}"
    assert standing, f"it says neither which test holds it nor why none does: {entry}"
    numbers = (f"{head[1].lower()} {head[2]}",) if head[1] else tuple(head[3].split(", "))
    status = {"Held by": "held", "Open": "open"}.get(standing[standing.lastindex or 0], "later")
    return Law(numbers, status, tuple(re.findall(r"`(test_\w+…?)`", entry[standing.start() :])))


_parsed = cache(ast.parse)
"""The same files are read for several reasons."""


def names_of_tests(source: str) -> set[str]:
    """The names of the tests in a module: functions, and methods of its classes."""
    nodes = list(_parsed(source).body)
    nodes += [node for one in nodes if isinstance(one, ast.ClassDef) for node in one.body]
    found = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return {name for name in found if name.startswith("test_")}


def wrong(laws: Iterable[Law], tests: set[str]) -> list[str]:
    """What the law book says of tests that is not so."""
    found = []
    for law in laws:
        there = [name for name in law.tests if _is_named(name, tests)]
        missing = [name for name in law.tests if name not in there]
        if law.status == "held" and (missing or not there):
            found.append(f"{law.numbers}: no such test: {missing or 'none is named'}")
        if law.status == "open" and there:
            found.append(f"{law.numbers}: its test is there: write 'Held by' in place of 'Open'")
        if law.status == "later" and law.tests:
            found.append(f"{law.numbers}: it comes later, and names a test")
    return found


def _is_named(name: str, tests: set[str]) -> bool:
    return any(test.startswith(name[:-1]) for test in tests) if name.endswith("…") else name in tests


# -- who cites it ---------------------------------------------------------------------------------

NUMBER: Final = r"[A-I]?\d{1,2}"
KINDS: Final = "invariant|fault|promise|api|law|rule|program"
"""Those that the law book does not have are here to be found, and refused."""
WITH_KIND: Final = re.compile(rf"\b({KINDS})s? ({NUMBER}(?:(?:, and |, | and | to ){NUMBER})*)\b", re.IGNORECASE)
BARE: Final = re.compile(r"(?<![\w.#-])([A-I]\d{1,2})(?![\w-])")
TEST_NAME: Final = re.compile(r"test_(?:(promise|invariant)_(\d+)|((?:[a-h]\d+_)+))")


def cited_in(text: str) -> set[str]:
    """The numbers that a text cites, as the law book has them."""
    found = {_number(bare, "") for bare in BARE.findall(text)}
    for kind, several in WITH_KIND.findall(text):
        found |= {_number(number, kind.lower()) for number in re.findall(NUMBER, several, re.IGNORECASE)}
    return found


def _number(number: str, kind: str) -> str:
    if number[0] == "I":
        return f"invariant {number[1:]}"
    return number if number[0].isalpha() else f"{kind} {number}"


def cited_by_names(tests: Iterable[str]) -> set[str]:
    """The numbers in the names of tests: ``test_b3_b9_…``, ``test_promise_5_…``."""
    found = set[str]()
    for kind, number, faults in TEST_NAME.findall(" ".join(tests)):
        found |= {f"{kind} {number}"} if kind else set(faults.upper().strip("_").split("_"))
    return found


def told_in(source: str) -> Iterator[str]:
    """What a module tells its readers: comments, docstrings, texts under fields, and what planted faults break."""
    yield from re.findall(r"(?:^|\s)# .*", source)
    for node in ast.walk(_parsed(source)):
        if isinstance(node, ast.Expr):
            yield from _texts([node.value])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Fault", "_fault"):
            yield from _texts([*node.args[1:2], *(one.value for one in node.keywords if one.arg == "breaks")])


def _texts(nodes: Iterable[ast.expr]) -> list[str]:
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


IN_ENVIRONMENT: Final = re.compile(r"/\.venv")
"""That of the benchmarks lies among them, once somebody has run them."""


def citations() -> dict[str, set[str]]:
    """What each file of the project cites."""
    found: dict[str, set[str]] = {}
    files = [
        path for folder in FOLDERS for path in (ROOT / folder).rglob("*.*") if not IN_ENVIRONMENT.search(str(path))
    ]
    for path in (path for path in [*ROOT.glob("*.md"), *files] if path.suffix == ".md"):
        found[str(path)] = cited_in(path.read_text())
    for path in (path for path in files if path.suffix == ".py"):
        source = path.read_text()
        told = "\n\n".join(told_in(source)) if cited_in(source) else ""  # to parse all files takes seconds
        names = names_of_tests(source) if TEST_NAME.search(source) else set[str]()
        found[str(path)] = cited_in(told) | cited_by_names(names)
    return found


def unknown(cited: Mapping[str, set[str]], laws: Iterable[Law]) -> list[str]:
    """Where something is cited that is no law."""
    known = {number for law in laws for number in law.numbers}
    return [f"{where} cites {number}" for where, numbers in cited.items() for number in sorted(numbers - known)]


# -- what users meet ------------------------------------------------------------------------------


def public_texts(modules: Iterable[ast.Module], exported: Iterable[str]) -> dict[str, str]:
    """What ``help`` shows of the exported names, and the texts under their fields; of inherited members too."""
    defined: dict[str, list[Definition]] = {}
    for node in (node for module in modules for node in module.body if isinstance(node, Definition)):
        defined.setdefault(node.name, []).append(node)
    pending, found = list(exported), dict[str, str]()
    while pending:
        name = pending.pop()
        for node in defined.pop(name, []):
            found |= _shown(name, node)
            if isinstance(node, ast.ClassDef):
                pending += [one.id for base in node.bases for one in ast.walk(base) if isinstance(one, ast.Name)]
    return found


def _shown(name: str, node: Definition) -> dict[str, str]:
    found = {name: "\n\n".join(_texts([one.value for one in node.body if isinstance(one, ast.Expr)]))}
    if isinstance(node, ast.ClassDef):
        for one in node.body:
            if isinstance(one, Definition) and (not one.name.startswith("_") or one.name.endswith("__")):
                found |= _shown(f"{name}.{one.name}", one)
    return found


def messages_in(module: ast.Module) -> list[str]:
    """Every string that does not stand alone: of errors, notes and log lines, and what the command line prints."""
    alone = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
    return _texts([node for node in ast.walk(module) if isinstance(node, ast.Constant) and id(node) not in alone])


def package() -> list[ast.Module]:
    return [_parsed(path.read_text()) for path in sorted((ROOT / "asyncpc").rglob("*.py"))]


# -- the tests ------------------------------------------------------------------------------------

SAMPLE = """
- **Invariant 4: conservation.** What came in
  came out. Held by nobody is no status.
  Held by `test_books`, `test_b3_…`.
- **B5, B6. A cancel.** It ends.
  *Open:* `test_b5_…`.
- **E1. A reply.** It is read. *Later: comes with queues.*
"""


def test_every_law_names_a_test_that_exists() -> None:
    """A law that no test holds is a wish; one whose test is gone, or has come, must say so."""
    laws = laws_in(SAMPLE)
    assert laws == [
        Law(("invariant 4",), "held", ("test_books", "test_b3_…")),
        Law(("B5", "B6"), "open", ("test_b5_…",)),
        Law(("E1",), "later", ()),
    ]
    assert wrong(laws, names_of_tests("def test_books(): ...\nclass A:\n    async def test_b3_x(self): ...")) == []
    assert names_of_tests("def other():\n    def test_books(): ...") == set()
    assert len(wrong(laws, {"test_b5_y"})) == 2
    modules = [*(ROOT / "tests").rglob("test_*.py"), ROOT / "asyncpc" / "remote" / "contract.py"]
    tests = {name for path in modules for name in names_of_tests(path.read_text())}
    assert wrong(laws_in(BOOK.read_text()), tests) == []


def test_every_law_has_one_number() -> None:
    """A number that stands for two laws stands for none; and each kind of law is in the book."""
    numbers = [number for law in laws_in(BOOK.read_text()) for number in law.numbers]
    assert len(numbers) == len(set(numbers))
    assert [number for number in numbers if number.startswith("invariant")] == [f"invariant {n}" for n in range(1, 11)]
    assert [number for number in numbers if number.startswith("promise")] == [f"promise {n}" for n in range(1, 9)]
    assert {number[0] for number in numbers if number[0].isupper()} == set("ABCDEFH")


def test_what_a_text_cites() -> None:
    """Protects the search for citations, in all the ways in which people cite: an empty search proves nothing."""
    assert cited_in("faults A5 to A7, promise 5 and invariants 1, 2 and 10") == {
        *("A5", "A7", "promise 5", "invariant 1", "invariant 2", "invariant 10")
    }
    assert cited_in("Fault B4; then (B9, C11), I7. Api 7, program 3") == {
        *("B4", "B9", "C11", "invariant 7", "api 7", "program 3")
    }
    assert cited_in("UTF8, B-4, 4 items, D100, E5-2680, #F7, x.A1, an invariant, 2 faults") == set()
    assert cited_by_names(["test_b3_b9_x", "test_promise_5_x", "test_invariant_4", "test_a_b2_x"]) == {
        *("B3", "B9", "promise 5", "invariant 4")
    }
    module = 'def a():\n    "A1"\n    x = "A2"  # A3\n_fault("n", "I4", x)\nFault("A5", breaks="A6")\nx: int\n"A7"'
    assert cited_in("\n".join(told_in(module))) == {"A1", "A3", "invariant 4", "A6", "A7"}


def test_every_number_that_is_cited_is_a_law() -> None:
    """Who meets "fault B4" in a comment finds out in the law book what that is."""
    laws = laws_in(BOOK.read_text())
    assert unknown({"here": {"invariant 4", "B2", "promise 9"}}, laws) == ["here cites B2", "here cites promise 9"]
    cited = citations()
    assert unknown(cited, laws) == []
    assert {"A1", "B4", "invariant 2", "promise 5"} <= set().union(*cited.values())


def test_public_docstrings_cite_no_law() -> None:
    """Users read ``help``, not the law book: what they are promised is said there in words."""
    sample = """
class Base:
    "Fault A1."
    def met(self): "Invariant 2."
    def _not(self): "Fault A3."
class Shown(Base[int]):
    field: int
    "Fault A4."
    async def __call__(self): "Fault A5."
def _not(): "Fault A6."
def shown(): "Promise 7."
"""
    texts = public_texts([ast.parse(sample)], ["Shown", "shown"])
    assert cited_in("\n\n".join(texts.values())) == {"A1", "invariant 2", "A4", "A5", "promise 7"}
    shown = public_texts(package(), asyncpc.__all__)
    assert {"BoundedQueue.put", "Running.drain", "Retry", "consumer"} <= set(shown)
    assert {name: cited for name, text in shown.items() if (cited := cited_in(text))} == {}
    assert cited_in(asyncpc.__doc__ or "") == set()


def test_messages_cite_no_law() -> None:
    """An error, a note or a log line tells a user what to do in words, not by the number of a law."""
    sample = '"Fault A1."\ndef f(n):\n    "A2"\n    log.error("fault A3")\n    raise ValueError(f"invariant 4: {n!r}")'
    assert cited_in("\n\n".join(messages_in(ast.parse(sample)))) == {"A3", "invariant 4"}
    messages = [text for module in package() for text in messages_in(module)]
    assert len(messages) > 500
    assert [text for text in messages if cited_in(text)] == []
