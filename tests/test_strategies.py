"""Every caching strategy with every preset, and with every kind of model on random weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from small_folder import SMALL_RUN, make_small_folder, noise_parameters

from wanjax.caching import (
    METHODS,
    CFGCache,
    MagCache,
    SenCache,
    Sensitivities,
    shipped_curves,
)
from wanjax.cli.main import main
from wanjax.config.resolve import load_preset, preset_names, resolve
from wanjax.errors import UsageError
from wanjax.evaluate.calibrate import calibrate
from wanjax.media.prompts import Prompt
from wanjax.models.configs import TransformerConfig
from wanjax.models.transformer import WanTransformer
from wanjax.pipeline.components import Components
from wanjax.pipeline.pipeline import WanPipeline
from wanjax.planning.run import prepare
from wanjax.sampling.programs import Programs

PROMPT = "a red ball moving left"


FEW_STEPS = [name for name in preset_names() if name.endswith("step")]


@pytest.mark.parametrize("name", [name for name in preset_names() if name not in FEW_STEPS])
@pytest.mark.parametrize("method", METHODS)
def test_every_strategy_plans_or_says_why_not(name, method):
    planned = method in ("forecast", "respaced")
    if planned and not name.startswith("tiny"):  # nobody measured their outputs
        with pytest.raises(UsageError, match=f"use_{method}: .*{name}|use_{method}: the calib"):
            prepare(resolve([name, f"use_{method}=True"], "plan"))
        return
    if method == "magcache" and not {name, f"{name}-t2v"} & set(shipped_curves()):
        with pytest.raises(UsageError, match=f"use_magcache: {name} has no magnitude curve"):
            prepare(resolve([name, "use_magcache=True"], "plan"))
        return
    plan = prepare(resolve([name, f"use_{method}=True"], "plan")).plan
    assert plan.method == method
    assert plan.ideal_speedup > 1 or plan.open_steps
    json = plan.to_dict()
    later = method in ("easycache", "sen_cache")
    assert json["decided"] == ("during the run" if later else "before the run")


@pytest.mark.parametrize("name", preset_names())
def test_without_guidance_there_is_nothing_to_predict(name):
    with pytest.raises(UsageError, match=r"use_cfg_cache: with guidance_scale.*=1 guidance"):
        prepare(resolve([name, "guidance_scale=1", "use_cfg_cache=True"], "plan"))
    run = prepare(resolve([name, "guidance_scale=1", "use_sen_cache=True"], "plan"))
    assert run.plan.open_steps


@pytest.mark.parametrize("pair", [("magcache", "cfg_cache"), ("cfg_cache", "sen_cache")])
def test_strategies_exclude_one_another(pair):
    with pytest.raises(
        UsageError, match="use_{} and use_{} exclude one another".format(*sorted(pair))
    ):
        resolve(["wan2.1-t2v-14b", *(f"use_{name}=True" for name in pair)], "plan")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["plan", "cfg_cache_interval=3"], "cfg_cache_interval acts only with use_cfg_cache=True"),
        (["plan", "sen_cache_epsilon=3"], "sen_cache_epsilon acts only with use_sen_cache=True"),
        (["plan", "use_sen_cache=True", "sen_cache_sensitivities=no.json"], "no such file"),
        (["calibrate", "use_cfg_cache=True"], "use_cfg_cache has nothing to calibrate"),
        (["plan", "use_cfg_cache=True", "cfg_cache_interval=1"], "must be at least 2"),
    ],
)
def test_mistakes(args, text, capsys):
    assert main(args) == 2
    assert text in capsys.readouterr().err


def test_plans_for_people(capsys):
    assert main(["plan", "wan2.2-t2v-a14b", "use_cfg_cache=True", "use_kv_cache=True"]) == 0
    out = capsys.readouterr().out
    assert "in part    7: 27 29 30 31 32 34 35" in out
    assert "|#+#++++#++####" in out
    assert "kv cache   1,677.7 MB" in out
    assert main(["plan", "wan2.1-t2v-1.3b", "use_sen_cache=True"]) == 0
    out = capsys.readouterr().out
    assert "undecided  30: 15 16" in out
    assert "#" * 15 + "?" * 30 + "#" * 5 in out
    assert "x at most" not in out


# KV cache ------------------------------------------------------------------------------


def test_memory_of_the_kv_cache_of_published_models():
    """Keys and values: 2 x layers x tokens x width x 2 bytes, for each branch and expert."""

    def held(name, *args):
        run = prepare(resolve([name, "use_kv_cache=True", *args], "plan"))
        return run.memory.kv_cache_bytes

    assert held("wan2.2-t2v-a14b") == 2 * 2 * (2 * 40 * 512 * 5120 * 2)
    assert held("wan2.2-t2v-a14b", "guidance_scale_low=1") == 3 * (2 * 40 * 512 * 5120 * 2)
    assert held("wan2.1-t2v-1.3b", "activations_dtype=float32") == 2 * 2 * 30 * 512 * 1536 * 4
    assert held("wan2.1-i2v-14b-480p") == 2 * 2 * 40 * (512 + 257) * 5120 * 2
    assert prepare(load_preset("wan2.2-t2v-a14b")).memory.kv_cache_bytes is None


@pytest.mark.parametrize("image_dim", [None, 20], ids=["text", "text and image"])
def test_cached_keys_and_values_change_nothing(image_dim):
    """A transformer's blocks with a context, as in Wan 2.1 image to video, and without."""
    config = TransformerConfig(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, text_dim=32,
        freq_dim=32, ffn_dim=48, num_layers=2, image_dim=image_dim,
        added_kv_proj_dim=image_dim and 32,
    )  # fmt: skip
    model = nnx.eval_shape(lambda: WanTransformer(config, rngs=nnx.Rngs(0)))
    noise_parameters(model, seed=0)
    rng = np.random.default_rng(0)
    latents, text = rng.normal(size=(2, 4, 2, 4, 6)), rng.normal(size=(2, 7, 32))
    image = None if image_dim is None else rng.normal(size=(2, 5, image_dim)).astype(np.float32)
    graph, params = nnx.split(model)

    @jax.jit
    def both(params, latents, text, image):
        model = nnx.merge(graph, params)
        context = model.embed_context(text, image)
        tokens, time = model.embed(latents, jnp.full(2, 700.0))
        grid = model.grid(latents.shape)
        contexts = (context, model.keys_values(context))
        whole = [model.run_blocks(tokens, time, c, grid) for c in contexts]
        second = model.run_blocks(
            tokens[1:], jax.tree.map(lambda x: x[1:], time), contexts[1].branch(1, 2), grid
        )
        return *whole, second

    off, on, second = both(params, latents.astype(np.float32), text.astype(np.float32), image)
    assert np.abs(off).max() > 1
    np.testing.assert_allclose(on, off, atol=1e-5)
    np.testing.assert_allclose(second[0], off[1], atol=1e-5)


# short runs ----------------------------------------------------------------------------

STEPS = 8
CACHES = {
    "magcache": MagCache(retention_ratio=0.1, mag_ratios_base=[1.0] * (2 * STEPS)),
    "cfg_cache": CFGCache(start=2),
    "sen_cache": SenCache(epsilon=10.0),
}


@pytest.fixture(scope="module")
def pipes(tmp_path_factory):
    """Pipelines by (image, two experts); those of one task share compiled programs."""
    made, root = {}, tmp_path_factory.mktemp("models")
    for image in (False, True):
        programs = Programs()
        for two in (True, False):
            folder = make_small_folder(
                root / f"{image}-{two}", image=image, two_experts=two, boundary_ratio=0.9
            )
            config = resolve([f"model={folder}", *SMALL_RUN], "show")
            config = dataclasses.replace(config, num_inference_steps=STEPS)
            made[image, two] = WanPipeline(Components.of(config), config, programs)
    return made


def run(pipe, cache=None, **keys):
    """A short run; the pipeline's own configuration with `keys` over it."""
    pipe = pipe.with_config(dataclasses.replace(pipe.config, **keys))
    image = Image.new("RGB", (48, 32), "red") if pipe.takes_image else None
    return pipe(PROMPT, image=image, cache=cache, output_type="latent")


def new_programs(pipe, cache=None, **keys):
    before = len(pipe.programs)
    video = run(pipe, cache, **keys)
    return video, len(pipe.programs) - before


@pytest.mark.slow
@pytest.mark.parametrize("image", [False, True], ids=["t2v", "i2v"])
def test_short_runs(pipes, image):
    """Each strategy, with one and two experts and with the KV cache; and what it compiles."""
    pipe, single = pipes[image, True], pipes[image, False]
    dense = run(pipe)
    assert dense.plan.boundary_step == 3
    expected = {  # executed plans with two experts and with one; new programs
        "magcache": ("#..|#..##", "#..#..##", 2),
        "cfg_cache": ("###|#+++#", "###+++##", 2),
        "sen_cache": ("##.|#...#", "##...#.#", 3),  # and what it decides by
    }
    for name, cache in CACHES.items():
        two, one, programs = expected[name]
        video, compiled = new_programs(pipe, cache)
        assert (name, video.plan.strip(), compiled) == (name, two, programs)
        assert np.isfinite(video.latents).all()
        assert np.abs(video.latents - dense.latents).max() > 0
        video, compiled = new_programs(single, cache)
        assert (name, video.plan.strip(), compiled) == (name, one, 0)
        assert np.isfinite(video.latents).all()
    on, compiled = new_programs(pipe, use_kv_cache=True)
    assert compiled == 2  # the keys and values, the computed step
    np.testing.assert_allclose(on.latents, dense.latents, atol=1e-5)
    promised = prepare(dataclasses.replace(pipe.config, use_kv_cache=True)).memory
    assert on.memory.kv_cache_bytes == promised.kv_cache_bytes > 0


@pytest.mark.slow
def test_kv_cache_with_other_settings(pipes):
    """One branch alone, and the branches one by one, take their part of the keys and values."""
    pipe = pipes[False, True]
    for cache, keys in ((CACHES["cfg_cache"], {}), (None, {"batch_guidance": False})):
        off, on = (run(pipe, cache, use_kv_cache=use, **keys) for use in (False, True))
        np.testing.assert_allclose(on.latents, off.latents, atol=1e-5)


@pytest.mark.slow
def test_calibrated_sensitivities(pipes, tmp_path):
    pipe, file = pipes[False, True], tmp_path / "s.progress.json"
    kinds = {"methods": [SenCache], "progress": file}
    found = calibrate(pipe, [Prompt(PROMPT)], (0, 1), **kinds)
    finished = calibrate(pipe, [Prompt(PROMPT)], (0, 1), **kinds)
    np.testing.assert_array_equal(finished.alpha_x, found.alpha_x)
    assert len(found.timesteps) == STEPS
    assert (found.alpha_x > 0).all()
    assert (found.alpha_t > 0).all()
    assert found.seeds == (0, 1)
    assert found.inner_products is None  # nobody asked
    found.save(tmp_path / "s.json")
    assert Sensitivities.load(tmp_path / "s.json").about["flow_shift"] == 5.0
    cache = SenCache(epsilon=1e6, sensitivities=str(tmp_path / "s.json"))
    assert run(pipe, cache).plan.strip() == "##.|#...#"
    assert run(pipe, dataclasses.replace(cache, epsilon=1e-6)).plan.skipped_steps == ()
