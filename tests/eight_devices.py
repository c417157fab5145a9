"""Run by tests/test_sharding.py in a process of eight CPU devices: prints facts as JSON.

python tests/eight_devices.py FOLDER transformer|videos MESH ...
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from PIL import Image
from small_folder import SMALL_RUN

from wanjax.caching import MagCache
from wanjax.checkpoints.folder import Folder
from wanjax.checkpoints.mapping import flat_parameters
from wanjax.config.resolve import resolve
from wanjax.models.transformer import WanTransformer
from wanjax.parallel.mesh import parse_mesh
from wanjax.parallel.sharding import UndividedWarning, constrain, make_mesh
from wanjax.pipeline.pipeline import WanPipeline
from wanjax.sampling.programs import Programs
from wanjax.sampling.step import run_step

STEPS = 6


def main(folder: Path, what: str, *meshes: str) -> None:
    facts = {"transformer": transformer_facts, "videos": video_facts}[what]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        found = facts(folder, {text: make_mesh(parse_mesh(text)) for text in meshes})
    said = [str(w.message) for w in caught if w.category is UndividedWarning]
    print(json.dumps(found | {"devices": jax.device_count(), "said": said}))


def relative_error(result: Any, expected: Any) -> float:
    """Maximum error over maximum value."""
    result, expected = np.asarray(result, np.float64), np.asarray(expected, np.float64)
    return float(np.abs(result - expected).max() / np.abs(expected).max())


# the transformer -----------------------------------------------------------------------


@partial(jax.jit, static_argnums=0)
def call(graph, params, latents, timestep, text):
    """The model's output, and the tokens after its blocks."""
    model = nnx.merge(graph, params)
    grid = model.grid(latents.shape)
    tokens, time = model.embed(latents, timestep)
    tokens = model.run_blocks(tokens, time, model.embed_context(text), grid)
    return model.head(tokens, time, grid), tokens


def transformer_facts(folder: Path, meshes: dict[str, Mesh]) -> dict[str, Any]:
    """Of each mesh: the error against one device, and what a device holds."""
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(2, 4, 2, 8, 8)).astype(np.float32)  # 32 tokens
    text = rng.normal(size=(2, 16, 32)).astype(np.float32)
    inputs = (latents, np.array([931.0, 47.0], np.float32), text)
    opened = Folder.open(folder)

    def load(mesh: Mesh | None) -> WanTransformer:
        return opened.load_transformer("transformer", dtype=jnp.float32, mesh=mesh)

    def run(model: WanTransformer, mesh: Mesh | None) -> tuple[jax.Array, jax.Array]:
        graph, params = nnx.split(model)
        return Programs(mesh).get(call, (graph,), (params, *inputs))(params, *inputs)

    whole = load(None)
    expected, _ = run(whole, None)
    facts = {}
    for name, mesh in meshes.items():
        model = load(mesh)
        velocity, tokens = run(model, mesh)
        facts[name] = {
            "error": relative_error(velocity, expected),
            "tokens": part(tokens).shape,
            "held": held_of_matrices(model),
        }
    return {"meshes": facts, "tokens held": tokens_held(*meshes.values())}


def tokens_held(*meshes: Mesh) -> list[int]:
    """Tokens out of 32 on a device, by one function compiled for no mesh and for each in turn.

    Last for no mesh again, while the caller has set one.
    """
    tokens = np.zeros((1, 32), np.float32)

    def held(mesh: Mesh | None) -> int:
        return part(Programs(mesh).get(name_tokens, (), (tokens,))(tokens)).size

    found = [held(mesh) for mesh in (None, *meshes)]
    with jax.set_mesh(meshes[0]):
        return [*found, held(None)]


@jax.jit
def name_tokens(tokens):
    return constrain(tokens + 1, None, "tokens")


def held_of_matrices(model: WanTransformer) -> list[float]:
    """The parts of the blocks' matrices that one device holds."""
    return sorted(
        {
            part(x.get_value()).size / x.get_value().size
            for path, x in flat_parameters(nnx.state(model))
            if path.startswith("blocks.") and path.endswith("kernel")
        }
    )


def part(x: jax.Array) -> jax.Array:
    """What the first device holds of an array."""
    return x.addressable_shards[0].data


# whole videos --------------------------------------------------------------------------


def video_facts(folder: Path, meshes: dict[str, Mesh]) -> dict[str, Any]:
    """Of each mesh: the error of a dense and a MagCache run, and what a skipped step moves."""
    expected, _ = videos(folder, None)
    facts = {}
    for name, mesh in meshes.items():
        found, shapes = videos(folder, mesh)
        errors = {key: relative_error(found[key], expected[key]) for key in expected}
        facts[name] = errors | {"moved": shapes}
    return {"meshes": facts}


def videos(folder: Path, mesh: Mesh | None) -> tuple[dict[str, np.ndarray], list[list[int]]]:
    """Two videos at once, dense and with skipped steps.

    Also the shapes of the arrays that a skipped step moves between devices.
    """
    config = resolve([f"model={folder}", *SMALL_RUN], "show")
    pipe = WanPipeline.from_config(config)
    pipe.programs = Programs(mesh)
    pipe.transformers = tuple(
        pipe.folder.load_transformer(name, dtype=jnp.float32, mesh=mesh)
        for name in pipe.folder.experts
    )
    cache = MagCache(retention_ratio=0.1, mag_ratios_base=[1.0] * (2 * STEPS))
    arguments: dict[str, Any] = {"height": 64, "width": 128}  # 64 tokens
    if pipe.takes_image:
        arguments["image"] = Image.linear_gradient("L")
    prompts = ["a red ball moving left", "a blue square"]
    dense = pipe(prompts, **arguments)
    used = []
    pipe.programs.watch = lambda function, args, program: used.append((function, program))
    cached = pipe(prompts, cache=cache, output_type="latent", **arguments)
    assert cached.plan.skipped_steps
    assert np.abs(cached.latents - dense.latents).max() > 0.01
    steps = [program for function, program in used if function is run_step]
    _computed, skipped = sorted(steps, key=lambda program: -len(program.as_text()))
    result = {"dense": dense.latents, "magcache": cached.latents, "frames": dense.frames}
    return result, moved(skipped.as_text())


def moved(program: str) -> list[list[int]]:
    """Shapes of the results of a compiled program's collectives."""
    kinds = "all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter"
    found = re.findall(rf"= \w+\[([\d,]*)\]\S* (?:{kinds})\(", program)
    return [[int(size) for size in shape.split(",") if size] for shape in found]


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
