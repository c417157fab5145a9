"""LoRAs in every spelling: the same change, merged as tensors are read; what does not fit."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from wanjax.checkpoints.lora_merge import MergedFiles
from wanjax.checkpoints.loras import LoRA, expert_loras
from wanjax.checkpoints.tensor_files import TensorFiles
from wanjax.errors import CheckpointError

RANK, OUT, IN = 2, 6, 4
RNG = np.random.default_rng(0)
BASE = {
    "blocks.0.attn1.to_q.weight": (OUT, IN),
    "blocks.0.attn1.to_q.bias": (OUT,),
    "blocks.0.attn1.norm_q.weight": (OUT,),
    "blocks.0.ffn.net.0.proj.weight": (8, OUT),
    "blocks.0.norm2.weight": (OUT,),
    "blocks.0.scale_shift_table": (1, 6, OUT),
    "patch_embedding.weight": (OUT, 9, 1, 2, 2),
    "proj_out.weight": (4, OUT),
}
WEIGHTS = {key: RNG.normal(size=shape).astype(np.float32) for key, shape in BASE.items()}
DOWN, UP = (RNG.normal(size=s).astype(np.float32) for s in ((RANK, IN), (OUT, RANK)))
CHANGE = UP @ DOWN
SPELLINGS = {  # names of the module and its two halves, alpha; of the same change of `to_q`
    "diffusers": ("transformer.blocks.0.attn1.to_q", "lora_A.weight", "lora_B.weight", None),
    "peft": (
        "base_model.model.blocks.0.attn1.to_q",
        "lora_A.default.weight",
        "lora_B.default.weight",
        None,
    ),
    "original": ("diffusion_model.blocks.0.self_attn.q", "lora_A.weight", "lora_B.weight", None),
    "lightx2v": ("diffusion_model.blocks.0.self_attn.q", "lora_down.weight", "lora_up.weight", 1.0),
    "kohya": ("lora_unet_blocks_0_self_attn_q", "lora_down.weight", "lora_up.weight", 4.0),
    "bare": ("blocks.0.self_attn.q", "lora_A", "lora_B", None),
    "dotted": ("blocks.0.self_attn.q", "lora.down.weight", "lora.up.weight", None),
}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "transformer"
    folder.mkdir()
    save_file(WEIGHTS, folder / "model.safetensors")
    return folder


def merged(folder, tensors, strength=1.0, name="lora.safetensors"):
    path = folder.parent / name
    save_file({key: np.ascontiguousarray(x) for key, x in tensors.items()}, path)
    return MergedFiles(TensorFiles(folder), [LoRA(path, strength)])


def whole(files, key):
    return files.read(key, tuple(slice(0, size) for size in files.shape(key)))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_the_same_change(folder, spelling):
    module, down, up, alpha = SPELLINGS[spelling]
    tensors = {f"{module}.{down}": DOWN, f"{module}.{up}": UP}
    if alpha is not None:
        tensors[f"{module}.alpha"] = np.float32(alpha)
    files = merged(folder, tensors, 0.5)
    scale = 0.5 * (1.0 if alpha is None else alpha / RANK)
    key = "blocks.0.attn1.to_q.weight"
    expected = WEIGHTS[key] + scale * CHANGE
    np.testing.assert_allclose(whole(files, key), expected, atol=1e-6)
    part = files.read(key, (slice(1, 4), slice(2, 3)))
    np.testing.assert_allclose(part, expected[1:4, 2:3], atol=1e-6)
    out = np.empty((OUT, IN), np.float32)
    files.read(key, (slice(0, OUT), slice(0, IN)), out)
    np.testing.assert_allclose(out, expected, atol=1e-6)
    for other in WEIGHTS.keys() - {key}:
        assert np.array_equal(whole(files, other), WEIGHTS[other])


def test_differences_of_weights_biases_norms_and_tables(folder):
    changes = {
        "diffusion_model.blocks.0.self_attn.q.diff_b": "blocks.0.attn1.to_q.bias",
        "diffusion_model.blocks.0.self_attn.norm_q.diff": "blocks.0.attn1.norm_q.weight",
        "diffusion_model.blocks.0.norm3.diff": "blocks.0.norm2.weight",
        "diffusion_model.blocks.0.diff_m": "blocks.0.scale_shift_table",
        "diffusion_model.blocks.0.ffn.0.diff": "blocks.0.ffn.net.0.proj.weight",
        "diffusion_model.head.head.diff": "proj_out.weight",
    }
    tensors = {key: RNG.normal(size=BASE[ours]).astype(np.float32) for key, ours in changes.items()}
    files = merged(folder, tensors, 2.0)
    for key, ours in changes.items():
        np.testing.assert_allclose(whole(files, ours), WEIGHTS[ours] + 2 * tensors[key], atol=1e-6)


CONFIGS = {  # what is said beside the tensors, and what the change is multiplied by
    "alpha": ({"lora_alpha": 6}, 6 / RANK),
    "no alpha": ({"r": RANK}, 1.0),
    "a module's own": ({"lora_alpha": 6, "alpha_pattern": {"attn1.to_q": 1.0}}, 1 / RANK),
    "by its whole name": ({"alpha_pattern": {"^blocks.0.attn1.to_q": 4}}, 4 / RANK),
    "by the authors' name": ({"alpha_pattern": {"self_attn.q": 4}}, 4 / RANK),
    "by the rank's root": ({"lora_alpha": 6, "use_rslora": True}, 6 / RANK**0.5),
}


@pytest.mark.parametrize("where", ["metadata", "metadata of a pipeline", "adapter_config.json"])
@pytest.mark.parametrize("config", CONFIGS)
def test_alpha_beside_the_tensors_counts(folder, config, where):
    """As diffusers and peft write it: a file without it would have another strength."""
    values, scale = CONFIGS[config]
    path, metadata = folder.parent / "adapter_model.safetensors", None
    if where == "adapter_config.json":
        (folder.parent / where).write_text(json.dumps(values))
    else:
        prefix = "transformer." * where.endswith("pipeline")
        text = json.dumps({prefix + key: value for key, value in values.items()})
        metadata = {"lora_adapter_metadata": text}
    module = "blocks.0.attn1.to_q"
    halves = {f"{module}.lora_A.weight": DOWN, f"{module}.lora_B.weight": UP}
    save_file(halves, path, metadata)
    files = MergedFiles(TensorFiles(folder), [LoRA(path)])
    expected = WEIGHTS[f"{module}.weight"] + scale * CHANGE
    np.testing.assert_allclose(whole(files, f"{module}.weight"), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"use_dora": true}', "use_dora=true: a DoRA"),
        ('{"lora_alpha": "6"}', "lora_alpha"),
        ('{"alpha_pattern": {"(a+)+$": 1}}', "alpha_pattern: '\\(a.* is no name of modules"),
        ("[]", "is no JSON object"),
        ("{", "is no JSON"),
    ],
)
def test_metadata_that_cannot_be_heeded_is_refused(folder, text, said):
    path = folder.parent / "lora.safetensors"
    save_file({"blocks.0.attn1.to_q.lora_A.weight": DOWN}, path, {"lora_adapter_metadata": text})
    with pytest.raises(CheckpointError, match=rf"lora\.safetensors: lora_adapter_metadata.*{said}"):
        MergedFiles(TensorFiles(folder), [LoRA(path)])


def test_alpha_of_a_module_that_is_not_there_is_refused(folder):
    path = folder.parent / "lora.safetensors"
    halves = {"blocks.0.attn1.to_q.lora_A.weight": DOWN, "blocks.0.attn1.to_q.lora_B.weight": UP}
    text = json.dumps({"alpha_pattern": {"to_v": 4}})
    save_file(halves, path, {"lora_adapter_metadata": text})
    with pytest.raises(CheckpointError, match=r"lora\.safetensors: alpha_pattern: 'to_v' is of no"):
        MergedFiles(TensorFiles(folder), [LoRA(path)])


def test_several_add_up(folder):
    files = [{f"blocks.0.attn1.to_q.lora_{half}.weight": x for half, x in (("A", DOWN), ("B", UP))}]
    path = folder.parent / "one.safetensors"
    save_file(files[0], path)
    both = MergedFiles(TensorFiles(folder), [LoRA(path, 1.0), LoRA(path, -0.25)])
    key = "blocks.0.attn1.to_q.weight"
    np.testing.assert_allclose(whole(both, key), WEIGHTS[key] + 0.75 * CHANGE, atol=1e-6)


def test_a_text_lora_leaves_an_images_channels_of_the_patches_alone(folder):
    down = RNG.normal(size=(RANK, 4, 1, 2, 2)).astype(np.float32)
    up = RNG.normal(size=(OUT, RANK, 1, 1, 1)).astype(np.float32)
    name = "diffusion_model.patch_embedding"
    files = merged(folder, {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up})
    change = whole(files, "patch_embedding.weight") - WEIGHTS["patch_embedding.weight"]
    expected = np.einsum("or,rcthw->octhw", up[..., 0, 0, 0], down)
    np.testing.assert_allclose(change[:, :4], expected, atol=1e-6)
    assert (change[:, 4:] == 0).all()


def test_image_modules_that_the_model_lacks_are_counted(folder):
    own = {"blocks.0.attn1.to_q.lora_A.weight": DOWN, "blocks.0.attn1.to_q.lora_B.weight": UP}
    lacking = {
        "blocks.0.cross_attn.k_img.lora_down.weight": DOWN,
        "blocks.0.cross_attn.k_img.lora_up.weight": UP,
    }
    with pytest.warns(UserWarning, match=r"2 keys of image modules.*k_img\.lora_down"):
        merged(folder, own | lacking)


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"unet.down.lora_A.weight": DOWN}, "1 keys are of no module of this model.*unet.down"),
        ({"blocks.0.attn1.to_q.lora_A.weight": DOWN}, "half of it is missing"),
        ({"blocks.0.attn1.to_q.dora_scale": UP}, r"to_q\.dora_scale is of a DoRA"),
        (
            {"blocks.0.attn1.to_q.lora_A.weight": DOWN, "blocks.0.attn1.to_q.lora_B.weight": UP.T},
            r"to_q\.lora_B\.weight is \[2, 6\], expected \[6, 2\]",
        ),
        (
            {"blocks.0.attn1.to_q.lora_A.weight": UP.T, "blocks.0.attn1.to_q.lora_B.weight": UP},
            r"to_q\.lora_A\.weight is \[2, 6\], expected \[2, 4\]",
        ),
        (
            {"blocks.0.ffn.0.diff_b": np.zeros(8, np.float32)},
            r"diff_b: this model has no .*proj\.bias",
        ),
        ({"blocks.0.attn1.to_q.alpha": np.float32(2)}, r"to_q\.alpha has no counterpart"),
        (
            {
                "blocks.0.attn1.to_q.lora_A.weight": DOWN,
                "blocks.0.self_attn.q.lora_down.weight": DOWN,
            },
            r"lora_A\.weight and .*lora_down\.weight say the same twice",
        ),
        (
            {
                "blocks.0.attn1.to_q.lora_A.weight": DOWN,
                "blocks.0.attn1.to_q.lora_B.weight": UP,
                "blocks.0.attn1.to_q.alpha": np.zeros(2, np.float32),
            },
            r"to_q\.alpha is \[2\], expected a number",
        ),
        (
            {
                "blocks.0.attn1.to_q.lora_A.weight": DOWN[:0],
                "blocks.0.attn1.to_q.lora_B.weight": UP[:, :0],
            },
            r"to_q\.lora_B\.weight is \[6, 0\]",
        ),
        ({"blocks.0.norm3.diff": np.zeros(5, np.float32)}, r"norm3\.diff is \[5\], expected \[6\]"),
    ],
)
def test_what_does_not_fit_is_refused_with_file_and_key(folder, tensors, text):
    with pytest.raises(CheckpointError, match=rf"lora\.safetensors.*{text}"):
        merged(folder, tensors)


def test_experts_have_their_own(tmp_path):
    high, low, both = (tmp_path / f"{n}.safetensors" for n in ("a_high_noise", "a_low_noise", "b"))
    for path in (high, low, both):
        path.touch()
    given = expert_loras(f"{both}:0.5", str(high), f"{low}:2", 2)
    assert given == ([LoRA(both, 0.5), LoRA(high, 1.0)], [LoRA(both, 0.5), LoRA(low, 2.0)])
    assert expert_loras(f"{high},{both}:-1", None, None, 1) == ([LoRA(high), LoRA(both, -1.0)],)
    with pytest.raises(CheckpointError, match="give it as lora_high="):
        expert_loras(str(high), None, None, 2)
    with pytest.raises(CheckpointError, match="lora_low is for the low one; give it as lora_high="):
        expert_loras(None, None, str(high), 2)
    with pytest.raises(CheckpointError, match="one expert; give it as lora="):
        expert_loras(None, None, str(low), 1)
    with pytest.raises(CheckpointError, match=re.escape("there is no file no.safetensors")):
        expert_loras("no.safetensors", None, None, 1)
    with pytest.raises(CheckpointError, match="must be a number"):
        expert_loras(f"{both}:strong", None, None, 1)


@pytest.mark.parametrize(
    ("name", "which"),
    [
        ("wan2.2_t2v_A14b_high_noise_lora_rank64_lightx2v_4step_1217.safetensors", "high"),
        ("low_noise_model.safetensors", "low"),
        ("Wan2.2-Lightning_T2V-A14B-4steps-lora_HIGH_fp16.safetensors", "high"),
        ("style-LowNoise.safetensors", "low"),
        ("low-poly_highlands.safetensors", None),
    ],
)
def test_published_names_say_which_expert_they_are_of(tmp_path, name, which):
    path = tmp_path / name
    path.touch()
    if which is None:
        assert expert_loras(str(path), None, None, 2) == ([LoRA(path)], [LoRA(path)])
        return
    with pytest.raises(CheckpointError, match=f"{which}-noise expert's.*give it as lora_{which}="):
        expert_loras(str(path), None, None, 2)
