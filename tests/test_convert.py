"""Files written anew: the same model in every layout, other numbers, interrupted and gone on."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import gguf
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from other_layouts import original_tensors, save_original, tensors_of
from safetensors.numpy import load_file, save_file
from test_gguf import Kind, save_gguf

from wanjax.checkpoints import convert as converting
from wanjax.checkpoints.folder import Folder
from wanjax.checkpoints.layouts.recognise import part_files
from wanjax.checkpoints.presence import presence
from wanjax.checkpoints.writing import Out, pieces_of, write_tensors
from wanjax.cli.main import main
from wanjax.errors import UsageError

PARTS = ("transformer", "transformer_2", "vae", "text_encoder")
COMFYUI = {
    "transformer": "transformer_high_noise.safetensors",
    "transformer_2": "transformer_low_noise.safetensors",
    "vae": "vae.safetensors",
    "text_encoder": "text_encoder.safetensors",
}


def weights(folder: Folder, part: str) -> list[np.ndarray]:
    if part in folder.experts:
        model = folder.load_transformer(part, dtype=np.float32)
    elif part == "vae":
        model = folder.load_vae()
    else:
        model = folder.load_text_encoder(dtype=np.float32)
    return jax.tree.leaves(nnx.state(model))


def require_equal(ours: Folder, theirs: Folder, parts=PARTS) -> None:
    for part in parts:
        for a, b in zip(weights(ours, part), weights(theirs, part), strict=True):
            np.testing.assert_array_equal(a, b)


def opened(folder: Path, parts=PARTS, **given) -> converting.Opening:
    return converting.open_sources(Folder.open(folder, given), parts)


def test_every_layout_is_the_same_model(small_folder, tmp_path, capsys):
    """From diffusers' to the authors' and back, by the command; to ComfyUI's of the authors'."""
    source, original, back = small_folder, tmp_path / "original", tmp_path / "diffusers"
    assert main(["convert", str(source), str(original), "layout=original"]) == 0
    said = capsys.readouterr()
    assert f"wrote {original}: 4 files, " in said.out
    assert "GB/s" in said.out
    assert f"vae from {source}/vae: diffusers' names, " in said.err
    assert (original / "Wan2.1_VAE.pth").is_file()
    config = json.loads((original / "high_noise_model/config.json").read_text())
    assert (config["model_type"], config["dim"], config["num_heads"]) == ("t2v", 32, 2)
    assert presence(str(original)).state == "here"
    require_equal(Folder.open(original), Folder.open(source))

    assert main(["convert", str(original), str(back)]) == 0
    assert presence(str(back)).state == "here"
    for part in PARTS:
        ours, theirs = tensors_of(back / part), tensors_of(source / part)
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            np.testing.assert_array_equal(ours[key], tensor)
    index, theirs = (json.loads((f / "model_index.json").read_text()) for f in (back, source))
    assert index["boundary_ratio"] == theirs["boundary_ratio"]
    scheduler = json.loads((back / "scheduler/scheduler_config.json").read_text())
    assert scheduler["flow_shift"] == 5.0

    comfy = tmp_path / "comfyui"
    (original / "google/umt5-xxl/spiece.model").write_bytes(b"the tokenizer's pieces")
    assert main(["convert", str(original), str(comfy), "layout=comfyui"]) == 0
    assert {file.name for file in comfy.iterdir()} == set(COMFYUI.values())
    held = load_file(comfy / COMFYUI["text_encoder"])["spiece_model"]
    assert held.tobytes() == b"the tokenizer's pieces"
    assert "head.modulation" in load_file(comfy / COMFYUI["transformer"])
    given = {part: comfy / name for part, name in COMFYUI.items()}
    require_equal(Folder.open(source, given), Folder.open(source))


def test_numbers(small_folder, tmp_path):
    """What stays in float32 when it is loaded, and the VAE, stay as they were."""
    made = tmp_path / "made"
    converting.convert(opened(small_folder), made, "diffusers", "bfloat16")
    ours, theirs = (tensors_of(f / "transformer") for f in (made, small_folder))
    key = "blocks.0.attn1.to_q.weight"
    np.testing.assert_array_equal(ours[key], theirs[key].astype(jnp.bfloat16))
    assert ours["blocks.0.scale_shift_table"].dtype == ours["blocks.0.norm2.bias"].dtype == "f4"
    assert {x.dtype for x in tensors_of(made / "vae").values()} == {np.dtype(np.float32)}


def test_eight_bits_have_a_scale(small_folder, tmp_path):
    made = tmp_path / "made"
    converting.convert(opened(small_folder), made, "comfyui", "float8")
    files = part_files("transformer", made / COMFYUI["transformer"])
    original = tensors_of(small_folder / "transformer")
    key = "blocks.1.attn2.to_k.weight"
    scale = np.float32(np.abs(original[key]).max()) / np.float32(448)
    values = (original[key] / scale).astype(ml_dtypes.float8_e4m3fn)
    whole = (slice(0, 32), slice(0, 32))
    np.testing.assert_array_equal(files.read_rounded(key, whole), values)
    np.testing.assert_array_equal(files.read(key, whole), values.astype(np.float32) * scale)
    assert files.dtype("blocks.1.attn2.to_k.bias") == "BF16"
    assert files.dtype("proj_out.weight") == "BF16"
    folder = Folder.open(small_folder, {part: made / name for part, name in COMFYUI.items()})
    assert (weights(folder, "text_encoder")[0] != 0).any()


def test_gguf_becomes_bfloat16(small_folder, tmp_path):
    file = save_gguf(original_tensors(small_folder, "transformer"), tmp_path / "a.gguf", Kind.Q8_0)
    files = part_files("transformer", file)
    opening = opened(small_folder, ("transformer",), transformer=file)
    converting.convert(opening, tmp_path / "made", "diffusers", None)
    assert not (tmp_path / "made/model_index.json").exists()  # it is a part of a model
    ours = tensors_of(tmp_path / "made/transformer")
    key = "blocks.0.attn1.to_q.weight"
    expected = files.read(key, (slice(0, 32), slice(0, 32))).astype(jnp.bfloat16)
    np.testing.assert_array_equal(ours[key], expected)
    assert ours["blocks.0.attn1.to_q.bias"].dtype == np.float32  # as it was


def test_to_gguf_and_back_is_the_same_model(small_folder, tmp_path):
    made, back = tmp_path / "made", tmp_path / "back"
    converting.convert(opened(small_folder), made, "gguf", None)
    experts = {"transformer": "transformer_high_noise.gguf"}
    experts["transformer_2"] = "transformer_low_noise.gguf"
    parts = {part: made / name for part, name in (COMFYUI | experts).items()}
    require_equal(Folder.open(small_folder, parts), Folder.open(small_folder))
    converting.convert(opened(small_folder, **parts), back, "diffusers", None)
    for part in PARTS:
        ours, theirs = tensors_of(back / part), tensors_of(small_folder / part)
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            np.testing.assert_array_equal(ours[key], tensor)


@pytest.mark.parametrize("kind", ["q8_0", "q5_1", "q5_0", "q4_1", "q4_0"])
def test_gguf_files_are_as_their_package_rounds(small_folder, tmp_path, monkeypatch, kind):
    """Products of whole blocks; what is precise stays so, vectors are float32, others bfloat16."""
    monkeypatch.setattr(converting, "_PIECE", 200)  # some rows at a time
    opening = opened(small_folder, ("transformer",))
    converting.convert(opening, tmp_path / "made", "gguf", kind)
    reader = gguf.GGUFReader(tmp_path / "made/transformer_high_noise.gguf")
    held = {tensor.name: tensor for tensor in reader.tensors}
    original = original_tensors(small_folder, "transformer")
    assert held.keys() == original.keys()
    assert reader.get_field("general.architecture").contents() == "wan"
    for key, tensor in held.items():
        product = key.startswith("blocks.") and original[key].ndim == 2
        whole = product and not original[key].shape[1] % 32
        if whole:
            assert tensor.tensor_type == Kind[kind.upper()]
            expected = gguf.quantize(original[key], Kind[kind.upper()])
            np.testing.assert_array_equal(tensor.data, expected)
        elif tensor.tensor_type == Kind.F32:
            assert original[key].ndim == 1 or "modulation" in key or key.startswith("time_emb")
            np.testing.assert_array_equal(tensor.data.reshape(original[key].shape), original[key])
        else:
            assert tensor.tensor_type == Kind.BF16
    assert any(tensor.tensor_type == Kind.BF16 for tensor in held.values())


def test_shards_have_their_list(small_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(converting, "SHARD_BYTES", 30_000)
    converting.convert(opened(small_folder), tmp_path / "made", "diffusers", None)
    shards = sorted((tmp_path / "made/transformer").glob("*.safetensors"))
    assert len(shards) > 2
    listing = "diffusion_pytorch_model.safetensors.index.json"
    index = json.loads((tmp_path / "made/transformer" / listing).read_text())
    assert set(index["weight_map"].values()) == {shard.name for shard in shards}
    require_equal(Folder.open(tmp_path / "made"), Folder.open(small_folder))
    shards[1].unlink()
    assert presence(str(tmp_path / "made")).lacking == (f"transformer/{shards[1].name}",)


def test_an_interrupted_one_goes_on(small_folder, tmp_path, monkeypatch):
    """What is whole stays; nothing of a half-written file does, and no half model looks whole."""
    monkeypatch.setattr(converting, "SHARD_BYTES", 30_000)
    made = tmp_path / "made"

    def interrupt(done, total):
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        converting.convert(opened(small_folder), made, "diffusers", None, interrupt)
    there = {file: file.stat().st_mtime_ns for file in made.rglob("*.safetensors")}
    assert there
    assert not list(made.rglob("*partial*"))
    assert presence(str(made)).state == "not here"
    with pytest.raises(UsageError, match="holds a part of another conversion"):
        converting.convert(opened(small_folder), made, "diffusers", "bfloat16")
    done = converting.convert(opened(small_folder), made, "diffusers", None)
    assert done.kept == len(there)
    assert all(file.stat().st_mtime_ns == time for file, time in there.items())
    require_equal(Folder.open(made), Folder.open(small_folder))
    assert not list(made.glob(".*"))
    with pytest.raises(UsageError, match="is not empty: name another folder"):
        converting.convert(opened(small_folder), made, "diffusers", None)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "x.gguf"])
def test_some_pieces_are_in_memory_and_no_whole_tensor(tmp_path, name):
    rows, columns, piece = 4096, 1024, 2**16
    read = lambda index: np.full((index[0].stop - index[0].start, columns), 1, np.float32)  # noqa: E731
    shape = (rows, columns)
    out = Out("a.weight", "F32", shape, pieces_of(shape, read, piece))
    tracemalloc.start()
    write_tensors(tmp_path / name, [out], lambda size: None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < out.bytes / 3
    files = part_files("transformer", tmp_path / name)
    assert files.read("a.weight", (slice(0, rows), slice(0, columns))).sum() == rows * columns


def test_an_image_encoder_and_what_is_not_read_of_it(tmp_path, small_folder):
    """The authors' CLIP has queries, keys and values in one; it is written as transformers does."""
    source = save_original(small_folder, tmp_path / "source")
    width, hidden, layers = 8, 16, 2
    rng = np.random.default_rng(0)
    shapes = {"cls_embedding": (1, 1, width), "pos_embedding": (1, 5, width)}
    shapes |= {"patch_embedding.weight": (width, 3, 2, 2), "head": (width, 4)}
    for norm in ("pre_norm", "post_norm"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    for i in range(layers):
        layer = f"transformer.{i}"
        for name, out, into in (
            ("attn.to_qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.0", hidden, width),
            ("mlp.2", width, hidden),
        ):
            shapes |= {f"{layer}.{name}.weight": (out, into), f"{layer}.{name}.bias": (out,)}
        for norm in ("norm1", "norm2"):
            shapes |= {f"{layer}.{norm}.weight": (width,), f"{layer}.{norm}.bias": (width,)}
    tensors = {f"visual.{k}": rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    save_file(tensors | {"log_scale": np.ones(1, np.float32)}, source / f"{CLIP}.safetensors")
    extra = json.loads((source / "wanjax.json").read_text())
    extra["components"]["image_encoder"] = {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "image_size": 4,
        "patch_size": 2,
    }
    (source / "wanjax.json").write_text(json.dumps(extra))
    made = tmp_path / "made"
    converting.convert(opened(source, ("image_encoder",)), made, "diffusers", None)
    written = tensors_of(made / "image_encoder")
    query = "vision_model.encoder.layers.1.self_attn.q_proj.weight"
    np.testing.assert_array_equal(
        written[query], tensors["visual.transformer.1.attn.to_qkv.weight"][:width]
    )
    assert written["vision_model.embeddings.class_embedding"].shape == (width,)
    np.testing.assert_array_equal(written["visual_projection.weight"], tensors["visual.head"].T)
    again = Folder.open(source, {"image_encoder": made / "image_encoder"})
    pairs = zip(
        jax.tree.leaves(nnx.state(again.load_image_encoder())),
        jax.tree.leaves(nnx.state(Folder.open(source).load_image_encoder())),
        strict=True,
    )
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours, theirs)


CLIP = "models_clip_open-clip-xlm-roberta-large-vit-huge-14"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["a"], "takes two places; got 1: a"),
        (["wan2.1-t2v-1.3b", "out"], "is not here: give its folder, or parts as transformer=FILE"),
        (["no-such-folder", "out"], "there is no folder no-such-folder"),
        (["wanjax/tiny/t2v", "out", "layout=onnx"], "layout=onnx: must be"),
        (["wanjax/tiny/t2v", "out", "dtype=q8_0"], "dtype=q8_0 is of GGUF files alone: add layout"),
        (
            ["wanjax/tiny/t2v", "out", "layout=gguf", "dtype=float8"],
            "dtype=float8: with layout=gguf must be one of float32, bfloat16, float16, q8_0, q5_1",
        ),
        (["wanjax/tiny/t2v", "out", "dtype=int4"], "dtype=int4: must be"),
    ],
)
def test_what_cannot_be_converted(tmp_path, monkeypatch, capsys, arguments, text):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", *arguments]) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_part_of_a_model_that_is_not_here(tmp_path, monkeypatch, capsys):
    """Its configuration is the published one, to which the file must be."""
    monkeypatch.setattr("wanjax.cli.convert.presence", lambda *args: presence("no/where"))
    file = tmp_path / "wan.safetensors"
    save_file({"head.modulation": np.zeros(2, np.float32)}, file)
    arguments = ["convert", "wan2.1-t2v-1.3b", str(tmp_path / "out"), f"transformer={file}"]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert f"{file} does not hold this model: " in said
    assert not (tmp_path / "out").exists()
