"""The search for a plan of least cost that skips so much, through one phase after another.

A run that is corrected costs what its two ends say, whatever came before: the least cost of
computing a step with so much skipped follows from that of each step before it. Only the run that a
phase ends with is never corrected, and depends on the nodes of its forecast: all combinations of
these are weighed at once. Where nothing is corrected every run depends on the nodes before it, and
the search is one over these.

Costs are never negative: a run that costs more than some whole plan is in no cheapest one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, Int

from wanjax.caching.methods.run_costs import RunCosts

_CHUNK = 2**22  # numbers that are looked at together

History = tuple[int, ...]  # computed steps of a phase, counted from its first, newest first
Row = Float[np.ndarray, " gains"]  # the least cost by what has been skipped; infinite: not at all


@dataclass(frozen=True)
class Limits:
    """What a search keeps to: skips `gain` in all, in runs that cost `bound` at most.

    `earliest[step]` is the first computed step that may come before a computed one, by the step
    after the run; `saved[step]` what skipping all steps before `step` would save.
    """

    gain: int
    bound: float
    order: int
    earliest: Int[np.ndarray, " ends"]
    saved: Int[np.ndarray, " ends"]

    def gained(self, before: np.ndarray | int, after: np.ndarray | int) -> np.ndarray:
        """By skipping all between two computed steps."""
        gained: np.ndarray = np.asarray(self.saved[after] - self.saved[np.asarray(before) + 1])
        return gained


class Ending(NamedTuple):
    """How a phase ends: its last computed steps, newest first, and what it skips in all.

    `gain` is what was skipped before its `nodes`, as the phase counts that.
    """

    nodes: History
    gain: int
    total: int


class Phase(Protocol):
    """Searched from its first step, which computes, with nothing skipped before."""

    @property
    def last(self) -> Row:
        """The least cost of computing the last step."""

    def end(self, rest: Row, gain: int) -> Ending | None:
        """The ending of least cost, if all that comes after costs `rest` by what it skips."""

    def path(self, ending: Ending) -> list[int]:
        """The computed steps that lead to an ending."""


@dataclass
class CorrectedPhase(Phase):
    """`reached[step]` is the least cost of computing it, `came` the computed step before."""

    costs: RunCosts
    limits: Limits
    reached: Float[np.ndarray, "steps gains"] = field(init=False)
    came: Int[np.ndarray, "steps gains"] = field(init=False)

    def __post_init__(self) -> None:
        shape = (self.costs.steps, self.limits.gain + 1)
        self.reached, self.came = np.full(shape, np.inf), np.full(shape, -1)
        self.reached[0, 0] = 0.0
        for after in range(1, self.costs.steps):
            before = self._before(after)
            if not len(before):
                continue
            rows = _shifted(self.reached[before], self.limits.gained(before, after))
            rows += self.costs.corrected[before, after][:, None]
            which = rows.argmin(axis=0)
            self.reached[after] = rows[which, np.arange(len(which))]
            self.came[after] = before[which]

    def _before(self, after: int) -> Int[np.ndarray, " before"]:
        """The computed steps from which a run may reach to one."""
        before = np.arange(self.limits.earliest[after], after)
        found: Int[np.ndarray, " before"] = before[
            self.costs.corrected[before, after] <= self.limits.bound
        ]
        return found

    @property
    def last(self) -> Row:
        row: Row = self.reached[-1]
        return row

    def end(self, rest: Row, gain: int) -> Ending | None:
        best, ending = np.inf, None
        for nodes in self._endings():
            gained = self.limits.gained(nodes[:, 0], self.costs.steps)
            costs = self.costs.endings(nodes)
            for after, before in zip(nodes.T, nodes.T[1:], strict=False):
                gained = gained + self.limits.gained(before, after)
                costs = costs + self.costs.corrected[before, after]
            possible = (gained <= gain) & (costs <= min(self.limits.bound, best))
            nodes, gained, costs = nodes[possible], gained[possible], costs[possible]
            for part in _chunks(len(nodes), len(rest)):
                # what is left to skip is skipped before the oldest node or after this phase
                after = gain - gained[part, None] - np.arange(len(rest))
                rows = np.where(after < 0, np.inf, rest[np.maximum(after, 0)])
                rows += self.reached[nodes[part, -1]]
                before = rows.argmin(axis=1)
                totals = rows[np.arange(len(rows)), before] + costs[part]
                if totals[which := int(totals.argmin())] < best:
                    best = totals[which]
                    own = int(before[which])
                    total = own + int(gained[part][which])
                    ending = Ending(tuple(map(int, nodes[part][which])), own, total)
        return ending

    def _endings(self) -> Iterator[Int[np.ndarray, "batch nodes"]]:
        """The nodes of all forecasts that the phase may end with, by how many they are."""
        last = self.costs.steps - 1
        yield np.array([[last]])  # with no forecast at all
        nodes = np.arange(self.limits.earliest[-1], last)[:, None]
        befores = [self._before(step) for step in range(last)]
        counts = np.array([len(before) for before in befores])
        for _ in range(self.limits.order):
            yield nodes[nodes[:, -1] == 0]  # there is no older one
            nodes = nodes[nodes[:, -1] > 0]
            if not len(nodes):
                return
            older = np.concatenate([befores[step] for step in nodes[:, -1]])
            nodes = np.column_stack([np.repeat(nodes, counts[nodes[:, -1]], axis=0), older])
        yield nodes

    def path(self, ending: Ending) -> list[int]:
        computed, gain = list(ending.nodes), ending.gain
        while computed[-1] > 0:
            after = computed[-1]
            computed.append(int(self.came[after, gain]))
            gain -= int(self.limits.gained(computed[-1], after))
        return computed


class _Reached(NamedTuple):
    """Least cost by gain, and where it comes from: a group of histories, and which of it."""

    cost: Row
    group: Int[np.ndarray, " gains"]
    which: Int[np.ndarray, " gains"]

    @classmethod
    def nowhere(cls, count: int) -> _Reached:
        return cls(np.full(count, np.inf), np.full(count, -1), np.full(count, -1))


@dataclass
class PlainPhase(Phase):
    """Nothing is corrected: each step is reached by histories, from which forecasts start."""

    costs: RunCosts
    limits: Limits
    reached: list[dict[History, _Reached]] = field(init=False)
    groups: list[list[History]] = field(init=False)

    def __post_init__(self) -> None:
        self.reached, self.groups = [{} for _ in range(self.costs.steps + 1)], []
        self.reached[0][(0,)] = _Reached.nowhere(self.limits.gain + 1)
        self.reached[0][(0,)].cost[0] = 0.0
        for step in range(self.costs.steps):
            groups: dict[History, list[History]] = {}
            for history in self.reached[step]:
                groups.setdefault(history[: self.limits.order or 1], []).append(history)
            for group in groups.values():
                self._go_on(group)

    def _go_on(self, group: list[History]) -> None:
        """From a computed step, by histories that differ in the oldest node, to the next one."""
        step, limits = group[0][0], self.limits
        found = np.stack([self.reached[step][history].cost for history in group])
        costs = np.stack([self.costs.forecasts(np.array(history)) for history in group])
        self.groups.append(group)
        for after in range(step + 1, self.costs.steps + 1):
            if limits.earliest[after] > step:
                return
            through = found + costs[:, after - step - 1, None]
            through[through > limits.bound] = np.inf
            which, gained = through.argmin(axis=0), int(limits.gained(step, after))
            least = through[which, np.arange(len(which))][: max(0, len(which) - gained)]
            ended = after == self.costs.steps
            history = () if ended else (after, *group[0][: limits.order])
            target = self.reached[after].get(history)
            known = np.inf if target is None else target.cost[gained:]
            better = np.flatnonzero(least < known)
            if not len(better):
                continue
            if target is None:
                target = self.reached[after][history] = _Reached.nowhere(limits.gain + 1)
            target.cost[better + gained] = least[better]
            target.group[better + gained] = len(self.groups) - 1
            target.which[better + gained] = which[better]

    @property
    def last(self) -> Row:
        rows = [reached.cost for reached in self.reached[-2].values()]
        least: Row = np.min([np.full(self.limits.gain + 1, np.inf), *rows], axis=0)
        return least

    def end(self, rest: Row, gain: int) -> Ending | None:
        if not self.reached[-1]:
            return None
        found = self.reached[-1][()]
        totals = found.cost + rest[gain - np.arange(len(rest))]
        if not np.isfinite(totals).any():
            return None
        total = int(totals.argmin())
        return Ending(*self._before((), self.costs.steps, total), total)

    def _before(self, history: History, step: int, gain: int) -> tuple[History, int]:
        """The history, and the gain, from which one is reached."""
        found = self.reached[step][history]
        before = self.groups[found.group[gain]][found.which[gain]]
        return before, gain - int(self.limits.gained(before[0], step))

    def path(self, ending: Ending) -> list[int]:
        history, gain = ending.nodes, ending.gain
        if len(history) == 1 and history[0] > 0:  # the last step, by whichever history
            last = self.reached[history[0]]
            history = min(last, key=lambda known: last[known].cost[gain])
        computed = [history[0]]
        while computed[-1] > 0:
            history, gain = self._before(history, computed[-1], gain)
            computed.append(history[0])
        return computed


def _shifted(
    rows: Float[np.ndarray, "batch gains"], by: Int[np.ndarray, " batch"]
) -> Float[np.ndarray, "batch gains"]:
    """Rows of costs, where so much more has been gained."""
    at = np.arange(rows.shape[1]) - by[:, None]
    return np.where(at < 0, np.inf, np.take_along_axis(rows, np.maximum(at, 0), axis=1))


def _chunks(count: int, width: int) -> Iterator[slice]:
    size = max(1, _CHUNK // width)
    return (slice(first, first + size) for first in range(0, count, size))
