"""The devices of a target, for the compiler: they hold no arrays and run nothing."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax.experimental import topologies

from wanjax.errors import UsageError
from wanjax.parallel.targets import (
    GPUS,
    HERE,
    Gpu,
    Target,
    let_weights_wait_on_host,
    require_extra,
)


def target_devices(target: Target) -> Sequence[jax.Device]:
    """Raises `UsageError` where the target's compiler is not installed or refuses its name.

    `targets.set_environment` must have been called before JAX was imported.
    """
    require_extra(target)
    jax.devices()  # starts JAX, which then knows the compilers that are installed
    name, _, sizes = target.name.partition(":")
    try:
        if target.platform == "tpu":
            # a host has four chips unless this says otherwise; some libtpu refuse one chip then
            one_chip = set(sizes.split("x")) == {"1"}
            alone = {"chips_per_host_bounds": (1, 1, 1)} if one_chip else {}
            description = topologies.get_topology_desc(target.name, platform="tpu", **alone)
        else:
            description = topologies.get_topology_desc(
                name,
                platform="cuda",
                target_config=gpu_description(GPUS[name]),
                topology=f"1x1x{target.devices}",
            )
    except Exception as error:  # whatever the plugin makes of it
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"target={target.name}: its compiler refuses it: {reason}") from error
    return description.devices


def target_here() -> Target:
    """The devices that are here, as a target; their name is `here`."""
    let_weights_wait_on_host()
    devices = jax.devices()
    first = jax.local_devices()[0]
    stats = first.memory_stats() or {}
    limit = stats.get("bytes_limit")
    return Target(HERE, first.platform, first.device_kind, len(devices), limit, jax.process_count())


def gpu_description(gpu: Gpu) -> str:
    """A `GpuTargetConfigProto` as text: the fields that the compiler cannot do without."""
    major, minor = gpu.capability
    return f"""
        gpu_device_info {{
          threads_per_block_limit: 1024 threads_per_warp: 32
          threads_per_core_limit: {gpu.threads_per_core}
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          registers_per_core_limit: 65536 registers_per_block_limit: 65536
          shared_memory_per_block: 49152
          shared_memory_per_core: {gpu.shared_memory_per_core}
          shared_memory_per_block_optin: {gpu.shared_memory_per_block}
          core_count: {gpu.cores} fpus_per_core: {gpu.fpus_per_core}
          memory_bandwidth: {gpu.bandwidth} l2_cache_size: {gpu.l2_cache}
          clock_rate_ghz: {gpu.clock_ghz} device_memory_size: {gpu.memory}
          cuda_compute_capability {{ major: {major} minor: {minor} }}
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 10 }}
        runtime_version {{ major: 13 minor: 0 }}
        device_description_str: "{gpu.kind}"
    """
