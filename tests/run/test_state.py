"""Where a run is: it only advances (invariant 8)."""

from __future__ import annotations

import pytest
from support import ignore

from asyncpc import Pipeline, StateError, testing
from asyncpc.run.state import ADVANCES, State


def test_states_only_advance() -> None:
    """Invariant 8: the table is a ladder: no state comes again, the ends are final, refusals name both states."""
    order = list(State)
    for state, following in ADVANCES.items():
        assert all(order.index(state) < order.index(one) for one in following)
    assert not ADVANCES[State.CLOSED]
    assert not ADVANCES[State.FAILED]

    async def main() -> None:
        pipeline = Pipeline(ignore)
        async with pipeline as running:
            seen = [running.statistics().state]
            running.put_nowait(1)
            running.stop()
            seen.append(running.statistics().state)
            run = pipeline._run
        seen.append(running.statistics().state)
        assert seen == ["running", "draining", "closed"]
        assert run is not None
        with pytest.raises(StateError, match=r"is closed; it cannot become running"):
            run.start()

    testing.run(main())
