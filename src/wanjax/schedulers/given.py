"""A sampler on its own noise levels, or on given ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wanjax.schedulers.euler import euler, euler_on
from wanjax.schedulers.flow import NUM_TRAIN_TIMESTEPS, SamplerTable, shift_sigmas
from wanjax.schedulers.unipc import unipc, unipc_on

SAMPLERS = {"unipc": unipc, "euler": euler}
_ON_LEVELS = {"unipc": unipc_on, "euler": euler_on}


def sampler_table(
    sampler: str,
    num_inference_steps: int,
    flow_shift: float,
    timesteps: Sequence[float] | None = None,
) -> SamplerTable:
    """The steps of a run.

    `timesteps`, from 1000 down, are the levels before `flow_shift` moves them, in place of the
    sampler's own: with 1000, 750, 500, 250 and shift 5 the model is run at 1000, 937.5, 833.3 and
    625, as LightX2V's schedulers of distilled models have it.
    """
    if timesteps is None:
        return SAMPLERS[sampler](num_inference_steps, flow_shift)
    sigmas = shift_sigmas(np.array(timesteps, np.float64) / NUM_TRAIN_TIMESTEPS, flow_shift)
    levels = sigmas.astype(np.float32) * np.float32(NUM_TRAIN_TIMESTEPS)
    if sampler == "unipc":  # log(1 - sigma) stays finite
        sigmas = np.minimum(sigmas, 1 - 1e-6)
    return _ON_LEVELS[sampler](np.append(sigmas, 0.0).astype(np.float32), levels)
