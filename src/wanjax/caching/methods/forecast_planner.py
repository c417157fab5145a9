"""The plan of least error for forecasts, by exact dynamic programming over one matrix.

The errors of neighbouring skipped steps point the same way and add up in the sample, which moves
by (sigma_i - sigma_(i+1)) v_i in step i. So a run of skipped steps between two computed ones costs

    | sum over i of (sigma_i - sigma_(i+1)) (v_i - sum_k w_ik v_(j_k)) |^2  =  a^T G a

with the inner products G of dense runs (`caching.estimates`) and `a` collecting the weights of
all steps involved. Where the run is corrected afterwards, w are the weights of the interpolation.
An early error may grow until the end: each step's move is multiplied by a measured growth, where
there is one. Costs are additive over runs, so dynamic programming is exact (`forecast_search`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from wanjax.caching.estimates import Gram
from wanjax.caching.methods.forecast_search import CorrectedPhase, Ending, Limits, PlainPhase
from wanjax.caching.methods.run_costs import RunCosts

_SHORT = 8  # skipped steps in a row that are tried first


class Found(NamedTuple):
    """A plan's computed steps, and its cost: the expected squared error that it adds."""

    computed: Bool[np.ndarray, " steps"]
    cost: float


@dataclass(frozen=True, eq=False)
class Planner:
    """Plans for every number of skipped steps.

    `gram` has the inner products at the run's own steps; `moves` is how far the sample moves in
    each step per unit of output, times what becomes of it until the end. `order` is the
    forecast's (1 linear, 2 quadratic; 0 repeats), `fit` takes fitted weights instead of
    Lagrange's. `gains` is what skipping each step saves (1, or its guidance branches), `forced`
    the steps that compute besides the first of each phase and the run's last, `longest` the most
    skipped in a row.
    """

    gram: Gram
    moves: Float[np.ndarray, " steps"]
    phases: Sequence[range]
    gains: Int[np.ndarray, " steps"]
    forced: Bool[np.ndarray, " steps"]
    order: int = 1
    correct: bool = True
    fit: bool = True
    longest: int | None = None

    def plan(self, gain: int) -> Found | None:
        """The cheapest plan that skips exactly `gain`; None where there is none.

        Plans of short runs give a bound first: no run of the cheapest plan costs more.
        """
        unit = int(np.gcd.reduce(self.gains))
        if gain > self.most or gain % unit:
            return None
        longest, bound = self._longest, np.inf
        reach = min(_SHORT, longest)
        while reach < longest and self._most(reach) < gain:
            reach = min(2 * reach, longest)
        if reach < longest and (found := self._search(gain, bound, reach)) is not None:
            bound = self.cost(found.tolist()) * (1 + 1e-9)
        found = self._search(gain, bound, longest)
        return None if found is None else Found(found, self.cost(found.tolist()))

    def least(self, gain: int) -> Found:
        """The cheapest of the plans that skip the least, but `gain` (at most `most`) at least."""
        plans = (self.plan(least) for least in range(gain, self.most + 1))
        return next(plan for plan in plans if plan is not None)

    def cost(self, computed: Sequence[bool]) -> float:
        """The cost of a plan of anyone's making, which computes each phase's first step."""
        total = 0.0
        for phase, costs in zip(self.phases, self._costs, strict=True):
            history: tuple[int, ...] = ()  # newest first
            for i in range(len(phase) + 1):
                inside = i < len(phase)
                if inside and not computed[phase.start + i]:
                    continue
                if history and i - history[0] > 1:
                    if inside and self.correct:
                        total += float(costs.corrected[history[0], i])
                    else:
                        nodes = np.array(history)
                        total += float(costs.forecasts(nodes)[i - history[0] - 1])
                history = (i, *history[: self.order])
        return total

    @cached_property
    def most(self) -> int:
        """The largest gain that any plan has."""
        return self._most(self._longest)

    def _most(self, longest: int) -> int:
        """By runs of so many steps at most."""
        most = 0
        for phase, limits in zip(self.phases, self._limits(0, 0.0, longest), strict=True):
            gained = np.zeros(len(phase) + 1, int)  # by the computed step
            for after in range(1, len(gained)):
                before = np.arange(limits.earliest[after], after)
                gained[after] = (gained[before] + limits.gained(before, after)).max()
            most += int(gained[-1 if phase.stop < len(self.gains) else -2])
        return most * int(np.gcd.reduce(self.gains))

    @property
    def _longest(self) -> int:
        return len(self.gains) if self.longest is None else min(self.longest, len(self.gains))

    def _search(self, gain: int, bound: float, longest: int) -> Bool[np.ndarray, " steps"] | None:
        """The computed steps of the cheapest plan within these limits."""
        kind: type[CorrectedPhase | PlainPhase] = CorrectedPhase if self.correct else PlainPhase
        gain //= int(np.gcd.reduce(self.gains))
        limits = self._limits(gain, bound, longest)
        *first, last = (kind(*one) for one in zip(self._costs, limits, strict=True))
        ends: list[Ending] = []
        for one in first:  # there are two experts at most
            ended = one.end(last.last, gain)
            if ended is None:
                return None
            ends, gain = [ended], gain - ended.total
        if not np.isfinite(last.last[gain]):
            return None
        ends.append(Ending((len(self.phases[-1]) - 1,), gain, gain))
        computed = np.zeros(len(self.gains), bool)
        for phase, one, ending in zip(self.phases, [*first, last], ends, strict=True):
            computed[[phase.start + node for node in one.path(ending)]] = True
        return computed

    def _limits(self, gain: int, bound: float, longest: int) -> list[Limits]:
        """Of each phase."""
        found = []
        for phase in self.phases:
            steps = np.arange(len(phase))
            forced = np.where(self.forced[phase.start : phase.stop], steps, 0)
            last_forced = np.concatenate([[0], np.maximum.accumulate(forced)])
            earliest = np.maximum(last_forced, np.arange(len(phase) + 1) - 1 - longest)
            gains = self.gains[phase.start : phase.stop] // np.gcd.reduce(self.gains)
            saved = np.concatenate([[0], np.cumsum(gains)])
            found.append(Limits(gain, bound, self.order, earliest, saved))
        return found

    @cached_property
    def _costs(self) -> list[RunCosts]:
        """Of each phase."""
        found = []
        for phase in self.phases:
            inside = slice(phase.start, phase.stop)
            found.append(RunCosts(self.gram[inside, inside], self.moves[inside], fit=self.fit))
        return found
