"""Programs compiled while weights load: they are those that the run uses, and it compiles none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from small_folder import SMALL_RUN, make_small_folder

from wanjax.config.resolve import resolve
from wanjax.models.configs import TransformerConfig
from wanjax.models.layers import Undrawn
from wanjax.models.transformer import WanTransformer
from wanjax.pipeline.ahead import compile_ahead
from wanjax.pipeline.inputs import Prompts
from wanjax.pipeline.pipeline import WanPipeline
from wanjax.planning.run import prepare

MAGCACHE = ["use_magcache=True", "retention_ratio=0.1", f"mag_ratios_base={[1.0] * 12}"]


def made_ahead(folder, *arguments, image=None):
    """The programs that were made ahead and those that the run then made itself; its video."""
    config = resolve([f"model={folder}", *SMALL_RUN, *arguments], "show")
    run = prepare(config)
    pipe = WanPipeline.without_weights(config)
    for thread in compile_ahead(pipe, run):
        thread.join()
    ahead = [compilation.name for compilation in pipe.programs.compilations]
    pipe.load()
    video = pipe.execute(run, Prompts("a red ball", ""), pipe.frames(image, None), seed=0)
    made = [compilation.name for compilation in pipe.programs.compilations]
    return ahead, made[len(ahead) :], video


def test_a_run_compiles_nothing_that_was_made_ahead(small_folder):
    ahead, itself, video = made_ahead(small_folder, *MAGCACHE)
    assert ahead.count("run_step") == 2  # computed, skipped
    assert itself == []
    assert video.timings.compile == 0
    assert all(seconds > 0 for seconds in video.timings.stages.values())


def test_a_run_of_an_image_and_of_decisions_made_meanwhile(tmp_path):
    folder = make_small_folder(tmp_path / "i2v", image=True)
    image = Image.fromarray(np.full((32, 48, 3), 200, np.uint8))
    ahead, itself, _ = made_ahead(folder, "use_easycache=True", "easycache_start=2", image=image)
    assert "run_probe" in ahead
    assert itself == []


def test_undrawn_parameters_are_those_of_a_traced_initialisation():
    config = TransformerConfig(num_layers=3)
    traced = nnx.split(nnx.eval_shape(lambda: WanTransformer(config, rngs=nnx.Rngs(0))))
    undrawn = nnx.split(WanTransformer(config, rngs=Undrawn()))
    assert traced[0] == undrawn[0]
    assert jax.tree.leaves(traced[1]) == jax.tree.leaves(undrawn[1])
    assert jax.tree.structure(traced[1]) == jax.tree.structure(undrawn[1])


_ON_A_MESH = """
import sys
from pathlib import Path
from test_ahead import made_ahead
from small_folder import make_small_folder
from PIL import Image

folder = make_small_folder(Path(sys.argv[1]), image=True)
ahead, itself, _ = made_ahead(folder, "mesh=fsdp:2,context:2", image=Image.new("RGB", (48, 32)))
assert "run_step" in ahead, ahead
assert itself == [], itself
"""


@pytest.mark.slow
def test_on_a_mesh_too_what_comes_from_the_host_lies_where_the_run_has_it(tmp_path):
    """Regression: ids were compiled for as lying on the mesh, and then once more as they are."""
    flags = "--xla_force_host_platform_device_count=4"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [sys.executable, "-c", _ON_A_MESH, str(tmp_path / "i2v")],
        check=True,
        env=environment,
        cwd=Path(__file__).parent,
    )
