"""Euler steps along the flow."""

from __future__ import annotations

import numpy as np

from wanjax.schedulers.flow import NUM_TRAIN_TIMESTEPS, SamplerTable, shift_sigmas


def euler(num_inference_steps: int, flow_shift: float) -> SamplerTable:
    """`x_next = x + (sigma_next - sigma) * v`.

    Noise levels as diffusers' `FlowMatchEulerDiscreteScheduler`: an even grid from 1 down to
    the shifted 1/1000, shifted (once more), with timesteps that are not whole numbers.
    """
    last = shift_sigmas(np.array([1 / NUM_TRAIN_TIMESTEPS], np.float32), flow_shift)  # as there
    sigmas = shift_sigmas(np.linspace(1, float(last[0]), num_inference_steps), flow_shift)
    corrector = np.zeros((num_inference_steps, 5))
    corrector[:, 0] = 1  # keep x
    s = np.append(sigmas, 0.0)
    predictor = np.zeros((num_inference_steps, 3))
    predictor[:, 0] = s[1:] / s[:-1]  # from v = (x - m) / sigma
    predictor[:, 1] = 1 - s[1:] / s[:-1]
    timesteps = sigmas.astype(np.float32) * np.float32(NUM_TRAIN_TIMESTEPS)
    return SamplerTable(s.astype(np.float32), timesteps, corrector, predictor)
