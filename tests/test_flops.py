"""Operations by formula, against those of the traced programs and against XLA's own count."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from small_folder import SMALL_RUN, make_small_folder

from wanjax.checkpoints.configs import model_configs
from wanjax.config.resolve import resolve
from wanjax.models.clip import CLIPVisionModel
from wanjax.models.configs import CLIPVisionConfig, TransformerConfig, UMT5Config, VAEConfig
from wanjax.models.layers import Undrawn
from wanjax.models.transformer import Context, WanTransformer
from wanjax.models.umt5 import UMT5Encoder
from wanjax.models.vae import WanVAE
from wanjax.planning import flops
from wanjax.planning.footprint import VAEForm
from wanjax.planning.run import prepare


def like(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def counted(model, function, *args):
    """Of all products and convolutions in a trace, layers of a scan multiplied out."""
    graph, params = nnx.split(model)
    trace = jax.make_jaxpr(lambda params, *args: function(nnx.merge(graph, params), *args))
    return _count(trace(params, *args).jaxpr)


def compiled(model, function, *args):
    """As XLA counts, which looks at a scan's body once; nothing is optimised away."""
    graph, params = nnx.split(model)
    program = jax.jit(lambda params, *args: function(nnx.merge(graph, params), *args))
    return program.lower(params, *args).cost_analysis()["flops"]


def _count(jaxpr):
    total = 0
    for equation in jaxpr.eqns:
        inner = [p.jaxpr for p in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda p: hasattr(p, "jaxpr")
        ) if hasattr(p, "jaxpr")]  # fmt: skip
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        alternatives = equation.primitive.name == "cond"  # a form for each platform
        parts = [_count(part) for part in inner]
        total += times * (max(parts) if alternatives else sum(parts))
        shapes = [v.aval.shape for v in equation.invars[:2] if hasattr(v, "aval")]
        results = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2 * results * math.prod(shapes[0][axis] for axis in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.params["dimension_numbers"].rhs_spec
            total += 2 * results * math.prod(shapes[1]) // shapes[1][kernel[0]]
    return total


TRANSFORMER = {
    "num_attention_heads": 4, "attention_head_dim": 64, "ffn_dim": 1024, "num_layers": 3,
    "text_dim": 96, "freq_dim": 64, "in_channels": 16, "out_channels": 16, "patch_size": [1, 2, 2],
}  # fmt: skip
IMAGE = {"image_dim": 48, "added_kv_proj_dim": 256}
LENGTH, GRID = 24, (3, 4, 5)
TOKENS = math.prod(GRID)


def transformer(**changes):
    values = TRANSFORMER | changes
    return values, WanTransformer(TransformerConfig.from_dict(values), kernel="xla", rngs=Undrawn())


def velocity(model, latents, timestep, text, image=None):
    return model(latents, timestep, Context(text, image))


def call(values, image_tokens=0):
    latents = like(1, values["in_channels"], GRID[0], 2 * GRID[1], 2 * GRID[2])
    width = 256
    image = [like(1, image_tokens, width)] if image_tokens else []
    return latents, like(1), like(1, LENGTH, width), *image


@pytest.mark.parametrize("image_tokens", [0, 7])
def test_a_transformer(image_tokens):
    values, model = transformer(**(IMAGE if image_tokens else {}))
    expected = (
        flops.embedding(values, TOKENS)
        + flops.blocks(values, TOKENS, LENGTH, image_tokens, cached=False)
        + flops.head(values, TOKENS)
    )
    assert counted(model, velocity, *call(values, image_tokens)) == expected


def test_a_transformer_by_xlas_own_count():
    """One layer: XLA counts norms and activations, too, which are a few hundredths."""
    values, model = transformer(num_layers=1)
    expected = (
        flops.embedding(values, TOKENS)
        + flops.blocks(values, TOKENS, LENGTH, 0, cached=False)
        + flops.head(values, TOKENS)
    )
    assert 1 < compiled(model, velocity, *call(values)) / expected < 1.05


@pytest.mark.parametrize("keys_values", [False, True])
def test_the_context(keys_values):
    values, model = transformer(**IMAGE)

    def project(model, text, image):
        context = model.embed_context(text, image)
        return model.keys_values(context) if keys_values else context

    expected = flops.context(values, LENGTH, 7, keys_values=keys_values)
    assert counted(model, project, like(1, LENGTH, 96), like(1, 7, 48)) == expected


def test_the_text_encoder():
    config = {"vocab_size": 100, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 3,
              "num_heads": 6}  # fmt: skip
    model = UMT5Encoder(UMT5Config.from_dict(config), rngs=Undrawn())
    ids = like(1, LENGTH, dtype=jnp.int32)
    found = counted(model, lambda model, ids: model(ids, ids), ids)
    assert found == flops.text_encoder(config, LENGTH)


def test_the_image_encoder():
    config = CLIPVisionConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=4,
                              num_attention_heads=4, image_size=28)  # fmt: skip
    model = CLIPVisionModel(config, kernel="xla", rngs=Undrawn())
    found = counted(model, lambda model, x: model(x), like(1, 28, 28, 3))
    assert found == flops.image_encoder(vars(config))


VAE = {"base_dim": 8, "z_dim": 4, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
RESIDUAL = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12}


@pytest.mark.parametrize("form", [{}, RESIDUAL], ids=["wan2.1", "wan2.2"])
@pytest.mark.parametrize("direction", ["decode", "encode"])
def test_the_vae(direction, form):
    config = VAEConfig.from_dict(VAE | form)
    model = WanVAE(config, kernel="xla", rngs=Undrawn())
    (t, h, w), factor = (3, 4, 6), config.spatial_factor
    arguments = {
        "decode": (like(1, t, h, w, 4), flops.vae_decoder),
        "encode": (like(1, 4 * t - 3, factor * h, factor * w, 3), flops.vae_encoder),
    }
    x, formula = arguments[direction]
    found = counted(model, lambda model, x: getattr(model, direction)(x), x)
    assert found == formula(VAEForm.of(vars(config)), (4, t, h, w))


def test_the_steps_of_a_run(tmp_path):
    folder = make_small_folder(tmp_path, image=True)
    run = prepare(resolve([f"model={folder}", *SMALL_RUN], "show"))
    configs = model_configs(str(folder))
    (computed,) = {flops.step_flops(run.config, run.plan, configs, s) for s in run.plan.steps}
    stages = flops.stage_flops(run.config, run.plan, configs)
    assert set(stages) == {"text", "condition", "decode"}
    assert all(count > 0 for count in (computed, *stages.values()))


def test_a_720p_step_of_the_14b_model_is_what_others_say():
    """About 13.6 PFLOP for both branches at 75,600 tokens, if every parameter met every token;
    those that project the text do not."""
    run = prepare(resolve(["wan2.2-t2v-a14b", "height=720", "width=1280"], "plan"))
    configs = model_configs(str(run.config.model))
    found = flops.step_flops(run.config, run.plan, configs, run.plan.steps[0])
    assert found == pytest.approx(13.6e15, rel=0.05)
