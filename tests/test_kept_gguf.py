"""GGUF's blocks kept on the device: the same numbers, in the memory of the file."""

from __future__ import annotations

from pathlib import Path

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from gguf import GGMLQuantizationType as Kind
from other_layouts import original_tensors
from safetensors.numpy import save_file
from small_folder import SMALL_RUN
from test_gguf import save_gguf
from test_rounding import load, make

from wanjax.checkpoints.folder import Folder
from wanjax.checkpoints.kept import as_files_have, united
from wanjax.checkpoints.layouts.diffusers.transformer import RULES
from wanjax.checkpoints.layouts.recognise import part_files
from wanjax.checkpoints.load import load_parameters
from wanjax.checkpoints.mapping import entries
from wanjax.checkpoints.rounding import RoundedFiles, pack, take_rounding
from wanjax.checkpoints.stored import Kept
from wanjax.cli.main import main
from wanjax.config.resolve import resolve
from wanjax.models.layers import Linear, Undrawn
from wanjax.models.transformer import WanTransformer
from wanjax.pipeline.compiling import device_bytes
from wanjax.planning.run import prepare

KINDS = ("Q8_0", "Q6_K", "Q5_0", "Q5_1", "Q5_K", "Q4_0", "Q4_1", "Q4_K")
KEY = "blocks.0.ffn.net.0.proj.weight"


def any_blocks(path, kind: str):
    """Blocks of any bytes, with scales that are numbers: the package writes no K-quants."""
    numbers, size = gguf.GGML_QUANT_SIZES[Kind[kind]]
    blocks = np.random.default_rng(0).integers(0, 256, (24, 768 // numbers, size), dtype=np.uint8)
    halves = {"Q6_K": [208], "Q8_0": [0], "Q5_0": [0], "Q4_0": [0]}.get(kind, [0, 2])
    scales = np.random.default_rng(1).uniform(-0.02, 0.02, (24, 768 // numbers, len(halves)))
    for i, at in enumerate(halves):
        blocks[..., at : at + 2] = scales[..., i : i + 1].astype(np.float16).view(np.uint8)
    writer = gguf.GGUFWriter(path, "wan")
    writer.add_tensor("head.modulation", np.zeros((1, 2, 8), np.float32))
    raw = blocks.reshape(24, -1)
    writer.add_tensor("blocks.0.ffn.0.weight", raw, raw_dtype=Kind[kind])
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file):
        write()
    writer.write_tensors_to_file()
    writer.close()
    return part_files("transformer", path), gguf.dequantize(raw, Kind[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_scales_and_offsets_are_the_packages_weights(tmp_path, kind):
    files, expected = any_blocks(tmp_path / "a.gguf", kind)
    kept = files.kept(KEY)
    assert kept.dtype == ("I4" if "Q4" in kind else "I8")
    rows = slice(5, 17)
    numbers = files.read_rounded(KEY, (rows, slice(0, 768)))
    assert numbers.dtype == np.int8
    assert kept.dtype == "I8" or (numbers.min(), numbers.max()) == (-8, 7)
    scale, offset = files.read_scales(KEY, rows)
    assert (offset is not None) == kept.offset
    if kept.scale == "F16":
        assert np.array_equal(scale.astype(np.float16), scale)
    spread = [
        x.repeat(768 // kept.blocks, 1) for x in (scale, 0 * scale if offset is None else offset)
    ]
    made = numbers * spread[0] + spread[1]
    np.testing.assert_allclose(made, expected[rows], atol=1e-6 * np.abs(expected).max())
    part = files.read_rounded(KEY, (rows, slice(100, 613)))
    np.testing.assert_array_equal(part, numbers[:, 100:613])


def test_one_form_holds_the_numbers_of_several_kinds():
    q4, q6, q8 = Kept("I4", 24, True), Kept("I8", 48), Kept("I8", 24, False, "F16")
    assert united(q4, q6) == Kept("I8", 48, True)
    assert united(q8, q8) == q8
    assert united(q4, q8) == Kept("I8", 24, True)
    assert united(q8, Kept("F8_E4M3")) is None
    assert united(Kept("F8_E4M3"), Kept("F8_E5M2")) is None
    assert united(Kept("I8", 3), Kept("I8", 2)) is None
    assert united(q8, None) is None


def _kind(key: str) -> Kind:
    return Kind.Q8_0 if key.startswith("blocks.1.ffn") else Kind.Q4_1


def mixed_files(folder, place) -> dict[str, str]:
    """Both experts, with products in Q4_1, those of the last block's feed-forward in Q8_0."""
    parts = {}
    for expert in ("transformer", "transformer_2"):
        tensors = original_tensors(folder, expert)
        parts[expert] = str(place / f"{expert}.gguf")
        save_gguf(tensors, parts[expert], _kind)
    return parts


def test_a_file_of_several_kinds_keeps_them(small_folder, tmp_path):
    """As the files that are about, where some blocks' matrices have more bits than others'."""
    parts = mixed_files(small_folder, tmp_path)
    files = [part_files("transformer", Path(place)) for place in parts.values()]
    found = as_files_have(files)
    assert found["attn1.to_q"] == Kept("I4", 1, True)
    assert found["ffn.net.0.proj"] == Kept("I8", 1, True)
    assert "ffn.net.2" not in found  # rows of 48 numbers are no whole blocks
    pipe = load(small_folder, weights="keep", **parts)
    model = pipe.components.transformers[0]
    layer, key = model.blocks.ffn.linear_1, "blocks.{}.ffn.net.0.proj.weight"
    assert layer.kernel.get_value().dtype == jnp.int8
    assert model.blocks.attn1.to_q.kernel.get_value().dtype == jnp.uint8
    assert model.blocks.attn1.to_q.kernel.get_value().shape == (2, 16, 32)
    for i in (0, 1):
        made = layer.kernel[i].astype(np.float32) * layer.scale[i] + layer.offset[i]
        expected = files[0].read(key.format(i), (slice(0, 48), slice(0, 32)))
        np.testing.assert_allclose(made.T, expected, atol=1e-6)
    fit = prepare(pipe.config).memory.fit
    assert fit.weights["transformer"] == device_bytes(nnx.state(model))


@pytest.mark.parametrize("offset", [False, True])
def test_a_layer_of_four_bits_has_two_inputs_in_a_byte(offset):
    rng, blocks, size, out = np.random.default_rng(0), 3, 8, 5
    numbers = rng.integers(-8, 8, (out, blocks * size)).astype(np.int8)
    scale, shift = rng.uniform(0.1, 1, (2, blocks, out)).astype(np.float32)
    layer = Linear(blocks * size, out, axes=(None, None), rngs=nnx.Rngs(0))
    layer.kernel.set_value(jnp.asarray(pack(numbers, blocks).T))
    layer.scale = nnx.data(nnx.Param(jnp.asarray(scale)))
    layer.offset = nnx.data(nnx.Param(jnp.asarray(shift)) if offset else None)
    whole = numbers.T * scale.repeat(size, 0) + offset * shift.repeat(size, 0)
    x = rng.normal(size=(2, blocks * size)).astype(np.float32)
    np.testing.assert_allclose(layer(jnp.asarray(x)), x @ whole, rtol=1e-5, atol=1e-4)


def test_every_way_to_a_device_gives_the_same(small_folder, tmp_path):
    """Also in pieces that a device puts in their place."""
    files = part_files("transformer", Path(mixed_files(small_folder, tmp_path)["transformer"]))
    config, rounding = Folder.open(small_folder).transformer_config(), as_files_have([files])
    made = []
    for way in (True, False):
        model = take_rounding(WanTransformer(config, rngs=Undrawn()), rounding)
        kept = RoundedFiles(files, rounding, entries(nnx.state(model), RULES))
        loaded = load_parameters(model, RULES, kept, host_memory=way, piece_bytes=900)
        made.append(jax.tree.leaves(nnx.state(loaded)))
    assert {x.dtype for x in made[0]} >= {np.dtype(np.uint8), np.dtype(np.int8)}
    for ours, theirs in zip(*made, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_a_plan_counts_what_the_file_holds(small_folder, tmp_path, capsys):
    parts = mixed_files(small_folder, tmp_path)
    given = [f"{name}={place}" for name, place in parts.items()]
    run = [f"model={small_folder}", *SMALL_RUN, *given]
    wide, kept = (
        prepare(resolve([*run, *more], "plan")).memory.fit.weights["transformer"]
        for more in ([], ["weights=keep"])
    )
    width, hidden, layers = 32, 48, 2
    four = 8 * width * width * (4 - 0.5) - 8 * width * 8  # scales and offsets: a block a row
    eight = hidden * width * (4 - 1) - hidden * 8
    assert wide - kept == layers * (four + eight)
    assert main(["plan", *run, "weights=keep"]) == 0
    assert "GB in float32, blocks in int4 and int8, here" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_with_kept_blocks_is_that_of_the_widened_ones(small_folder, tmp_path):
    parts = mixed_files(small_folder, tmp_path)
    widened, kept = (make(load(small_folder, weights=how, **parts)) for how in ("widen", "keep"))
    np.testing.assert_allclose(kept, widened, atol=3e-5 * np.abs(widened).max())
    name, halves = "transformer.blocks.0.ffn.net.0.proj", {"lora_A": (1, 32), "lora_B": (48, 1)}
    rng = np.random.default_rng(0)
    made = {f"{name}.{h}.weight": rng.normal(size=s).astype(np.float32) for h, s in halves.items()}
    save_file(made, tmp_path / "lora.safetensors")
    lora = {"lora": f"{tmp_path}/lora.safetensors"}
    merged, rounded = (
        make(load(small_folder, weights=how, **lora, **parts)) for how in ("widen", "keep")
    )
    far = np.abs(merged - widened).max()
    assert np.abs(rounded - merged).max() < far / 5
