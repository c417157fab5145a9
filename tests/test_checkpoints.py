"""Safetensors to parameters, on a model of a few tensors; folders in diffusers' layout."""

from __future__ import annotations

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file
from toy_checkpoint import DEPTH, RULES, WIDTH, tensors, toy

from wanjax.checkpoints.folder import Folder
from wanjax.checkpoints.folder_values import folder_values
from wanjax.checkpoints.load import load_parameters
from wanjax.checkpoints.locate import locate
from wanjax.checkpoints.mapping import TRANSFORMS, checkpoint_tensors
from wanjax.checkpoints.save import save_model
from wanjax.checkpoints.tensor_files import TensorFiles
from wanjax.errors import CheckpointError


def load(folder, model=None, files=None, **options):
    return load_parameters(model or toy(), RULES, files or TensorFiles(folder), **options)


def refused(folder, **options) -> str:
    with pytest.raises(CheckpointError) as error:
        load(folder, **options)
    return str(error.value)


def test_layouts_and_stacking(tmp_path):
    stored = tensors()
    save_file(stored, tmp_path / "model.safetensors")
    model = load(tmp_path)
    for i in range(DEPTH):
        np.testing.assert_array_equal(model.blocks.kernel[i], stored[f"blocks.{i}.weight"].T)
        np.testing.assert_array_equal(model.blocks.bias[i], stored[f"blocks.{i}.bias"])
    np.testing.assert_array_equal(model.norm.scale[...], stored["norm.weight"])
    np.testing.assert_array_equal(model.out.kernel[...], stored["out.weight"].T)


def test_sharded_files_are_one_checkpoint(tmp_path):
    stored = tensors()
    for number, start in enumerate(range(0, len(stored), 4)):
        part = dict(list(stored.items())[start : start + 4])
        save_file(part, tmp_path / f"model-{number:05}.safetensors")
    loaded = checkpoint_tensors(nnx.state(load(tmp_path)), RULES)
    assert loaded.keys() == stored.keys()
    for name, value in stored.items():
        np.testing.assert_array_equal(loaded[name], value)


def test_every_fault_is_listed_with_name_and_shape(tmp_path):
    stored = tensors()
    del stored["blocks.1.weight"], stored["norm.bias"]
    stored["lora.up"] = np.zeros((7, 2), np.float32)
    stored["out.weight"] = stored["out.weight"].T.copy()
    save_file(stored, tmp_path / "model.safetensors")
    assert refused(tmp_path) == (
        f"{tmp_path} does not hold this model: "
        "2 missing: blocks.1.weight [4, 4], norm.bias [4]; "
        "1 unexpected: lora.up [7, 2]; "
        "1 wrong shape: out.weight is [4, 2], expected [2, 4]"
    )


def test_long_lists_are_cut(tmp_path):
    save_file({"other": np.zeros(1)}, tmp_path / "model.safetensors")
    text = refused(tmp_path, model=toy(depth=20))
    assert "44 missing: blocks.0.bias [4]" in text
    assert "and 36 more" in text


def test_tensors_that_may_lie_about(tmp_path):
    save_file(tensors() | {"blocks.0.unused": np.zeros(1)}, tmp_path / "model.safetensors")
    assert "1 unexpected: blocks.0.unused [1]" in refused(tmp_path)
    load(tmp_path, unused={r"blocks\.\d+\.unused": "of no use"})


@pytest.mark.parametrize("stored_as", [np.float16, np.float32, np.float64])
def test_dtypes(tmp_path, stored_as):
    """What the reference keeps in float32 stays so, whatever the checkpoint and the wish."""
    save_file({k: v.astype(stored_as) for k, v in tensors().items()}, tmp_path / "m.safetensors")
    model = load(tmp_path, dtype=jnp.bfloat16)
    assert model.norm.scale[...].dtype == model.norm.bias[...].dtype == jnp.float32
    assert model.out.kernel[...].dtype == model.blocks.kernel[...].dtype == jnp.bfloat16


def test_bfloat16_checkpoint(tmp_path):
    save_file({k: v.astype(jnp.bfloat16) for k, v in tensors().items()}, tmp_path / "m.safetensors")
    model = load(tmp_path)
    expected = tensors()["out.weight"].astype(jnp.bfloat16).astype(np.float32).T
    np.testing.assert_array_equal(model.out.kernel[...], expected)


@pytest.mark.parametrize("stored_as", ["I8", "I64"])
def test_numbers_that_cannot_be_read_are_listed(tmp_path, stored_as):
    """Whole numbers are no weights, unless there are scales."""
    path = tmp_path / "m.safetensors"
    save_file(tensors(), path)
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + size])
    width = 8 if stored_as == "I64" else 1
    end = 0
    for entry in header.values():
        entry["dtype"] = stored_as
        start, end = end, end + int(np.prod(entry["shape"])) * width
        entry["data_offsets"] = [start, end]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
    text = refused(tmp_path)
    assert f"10 wrong type of numbers: blocks.0.bias is {stored_as}, expected F64, F32" in text


def cut_short(path):
    save_file(tensors(), path)
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    "write",
    [
        cut_short,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
    ],
    ids=["cut short", "empty", "git lfs pointer"],
)
def test_no_safetensors_file(tmp_path, write):
    write(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is no safetensors file, or is"):
        TensorFiles(tmp_path)


def test_no_file_at_all(tmp_path):
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors file"):
        TensorFiles(tmp_path)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_invert(name):
    transform = TRANSFORMS[name]
    ranks = {"copy": 2, "linear": 2, "conv2d": 4, "conv3d": 5, "gamma2d": 1, "gamma3d": 1}
    ours = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 6)[: ranks[name]])
    stored = transform.save(ours)
    assert stored.shape == transform.stored(ours.shape, 1)
    np.testing.assert_array_equal(transform.load(stored), ours)


def test_saved_model_loads(tmp_path):
    save_file(tensors(), tmp_path / "model.safetensors")
    model = load(tmp_path)
    save_model(model, RULES, {"width": WIDTH}, tmp_path / "saved", dtype=np.float32)
    assert json.loads((tmp_path / "saved/config.json").read_text()) == {"width": WIDTH}
    (file,) = (tmp_path / "saved").glob("*.safetensors")
    for name, value in load_file(file).items():
        np.testing.assert_array_equal(value, tensors()[name])


# Folders


@pytest.fixture
def folder(small_folder, tmp_path):
    """A copy to be spoilt, without its tensors."""
    ignore = shutil.ignore_patterns("*.safetensors")
    return shutil.copytree(small_folder, tmp_path / "model", ignore=ignore)


def rewrite(path, **changes):
    """Change keys of a JSON file; a key of value `...` is taken out."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))


def test_what_a_folder_has(folder):
    opened = Folder.open(folder)
    assert opened.experts == ("transformer", "transformer_2")
    values = folder_values(folder)
    assert (values["boundary_ratio"], values["flow_shift"]) == (0.8, 5.0)


@pytest.mark.parametrize("absent", [..., None, [None, None]], ids=["left out", "null", "nulls"])
def test_old_folders(folder, absent):
    """Published before Wan 2.2: keys are missing, or null in either form."""
    rewrite(folder / "model_index.json", transformer_2=absent, boundary_ratio=...)
    rewrite(folder / "transformer/config.json", pos_embed_seq_len=..., image_dim=...)
    rewrite(folder / "vae/config.json", decoder_base_dim=..., patch_size=..., clip_output=False)
    opened = Folder.open(folder)
    assert opened.experts == ("transformer",)
    assert folder_values(folder)["boundary_ratio"] is None
    assert opened.transformer_config().image_dim is None
    assert opened.vae_config().spatial_factor == 8


def test_folders_that_are_none(folder, tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        Folder.open(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"model_index\.json is missing"):
        Folder.open(folder / "vae")
    rewrite(folder / "model_index.json", _class_name="FluxPipeline")
    with pytest.raises(CheckpointError, match="_class_name='FluxPipeline': must be 'WanPipeline'"):
        Folder.open(folder)
    (folder / "model_index.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="holds a list, expected an object"):
        Folder.open(folder)
    (folder / "model_index.json").write_text('{"_class')
    with pytest.raises(CheckpointError, match=r"model_index\.json is cut short or not valid JSON"):
        Folder.open(folder)


@pytest.mark.parametrize(
    ("file", "changes", "text"),
    [
        ("model_index.json", {"transformer": ...}, "transformer is missing"),
        ("model_index.json", {"transformer": [None, None]}, "transformer is missing"),
        ("model_index.json", {"transformer_2": "yes"}, "transformer_2='yes': must be a list"),
        ("model_index.json", {"boundary_ratio": ...}, "boundary_ratio is missing: two transf"),
        ("model_index.json", {"boundary_ratio": "0.9"}, "boundary_ratio='0.9': must be a number"),
        ("model_index.json", {"boundary_ratio": 900}, "boundary_ratio=900: must be below 1"),
        ("transformer/config.json", {"in_channels": "16"}, "in_channels='16': must be a whole"),
        ("transformer/config.json", {"out_channels": 0}, "out_channels=0: must be at least 1"),
        ("scheduler/scheduler_config.json", {"flow_shift": 0}, "flow_shift=0: must be above 0"),
        ("scheduler/scheduler_config.json", {"shift": [3]}, r"shift=\[3\]: must be a number"),
    ],
)
def test_what_a_folder_says_is_checked_without_a_model(folder, file, changes, text):
    rewrite(folder / file, **changes)
    with pytest.raises(CheckpointError, match=text) as caught:
        folder_values(folder)
    assert str(caught.value).startswith(f"{folder / file}: ")


@pytest.mark.parametrize(
    ("load", "file", "changes", "text"),
    [
        ("transformer", "transformer/config.json", {"num_layers": 10**9}, "must be at most 1000"),
        ("vae", "vae/config.json", {"latents_std": [1, 1, 0, 1]}, r"latents_std\[2\]=0: must be"),
        ("text_encoder", "text_encoder/config.json", {"d_model": 0}, "d_model=0: must be at least"),
        (
            "image_encoder",
            "image_encoder/config.json",
            {"patch_size": 1.5},
            "must be a whole number",
        ),
        ("image_processor", "image_processor/preprocessor_config.json", {"size": 0}, "at least 1"),
    ],
)
def test_impossible_sizes_are_refused_before_a_tensor_is_looked_at(
    folder, load, file, changes, text
):
    """The folder has no tensors, which would be the next complaint."""
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).touch()
    (folder / file).write_text((folder / file).read_text() or "{}")
    rewrite(folder / file, **changes)
    arguments = ["transformer"] if load == "transformer" else []
    with pytest.raises(CheckpointError, match=text) as caught:
        getattr(Folder.open(folder), f"load_{load}")(*arguments)
    assert str(caught.value).startswith(f"{folder / file}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"num_layers": 2, "num_layers": 3}', "num_layers is given twice"),
        ('{"eps": NaN}', "NaN is no finite number"),
        ('{"eps": -Infinity}', "-Infinity is no finite number"),
        ('{"eps": 1e999}', "1e999 is no finite number"),
        ('{"deep": {"a": 1, "a": 1}}', "a is given twice"),
        ('"transformer"', "holds a str, expected an object"),
        ("null", "holds a NoneType, expected an object"),
        ("[" * 10**5, "is cut short or not valid JSON"),
        ("", "is cut short or not valid JSON"),
    ],
    ids=lambda value: value[:20],
)
def test_json_is_read_without_guessing(folder, text, message):
    file = folder / "transformer/config.json"
    file.write_text(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        Folder.open(folder).load_transformer("transformer")
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("model", ["m" * 5000, "~nobody-has-this-name/model"])
def test_names_that_can_be_no_folder(model):
    with pytest.raises(CheckpointError, match="can be no folder"):
        locate(model)


def test_a_folder_without_its_weights(folder):
    with pytest.raises(CheckpointError, match=r"transformer_2: no \*\.safetensors file"):
        Folder.open(folder).load_transformer("transformer_2")
