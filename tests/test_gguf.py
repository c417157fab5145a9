"""GGUF files, written by its own package: the numbers that this package makes of their blocks."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from other_layouts import Tensors, original_tensors, tensors_of

from wanjax.checkpoints.containers import gguf as container
from wanjax.checkpoints.folder import Folder
from wanjax.checkpoints.layouts.recognise import part_files
from wanjax.errors import CheckpointError


def save_gguf(tensors: Tensors, path, kind, architecture="wan", shapes=None):
    """Weights of products in blocks of `kind` where they fit, the rest in float32.

    `kind` may say it of each by its key.
    """
    writer = gguf.GGUFWriter(path, architecture)
    for key, shape in (shapes or {}).items():
        writer.add_array(f"comfy.gguf.orig_shape.{key}", list(shape))
    for key, x in tensors.items():
        of_it = kind(key) if callable(kind) else kind
        if x.ndim == 2 and x.shape[-1] % gguf.GGML_QUANT_SIZES[of_it][0] == 0:
            writer.add_tensor(key, gguf.quantize(x, of_it), raw_dtype=of_it)
        else:
            writer.add_tensor(key, x)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# A step of the largest number in a block: half of it is the most that a number may be off.
STEPS = {Kind.Q8_0: 1 / 127, Kind.Q5_0: 1 / 16, Kind.Q4_0: 1 / 8}
STEPS |= {Kind.BF16: 2**-7, Kind.F16: 2**-10}
# More of it: a block's step is rounded to float16, which 127 steps add up; Q5_0 and Q4_0 have one
# step less on the side that their largest number is not on.
SLACK = {Kind.Q8_0: 1 + 127 / 1024, Kind.Q5_0: 2.1, Kind.Q4_0: 2.1}


@pytest.mark.parametrize("kind", STEPS, ids=lambda kind: kind.name)
def test_a_model_within_the_formats_rounding(small_folder, tmp_path, kind):
    tensors = original_tensors(small_folder, "transformer")
    file = save_gguf(tensors, tmp_path / "model.gguf", kind)
    folder = Folder.open(small_folder, {"transformer": file})
    model = folder.load_transformer("transformer", dtype=np.float32)
    for i in (0, 1):
        original = tensors[f"blocks.{i}.self_attn.q.weight"]
        error = np.abs(np.asarray(model.blocks.attn1.to_q.kernel[i]).T - original)
        largest = np.abs(original).reshape(32, -1, 32).max(-1).repeat(32, 1).reshape(32, 32)
        assert (error <= 0.5 * STEPS[kind] * SLACK.get(kind, 1.01) * largest).all()
        assert error.max() > 0
    np.testing.assert_array_equal(model.blocks.scale_shift_table[1], tensors["blocks.1.modulation"])


KINDS = ("Q8_0", "Q6_K", "Q5_0", "Q5_1", "Q5_K", "Q4_0", "Q4_1", "Q4_K", "Q3_K", "Q2_K")


@pytest.mark.parametrize("kind", [*KINDS, "IQ4_NL", "IQ4_XS"])
def test_every_kind_of_block_is_widened_whole_and_in_part(tmp_path, kind):
    """Blocks of any bytes, since the package writes no K-quants: its own reading is the truth."""
    kind = Kind[kind]
    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 64, (24, 768 // numbers * size), dtype=np.uint8)
    expected = gguf.dequantize(raw, kind)
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "wan")
    writer.add_tensor("head.modulation", np.zeros((1, 2, 8), np.float32))
    writer.add_tensor("blocks.0.ffn.0.weight", raw, raw_dtype=kind)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file):
        write()
    writer.write_tensors_to_file()
    writer.close()
    files = part_files("transformer", tmp_path / "a.gguf")
    key = "blocks.0.ffn.net.0.proj.weight"
    assert (files.shape(key), files.dtype(key)) == ((24, 768), "F32")
    for rows, columns in ((slice(0, 24), slice(0, 768)), (slice(5, 17), slice(100, 613))):
        np.testing.assert_array_equal(files.read(key, (rows, columns)), expected[rows, columns])
    assert files.stored_dtypes() == {"F32": 1, kind.name: 1}


def test_folded_tensors_have_their_shape_again(tmp_path):
    """ComfyUI-GGUF folds what has no rows of whole blocks, and says what it was."""
    rng = np.random.default_rng(0)
    tensor = rng.normal(size=(16, 8, 4, 3)).astype(np.float32)
    shapes = {"x.weight": tensor.shape}
    tensors = {"x.weight": tensor.reshape(-1, 256), "head.modulation": np.zeros(4, np.float32)}
    file = save_gguf(tensors, tmp_path / "a.gguf", Kind.Q8_0, shapes=shapes)
    expected = gguf.dequantize(gguf.quantize(tensor.reshape(-1, 256), Kind.Q8_0), Kind.Q8_0)
    part = (slice(3, 9), slice(1, 5), slice(0, 4), slice(0, 3))
    files = part_files("transformer", file)
    np.testing.assert_array_equal(
        files.read("x.weight", part), expected.reshape(tensor.shape)[part]
    )
    shapes = {"x.weight": (16, 8, 4, 4)}
    file = save_gguf(tensors, tmp_path / "b.gguf", Kind.Q8_0, shapes=shapes)
    with pytest.raises(CheckpointError, match=r"orig_shape\.x\.weight is \[16, 8, 4, 4\], of a"):
        part_files("transformer", file)


UMT5 = {
    "shared": "token_embd",
    "encoder.final_layer_norm": "enc.output_norm",
    "encoder.block.{}.layer.0.layer_norm": "enc.blk.{}.attn_norm",
    "encoder.block.{}.layer.1.layer_norm": "enc.blk.{}.ffn_norm",
    "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias": "enc.blk.{}.attn_rel_b",
    **{f"encoder.block.{{}}.layer.0.SelfAttention.{x}": f"enc.blk.{{}}.attn_{x}" for x in "qkvo"},
    "encoder.block.{}.layer.1.DenseReluDense.wi_0": "enc.blk.{}.ffn_gate",
    "encoder.block.{}.layer.1.DenseReluDense.wi_1": "enc.blk.{}.ffn_up",
    "encoder.block.{}.layer.1.DenseReluDense.wo": "enc.blk.{}.ffn_down",
}


def test_a_text_encoder_by_ggufs_names(small_folder, tmp_path):
    theirs = {
        f"{ours.format(i)}.weight": f"{name.format(i)}.weight"
        for ours, name in UMT5.items()
        for i in range(2)
    }
    tensors = {theirs[key]: x for key, x in tensors_of(small_folder / "text_encoder").items()}
    file = save_gguf(tensors, tmp_path / "umt5.gguf", Kind.F32, "t5encoder")
    ours = Folder.open(small_folder, {"text_encoder": file}).load_text_encoder(dtype=np.float32)
    expected = Folder.open(small_folder).load_text_encoder(dtype=np.float32)
    np.testing.assert_array_equal(ours.shared.weight, expected.shared.weight)
    for name in ("q", "o"):
        kernels = (getattr(m.block.attention, name).kernel for m in (ours, expected))
        np.testing.assert_array_equal(*kernels)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-100]), "no GGUF file, or is cut short"),
        (lambda file: file.write_bytes(file.read_bytes()[:50]), "no GGUF file, or is cut short"),
        (lambda file: file.write_bytes(b"other" * 100), "no GGUF file.* magic invalid"),
        (lambda file: file.write_bytes(b""), "no GGUF file"),
    ],
    ids=["a tensor cut short", "a header cut short", "no magic", "empty"],
)
def test_damaged_files(small_folder, tmp_path, damage, text):
    tensors = original_tensors(small_folder, "transformer")
    file = save_gguf(tensors, tmp_path / "model.gguf", Kind.Q8_0)
    damage(file)
    with pytest.raises(CheckpointError, match=rf"model\.gguf is {text}"):
        part_files("transformer", file)


def test_a_file_without_what_gguf_cannot_hold(small_folder, tmp_path):
    """As llama-quantize leaves it, before the tool of ComfyUI-GGUF has put the patches back."""
    tensors = original_tensors(small_folder, "transformer")
    del tensors["patch_embedding.weight"]
    file = save_gguf(tensors, tmp_path / "model.gguf", Kind.Q8_0)
    folder = Folder.open(small_folder, {"transformer": file})
    with pytest.raises(CheckpointError, match=r"model\.gguf .*1 missing: patch_embedding\.weight"):
        folder.checking().load_transformer("transformer")


def test_without_the_package(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(CheckpointError, match=r'pip install "wanjax\[gguf\]"'):
        container.gguf_header(tmp_path / "model.gguf")
