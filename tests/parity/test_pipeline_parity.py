"""The whole pipeline against diffusers' `WanPipeline`."""

import numpy as np
import pytest
import torch
from against import relative_error
from folders import TEXT_DIM, Z, make_folder

import wanjax

pytestmark = pytest.mark.parity

SIZE = {"height": 32, "width": 48, "num_frames": 9, "num_inference_steps": 8}


def run_both(path, reference, *, guidance=(4.0, 3.0), max_sequence_length=16, **options):
    """Latents and frames of both implementations, from the same noise."""
    noise = np.random.default_rng(0).normal(size=(1, Z, 3, 4, 6)).astype(np.float32)
    prompts = ("a red ball moving left", "dark")
    two = reference.transformer_2 is not None
    low = {"guidance_scale_2": guidance[1]} if two else {}
    expand = reference.config.expand_timesteps
    shared = (
        SIZE
        | ({"height": 64, "width": 96} if expand else {})
        | {"guidance_scale": guidance[0]}
        | low
    )
    result = {}
    for output_type in ("latent", "np"):
        with torch.no_grad():
            result[output_type] = reference(
                prompt=prompts[0],
                negative_prompt=prompts[1],
                latents=torch.tensor(noise),
                output_type=output_type,
                max_sequence_length=max_sequence_length,
                **shared,
            ).frames
    pipe = wanjax.WanPipeline.from_pretrained(
        path,
        weights_dtype="float32",
        activations_dtype="float32",
        max_sequence_length=max_sequence_length,
        **options,
    )
    video = pipe(*prompts, latents=noise, **shared)
    return video, np.asarray(result["latent"]), np.asarray(result["np"])


def assert_same(video, latents, frames):
    assert relative_error(video.latents, latents) < 1e-4
    error = video.frames.astype(np.float64) / 255 - frames
    assert -10 * np.log10(np.mean(error**2)) > 50


@pytest.mark.parametrize("two_experts", [True, False], ids=["two experts", "one expert"])
@pytest.mark.parametrize("guidance", [(4.0, 3.0), (1.0, 1.0)], ids=["guided", "unguided"])
def test_text_to_video(tmp_path, two_experts, guidance):
    reference = make_folder(tmp_path, two_experts=two_experts)
    video, latents, frames = run_both(tmp_path, reference, guidance=guidance)
    if two_experts:
        assert 0 < video.plan.boundary_step < 8
    assert_same(video, latents, frames)


def test_text_to_video_of_the_model_for_text_and_image(tmp_path):
    reference = make_folder(tmp_path, two_experts=False, expand=True)
    assert_same(*run_both(tmp_path, reference))


def test_branches_one_by_one(tmp_path):
    reference = make_folder(tmp_path)
    assert_same(*run_both(tmp_path, reference, batch_guidance=False))


def test_prompt_embeddings(tmp_path):
    reference = make_folder(tmp_path)
    prompts = ["a red  ball &amp; a square", "left", ""]
    with torch.no_grad():
        expected, _ = reference.encode_prompt(
            prompts, do_classifier_free_guidance=False, max_sequence_length=16
        )
    pipe = wanjax.WanPipeline.from_pretrained(
        tmp_path, weights_dtype="float32", max_sequence_length=16
    )
    embeds = pipe.encode_prompt(prompts)
    assert embeds.shape == (3, 16, TEXT_DIM)
    assert relative_error(embeds, expected.numpy()) < 2e-5
