"""Floating-point operations of each stage of a run, by formula. No JAX.

Matrix products and convolutions alone, a multiplication and an addition counting two; norms,
activations and softmax are left out, as is usual. What a program computes more than once (margins
of stripes, tokens that do not divide) counts once: it is what the result takes, not what is done.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from wanjax.caching import Plan, Step
from wanjax.checkpoints.published_models import ModelConfigs
from wanjax.config.keys import Config
from wanjax.models.vae_stripes import (
    Layer,
    decoder_middle,
    decoder_stripes,
    encoder_middle,
    encoder_stripes,
)
from wanjax.parallel.mesh import MeshShape
from wanjax.planning.footprint import Footprint, VAEForm
from wanjax.planning.memory import ANY_DEVICE
from wanjax.planning.weights import transformer_width

Values = Mapping[str, Any]


def product(rows: int, inputs: int, outputs: int) -> int:
    """Of `rows` vectors with a matrix."""
    return 2 * rows * inputs * outputs


def attention(queries: int, keys: int, width: int) -> int:
    """Scores and their weighted sum, over all heads, which make up `width`."""
    return 4 * queries * keys * width


def text_encoder(values: Values, length: int) -> int:
    """UMT5 over one prompt of so many tokens, padding included."""
    width, inner = values["d_model"], values["num_heads"] * values["d_kv"]
    projections = 4 * product(length, width, inner)
    feed_forward = 3 * product(length, width, values["d_ff"])
    layer = projections + attention(length, length, inner) + feed_forward
    return int(values["num_layers"] * layer)


def image_encoder(values: Values) -> int:
    """CLIP's vision model on one image, but for its last layer, which is not used."""
    width, side = values["hidden_size"], values["image_size"] // values["patch_size"]
    patches, tokens = side**2, side**2 + 1
    embedding = product(patches, values["num_channels"] * values["patch_size"] ** 2, width)
    mlp = 2 * product(tokens, width, values["intermediate_size"])
    layer = 4 * product(tokens, width, width) + attention(tokens, tokens, width) + mlp
    return int(embedding + (values["num_hidden_layers"] - 1) * layer)


def context(values: Values, length: int, image_tokens: int, *, keys_values: bool) -> int:
    """A transformer's own projection of one branch's text (and image) embeddings.

    With `keys_values` on to the keys and values of every layer.
    """
    width, image_dim = transformer_width(values), values.get("image_dim") or 0
    text = product(length, values["text_dim"], width) + product(length, width, width)
    image = product(image_tokens, image_dim, image_dim) + product(image_tokens, image_dim, width)
    projected = _keys_values(values, length + image_tokens) if keys_values else 0
    return text + image + projected


def embedding(values: Values, tokens: int) -> int:
    """Latents to tokens, and the timestep."""
    width = transformer_width(values)
    patches = product(tokens, math.prod(values["patch_size"]) * values["in_channels"], width)
    time = product(1, values["freq_dim"], width) + 7 * product(1, width, width)
    return patches + time


def blocks(values: Values, tokens: int, length: int, image_tokens: int, *, cached: bool) -> int:
    """All blocks for one guidance branch; `cached`: keys and values of the context are there."""
    width = transformer_width(values)
    self_attention = 4 * product(tokens, width, width) + attention(tokens, tokens, width)
    cross = 2 * product(tokens, width, width) + attention(tokens, length + image_tokens, width)
    feed_forward = 2 * product(tokens, width, values["ffn_dim"])
    projected = 0 if cached else _keys_values(values, length + image_tokens)
    return int(values["num_layers"]) * (self_attention + cross + feed_forward) + projected


def head(values: Values, tokens: int) -> int:
    """Tokens to the velocity, for one guidance branch."""
    outputs = values["out_channels"] * math.prod(values["patch_size"])
    return product(tokens, transformer_width(values), outputs)


def _keys_values(values: Values, length: int) -> int:
    width = transformer_width(values)
    return int(values["num_layers"]) * 2 * product(length, width, width)


def vae_decoder(form: VAEForm, latents: tuple[int, int, int, int]) -> int:
    """Latents (channels, frames, rows, columns) to pixels."""
    channels, frames, rows, columns = latents
    layers = (decoder_middle(form), decoder_stripes(form))
    between = product(frames * rows * columns, channels, channels)  # before the decoder
    return (
        between
        + sum(_layers(part, frames, rows, columns) for part in layers)
        + (_frame_attention(decoder_middle(form)[-2].outputs, frames, rows * columns))
    )


def vae_encoder(form: VAEForm, latents: tuple[int, int, int, int]) -> int:
    """Pixels to latents (channels, frames, rows, columns)."""
    channels, frames, rows, columns = latents
    layers = (encoder_stripes(form), encoder_middle(form))
    behind = product(frames * rows * columns, 2 * channels, 2 * channels)
    return (
        behind
        + sum(_layers(part, frames, rows, columns) for part in layers)
        + (_frame_attention(encoder_middle(form)[-2].outputs, frames, rows * columns))
    )


def _frame_attention(width: int, frames: int, pixels: int) -> int:
    """The middle block's, among the pixels of each frame."""
    return frames * (4 * product(pixels, width, width) + attention(pixels, pixels, width))


def _layers(layers: Sequence[Layer], frames: int, rows: int, columns: int) -> int:
    pairs = itertools.pairwise(layers)
    return sum(_layer(before, layer, frames, rows, columns) for before, layer in pairs)


def _layer(before: Layer, layer: Layer, frames: int, rows: int, columns: int) -> int:
    """One of `vae_stripes`' layers, over whole frames."""

    def positions(at: Layer, *, first: bool = True) -> int:
        """Pixels of all frames; the first latent frame is one of the video's, if it counts."""
        count = first + (frames - 1) * at.frames
        return count * rows * columns * at.scale**2

    inputs, outputs = layer.inputs, layer.outputs
    match layer.kind:
        case "conv":
            return product(positions(layer), 27 * inputs, outputs)
        case "residual":
            shortcut = 0 if inputs == outputs else product(positions(layer), inputs, outputs)
            convolutions = product(positions(layer), 27 * (inputs + outputs), outputs)
            return convolutions + shortcut
        case "up":  # in time first, then each frame at twice the size
            in_time = product(positions(before, first=False), 3 * inputs, 2 * inputs)
            return in_time * layer.temporal + product(positions(layer), 9 * inputs, outputs)
        case "down":  # each frame to half the size first, then in time
            pixels = positions(before) // 4
            in_time = product(positions(layer, first=False), 3 * inputs, inputs)
            return product(pixels, 9 * inputs, outputs) + in_time * layer.temporal
        case "input":
            return 0


def step_flops(config: Config, plan: Plan, configs: ModelConfigs, step: Step) -> int:
    """A step as its plan has it: what its branches compute, embedding and head included."""
    if step.without_model or step.passed:
        return 0
    run = Footprint(config, plan, configs, ANY_DEVICE, MeshShape())
    values, tokens, length = run.transformer, run.tokens, config.max_sequence_length
    computed = sum(source == "blocks" for source in step.kind)
    evaluated = sum(source != "branch" for source in step.kind)
    cached = config.use_kv_cache
    return (
        embedding(values, tokens)
        + computed * blocks(values, tokens, length, run.image_tokens, cached=cached)
        + evaluated * head(values, tokens)
    )


def stage_flops(config: Config, plan: Plan, configs: ModelConfigs) -> dict[str, int]:
    """Of one video: `text` (one prompt), `condition`, `decode`."""
    run = Footprint(config, plan, configs, ANY_DEVICE, MeshShape())
    length, image_tokens = config.max_sequence_length, run.image_tokens
    schedule = plan.schedule
    branches = sum(schedule.num_branches(phase.start) for phase in schedule.phases)
    cached = config.use_kv_cache
    condition = branches * context(run.transformer, length, image_tokens, keys_values=cached)
    if run.takes_image:
        condition += vae_encoder(run.vae, run.latents)
    if image_tokens:
        images = 1 if run.transformer.get("pos_embed_seq_len") is None else 2
        condition += images * image_encoder(configs.components["image_encoder"])
    return {
        "text": text_encoder(configs.components["text_encoder"], length),
        "condition": condition,
        "decode": vae_decoder(run.vae, run.latents),
    }
