"""Run by tests/test_sharding.py in a process of eight CPU devices: prints facts as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from wanjax.checkpoints.folder import Folder
from wanjax.checkpoints.mapping import flat_parameters
from wanjax.parallel.sharding import MESH_AXES, use_mesh


def velocity(model, latents, timestep, text, mesh=None):
    """One call; the layout of the tokens after the blocks is reported beside its result."""

    @nnx.jit
    def call(model, latents, timestep, text):
        grid = model.grid(latents.shape)
        tokens, time = model.embed(latents, timestep)
        tokens = model.run_blocks(tokens, time, model.embed_context(text), grid)
        return model.head(tokens, time, grid), tokens

    with use_mesh(mesh):
        return call(model, latents, timestep, text)


def main(folder: Path) -> None:
    rng = np.random.default_rng(0)
    latents = jnp.asarray(rng.normal(size=(2, 4, 2, 4, 6)), jnp.float32)
    text = jnp.asarray(rng.normal(size=(2, 16, 32)), jnp.float32)
    timestep = jnp.array([931.0, 47.0])
    mesh = Mesh(np.array(jax.devices()).reshape(1, 2, 2, 2), MESH_AXES)
    opened = Folder.open(folder)
    whole = opened.load_transformer("transformer", dtype=jnp.float32)
    sharded = opened.load_transformer("transformer", dtype=jnp.float32, mesh=mesh)
    expected, _ = velocity(whole, latents, timestep, text)
    result, tokens = velocity(sharded, latents, timestep, text, mesh)
    specs = {
        path: [str(axis) for axis in variable.get_value().sharding.spec]
        for path, variable in flat_parameters(nnx.state(sharded))
    }
    held = {
        path: variable.get_value().addressable_shards[0].data.size / variable.get_value().size
        for path, variable in flat_parameters(nnx.state(sharded))
    }
    facts = {
        "devices": jax.device_count(),
        "error": float(jnp.abs(result - expected).max() / jnp.abs(expected).max()),
        "specs": specs,
        "held": held,
        "tokens": tokens.addressable_shards[0].data.shape,
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
