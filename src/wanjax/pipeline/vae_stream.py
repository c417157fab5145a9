"""Videos of any length and size through the VAE in bounded device memory.

Three compiled programs each way, whatever the number of frames and stripes: one for whole
frames at the latents' resolution, and for a stripe of rows above it one for the first
frame, which has no cache, and one for all others. A stripe passes all frames before the
next one starts, and each cache is given up to the program that replaces it: one is alive.

On the mesh of the programs each device has a stripe of its own, with its cache, and needs
nothing of the others: only results are gathered. What is at the latents' resolution every device
computes. Where the devices' stripes do not cover a frame, they take further rounds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int, Shaped

from wanjax.models.vae import WanVAE
from wanjax.models.vae_layers import Cache, Stripe
from wanjax.models.vae_stripes import (
    Layer,
    cache_shapes,
    decoder_middle,
    encoder_middle,
    encoder_stripes,
    frames_remembered,
    rounds,
    share_of,
)
from wanjax.parallel.sharding import constrain, place
from wanjax.sampling.programs import Programs


class Piece(NamedTuple):
    """Pixels in [-1, 1] of some rows of some frames, which start at `frame` and `row`."""

    frame: int
    row: int
    pixels: Float[np.ndarray, "b f rows W rgb"]


def decode_video(
    vae: WanVAE,
    latents: Float[Array | np.ndarray, "b t h w z"],
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
    latents: Float[Array | np.ndarray, "b t h w z"],
    programs: Programs,
    stripe_rows: int | None = None,
) -> Iterator[Piece]:
    """Pixels as they come: of the first latent frame 1, of each other 4.

    `latents` are not normalised (see `WanVAE.denormalize`). With `stripe_rows`, the frames
    are cut into stripes of so many rows of latents, and all frames of one come before the
    next one's; the last stripe may repeat rows of the one before it. On a mesh the stripes of
    all devices come at once, by default one of each.
    """
    network, of = VAENetwork(vae, programs), latents.shape[2]
    yield from _one_behind(_decoded(network, latents, network.rows(stripe_rows, of)))


def _decoded(
    network: VAENetwork, latents: Float[Array | np.ndarray, "b t h w z"], rows: int
) -> Iterator[tuple[int, list[int], Array]]:
    frames = [network.whole(latents[:, i : i + 1]) for i in range(latents.shape[1])]
    features = list(network.middle("decode_middle", decoder_middle(network.config), frames))
    of, factor = latents.shape[2], network.config.spatial_factor
    for starts in rounds(rows, of, network.devices):
        frame = 0
        for pixels in network.stripes("decode_stripe", starts, rows, of, features):
            yield frame, [first * factor for first in starts], pixels
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
    network, of = VAENetwork(vae, programs), vae.latent_rows(video.shape)
    rows = network.rows(stripe_rows, of)
    ends = range(1, video.shape[1] + 1, config.temporal_factor)
    chunks = [video[:, max(end - config.temporal_factor, 0) : end] for end in ends]
    memory = -(-frames_remembered(encoder_stripes(config)) // config.temporal_factor)
    same = _unchanged(chunks, memory)
    in_turn = rounds(rows, of, network.devices)
    stripes = [
        list(network.stripes("encode_stripe", starts, rows, of, chunks, same)) for starts in in_turn
    ]
    features = [_joined(in_turn, parts, of) for parts in zip(*stripes, strict=True)]
    whole = [network.whole(frame) for frame in features]
    latents = network.middle("encode_middle", encoder_middle(config), whole)
    return np.concatenate(list(map(np.asarray, latents)), axis=1)


class VAENetwork:
    """A VAE's parameters and the programs of its parts; frames may be as abstract as `programs`.

    Frames and parameters lie whole on each device of the programs' mesh.
    """

    def __init__(self, vae: WanVAE, programs: Programs):
        self.graph, self.params = nnx.split(vae)
        self.config, self.programs = vae.config, programs
        self.devices = 1 if programs.mesh is None else programs.mesh.size

    def whole(self, x: Any) -> Any:
        """An array on every device of the mesh."""
        return place(x, self.programs.mesh, *[None] * x.ndim)

    def rows(self, wanted: int | None, of: int) -> int:
        """Rows of latents in a stripe: as wanted, if that is not more than a device's share."""
        share = share_of(of, self.devices)
        return min(wanted or share, share)

    def stripes(
        self,
        method: str,
        starts: Sequence[int],
        rows: int,
        of: int,
        chunks: Sequence[Any],
        same: Sequence[bool] = (),
    ) -> Iterator[Array]:
        """All frames' results for one stripe of each device, a stripe below the other.

        A chunk that is the `same` repeats the last one.
        """
        static = (self.graph, method, rows, of)
        compiled: dict[Any, Callable[..., Any]] = {}
        cache: Cache | None = None
        result = None
        for i, chunk in enumerate(chunks):
            if result is None or not same or not same[i]:
                args = (self.params, chunk, cache, np.asarray(starts, np.int32))
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
        cache: Cache = tuple(self._zeros(shape, frames[0]) for shape in shapes)
        args = (self.params, frames[0], cache)
        program = self.programs.get(_whole, (self.graph, method), args)
        for x in frames:
            result, cache = program(self.params, x, cache)
            yield result

    def _zeros(self, shape: tuple[int, ...], like: Any) -> Any:
        """Zeros of the dtype of `like`; abstract ones where that is."""
        if isinstance(like, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(shape, like.dtype, sharding=like.sharding)
        return self.whole(np.zeros(shape, like.dtype))  # the host compiles nothing for it


def _stripe_impl(
    graph: nnx.GraphDef[WanVAE],
    method: str,
    rows: int,
    of: int,
    params: nnx.State[Any, Any],
    x: Array,
    cache: Cache | None,
    starts: Int[Array, " devices"],
) -> tuple[Array, Cache]:
    """A stripe of each device of the mesh; of results and caches one lies below the other."""
    mesh = jax.sharding.get_abstract_mesh()

    def one(
        params: nnx.State[Any, Any], x: Array, cache: Cache | None, starts: Array
    ) -> tuple[Array, Cache]:
        device = 0 if mesh.empty else jax.lax.axis_index(mesh.axis_names)
        stripe = Stripe(starts[device], rows, of)
        made: tuple[Array, Cache] = getattr(nnx.merge(graph, params), method)(x, cache, stripe)
        return made

    below = PartitionSpec(None, None, mesh.axis_names)
    mapped = _on_each_device(one, (_WHOLE, _WHOLE, below, _WHOLE), (below, below))
    result, cache = mapped(params, x, cache, starts)
    # on every device of the mesh, so that each process has all of it
    return constrain(result, *[None] * result.ndim), cache


_WHOLE = PartitionSpec()


def _on_each_device(
    function: Callable[..., Any], in_specs: tuple[PartitionSpec, ...], out_specs: Any
) -> Callable[..., Any]:
    """`function` on each device of the mesh by itself, sharing nothing; without a mesh as it is."""
    if jax.sharding.get_abstract_mesh().empty:
        return function
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)


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
    """On a mesh every device computes the same, its attention included."""

    def one(params: nnx.State[Any, Any], x: Array, cache: Cache) -> tuple[Array, Cache]:
        made: tuple[Array, Cache] = getattr(nnx.merge(graph, params), method)(x, cache)
        return made

    made: tuple[Array, Cache] = _on_each_device(one, (_WHOLE,) * 3, (_WHOLE, _WHOLE))(
        params, x, cache
    )
    return made


def _unchanged(chunks: Sequence[np.ndarray], memory: int) -> list[bool]:
    """Which chunks equal more than `memory` before them, so that nothing can differ any more."""
    unchanged, repeats = [], 0
    for i, chunk in enumerate(chunks):
        repeats = repeats + 1 if i and np.array_equal(chunk, chunks[i - 1]) else 0
        unchanged.append(repeats > memory)
    return unchanged


def _joined(
    in_turn: Sequence[Sequence[int]], parts: Sequence[Array], of: int
) -> Array | np.ndarray:
    """The stripes of one frame put together, on the host."""
    like = parts[0]
    if like.shape[2] == of:
        return like
    whole = np.empty((*like.shape[:2], of, *like.shape[3:]), like.dtype)
    for starts, part in zip(in_turn, parts, strict=True):
        for first, stripe in zip(starts, _stripes(part, len(starts)), strict=True):
            whole[:, :, first : first + stripe.shape[2]] = stripe
    return whole


def _stripes(x: Array, count: int) -> list[np.ndarray]:
    """Fetched, each device's stripe by itself."""
    return np.split(np.asarray(x), count, axis=2)


def _one_behind(made: Iterator[tuple[int, Sequence[int], Array]]) -> Iterator[Piece]:
    """Fetches pieces once the devices have been given the next ones to compute."""
    for pieces, _ in itertools.pairwise(itertools.chain(made, [None])):
        if pieces is not None:
            frame, starts, pixels = pieces
            fetched = dict(zip(starts, _stripes(pixels, len(starts)), strict=True))
            for row, stripe in fetched.items():
                yield Piece(frame, row, stripe.astype(np.float32, copy=False))
