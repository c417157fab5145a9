"""Fit the linear map from latents to small pictures (`pipe.preview`) of the bundled VAE."""

from __future__ import annotations

import argparse
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from render import render_scenes

from wanjax.checkpoints.folder import Folder
from wanjax.models.vae import WanVAE
from wanjax.pipeline.decode import decode_latents
from wanjax.pipeline.preview import Preview, sample_latents
from wanjax.pipeline.vae_stream import encode_video
from wanjax.sampling.programs import Programs
from wanjax.tiny.world import sample_scene

CLIPS, HELD_OUT, BATCH = 64, 32, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, nargs="+", help="folders of models that share the VAE")
    roots = parser.parse_args().root
    vae, programs = Folder(roots[0], {}).load_vae(), Programs()
    rng = np.random.default_rng(0)
    latents, frames = clips(vae, programs, rng, CLIPS, held_out=False)
    preview = Preview.fit(latents, frames)
    unseen = clips(vae, programs, rng, HELD_OUT, held_out=True)
    print(f"fitted to {CLIPS} clips: {psnr(preview, *unseen):.1f} dB on {HELD_OUT} others")
    random = sample_latents(*latents.shape[1:3])
    by_noise = Preview.fit(random, decode(vae, programs, random))
    print(f"fitted to decoded random latents: {psnr(by_noise, *unseen):.1f} dB")
    for root in roots:
        preview.save(
            root / "vae/preview.json", source=f"recipes/tiny/fit_preview.py, {CLIPS} clips"
        )


def clips(
    vae: WanVAE, programs: Programs, rng: np.random.Generator, count: int, held_out: bool
) -> tuple[Float[np.ndarray, "clips z t h w"], Float[np.ndarray, "clips f H W 3"]]:
    """Normalised latents of drawn clips, and what the VAE decodes of them."""
    scenes = [sample_scene(rng, held_out=held_out) for _ in range(count)]
    pixels = render_scenes(scenes).astype(np.float32) / 127.5 - 1
    encoded = [
        np.asarray(vae.normalize(jnp.asarray(encode_video(vae, some, programs, None))))
        for some in np.split(pixels, range(BATCH, count, BATCH))
    ]
    latents = np.moveaxis(np.concatenate(encoded), -1, 1)
    return latents, decode(vae, programs, latents)


def decode(
    vae: WanVAE, programs: Programs, latents: Float[np.ndarray, "clips z t h w"]
) -> Float[np.ndarray, "clips f H W 3"]:
    parts = np.split(latents, range(BATCH, len(latents), BATCH))
    return np.concatenate([decode_latents(vae, programs, part, "float32") for part in parts])


def psnr(
    preview: Preview,
    latents: Float[np.ndarray, "clips z t h w"],
    frames: Float[np.ndarray, "clips f H W 3"],
) -> float:
    """Of the middle latent frame's small picture against the decoded frame at its size."""
    at = latents.shape[2] // 2
    size = latents.shape[-1] * preview.patch
    shown = np.stack([np.asarray(preview.picture(x[:, at])) for x in latents]) / 255
    true = frames[:, at * ((frames.shape[1] - 1) // (latents.shape[2] - 1))]
    side = true.shape[1] // size
    true = true.reshape(len(true), size, side, size, side, 3).mean(axis=(2, 4))
    return float(-10 * np.log10(((shown - true) ** 2).mean()))


if __name__ == "__main__":
    main()
