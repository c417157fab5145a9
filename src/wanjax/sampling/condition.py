"""What a picture adds to the sample: channels beside it, or latent frames in its place."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class FirstFrames(NamedTuple):
    """Latent frames that are given (Wan 2.2's 5B model): the sample's first ones, without noise.

    The model sees them at timestep 0, the others at the step's, and they do not move.
    """

    latents: Float[Array, "batch z n h w"]


# Arrays are mask and latents that follow the sample's channels (the image to video models).
Condition = Float[Array, "batch c t h w"] | FirstFrames


def given_frames(condition: Condition | None) -> int:
    """How many of the latent frames are given."""
    return condition.latents.shape[2] if isinstance(condition, FirstFrames) else 0


def hold(
    sample: Float[Array, "batch z t h w"], condition: Condition | None
) -> Float[Array, "batch z t h w"]:
    """The sample with the given frames in their place."""
    if not isinstance(condition, FirstFrames):
        return sample
    rest = sample[:, :, given_frames(condition) :]
    return jnp.concatenate([condition.latents.astype(sample.dtype), rest], axis=2)


def still(
    velocity: Float[Array, "... z t h w"], condition: Condition | None
) -> Float[Array, "... z t h w"]:
    """The velocity, which is zero in given frames."""
    count = given_frames(condition)
    return velocity.at[..., :count, :, :].set(0) if count else velocity


def model_input(
    sample: Float[Array, "batch z t h w"], condition: Condition | None, dtype: str
) -> Float[Array, "batch channels t h w"]:
    """What the transformer takes, in its own precision."""
    if condition is None or isinstance(condition, FirstFrames):
        return hold(sample, condition).astype(dtype)
    return jnp.concatenate([sample, condition], axis=1).astype(dtype)
