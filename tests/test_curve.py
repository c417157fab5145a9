"""Curves: files, lists, resampling, and whether one fits a run."""

import dataclasses
import json

import numpy as np
import pytest

from wanjax.caching import Curve, CurveError, MagCache, check_fit, ratios_for, shipped_curves
from wanjax.caching.resample import angles_for
from wanjax.planning.plans import make_schedule

T2V = "wan2.2-t2v-a14b"


def t2v_schedule(steps=40, flow_shift=12.0, boundary_ratio=0.875):
    return make_schedule(steps, flow_shift, 4.0, 3.0, boundary_ratio)


@pytest.mark.parametrize("name", shipped_curves())
def test_shipped_curves(name):
    curve = Curve.load(name)
    schedule = make_schedule(
        curve.steps, curve.flow_shift, 5.0, boundary_ratio=curve.boundary_ratio
    )
    np.testing.assert_allclose(curve.sigmas, schedule.sigmas, atol=1e-6)
    assert curve.boundary_step == schedule.boundary_step
    assert curve.source
    assert curve.notes
    for resample in ("noise_level", "nearest"):
        assert check_fit(curve, schedule, resample) == ()
        np.testing.assert_array_equal(ratios_for(curve, schedule, resample), curve.ratios)


def test_published_values():
    """First, boundary and last pairs as published."""
    ratios = Curve.load(T2V).ratios
    np.testing.assert_array_equal(ratios[[0, 1, 26, 39]], [
        (1, 1), (1.00124, 1.00155), (0.65523, 0.65252), (0.80263, 0.80181),
    ])  # fmt: skip


def test_round_trip(tmp_path):
    curve = Curve.load(T2V)
    path = tmp_path / "curve.json"
    curve.save(path)
    assert path.read_text() == (json_text := path.read_text())
    again = Curve.load(path)
    again.save(path)
    assert path.read_text() == json_text
    np.testing.assert_array_equal(again.ratios, curve.ratios)
    assert list(tmp_path.iterdir()) == [path]


def test_lists_with_and_without_the_first_pair():
    padded = Curve.from_list([1.0, 1.0, 0.9, 0.8])
    bare = Curve.from_list([0.9, 0.8])
    np.testing.assert_array_equal(padded.ratios, bare.ratios)
    assert padded.steps == 2


@pytest.mark.parametrize("values", [[], [1.0, 1.0, 0.9], [1.0, float("nan")], [1.0, 0.0], [1, -1]])
def test_bad_lists(values):
    with pytest.raises(CurveError):
        Curve.from_list(values)


def broken(tmp_path, **changes):
    path = tmp_path / "broken.json"
    Curve.load(T2V).save(path)
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v != "absent"}))
    return path


NAN_PAIR = [[1, 1]] * 39 + [[1, float("nan")]]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"format": "other"}, "format must be"),
        ({"version": 2}, "version 2 is not known"),
        ({"version": "absent"}, "version None"),
        ({"ratios": NAN_PAIR}, "ratios holds a value that is not finite"),
        ({"ratios": [[1, 1]] * 39 + [[1, 0]]}, "ratios must be positive; step 39"),
        ({"ratios": [[1, 1]] * 39 + [[-1, 1]]}, "ratios must be positive"),
        ({"ratios": [[1, 1]] * 39}, "ratios must be a list of steps=40 pairs"),
        ({"ratios": [[1, 1, 1]] * 40}, "ratios must be a pair per step"),
        ({"ratios": [[1, 1]] * 39 + [[1]]}, "ratios must be numbers"),
        ({"ratios": [[0.9, 1]] + [[1, 1]] * 39}, "ratios must start with"),
        ({"ratios": "absent"}, "ratios is missing"),
        ({"sigmas": None}, "sigmas is missing"),
        ({"sigmas": [1, 0]}, "sigmas must be 41 numbers"),
        ({"sigmas": [0.5] * 40 + [0]}, "sigmas must fall"),
        ({"boundary_step": None}, "boundary_step and boundary_ratio belong together"),
        ({"boundary_step": 40}, "boundary_step must lie in 1..39"),
        ({"boundary_step": "26"}, "boundary_step must be int"),
        ({"model": 3}, "model must be str"),
        ({"spread": [[0, 0]]}, "spread must be 40 pairs"),
        ({"prompts": "one"}, "prompts must be list"),
        ({"colour": 1}, "unknown field colour"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_broken_files_name_file_and_field(tmp_path, changes, text):
    path = broken(tmp_path, **changes)
    with pytest.raises(CurveError, match=text) as caught:
        Curve.load(path)
    assert str(path) in str(caught.value)


def test_truncated_missing_and_foreign_files(tmp_path):
    path = tmp_path / "curve.json"
    with pytest.raises(CurveError, match="cannot be read"):
        Curve.load(path)
    Curve.load(T2V).save(path)
    path.write_text(path.read_text()[:500])
    with pytest.raises(CurveError, match="truncated"):
        Curve.load(path)
    path.write_text("[1, 2]")
    with pytest.raises(CurveError, match="format"):
        Curve.load(path)


def test_noise_level_keeps_the_magnitude_function():
    """At 20 steps every second noise level recurs: the ratios are products of two."""
    curve = Curve.load("wan2.1-t2v-14b")
    ratios = ratios_for(curve, make_schedule(25, 5.0, 5.0))
    np.testing.assert_allclose(
        ratios[1:], curve.ratios[1:-1:2] * curve.ratios[2::2], rtol=0, atol=1e-6
    )


def test_noise_level_leaves_the_boundary_pair_out():
    """The ratio at the switch compares two networks and must not leak into the phases."""
    curve = Curve.load(T2V)
    for steps in (13, 20, 30, 50, 77):
        schedule = t2v_schedule(steps)
        ratios = ratios_for(curve, schedule)
        high = ratios[: schedule.boundary_step]
        assert high.min() > 0.9
        np.testing.assert_array_equal(ratios[schedule.boundary_step], (1, 1))


def test_noise_level_is_additive():
    """A step split in two multiplies back to the whole, within interpolation."""
    curve = Curve.load("wan2.1-t2v-14b")
    coarse = ratios_for(curve, make_schedule(25, 5.0, 5.0))
    fine = ratios_for(curve, make_schedule(100, 5.0, 5.0))
    product = fine[1:97].reshape(24, 4, 2).prod(axis=1)
    np.testing.assert_allclose(product, coarse[1:], atol=1e-6)


def test_angles_add_up_like_the_magnitudes():
    """Of half the steps every angle is the sum of two; at the calibration's own they are its."""
    angles = np.random.default_rng(0).uniform(0, 0.3, (50, 2))
    known = Curve.load("wan2.1-t2v-14b")
    assert not angles_for(known, make_schedule(50, 5.0, 5.0)).any()
    curve = dataclasses.replace(known, cosine_distance=1 - np.cos(angles))
    own = make_schedule(50, 5.0, 5.0)
    np.testing.assert_allclose(angles_for(curve, own), angles, atol=1e-7)
    half = angles_for(curve, make_schedule(25, 5.0, 5.0))
    np.testing.assert_allclose(half[1:], angles[1:-1:2] + angles[2::2], atol=1e-5)


def test_boundary_elsewhere():
    """T2V-A14B at shift 5 switches at step 17 instead of 26."""
    curve, schedule = Curve.load(T2V), t2v_schedule(flow_shift=5.0)
    with pytest.raises(CurveError, match=r"step 17 of 40.*allows step 26; set flow_shift=12, or"):
        check_fit(curve, schedule, "nearest")
    assert check_fit(curve, schedule, "noise_level") == ()


@pytest.mark.parametrize("boundary_ratio", [0.7, 0.95])
def test_noise_levels_outside_the_curve(boundary_ratio):
    schedule = t2v_schedule(boundary_ratio=boundary_ratio)
    with pytest.raises(CurveError, match=r"-noise expert at noise levels.*boundary_ratio=0.875"):
        check_fit(Curve.load(T2V), schedule, "noise_level")


def test_other_number_of_experts():
    with pytest.raises(CurveError, match=r"curve has 1 expert.*model 2"):
        check_fit(Curve.load("wan2.1-t2v-14b"), t2v_schedule(), "noise_level")
    with pytest.raises(CurveError, match=r"curve has 2 expert.*model 1"):
        check_fit(Curve.load(T2V), make_schedule(40, 12.0, 5.0), "noise_level")


@pytest.mark.parametrize("steps", range(1, 101))
def test_own_settings_fit_at_any_length(steps):
    for resample in ("noise_level", "nearest"):
        MagCache(mag_ratios_base=T2V, resample=resample).plan(t2v_schedule(steps))


def test_lists_say_what_they_do_not_know():
    curve = Curve.from_list([0.99, 0.99] * 39)
    assert check_fit(curve, make_schedule(40, 5.0, 5.0), "noise_level") == ()
    shorter, boundary = check_fit(curve, t2v_schedule(30), "noise_level")
    assert "40 steps and the run 30" in shorter
    assert "step 20 of 30" in boundary or "step 19 of 30" in boundary


def test_other_conditions_are_one_warning(tmp_path):
    path = tmp_path / "curve.json"
    Curve(
        Curve.load(T2V).ratios, Curve.load(T2V).sigmas, flow_shift=12.0, boundary_ratio=0.875,
        boundary_step=26, dtype="bfloat16", height=720, width=1280,
    ).save(path)  # fmt: skip
    run = {"dtype": "float32", "height": 480, "width": 1280, "num_frames": 81}
    plan = MagCache(mag_ratios_base=path).plan(t2v_schedule(), run)
    (warning,) = plan.warnings
    assert "dtype float32 (curve: bfloat16)" in warning
    assert "height 480 (curve: 720)" in warning
    assert "width" not in warning
