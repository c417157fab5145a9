"""The plan of least error for forecasts, by exact dynamic programming over one matrix.

The errors of neighbouring skipped steps point the same way and add up in the sample, which moves
by (sigma_i - sigma_(i+1)) v_i in step i. So a run of skipped steps between two computed ones costs

    | sum over i of (sigma_i - sigma_(i+1)) (v_i - sum_k w_ik v_(j_k)) |^2  =  a^T G a

with the inner products G of dense runs (`caching.estimates`) and `a` collecting the weights of
all steps involved. Where the run is corrected afterwards, w are the weights of the interpolation.
An early error may grow until the end: each step's move is multiplied by a measured growth, where
there is one. The cost of a run depends on the computed steps before it (the nodes of the
forecast) and, if it is corrected, on the one after it: additive over runs, so dynamic programming
is exact.

With n steps and forecasts from p + 1 nodes it takes O(n^(p+3)) operations, most of them
vectorised: about a tenth of a second for 40 steps and p = 1, a second for 50 and p = 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from wanjax.caching.estimates import Gram, weights_at

History = tuple[int, ...]  # computed steps of one expert, newest first


class Found(NamedTuple):
    """A plan's computed steps, and its cost: the expected squared error that it adds."""

    computed: Bool[np.ndarray, " steps"]
    cost: float


class _Reached(NamedTuple):
    """Least cost by total gain, and where it comes from: (history before, gain before)."""

    cost: Float[np.ndarray, " gains"]
    before: list[tuple[History, int] | None]


@dataclass(frozen=True, eq=False)
class Planner:
    """Plans for every number of skipped steps at once.

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
        """The cheapest plan that skips exactly `gain`; None where there is none."""
        last = self._steps - 1
        ends = {h: r for h, r in self._reached[last].items() if np.isfinite(r.cost[gain])}
        if not ends:
            return None
        history = min(ends, key=lambda h: ends[h].cost[gain])
        cost = float(ends[history].cost[gain])
        computed = np.zeros(self._steps, bool)
        at: tuple[History, int] | None = (history, gain)
        while at is not None:
            (step, *_), left = at
            computed[step] = True
            at = self._reached[step][at[0]].before[left]
        return Found(computed, cost)

    def least(self, gain: int) -> Found:
        """The cheapest of the plans that skip the least, but `gain` (at most `most`) at least."""
        plans = (self.plan(least) for least in range(gain, self.most + 1))
        return next(plan for plan in plans if plan is not None)

    def cost(self, computed: Sequence[bool]) -> float:
        """The cost of a plan of anyone's making, which computes each phase's first step."""
        total = 0.0
        for phase in self.phases:
            history: History = ()
            for i in [*phase, phase.stop]:
                inside = i < phase.stop
                if inside and not computed[i]:
                    continue
                if history and i - history[0] > 1:
                    if inside and self.correct:
                        total += float(self._corrected[history[0], i])
                    else:
                        total += float(self._run_costs(history, phase)[i - history[0] - 1])
                history = (i, *history[: self.order])
        return total

    @property
    def most(self) -> int:
        """The largest gain that any plan has."""
        ends = self._reached[self._steps - 1].values()
        return int(max(np.flatnonzero(np.isfinite(r.cost))[-1] for r in ends))

    @property
    def _steps(self) -> int:
        return len(self.gains)

    @cached_property
    def _reached(self) -> list[dict[History, _Reached]]:
        """By the last computed step, then by the history that later forecasts start from."""
        reached: list[dict[History, _Reached]] = [{} for _ in range(self._steps)]
        reached[0][(0,)] = self._nowhere()
        reached[0][(0,)].cost[0] = 0.0
        for phase in self.phases:
            for step in phase:
                groups: dict[History, list[History]] = {}
                for history in reached[step]:
                    groups.setdefault(history[: self.order or 1], []).append(history)
                for group in groups.values():
                    self._go_on(reached, phase, group)
        return reached

    def _go_on(
        self, reached: list[dict[History, _Reached]], phase: range, group: Sequence[History]
    ) -> None:
        """From a computed step, by histories that differ in the oldest node, to the next one."""
        step, gain = group[0][0], 0
        found = np.stack([reached[step][history].cost for history in group])
        costs = np.stack([self._run_costs(history, phase) for history in group])
        for after in range(step + 1, min(phase.stop, self._steps - 1) + 1):
            inside = after < phase.stop
            following = (after, *group[0][: self.order]) if inside else (after,)
            if inside and self.correct:
                through = found + self._corrected[step, after]
            else:
                through = found + costs[:, after - step - 1, None]
            which = through.argmin(axis=0)
            least = through[which, np.arange(len(which))]
            target = reached[after].setdefault(following, self._nowhere())
            room = len(least) - gain
            better = np.flatnonzero(least[:room] < target.cost[gain:])
            target.cost[better + gain] = least[better]
            for total in better:
                target.before[total + gain] = (group[which[total]], int(total))
            too_long = self.longest is not None and after - step > self.longest
            if not inside or self.forced[after] or too_long:
                break
            gain += int(self.gains[after])

    def _nowhere(self) -> _Reached:
        count = int(self.gains.sum()) + 1
        return _Reached(np.full(count, np.inf), [None] * count)

    def _weights(self, nodes: Sequence[int], steps: range) -> Float[np.ndarray, "nodes run"]:
        return weights_at(
            self.gram if self.fit else None, nodes, np.arange(steps.start, steps.stop)
        )

    def _run_costs(self, history: History, phase: range) -> Float[np.ndarray, " lengths"]:
        """a^T G a of forecasting the next 0, 1, 2, ... steps of the phase."""
        nodes, run = list(history), range(history[0] + 1, phase.stop)
        moves = self.moves[run.start : run.stop]
        given = np.cumsum(moves * self._weights(nodes, run), axis=1)  # to each node
        across = np.cumsum(moves * self.gram[nodes, run.start : run.stop], axis=1)
        among = np.einsum("ar,ab,br->r", given, self.gram[np.ix_(nodes, nodes)], given)
        costs = self._squares(run) - 2 * (given * across).sum(axis=0) + among
        return np.concatenate([[0.0], np.maximum(costs, 0.0)])

    def _squares(self, run: range) -> Float[np.ndarray, " run"]:
        """| sum of moves times outputs |^2 over the first 1, 2, ... steps of a run."""
        moved = self.moves[run.start : run.stop]
        weighted = self.gram[run.start : run.stop, run.start : run.stop] * np.outer(moved, moved)
        return np.cumsum(np.cumsum(weighted, axis=0), axis=1).diagonal()

    @cached_property
    def _corrected(self) -> Float[np.ndarray, "steps steps"]:
        """Cost of interpolating all steps between two computed ones of a phase."""
        costs = np.zeros((self._steps, self._steps))
        for phase in self.phases:
            for before in phase:
                for after in range(before + 2, phase.stop):
                    inside = range(before + 1, after)
                    moves = self.moves[inside.start : inside.stop]
                    a = np.zeros(after + 1 - before)
                    a[1:-1] = moves
                    a[[-1, 0]] -= self._weights((after, before), inside) @ moves
                    used = slice(before, after + 1)
                    costs[before, after] = max(a @ self.gram[used, used] @ a, 0.0)
        return costs
