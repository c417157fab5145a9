"""A sampler on some of its own noise levels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wanjax.schedulers.euler import euler_on
from wanjax.schedulers.flow import SamplerTable
from wanjax.schedulers.unipc import unipc_on

_ON_GRID = {"unipc": unipc_on, "euler": euler_on}


def respaced(sampler: str, table: SamplerTable, taken: Sequence[bool]) -> SamplerTable:
    """The table for a run that takes some of the steps alone, each going on to the next taken.

    It has a row for every step of `table` still; those of steps that are not taken are zero.
    """
    kept = np.flatnonzero(np.asarray(taken))
    levels = np.append(table.sigmas[kept], table.sigmas[-1])
    rows = _ON_GRID[sampler](levels, table.timesteps[kept])
    corrector, predictor = np.zeros_like(table.corrector), np.zeros_like(table.predictor)
    corrector[kept], predictor[kept] = rows.corrector, rows.predictor
    return SamplerTable(table.sigmas, table.timesteps, corrector, predictor)
