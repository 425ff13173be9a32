"""A view of a run as JSON has it, and back: what a page tells of a run, and ``asyncpc top`` reads. Pure functions.

Messages of errors may tell of items, so they are left out unless they are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..run.statistics import known, read_stage, read_statistics, stage_as_dict
from ..run.verdict import Held, Verdict
from .extent import Standing
from .failures import FailuresAlike
from .watcher import StageView, View

__all__ = ["as_dict", "view_of"]


def as_dict(view: View, *, payloads: bool = False) -> dict[str, Any]:
    """All that a screen shows of a run, as dictionaries and lists, ready for JSON."""
    run = view.statistics.as_dict()
    stages = [_stage_as_dict(stage, payloads) for stage in view.stages]
    counts = ("produced", "done", "failed", "dropped", "dead_letters")
    return {
        "pipeline": view.pipeline,
        "verdict": view.verdict.text,
        "alarm": view.verdict.is_alarm,
        "silent": None if view.silent == math.inf else view.silent,  # JSON knows no infinity: the loop is closed
        **{name: run[name] for name in ("state", "elapsed", "put", "fed", "ends", "stop_asked")},
        "totals": {name: getattr(view.statistics, name) for name in counts} | {"rate": view.rate},
        "progress": None if view.standing is None else view.standing._asdict() | {"share": view.standing.share},
        "sources": [
            one | {"lag": None if source.remote is None else source.remote.lag}
            for one, source in zip(run["sources"], view.statistics.sources, strict=True)
        ],
        "stages": stages,
        "failures": [one._asdict() if payloads else one._replace(message="")._asdict() for one in view.failures],
    }


def _stage_as_dict(stage: StageView, payloads: bool) -> dict[str, Any]:
    now = stage.now if payloads else stage.now._replace(last_failure="")
    return stage._asdict() | {
        "now": stage_as_dict(now),
        "held": None if stage.held is None else stage.held._asdict(),
        "rates": [*stage.rates],
        "fills": [*stage.fills],
    }


def view_of(told: Mapping[str, Any]) -> View:
    """The opposite of :func:`as_dict` and JSON; fields that are not known here are left out.

    Raises ``KeyError``, ``TypeError``, ``ValueError`` or ``AttributeError`` for anything else.
    """
    progress = told["progress"]
    return View(
        statistics=read_statistics({**told, "stages": [stage["now"] for stage in told["stages"]]}),
        verdict=Verdict(str(told["verdict"]), bool(told["alarm"])),
        silent=math.inf if told["silent"] is None else float(told["silent"]),
        stages=tuple([_stage_of(stage) for stage in told["stages"]]),
        pipeline=str(told["pipeline"]),
        standing=None if progress is None else Standing(**known(Standing, progress)),
        failures=tuple([FailuresAlike(**known(FailuresAlike, one)) for one in told["failures"]]),
    )


def _stage_of(told: Mapping[str, Any]) -> StageView:
    held = told["held"]
    return StageView(**known(StageView, told))._replace(
        now=read_stage(told["now"]),
        held=None if held is None else Held(**known(Held, held)),
        rates=tuple(told["rates"]),
        fills=tuple(told["fills"]),
    )
