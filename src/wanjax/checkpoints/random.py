"""A model without a checkpoint: its real architecture, with random numbers for weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from wanjax.checkpoints.abstract import AbstractFolder
from wanjax.checkpoints.folder import Loadable, Model
from wanjax.media.clip_processor import ImageProcessor


class RandomFolder(AbstractFolder):
    """Makes each model's parameters on the devices, each its own part; the host holds none.

    Normal with a spread that keeps activations' size, so that a device works as hard as on real
    ones. There is no tokenizer.
    """

    def _load(self, part: Loadable[Model]) -> Model:
        graph, parameters = nnx.split(super()._load(part))
        leaves, structure = jax.tree.flatten(parameters)
        made = [_random(i, like) for i, like in enumerate(leaves)]
        return nnx.merge(graph, jax.tree.unflatten(structure, made))

    def load_image_processor(self) -> ImageProcessor:
        return ImageProcessor()


_SMALL = 2**18  # numbers that the host draws, for which no program need be compiled


def _random(seed: int, like: jax.ShapeDtypeStruct) -> Array:
    if math.prod(like.shape) <= _SMALL:
        drawn = np.random.default_rng(seed).normal(0, _spread(like.shape), like.shape)
        small: Array = jax.device_put(drawn.astype(like.dtype), like.sharding)
        return small
    made: Array = _drawing(like.shape, like.dtype, like.sharding)(seed)
    return made


@functools.cache
def _drawing(shape: tuple[int, ...], dtype: Any, sharding: Any) -> Callable[[int], Array]:
    """One program for all parameters that are alike."""
    return jax.jit(partial(_draw, shape, dtype), out_shardings=sharding)


def _draw(shape: tuple[int, ...], dtype: Any, seed: Array) -> Array:
    """Stacked layers one after the other: the generator needs several times a number's bytes."""

    def draw(key: Array, shape: tuple[int, ...]) -> Array:
        made: Array = _spread(shape) * jax.random.normal(key, shape, jnp.float32)
        return made.astype(dtype)

    key = jax.random.key(seed)
    if len(shape) != 3:
        return draw(key, shape)
    layers: Array = jax.lax.map(lambda k: draw(k, shape[1:]), jax.random.split(key, shape[0]))
    return layers


def _spread(shape: tuple[int, ...]) -> float:
    """One over the root of a product's inputs; of stacked layers the first axis counts them."""
    inputs = shape[-2] if len(shape) in (2, 3) else math.prod(shape[:-1])
    return 1 / math.sqrt(inputs or 1)
