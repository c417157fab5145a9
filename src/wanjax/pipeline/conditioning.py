"""What the transformer sees besides noise and text: the first (and last) frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from wanjax.config.keys import Config
from wanjax.media.images import to_batch
from wanjax.models.vae import WanVAE
from wanjax.pipeline.components import Components
from wanjax.pipeline.vae_stream import encode_video
from wanjax.sampling.condition import Condition, FirstFrames
from wanjax.sampling.programs import Programs


def condition_of(
    frames: Sequence[Sequence[Any]],
    config: Config,
    components: Components,
    programs: Programs,
    stripe_rows: int | None,
    *,
    expand_timesteps: bool,
) -> Condition | None:
    """What first frames (and last ones) add to the latents; None without any.

    With `expand_timesteps` they take a place in the sample itself, under a timestep of their own.
    """
    if not frames:
        return None
    pictures = [to_batch(images, config.height, config.width) for images in frames]
    vae = components.vae  # which comes to the devices, and so not without pictures
    if expand_timesteps:
        return given_frame(vae, programs, stripe_rows, *pictures)
    return jnp.asarray(image_condition(vae, config.num_frames, programs, stripe_rows, *pictures))


def image_condition(
    vae: WanVAE,
    num_frames: int,
    programs: Programs,
    stripe_rows: int | None,
    first: UInt8[np.ndarray, "batch h w 3"],
    last: UInt8[np.ndarray, "batch h w 3"] | None = None,
) -> Float[np.ndarray, "batch c t h2 w2"]:
    """Mask and latents that follow the noise latents' channels.

    The latents are those of a video of the first frame, grey frames and, if given, the last
    one. The mask says which frames are given: one channel for each of the `temporal_factor`
    frames in a latent frame. As diffusers' `WanImageToVideoPipeline.prepare_latents`.
    """
    video = np.zeros((len(first), num_frames, *first.shape[1:]), np.float32)  # 0 is mid grey
    given = np.zeros(num_frames, np.float32)
    for index, frame in ((0, first), (-1, last)):
        if frame is not None:
            video[:, index] = frame.astype(np.float32) / 127.5 - 1
            given[index] = 1
    encoded = encode_video(vae, video, programs, stripe_rows)
    latents = np.moveaxis(np.asarray(vae.normalize(jnp.asarray(encoded))), -1, 1)
    mask = _pack_mask(given, vae.config.temporal_factor)[None, :, :, None, None]
    mask = np.broadcast_to(mask, (len(first), *mask.shape[1:3], *latents.shape[3:]))
    return np.concatenate([mask, latents], axis=1)


def given_frame(
    vae: WanVAE,
    programs: Programs,
    stripe_rows: int | None,
    first: UInt8[np.ndarray, "batch h w 3"],
) -> FirstFrames:
    """Latents of the first frame, which take the place of the sample's first ones."""
    video = first[:, None].astype(np.float32) / 127.5 - 1
    encoded = encode_video(vae, video, programs, stripe_rows)
    return FirstFrames(jnp.moveaxis(vae.normalize(jnp.asarray(encoded)), -1, 1))


def _pack_mask(given: Float[np.ndarray, " frames"], factor: int) -> Float[np.ndarray, "factor t"]:
    """Frames to channels of latent frames; the first frame fills its latent frame alone."""
    repeated = np.concatenate([np.repeat(given[:1], factor), given[1:]])
    return repeated.reshape(-1, factor).T
