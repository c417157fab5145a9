"""Weights in the layout that a device's products want."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.layout import Format
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from wanjax.parallel.layouts import laid_out

MATRICES = (40, 5120, 13824)


@pytest.fixture
def sharding(monkeypatch):
    """Whole on the devices of a machine of some kind, of which JAX knows only our CPU."""

    def on(kind, *spec):
        mesh = Mesh(np.array(jax.devices()[:1]), ("fsdp",), axis_types=(AxisType.Auto,))
        devices = SimpleNamespace(flat=[SimpleNamespace(device_kind=kind)])
        monkeypatch.setattr(Mesh, "devices", property(lambda mesh: devices), raising=False)
        return NamedSharding(mesh, PartitionSpec(*spec))

    return on


def test_stacked_matrices_of_tpu7x_lie_in_blocks_of_sixteen_rows(sharding):
    place = laid_out(MATRICES, jnp.bfloat16, sharding("TPU7x"))
    assert isinstance(place, Format)
    assert place.layout.tiling == ((16, 128), (2, 1))


@pytest.mark.parametrize("kind", ["TPU v6 lite", "TPU v5", "NVIDIA H100 80GB HBM3", "cpu"])
def test_others_have_their_default(sharding, kind):
    there = sharding(kind)
    assert laid_out(MATRICES, jnp.bfloat16, there) is there


def test_so_have_vectors_float32_and_what_is_too_small(sharding):
    there = sharding("TPU7x")
    assert laid_out((40, 5120), jnp.bfloat16, there) is there
    assert laid_out(MATRICES, jnp.float32, there) is there
    assert laid_out((2, 8, 64), jnp.bfloat16, there) is there


def test_without_a_mesh_there_is_no_place():
    assert laid_out(MATRICES, jnp.bfloat16, None) is None
