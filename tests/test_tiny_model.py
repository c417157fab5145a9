"""The bundled models: what the package promises of them."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from render import render_scenes

import wanjax
import wanjax.tiny
from wanjax.caching import Curve
from wanjax.planning.schedule import schedule_for
from wanjax.tiny.score import score_videos
from wanjax.tiny.world import caption, held_out_prompts, sample_scene

TINY = Path(wanjax.tiny.__file__).parent
MODELS = [form for form in ("t2v", "i2v") if (TINY / form).exists()]


def psnr(a, b) -> float:
    return 20 * np.log10(255) - 10 * np.log10(np.mean((a.astype(float) - b.astype(float)) ** 2))


@pytest.fixture(scope="module")
def pipe():
    return wanjax.WanPipeline.from_pretrained("tiny-t2v")


def test_weights_are_small():
    sizes = [path.stat().st_size for path in TINY.rglob("*.safetensors")]
    assert 0 < sum(sizes) < 40e6


def test_same_layout_as_the_published_models():
    for form in MODELS:
        parts = {path.name for path in (TINY / form).iterdir()}
        assert parts == {
            "model_index.json",
            "scheduler",
            "text_encoder",
            "tokenizer",
            "transformer",
            "transformer_2",
            "vae",
        }


@pytest.mark.parametrize("form", MODELS)
def test_curve_fits_the_preset(form):
    curve = Curve.load(f"tiny-{form}")
    config = wanjax.config.resolve.load_preset(f"tiny-{form}")
    schedule = schedule_for(config)
    assert curve.boundary_step == schedule.boundary_step
    assert np.allclose(curve.sigmas, schedule.sigmas, atol=1e-6)
    plan = wanjax.MagCache(mag_ratios_base=f"tiny-{form}").plan(schedule)
    assert plan.ideal_speedup > 1.2


@pytest.mark.slow
def test_vae_round_trip(pipe):
    rng = np.random.default_rng(40_000)
    clips = render_scenes([sample_scene(rng, held_out=True) for _ in range(16)])
    vae = pipe.components.vae
    latents = vae.normalize(vae.encode(jnp.asarray(clips, jnp.float32) / 127.5 - 1))
    assert psnr(pipe.decode(np.moveaxis(np.asarray(latents), -1, 1)), clips) > 30


@pytest.mark.slow
def test_videos_show_what_the_prompts_say(pipe):
    """Held-out combinations: the recipe's score, on a quarter of its prompts."""
    prompts, seeds = map(list, zip(*held_out_prompts(16), strict=True))
    dense = pipe(prompts, seed=seeds)
    cached = pipe(prompts, seed=seeds, cache=wanjax.MagCache(mag_ratios_base="tiny-t2v"))
    for video in (dense, cached):
        assert score_videos(list(video.frames), prompts).overall >= 0.9
    assert cached.plan.skipped_steps
    assert psnr(cached.frames, dense.frames) > 30


@pytest.mark.slow
def test_first_frame_is_the_given_picture():
    """Of every held-out scene, and it moves as the prompt says; MagCache keeps that."""
    rng = np.random.default_rng(50_000)
    scenes = [sample_scene(rng, held_out=True) for _ in range(16)]
    prompts = [caption(scene, rng) for scene in scenes]
    pictures = render_scenes(scenes)[:, 0]
    images = [Image.fromarray(picture) for picture in pictures]
    pipe = wanjax.WanPipeline.from_pretrained("tiny-i2v")
    for cache in (None, wanjax.MagCache(mag_ratios_base="tiny-i2v")):
        frames = pipe(prompts, image=images, seed=list(range(16)), cache=cache).frames
        first = [psnr(*pair) for pair in zip(frames[:, 0], pictures, strict=True)]
        assert np.mean(first) >= 25
        assert score_videos(list(frames), prompts).by_attribute["motion"] >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("thresh", [0.04, 0.12])
def test_budget_is_no_worse_than_the_threshold(pipe, thresh):
    """At equal cost, on prompts that the curve was not measured with."""
    prompts, seeds = map(list, zip(*held_out_prompts(16), strict=True))
    by_threshold = wanjax.MagCache(thresh=thresh, mag_ratios_base="tiny-t2v")
    dense = pipe(prompts, seed=seeds)
    greedy = pipe(prompts, seed=seeds, cache=by_threshold)
    skipped = len(greedy.plan.skipped_steps)
    budget = wanjax.MagCache(skip_steps=skipped, mag_ratios_base="tiny-t2v")
    planned = pipe(prompts, seed=seeds, cache=budget)
    assert len(planned.plan.skipped_steps) == skipped
    distances = [
        np.mean([psnr(*pair) for pair in zip(video.frames, dense.frames, strict=True)])
        for video in (planned, greedy)
    ]
    assert distances[0] >= distances[1]
