"""Samplers against stored trajectories of diffusers (written by tests/parity), and by theory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wanjax.schedulers import SAMPLERS, respaced, sampler_table

REFERENCE = Path(__file__).parent / "reference" / "schedulers.npz"
SAMPLER_CASES = [(name, shift) for name in SAMPLERS for shift in (1.0, 5.0, 12.0)]
STEPS = (1, 2, 3, 10, 40, 50)
# diffusers takes logarithms and their differences in float32, we in float64
TOLERANCE = 1e-6


def trajectory(table, x, velocity):
    """The samples x_1 ... x_n, by the recurrence that `SamplerTable` states.

    `velocity(i, x)` is the model's output in step i.
    """
    x_before, m_before, m_before_that = np.zeros((3, *np.shape(x)))
    samples = []
    for i, sigma in enumerate(table.sigmas[:-1].astype(np.float64)):
        m = x - sigma * velocity(i, x)
        corrected = np.tensordot(
            table.corrector[i], np.stack([x, x_before, m, m_before, m_before_that]), 1
        )
        x = np.tensordot(table.predictor[i], np.stack([corrected, m, m_before]), 1)
        x_before, m_before, m_before_that = corrected, m, m_before
        samples.append(x)
    return np.stack(samples)


@pytest.mark.parametrize(("name", "shift"), SAMPLER_CASES)
@pytest.mark.parametrize("steps", STEPS)
def test_equals_stored_reference(name, shift, steps):
    with np.load(REFERENCE) as stored:
        case = {
            key: stored[f"{name}/{shift:g}/{steps}/{key}"]
            for key in ("sigmas", "timesteps", "start", "velocities", "samples")
        }
    table = SAMPLERS[name](steps, shift)
    np.testing.assert_array_equal(table.sigmas, case["sigmas"])
    np.testing.assert_array_equal(table.timesteps, case["timesteps"])
    samples = trajectory(table, case["start"], lambda i, x: case["velocities"][i])
    scale = np.abs(case["samples"]).max()
    assert np.abs(samples - case["samples"]).max() <= TOLERANCE * scale


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", STEPS)
def test_a_straight_flow_is_followed_exactly(name, steps):
    """Where the velocity never changes, steps of any size arrive at the same point."""
    noise, data = np.array([0.3, -1.2]), np.array([2.0, 0.5])
    table = SAMPLERS[name](steps, 5.0)
    start = data + float(table.sigmas[0]) * (noise - data)
    final = trajectory(table, start, lambda i, x: noise - data)[-1]
    np.testing.assert_allclose(final, data, rtol=1e-7)  # sigmas are float32


def final_error(name, steps, spread=0.7):
    """Error of the final sample where the data are Gaussian and the exact flow is known.

    With x0 of variance s^2 the sample at sigma has variance v = (1 - sigma)^2 s^2 + sigma^2;
    the flow scales a sample by its root, with velocity x (sigma - (1 - sigma) s^2) / v.
    """
    table = SAMPLERS[name](steps, 3.0)
    sigmas = table.sigmas.astype(np.float64)
    variance = (1 - sigmas) ** 2 * spread**2 + sigmas**2
    rate = (sigmas - (1 - sigmas) * spread**2) / variance
    final = trajectory(table, np.float64(1.0), lambda i, x: rate[i] * x)[-1]
    return abs(final - spread / variance[0] ** 0.5)


def test_order_of_convergence():
    """Euler's error halves with twice the steps, UniPC's falls to a quarter or less."""
    assert final_error("euler", 160) == pytest.approx(final_error("euler", 80) / 2, rel=0.1)
    assert final_error("unipc", 160) < final_error("unipc", 80) / 4
    assert final_error("unipc", 40) < final_error("euler", 40) / 10


def test_boundaries_of_the_official_settings():
    """T2V-A14B's high-noise expert runs 26 of 40 steps, I2V-A14B's 15."""
    for shift, boundary, high in ((12.0, 875, 26), (5.0, 900, 15)):
        assert (SAMPLERS["unipc"](40, shift).timesteps >= boundary).sum() == high


@pytest.mark.parametrize("name", SAMPLERS)
def test_respaced_to_all_of_its_steps_a_sampler_is_itself(name):
    table = SAMPLERS[name](12, 5.0)
    again = respaced(name, table, [True] * 12)
    for field in ("sigmas", "timesteps", "corrector", "predictor"):
        np.testing.assert_allclose(getattr(again, field), getattr(table, field), rtol=1e-5)
    few = respaced(name, table, [i in (0, 3, 4, 11) for i in range(12)])
    assert not few.predictor[[1, 2, 5, 6, 7, 8, 9, 10]].any()
    assert few.predictor[[0, 3, 4, 11]].any(axis=1).all()


def test_given_levels_are_those_of_lightx2vs_four_steps():
    """Its formula, and Euler's step between the levels."""
    shift, given = 5.0, [1000, 750, 500, 250]
    every = np.linspace(1.0, 0.0, 1001)[:-1]
    every = shift * every / (1 + (shift - 1) * every)
    expected = every[[1000 - t for t in given]]
    table = sampler_table("euler", len(given), shift, given)
    np.testing.assert_allclose(table.sigmas, [*expected, 0.0], rtol=1e-6)
    np.testing.assert_allclose(table.timesteps, 1000 * expected, rtol=1e-6)
    sample, velocity = 0.3, -0.7
    for i, (sigma, after) in enumerate(zip(table.sigmas, table.sigmas[1:], strict=False)):
        denoised = sample - sigma * velocity
        taken = table.predictor[i] @ [sample, denoised, 0.0]
        assert taken == pytest.approx(denoised + after * velocity, abs=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_at_its_own_levels_given_to_it(name):
    own = SAMPLERS[name](8, 1.0)
    given = sampler_table(name, 8, 1.0, [1000 * sigma for sigma in own.sigmas[:-1].tolist()])
    np.testing.assert_allclose(given.sigmas, own.sigmas, atol=1e-6)
    np.testing.assert_allclose(given.predictor, own.predictor, rtol=2e-2, atol=1e-5)
    assert np.isfinite(given.corrector).all()
