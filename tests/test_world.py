"""The tiny world: its grammar, its held-out combinations, its pixels."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
import render

from wanjax.tiny import world
from wanjax.tiny.shapes import OUTLINES, coverage

COMBINATIONS = list(product(world.COLORS, world.SHAPES, world.MOTIONS))
EVERYTHING = list(product(*world.ATTRIBUTES.values()))


def attributes(scene: world.Scene) -> dict[str, str]:
    return {name: getattr(scene, name) for name in world.ATTRIBUTES}


def test_no_synonym_has_two_meanings():
    for values in world.ATTRIBUTES.values():
        words = [word for synonyms in values.values() for word in synonyms]
        assert len(words) == len(set(words))
        assert all(
            name in synonyms or f"{name} background" in synonyms
            for name, synonyms in values.items()
        )


@pytest.mark.parametrize("background_rate", [0.0, 1.0])
def test_parse_reads_back_the_captions_of_all_scenes(background_rate):
    rng = np.random.default_rng(0)
    for values in EVERYTHING:
        scene = world.place_scene(rng, *values)
        expected = attributes(scene)
        if background_rate == 0:
            del expected["background"]
        for _ in range(10):
            text = world.caption(scene, rng, background_rate=background_rate)
            assert world.parse(text) == expected, text


def test_every_synonym_is_read_alone():
    for attribute, values in world.ATTRIBUTES.items():
        for value, synonyms in values.items():
            for synonym in synonyms:
                assert world.parse(synonym)[attribute] == value


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("A Red BALL, moving right.", {"color": "red", "shape": "ball", "motion": "moving right"}),
        ("light blue, on a dark backdrop", {"color": "blue", "background": "dark"}),
        ("a ball left of the frame, moving up", {"shape": "ball", "motion": "moving up"}),
        ("a cross that flies to the right", {"shape": "cross", "motion": "moving right"}),
        ("colored redish balloons crossing", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_parse_free_text(prompt, expected):
    assert world.parse(prompt) == expected


def test_the_plain_sentence_is_a_caption():
    rng = np.random.default_rng(0)
    scene = world.place_scene(rng, "red", "ball", "moving right", "dark")
    captions = {world.caption(scene, rng) for _ in range(2000)}
    assert "a red ball moving right on a dark background" in captions
    assert len(captions) > 1000


def test_held_out_combinations_are_balanced():
    held_out = [names for names in COMBINATIONS if world.is_held_out(*names)]
    assert len(held_out) == 24
    for column, values in enumerate((world.COLORS, world.SHAPES, world.MOTIONS)):
        counts = Counter(names[column] for names in held_out)
        assert counts == dict.fromkeys(values, 24 // len(values))
    for pair in ((0, 1), (0, 2), (1, 2)):
        lost = Counter(tuple(names[column] for column in pair) for names in held_out)
        assert max(lost.values()) == 1, "a pair of values loses more than one combination"


@pytest.mark.parametrize("held_out", [False, True])
def test_sampling_covers_its_side_of_the_split(held_out):
    rng = np.random.default_rng(0)
    scenes = [world.sample_scene(rng, held_out=held_out) for _ in range(3000)]
    drawn = {(s.color, s.shape, s.motion) for s in scenes}
    assert drawn == {names for names in COMBINATIONS if world.is_held_out(*names) == held_out}


def test_held_out_prompts_are_held_out_even_and_repeatable():
    prompts = world.held_out_prompts(64, seed=5)
    named = [world.parse(prompt) for prompt, _ in prompts]
    assert all(world.is_held_out(n["color"], n["shape"], n["motion"]) for n in named)
    assert len({tuple(n.values()) for n in named}) == 64
    for attribute, values in world.ATTRIBUTES.items():
        counts = Counter(n[attribute] for n in named)
        assert set(counts) == set(values)
        assert max(counts.values()) - min(counts.values()) <= 2
    assert [seed for _, seed in prompts] == list(range(5, 69))
    assert prompts == world.held_out_prompts(64, seed=5)
    assert prompts != world.held_out_prompts(64, seed=6)


def test_clips_and_captions_depend_on_the_seed_alone():
    (clips, captions), (again, captions_again) = (
        render.render_clips(np.random.default_rng(3), 8) for _ in range(2)
    )
    assert clips.shape == (8, 17, 64, 64, 3)
    assert clips.dtype == np.uint8
    np.testing.assert_array_equal(clips, again)
    assert captions == captions_again
    assert not np.array_equal(clips, render.render_clips(np.random.default_rng(4), 8)[0])


def test_the_object_stays_inside_the_frame():
    rng = np.random.default_rng(0)
    for values in EVERYTHING:
        clip = render.render(world.place_scene(rng, *values))
        # One colour along each row and between the two columns of the frame: bare background.
        assert (clip[:, :, [0, -1]] == clip[:1, :, :1]).all()
        assert np.ptp(clip[:, [0, -1]], axis=2).max() == 0


def test_translation_and_growth_are_as_large_as_told():
    rng = np.random.default_rng(0)
    scenes = [world.sample_scene(rng) for _ in range(1000)]
    for scene in scenes:
        x, y, radius = scene.trajectory(np.linspace(0, 1, 17))
        travel = 64 * np.hypot(x[-1] - x[0], y[-1] - y[0])
        if scene.motion in ("growing", "shrinking"):
            assert travel == 0
            assert 1.8 < max(radius) / min(radius) < 2.22
        else:
            assert 20 <= travel <= 34
            np.testing.assert_allclose(radius, scene.size)
            np.testing.assert_allclose(np.diff(x), np.diff(x)[0], atol=1e-12)
            np.testing.assert_allclose(np.diff(y), np.diff(y)[0], atol=1e-12)


@pytest.mark.parametrize("shape", OUTLINES)
def test_outline_area_and_centroid_agree_with_its_pixels(shape):
    outline, radius, centre = OUTLINES[shape], 200.0, 256.0
    mask = coverage(shape, *np.full((3, 1), [[centre], [centre], [radius]]), 512, 512)[0]
    area = mask.sum()
    below = mask.sum(axis=1) @ (np.arange(512) + 0.5) / area - centre
    # Pixels resolve the outline to about half of one in 200.
    assert area / radius**2 == pytest.approx(outline.area, rel=2e-3)
    assert below / radius == pytest.approx(outline.centroid, abs=2e-3)
    rows, columns = np.nonzero(mask)
    assert np.abs([rows - centre, columns - centre]).max() <= world.EXTENT * radius + 1


def test_a_larger_frame_shows_the_same_scene():
    scene = world.sample_scene(np.random.default_rng(1))
    small, large = render.render(scene), render.render(scene, frames=17, size=128)
    halved = large.reshape(17, 64, 2, 64, 2, 3).mean(axis=(2, 4))
    assert np.abs(halved - small).mean() < 1  # of 255; only edge pixels differ
