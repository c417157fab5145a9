"""Videos of any length through the VAE in constant device memory.

Two compiled programs each way, whatever the number of frames: one for the first chunk,
which has no cache, and one for all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from wanjax.models.vae import WanVAE
from wanjax.models.vae_layers import Cache
from wanjax.sampling.programs import Programs


@partial(jax.jit, static_argnums=(0, 1))
def _chunk(
    graph: nnx.GraphDef[WanVAE],
    method: Literal["encode_chunk", "decode_chunk"],
    params: nnx.State[Any, Any],
    x: Array,
    cache: Cache | None,
) -> tuple[Array, Cache]:
    vae = nnx.merge(graph, params)
    return vae.encode_chunk(x, cache) if method == "encode_chunk" else vae.decode_chunk(x, cache)


def decode_frames(
    vae: WanVAE, latents: Float[Array, "b t h w z"], programs: Programs
) -> Iterator[Float[np.ndarray, "b f H W rgb"]]:
    """Frames in [-1, 1] as they come: 1 of the first latent, 4 of each other.

    `latents` are not normalised (see `WanVAE.denormalize`).
    """
    chunks = (latents[:, i : i + 1] for i in range(latents.shape[1]))
    yield from map(np.asarray, run_chunks(vae, "decode_chunk", chunks, programs))


def encode_frames(
    vae: WanVAE, video: Float[np.ndarray, "b T H W rgb"], programs: Programs
) -> Iterator[Float[np.ndarray, "b 1 h w z"]]:
    """Mean latents (not normalised) of a video in [-1, 1], one latent frame after the other.

    Raises `UsageError` unless T = 1 + 4n.
    """
    factor = vae.config.temporal_factor
    vae.config.check_frames(video.shape[1])
    ends = range(1, video.shape[1] + 1, factor)
    chunks = (video[:, max(end - factor, 0) : end] for end in ends)
    yield from map(np.asarray, run_chunks(vae, "encode_chunk", chunks, programs))


def run_chunks(
    vae: WanVAE,
    method: Literal["decode_chunk", "encode_chunk"],
    chunks: Iterable[Any],
    programs: Programs,
) -> Iterator[Array]:
    """Each chunk's result, on the device. Chunks may be abstract, where `programs` are."""
    graph, params = nnx.split(vae)
    cache: Cache | None = None
    for chunk in chunks:
        args = (params, chunk, cache)
        result, cache = programs.get(_chunk, (graph, method), args)(*args)
        yield result
