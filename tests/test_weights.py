"""Bytes of parameters by arithmetic, against the models themselves."""

import math

import pytest
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, NamedSharding

from wanjax.checkpoints.abstract import AbstractFolder
from wanjax.checkpoints.configs import model_configs
from wanjax.checkpoints.mapping import flat_parameters
from wanjax.models.layers import logical_axes
from wanjax.parallel.mesh import MESH_AXES, PARAMETER_RULES, parse_mesh
from wanjax.parallel.sharding import partition_spec
from wanjax.planning.weights import component_bytes

MODELS = (
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers",
    "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers",
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
)
MESHES = ("fsdp:8", "context:4,fsdp:2", "tensor:8", "fsdp:3,tensor:5")


@pytest.fixture(scope="module", params=MODELS)
def published(request):
    configs = model_configs(request.param)
    return configs, load(configs, "bfloat16")


def load(configs, dtype):
    """The parameters of each component as the loader would make them."""
    folder = AbstractFolder.of("model", configs)
    models = {name: folder.load_transformer(name, dtype=dtype) for name in folder.experts}
    models |= {"vae": folder.load_vae(), "text_encoder": folder.load_text_encoder(dtype=dtype)}
    if "image_encoder" in configs.components:
        models["image_encoder"] = folder.load_image_encoder(dtype=dtype)
    return {name: [v for _, v in flat_parameters(nnx.state(m))] for name, m in models.items()}


def held(variable, shape):
    """Bytes that one device of a mesh holds."""
    mesh = AbstractMesh(tuple(shape.sizes.values()), MESH_AXES, (AxisType.Auto,) * len(MESH_AXES))
    x = variable.get_value()
    spec = partition_spec(logical_axes(variable), x.shape, PARAMETER_RULES, mesh)
    return math.prod(NamedSharding(mesh, spec).shard_shape(x.shape)) * x.dtype.itemsize


@pytest.mark.filterwarnings("ignore::wanjax.parallel.sharding.UndividedWarning")
@pytest.mark.parametrize("mesh", MESHES)
def test_bytes_of_a_device_are_those_of_the_models(published, mesh):
    configs, models = published
    mesh = parse_mesh(mesh)
    expected = {name: sum(held(v, mesh) for v in models[name]) for name in models}
    assert component_bytes(configs, "bfloat16", mesh) == expected


def test_small_models_too(small_folder):
    configs, mesh = model_configs(str(small_folder)), parse_mesh("fsdp:2")
    models = load(configs, "float32")
    expected = {name: sum(held(v, mesh) for v in models[name]) for name in models}
    assert component_bytes(configs, "float32", mesh) == expected
