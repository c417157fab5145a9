"""Weights in eight bits: how they are rounded, that a run is that of the rounded weights."""

from __future__ import annotations

import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from other_layouts import save_narrow
from safetensors.numpy import load_file, save_file
from small_folder import SMALL_RUN

import wanjax
from wanjax.checkpoints.configs import model_configs
from wanjax.checkpoints.rounding import round_blocks
from wanjax.checkpoints.stored import ARRAYS, Kept
from wanjax.config.resolve import resolve
from wanjax.errors import CheckpointError, UsageError
from wanjax.models.layers import Linear
from wanjax.parallel.targets import parse_target
from wanjax.pipeline.ahead import compile_ahead
from wanjax.pipeline.compiling import device_bytes
from wanjax.planning.memory import advice
from wanjax.planning.run import prepare

RNG = np.random.default_rng(0)
TYPES = {"int8": np.dtype(np.int8), "fp8": np.dtype(ml_dtypes.float8_e4m3fn)}
# of the largest of a row: half a step of 127, half of the 4 bits that a large e4m3 number has
CLOSE = {"int8": 0.5 / 127, "fp8": 2**-4}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("name", TYPES)
def test_each_row_is_rounded_by_its_own_largest(name):
    values = RNG.normal(size=(6, 40)).astype(np.float32) * 10.0 ** np.arange(-3, 3)[:, None]
    values[2] = 0
    rounded, scale = round_rows(values, TYPES[name])
    assert rounded.dtype == TYPES[name]
    most = np.abs(values).max(axis=1)
    error = np.abs(rounded.astype(np.float32) * scale[:, None] - values).max(axis=1)
    assert (error <= 1.001 * CLOSE[name] * most).all()
    assert (rounded[2].astype(np.float32) == 0).all()
    again, _ = round_rows(rounded.astype(np.float32) * scale[:, None], TYPES[name])
    assert np.array_equal(again.view(np.uint8), rounded.view(np.uint8))


@pytest.mark.parametrize("kept", [Kept("I4", 1, True), Kept("I4", 1, True, "F16"), Kept("I8", 1)])
def test_a_block_with_an_offset_uses_all_of_its_numbers(kept):
    """Half a step is the most that a number may be off, and what a half-precision scale adds."""
    values = (5 + RNG.normal(size=(6, 32))).astype(np.float32)
    values[1] = 3
    rounded, scale, offset = round_blocks(values, kept)
    made = rounded.astype(np.float32) * scale[:, None] + offset[:, None]
    wide = np.ptp(values, axis=1) if kept.offset else 2 * values.max(axis=1)
    most = wide / (14 if kept.dtype == "I4" else 254)
    slack = 1 + 14 / 1024 * (kept.scale == "F16")
    error = np.abs(made - values).max(axis=1)
    assert (error <= 0.5 * slack * most + 1e-6).all()


@pytest.mark.parametrize("blocks", [1, 4])
def test_a_layer_multiplies_by_the_scale_of_each_block_and_output(blocks):
    layer = Linear(8, 6, axes=(None, None), rngs=nnx.Rngs(0))
    values = RNG.integers(-127, 128, size=(8, 6)).astype(np.int8)
    scale = RNG.uniform(0.1, 1, size=(blocks, 6)).astype(np.float32)
    layer.kernel.set_value(jnp.asarray(values))
    layer.scale = nnx.data(nnx.Param(jnp.asarray(scale)))
    x = RNG.normal(size=(3, 8)).astype(np.float32)
    whole = values * np.repeat(scale, 8 // blocks, axis=0)
    np.testing.assert_allclose(layer(jnp.asarray(x)), x @ whole, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("quantize", TYPES)
def test_the_plan_knows_the_memory(small_folder, quantize):
    pipe = load(small_folder, quantize=quantize)
    fit = prepare(pipe.config).memory.fit
    for name, expert in zip(
        pipe.components.folder.experts, pipe.components.transformers, strict=True
    ):
        assert fit.weights[name] == device_bytes(nnx.state(expert))
        kernel = expert.blocks.ffn.linear_1.kernel.get_value()
        assert kernel.dtype == TYPES[quantize]
        assert expert.condition_embedder.time_proj.kernel.get_value().dtype == jnp.float32


def test_the_14b_model_in_eight_bits():
    """14.0e9 parameters an expert, of which 13.8e9 are in the blocks' matrices."""
    whole, eight = (
        prepare(resolve(["wan2.2-t2v-a14b", *more], "plan")).memory.fit.weights["transformer"]
        for more in ([], ["quantize=fp8"])
    )
    assert whole / 2**30 == pytest.approx(26.7, abs=0.1)
    assert eight / 2**30 == pytest.approx(13.8, abs=0.3)


@pytest.mark.slow
def test_eight_bits_are_advised_where_they_would_make_a_run_fit():
    arguments = ["wan2.2-t2v-a14b", "height=480", "width=832", "target=rtx5090"]
    config = resolve(arguments, "plan")
    run, configs = prepare(config), model_configs(config.model)
    assert not run.memory.fit.fits
    told = advice(config, run.plan, configs, parse_target(config.target))
    assert "quantize=int8" in told
    eight = prepare(resolve([*arguments, "quantize=int8"], "plan"))
    assert eight.memory.fit.fits
    assert eight.memory.fit.placement.peak < 18 * 2**30


@pytest.mark.slow
@pytest.mark.parametrize("quantize", TYPES)
def test_a_run_is_that_of_the_rounded_weights(small_folder, tmp_path, quantize):
    folder = rounded_folder(small_folder, tmp_path / "rounded", TYPES[quantize])
    kept, widened, plain = (
        make(load(place, quantize=how))
        for place, how in ((small_folder, quantize), (folder, None), (small_folder, None))
    )
    # the same numbers, multiplied by the scale before the sum or after it
    np.testing.assert_allclose(kept, widened, atol=3e-5 * np.abs(widened).max())
    assert np.abs(kept - plain).max() > 1e-3 * np.abs(plain).max()


@pytest.mark.slow
def test_loras_are_merged_before_rounding_or_kept_apart(small_folder, tmp_path):
    name, halves = "transformer.blocks.1.attn1.to_q", {"lora_A": (2, 32), "lora_B": (32, 2)}
    made = {f"{name}.{h}.weight": RNG.normal(size=s).astype(np.float32) for h, s in halves.items()}
    save_file(made, tmp_path / "lora.safetensors")
    merged = make(load(small_folder, quantize="int8", lora=f"{tmp_path}/lora.safetensors:0.5"))
    plain = make(load(small_folder, quantize="int8"))
    pipe = load(small_folder, quantize="int8", lora=f"{tmp_path}/lora.safetensors:0:live")
    np.testing.assert_allclose(make(pipe), plain, atol=3e-5 * np.abs(plain).max())
    pipe.set_loras(f"{tmp_path}/lora.safetensors:0.5")
    far, rounding = np.abs(merged - plain).max(), np.abs(make(pipe) - merged).max()
    assert 0 < rounding < far / 5  # the merged one's change is rounded, too


WAYS = {"tensor": (1, 1), "rows": (None, 1), "blocks": (2, 4)}  # blocks of each dimension


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quantize", "way"), [("fp8", "tensor"), ("fp8", "rows"), ("int8", "rows"), ("int8", "blocks")]
)
def test_what_a_file_has_in_eight_bits_is_kept(small_folder, tmp_path, quantize, way):
    parts = eight_bit_files(small_folder, tmp_path, TYPES[quantize], WAYS[way])
    widened = make(load(small_folder, **parts))
    pipe = load(small_folder, weights="keep", **parts)
    np.testing.assert_allclose(make(pipe), widened, atol=3e-5 * np.abs(widened).max())
    for expert in pipe.components.transformers:
        kept, whole = expert.blocks.attn1.to_q, expert.blocks.attn2.to_q
        assert kept.kernel.get_value().dtype == TYPES[quantize]
        assert kept.scale.get_value().shape == (2, WAYS[way][1], 32)
        assert whole.scale is None  # which the file has in float32
    ahead = compile_ahead(pipe, prepare(pipe.config))
    for thread in ahead:
        thread.join()
    programs = len(pipe.programs)
    make(pipe)
    assert len(pipe.programs) == programs


@pytest.mark.slow
def test_a_lora_merged_into_what_is_kept_is_rounded_with_it(small_folder, tmp_path):
    parts = eight_bit_files(small_folder, tmp_path, TYPES["int8"], WAYS["blocks"])
    name, halves = "transformer.blocks.0.attn1.to_q", {"lora_A": (1, 32), "lora_B": (32, 1)}
    made = {f"{name}.{h}.weight": RNG.normal(size=s).astype(np.float32) for h, s in halves.items()}
    save_file(made, tmp_path / "lora.safetensors")
    lora = f"{tmp_path}/lora.safetensors"
    widened, plain = make(load(small_folder, lora=lora, **parts)), make(load(small_folder, **parts))
    kept = make(load(small_folder, lora=lora, weights="keep", **parts))
    far = np.abs(widened - plain).max()
    assert 0 < np.abs(kept - widened).max() < far / 5


def test_there_must_be_something_to_keep(small_folder):
    with pytest.raises(
        CheckpointError, match=r"weights=keep: .*transformer and .*transformer_2 has"
    ):
        load(small_folder, weights="keep")
    with pytest.raises(UsageError, match="quantize=int8 and weights=keep exclude one another"):
        load(small_folder, weights="keep", quantize="int8")


def round_rows(values, dtype):
    (name,) = (name for name, known in ARRAYS.items() if known == dtype)
    rounded, scale, offset = round_blocks(values, Kept(name))
    assert not offset.any()
    return rounded, scale


def eight_bit_files(folder, place, dtype, blocks):
    """Both experts' files with the self-attention of all blocks rounded, a scale a block."""
    parts = {}
    for expert in ("transformer", "transformer_2"):
        tensors = load_file(folder / expert / WEIGHTS)
        for key in [key for key in tensors if ".attn1." in key and tensors[key].ndim == 2]:
            rows, columns = blocks[0] or 32, blocks[1]
            cut = tensors[key].reshape(rows, 32 // rows, columns, 32 // columns).swapaxes(1, 2)
            values, scale = round_rows(cut.reshape(rows, columns, -1), dtype)
            values = values.reshape(rows, columns, 32 // rows, 32 // columns).swapaxes(1, 2)
            tensors[key] = np.ascontiguousarray(values.reshape(32, 32))
            layer = key.removesuffix("weight")
            tensors[f"{layer}weight_scale"] = scale if scale.size > 1 else scale.reshape(())
            if columns > 1:
                said = b'{"format": "int8_blockwise"}'
                tensors[f"{layer}comfy_quant"] = np.frombuffer(said, np.uint8)
        parts[expert] = str(place / f"{expert}.safetensors")
        save_narrow(tensors, place / f"{expert}.safetensors")
    return parts


def load(folder, **values):
    given = {k: int(v) if v.isdigit() else v for k, v in (item.split("=") for item in SMALL_RUN)}
    return wanjax.WanPipeline.from_pretrained(folder, **given, **values)


def make(pipe):
    return pipe("a red ball", seed=1, output_type="latent").latents


def rounded_folder(folder, copy, dtype):
    """The model with the blocks' matrices as eight bits have them, in float32."""
    shutil.copytree(folder, copy)
    for expert in ("transformer", "transformer_2"):
        tensors = load_file(copy / expert / WEIGHTS)
        for key, tensor in tensors.items():
            if key.startswith("blocks.") and tensor.ndim == 2:
                values, scale = round_rows(tensor, dtype)
                tensors[key] = values.astype(np.float32) * scale[:, None]
        save_file(tensors, copy / expert / WEIGHTS)
    return copy
