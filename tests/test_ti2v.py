"""Wan 2.2's 5B model, for text and for images: what a run is, and that its first frame stays."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from small_folder import SMALL_RUN, make_small_folder

import wanjax
from wanjax.caching import METHODS, CFGCache, MagCache, SenCache
from wanjax.checkpoints.folder_values import folder_values
from wanjax.config.resolve import resolve
from wanjax.errors import CheckpointError, UsageError
from wanjax.files import write_json
from wanjax.planning.run import prepare

PICTURE = Image.linear_gradient("L").convert("RGB")
CURVE = [1.0] * 12
CACHES = {
    "magcache": MagCache(retention_ratio=0.1, mag_ratios_base=CURVE),
    "forecast": MagCache(retention_ratio=0.1, mag_ratios_base=CURVE, estimate="linear"),
    "cfg_cache": CFGCache(start=2),
    "sen_cache": SenCache(epsilon=10.0),
    "easycache": METHODS["easycache"](thresh=10.0, start=1),
}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    folder = make_small_folder(tmp_path_factory.mktemp("ti2v"), two_experts=False, expand=True)
    values = dict(item.split("=") for item in SMALL_RUN)
    numbers = {key: value if "dtype" in key else int(value) for key, value in values.items()}
    sizes = {"height": 64, "width": 64, "num_frames": 9, "num_inference_steps": 6}
    return wanjax.WanPipeline.from_pretrained(folder, **(numbers | sizes))


@pytest.mark.parametrize(("arguments", "task"), [([], "t2v"), (["task=i2v"], "i2v")])
def test_a_run_does_one_task_with_its_curve(arguments, task):
    config = resolve(["wan2.2-ti2v-5b", "use_magcache=True", *arguments], "plan")
    run = prepare(config)
    assert run.config.task == task
    assert run.plan.settings["curve"] == f"wan2.2-ti2v-5b-{task}"
    assert run.plan.warnings == ()


def test_an_image_makes_it_image_to_video(tmp_path):
    PICTURE.resize((320, 160)).save(tmp_path / "picture.png")
    config = resolve(["wan2.2-ti2v-5b", f"image={tmp_path / 'picture.png'}"], "plan")
    run = prepare(config).config
    assert (run.task, run.height, run.width) == ("i2v", 640, 1312)  # whole tokens of 32 pixels
    again = resolve(["wan2.2-ti2v-5b", "task=i2v", f"image={tmp_path / 'picture.png'}"], "plan")
    assert prepare(again).config == run


def test_other_models_do_not_change_task():
    with pytest.raises(UsageError, match=r"wan2\.1-t2v-14b is t2v with one expert"):
        resolve(["wan2.1-t2v-14b", "task=ti2v"], "plan")


def test_the_given_frame_stays_and_the_others_follow_it(pipe):
    first, text = pipe("a red ball", image=PICTURE), pipe("a red ball")
    assert first.latents.shape == text.latents.shape == (1, 4, 3, 4, 4)
    other = pipe("a red ball", image=PICTURE.transpose(Image.Transpose.ROTATE_180))
    changes = np.abs(first.latents - other.latents).max(axis=(0, 1, 3, 4))
    assert (changes > 1e-3).all()
    alone = pipe.decode(first.latents[:, :, :1])
    assert np.array_equal(first.frames[:, :1], alone)


def test_it_takes_no_last_frame(pipe):
    with pytest.raises(UsageError, match="first frame alone"):
        pipe("a red ball", image=PICTURE, last_image=PICTURE)


@pytest.mark.slow
@pytest.mark.parametrize("name", CACHES)
def test_every_method_keeps_the_given_frame(pipe, name):
    options = {"image": PICTURE, "output_type": "latent"}
    dense = pipe("a red ball", **options)
    cached = pipe("a red ball", cache=CACHES[name], **options)
    assert any(not all(a.computes for a in step.actions) for step in cached.plan.steps)
    np.testing.assert_array_equal(cached.latents[:, :, 0], dense.latents[:, :, 0])
    assert not np.array_equal(cached.latents, dense.latents)
    assert np.abs(cached.latents - dense.latents).max() < np.abs(dense.latents).max()


@pytest.mark.parametrize(
    ("file", "changes", "named"),
    [
        ("model_index.json", {"_class_name": "WanVACEPipeline"}, "WanVACEPipeline is VACE"),
        ("model_index.json", {"_class_name": "WanAnimatePipeline"}, "Wan-Animate"),
        (
            "transformer/config.json",
            {"_class_name": "WanVACETransformer3DModel"},
            "WanVACETransformer3DModel is VACE",
        ),
        ("transformer/config.json", {"in_channels": 12, "out_channels": 4}, None),
        ("transformer/config.json", {"in_channels": 48, "out_channels": 16}, "Fun models"),
        ("transformer/config.json", {"model_type": "control"}, "Wan Fun Control"),
    ],
)
def test_forms_that_are_not_implemented_are_named(tmp_path, file, changes, named):
    made = {
        "model_index.json": {"_class_name": "WanPipeline", "transformer": ["diffusers", "x"]},
        "transformer/config.json": {"in_channels": 16, "out_channels": 16},
        "scheduler/scheduler_config.json": {},
    }
    made[file] |= changes
    for name, content in made.items():
        write_json(tmp_path / name, content)
    if named is None:
        assert folder_values(tmp_path)["task"] == "i2v"
        return
    with pytest.raises(CheckpointError, match=f"{file}.*{named}.*not implemented"):
        folder_values(tmp_path)
