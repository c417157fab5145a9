"""Run by tests/test_sharding.py in a process of eight CPU devices: prints facts as JSON.

python tests/eight_devices.py FOLDER transformer|videos|batches|programs MESH ...
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Callable
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

from wanjax.caching import CFGCache, EasyCache, MagCache, SenCache
from wanjax.checkpoints.configs import model_configs
from wanjax.checkpoints.folder import Folder
from wanjax.checkpoints.mapping import flat_parameters
from wanjax.config.resolve import resolve
from wanjax.models.transformer import WanTransformer
from wanjax.parallel.mesh import parse_mesh
from wanjax.parallel.sharding import UndividedWarning, constrain, make_mesh
from wanjax.parallel.topologies import target_here
from wanjax.pipeline.compiling import compile_run
from wanjax.pipeline.components import Components
from wanjax.pipeline.pipeline import WanPipeline
from wanjax.pipeline.video import Video
from wanjax.planning.run import prepare
from wanjax.sampling.programs import Programs
from wanjax.sampling.skipped import run_skipped
from wanjax.sampling.step import run_step

STEPS = 8
MAGCACHE = MagCache(retention_ratio=0.1, mag_ratios_base=[1.0] * (2 * STEPS))
LINEAR = MagCache(retention_ratio=0.2, mag_ratios_base=[1.0] * (2 * STEPS), estimate="linear")
CACHES = {
    "magcache": MAGCACHE,
    "linear": LINEAR,  # a forecast
    # the branches part: one computes where the other one's residual is taken
    "official": MagCache(
        retention_ratio=0.1,
        mag_ratios_base=[1.0, 1.0, *[1.0, 0.97] * (STEPS - 1)],
        thresh=0.05,
        rule="official",
    ),
    "cfg_cache": CFGCache(start=2),
    "sen_cache": SenCache(epsilon=10.0),
    "easycache": EasyCache(thresh=10.0, start=1),
}
PROMPTS = ["a red ball moving left", "a blue square"]
DIVIDED = {"height": 64, "width": 160}  # 80 tokens
UNDIVIDED = {"height": 48, "width": 160}  # 60 tokens: eight devices have them filled up


def main(folder: Path, what: str, *meshes: str) -> None:
    kinds = {
        "transformer": transformer_facts,
        "videos": partial(video_facts, PROMPTS[:1], DIVIDED),
        "batches": partial(video_facts, PROMPTS, UNDIVIDED),
        "programs": program_facts,
    }
    facts = kinds[what]
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


def video_facts(
    prompts: list[str], size: dict[str, int], folder: Path, meshes: dict[str, Mesh]
) -> dict[str, Any]:
    """Of each mesh: the errors of runs by each method, and what a step moves of what."""
    expected, _ = videos(prompts, size, folder, None)
    facts = {}
    for name, mesh in meshes.items():
        found, moves = videos(prompts, size, folder, mesh)
        errors = {key: relative_error(found[key], expected[key]) for key in expected}
        facts[name] = {"errors": errors, "moved": moves}
    return {"meshes": facts}


Moves = list[tuple[str, list[int]]]


def videos(
    prompts: list[str], size: dict[str, int], folder: Path, mesh: Mesh | None
) -> tuple[dict[str, np.ndarray], dict[str, Moves]]:
    """Latents of the prompts' videos at once by each method, and the dense ones' frames.

    Also what steps move between devices: one computed with MagCache, one skipped by it, and
    one that is forecast.
    """
    config = resolve([f"model={folder}", *SMALL_RUN], "show")
    pipe = WanPipeline(Components.of(config, mesh), config, Programs(mesh))
    image = {"image": Image.linear_gradient("L")} if pipe.takes_image else {}
    run = partial(pipe, prompts, num_inference_steps=STEPS, **size, **image)
    steps: list[str] = []
    pipe.programs.watch = lambda function, _, program: (
        steps.append(program.as_text()) if function in (run_step, run_skipped) else None
    )
    dense = run(cache=None)
    found = {"dense": dense.latents, "frames": dense.frames}
    moves = {}
    for name, cache in CACHES.items():
        steps.clear()
        found[name] = of(run, cache)
        if name == "magcache":
            moves["computed"] = moved(max(steps, key=len))
            moves["skipped"] = moved(min(steps, key=len))
        elif name == "linear":
            moves["forecast"] = moved(min(steps, key=len))
    pipe.programs.watch = None
    check_resting(pipe, run)
    return found, moves


def of(run: Callable[..., Video], cache: Any) -> np.ndarray:
    """The latents of a run in which the method leaves something out."""
    video = run(cache=cache, output_type="latent")
    assert set(video.plan.strip()) & {".", "+"}, video.plan.strip()
    return video.latents


def check_resting(pipe: WanPipeline, run: Callable[..., Video]) -> None:
    """Parts come back from the host to where they lay: the programs are the same."""
    before = len(pipe.programs)
    for name in ("text_encoder", "vae", *pipe.components.folder.experts):
        pipe.components.rest(name)
    run(cache=None)
    assert len(pipe.programs) == before


def moved(program: str) -> Moves:
    """The collectives of a compiled program: what each does, and the shapes of its results."""
    kinds = "all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter"
    found = re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", program)
    return [
        (kind, [int(size) for size in shape.split(",") if size])
        for results, kind in found
        for shape in re.findall(r"\w+\[([\d,]*)\]", results)
    ]


# what `wanjax compile` compiles --------------------------------------------------------


def program_facts(folder: Path, meshes: dict[str, Mesh]) -> dict[str, Any]:
    """Of each mesh: bytes of arguments and temporaries, as compiled and as used by a run."""
    return {"meshes": {name: programs_on(folder, mesh) for name, mesh in meshes.items()}}


def programs_on(folder: Path, mesh: Mesh) -> dict[str, Any]:
    config = resolve([f"model={folder}", *SMALL_RUN], "show", values={"height": 192})
    run = prepare(config)
    compiled = compile_run(run, target_here(), model_configs(str(folder)), mesh, lambda line: None)
    pipe = WanPipeline(Components.of(config, mesh), config, Programs(mesh))
    used = []

    def watch(function: Any, args: Any, program: Any) -> None:
        memory = program.memory_analysis()
        used.append([memory.argument_size_in_bytes, memory.temp_size_in_bytes])

    pipe.programs.watch = watch
    image = Image.linear_gradient("L") if pipe.takes_image else None
    pipe("a red ball", image=image, cache=None)
    figures = {
        name: [found.argument_bytes, found.temporary_bytes]
        for name, found in compiled.programs.items()
    }
    rows = compiled.estimate.stripe_rows
    return {"compiled": figures, "used": used, "rows": [rows.encode, rows.decode]}


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
