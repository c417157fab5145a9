"""The same model in every layout makes the same video, to the bit where its numbers are so."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from other_layouts import original_tensors, save_narrow, save_original, tensors_of
from safetensors.numpy import save_file
from small_folder import SMALL_RUN
from test_gguf import save_gguf
from test_scales import as_in

import wanjax

EXPERTS = ("transformer", "transformer_2")


def authors(folder, place):
    return {"model": save_original(folder, place)}


def comfyui(folder, place):
    """A file a part, with prefixes as they are about; the encoder by transformers' names."""
    parts = {}
    for part in (*EXPERTS, "vae", "text_encoder"):
        prefix = "model.diffusion_model." * (part in EXPERTS)
        encoder = part == "text_encoder"
        found = tensors_of(folder / part) if encoder else original_tensors(folder, part)
        parts[part] = place / f"{part}.safetensors"
        save_file({prefix + key: x for key, x in found.items()}, parts[part])
    return parts


def in_gguf(kind):
    def written(folder, place):
        return {
            part: save_gguf(original_tensors(folder, part), place / f"{part}.gguf", kind)
            for part in EXPERTS
        }

    return written


def scaled(convention):
    def written(folder, place):
        return {
            part: save_narrow(
                as_in(convention, original_tensors(folder, part))[0], place / f"{part}.safetensors"
            )
            for part in EXPERTS
        }

    return written


def widened(of):
    """The experts in float32 as the definition of a rounding has them, by the authors' names."""

    def written(folder, place):
        parts = {}
        for part in EXPERTS:
            parts[part] = place / f"{part}.safetensors"
            save_file(of(original_tensors(folder, part)), parts[part])
        return parts

    return written


def _q8_0(tensors):
    def there_and_back(x):
        return gguf.dequantize(gguf.quantize(x, Kind.Q8_0), Kind.Q8_0)

    whole = {key for key, x in tensors.items() if x.ndim == 2 and x.shape[1] % 32 == 0}
    return {key: there_and_back(x) if key in whole else x for key, x in tensors.items()}


LAYOUTS = {  # what is loaded, and what has the same numbers: None, diffusers' folder
    "the authors'": (authors, None),
    "ComfyUI's": (comfyui, None),
    "GGUF in float32": (in_gguf(Kind.F32), None),
    "GGUF in Q8_0": (in_gguf(Kind.Q8_0), widened(_q8_0)),
    "FP8, old": (scaled("old"), widened(lambda tensors: as_in("old", tensors)[1])),
    "int8 in blocks": (
        scaled("int8 in blocks"),
        widened(lambda tensors: as_in("int8 in blocks", tensors)[1]),
    ),
}


@pytest.mark.slow
def test_every_layout_makes_the_same_video(small_folder, tmp_path):
    first = load({"model": small_folder})
    expected = frames(first)
    for number, (name, (layout, same)) in enumerate(LAYOUTS.items()):
        places = [tmp_path / f"{number}{which}" for which in "ab"]
        for place in places:
            place.mkdir()
        made = frames(load({"model": small_folder, **layout(small_folder, places[0])}, first))
        numbers = None if same is None else same(small_folder, places[1])
        as_it_should = (
            expected if numbers is None else frames(load({"model": small_folder, **numbers}, first))
        )
        np.testing.assert_array_equal(made, as_it_should, name)
        assert (numbers is None) == np.array_equal(made, expected)


def load(parts, like=None):
    given = {k: int(v) if v.isdigit() else v for k, v in (item.split("=") for item in SMALL_RUN)}
    model, *others = parts.items()
    values = {part: str(place) for part, place in others} | {"boundary_ratio": 0.8}
    pipe = wanjax.WanPipeline.from_pretrained(model[1], **given, **values)
    if like is not None:
        pipe.programs = like.programs  # nothing is compiled anew
    return pipe


def frames(pipe):
    video = pipe("a red ball", seed=1)
    return np.concatenate([np.ravel(video.latents), np.ravel(video.frames)])
