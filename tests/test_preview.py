"""Small pictures of a run as it goes, by a linear map of the latents."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_folder import SMALL_RUN, Z

import wanjax
from wanjax.config.resolve import resolve
from wanjax.errors import CheckpointError
from wanjax.pipeline.preview import Preview, sample_latents
from wanjax.schedulers import SAMPLERS

PROMPT = "a red ball moving left"
TINY = Path(wanjax.__file__).parent / "tiny"


@pytest.fixture(scope="module")
def pipe(small_folder):
    return wanjax.WanPipeline.from_config(resolve([f"model={small_folder}", *SMALL_RUN], "show"))


def linear_vae(channels: int, patch: int, seed: int = 0):
    """Latents and frames of a decoder that is itself linear."""
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((3, channels, 2, 4, 6))
    rows = rng.uniform(-0.05, 0.05, (channels, patch, patch, 3))
    pixels = 0.5 + np.einsum("bzthw,zpqc->bthpwqc", latents, rows)
    pixels = pixels.reshape(3, 2, 4 * patch, 6 * patch, 3)
    frames = np.stack([pixels[:, 0], *[pixels[:, 1]] * 4], axis=1)  # 1 and 4 frames a latent
    return latents, frames, pixels


def test_a_linear_decoder_is_fitted_exactly():
    latents, frames, pixels = linear_vae(channels=5, patch=2)
    preview = Preview.fit(latents, frames, patch=2)
    shown = np.asarray(preview.picture(latents[1, :, 1]))
    assert shown.shape == (8, 12, 3)
    # a rounding to 8 bits, and the fit's small pull to zero
    np.testing.assert_allclose(shown / 255, pixels[1, 1], atol=1.5 / 255)


def test_larger_frames_are_averaged_to_the_pictures_size():
    latents, frames, pixels = linear_vae(channels=5, patch=2)
    preview = Preview.fit(latents, frames.repeat(3, axis=2).repeat(3, axis=3), patch=2)
    shown = np.asarray(preview.picture(latents[0, :, 0]))
    np.testing.assert_allclose(shown / 255, pixels[0, 0], atol=1.5 / 255)


def test_the_report_has_the_denoised_estimate(pipe):
    """x0 = x - sigma v: Euler's own step says what v was."""
    reports = []

    def keep(report):
        reports.append((np.array(report.latents), np.array(report.denoised)))

    pipe(PROMPT, sampler="euler", output_type="latent", callback=keep)
    table = SAMPLERS["euler"](6, pipe.config.flow_shift)
    for i in range(1, 6):
        before, (after, denoised) = reports[i - 1][0], reports[i]
        velocity = (after - before) / (table.sigmas[i + 1] - table.sigmas[i])
        np.testing.assert_allclose(denoised, before - table.sigmas[i] * velocity, atol=2e-4)
    np.testing.assert_allclose(*reports[-1], atol=1e-5)  # the end is the last estimate


def test_the_bundled_vaes_fit_is_that_of_its_weights():
    """At the last step the picture is the decoded frame, small; a fit of other weights is not."""
    pipe = wanjax.WanPipeline.from_pretrained("tiny-t2v", num_inference_steps=8)
    shown = []
    video = pipe("a red ball moving right on a dark background", seed=0,
                 callback=lambda r: shown.append(pipe.preview(r)))  # fmt: skip
    frame = video.frames[0, 8].astype(float)  # of the middle latent frame
    true = frame.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    error = np.asarray(shown[-1], float) - true
    assert 10 * np.log10(255**2 / (error**2).mean()) > 17
    assert (TINY / "t2v/vae/preview.json").read_text() == (
        TINY / "i2v/vae/preview.json"
    ).read_text()


@pytest.mark.slow
def test_a_vae_without_a_fit_says_how_to_make_one(pipe, tmp_path):
    def preview(report):
        pictures.append(pipe.preview(report, frame=0))

    pictures = []
    with pytest.raises(CheckpointError, match=r"pipe\.fit_preview\(\) makes one"):
        pipe(PROMPT, callback=preview)
    fit = pipe.fit_preview()
    video = pipe(PROMPT, callback=preview)
    assert {picture.size for picture in pictures} == {(24, 16)}
    with_video = pipe.fit_preview(video)
    assert not np.array_equal(fit.weights, with_video.weights)
    fit.save(tmp_path / "vae/preview.json")
    again = Preview.load(tmp_path / "vae/preview.json")
    np.testing.assert_allclose(again.weights, fit.weights, atol=1e-5)
    pipe.components.preview = None


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({"weights": [[1.0, 2.0]]}, "make no patches"),
        ({"weights": [[1.0], [1.0, 2.0]]}, "rows must have one length"),
        ({"weights": "x"}, "weights='x': must be a list"),
        ({"weights": [], "version": 9}, "version=9 is not known"),
    ],
)
def test_files_that_are_no_fit(tmp_path, content, error):
    file = tmp_path / "preview.json"
    file.write_text(json.dumps({"format": "wanjax-preview", "version": 1} | content))
    with pytest.raises(CheckpointError, match=error):
        Preview.load(file)


def test_a_fit_of_other_channels_is_refused():
    fit = Preview(np.zeros((Z + 1, 3)))
    with pytest.raises(CheckpointError, match="made for 4 channels, the latents have 9"):
        fit.picture(sample_latents(9, 1, count=1)[0, :, 0])
