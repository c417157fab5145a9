"""Image to video against diffusers' `WanImageToVideoPipeline`: Wan 2.2's two experts, Wan 2.1's
CLIP image encoder."""

import numpy as np
import pytest
import torch
from against import relative_error
from folders import Z, make_folder
from PIL import Image

import wanjax
from wanjax.pipeline.conditioning import image_condition
from wanjax.sampling.programs import Programs

pytestmark = pytest.mark.parity

SIZE = {"height": 32, "width": 48, "num_frames": 9}
FORMS = {
    "wan 2.2": {"two_experts": True, "clip": False},
    "wan 2.1": {"two_experts": False, "clip": True},
    "wan 2.1, last frame too": {"two_experts": False, "clip": True, "last": True},
    "wan 2.2 5B": {"two_experts": False, "expand": True},
}


def picture(seed: int = 0) -> Image.Image:
    """Of the video's aspect ratio, where the reference squashes and we cut nothing."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, size=(8, 12, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((96, 64), Image.Resampling.BICUBIC)


CASES = [(form, "last frame" in form) for form in FORMS] + [("wan 2.2", True)]


@pytest.mark.parametrize(("form", "last"), CASES)
def test_image_to_video(tmp_path, form, last):
    reference = make_folder(tmp_path, image=True, **FORMS[form])
    pixels = 16 if "5B" in form else 8
    size = {"height": 4 * pixels, "width": 6 * pixels, "num_frames": 9}
    noise = np.random.default_rng(0).normal(size=(1, Z, 3, 4, 6)).astype(np.float32)
    prompts = ("a red ball moving left", "dark")
    options = {"num_inference_steps": 8, "guidance_scale": 4.0}
    if FORMS[form]["two_experts"]:
        options["guidance_scale_2"] = 3.0
    arguments = {"latents": torch.tensor(noise), "max_sequence_length": 512}
    images = {"image": picture()} | ({"last_image": picture(1)} if last else {})
    with torch.no_grad():
        latents, frames = (
            np.asarray(
                reference(
                    prompt=prompts[0],
                    negative_prompt=prompts[1],
                    **images | size | options | arguments,
                    output_type=output_type,
                ).frames
            )
            for output_type in ("latent", "np")
        )
    pipe = wanjax.WanPipeline.from_pretrained(
        tmp_path, weights_dtype="float32", activations_dtype="float32"
    )
    video = pipe(*prompts, **images, latents=noise, **size, **options)
    assert relative_error(video.latents, latents) < 1e-4
    error = video.frames.astype(np.float64) / 255 - frames
    assert -10 * np.log10(np.mean(error**2)) > 50


@pytest.mark.parametrize("with_last", [False, True], ids=["first", "first and last"])
def test_condition(tmp_path, with_last):
    reference = make_folder(tmp_path, image=True)
    first, last = picture(0), picture(1)

    def prepared(image):
        return reference.video_processor.preprocess(image, height=32, width=48)

    with torch.no_grad():
        _, expected = reference.prepare_latents(
            prepared(first),
            1,
            Z,
            **SIZE,
            dtype=torch.float32,
            last_image=prepared(last) if with_last else None,
            device=torch.device("cpu"),
        )
    pipe = wanjax.WanPipeline.from_pretrained(tmp_path, weights_dtype="float32")
    images = [np.asarray(x.resize((48, 32), Image.Resampling.LANCZOS))[None] for x in (first, last)]
    ours = image_condition(pipe.components.vae, 9, Programs(), None, *images[: 1 + with_last])
    assert relative_error(ours, expected.numpy()) < 2e-5
