"""The scorer is right on the world's own clips, also degraded, and can be wrong."""

import numpy as np
import pytest
import render

from wanjax.errors import UsageError
from wanjax.tiny import world
from wanjax.tiny.score import (
    mask_overlap,
    read_video,
    score_video,
    score_videos,
    shape_overlap,
)

COUNT = 504


@pytest.fixture(scope="module")
def truth():
    """Clips of training and held-out scenes in turn, with captions that name everything."""
    rng = np.random.default_rng(0)
    scenes = [world.sample_scene(rng, held_out=bool(i % 2)) for i in range(COUNT)]
    captions = [world.caption(scene, rng, background_rate=1.0) for scene in scenes]
    return render.render_scenes(scenes), captions


def degrade(clips, blur, noise, seed=0):
    """Gaussian blur of `blur` pixels, then Gaussian noise of `noise` / 255."""
    offsets = np.arange(-int(4 * blur), int(4 * blur) + 1)
    kernel = np.exp(-(offsets**2) / (2 * blur**2))
    kernel /= kernel.sum()
    side = clips.shape[2]
    # Row i of the matrix has the kernel around pixel i; pixels beyond the border repeat it.
    matrix = np.zeros((side, side), np.float32)
    for offset, weight in zip(offsets, kernel, strict=True):
        matrix[np.arange(side), np.clip(np.arange(side) + offset, 0, side - 1)] += weight
    blurred = np.einsum("ih,bfhwc->bfiwc", matrix, clips.astype(np.float32), optimize=True)
    blurred = np.einsum("jw,bfiwc->bfijc", matrix, blurred, optimize=True)
    blurred += noise * np.random.default_rng(seed).standard_normal(clips.shape, np.float32)
    return np.clip(blurred + 0.5, 0, 255).astype(np.uint8)


def test_rendered_clips_score_as_right(truth):
    clips, captions = truth
    score = score_videos(clips, captions)
    assert score.overall >= 0.995
    assert min(score.by_attribute.values()) >= 0.995
    assert list(score.by_attribute) == list(world.ATTRIBUTES)


@pytest.mark.parametrize(
    ("blur", "noise"), [(1.0, 6.0), pytest.param(2.0, 6.0, marks=pytest.mark.slow)]
)
def test_degraded_clips_score_as_right(truth, blur, noise):
    clips, captions = (part[:168] for part in truth)
    score = score_videos(degrade(clips, blur, noise), captions)
    assert min(score.by_attribute.values()) >= 0.98


def test_mismatched_prompts_score_near_chance(truth):
    clips, captions = truth
    order = np.random.default_rng(0).permutation(COUNT)
    score = score_videos(clips, [captions[i] for i in order])
    for attribute, values in world.ATTRIBUTES.items():
        # Four standard deviations of a guess; the world draws all values about equally often.
        chance = 1 / len(values)
        margin = 4 * (chance * (1 - chance) / COUNT) ** 0.5
        assert score.by_attribute[attribute] == pytest.approx(chance, abs=margin)
    assert score.perfect < 0.02


@pytest.mark.parametrize("attribute", world.ATTRIBUTES)
def test_one_wrong_attribute_is_the_only_one_wrong(attribute):
    right = {"color": "red", "shape": "ball", "motion": "growing", "background": "grey"}
    prompt = "a {color} {shape} {motion} on a {background} background"
    clip = render.render(world.place_scene(np.random.default_rng(0), **right))
    for value in world.ATTRIBUTES[attribute]:
        result = score_video(clip, prompt.format(**{**right, attribute: value}))
        expected = dict.fromkeys(right, True) | {attribute: value == right[attribute]}
        assert result == expected


def test_only_named_attributes_count(truth):
    clips, _ = truth
    assert set(score_video(clips[0], "a red thing on a dark background")) == {"color", "background"}


def test_the_size_of_the_video_does_not_matter():
    rng = np.random.default_rng(2)
    for _ in range(20):
        scene = world.sample_scene(rng)
        expected = {name: getattr(scene, name) for name in world.ATTRIBUTES}
        for frames, size in ((9, 48), (17, 96), (5, 256)):
            assert read_video(render.render(scene, frames, size)) == expected


def test_wide_video():
    scene = world.place_scene(np.random.default_rng(0), "cyan", "cross", "moving left", "light")
    square = render.render(scene)
    wide = np.concatenate([square[:, :, :1].repeat(24, axis=2), square], axis=2)
    expected = {name: getattr(scene, name) for name in world.ATTRIBUTES}
    assert read_video(wide) == expected


def reversed_in_time(clip):
    return clip[::-1]


def standing_still(clip):
    return clip[:1].repeat(17, axis=0)


@pytest.mark.parametrize("spoil", [reversed_in_time, standing_still])
def test_wrong_motion_is_seen(truth, spoil):
    clips, captions = (part[:60] for part in truth)
    score = score_videos([spoil(clip) for clip in clips], captions)
    assert score.by_attribute == {"color": 1.0, "shape": 1.0, "motion": 0.0, "background": 1.0}


def wobbling(clip):
    """Every row moved to the side, by a wave of two pixels."""
    clip = clip.copy()
    for row in range(clip.shape[1]):
        clip[:, row] = np.roll(clip[:, row], round(2 * np.sin(row)), axis=1)
    return clip


def test_the_drawn_shape_overlaps_its_outline(truth):
    clips, captions = (part[:48] for part in truth)
    overlap = [shape_overlap(clip, text) for clip, text in zip(clips, captions, strict=True)]
    assert min(overlap) > 0.94
    assert np.mean(overlap) > 0.97


def test_a_wobbling_edge_or_another_shape_overlaps_less():
    rng = np.random.default_rng(0)
    clip = render.render(world.place_scene(rng, "red", "square", "growing", "dark"))
    steady = shape_overlap(clip, "a red square")
    assert shape_overlap(wobbling(clip), "a red square") < steady - 0.03
    assert shape_overlap(clip, "a red triangle") < 0.8
    assert shape_overlap(np.zeros_like(clip), "a red square") == 0
    half = np.concatenate([clip[:8], np.zeros_like(clip[8:])])
    assert shape_overlap(half, "a red square") == pytest.approx(steady * 8 / 17, abs=0.02)
    with pytest.raises(UsageError, match="names no shape"):
        shape_overlap(clip, "something red")


def test_objects_of_two_videos_overlap_where_both_are(truth):
    clip = truth[0][0]
    assert mask_overlap(clip, clip) == 1
    assert mask_overlap(np.roll(clip, 3, axis=2), clip) < 0.9
    assert mask_overlap(np.zeros_like(clip), clip) == 0


@pytest.mark.parametrize("content", ["empty", "uniform", "noise", "vanishing"])
def test_without_an_object_everything_is_wrong(content):
    scene = world.place_scene(np.random.default_rng(0), "red", "ball", "moving right", "grey")
    clip = render.render(scene)
    rng = np.random.default_rng(0)
    videos = {
        "empty": np.full_like(clip, 130),
        "uniform": np.full_like(clip, world.COLOR_RGB["red"]),
        "noise": rng.integers(0, 256, clip.shape, np.uint8),
        "vanishing": np.concatenate([clip[:9], np.full_like(clip[9:], 130)]),
    }
    result = score_video(videos[content], "a red ball moving right on a grey background")
    assert not any(result.values())


def test_scoring_is_deterministic(truth):
    clips, captions = (degrade(truth[0][:8], 1.0, 6.0), truth[1][:8])
    assert score_videos(clips, captions) == score_videos(clips, captions)


@pytest.mark.parametrize(
    ("frames", "prompt", "message"),
    [
        (np.zeros((17, 64, 64, 3), np.float32), "a red ball", "float32"),
        (np.zeros((64, 64, 3), np.uint8), "a red ball", r"\(64, 64, 3\)"),
        (np.zeros((17, 32, 64, 3), np.uint8), "a red ball", "32 by 64"),
        (np.zeros((17, 64, 64, 3), np.uint8), "a cat in the snow", "'a cat in the snow'"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_unusable_input_is_refused(frames, prompt, message):
    with pytest.raises(UsageError, match=message):
        score_video(frames, prompt)


def test_each_video_needs_its_prompt(truth):
    with pytest.raises(UsageError, match="2 videos, but 1 prompts"):
        score_videos(truth[0][:2], truth[1][:1])
    with pytest.raises(UsageError, match="no videos"):
        score_videos([], [])
