"""The authors' folders and ComfyUI's single files: the same numbers as the diffusers folder."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile

import jax
import numpy as np
import pytest
from flax import nnx
from other_layouts import (
    original_tensors,
    save_original,
    save_pth,
    tensors_of,
)
from safetensors.numpy import save_file
from small_folder import SMALL_RUN
from test_gguf import Kind, save_gguf

from wanjax.checkpoints import tensor_files
from wanjax.checkpoints.alike import models_of
from wanjax.checkpoints.containers import read_header
from wanjax.checkpoints.folder import Folder
from wanjax.checkpoints.folder_values import folder_values
from wanjax.checkpoints.layouts.diffusers import transformer as transformer_keys
from wanjax.checkpoints.layouts.diffusers import umt5 as umt5_keys
from wanjax.checkpoints.layouts.diffusers import vae as vae_keys
from wanjax.checkpoints.layouts.names import inverted, renamed
from wanjax.checkpoints.layouts.original import transformer as transformer_names
from wanjax.checkpoints.layouts.original import umt5 as umt5_names
from wanjax.checkpoints.layouts.original import vae as vae_names
from wanjax.checkpoints.layouts.recognise import part_files
from wanjax.checkpoints.mapping import entries
from wanjax.checkpoints.presence import presence
from wanjax.checkpoints.published_models import published
from wanjax.cli.main import main
from wanjax.config.resolve import resolve
from wanjax.errors import CheckpointError, UsageError
from wanjax.evaluate.runner import weights_of
from wanjax.models.configs import TransformerConfig, UMT5Config, VAEConfig
from wanjax.models.layers import Undrawn
from wanjax.models.transformer import WanTransformer
from wanjax.models.umt5 import UMT5Encoder
from wanjax.models.vae import WanVAE
from wanjax.pipeline.components import Components

PARTS = ("transformer", "transformer_2", "vae", "text_encoder")


@pytest.fixture(scope="module")
def original(small_folder, tmp_path_factory):
    return save_original(small_folder, tmp_path_factory.mktemp("models") / "original")


def loaded(folder: Folder, part: str) -> nnx.Module:
    if part in folder.experts:
        return folder.load_transformer(part, dtype=np.float32)
    return {"vae": folder.load_vae, "text_encoder": folder.load_text_encoder}[part]()


def require_equal(ours: Folder, theirs: Folder) -> None:
    for part in PARTS:
        pairs = [jax.tree.leaves(nnx.state(loaded(f, part))) for f in (ours, theirs)]
        for a, b in zip(*pairs, strict=True):
            np.testing.assert_array_equal(a, b)


def test_an_original_folder_is_the_same_model(small_folder, original):
    """Its .pth files are read without torch."""
    assert presence(str(original)).state == "here"
    assert folder_values(original) == {
        "model": str(original),
        "task": "t2v",
        "boundary_ratio": 0.875,
        "flow_shift": 5.0,
    }
    require_equal(Folder.open(original), Folder.open(small_folder))


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model.", "model."])
def test_single_files_are_parts_of_a_model(small_folder, tmp_path, prefix):
    parts = {}
    for part in PARTS:
        of_it = prefix if "transformer" in part or prefix == "model." else ""
        tensors = {of_it + key: x for key, x in original_tensors(small_folder, part).items()}
        parts[part] = tmp_path / f"{part}.safetensors"
        save_file(tensors, parts[part])
    require_equal(Folder.open(small_folder, parts), Folder.open(small_folder))


def test_a_file_of_all_parts(small_folder, tmp_path):
    prefixes = {
        "transformer": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder": "text_encoders.umt5xxl.transformer.",
    }
    tensors = {
        prefix + key: x
        for part, prefix in prefixes.items()
        for key, x in (
            tensors_of(small_folder / part)
            if part == "text_encoder"
            else original_tensors(small_folder, part)
        ).items()
    }
    tensors["text_encoders.umt5xxl.logit_scale"] = np.ones(1, np.float32)
    file = tmp_path / "all.safetensors"
    save_file(tensors, file)
    parts = dict.fromkeys(prefixes, file) | {"transformer_2": small_folder / "transformer_2"}
    folder = Folder.open(small_folder, parts)
    require_equal(folder, Folder.open(small_folder))
    checking = folder.checking()
    checking.load_vae()
    said = str(checking.readings["vae"])
    count = len(tensors_of(small_folder / "vae"))
    assert f"{file}: the authors' names, {count} F32, {count} used; " in said
    assert "skipped, of the transformer, which this file has too (model.diffusion_model." in said


def test_parts_by_key_leave_the_model_its_other_files(small_folder, original, tmp_path):
    """All of them are looked at before anything is read."""
    shutil.copytree(
        small_folder, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors")
    )
    given = {
        "transformer": original / "high_noise_model",
        "transformer_2": original / "low_noise_model",
        "vae": original / "Wan2.1_VAE.pth",
        "text_encoder": original / "models_t5_umt5-xxl-enc-bf16.pth",
    }
    arguments = [f"{part}={place}" for part, place in given.items()]
    config = resolve([f"model={tmp_path / 'model'}", *arguments, "weights_dtype=float32"], "plan")
    components = Components.of(config)
    assert {part: reading.place for part, reading in components.readings.items()} == given
    require_equal(components.folder, Folder.open(small_folder))
    config = resolve([f"model={tmp_path / 'model'}", *arguments[:2]], "plan")
    with pytest.raises(CheckpointError, match=r"it lacks text_encoder/\*\.safetensors, vae/\*"):
        Components.of(config)


@pytest.mark.slow
def test_generating_from_files(small_folder, original, tmp_path, capsys, monkeypatch):
    """And what was read is said, in one line a part."""
    monkeypatch.chdir(tmp_path)
    parts = [
        f"transformer={original}/high_noise_model",
        f"transformer_2={original}/low_noise_model",
        f"vae={original}/Wan2.1_VAE.pth",
        f"text_encoder={original}/models_t5_umt5-xxl-enc-bf16.pth",
        f"tokenizer={original}/google/umt5-xxl",
    ]
    run = ["a red ball", *SMALL_RUN]
    assert main(["generate", f"model={small_folder}", *run, "output=a/"]) == 0
    capsys.readouterr()
    assert main(["generate", f"model={small_folder}", *parts, *run, "output=b/"]) == 0
    said = capsys.readouterr().err
    assert f"vae from {original}/Wan2.1_VAE.pth: the authors' names, " in said
    for frame in sorted((tmp_path / "a").glob("*.png")):
        assert frame.read_bytes() == (tmp_path / "b" / frame.name).read_bytes()


# What does not fit is refused, by the names of the file


def refused(small_folder, part, file) -> str:
    checking = Folder.open(small_folder, {part: file}).checking()
    with pytest.raises(CheckpointError) as error:
        loaded(checking, part)
    return str(error.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".gguf"])
def test_a_renamed_key_is_named_as_the_file_has_it(small_folder, tmp_path, suffix):
    tensors = original_tensors(small_folder, "transformer")
    tensors["blocks.1.self_attn.qq.weight"] = tensors.pop("blocks.1.self_attn.q.weight")
    file = tmp_path / f"model{suffix}"
    tensors = {f"model.diffusion_model.{key}": x for key, x in tensors.items()}
    if suffix == ".gguf":
        save_gguf(tensors, file, Kind.F32)
    else:
        (save_pth if suffix == ".pth" else save_file)(tensors, file)
    said = refused(small_folder, "transformer", file)
    assert said.startswith(f"{file} does not hold this model: 1 missing: ")
    assert "model.diffusion_model.blocks.1.self_attn.q.weight [32, 32]; 1 unexpected: " in said
    assert "model.diffusion_model.blocks.1.self_attn.qq.weight [32, 32]" in said


def test_what_does_not_fit_is_said_before_anything_is_read(small_folder, tmp_path, monkeypatch):
    """The transformer's fault, though the text encoder would be read first."""
    tensors = original_tensors(small_folder, "transformer_2")
    del tensors["blocks.0.ffn.2.bias"]
    save_file(tensors, tmp_path / "low.safetensors")
    monkeypatch.setattr(tensor_files, "_read_into", None)
    monkeypatch.setattr(tensor_files, "_copy_mapped", None)
    low = tmp_path / "low.safetensors"
    arguments = [f"transformer={small_folder}/transformer", f"transformer_2={low}"]
    config = resolve([f"model={small_folder}", *arguments], "plan")
    with pytest.raises(CheckpointError, match=rf"{low} .*1 missing: blocks\.0\.ffn\.2\.bias"):
        Components.of(config)


def test_a_key_that_two_files_have(small_folder, tmp_path):
    """As the shards of two precisions in one folder."""
    for name in ("model.fp16.safetensors", "model.safetensors"):
        save_file(tensors_of(small_folder / "transformer"), tmp_path / name)
    said = refused(small_folder, "transformer", tmp_path)
    assert "model.fp16.safetensors and in " in said


@pytest.mark.parametrize(
    ("mark", "form"), [("vace_blocks.0.after_proj.bias", "VACE"), ("control_adapter.x", "Control")]
)
def test_other_forms_of_wan_are_refused_by_name(small_folder, tmp_path, mark, form):
    tensors = original_tensors(small_folder, "transformer") | {mark: np.zeros(1, np.float32)}
    save_file(tensors, tmp_path / "model.safetensors")
    assert form in refused(small_folder, "transformer", tmp_path / "model.safetensors")


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_refused_and_not_run(small_folder, tmp_path):
    file = tmp_path / "Wan2.1_VAE.pth"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": Harmful(tmp_path / "made")}, 2))
    said = refused(small_folder, "vae", file)
    assert f"{file} is refused: it asks for {os.mkdir.__module__}.mkdir" in said
    assert not (tmp_path / "made").exists()


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def compressed(path):
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def shortened(path):
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content[:-4] if name == "archive/data/0" else content)


def a_list(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([1, 2], 2))


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (cut, "is no file of torch.save, or is cut short"),
        (compressed, "is no file of torch.save: read is the form"),
        (shortened, "conv1.weight is cut short"),
        (a_list, "holds a list, expected named tensors"),
        (lambda path: path.write_bytes(pickle.dumps({})), "is no file of torch.save"),
    ],
    ids=["cut", "compressed", "a tensor cut short", "no mapping", "old form"],
)
def test_damaged_pth(small_folder, tmp_path, damage, text):
    tensors = original_tensors(small_folder, "vae")
    tensors = {"conv1.weight": tensors.pop("conv1.weight"), **tensors}
    file = save_pth(tensors, tmp_path / "vae.pth")
    damage(file)
    said = refused(small_folder, "vae", file)
    assert str(file) in said
    assert text in said


@pytest.mark.parametrize("suffix", [".pth", ".gguf"])
def test_bytes_that_are_others_raise_no_other_error(tmp_path, suffix):
    """Somewhere in what says where tensors lie, one byte or several."""
    tensors = {f"blocks.{i}.weight": np.ones((8, 64), np.float32) for i in range(4)}
    file = tmp_path / f"x{suffix}"
    save_pth(tensors, file) if suffix == ".pth" else save_gguf(tensors, file, Kind.Q8_0)
    whole = file.read_bytes()
    places = [*range(900), *range(len(whole) - 900, len(whole))]
    rng = np.random.default_rng(0)
    refusals = []
    for count in (1, 2, 5) * 60:
        damaged = bytearray(whole)
        for place in rng.choice(places, count):
            damaged[place] = rng.integers(256)
        file.write_bytes(damaged)
        try:
            read_header(file)
        except CheckpointError as error:
            refusals.append(str(error))
    assert len(refusals) > 50
    assert all(str(file) in text for text in refusals)


# Configurations


def test_a_variant_with_other_files_has_weights_of_its_own(small_folder):
    """In `wanjax compare`: else the reference's would be measured under its name."""
    given = [f"model={small_folder}", f"vae={small_folder}/vae"]
    plain, other = resolve(given[:1], "plan"), resolve(given, "plan")
    assert weights_of(plain) == weights_of(resolve([*given[:1], "num_inference_steps=4"], "plan"))
    assert weights_of(plain) != weights_of(other)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["transformer=no.safetensors"], "no.safetensors: there is no such file or folder"),
        (["wan2.2-t2v-a14b", "transformer={high}"], "give the other's as transformer_2="),
        (
            ["wan2.2-t2v-a14b", "transformer={low}", "transformer_2={high}"],
            "by its name it is the low",
        ),
        (["wan2.1-t2v-1.3b", "transformer_2={high}"], "this model has one expert"),
        (["transformer={high}"], "fits no preset by its shapes: name one"),
        (["model={vae}"], "is no transformer of Wan: patch_embedding.weight is not there"),
    ],
)
def test_parts_that_cannot_be(original, arguments, text):
    places = {kind: original / f"{kind}_noise_model" for kind in ("high", "low")}
    places |= {"vae": original / "Wan2.1_VAE.pth"}
    with pytest.raises(UsageError, match=text):
        resolve([a.format(**places) for a in arguments], "plan")


def wide(tmp_path, width, channels, layers, name="model.safetensors", **more):
    """A file whose header has a published model's shapes, of one byte a number."""
    file = tmp_path / name
    tensors = {"patch_embedding.weight": np.zeros((width, channels, 1, 2, 2), np.int8)}
    tensors |= {f"blocks.{i}.modulation": np.zeros(1, np.int8) for i in range(layers)}
    save_file(tensors | {key: np.zeros(1, np.int8) for key in more.get("keys", ())}, file)
    return file


def test_a_single_file_names_its_preset_by_its_shapes(tmp_path):
    small, large = wide(tmp_path, 1536, 16, 30), wide(tmp_path, 5120, 16, 40, "b.safetensors")
    config = resolve([f"model={small}"], "plan")
    assert (config.preset, config.transformer) == ("wan2.1-t2v-1.3b", str(small))
    assert config.model == "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    with pytest.raises(UsageError, match=r"fits wan2.1-t2v-14b and wan2.2-t2v-a14b: name one"):
        resolve([f"model={large}"], "plan")
    pair = [f"transformer={large}", f"transformer_2={large}"]
    assert resolve(pair, "plan").preset == "wan2.2-t2v-a14b"
    assert models_of(wide(tmp_path, 5120, 36, 40, "c.safetensors", keys=["img_emb.emb_pos"])) == [
        "Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers"
    ]


def test_other_models_in_original_folders(tmp_path):
    (tmp_path / "models_t5_umt5-xxl-enc-bf16.pth").touch()
    (tmp_path / "diffusion_pytorch_model.safetensors").touch()
    (tmp_path / "Wan2.2_VAE.pth").touch()
    config = {"model_type": "ti2v", "dim": 3072, "num_heads": 24, "in_dim": 48, "out_dim": 48}
    config |= {"num_layers": 30, "ffn_dim": 14336}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert folder_values(tmp_path)["task"] == "ti2v"
    assert resolve([f"model={tmp_path}"], "plan").preset == "wan2.2-ti2v-5b"
    assert presence(str(tmp_path)).lacking == ("tokenizer",)
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "vace"}))
    with pytest.raises(CheckpointError, match=r"config\.json: .*WanVACEPipeline is VACE"):
        folder_values(tmp_path)


# Tables, by the authors' sources


@pytest.mark.parametrize("model", sorted(published()))
def test_every_published_tensor_has_one_name_of_the_authors(model):
    """And back: none is lost, and no two become one."""
    components = published()[model].components
    vae = VAEConfig.from_dict(components["vae"])
    made = {
        "transformer": WanTransformer(
            TransformerConfig.from_dict(components["transformer"]), rngs=Undrawn()
        ),
        "vae": WanVAE(vae, rngs=Undrawn()),
        "text_encoder": UMT5Encoder(
            UMT5Config.from_dict(components["text_encoder"]), rngs=Undrawn()
        ),
    }
    rules = {"transformer": transformer_keys.RULES, "vae": vae_keys.rules(vae)}
    tables = {"transformer": transformer_names.NAMES, "vae": vae_names.names(vae)}
    rules["text_encoder"], tables["text_encoder"] = umt5_keys.RULES, umt5_names.NAMES
    for part, model in made.items():
        keys = [key for e in entries(nnx.split(model)[1], rules[part]) for key in e.keys]
        theirs = {key: renamed(key, inverted(tables[part])) for key in keys}
        assert None not in theirs.values()
        assert len(set(theirs.values())) == len(keys)
        assert all(renamed(name, tables[part]) == key for key, name in theirs.items())
        if part == "transformer":
            ends = components[part]["pos_embed_seq_len"] is not None
            kind = components[part]["image_dim"], components[part]["num_layers"]
            assert len(keys) == COUNTS[kind] + ends


# What the authors' files hold, by whether there is CLIP and by their depth.
COUNTS = {(None, 30): 825, (None, 40): 1095, (1280, 40): 1303}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("encoder.downsamples.1.downsamples.2.time_conv.bias", "down_blocks.1.downsampler.time_"),
        ("encoder.downsamples.0.downsamples.0.residual.2.bias", "down_blocks.0.resnets.0.conv1"),
        ("decoder.upsamples.0.upsamples.3.resample.1.bias", "up_blocks.0.upsampler.resample.1"),
        ("decoder.upsamples.3.upsamples.2.residual.6.bias", "up_blocks.3.resnets.2.conv2.bias"),
        ("decoder.upsamples.2.upsamples.0.shortcut.bias", "up_blocks.2.resnets.0.conv_shortcut"),
    ],
)
def test_the_vae_of_the_5b_model(theirs, ours):
    config = VAEConfig(is_residual=True, patch_size=2, in_channels=12, out_channels=12)
    assert ours in str(renamed(theirs, vae_names.names(config)))


def test_clip_of_the_authors(tmp_path):
    """Queries, keys and values lie in one tensor, and there is a text tower beside."""
    rng = np.random.default_rng(0)
    tensors = {
        "visual.cls_embedding": rng.normal(size=(1, 1, 4)),
        "visual.pos_embedding": rng.normal(size=(1, 5, 4)),
        "visual.transformer.0.attn.to_qkv.weight": rng.normal(size=(12, 4)),
        "visual.transformer.0.attn.to_qkv.bias": rng.normal(size=12),
        "visual.transformer.0.mlp.0.weight": rng.normal(size=(8, 4)),
        "textual.head.0.weight": rng.normal(size=(2, 2)),
        "log_scale": rng.normal(size=()),
    }
    tensors = {key: np.asarray(x, np.float32) for key, x in tensors.items()}
    files = part_files("image_encoder", save_pth(tensors, tmp_path / "clip.pth"))
    attention = "encoder.layers.0.self_attn"
    for i, name in enumerate("qkv"):
        for leaf in ("weight", "bias"):
            key = f"{attention}.{name}_proj.{leaf}"
            fused = tensors[f"visual.transformer.0.attn.to_qkv.{leaf}"]
            np.testing.assert_array_equal(whole(files, key), fused[4 * i : 4 * i + 4])
    assert whole(files, "embeddings.class_embedding").shape == (4,)
    assert whole(files, "embeddings.position_embedding.weight").shape == (5, 4)
    assert files.shape("encoder.layers.0.mlp.fc1.weight") == (8, 4)
    assert set(files.arranged.skipped) == {"textual.head.0.weight", "log_scale"}


def whole(files, key):
    return files.read(key, tuple(slice(0, size) for size in files.shape(key)))
