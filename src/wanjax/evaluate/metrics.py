"""How near a video is to a reference, measured on float frames in [0, 1].

The definitions are those of MagCache's evaluation (and of VideoSys before it), except that
frames do not pass through a codec first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter  # comes with JAX

from wanjax.errors import UsageError

Frames = Float[np.ndarray, "frames height width 3"]
PerFrame = Float[np.ndarray, "frames"]
PerChange = Float[np.ndarray, "changes"]  # from each frame to the next

IDENTICAL = 100.0  # dB that an identical frame counts in a mean, as in MagCache's evaluation

_SIGMA, _RADIUS = 1.5, 5  # the window of 11 x 11
_C1, _C2 = 0.01**2, 0.03**2  # for values that span 1


@dataclass(frozen=True)
class Closeness:
    """A video against a reference, frame by frame; what is about time needs two frames.

    `psnr` in dB, infinite for identical frames; `ssim` up to 1; `temporal_ssim` the same of
    the changes from frame to frame, so one fewer; `added_flicker` is the flicker of the
    difference between the two videos.
    """

    psnr: PerFrame
    ssim: PerFrame
    temporal_ssim: PerChange
    added_flicker: float


def closeness(video: Frames, reference: Frames) -> Closeness:
    """All metrics that need a reference. Raises `UsageError` unless the shapes are equal."""
    _check(video, reference)
    difference = video.astype(np.float32) - reference
    return Closeness(
        psnr=psnr(video, reference),
        ssim=ssim(video, reference),
        temporal_ssim=temporal_ssim(video, reference),
        added_flicker=flicker(difference),
    )


def psnr(video: Frames, reference: Frames) -> PerFrame:
    """Peak signal-to-noise ratio of each frame, -10 log10 of the mean squared error, in dB."""
    _check(video, reference)
    error = np.array(
        [np.mean((a.astype(np.float64) - b) ** 2) for a, b in zip(video, reference, strict=True)]
    )
    with np.errstate(divide="ignore"):
        decibels: PerFrame = -10 * np.log10(error)
    return decibels


def mean_psnr(values: PerFrame | Sequence[float]) -> float:
    """The mean in dB: infinite if all are, else with identical frames (or videos) as 100 dB."""
    values = np.asarray(values, np.float64)
    if np.isinf(values).all():
        return float("inf")
    return float(np.minimum(values, IDENTICAL).mean())


def ssim(video: Frames, reference: Frames) -> PerFrame:
    """Structural similarity of each frame (Wang et al. 2004).

    An 11 x 11 Gaussian window of sigma 1.5, in float64, averaged over the positions where
    the window lies inside the frame, and over the channels. Raises `UsageError` for frames
    smaller than the window.
    """
    _check(video, reference)
    if min(video.shape[1:3]) < 2 * _RADIUS + 1:
        raise UsageError(
            f"frames of {video.shape[2]}x{video.shape[1]} pixels: SSIM has a window of 11x11"
        )
    return np.array([_frame_ssim(a, b) for a, b in zip(video, reference, strict=True)])


def temporal_ssim(video: Frames, reference: Frames) -> PerChange:
    """Structural similarity of each change from one frame to the next; empty for a still.

    `ssim` with the same window and constants, of the differences between successive frames,
    instead of the frames. What stands still in both videos counts for nothing, be it ever so
    wrong; what moves otherwise than in the reference, or flickers, counts in full.
    """
    _check(video, reference)
    changes = (np.diff(frames.astype(np.float64), axis=0) for frames in (video, reference))
    return ssim(*changes)


def _frame_ssim(x: Float[np.ndarray, "h w 3"], y: Float[np.ndarray, "h w 3"]) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variance_x = _window_mean(x * x) - mean_x**2
    variance_y = _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return float((luminance * structure).mean())


def _window_mean(x: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h2 w2 3"]:
    radius = (_RADIUS, _RADIUS, 0)
    smooth: Float[np.ndarray, "h w 3"] = gaussian_filter(x, (_SIGMA, _SIGMA, 0), radius=radius)
    return smooth[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS]


def flicker(video: Frames) -> float:
    """Mean absolute change from frame to frame in 8-bit levels, 0 for a still.

    VBench's temporal flickering is 1 - flicker / 255. Motion counts as well: compare it
    with the reference's own, or measure it on a difference of videos.
    """
    if len(video) < 2:
        return 0.0
    changes = [np.abs(after - before).mean() for before, after in pairwise(video)]
    return float(255 * np.mean(changes))


def _check(video: Frames, reference: Frames) -> None:
    if video.shape != reference.shape:
        raise UsageError(
            f"videos of different shapes cannot be compared: {_size(video)} and {_size(reference)}"
        )


def _size(video: Frames) -> str:
    frames, height, width, _ = video.shape
    return f"{frames} frames of {width}x{height}"
