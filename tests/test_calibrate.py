"""Calibration: ratios against an independent computation, interruption, and what a file says."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_folder import SMALL_RUN, Z

import wanjax
from wanjax.caching import Curve
from wanjax.config.resolve import resolve
from wanjax.errors import UsageError
from wanjax.evaluate.calibrate import calibrate
from wanjax.media.prompts import Prompt, load_prompts
from wanjax.models.transformer import WanTransformer
from wanjax.pipeline.inputs import start_latents

PROMPTS = [Prompt("a red ball moving left"), Prompt("a blue square")]


@pytest.fixture(scope="module")
def pipe(small_folder):
    config = resolve([f"model={small_folder}", *SMALL_RUN], "show")
    return wanjax.WanPipeline.from_config(config)


def residuals_of_a_run(pipe, prompt: str, seed: int) -> list[np.ndarray]:
    """[branches, tokens, width] of each step, by calling the model on the stored trajectory."""
    samples = []
    video = pipe(
        prompt, seed=seed, callback=lambda report: samples.append(np.array(report.latents))
    )
    noise = start_latents((Z, 2, 4, 6), 1, seed, None)
    found = []
    for step, sample in zip(video.plan.steps, map(jnp.asarray, [noise, *samples]), strict=False):
        model: WanTransformer = pipe.components.transformers[step.expert]
        branches = []
        for text in (prompt, ""):
            context = model.embed_context(pipe.encode_prompt([text]))
            tokens, time = model.embed(jnp.asarray(sample), jnp.array([step.timestep], jnp.float32))
            out = model.run_blocks(tokens, time, context, model.grid(sample.shape))
            branches.append(np.asarray(out - tokens)[0])
        found.append(np.stack(branches).astype(np.float64))
    return found


def test_ratios_are_those_of_the_stored_residuals(pipe):
    curve = calibrate(pipe, PROMPTS[:1], seeds=(3,))
    residuals = residuals_of_a_run(pipe, PROMPTS[0].text, 3)
    boundary = curve.boundary_step
    assert boundary is not None
    for i in range(1, curve.steps):
        if i == boundary:
            assert tuple(curve.ratios[i]) == (1.0, 1.0)
            continue
        for branch in range(2):
            now, before = residuals[i][branch], residuals[i - 1][branch]
            sizes, sizes_before = (np.sqrt((r**2).sum(-1)) for r in (now, before))
            cosines = (now * before).sum(-1) / (sizes * sizes_before)
            ratios = sizes / sizes_before
            assert curve.ratios[i, branch] == pytest.approx(ratios.mean(), rel=1e-4)
            assert curve.spread[i, branch] == pytest.approx(ratios.std(), rel=1e-3, abs=1e-6)
            assert curve.cosine_distance[i, branch] == pytest.approx(1 - cosines.mean(), abs=1e-5)


def test_goes_on_where_it_stopped(pipe, tmp_path):
    progress = tmp_path / "curve.progress.json"
    whole = calibrate(pipe, PROMPTS)
    calibrate(pipe, PROMPTS, progress=progress)
    kept = json.loads(progress.read_text())
    last = sorted(kept["runs"])[-1]
    kept["runs"] = {key: run for key, run in kept["runs"].items() if key != last}
    progress.write_text(json.dumps(kept))
    np.testing.assert_allclose(calibrate(pipe, PROMPTS, progress=progress).ratios, whole.ratios)


def test_a_curve_says_what_it_was_measured_with(pipe, tmp_path):
    curve = calibrate(pipe, PROMPTS, seeds=(0, 1))
    curve.save(tmp_path / "curve.json")
    stored = Curve.load(tmp_path / "curve.json")
    assert stored.prompts == tuple(prompt.text for prompt in PROMPTS)
    assert stored.seeds == (0, 1)
    assert stored.dtype == "float32"
    assert (stored.height, stored.width, stored.num_frames) == (32, 48, 5)
    np.testing.assert_array_equal(stored.ratios, curve.ratios)
    plan = wanjax.MagCache(mag_ratios_base=stored, thresh=9, K=2).plan
    assert plan(pipe(PROMPTS[0].text).plan.schedule).warnings == ()


def test_prompt_files(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("# two\na red ball\n\nball.png | it moves left\n")
    assert load_prompts(file) == [
        Prompt("a red ball"),
        Prompt("it moves left", str(tmp_path / "ball.png")),
    ]
    file.write_text("\n")
    with pytest.raises(UsageError, match="holds no prompt"):
        load_prompts(file)


def test_models_of_equal_architecture_share_their_programs(pipe):
    graphs = [nnx.graphdef(transformer) for transformer in pipe.components.transformers]
    assert graphs[0] == graphs[1]
