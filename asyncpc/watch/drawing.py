"""Draws a pipeline as text: a picture for the terminal, or a mermaid flowchart. Pure functions of a plan.

Both pictures follow the paths through a plan as they part and meet: after a stage come its branches, if it has several,
then the stage where they meet; parts that are merged come before the stage where they meet.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce

from ..checks import qualified_name
from ..core.plan import Plan
from ..wording import escaped

__all__ = ["draw", "meetings", "mermaid", "width"]


def draw(plan: Plan, columns: int) -> str:
    """Draw the picture, from left to right if it fits into ``columns``, else from top to bottom, with notes below."""
    across = _Across(plan)
    picture = across.lines if max(across.widths) <= columns else _Down(plan).lines
    notes = list(_notes(plan))
    return "\n".join([*picture, *(["", *notes] if notes else [])])


def mermaid(plan: Plan) -> str:
    """Draw a mermaid flowchart: sources are rounded, queues are cylinders labelled with their bounds."""
    lines = ["flowchart LR"]
    names = [(name, place) for place in plan.entries for name in _sources(plan, place)]
    for number, (name, place) in enumerate(names):
        lines.append(f'    source{number}(["{_entities(name)}"]) --> queue{place}')
    for place, node in enumerate(plan.nodes):
        bound = _queue(plan, place).strip("[]")
        lines.append(f'    queue{place}[("{bound}")] --> stage{place}["{_entities(_stage(plan, place))}"]')
        for label, following in _branches(plan, place):
            text = f'|"{_entities(label)}"|' if label else ""
            lines.append(f"    stage{place} -->{text} queue{following}")
        if node.failures_to is not None:
            lines.append(f'    stage{place} -.->|"failures"| queue{node.failures_to}')
    return "\n".join(lines)


def meetings(plan: Plan) -> list[int]:
    """For each stage, find the next stage that all of its values reach; the number of stages if there is none.

    For a branching that is where its branches meet, for any other stage the one it writes to. (These are the immediate
    post-dominators, as compilers find them: Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm".)
    """
    meeting = [len(plan.nodes)] * len(plan.nodes)
    for place in reversed(range(len(plan.nodes))):  # each before those it writes to
        if following := plan.nodes[place].following:
            meeting[place] = _meet(meeting, following)
    return meeting


def _meet(meeting: Sequence[int], places: Iterable[int]) -> int:
    """The first stage that everything from each of ``places`` reaches."""

    def both(one: int, other: int) -> int:
        while one != other:
            one, other = max(one, other), meeting[min(one, other)]
        return one

    return reduce(both, places)


class _Picture:
    """What both pictures know about a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.meeting = meetings(plan)
        self.lines: list[str] = []

    def parts(self, entries: Sequence[int]) -> tuple[int, list[list[int]]]:
        """The stage where the paths from ``entries`` meet, and the entries of each part before it."""
        join = _meet(self.meeting, entries)
        parts: dict[int, list[int]] = {}
        for entry in entries:
            if entry != join:
                last = entry
                while self.meeting[last] != join:
                    last = self.meeting[last]
                parts.setdefault(last, []).append(entry)
        return join, list(parts.values())


class _Across(_Picture):
    """From left to right; branches and parts are drawn below each other, and meet in a bracket.

    The text grows as on a typewriter: only the last line grows, until a bracket ends the lines above it too.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.widths: list[int] = []
        self.merged(plan.entries, len(plan.nodes))
        for place in _receivers(plan):
            self.lead_on([self.line(_failing(plan, place))])
            self.chain(place, len(plan.nodes))

    def merged(self, entries: Sequence[int], stop: int) -> list[int]:
        """Draw from the sources of ``entries`` to the stage ``stop``; return the lines that lead there."""
        join, parts = self.parts(entries)
        lines = [line for part in parts for line in self.merged(part, join)]
        lines += [self.line(name) for name in _sources(self.plan, join)]
        self.lead_on(lines)
        return self.chain(join, stop)

    def chain(self, place: int, stop: int, indent: str = "") -> list[int]:
        """Draw ``[128] ─► stage ×4 ─► …`` up to the stage ``stop``; return the lines that lead there."""
        while True:
            self.write(f"{_queue(self.plan, place)} ─► ")
            below = indent.ljust(self.widths[-1])
            self.write(_stage(self.plan, place))
            lines, label = [len(self.lines) - 1], ""
            branches, place = _branches(self.plan, place), self.meeting[place]
            if len(branches) == 1:
                [(label, _)] = branches
            elif branches:
                lines = self.branches(branches, place, below)
            if place == stop:
                return lines
            self.lead_on(lines, label)

    def branches(self, branches: list[tuple[str, int]], join: int, indent: str) -> list[int]:
        """Draw the branches up to the stage ``join``; return the lines that lead there."""
        lines: list[int] = []
        for label, first in branches:
            is_last = first == branches[-1][1]
            self.line(indent, "└" if is_last else "├", _arrow(label))
            lines += self.chain(first, join, indent + (" " if is_last else "│"))
        return lines

    def lead_on(self, lines: list[int], label: str = "") -> None:
        """Draw the bracket ``a ─┐`` above ``b ─┴─►``; what the lines lead to comes next, on the last of them."""
        first, last, leads = lines[0], lines[-1], set(lines)
        if first < last:
            column = max(self.widths[first:]) + 2
            for line in range(first, last + 1):
                end = "│" if line not in leads else "┐" if line == first else "┴" if line == last else "┤"
                space = column - self.widths[line] - 1
                self.write(" " + ("─" if line in leads else " ") * space + end, line)
        self.write(_arrow(label) if first < last else f" {_arrow(label)}")

    def line(self, *texts: str) -> int:
        """Begin a new line; return its number."""
        self.lines.append("")
        self.widths.append(0)
        for text in texts:
            self.write(text)
        return len(self.lines) - 1

    def write(self, text: str, line: int = -1) -> None:
        """Write at the end of a line."""
        self.lines[line] += text
        self.widths[line] += width(text)


class _Down(_Picture):
    """From top to bottom, one stage per line below its queue; a line at the left leads along parts and branches."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.lines += self.merged(plan.entries, len(plan.nodes))
        for place in _receivers(plan):
            self.lines += [_failing(plan, place), *self.chain(place, len(plan.nodes))]

    def merged(self, entries: Sequence[int], stop: int) -> list[str]:
        """The lines from the sources of ``entries`` to the stage ``stop``."""
        join, places = self.parts(entries)
        parts = [*(self.merged(part, join) for part in places), *([name] for name in _sources(self.plan, join))]
        if len(parts) == 1:
            return [*parts[0], *self.chain(join, stop)]
        lines: list[str] = []
        for part in parts:
            lines += [f"{'├' if lines else '┌'} {part[0]}", *(f"│ {line}" for line in part[1:])]
        return [*lines, "└─┐", *self.chain(join, stop)]

    def chain(self, place: int, stop: int) -> list[str]:
        """The lines from the stage at ``place`` to the stage ``stop``; branches are indented until they meet."""
        lines: list[str] = []
        while place != stop:
            lines += [f"  ▼ {_queue(self.plan, place)}", _stage(self.plan, place)]
            branches, place = _branches(self.plan, place), self.meeting[place]
            for label, first in branches if len(branches) > 1 else []:
                is_last = first == branches[-1][1]
                lines.append(f"{'└' if is_last else '├'}─{f' {label}' if label else '──┐'}")
                lines += [f"{' ' if is_last else '│'} {line}" for line in self.chain(first, place)]
            if len(branches) == 1 and branches[0][0]:
                lines.append(f"  │ {branches[0][0]}")
        return lines


def _branches(plan: Plan, place: int) -> list[tuple[str, int]]:
    """The label and first stage of each branch; of a stage that does not branch, the stage after it, unlabelled."""
    node = plan.nodes[place]
    labels = node.handler.branches or [""] * len(node.following)
    return [(escaped(label), first) for label, first in zip(labels, node.following, strict=True)]


def _arrow(label: str) -> str:
    return f"─ {label} ─► " if label else "─► "


def _receivers(plan: Plan) -> range:
    """The stages that receive failures."""
    return range(plan.main, len(plan.nodes))


def _failing(plan: Plan, place: int) -> str:
    return f"failures of {', '.join([node.handler.name for node in plan.nodes if node.failures_to == place])}"


def _notes(plan: Plan) -> Iterator[str]:
    """A line for each thing that the picture has no room for."""
    for origin in plan.origins:
        if isinstance(origin.total, int):
            yield f"{origin.name}: {origin.total:,} items"
        if origin.restart is not None:
            times, within = origin.restart.times, origin.restart.within
            yield f"{origin.name}: started again when it raises, at most {times} times in {within:g} s"
    for node in plan.nodes:
        handler = node.handler
        if handler.generates and handler.branches is None:
            yield f"{handler.name}: emits any number of values per item"
        if handler.context is not None:
            yield f"{handler.name}: {escaped(qualified_name(handler.context))} is opened once per worker"
        notes = [words for option in handler.options if (words := option.words())]
        if node.failures_to is not None:
            notes.append(f"what fails goes to {plan.nodes[node.failures_to].handler.name}")
        if notes:
            yield f"{handler.name}: {', '.join(notes)}"


def _sources(plan: Plan, place: int) -> list[str]:
    return [origin.name for origin in plan.origins if origin.into == place] or ([] if plan.origins else ["put()"])


def _stage(plan: Plan, place: int) -> str:
    handler = plan.nodes[place].handler
    return f"{handler.name} ×{handler.concurrency}" if handler.branches is None else handler.name


def _queue(plan: Plan, place: int) -> str:
    return f"[{plan.bound(plan.nodes[place].handler) or '∞'}]"


def width(text: str) -> int:
    """How many columns of a terminal ``text`` takes."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


def _entities(text: str) -> str:
    """``text`` as a quoted mermaid label: what mermaid could interpret becomes a numbered entity."""
    return "".join(c if c.isalnum() or c in " _-.,()×" else f"#{ord(c)};" for c in text)
