"""Judge videos of the tiny world against their prompts, with no model and no randomness.

The object is what is saturated, for the backgrounds are not. Its hue, the outline that
fits it best, the drift of its centre and of its area, and the brightness of all the rest
are read off the pixels and compared with the attributes which the prompt names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from wanjax.errors import UsageError
from wanjax.tiny.shapes import OUTLINES, coverage
from wanjax.tiny.world import BACKGROUND_RGB, COLOR_RGB, VELOCITY, parse

Video = UInt8[np.ndarray, "frames height width 3"]
Videos = UInt8[np.ndarray, "videos frames height width 3"]
Mask = Float[np.ndarray, "frames height width"]

_LEAST_SIDE = 48
_WORKING_SIDE = 64  # larger videos are averaged down to about this side

_LEAST_CHROMA = 60.0  # of 255; a paler object counts as absent
_AREA_RANGE = (0.01, 0.45)  # share of the frame which the object may cover
_LEAST_PRESENCE = 0.75  # share of the frames in which the object must be seen
_LEAST_MAJORITY = 0.5  # share of the object's pixels which must have its colour
_LEAST_IOU = 0.6  # a worse fit is no shape at all
# A typical clip travels 0.42 frame sides or changes its radius by one doubling; less than a
# third of that is no motion.
_TYPICAL_CHANGE = np.array([0.42, 0.42, 1.0])
_LEAST_CHANGE = 0.33

Reading = dict[str, str | None]


@dataclass(frozen=True)
class Score:
    """What share of the attributes named in the prompts the videos show.

    `overall` counts attributes, `perfect` counts videos with every named attribute right;
    `by_attribute` has the attributes that any prompt names. All lie between 0 and 1.
    """

    overall: float
    perfect: float
    by_attribute: dict[str, float]
    videos: list[dict[str, bool]]


def score_videos(videos: Sequence[Video] | Videos, prompts: Sequence[str]) -> Score:
    """Score each video against its prompt.

    Raises `UsageError` if the numbers of videos and prompts differ, or if a prompt names no
    attribute of the tiny world.
    """
    if len(videos) != len(prompts):
        raise UsageError(
            f"{len(videos)} videos, but {len(prompts)} prompts: give one prompt to each video"
        )
    results = [score_video(frames, prompt) for frames, prompt in zip(videos, prompts, strict=True)]
    verdicts: dict[str, list[bool]] = {}
    for result in results:
        for attribute, right in result.items():
            verdicts.setdefault(attribute, []).append(right)
    if not verdicts:
        raise UsageError("no videos: give at least one video with its prompt")
    return Score(
        overall=float(np.mean([right for result in results for right in result.values()])),
        perfect=float(np.mean([all(result.values()) for result in results])),
        by_attribute={attribute: float(np.mean(right)) for attribute, right in verdicts.items()},
        videos=results,
    )


def score_video(frames: Video, prompt: str) -> dict[str, bool]:
    """Whether the video shows each attribute named in `prompt`; all False without an object."""
    named = parse(prompt)
    if not named:
        raise UsageError(
            f"prompt {prompt!r} names no colour, shape, motion or background of the tiny world; "
            "write it like 'a red ball moving right on a dark background'"
        )
    seen = read_video(frames)
    return {attribute: seen[attribute] == value for attribute, value in named.items()}


def read_video(frames: Video) -> Reading:
    """The value of each attribute which the video shows, None where it shows none clearly."""
    _check(frames)
    pixels = _shrink(frames)
    mask = _segment(pixels)
    low, high = _AREA_RANGE
    share = mask.mean(axis=(1, 2))
    present = (share > low) & (share < high)
    if present.mean() < _LEAST_PRESENCE:
        return dict.fromkeys(("color", "shape", "motion", "background"))
    x, y, area = _moments(mask[present])
    return {
        "color": _read_color(pixels[present], mask[present]),
        "shape": _read_shape(mask[present], x, y, area),
        "motion": _read_motion(np.flatnonzero(present), x, y, area, mask.shape),
        "background": _read_background(pixels[present], mask[present]),
    }


def shape_overlap(frames: Video, prompt: str) -> float:
    """How well the drawn shape has the outline that `prompt` names, 0 to 1, mean over frames.

    The intersection over union of the object with the outline at the object's own centroid and
    area: place, size and motion do not count, an edge that wobbles does. A frame without an
    object counts 0. Raises `UsageError` if the prompt names no shape of the tiny world.
    """
    _check(frames)
    shape = parse(prompt).get("shape")
    if shape is None:
        raise UsageError(
            f"prompt {prompt!r} names no shape of the tiny world: name one of {', '.join(OUTLINES)}"
        )
    mask = _segment(_shrink(frames))
    present = mask.sum(axis=(1, 2)) > 0
    if not present.any():
        return 0.0
    seen = mask[present]
    return float(_fit(shape, seen, *_moments(seen)).sum() / len(mask))


def mask_overlap(frames: Video, truth: Video) -> float:
    """Intersection over union of the objects of two videos of equal size, mean over frames."""
    _check(frames)
    _check(truth)
    a, b = (_segment(_shrink(video)) for video in (frames, truth))
    return float(_intersection_over_union(a, b).mean())


def _check(frames: Video) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise UsageError(
            f"frames are {frames.dtype} of shape {frames.shape}; give uint8 RGB of shape "
            "(frames, height, width, 3)"
        )
    if min(frames.shape[1:3]) < _LEAST_SIDE:
        raise UsageError(
            f"frames are {frames.shape[1]} by {frames.shape[2]} pixels; the scorer needs at least "
            f"{_LEAST_SIDE} on each side: generate at a larger size"
        )


def _shrink(frames: Video) -> Float[np.ndarray, "frames rows columns 3"]:
    """Average blocks of pixels, so that large videos cost no more than small ones."""
    count, height, width, _ = frames.shape
    block = max(1, min(height, width) // _WORKING_SIDE)
    if block == 1:
        return frames.astype(np.float32)
    rows, columns = height // block, width // block
    blocks = frames[:, : rows * block, : columns * block].reshape(
        count, rows, block, columns, block, 3
    )
    means: Float[np.ndarray, "frames rows columns 3"]
    means = blocks.mean(axis=(2, 4), dtype=np.float32)
    return means


def _segment(pixels: Float[np.ndarray, "frames height width 3"]) -> Mask:
    """Soft mask of the saturated object: 1 inside, 1/2 on its edge, all 0 if there is none.

    Chroma (largest minus least channel) falls linearly with coverage from the object's to
    the grey background's, so half the object's chroma marks the edge.
    """
    red, green, blue = np.moveaxis(pixels, -1, 0)  # elementwise is far quicker than an axis of 3
    chroma = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    flat = chroma.reshape(len(chroma), -1)
    top = max(1, flat.shape[1] // 100)
    peak = np.partition(flat, -top, axis=1)[:, -top:].mean(axis=1)
    mask = np.clip(2 * chroma / np.maximum(peak, 1)[:, None, None] - 0.5, 0, 1)
    present: Mask = mask * (peak >= _LEAST_CHROMA)[:, None, None]
    return present


def _moments(mask: Mask) -> Float[np.ndarray, "3 frames"]:
    """Centroid x and y and area of the object in each frame, in pixels."""
    columns, rows = (np.arange(side) + 0.5 for side in (mask.shape[2], mask.shape[1]))
    area = mask.sum(axis=(1, 2))
    x = mask.sum(axis=1) @ columns / area
    y = mask.sum(axis=2) @ rows / area
    return np.stack([x, y, area])


def _read_color(pixels: Float[np.ndarray, "frames height width 3"], mask: Mask) -> str | None:
    """The colour nearest in hue to most of the object's pixels."""
    hues = np.array(list(COLOR_RGB.values()), np.float32)
    hues -= hues.mean(axis=1, keepdims=True)  # without the grey part the direction is the hue
    hues /= np.linalg.norm(hues, axis=1, keepdims=True)
    nearest = np.argmax(pixels[mask > 0.75] @ hues.T, axis=1)
    votes = np.bincount(nearest, minlength=len(hues)) / len(nearest)
    return list(COLOR_RGB)[votes.argmax()] if votes.max() > _LEAST_MAJORITY else None


def _read_shape(mask: Mask, x: np.ndarray, y: np.ndarray, area: np.ndarray) -> str | None:
    """The outline which, at the object's centroid and area, overlaps it best over all frames."""
    overlap = {shape: float(_fit(shape, mask, x, y, area).mean()) for shape in OUTLINES}
    best = max(overlap, key=lambda shape: overlap[shape])
    return best if overlap[best] > _LEAST_IOU else None


def _fit(
    shape: str, mask: Mask, x: np.ndarray, y: np.ndarray, area: np.ndarray
) -> Float[np.ndarray, " frames"]:
    """How well an outline fits the object of each frame at its centroid and area."""
    outline = OUTLINES[shape]
    radius = np.sqrt(area / outline.area)
    template = coverage(shape, x, y - outline.centroid * radius, radius, *mask.shape[1:])
    return _intersection_over_union(mask, template)


def _intersection_over_union(a: Mask, b: Mask) -> Float[np.ndarray, " frames"]:
    """Of two soft masks, frame by frame; 1 where both are empty."""
    shared = np.minimum(a, b).sum(axis=(1, 2))
    union = np.maximum(a, b).sum(axis=(1, 2))
    return np.where(union > 0, shared / np.maximum(union, 1e-9), 1.0)


def _read_motion(
    times: np.ndarray, x: np.ndarray, y: np.ndarray, area: np.ndarray, shape: tuple[int, ...]
) -> str | None:
    """The motion that explains most of the change over the clip.

    The changes are those of straight lines fitted to all frames, which one bad frame cannot
    turn round.
    """
    if len(times) < 2:
        return None
    frames, height, width = shape
    side = (height * width) ** 0.5
    tracks = np.stack([x / side, y / side, np.log2(area) / 2], axis=1)
    change = np.polyfit(times / (frames - 1), tracks, 1)[0] / _TYPICAL_CHANGE
    fit = {motion: float(change @ velocity) for motion, velocity in VELOCITY.items()}
    best = max(fit, key=lambda motion: fit[motion])
    return best if fit[best] > _LEAST_CHANGE else None


def _read_background(pixels: Float[np.ndarray, "frames height width 3"], mask: Mask) -> str:
    """The background nearest to the median of all channels outside the object."""
    levels = {name: np.mean(gradient) for name, gradient in BACKGROUND_RGB.items()}
    median = np.median(pixels[mask < 0.5])
    return min(levels, key=lambda name: abs(levels[name] - median))
