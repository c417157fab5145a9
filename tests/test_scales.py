"""Weights of eight bits: values times scale, to the bit, in every convention."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from other_layouts import Tensors, original_tensors, save_narrow, save_original, tensors_of

from wanjax.checkpoints.folder import Folder
from wanjax.checkpoints.layouts.diffusers.transformer import RULES
from wanjax.checkpoints.layouts.recognise import part_files
from wanjax.checkpoints.load import Reading, load_parameters
from wanjax.checkpoints.stored import ARRAYS
from wanjax.errors import CheckpointError
from wanjax.models.layers import Undrawn
from wanjax.models.transformer import WanTransformer

FP8 = np.dtype(ml_dtypes.float8_e4m3fn)
LARGEST = {FP8: 448.0, np.dtype(ml_dtypes.float8_e5m2): 57344.0, np.dtype(np.int8): 127.0}
Convention = Callable[[Tensors, str, np.ndarray, np.ndarray], None]


def rounded(weight: np.ndarray, blocks: tuple[int, ...], dtype=FP8) -> tuple[np.ndarray, ...]:
    """Values and scales, one a block; `blocks` counts them along each dimension."""
    rows, columns = blocks
    cut = weight.reshape(rows, weight.shape[0] // rows, columns, weight.shape[1] // columns)
    scale = np.abs(cut).max((1, 3)).astype(np.float32) / np.float32(LARGEST[np.dtype(dtype)])
    scaled = cut / scale[:, None, :, None]
    values = (np.round(scaled) if dtype is np.int8 else scaled).astype(dtype)
    return values.reshape(weight.shape), scale


def widened(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    sizes = [n // blocks for n, blocks in zip(values.shape, scale.shape, strict=True)]
    spread = np.repeat(np.repeat(scale, sizes[0], 0), sizes[1], 1)
    return values.astype(np.float32) * spread


def old(tensors: Tensors, layer: str, values: np.ndarray, scale: np.ndarray) -> None:
    tensors[f"{layer}.weight"] = values
    tensors[f"{layer}.scale_weight"] = scale.reshape(())
    tensors[f"{layer}.scale_input"] = np.float32(1)
    tensors["scaled_fp8"] = np.zeros(2, FP8)


def new(name: str, **more: object) -> Convention:
    def write(tensors: Tensors, layer: str, values: np.ndarray, scale: np.ndarray) -> None:
        tensors[f"{layer}.weight"] = values
        tensors[f"{layer}.weight_scale"] = scale.reshape(()) if scale.size == 1 else scale
        said = json.dumps({"format": name, **more}).encode()
        tensors[f"{layer}.comfy_quant"] = np.frombuffer(said, np.uint8)

    return write


def bare(tensors: Tensors, layer: str, values: np.ndarray, scale: np.ndarray) -> None:
    """As LightX2V: a scale a row, and nothing else."""
    tensors[f"{layer}.weight"] = values
    tensors[f"{layer}.weight_scale"] = scale


CONVENTIONS: dict[str, tuple[Convention, tuple[int, int], object]] = {
    "old": (old, (1, 1), FP8),
    "new": (new("float8_e4m3fn", full_precision_matrix_mult=True), (1, 1), FP8),
    "rows": (bare, (32, 1), FP8),
    "blocks": (new("float8_e4m3fn_blockwise"), (4, 2), FP8),
    "e5m2": (new("float8_e5m2"), (1, 1), ml_dtypes.float8_e5m2),
    "int8": (new("int8_tensorwise"), (1, 1), np.int8),
    "int8 in rows": (bare, (32, 1), np.int8),
    "int8 in blocks": (new("int8_blockwise"), (2, 4), np.int8),
}
LAYERS = [f"blocks.{i}.{kind}_attn.{x}" for i in (0, 1) for kind in ("self", "cross") for x in "qo"]


def as_in(convention: str, tensors: Tensors) -> tuple[Tensors, Tensors]:
    """A file's tensors with some layers rounded, and the weights that they stand for."""
    write, blocks, dtype = CONVENTIONS[convention]
    made, expected = dict(tensors), dict(tensors)
    for layer in LAYERS:
        values, scale = rounded(tensors[f"{layer}.weight"], blocks, dtype)
        write(made, layer, values, scale)
        expected[f"{layer}.weight"] = widened(values, scale)
    return made, expected


def read(folder, file, part="transformer", dtype=np.float32):
    model = Folder.open(folder, {part: file}).load_transformer(part, dtype=dtype)
    return model, part_files(part, file)


def reading(folder, file) -> Reading:
    checking = Folder.open(folder, {"transformer": file}).checking()
    checking.load_transformer("transformer")
    return checking.readings["transformer"]


def refused(folder, file) -> str:
    with pytest.raises(CheckpointError) as error:
        reading(folder, file)
    return str(error.value)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_weights_are_values_times_scales(small_folder, tmp_path, convention, prefix):
    tensors, expected = as_in(convention, original_tensors(small_folder, "transformer"))
    # the mark of the old convention may lack the prefix
    tensors = {key if key == "scaled_fp8" else prefix + key: x for key, x in tensors.items()}
    file = save_narrow(tensors, tmp_path / "model.safetensors")
    model, files = read(small_folder, file)
    for i, layer in enumerate(("to_q", "to_out")):
        kernels = getattr(model.blocks.attn1, layer).kernel
        for block in (0, 1):
            original = expected[f"blocks.{block}.self_attn.{'qo'[i]}.weight"]
            np.testing.assert_array_equal(kernels[block], original.T)
    key = "blocks.1.attn2.to_q.weight"
    part = files.read(key, (slice(3, 20), slice(5, 21)))
    np.testing.assert_array_equal(part, expected["blocks.1.cross_attn.q.weight"][3:20, 5:21])
    half, _ = read(small_folder, file, dtype=jnp.bfloat16)
    original = expected["blocks.0.self_attn.q.weight"].astype(jnp.bfloat16)
    np.testing.assert_array_equal(half.blocks.attn1.to_q.kernel[0], original.T)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_values_and_scales_can_be_had_as_they_are(small_folder, tmp_path, convention):
    tensors, expected = as_in(convention, original_tensors(small_folder, "transformer"))
    files = part_files("transformer", save_narrow(tensors, tmp_path / "model.safetensors"))
    key, rows = "blocks.0.attn1.to_q.weight", slice(3, 20)
    values = files.read_rounded(key, (rows, slice(0, 32)))
    scale, offset = files.read_scales(key, rows)
    kept = files.kept(key)
    assert values.dtype == ARRAYS[kept.dtype] == CONVENTIONS[convention][2]
    assert (scale.shape, offset) == ((17, kept.blocks), None)
    np.testing.assert_array_equal(
        widened(values, scale), expected["blocks.0.self_attn.q.weight"][rows]
    )
    assert files.kept("blocks.0.attn1.to_q.bias") is None


@pytest.mark.parametrize("convention", ["old", "blocks", "int8 in rows"])
def test_pieces_are_widened_where_a_device_has_memory_of_its_own(
    small_folder, tmp_path, convention
):
    tensors, _ = as_in(convention, original_tensors(small_folder, "transformer"))
    files = part_files("transformer", save_narrow(tensors, tmp_path / "model.safetensors"))
    config = Folder.open(small_folder).transformer_config()
    models = [
        load_parameters(
            WanTransformer(config, rngs=Undrawn()), RULES, files, host_memory=where, piece_bytes=900
        )
        for where in (True, False)
    ]
    for a, b in zip(*(jax.tree.leaves(nnx.state(model)) for model in models), strict=True):
        np.testing.assert_array_equal(a, b)


def test_fp8_without_scales_is_cast(small_folder, tmp_path):
    tensors = original_tensors(small_folder, "transformer")
    rounded = {key: x.astype(FP8) if x.ndim == 2 else x for key, x in tensors.items()}
    file = save_narrow(rounded, tmp_path / "model.safetensors")
    model, files = read(small_folder, file)
    expected = rounded["blocks.1.self_attn.q.weight"].astype(np.float32)
    np.testing.assert_array_equal(model.blocks.attn1.to_q.kernel[1], expected.T)
    scale, _ = files.read_scales("blocks.1.attn1.to_q.weight", slice(0, 32))
    assert (scale == 1).all()
    count = sum(x.ndim == 2 for x in tensors.values())
    assert f", {count} F8_E4M3 without a scale, " in str(reading(small_folder, file))


@pytest.mark.parametrize("make", [shutil.copytree, save_original], ids=["diffusers", "authors"])
def test_fp8_without_scales_is_refused_in_a_folder_unless_it_is_asked_for(
    small_folder, tmp_path, make
):
    """No folder is published so; ComfyUI's single files, given by their part, are."""
    make(small_folder, tmp_path / "model")
    place = Folder.open(tmp_path / "model").place("transformer")
    file = place / "diffusion_pytorch_model.safetensors"
    tensors = {k: x.astype(FP8) if x.ndim == 2 else x for k, x in tensors_of(place).items()}
    save_narrow(tensors, file)
    with pytest.raises(CheckpointError) as error:
        Folder.open(tmp_path / "model").checking().load_transformer("transformer")
    first = next(key for key, x in tensors.items() if x.ndim == 2)
    assert str(error.value).startswith(f"{file}: {first} is F8_E4M3, and no tensor there has a sc")
    assert str(error.value).endswith(f"transformer={place} reads such numbers as they are")
    checking = Folder.open(tmp_path / "model", {"transformer": place}).checking()
    checking.load_transformer("transformer")
    assert "F8_E4M3 without a scale" in str(checking.readings["transformer"])


def test_a_text_encoders_embedding_has_no_scale(small_folder, tmp_path):
    """In ComfyUI's UMT5 products alone have one."""
    tensors = tensors_of(small_folder / "text_encoder")
    layer = "encoder.block.0.layer.0.SelfAttention.q"
    old(tensors, layer, *rounded(tensors[f"{layer}.weight"], (1, 1)))
    tensors["shared.weight"] = tensors["shared.weight"].astype(FP8)
    tensors["spiece_model"] = np.zeros(10, np.uint8)
    file = save_narrow(tensors, tmp_path / "umt5.safetensors")
    checking = Folder.open(small_folder, {"text_encoder": file}).checking()
    checking.load_text_encoder()
    said = str(checking.readings["text_encoder"])
    assert "1 F8_E4M3 with a scale, 1 F8_E4M3 without a scale, " in said
    assert "1 skipped, the tokenizer, which is no weight (spiece_model)" in said


def test_what_is_read_is_said(small_folder, tmp_path):
    tensors, _ = as_in("old", original_tensors(small_folder, "transformer"))
    file = save_narrow(tensors, tmp_path / "model.safetensors")
    said = str(reading(small_folder, file))
    kept = len(tensors) - 3 * len(LAYERS) - 1
    assert said == (
        f"{file}: the authors' names, {kept} F32, 8 F8_E4M3 with a scale, {kept + 16} used; "
        "8 skipped, scales of activations, which are not rounded here "
        f"({LAYERS[0]}.scale_input, {LAYERS[1]}.scale_input, {LAYERS[2]}.scale_input, ...); "
        "1 skipped, the mark of a file with scales, which are applied (scaled_fp8)"
    )


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_scale_that_is_missing_is_named(small_folder, tmp_path, convention):
    tensors, _ = as_in(convention, original_tensors(small_folder, "transformer"))
    (key,) = [k for k in tensors if k.startswith(LAYERS[0]) and "scale" in k and "input" not in k]
    del tensors[key]
    said = refused(small_folder, save_narrow(tensors, tmp_path / "model.safetensors"))
    assert said.startswith(f"{tmp_path}/model.safetensors: {key} is missing: {LAYERS[0]}.weight is")


def test_the_files_metadata_names_formats_too(small_folder, tmp_path):
    tensors, _ = as_in("rows", original_tensors(small_folder, "transformer"))
    metadata = {"layers": {layer: {"format": "float8_e4m3fn_rowwise"} for layer in LAYERS}}
    about = {"_quantization_metadata": json.dumps(metadata)}
    assert reading(small_folder, save_narrow(tensors, tmp_path / "a.safetensors", about))
    metadata["layers"][LAYERS[0]] = {"format": "nvfp4"}
    about = {"_quantization_metadata": json.dumps(metadata)}
    said = refused(small_folder, save_narrow(tensors, tmp_path / "b.safetensors", about))
    assert f"_quantization_metadata of {LAYERS[0]}: format='nvfp4' is not implemented" in said
    about = {"_quantization_metadata": "[]"}
    said = refused(small_folder, save_narrow(tensors, tmp_path / "c.safetensors", about))
    assert "c.safetensors: _quantization_metadata is no JSON object with layers" in said


Q = "blocks.0.self_attn.q"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({f"{Q}.weight_scale": np.zeros((5, 2), np.float32)}, "is [5, 2], expected one number, "),
        ({f"{Q}.weight_scale": np.zeros((), np.int64)}, "weight_scale is I64, expected F64"),
        ({f"{Q}.scale_weight": np.float32(1)}, f"a second scale of {Q}.weight"),
        ({f"{Q}.weight": np.zeros((32, 32), np.float32)}, "a weight which is F32, not rounded"),
        ({f"{Q}.comfy_quant": np.zeros(3, np.uint8)}, f"{Q}.comfy_quant holds no JSON"),
        ({f"{Q}.comfy_quant": np.float32(1)}, f"{Q}.comfy_quant is F32, expected U8"),
        ({f"{Q}.pre_quant_scale": np.float32(1)}, f"1 unexpected: {Q}.pre_quant_scale []"),
        ({"blocks.0.x.weight_scale": np.float32(1)}, "1 unexpected: blocks.0.x.weight_scale []"),
        (
            {f"{Q}.comfy_quant": np.frombuffer(b'{"format": "int8_tensorwise"}', np.uint8)},
            f"{Q}.weight is F8_E4M3, and its file says int8_tensorwise",
        ),
        (
            {f"{Q}.comfy_quant": np.frombuffer(b'{"format": "mxfp8"}', np.uint8)},
            f"{Q}.comfy_quant: format='mxfp8' is not implemented; read are float8_e4m3fn,",
        ),
        (
            {
                f"{Q}.comfy_quant": np.frombuffer(
                    b'{"format": "float8_e4m3fn", "convrot": true}', np.uint8
                )
            },
            "convrot=true, weights that are rotated before they are rounded, is not implemented",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_file_and_key(small_folder, tmp_path, change, text):
    tensors, _ = as_in("new", original_tensors(small_folder, "transformer"))
    said = refused(small_folder, save_narrow(tensors | change, tmp_path / "model.safetensors"))
    assert "model.safetensors" in said
    assert text in said


def test_whole_numbers_without_a_scale_are_no_weights(small_folder, tmp_path):
    tensors = original_tensors(small_folder, "transformer")
    tensors[f"{Q}.weight"] = tensors[f"{Q}.weight"].astype(np.int8)
    said = refused(small_folder, save_narrow(tensors, tmp_path / "model.safetensors"))
    assert f"{Q}.weight_scale is missing: {Q}.weight is I8" in said


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16])
@pytest.mark.parametrize("kind", LARGEST, ids=str)
def test_many_values_are_looked_up_in_pairs(tmp_path, kind, dtype):
    """Every pair of bytes: the same as one at a time, and as ml_dtypes has it."""
    every = np.arange(2**16, dtype=np.uint16).view(np.uint8).view(kind).reshape(256, 512)
    values, scale = np.concatenate([every] * 4), np.float32(0.037)
    tensors = {"x.weight": values, "x.weight_scale": scale, "head.modulation": np.zeros(2, "f4")}
    files = part_files("transformer", save_narrow(tensors, tmp_path / "x.safetensors"))
    expected = values.astype(np.float32) * scale
    whole = (slice(0, 1024), slice(0, 512))
    np.testing.assert_array_equal(files.read("x.weight", whole), expected)
    made = files.read_as("x.weight", whole, np.dtype(dtype))
    assert made.dtype == dtype
    made = made.astype(np.float32)  # in which two that are no numbers are equal
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(made, expected.astype(dtype).astype(np.float32))
    few = (slice(3, 9), slice(5, 100))
    part = files.read_as("x.weight", few, np.dtype(dtype))
    np.testing.assert_array_equal(part.astype(np.float32), made[few])
