"""Prompts and pictures to what the transformers attend to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int
from PIL import Image

from wanjax.caching import Schedule
from wanjax.errors import UsageError
from wanjax.media.tokenizer import prompt_clean
from wanjax.models.clip import CLIPVisionModel
from wanjax.models.transformer import Context, KeysValues, WanTransformer
from wanjax.models.umt5 import UMT5Encoder
from wanjax.pipeline.components import Components
from wanjax.pipeline.inputs import Prompts, as_list, repeat
from wanjax.sampling.programs import Programs

Embeds = Float[Array | np.ndarray | jax.ShapeDtypeStruct, "batch length dim"]


def encode_prompts(
    components: Components, programs: Programs, prompts: Sequence[str], max_sequence_length: int
) -> Float[Array, "batch length dim"]:
    """Text embeddings; rows beyond a prompt's end are zero, as the models expect."""
    cleaned = [prompt_clean(prompt) for prompt in prompts]
    ids, mask = components.tokenizer(cleaned, max_sequence_length)
    embeds: Array = encode_ids(components.text_encoder, programs, ids, mask)
    return embeds


def embed_prompts(
    encode: Callable[[Sequence[str]], Float[Array | np.ndarray, "batch length dim"]],
    given: Prompts,
    negative_prompt: str,
    guided: bool,
) -> tuple[Float[Array, "batch length dim"], ...]:
    """Conditional and, where guidance acts, unconditional text embeddings, one a video.

    `negative_prompt` stands where a call gave none.
    """
    embeds = encode(given.texts) if given.prompt_embeds is None else given.prompt_embeds
    found = [jnp.asarray(embeds)]
    if guided:
        negative = given.negative_prompt_embeds
        if negative is None:
            texts = negative_prompt if given.negative_prompt is None else given.negative_prompt
            negative = encode(repeat(as_list(texts), len(embeds), "negative_prompt"))
        if negative.shape != embeds.shape:
            raise UsageError(
                f"negative_prompt_embeds have shape {negative.shape}, "
                f"prompt_embeds {embeds.shape}; they must be equal"
            )
        found.append(jnp.asarray(negative))
    return tuple(jnp.repeat(x, given.copies, axis=0) for x in found)


def encode_ids(
    encoder: UMT5Encoder,
    programs: Programs,
    ids: Int[np.ndarray | jax.ShapeDtypeStruct, "batch length"],
    mask: Int[np.ndarray | jax.ShapeDtypeStruct, "batch length"],
) -> Any:
    """Embeddings of token ids, zero where `mask` is; abstract ones where `programs` are."""
    graph, params = nnx.split(encoder)
    program = programs.get(_encode_text, (graph,), (params, ids, mask))
    return program(params, ids, mask)


def encode_images(
    components: Components, programs: Programs, ends: Sequence[Sequence[Image.Image]]
) -> Float[Array, "images tokens dim"] | None:
    """CLIP's view of the first and, if taken, the last frames; None for models without CLIP.

    `ends` are the frames of all videos, first ones and last ones; the result has those of a
    video after one another.
    """
    if components.image_encoder is None:
        return None
    in_turn = [image for video in zip(*ends, strict=True) for image in video]
    pixels = np.stack([components.image_processor(image) for image in in_turn])
    embeds: Array = encode_pixels(components.image_encoder, programs, pixels)
    return embeds


def encode_pixels(
    encoder: CLIPVisionModel,
    programs: Programs,
    pixels: Float[np.ndarray | jax.ShapeDtypeStruct, "images height width 3"],
) -> Any:
    """CLIP's tokens of normalised images."""
    graph, params = nnx.split(encoder)
    program = programs.get(_encode_images, (graph,), (params, pixels))
    return program(params, pixels)


class Contexts:
    """Each expert's own projection of the context, made when the expert is first there.

    `embeds` are the conditional and, where guidance acts, the unconditional embeddings. With
    `keys_values` the context is projected on to the keys and values of every layer. `image` is
    the pictures' embedding, `made` are those made so far, by the expert's number.
    """

    def __init__(
        self,
        programs: Programs,
        schedule: Schedule,
        embeds: Sequence[Embeds],
        image_embeds: Float[Array | jax.ShapeDtypeStruct, "images tokens image_dim"] | None,
        dtype: str,
        keys_values: bool,
    ):
        starts = [phase.start for phase in schedule.phases]
        self._branches = {schedule.experts[i]: schedule.num_branches(i) for i in starts}
        self._programs, self._embeds, self.image = programs, embeds, image_embeds
        self._how = (dtype, keys_values)
        self.made: dict[int, Context | KeysValues] = {}

    def of(self, number: int, transformer: WanTransformer) -> Context | KeysValues:
        if number not in self.made:
            program, arguments = self._program(number, transformer)
            self.made[number] = jax.block_until_ready(program(*arguments))
        return self.made[number]

    def compile(self, transformer: WanTransformer) -> None:
        """All experts' programs from one of them, so that none is compiled later."""
        for number in self._branches:
            self._program(number, transformer)

    def _program(self, number: int, transformer: WanTransformer) -> tuple[Any, tuple[Any, ...]]:
        graph, params = nnx.split(transformer)
        arguments = (params, tuple(self._embeds[: self._branches[number]]), self.image)
        return self._programs.get(_embed_context, (graph, *self._how), arguments), arguments


def _encode_text_impl(
    graph: nnx.GraphDef[UMT5Encoder], params: Any, ids: Array, mask: Array
) -> Array:
    return nnx.merge(graph, params)(ids, mask) * mask[..., None]


def _encode_images_impl(graph: nnx.GraphDef[CLIPVisionModel], params: Any, pixels: Array) -> Array:
    return nnx.merge(graph, params)(pixels)


def _embed_context_impl(
    graph: nnx.GraphDef[WanTransformer],
    dtype: str,
    keys_values: bool,
    params: Any,
    text: tuple[Array, ...],
    image: Array | None,
) -> Context | KeysValues:
    """The context as the model projects it, or its `keys_values` in every layer.

    `text` has a branch after the other, which all see the same `image`.
    """
    model = nnx.merge(graph, params)
    images = None if image is None else jnp.concatenate([image] * len(text)).astype(dtype)
    context = model.embed_context(jnp.concatenate(text).astype(dtype), images)
    return model.keys_values(context) if keys_values else context


_encode_text = jax.jit(_encode_text_impl, static_argnums=0)
_encode_images = jax.jit(_encode_images_impl, static_argnums=0)
_embed_context = jax.jit(_embed_context_impl, static_argnums=(0, 1, 2))
