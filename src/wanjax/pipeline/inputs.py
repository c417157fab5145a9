"""What a call is given, checked and brought into one form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from PIL import Image

from wanjax.errors import UsageError
from wanjax.media.images import load_image, to_rgb

ImageLike = Image.Image | str | Path
OneOrMore = str | Sequence[str] | None
Embeds = Float[Array | np.ndarray, "batch length dim"]


@dataclass(frozen=True)
class Prompts:
    """Texts or their embeddings, as a call gave them; one prompt or one set of embeddings."""

    prompt: OneOrMore = None
    negative_prompt: OneOrMore = None
    prompt_embeds: Embeds | None = None
    negative_prompt_embeds: Embeds | None = None
    copies: int = 1  # videos of each prompt

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.prompt_embeds is None):
            raise UsageError("give either prompt or prompt_embeds")
        if self.copies < 1:
            raise UsageError(f"num_videos_per_prompt={self.copies}: must be at least 1")

    @property
    def texts(self) -> list[str]:
        """The prompts; empty where embeddings take their place."""
        return [] if self.prompt is None else as_list(self.prompt)


@dataclass(frozen=True)
class Frames:
    """The first and last frames of all videos, upright RGB; empty where there are none."""

    first: Sequence[Image.Image]
    last: Sequence[Image.Image]

    @property
    def given(self) -> list[Sequence[Image.Image]]:
        return [images for images in (self.first, self.last) if images]

    @property
    def all(self) -> list[Image.Image]:
        return [*self.first, *self.last]

    def repeated(self, batch: int, copies: int = 1) -> list[list[Image.Image]]:
        """Those that are given, one for each video; given one a prompt, for each of its copies."""
        ends = [repeat(images, batch // copies, "image") for images in self.given]
        return [spread(images, copies) for images in ends]


def as_images(images: ImageLike | Sequence[ImageLike] | None) -> list[Image.Image]:
    """Upright RGB. Raises `UsageError` for what is no image."""
    if images is None:
        return []
    several = [images] if isinstance(images, ImageLike) else images
    for image in several:
        if not isinstance(image, ImageLike):
            raise UsageError(f"image: give a file or a PIL image, not a {type(image).__name__}")
    return [to_rgb(i) if isinstance(i, Image.Image) else load_image(i) for i in several]


def as_list(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def spread(values: Sequence[Any], copies: int) -> list[Any]:
    """Each so many times, side by side."""
    return [value for value in values for _ in range(copies)]


def repeat(values: Sequence[Any], count: int, name: str) -> list[Any]:
    """One for each of `count` videos, of one or as many."""
    if len(values) not in (1, count):
        raise UsageError(f"{name}: {len(values)} for {count} prompts; give one, or one each")
    return list(values) * (count if len(values) == 1 else 1)


def start_latents(
    shape: tuple[int, ...],
    batch: int,
    seed: int | np.integer | Sequence[int],
    latents: Float[Array | np.ndarray, "batch z t h w"] | None,
) -> Float[Array, "batch z t h w"]:
    """Noise of `shape` for each video: given as `latents`, or from the seed, which counts up."""
    if latents is not None:
        if latents.shape != (batch, *shape):
            raise UsageError(f"latents have shape {latents.shape}, expected {(batch, *shape)}")
        return jnp.array(latents, jnp.float32)  # a copy: the loop consumes its own
    if isinstance(seed, int | np.integer):
        seed = [int(seed) + i for i in range(batch)]
    if len(seed) != batch:
        raise UsageError(f"{len(seed)} seeds for {batch} videos; give one, or one each")
    return jnp.stack([jax.random.normal(jax.random.key(s), shape) for s in seed])
