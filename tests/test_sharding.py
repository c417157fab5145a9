"""Logical axes to mesh axes; a transformer sharded over eight devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from wanjax.parallel.sharding import ACTIVATION_RULES, MESH_AXES, PARAMETER_RULES, partition_spec

SCRIPT = Path(__file__).parent / "sharded_transformer.py"


@pytest.fixture(scope="module")
def facts(small_folder):
    """What a run on a mesh of fsdp 2, context 2, tensor 2 reports."""
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(small_folder)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_same_result_on_eight_devices(facts):
    assert facts["devices"] == 8
    assert facts["error"] < 1e-5


def test_parameters_are_sharded(facts):
    """A device holds a quarter of each large matrix: half by fsdp, half of that by tensor."""
    specs, held = facts["specs"], facts["held"]
    assert specs["blocks.attn1.to_q.kernel"] == ["None", "fsdp", "tensor"]
    assert specs["blocks.attn1.to_out.kernel"] == ["None", "tensor", "fsdp"]
    assert specs["blocks.ffn.linear_1.kernel"] == ["None", "fsdp", "tensor"]
    matrices = [path for path in held if path.startswith("blocks.") and path.endswith("kernel")]
    assert len(matrices) == 10
    assert {held[path] for path in matrices} == {0.25}


def test_tokens_are_sharded(facts):
    """12 tokens, of which each part of the context axis holds half."""
    batch, tokens, _ = facts["tokens"]
    assert (batch, tokens) == (2, 6)


def spec(axes, shape, rules=PARAMETER_RULES, **sizes):
    mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes))
    return partition_spec(axes, shape, rules, mesh)


def test_axes_by_rule():
    sizes = dict(zip(MESH_AXES, (2, 2, 2, 2), strict=True))
    assert spec(("embed", "heads"), (8, 8), **sizes) == PartitionSpec("fsdp", "tensor")
    assert spec((None, "vocab"), (8, 8), **sizes) == PartitionSpec(None, "fsdp")
    activations = spec(("batch", "tokens", "heads", None), (2, 4, 6, 8), ACTIVATION_RULES, **sizes)
    assert activations == PartitionSpec("data", "context", "tensor", None)


def test_what_does_not_divide_stays_whole():
    assert spec(("embed", "mlp"), (6, 9), fsdp=2, tensor=2) == PartitionSpec("fsdp", None)


def test_a_mesh_axis_is_used_once():
    assert spec(("heads", "mlp"), (8, 8), tensor=2) == PartitionSpec("tensor", None)


def test_a_mesh_may_lack_axes():
    assert spec(("embed", "mlp"), (8, 8), fsdp=4) == PartitionSpec("fsdp", None)
