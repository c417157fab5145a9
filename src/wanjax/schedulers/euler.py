"""Euler steps along the flow."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num

from wanjax.schedulers.flow import NUM_TRAIN_TIMESTEPS, SamplerTable, shift_sigmas


def euler(num_inference_steps: int, flow_shift: float) -> SamplerTable:
    """`x_next = x + (sigma_next - sigma) * v`.

    Noise levels as diffusers' `FlowMatchEulerDiscreteScheduler`: an even grid from 1 down to
    the shifted 1/1000, shifted (once more), with timesteps that are not whole numbers.
    """
    last = shift_sigmas(np.array([1 / NUM_TRAIN_TIMESTEPS], np.float32), flow_shift)  # as there
    sigmas = shift_sigmas(np.linspace(1, float(last[0]), num_inference_steps), flow_shift)
    timesteps = sigmas.astype(np.float32) * np.float32(NUM_TRAIN_TIMESTEPS)
    return euler_on(np.append(sigmas, 0.0), timesteps)


def euler_on(
    sigmas: Float[np.ndarray, " levels"], timesteps: Num[np.ndarray, " levels-1"]
) -> SamplerTable:
    """Euler's steps at given noise levels, the last of them 0."""
    s = sigmas.astype(np.float64)
    corrector, predictor = np.zeros((len(timesteps), 5)), np.zeros((len(timesteps), 3))
    corrector[:, 0] = 1  # keep x
    predictor[:, 0] = s[1:] / s[:-1]  # from v = (x - m) / sigma
    predictor[:, 1] = 1 - s[1:] / s[:-1]
    return SamplerTable(s.astype(np.float32), timesteps, corrector, predictor)
