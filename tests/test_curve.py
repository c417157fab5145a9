"""Curves: files, lists, resampling, and whether one fits a run."""

import dataclasses
import json

import numpy as np
import pytest

from wanjax.caching import Curve, CurveError, MagCache, check_fit, ratios_for, shipped_curves
from wanjax.caching.resample import angles_for
from wanjax.planning.schedule import make_schedule

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


@pytest.mark.parametrize("name", shipped_curves())
def test_round_trip(name, tmp_path):
    curve, path = Curve.load(name), tmp_path / "curve.json"
    curve.save(path)
    again = Curve.load(path)
    for field in dataclasses.fields(Curve):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(curve, field.name))
    text = path.read_text()
    again.save(path)
    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def test_lists_with_and_without_the_first_pair():
    padded = Curve.from_list([1.0, 1.0, 0.9, 0.8])
    bare = Curve.from_list([0.9, 0.8])
    np.testing.assert_array_equal(padded.ratios, bare.ratios)
    assert padded.steps == 2


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "two numbers a step .* got 0"),
        ([1.0, 1.0, 0.9], "two numbers a step .* got 3"),
        ([1.0, float("nan")], r"ratios\[1\]=nan: must be a finite number"),
        ([1.0, 0.0], r"ratios\[1\]=0.0: must be above 0"),
        ([1, -1], r"ratios\[1\]=-1: must be above 0"),
    ],
)
def test_bad_lists(values, text):
    with pytest.raises(CurveError, match=text):
        Curve.from_list(values)


def broken(tmp_path, **changes):
    path = tmp_path / "broken.json"
    Curve.load(T2V).save(path)
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v != "absent"}))
    return path


def ratios(last, count=40):
    return [[1, 1]] * (count - 1) + [last]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"format": "other"}, "format='other': must be 'wanjax-curve'"),
        ({"version": 2}, "version=2 is not known; this release reads 1"),
        ({"version": "absent"}, "version=None"),
        ({"ratios": ratios([1, float("nan")])}, "NaN is no finite number"),
        ({"ratios": ratios([1, 0])}, r"ratios\[39\]\[1\]=0: must be above 0"),
        ({"ratios": ratios([-1, 1])}, r"ratios\[39\]\[0\]=-1: must be above 0"),
        ({"ratios": ratios([True, 1])}, r"ratios\[39\]\[0\]=True: must be a number"),
        ({"ratios": ratios(["1", 1])}, r"ratios\[39\]\[0\]='1': must be a number"),
        ({"ratios": ratios([1, 1], 39)}, "sigmas must have 40 entries for 39 ratios"),
        (
            {"ratios": ratios([1, 1, 1])},
            r"ratios\[39\]=\[1, 1, 1\]: must have a length of at most 2",
        ),
        ({"ratios": ratios([1])}, r"ratios\[39\]\[1\] is missing"),
        (
            {"ratios": [[0.9, 1], *ratios([1, 1], 39)]},
            r"ratios\[0\]=\[0.9, 1.0\]: must be \[1.0, 1",
        ),
        ({"ratios": []}, r"ratios=\[\]: must have a length of at least 1"),
        ({"ratios": "absent"}, "ratios is missing"),
        ({"ratios": 1}, "ratios=1: must be a list"),
        ({"steps": 39}, "steps=39: must be 40"),
        ({"steps": "absent"}, "steps=None: must be 40"),
        ({"sigmas": None}, "sigmas is missing"),
        ({"sigmas": [1, 0]}, "sigmas must have 41 entries"),
        ({"sigmas": [0.5] * 40 + [0]}, "sigmas must fall"),
        ({"sigmas": [1.5] * 41}, r"sigmas\[0\]=1.5: must be at most 1"),
        ({"boundary_step": None}, "boundary_step and boundary_ratio belong together"),
        ({"boundary_step": 40}, r"boundary_step=40: must lie in 1\.\.39"),
        ({"boundary_step": 0}, "boundary_step=0: must be at least 1"),
        ({"boundary_step": "26"}, "boundary_step='26': must be a whole number"),
        ({"boundary_ratio": 875}, "boundary_ratio=875: must be below 1"),
        ({"flow_shift": 0}, "flow_shift=0: must be above 0"),
        ({"height": 720.5}, "height=720.5: must be a whole number"),
        ({"width": -1}, "width=-1: must be at least 1"),
        ({"num_frames": True}, "num_frames=True: must be a whole number"),
        ({"model": 3}, "model=3: must be text"),
        ({"spread": [[0, 0]]}, "spread must have 40 entries"),
        ({"spread": ratios([0, -1])}, r"spread\[39\]\[1\]=-1: must be at least 0"),
        ({"cosine_distance": ratios([0, 3])}, r"cosine_distance\[39\]\[1\]=3: must be at most 2"),
        ({"prompts": "one"}, "prompts='one': must be a list"),
        ({"seeds": [0, 0.5]}, r"seeds\[1\]=0.5: must be a whole number"),
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
    with pytest.raises(CurveError, match=r"no such file.*wan2\.2-t2v-a14b"):
        Curve.load(path)
    with pytest.raises(CurveError, match="cannot be read: it is a folder"):
        Curve.load(tmp_path)
    Curve.load(T2V).save(path)
    text = path.read_text()
    path.write_text(text[:500])
    with pytest.raises(CurveError, match="is cut short or not valid JSON"):
        Curve.load(path)
    path.write_text(text.replace('"steps"', '"model": "other", "steps"'))
    with pytest.raises(CurveError, match="model is given twice"):
        Curve.load(path)
    path.write_text("[1, 2]")
    with pytest.raises(CurveError, match="holds a list, expected an object"):
        Curve.load(path)


def test_a_curve_cannot_be_written_to():
    given = np.array([[1, 1], [0.9, 0.8]])
    curve = Curve(given)
    given[1] = 5
    np.testing.assert_array_equal(curve.ratios[1], [0.9, 0.8])
    with pytest.raises(ValueError, match="read-only"):
        curve.ratios[1] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        curve.ratios = given


def test_a_constructor_tells_its_faults_as_a_file_does():
    with pytest.raises(CurveError, match=r"^ratios\[1\]\[0\]=nan: must be a finite number$"):
        Curve([[1, 1], [float("nan"), 1]])
    with pytest.raises(CurveError, match=r"^unknown field colour$"):
        Curve([[1, 1]], colour="red")
    assert Curve([[1, 1]], seeds=np.arange(2), height=np.int64(64)).height == 64


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
