"""A VAE on a mesh of eight devices against the same on one; prints facts as JSON.

Run by `test_vae_stripes.py` in a process of its own, for the devices are made when JAX starts.
"""

from __future__ import annotations

import json

import jax
import numpy as np
from flax import nnx

from wanjax.models.configs import VAEConfig
from wanjax.models.vae import WanVAE
from wanjax.parallel.mesh import MeshShape
from wanjax.parallel.sharding import make_mesh, place
from wanjax.pipeline.vae_stream import decode_video, encode_video
from wanjax.sampling.programs import Programs

CONFIG = VAEConfig(
    base_dim=4, z_dim=4, num_res_blocks=1, latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4
)
MESH = MeshShape(data=2, fsdp=2, context=2)
# 23 rows: eight stripes of 3, which overlap; twelve of 2, in two rounds. 24: eight of 3.
CASES = {"overlapping": (23, None), "two rounds": (23, 2), "dividing": (24, None)}


def main() -> None:
    facts = {}
    for name, (rows, stripe_rows) in CASES.items():
        key = jax.random.key(1)
        latents = 0.3 * jax.random.normal(key, (2, 2, rows, 2, 4))
        vae = WanVAE(CONFIG, rngs=nnx.Rngs(0))
        video = decode_video(vae, latents, Programs())
        encoded = encode_video(vae, video, Programs())

        mesh = make_mesh(MESH)
        on_mesh, programs = placed(vae, mesh), Watched(mesh)
        shared = place(latents, mesh, "batch", *[None] * 4)  # as denoising leaves them
        decoded = decode_video(on_mesh, shared, programs, stripe_rows=stripe_rows)
        again = encode_video(on_mesh, video, programs, stripe_rows=stripe_rows)
        facts[name] = {
            "decode": error(decoded, video),
            "encode": error(again, encoded),
            "programs": len(programs),
            "collectives": programs.collectives,
            "cache held": programs.cache_held,
        }
    print(json.dumps({"devices": jax.device_count(), "cases": facts}))


class Watched(Programs):
    """Counts the collectives of its programs, and what a device holds of a stripe's cache."""

    def __init__(self, mesh: jax.sharding.Mesh):
        super().__init__(mesh)
        self.collectives: dict[str, int] = {}
        self.cache_held: list[float] = []

    def get(self, function, static, args):
        program = super().get(function, static, args)
        text = program.as_text()
        for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
            found = text.count(f" {name}(")
            if found:
                self.collectives[name] = max(self.collectives.get(name, 0), found)
        if function.__name__ == "_stripe_impl" and args[2] is not None:
            parts = {x.addressable_shards[0].data.size / x.size for x in args[2]}
            self.cache_held = sorted(parts)
        return program


def placed(vae: WanVAE, mesh: jax.sharding.Mesh) -> WanVAE:
    """As it is loaded for a mesh: whole on each device."""
    graph, params = nnx.split(vae)
    params = jax.tree.map(lambda x: place(x, mesh, *[None] * x.ndim), params)
    return nnx.merge(graph, params)


def error(got: np.ndarray, expected: np.ndarray) -> float:
    """Maximum error over maximum value."""
    return float(np.abs(got - expected).max() / np.abs(expected).max())


if __name__ == "__main__":
    main()
