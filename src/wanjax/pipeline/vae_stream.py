"""Videos of any length and size through the VAE in bounded device memory.

Three compiled programs each way, whatever the number of frames and stripes: one for whole
frames at the latents' resolution, and for a stripe of rows above it one for the first
frame, which has no cache, and one for all others. A stripe passes all frames before the
next one starts, and each cache is given up to the program that replaces it: one is alive.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Shaped

from wanjax.models.vae import WanVAE
from wanjax.models.vae_layers import Cache, Stripe
from wanjax.models.vae_stripes import (
    Layer,
    cache_shapes,
    decoder_middle,
    encoder_middle,
    encoder_stripes,
    frames_remembered,
    stripe_starts,
)
from wanjax.sampling.programs import Programs


class Piece(NamedTuple):
    """Pixels in [-1, 1] of some rows of some frames, which start at `frame` and `row`."""

    frame: int
    row: int
    pixels: Float[np.ndarray, "b f rows W rgb"]


def decode_video(
    vae: WanVAE,
    latents: Float[Array, "b t h w z"],
    programs: Programs,
    convert: Callable[[np.ndarray], np.ndarray] = np.asarray,
    stripe_rows: int | None = None,
) -> Shaped[np.ndarray, "b T H W rgb"]:
    """`convert` of all pixels, which are in [-1, 1]; see `decode_pieces`."""
    config = vae.config
    batch, t, *size = latents.shape[:4]
    frames = 1 + (t - 1) * config.temporal_factor
    height, width = (side * config.spatial_factor for side in size)
    video = None
    for frame, row, pixels in decode_pieces(vae, latents, programs, stripe_rows):
        part = convert(pixels)
        if video is None:
            video = np.empty((batch, frames, height, width, part.shape[-1]), part.dtype)
        video[:, frame : frame + part.shape[1], row : row + part.shape[2]] = part
    assert video is not None
    return video


def decode_pieces(
    vae: WanVAE,
    latents: Float[Array, "b t h w z"],
    programs: Programs,
    stripe_rows: int | None = None,
) -> Iterator[Piece]:
    """Pixels as they come: of the first latent frame 1, of each other 4.

    `latents` are not normalised (see `WanVAE.denormalize`). With `stripe_rows`, the frames
    are cut into stripes of so many rows of latents, and all frames of one come before the
    next one's; the last stripe may repeat rows of the one before it.
    """
    of = latents.shape[2]
    yield from _one_behind(_decoded(vae, latents, programs, min(stripe_rows or of, of)))


def _decoded(
    vae: WanVAE, latents: Float[Array, "b t h w z"], programs: Programs, rows: int
) -> Iterator[tuple[int, int, Array]]:
    factor = vae.config.spatial_factor
    network = VAENetwork(vae, programs)
    frames = [latents[:, i : i + 1] for i in range(latents.shape[1])]
    features = list(network.middle("decode_middle", decoder_middle(vae.config), frames))
    of = latents.shape[2]
    for first in stripe_starts(rows, of):
        frame = 0
        for pixels in network.stripe("decode_stripe", Stripe(first, rows, of), features):
            yield frame, first * factor, pixels
            frame += pixels.shape[1]


def encode_video(
    vae: WanVAE,
    video: Float[np.ndarray, "b T H W rgb"],
    programs: Programs,
    stripe_rows: int | None = None,
) -> Float[np.ndarray, "b t h w z"]:
    """Mean latents (not normalised) of a video in [-1, 1], in stripes as `decode_pieces`.

    Frames that repeat for long enough (the grey ones of an image's condition) are looked at
    once. Raises ValueError unless T = 1 + 4n and the size is one that the VAE has.
    """
    config = vae.config
    config.check_frames(video.shape[1])
    of = vae.latent_rows(video.shape)
    rows = min(stripe_rows or of, of)
    ends = range(1, video.shape[1] + 1, config.temporal_factor)
    chunks = [video[:, max(end - config.temporal_factor, 0) : end] for end in ends]
    memory = -(-frames_remembered(encoder_stripes(config)) // config.temporal_factor)
    same = _unchanged(chunks, memory)
    network, starts = VAENetwork(vae, programs), stripe_starts(rows, of)
    stripes = [
        list(network.stripe("encode_stripe", Stripe(first, rows, of), chunks, same))
        for first in starts
    ]
    features = [_joined(starts, parts, of) for parts in zip(*stripes, strict=True)]
    latents = network.middle("encode_middle", encoder_middle(config), features)
    return np.concatenate(list(map(np.asarray, latents)), axis=1)


class VAENetwork:
    """A VAE's parameters and the programs of its parts; frames may be as abstract as `programs`."""

    def __init__(self, vae: WanVAE, programs: Programs):
        self.graph, self.params = nnx.split(vae)
        self.programs = programs

    def stripe(
        self, method: str, stripe: Stripe, chunks: Sequence[Any], same: Sequence[bool] = ()
    ) -> Iterator[Array]:
        """All frames' results for a stripe; a chunk that is the `same` repeats the last one."""
        static = (self.graph, method, stripe.height, stripe.of)
        compiled: dict[Any, Callable[..., Any]] = {}
        cache: Cache | None = None
        result = None
        for i, chunk in enumerate(chunks):
            if result is None or not same or not same[i]:
                args = (self.params, chunk, cache, np.int32(stripe.first))
                function = _first if cache is None else _next
                if function not in compiled:  # asking for a program takes long
                    compiled[function] = self.programs.get(function, static, args)
                result, cache = compiled[function](*args)
            yield result

    def middle(
        self, method: str, layers: Sequence[Layer], frames: Sequence[Any]
    ) -> Iterator[Array]:
        """Results for whole frames at the latents' resolution, one after the other."""
        batch, _, height, width, _ = frames[0].shape
        shapes = cache_shapes(layers, batch, height, width)
        cache: Cache = tuple(_zeros(shape, frames[0]) for shape in shapes)
        args = (self.params, frames[0], cache)
        program = self.programs.get(_whole, (self.graph, method), args)
        for x in frames:
            result, cache = program(self.params, x, cache)
            yield result


def _zeros(shape: tuple[int, ...], like: Any) -> Any:
    """Zeros of the dtype of `like`; abstract ones where that is."""
    if isinstance(like, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(shape, like.dtype, sharding=like.sharding)
    return jnp.zeros(shape, like.dtype)


def _stripe_impl(
    graph: nnx.GraphDef[WanVAE],
    method: str,
    height: int,
    of: int,
    params: nnx.State[Any, Any],
    x: Array,
    cache: Cache | None,
    first: Array,
) -> tuple[Array, Cache]:
    stripe = Stripe(first, height, of)
    made: tuple[Array, Cache] = getattr(nnx.merge(graph, params), method)(x, cache, stripe)
    return made


# The first frame is one of many: a TPU's compiler takes a tenth of the time over its program at
# XLA's effort level O0, which is 9, the one spelling that all versions of JAX take.
_first = jax.jit(
    _stripe_impl,
    static_argnums=(0, 1, 2, 3),
    compiler_options={"optimization_level": 9},
)
_next = jax.jit(_stripe_impl, static_argnums=(0, 1, 2, 3), donate_argnums=6)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=4)
def _whole(
    graph: nnx.GraphDef[WanVAE], method: str, params: nnx.State[Any, Any], x: Array, cache: Cache
) -> tuple[Array, Cache]:
    made: tuple[Array, Cache] = getattr(nnx.merge(graph, params), method)(x, cache)
    return made


def _unchanged(chunks: Sequence[np.ndarray], memory: int) -> list[bool]:
    """Which chunks equal more than `memory` before them, so that nothing can differ any more."""
    unchanged, repeats = [], 0
    for i, chunk in enumerate(chunks):
        repeats = repeats + 1 if i and np.array_equal(chunk, chunks[i - 1]) else 0
        unchanged.append(repeats > memory)
    return unchanged


def _joined(starts: Sequence[int], parts: Sequence[Array], of: int) -> Array | np.ndarray:
    """Stripes of one frame put together, on the host."""
    if len(parts) == 1:
        return parts[0]
    like = parts[0]
    whole = np.empty((*like.shape[:2], of, *like.shape[3:]), like.dtype)
    for first, part in zip(starts, parts, strict=True):
        whole[:, :, first : first + part.shape[2]] = part
    return whole


def _one_behind(pieces: Iterator[tuple[int, int, Array]]) -> Iterator[Piece]:
    """Fetches a piece once the device has been given the next one to compute."""
    for piece, _ in itertools.pairwise(itertools.chain(pieces, [None])):
        if piece is not None:
            frame, row, pixels = piece
            yield Piece(frame, row, np.asarray(pixels).astype(np.float32, copy=False))
