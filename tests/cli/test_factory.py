"""``--set``: a function makes the pipeline, of values that its signature types."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from children import run_child

from asyncpc.cli.main import main

MAKERS = r"""
from __future__ import annotations

import enum, sys
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Optional

from asyncpc import Pipeline, consumer, source

if TYPE_CHECKING:
    from nowhere import Unknown

class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"

@consumer
async def told(value):
    print(*map(repr, value))

def make(
    plain,
    text: str,
    count: int,
    share: float,
    fast: bool,
    folder: Path,
    mode: Literal["new", "old", 3],
    colour: Colour,
    limit: int | None,
    /,
    label: Optional[str] = "none",
    *others: int,
    level: int = 7,
    odd: list[int] = [],
    strange: Unknown = None,
    **more: int,
) -> Pipeline[Any, Any]:
    values = plain, text, count, share, fast, folder, mode, colour, limit, label, others, level, more
    return Pipeline([values], told)

def numbered(n: int, colour: Colour = Colour.RED, mode: Literal["new", 3] = 3, limit: int | None = 1, on: bool = True):
    return Pipeline([(n, colour, mode, limit, on)], told)

def lists(items: list[int], what: Unknown): ...

def nothing(): ...

def fails(url):
    raise ValueError(f"no such thing: {url}")

def leaves():
    sys.exit(3)

async def late(): ...

def several():
    yield

def around(function):
    @wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)
    return inner

wrapped = around(numbered)

class Crawl:
    @classmethod
    def of(cls, n: int):
        return numbered(n)

pipeline = Pipeline([(1,)], told)
"""


@pytest.fixture
def called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """``main`` called where ``makers.py`` lies: its status, stdout and stderr."""
    (tmp_path / "makers.py").write_text(MAKERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(*arguments: str) -> tuple[int, str, str]:
        return main(arguments), *capsys.readouterr()

    yield call
    sys.modules.pop("makers", None)


def given(*settings: str) -> list[str]:
    return [word for one in settings for word in ("--set", one)]


ALL = given(
    *("plain=5", "text=a=b", "count=-3", "share=1e-3", "fast=Yes", "folder=some/where", "mode=3", "colour=BLUE"),
    "limit=",
)


def test_each_value_has_the_type_that_the_signature_says(called: Callable[..., tuple[int, str, str]]) -> None:
    """The function gets what it would get in Python: also by position, with its defaults, and text where it says none.

    What a parameter that is not set is annotated with need not even exist.
    """
    status, out, err = called("run", "makers:make", *ALL)
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == (
        "'5' 'a=b' -3 0.001 True PosixPath('some/where') 3 <Colour.BLUE: 'b'> None 'none' () 7 {}"
    )
    assert " None None () 9 {}" in called("run", "makers:make", *ALL, *given("label=", "level=8", "level=9"))[1]


@pytest.mark.parametrize(
    ("target", "settings", "values"),
    [
        ("numbered", ["n=1"], "1 <Colour.RED: 'r'> 3 1 True"),
        ("numbered", ["n=1", "colour=b", "mode=new", "limit=4", "on=off"], "1 <Colour.BLUE: 'b'> 'new' 4 False"),
        ("wrapped", ["n=2"], "2 <Colour.RED: 'r'> 3 1 True"),
        ("Crawl.of", ["n=3"], "3 <Colour.RED: 'r'> 3 1 True"),
    ],
)
def test_a_choice_is_made_by_name_or_value(
    called: Callable[..., tuple[int, str, str]], target: str, settings: list[str], values: str
) -> None:
    """Whoever types a command knows a member of an enumeration by either; decorated functions and methods make too."""
    status, out, _ = called("run", f"makers:{target}", *given(*settings))
    assert (status, out.splitlines()[0]) == (0, values)


@pytest.mark.parametrize(
    ("target", "settings", "told"),
    [
        ("numbered", [], "'makers:numbered' needs --set n=… (a whole number)"),
        (
            "make",
            ["plain=1", "text=", "count=1", "share=1", "fast=no"],
            "'makers:make' needs --set folder=… (a path), --set mode=… (new or old or 3), "
            "--set colour=… (RED or BLUE), --set limit=… (a whole number, or nothing)",
        ),
        ("numbered", ["n=1", "N=2"], "'makers:numbered' has no parameter 'N'; it has n, colour, mode, limit, on"),
        ("nothing", ["n=1"], "'makers:nothing' has no parameter 'n'; it has none"),
        ("make", ["others=1"], "'makers:make' has no parameter 'others'; it has plain, "),
        ("numbered", ["n=many"], "--set n='many': n of 'makers:numbered' takes a whole number"),
        ("numbered", ["n=redis://me:hunter2@host"], "--set n='redis://me:***@host': n of"),
        ("numbered", ["n=1", "on=maybe"], "on of 'makers:numbered' takes true or false"),
        ("numbered", ["n=1", "colour=green"], "colour of 'makers:numbered' takes RED or BLUE"),
        ("numbered", ["n=1", "mode=4"], "mode of 'makers:numbered' takes new or 3"),
        ("numbered", ["n=1", "limit=none"], "limit of 'makers:numbered' takes a whole number, or nothing"),
        ("lists", ["items=1", "what=1"], "items of 'makers:lists' takes list[int], which --set cannot give"),
        ("lists", ["items=1"], "needs --set what=… ('Unknown', which --set cannot give: let it have a default)"),
        ("nothing", [], "'makers:nothing' returned a NoneType, not a Pipeline; let it return the Pipeline"),
        (
            "fails",
            ["url=ftp://me:hunter2@host"],
            "made no pipeline: ValueError: no such thing: ftp://me:***@host (makers",
        ),
        ("leaves", [], "'makers:leaves' made no pipeline: it called sys.exit(3)"),
        ("late", [], "'makers:late' is an async or generator function; write a plain one that returns a Pipeline"),
        ("several", [], "'makers:several' is an async or generator function"),
        (
            "pipeline",
            ["n=1"],
            "--set is for a function that makes a pipeline, and 'makers:pipeline' is one; leave --set",
        ),
        ("told", ["n=1"], "'makers:told' is a Consumer, not a Pipeline"),
    ],
)
def test_what_cannot_be_made_exits_2_and_says_what_to_write(
    called: Callable[..., tuple[int, str, str]], target: str, settings: list[str], told: str
) -> None:
    """A wrong value costs a look at one line, nothing has run, and no password is shown (fault F7)."""
    status, out, err = called("run", f"makers:{target}", *given(*settings))
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert told in err


@pytest.mark.parametrize("wrong", ["n", "=1", "a b=1", "redis://me:hunter2@host"])
def test_a_setting_has_a_name_and_a_value(called: Callable[..., tuple[int, str, str]], wrong: str) -> None:
    """What is no setting is refused as any other wrong argument."""
    with pytest.raises(SystemExit) as exit_:
        called("run", "makers:numbered", "--set", wrong)
    assert exit_.value.code == 2


def test_show_and_profile_take_settings_too(called: Callable[..., tuple[int, str, str]]) -> None:
    """What can be run can be looked at and measured."""
    status, out, _ = called("show", "makers:numbered", "--set", "n=1")
    assert (status, out.splitlines()[0]) == (0, "source(list) ─► [128] ─► told ×1")
    status, _, err = called("profile", "makers:numbered")
    assert (status, err) == (2, "asyncpc: 'makers:numbered' needs --set n=… (a whole number)\n")


@pytest.mark.realtime
def test_the_traceback_of_the_function_is_one_flag_away(tmp_path: Path) -> None:
    """The line says where it failed, ``--traceback`` how it came there."""
    (tmp_path / "makers.py").write_text(MAKERS)
    ended = run_child(tmp_path, "-m", "asyncpc", "run", "makers:fails", "--set", "url=u", "--traceback")
    assert ended.status == 2
    assert "in fails" in ended.err
