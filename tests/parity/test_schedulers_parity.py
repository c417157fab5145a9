"""Samplers against diffusers' `UniPCMultistepScheduler` and `FlowMatchEulerDiscreteScheduler`.

Writes `tests/reference/schedulers.npz`, which `tests/test_schedulers.py` uses without torch;
to write it again delete the file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

sys.path.append(str(Path(__file__).parents[1]))  # tests/, where the comparison itself lives
from test_schedulers import REFERENCE, SAMPLER_CASES, STEPS, TOLERANCE, trajectory

from wanjax.schedulers import SAMPLERS

pytestmark = pytest.mark.parity


def reference_scheduler(name: str, shift: float):
    if name == "euler":
        return FlowMatchEulerDiscreteScheduler(shift=shift)
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )


def run_reference(name: str, shift: float, steps: int) -> dict[str, np.ndarray]:
    """A trajectory under a velocity that depends on sample and noise level."""
    scheduler = reference_scheduler(name, shift)
    scheduler.set_timesteps(steps)
    x = torch.tensor(np.random.default_rng(steps).normal(size=(1, 6)).astype(np.float32))
    start, samples, velocities = x.numpy(), [], []
    for sigma, timestep in zip(scheduler.sigmas, scheduler.timesteps, strict=False):
        velocity = torch.sin(2 * x) + x.flip(1) * (sigma - 0.4)
        x = scheduler.step(velocity, timestep, x).prev_sample
        velocities.append(velocity.numpy())
        samples.append(x.numpy())
    return {
        "sigmas": scheduler.sigmas.numpy(),
        "timesteps": scheduler.timesteps.numpy(),
        "start": start,
        "velocities": np.stack(velocities),
        "samples": np.stack(samples),
    }


@pytest.fixture(scope="module")
def reference():
    return {
        f"{name}/{shift:g}/{steps}/{key}": value
        for name, shift in SAMPLER_CASES
        for steps in STEPS
        for key, value in run_reference(name, shift, steps).items()
    }


@pytest.mark.parametrize(("name", "shift"), SAMPLER_CASES)
@pytest.mark.parametrize("steps", STEPS)
def test_equals_diffusers(reference, name, shift, steps):
    case = f"{name}/{shift:g}/{steps}/"
    table = SAMPLERS[name](steps, shift)
    np.testing.assert_array_equal(table.sigmas, reference[case + "sigmas"])
    np.testing.assert_array_equal(table.timesteps, reference[case + "timesteps"])
    velocities, expected = reference[case + "velocities"], reference[case + "samples"]
    samples = trajectory(table, reference[case + "start"], lambda i, x: velocities[i])
    assert np.abs(samples - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_stored_reference_is_current(reference):
    if not REFERENCE.exists():
        np.savez_compressed(REFERENCE, **reference)
    with np.load(REFERENCE) as stored:
        assert set(stored.files) == set(reference)
        for name, value in reference.items():
            np.testing.assert_allclose(stored[name], value, rtol=1e-5, atol=1e-6)
