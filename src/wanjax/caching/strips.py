"""Strips: a plan in one character a step."""

from __future__ import annotations

from wanjax.caching.actions import COMPUTE, Action
from wanjax.errors import PlanError

COMPUTED, SKIPPED, PARTIAL, UNDECIDED, SWITCH = "#.+?|"


def read_strip(strip: str, skipped: Action) -> tuple[list[tuple[Action, Action]], int | None]:
    """Each step's (conditional, unconditional) actions, and the step before which `|` stands.

    Spaces do not count. Raises `PlanError` for what is no strip, or is still to be decided.
    """
    marks = "".join(strip.split())
    steps, switch = marks.replace(SWITCH, ""), marks.find(SWITCH)
    actions = {
        COMPUTED: (COMPUTE, COMPUTE),
        SKIPPED: (skipped, skipped),
        PARTIAL: (COMPUTE, skipped),
    }
    unknown = "".join(sorted(set(steps) - set(actions)))
    if unknown:
        undecided = "; ? is decided during a run: give its method instead"
        raise PlanError(
            f"strip {strip!r}: {unknown} is none of # (compute), . (skip), + (compute the "
            f"conditional branch), |{undecided * (UNDECIDED in unknown)}"
        )
    if not steps or marks.count(SWITCH) > 1 or switch in (0, len(steps)):
        raise PlanError(f"strip {strip!r}: give one mark a step, and at most one | between two")
    return [actions[mark] for mark in steps], None if switch < 0 else switch
