"""Denoised latents to pixels."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8

from wanjax.models.vae import WanVAE
from wanjax.parallel.hosts import fetch
from wanjax.pipeline.finite import check_pixels
from wanjax.pipeline.vae_stream import decode_video
from wanjax.sampling.programs import Programs


def decode_latents(
    vae: WanVAE,
    programs: Programs,
    latents: Float[Array | np.ndarray, "batch z t h w"],
    dtype: Literal["uint8", "float32"],
    stripe_rows: int | None = None,
    *,
    finite: bool = True,
) -> Shaped[np.ndarray, "batch frames height width 3"]:
    """Pixels from 0 to 255, or with "float32" from 0 to 1, unrounded.

    Raises `NonFiniteError` where they are not `finite`, unless they need not be.
    """

    def convert(video: Float[np.ndarray, "b f H W 3"]) -> Shaped[np.ndarray, "b f H W 3"]:
        if finite:
            check_pixels(video, vae)
        else:
            video = np.nan_to_num(video)
        return _to_uint8(video) if dtype == "uint8" else _to_unit(video)

    # on the host, which compiles nothing for it
    latents = vae.denormalize(np.moveaxis(fetch(latents).astype(np.float32), 1, -1))
    return decode_video(vae, latents, programs, convert, stripe_rows)


def _to_unit(video: Float[np.ndarray, "b f H W 3"]) -> Float[np.ndarray, "b f H W 3"]:
    unit: Float[np.ndarray, "b f H W 3"] = (np.clip(video, -1, 1) + 1) / 2
    return unit


def _to_uint8(video: Float[np.ndarray, "b f H W 3"]) -> UInt8[np.ndarray, "b f H W 3"]:
    return np.round(_to_unit(video) * 255).astype(np.uint8)
