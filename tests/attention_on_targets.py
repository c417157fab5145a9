"""Run by tests/test_attention.py: compiles Ulysses with splash for TPUs that are not here."""

from __future__ import annotations

import json
import re

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from wanjax.models.attention import attention
from wanjax.models.kernels.choose import DeviceKind, KernelChoice

TARGETS = ("v5e:2x4", "v6e:2x4", "v5p:2x2x1", "tpu7x:2x2x1")


def compile_for(name: str, tokens: int) -> dict[str, object]:
    """Attention among all tokens: two guidance branches, 40 heads of 128."""
    devices = topologies.get_topology_desc(topology_name=name, platform="tpu").devices
    mesh = jax.make_mesh(
        (len(devices),), ("context",), axis_types=(AxisType.Auto,), devices=devices
    )
    choice = KernelChoice(DeviceKind.of(devices[0]))
    sharding = NamedSharding(mesh, PartitionSpec(None, "context"))
    flat = jax.ShapeDtypeStruct((2, tokens, 40 * 128), jnp.bfloat16, sharding=sharding)

    def attend(*flat):
        q, k, v = (x.reshape(2, tokens, 40, 128) for x in flat)
        return attention(q, k, v, choice, keys="shared").reshape(flat[0].shape)

    with jax.set_mesh(mesh):
        program = jax.jit(attend).lower(flat, flat, flat).compile()
    kernels = re.findall(
        r'%(\w+)[.\d]* = [^\n]*custom_call_target="tpu_custom_call"', program.as_text()
    )
    return {
        "kernels": kernels,
        "query_bytes": 2 * tokens * 40 * 128 * 2 // len(devices),
        "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
    }


def main() -> None:
    found = {f"{name}, 75600": compile_for(name, 75_600) for name in TARGETS}
    found["v6e:2x4, 32760"] = compile_for("v6e:2x4", 32_760)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
