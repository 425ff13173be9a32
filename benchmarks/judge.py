"""What ends with status 1: asyncpc slower than required, or slower than it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from .cases import OURS, REQUIRED
from .measure import AGAIN, reference_of
from .peers import ASYNCPC, HAND_WRITTEN

NOISE = 0.05
"""The share by which a ratio may always differ from one run to the next."""

FAST, SLOW, NOT_JUDGED = "fast enough", "too slow", "not judged"

Document = Mapping[str, Any]


# -- what is required ------------------------------------------------------------------------------


def required(document: Document, ratio: float) -> tuple[list[str], bool]:
    """What is told of ``--require``, and whether it is met: something could be judged, and nothing is too slow."""
    verdicts = list(_verdicts(document, ratio))
    told = [f"{verdict}: {why}" for verdict, why in verdicts]
    judged = {verdict for verdict, _ in verdicts} - {NOT_JUDGED}
    if not judged:
        told.append("nothing could be judged; measure again while the machine has less to do, or with more --rounds")
    return told, judged == {FAST}


def _verdicts(document: Document, ratio: float) -> Iterator[tuple[str, str]]:
    for case, (reference, least) in {"throughput": (HAND_WRITTEN.name, ratio), **REQUIRED}.items():
        for line, results in document["cases"].get(case, {}).items():
            where = f"{case} {line}".strip()
            ours = results.get(ASYNCPC.name)
            if ours is None or reference not in ours["ratios"]:
                yield NOT_JUDGED, f"{where}: {reference if ours else ASYNCPC.name} is not there"
            else:
                doubt = deceived(ours["ratios"])
                yield verdict(where, ours["ratios"][reference], reference, least, doubt)


def verdict(where: str, of: Mapping[str, Any], reference: str, least: float, doubt: float = 1.0) -> tuple[str, str]:
    """Judge what is clear: three quarters of the rounds agree, or the limit is as near as the noise that always is.

    ``doubt``: what asyncpc seems to have gained or lost beside itself, and may have beside the reference.
    """
    low, high = of["quartiles"][0] / doubt, of["quartiles"][1] * doubt
    median = of["median"]
    told = f"{where}: {median:.2f} × {reference}; required: {least:g}"
    if low >= least:
        return FAST, told
    if high < least:
        return SLOW, told
    if (high - low) / 2 <= NOISE * median:
        return FAST, f"{told} (within {NOISE:.0%})"
    itself = f"; {_differs_from_itself(doubt)}" if doubt > 1 + NOISE else ""
    return NOT_JUDGED, f"{told}, which is not clear: {low:.2f} to {high:.2f} ×{itself}"


def deceived(ratios: Mapping[str, Any]) -> float:
    """By what factor asyncpc seems to be faster or slower than itself in the same rounds; 1 if nobody knows."""
    itself = float(ratios[AGAIN]["median"]) if AGAIN in ratios else 1.0
    return max(itself, 1 / itself)


# -- what it was before ----------------------------------------------------------------------------


class Comparison(NamedTuple):
    """With other figures."""

    slower: list[str]
    unclear: list[str]
    """Figures that the machine disturbed so much that a loss beyond the noise could hide in them."""
    doubts: list[str]
    """What makes the two hard to compare."""
    figures: int
    """How many were compared."""


def compare(old: Document, new: Document) -> Comparison:
    """With those of an older file.

    Ratios are compared, not times: they hardly depend on the machine. Slower is a median that fell by more than 5 %
    with quartiles that no longer touch. A plain number, such as an exponent, has no ratio and is compared itself.
    """
    doubts = [
        f"{key}: {then} then, {now} now"
        for key in ("machine", "python", "loop", "quick")
        if (then := _known(old, key)) != (now := _known(new, key))
    ]
    before, now = _figures(old["cases"]), _figures(new["cases"])
    measured = {where: of for where, of in before.items() if where[0] in new["cases"]}
    doubts += [f"{_told(where)} is in the older file only" for where in measured if where not in now]
    common = [where for where in now if where in measured]
    if not common:
        doubts.append("the two have nothing in common")
    slower, unclear = [], []
    for where in common:
        then, of = before[where], now[where]
        if not of.reference:
            if of.ratio["quartiles"][0] > then.ratio["quartiles"][1] and _median(of) > _median(then) + NOISE:
                slower.append(f"{_told(where)}: {_median(then):.3f} then, {_median(of):.3f} now")
        elif is_slower(then.ratio, of.ratio, doubt := max(then.doubt, of.doubt)):
            slower.append(f"{_told(where)}: {_median(then):.2f} × {of.reference} then, {_median(of):.2f} × now")
        elif could_be_slower(then.ratio, of.ratio, doubt):
            unclear.append(f"{_told(where)}: {_differs_from_itself(doubt)}")
    return Comparison(slower, unclear, doubts, len(common))


AS_FAST = {"median": 1.0, "quartiles": (1.0, 1.0)}


def compare_with(before: str, document: Document) -> Comparison:
    """With another asyncpc that took part in the same rounds under that name."""
    slower, unclear, count = [], [], 0
    for where, of in _figures(document["cases"], before).items():
        count += 1
        if is_slower(AS_FAST, of.ratio, of.doubt):
            slower.append(f"{_told(where)}: {_median(of):.2f} × as fast as {before}")
        elif could_be_slower(AS_FAST, of.ratio, of.doubt):
            unclear.append(f"{_told(where)}: {_differs_from_itself(of.doubt)}")
    return Comparison(slower, unclear, [] if count else [f"{before} could not be measured"], count)


def is_slower(then: Mapping[str, Any], now: Mapping[str, Any], doubt: float = 1.0) -> bool:
    """By more than the noise, and more than asyncpc seems to differ from itself."""
    apart = now["quartiles"][1] * doubt < then["quartiles"][0]
    return bool(apart and now["median"] * doubt < then["median"] * (1 - NOISE))


def could_be_slower(then: Mapping[str, Any], now: Mapping[str, Any], doubt: float) -> bool:
    """A loss beyond the noise may hide behind what asyncpc seems to differ from itself."""
    return bool(doubt > 1 + NOISE and now["median"] / doubt < then["median"] * (1 - NOISE))


def _known(document: Document, key: str) -> Any:
    """What must be the same; how busy the machine was differs anyway."""
    of = document.get(key)
    return {name: value for name, value in of.items() if name != "load"} if isinstance(of, dict) else of


Where = tuple[str, str, str]
"""Case, line, and the way to use asyncpc."""


class _Figure(NamedTuple):
    """A ratio to a reference; or a plain number, without one."""

    reference: str
    ratio: Mapping[str, Any]
    doubt: float


def _figures(cases: Mapping[str, Any], reference: str | None = None) -> dict[Where, _Figure]:
    """What asyncpc reached beside that reference, or else the first one."""
    figures = {}
    for case, lines in cases.items():
        for line, results in lines.items():
            doubt = deceived(results.get(ASYNCPC.name, {"ratios": {}})["ratios"])
            for name in (ASYNCPC.name,) if reference else OURS:
                result = results.get(name, {"ratios": {}, "unit": "?"})
                if (which := reference or reference_of(result["ratios"])) in result["ratios"]:
                    figures[case, line, name] = _Figure(which, result["ratios"][which], doubt)
                elif not reference and not result["unit"]:
                    figures[case, line, name] = _Figure("", result["value"], 1.0)
    return figures


def _told(where: Where) -> str:
    case, line, name = where
    return f"{case} {line}".strip() + (f" ({name})" if name != ASYNCPC.name else "")


def _median(figure: _Figure) -> float:
    return float(figure.ratio["median"])


def _differs_from_itself(doubt: float) -> str:
    return f"asyncpc seems to differ from itself by a factor of {doubt:.2f}"
