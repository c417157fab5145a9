"""UniPC, order 2, for flow matching: the official sampler of Wan."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num

from wanjax.schedulers.flow import SamplerTable, flow_sigmas

_ORDER = 2


def unipc(num_inference_steps: int, flow_shift: float) -> SamplerTable:
    """UniPC at the model's own noise levels; see `unipc_on`."""
    return unipc_on(*flow_sigmas(num_inference_steps, flow_shift))


def unipc_on(
    sigmas: Float[np.ndarray, " levels"], timesteps: Num[np.ndarray, " levels-1"]
) -> SamplerTable:
    """UniPC-bh2 predictor-corrector (arXiv 2302.04867) of order 2, predicting x0.

    Coefficients as diffusers' `UniPCMultistepScheduler` (solver_type "bh2",
    lower_order_final, final sigma zero); the first and the last step are of order 1.
    """
    s, n = sigmas.astype(np.float64), len(timesteps)
    corrector, predictor = np.zeros((n, 5)), np.zeros((n, 3))
    order = [min(_ORDER, n - i, i + 1) for i in range(n)]
    for i in range(n):
        corrector[i] = _corrector(s, i, order[i - 1]) if i else (1, 0, 0, 0, 0)
        predictor[i] = _predictor(s, i, order[i]) if i < n - 1 else (0, 1, 0)
    return SamplerTable(sigmas, timesteps, corrector, predictor)


def _log_snr(sigma: float) -> float:
    return float(np.log1p(-sigma) - np.log(sigma))


def _corrector(s: Float[np.ndarray, " levels"], i: int, order: int) -> tuple[float, ...]:
    """Weights over (x, x', m, m', m'') which redo step i-1 knowing m, the output at its end."""
    h = _log_snr(s[i]) - _log_snr(s[i - 1])
    alpha, b = 1 - s[i], float(np.expm1(-h))
    if order == 1:
        latest, oldest = 0.5, 0.0
    else:
        r = (_log_snr(s[i - 2]) - _log_snr(s[i - 1])) / h
        k1 = b / -h - 1
        k2 = k1 / -h - 0.5
        rho = np.linalg.solve(np.array([[1, 1], [r, 1]]), np.array([k1 / b, 2 * k2 / b]))
        latest, oldest = float(rho[1]), float(rho[0] / r)
    scale = -alpha * b
    return (0, s[i] / s[i - 1], scale * latest, scale * (1 - latest - oldest), scale * oldest)


def _predictor(s: Float[np.ndarray, " levels"], i: int, order: int) -> tuple[float, ...]:
    """Weights over (x_c, m, m') for the step from sigma i to sigma i+1 > 0."""
    h = _log_snr(s[i + 1]) - _log_snr(s[i])
    scale = -(1 - s[i + 1]) * float(np.expm1(-h))
    slope = 0.0
    if order == 2:
        slope = 0.5 / ((_log_snr(s[i - 1]) - _log_snr(s[i])) / h)
    return (s[i + 1] / s[i], scale * (1 - slope), scale * slope)
