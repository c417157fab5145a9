"""LoRAs on the bundled model: what a video of it becomes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

import wanjax
from wanjax.checkpoints.mapping import flat_parameters
from wanjax.errors import UsageError

WIDTH, FFN, RANK = 192, 512, 4
SIZE = {"height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 2, "flow_shift": 3.0}
MODULES = {  # of every block: inputs, outputs
    "self_attn.q": (WIDTH, WIDTH),
    "cross_attn.o": (WIDTH, WIDTH),
    "ffn.0": (WIDTH, FFN),
}


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """A change of a few modules in every block, in the authors' names."""
    rng, tensors = np.random.default_rng(0), {}
    for block in range(6):
        for module, (inputs, outputs) in MODULES.items():
            name = f"diffusion_model.blocks.{block}.{module}"
            for half, shape in (("down", (RANK, inputs)), ("up", (outputs, RANK))):
                noise = rng.normal(size=shape).astype(np.float32)
                tensors[f"{name}.lora_{half}.weight"] = 0.1 * noise
            tensors[f"{name}.diff_b"] = 0.1 * rng.normal(size=outputs).astype(np.float32)
            tensors[f"{name}.alpha"] = np.array(2 * RANK, np.float32)
    path = tmp_path_factory.mktemp("loras") / "change.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def few(lora):
    """A change of one module of one block alone, of another rank."""
    rng, name = np.random.default_rng(1), "transformer.blocks.2.attn1.to_k"
    path = lora.with_name("few.safetensors")
    halves = {"lora_A": (1, WIDTH), "lora_B": (WIDTH, 1)}
    made = {f"{name}.{h}.weight": 0.3 * rng.normal(size=s) for h, s in halves.items()}
    save_file({key: x.astype(np.float32) for key, x in made.items()}, path)
    return path


def load(**values):
    return wanjax.WanPipeline.from_pretrained("tiny-t2v", **SIZE, **values)


def make(pipe):
    return pipe("a red ball moving right", cache=None)


def video(**values):
    return make(load(**values))


def assert_close(one, other):
    """The same arithmetic in another order, in float32."""
    np.testing.assert_allclose(one.latents, other.latents, atol=2e-5 * np.abs(other.latents).max())


@pytest.mark.slow
def test_it_changes_the_video_and_with_strength_0_leaves_every_byte(lora):
    plain = video()
    changed, half, none = (video(lora=f"{lora}:{strength}") for strength in (1, 0.5, 0))
    assert np.array_equal(none.latents, plain.latents)
    assert np.array_equal(none.frames, plain.frames)
    far, near = (np.abs(v.latents - plain.latents).max() for v in (changed, half))
    assert 0.01 < near < far
    assert not np.array_equal(changed.frames, plain.frames)


@pytest.mark.slow
def test_each_expert_takes_its_own(lora):
    plain, both = video(), video(lora=str(lora))
    high, low = video(lora_high=str(lora)), video(lora_low=str(lora))
    videos = (plain, both, high, low)
    assert len({v.latents.tobytes() for v in videos}) == len(videos)
    again = video(lora_high=str(lora), lora_low=str(lora))
    assert np.array_equal(again.latents, both.latents)


@pytest.mark.slow
def test_a_live_one_is_the_merged_one_and_changes_without_loading_or_compiling(lora, few):
    pipe = load(lora=f"{lora}:1:live", lora_low=f"{few}:0.5:live")
    live, programs = make(pipe), len(pipe.programs)
    assert_close(live, video(lora=str(lora), lora_low=f"{few}:0.5"))
    before = leaves(pipe)
    pipe.components.keeps_copies = True  # as on accelerators
    pipe.components.rest("transformer_2")  # it takes them when it comes back
    pipe.set_loras(f"{lora}:0.25", low=str(few))
    half = make(pipe)
    assert_close(half, video(lora=f"{lora}:0.25", lora_low=str(few)))
    assert np.abs(half.latents - live.latents).max() > 0.01
    others = {path for path, x in leaves(pipe).items() if x is not before[path]}
    high = {path.split(".")[-1] for path in others if path.startswith("0")}
    assert high == {"strength", "bias"}  # of `.diff_b`
    assert len(pipe.programs) == programs
    assert pipe.config.lora == f"{lora}:0.25:live"


def leaves(pipe):
    """The parameters of both experts."""
    return {
        f"{number}.{path}": variable.get_value()
        for number, expert in enumerate(pipe.components.transformers)
        for path, variable in flat_parameters(nnx.state(expert))
    }


@pytest.mark.slow
def test_live_ones_come_and_go(lora, few):
    pipe, plain = load(), video()
    pipe.set_loras(str(few))
    assert_close(make(pipe), video(lora=str(few)))
    pipe.set_loras(f"{lora},{few}:-1")  # more room than before: its own programs
    both = make(pipe)
    assert_close(both, video(lora=f"{lora},{few}:-1"))
    programs = len(pipe.programs)
    pipe.set_loras(str(few))
    assert_close(make(pipe), video(lora=str(few)))
    assert len(pipe.programs) == programs
    pipe.set_loras()
    assert np.array_equal(make(pipe).latents, plain.latents)
    assert pipe.config.lora is None


def test_merged_ones_stay_as_they_are(lora, few):
    pipe = load(lora=f"{few}:0.5")
    pipe.set_loras(f"{lora}:2")
    assert pipe.config.lora == f"{few}:0.5,{lora}:2:live"
    other = pipe.with_config(replace(pipe.config, lora=str(few)))
    with pytest.raises(UsageError, match=r"few\.safetensors:0\.5\) cannot change"):
        make(other)
    with pytest.raises(UsageError, match="there is no file"):
        pipe.set_loras("none.safetensors")
