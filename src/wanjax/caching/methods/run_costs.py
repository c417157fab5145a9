"""What runs of skipped steps cost: a^T G a for all runs of a phase at once.

Weights are linear in what they estimate, so that those of a whole run add up to one number for
each node: a run's cost needs sums over it of moves, of moves times the step's index, and of moves
times inner products, never its steps one by one.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from wanjax.caching.estimates import RIDGE, Gram


class RunCosts:
    """Of the runs inside one phase; steps are counted from its first.

    `gram` has the inner products at the phase's steps, `moves` how far each moves the sample.
    `fit`: the weights are fitted to the matrix, else Lagrange's (see `caching.estimates`).
    """

    def __init__(self, gram: Gram, moves: Float[np.ndarray, " steps"], *, fit: bool):
        self.steps = len(moves)
        self._gram, self._moves, self._fit = gram, moves, fit
        self._moved = moves[:, None] * gram  # [step, other]

    @cached_property
    def corrected(self) -> Float[np.ndarray, "before after"]:
        """Of interpolating all steps between two computed ones."""
        before, after = np.triu_indices(self.steps, 1)
        over = np.tril(self._moved, -1).cumsum(axis=0)[after - 1, before]
        across = np.stack([self._under[before + 1, after], over], axis=1)
        costs = np.zeros((self.steps, self.steps))
        nodes = np.stack([after, before], axis=1)
        costs[before, after] = self._costs(before, after, nodes, across)
        return costs

    def endings(self, nodes: Int[np.ndarray, "batch nodes"]) -> Float[np.ndarray, " batch"]:
        """Of forecasting from after the newest node, the first, to the phase's end."""
        before, end = nodes[:, 0], np.full(len(nodes), self.steps)
        across = np.take_along_axis(self._to_end[before + 1], nodes, axis=1)
        return self._costs(before, end, nodes, across)

    def forecasts(self, nodes: Int[np.ndarray, " nodes"]) -> Float[np.ndarray, " lengths"]:
        """Of forecasting the next 0, 1, 2, ... steps, to the phase's end."""
        after = np.arange(nodes[0] + 1, self.steps + 1)
        across = self._moved[nodes[0] + 1 :, nodes].cumsum(axis=0)
        across = np.concatenate([np.zeros((1, len(nodes))), across])
        before = np.full(len(after), nodes[0])
        return self._costs(before, after, np.tile(nodes, (len(after), 1)), across)

    def _costs(
        self,
        before: Int[np.ndarray, " batch"],
        after: Int[np.ndarray, " batch"],
        nodes: Int[np.ndarray, "batch nodes"],
        across: Float[np.ndarray, "batch nodes"],
    ) -> Float[np.ndarray, " batch"]:
        """Of runs between two steps; `across` is what they have in common with each node."""
        given = self._lagrange(nodes - before[:, None], before, after)
        inner = self._gram[nodes[:, :, None], nodes[:, None, :]]
        if self._fit and nodes.shape[1] > 1:
            given = given + _fitting(inner, across, given)
        among = np.einsum("ba,bac,bc->b", given, inner, given)
        costs = self._squares[before, after] - 2 * (given * across).sum(axis=1) + among
        costs[after - before == 1] = 0.0
        positive: Float[np.ndarray, " batch"] = np.maximum(costs, 0.0)
        return positive

    def _lagrange(self, x: Any, before: Any, after: Any) -> Float[np.ndarray, "batch nodes"]:
        """What the run's moves give to each node, by the polynomial through these."""
        sums = self._moments[:, before, after]
        if x.shape[1] == 1:
            return np.array(sums[0][:, None])
        given = np.empty(x.shape)
        for a in range(x.shape[1]):
            b, *more = (x[:, other] for other in range(x.shape[1]) if other != a)
            if more:
                (c,) = more
                over = sums[2] - (b + c) * sums[1] + b * c * sums[0]
                given[:, a] = over / ((x[:, a] - b) * (x[:, a] - c))
            else:
                given[:, a] = (sums[1] - b * sums[0]) / (x[:, a] - b)
        return given

    @cached_property
    def _moments(self) -> Float[np.ndarray, "3 before after"]:
        """Sums of moves over the steps between two, times their distance's powers 0, 1, 2."""
        steps = np.arange(self.steps)
        distance = np.maximum(steps[None] - steps[:, None], 0)  # [before, step]
        moves = np.where(distance > 0, self._moves, 0.0)
        sums = np.stack([moves, moves * distance, moves * distance**2]).cumsum(axis=2)
        return np.concatenate([np.zeros((3, self.steps, 1)), sums], axis=2)

    @cached_property
    def _under(self) -> Float[np.ndarray, "first step"]:
        """What the steps from a first one on have in common with each later one.

        Summed from its end, so that no difference of sums loses digits.
        """
        return np.array(np.triu(self._moved, 1)[::-1].cumsum(axis=0)[::-1])

    @cached_property
    def _to_end(self) -> Float[np.ndarray, "first other"]:
        """What the steps from a first one to the phase's end have in common with each."""
        sums = self._moved[::-1].cumsum(axis=0)[::-1]
        return np.concatenate([sums, np.zeros((1, self.steps))])

    @cached_property
    def _squares(self) -> Float[np.ndarray, "before after"]:
        """| sum of moves times outputs |^2 over the steps between two."""
        own = self._moves**2 * self._gram.diagonal()
        first = np.arange(1, self.steps + 1)
        under = np.concatenate([self._under, np.zeros((1, self.steps))])[first]
        more = np.triu(own + 2 * self._moves * under, 1)  # what each step adds to the run before
        return np.concatenate([np.zeros((self.steps, 1)), more.cumsum(axis=1)], axis=1)


def _fitting(
    inner: Float[np.ndarray, "batch nodes nodes"],
    across: Float[np.ndarray, "batch nodes"],
    given: Float[np.ndarray, "batch nodes"],
) -> Float[np.ndarray, "batch nodes"]:
    """What fitting moves among the nodes; see `estimates.fitted`, of which this is a run's sum."""
    count = given.shape[1]
    ridge = RIDGE * np.trace(inner, axis1=1, axis2=2) / count
    free = inner[:, :, :-1] - inner[:, :, -1:]
    pull = ridge[:, None, None] * (np.eye(count - 1) + 1)
    slope = across[:, :-1] - across[:, -1:] - np.einsum("ba,bac->bc", given, free)
    moved = np.linalg.solve(free[:, :-1] - free[:, -1:] + pull, slope[..., None])[..., 0]
    return np.concatenate([moved, -moved.sum(axis=1, keepdims=True)], axis=1)
