"""Noise levels of flow matching, and samplers as tables of coefficients.

A sampler's arithmetic depends on the noise levels alone, so all of it happens here on
the host, in float64. What the device executes is one fixed linear combination per step
(`wanjax.sampling.denoise`), the same for every sampler.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num

NUM_TRAIN_TIMESTEPS = 1000


@dataclass(frozen=True)
class SamplerTable:
    """One row of weights per step, over the state (x, x', m, m', m'').

    x is the sample, m = x - sigma * v the denoised sample that the model output v implies,
    primes mark earlier steps. Step i sets

        x_c    = corrector[i] . (x, x', m, m', m'')
        x_next = predictor[i] . (x_c, m, m')

    and shifts the state: x' = x_c, m'' = m', m' = m.
    """

    sigmas: Float[np.ndarray, " levels"]
    timesteps: Num[np.ndarray, " levels-1"]
    corrector: Float[np.ndarray, "levels-1 5"]
    predictor: Float[np.ndarray, "levels-1 3"]


def shift_sigmas(sigmas: Float[np.ndarray, "*n"], flow_shift: float) -> Float[np.ndarray, "*n"]:
    """`shift * s / (1 + (shift - 1) * s)`: more of the steps at high noise."""
    return flow_shift * sigmas / (1 + (flow_shift - 1) * sigmas)


def flow_sigmas(
    num_inference_steps: int, flow_shift: float
) -> tuple[Float[np.ndarray, " levels"], Num[np.ndarray, " levels-1"]]:
    """Sigmas (float32, from about 1 down to a final 0) and whole timesteps in 0..999.

    An even grid from 1 down to, but without, 1/1000, shifted, as diffusers'
    `UniPCMultistepScheduler` with `use_flow_sigmas` has it.
    """
    u = np.linspace(1.0, 1.0 / NUM_TRAIN_TIMESTEPS, num_inference_steps + 1)[:-1]
    sigmas = shift_sigmas(u, flow_shift)
    if abs(sigmas[0] - 1) < 1e-6:
        sigmas[0] -= 1e-6  # log(1 - sigma) stays finite
    timesteps = (sigmas * NUM_TRAIN_TIMESTEPS).astype(np.int64)
    return np.append(sigmas, 0.0).astype(np.float32), timesteps
