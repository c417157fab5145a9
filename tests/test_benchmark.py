"""Stages timed on this machine: a checkpoint's weights or random ones, and what is written."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from flax import nnx
from small_folder import SMALL_RUN, make_small_folder

from wanjax.checkpoints.abstract import AbstractFolder
from wanjax.checkpoints.configs import model_configs
from wanjax.checkpoints.presence import Presence
from wanjax.checkpoints.random import RandomFolder
from wanjax.cli.main import main
from wanjax.evaluate.benchmark import matrix_rate
from wanjax.parallel.targets import Target

MAGCACHE = [
    "use_magcache=True", "magcache_estimate=repeat", "retention_ratio=0.1",
    f"mag_ratios_base={[1.0] * 12}",
]  # fmt: skip
STAGES = ["text", "condition", "computed_step", "skipped_step", "decode"]


def benchmark(folder, output, *arguments):
    model = [f"model={folder}", *SMALL_RUN, *MAGCACHE, "repeats=2"]
    assert main(["benchmark", *model, f"output={output}", *arguments]) == 0
    return json.loads(output.read_text())


def test_stages_of_a_checkpoint(small_folder, tmp_path, capsys):
    found = benchmark(small_folder, tmp_path / "b.json")
    assert found["weights"] == "the checkpoint's"
    assert list(found["stages"]) == STAGES
    times = [stage["times"] for stage in found["stages"].values()]
    assert times == [2, 2, 12, 4, 2]  # of the steps: all dense ones, those skipped of the cached
    for stage in found["stages"].values():
        assert 0 < stage["fastest"] <= stage["seconds"] <= stage["slowest"]
        assert stage["flops_per_second"] == pytest.approx(
            stage["flops"] / stage["seconds"], rel=0.01
        )
        # both numbers of the share are rounded
        share = stage["flops_per_second"] / found["matrix_rate"]["rate"]
        assert stage["matrix_rate_share"] == pytest.approx(share, abs=1e-4)
    speedup = found["speedup"]
    assert speedup["ideal"] == 1.5
    assert speedup["realised"] == pytest.approx(
        speedup["dense_seconds"] / speedup["cached_seconds"], rel=0.01
    )
    assert found["command"].startswith("wanjax benchmark model=")
    assert {"created", "device", "packages", "peak_memory_bytes", "mesh"} <= set(found)
    table = (tmp_path / "b.md").read_text()
    assert f"    {found['command']}" in table
    assert all(f"| {stage} |" in table for stage in STAGES)
    assert "a skipped step takes" in capsys.readouterr().out


@pytest.mark.slow
def test_random_weights_where_the_model_is_not_here(tmp_path, monkeypatch):
    folder = make_small_folder(tmp_path / "i2v", image=True)
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    monkeypatch.setattr("wanjax.evaluate.benchmark.locate", lambda model: None)
    found = benchmark(folder, tmp_path / "b.json", "use_kv_cache=True")
    assert found["weights"] == "random"
    assert list(found["stages"]) == STAGES


def test_random_parameters_lie_where_a_checkpoints_would(small_folder, monkeypatch):
    monkeypatch.setattr("wanjax.checkpoints.random._SMALL", 2**10)
    configs = model_configs(str(small_folder))
    mesh = jax.make_mesh((1, 1), ("fsdp", "tensor"))
    abstract = AbstractFolder.of("m", configs).load_transformer("transformer", mesh=mesh)
    made = RandomFolder.of("m", configs).load_transformer("transformer", mesh=mesh)
    assert nnx.graphdef(made) == nnx.graphdef(abstract)
    pairs = zip(jax.tree.leaves(nnx.state(made)), jax.tree.leaves(nnx.state(abstract)), strict=True)
    for x, like in pairs:
        assert (x.shape, x.dtype, x.sharding) == (like.shape, like.dtype, like.sharding)
        assert np.ptp(np.asarray(x, np.float32)) > 0


def test_what_does_not_fit_is_refused_before_anything_is_made(small_folder, monkeypatch, capsys):
    small = Target("here", "cpu", "cpu", 1, memory_limit=10_000)
    monkeypatch.setattr("wanjax.pipeline.machine.target_here", lambda: small)
    monkeypatch.setattr("wanjax.evaluate.benchmark.matrix_rate", None)
    assert main(["benchmark", f"model={small_folder}", *SMALL_RUN, *MAGCACHE]) == 2
    assert "GiB" in capsys.readouterr().err


def test_weights_are_not_half_from_files_and_half_at_random(small_folder, monkeypatch, capsys):
    monkeypatch.setattr("wanjax.evaluate.benchmark.presence", lambda *of: Presence("in part"))
    arguments = [f"model={small_folder}", f"vae={small_folder}/vae", *SMALL_RUN, *MAGCACHE]
    assert main(["benchmark", *arguments]) == 2
    assert "vae= is given, and other parts of" in capsys.readouterr().err


def test_the_rate_of_a_plain_product():
    rate = matrix_rate("float32", repeats=1)
    assert 1e8 < rate.rate < 1e14
