"""A small picture of latents, without the VAE: one linear map, fitted to what the VAE decodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Array, Float, Shaped
from PIL import Image

from wanjax.errors import CheckpointError
from wanjax.files import read_own, write_json
from wanjax.validation import Number, validate

FORMAT, VERSION = "wanjax-preview", 1
PATCH = 4  # pixels of the picture along each side of a latent
_RIDGE = 1e-4  # relative to the latents, which are about 1: channels that hardly act stay at 0
_Weights = Annotated[list[list[Number]], "rows"]


class Preview:
    """From the channels of one latent (and 1) to `patch` x `patch` pixels, by least squares.

    `weights` has a row for each channel and one for the constant, `patch * patch * 3` columns.
    Raises `CheckpointError` for weights of another form.
    """

    def __init__(self, weights: Float[np.ndarray, "rows columns"]):
        side = int(np.sqrt(weights.shape[1] / 3))
        if weights.ndim != 2 or side < 1 or side * side * 3 != weights.shape[1]:
            raise CheckpointError(f"preview: weights of shape {weights.shape} make no patches")
        self.weights, self.patch = weights, side

    @classmethod
    def fit(
        cls,
        latents: Float[np.ndarray, "batch z t h w"],
        frames: Shaped[np.ndarray, "batch frames height width 3"],
        patch: int = PATCH,
    ) -> Preview:
        """From normalised latents and their frames (0 to 1); each latent frame's last counts."""
        return cls.fit_all([(latents, frames)], patch)

    @classmethod
    def fit_all(cls, pairs: Sequence[tuple[np.ndarray, np.ndarray]], patch: int = PATCH) -> Preview:
        """To several pairs of `fit`, each of its own size."""
        systems = [_system(latents, frames, patch) for latents, frames in pairs]
        x, y = (np.concatenate(parts) for parts in zip(*systems, strict=True))
        pull = _RIDGE * len(x) * np.eye(x.shape[1])
        return cls(np.linalg.solve(x.T @ x + pull, x.T @ y))

    @classmethod
    def load(cls, path: Path) -> Preview:
        """Raises `CheckpointError`."""
        content = read_own(path, FORMAT, VERSION, CheckpointError)
        rows = validate(_Weights, content.get("weights"), f"{path}: weights", CheckpointError)
        if len({len(row) for row in rows}) != 1:
            raise CheckpointError(f"{path}: weights: rows must have one length")
        return cls(np.array(rows))

    def save(self, path: Path, **about: Any) -> None:
        """Write the fit as JSON, with what is said of it."""
        rows = [[round(float(w), 5) for w in row] for row in self.weights]
        write_json(path, {"format": FORMAT, "version": VERSION, **about, "weights": rows})

    def picture(self, latents: Float[np.ndarray | Array, "z h w"]) -> Image.Image:
        """Of `patch` times as many pixels along each side as there are latents."""
        channels, height, width = latents.shape
        if channels + 1 != len(self.weights):
            raise CheckpointError(
                f"preview: made for {len(self.weights) - 1} channels, the latents have {channels}"
            )
        x = np.moveaxis(np.asarray(latents, np.float32), 0, -1).reshape(-1, channels)
        patches = _with_one(x) @ self.weights
        n = self.patch
        pixels = patches.reshape(height, width, n, n, 3).swapaxes(1, 2)
        pixels = pixels.reshape(height * n, width * n, 3)
        return Image.fromarray((np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8))


def sample_latents(
    channels: int, times: int, count: int = 64, side: int = 8, seed: int = 0
) -> Float[np.ndarray, "count z t side side"]:
    """Random latents to fit by where there are no videos: of one value each, and some noise.

    A decoder averages independent noise away. On held-out clips of the bundled VAE a fit to real
    ones has 20.5 dB and a fit to these 18.1 (`recipes/tiny/fit_preview.py`); a fit to white noise
    had 3 dB less than that.
    """
    rng = np.random.default_rng(seed)
    flat = rng.standard_normal((count, channels, times, 1, 1))
    noise = 0.3 * rng.standard_normal((count, channels, times, side, side))
    return (flat + noise).astype(np.float32)


def _with_one(x: Float[np.ndarray, "n z"]) -> Float[np.ndarray, "n z+1"]:
    return np.concatenate([x, np.ones((len(x), 1), x.dtype)], axis=1)


def _system(
    latents: Float[np.ndarray, "batch z t h w"],
    frames: Shaped[np.ndarray, "batch frames height width 3"],
    patch: int,
) -> tuple[Float[np.ndarray, "n z+1"], Float[np.ndarray, "n columns"]]:
    """What goes in and what shall come out: a row for each latent."""
    batch, channels, times, height, width = latents.shape
    every = (frames.shape[1] - 1) // max(times - 1, 1) or 1
    pixels = frames[:, ::every]
    side = pixels.shape[2] // (height * patch)
    shape = (batch, times, height, patch, side, width, patch, side, 3)
    means = pixels.reshape(shape).mean(axis=(4, 7)).swapaxes(3, 4)  # of each small pixel
    x = _with_one(np.moveaxis(latents, 1, -1).reshape(-1, channels))
    return x, means.reshape(len(x), -1)
