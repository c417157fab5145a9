"""Machines that programs are compiled for, by name, whether or not they are here. No JAX.

    v6e:2x4     eight TPU v6e chips      h100       one NVIDIA H100
    tpu7x:2x2x1 four chips, of which     h100:8     eight of them, linked
                each is two devices

Memory and `kind` are as JAX gives them on the machine itself. See `parallel.topologies` for the
devices.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Literal

from wanjax.errors import UsageError, printable
from wanjax.settings import nearest

GIB = 2**30
HERE = "here"  # the name of the devices of this process
PINNED_SHARE = 0.7  # of the host's memory: what weights may wait in


@dataclass(frozen=True)
class Target:
    """Devices of one kind: `name` as the user wrote it, `kind` and `platform` as JAX has them.

    `memory_limit` are the bytes that programs can have of each device; None: not known.
    """

    name: str
    platform: Literal["tpu", "gpu", "cpu"]
    kind: str
    devices: int
    memory_limit: int | None
    processes: int = 1  # that run the program together


@dataclass(frozen=True)
class Tpu:
    """`memory` as the compiler states it when a program does not fit."""

    kind: str
    memory: int
    dimensions: int  # of the links between chips
    devices_per_chip: int = 1


@dataclass(frozen=True)
class Gpu:
    """What XLA's compiler asks about a GPU; the values are those of OpenXLA's target configs."""

    kind: str
    memory: int
    capability: tuple[int, int]
    cores: int
    fpus_per_core: int
    shared_memory_per_core: int
    shared_memory_per_block: int  # at most, opted in
    bandwidth: int
    l2_cache: int
    clock_ghz: float
    threads_per_core: int = 2048


TPUS = {
    "v5e": Tpu("TPU v5 lite", int(15.75 * GIB), 2),
    "v5p": Tpu("TPU v5", int(95.74 * GIB), 3),
    "v6e": Tpu("TPU v6 lite", int(31.25 * GIB), 2),
    "tpu7x": Tpu("TPU7x", int(94.75 * GIB), 3, devices_per_chip=2),
}
_HOPPER = (132, 128, 233472, 232448)
_SMALL = (128, 102400, 101376)
GPUS = {
    "a100": Gpu(
        "NVIDIA A100-SXM4-80GB", 85100068864, (8, 0),
        108, 64, 167936, 166912, 2039040000000, 41943040, 1.41,
    ),
    "h100": Gpu(
        "NVIDIA H100 80GB HBM3", 84942979072, (9, 0), *_HOPPER, 3352320000000, 52428800, 1.98
    ),
    "h200": Gpu("NVIDIA H200", 151397597184, (9, 0), *_HOPPER, 4800000000000, 52428800, 1.98),
    "b200": Gpu(
        "NVIDIA B200", 191514411008, (10, 0),
        148, 128, 233472, 232448, 7672320000000, 132644864, 1.965,
    ),
    # of 24 and 32 GB; their makers' figures, and the memory that drivers report
    "a10g": Gpu("NVIDIA A10G", 23609475072, (8, 6), 80, *_SMALL, 600096000000, 6291456, 1.71, 1536),
    "rtx4090": Gpu(
        "NVIDIA GeForce RTX 4090", 25386352640, (8, 9),
        128, *_SMALL, 1008096000000, 75497472, 2.52, 1536,
    ),
    "rtx5090": Gpu(
        "NVIDIA GeForce RTX 5090", 33686814720, (12, 0),
        170, *_SMALL, 1792128000000, 100663296, 2.407, 1536,
    ),
}  # fmt: skip

# What JAX takes of a GPU's memory where nothing else is said.
_GPU_FRACTION = 0.75
_EXAMPLES = (
    "v5e:2x4, v6e:2x4, v6e:1x1, v5p:2x2x1, tpu7x:2x2x1, h100, h100:8, a100, h200, b200, a10g, "
    "rtx4090, rtx5090"
)
_SIZES = re.compile(r"[1-9][0-9]{0,3}(x[1-9][0-9]{0,3}){0,4}")
_COUNT = re.compile(r"[1-9][0-9]{0,3}")
# Chips come in blocks of these; smaller slices are parts of one.
_SMALLEST = {2: (2, 2), 3: (2, 2, 1)}


def parse_target(text: str) -> Target:
    """`v6e:2x4`, `h100` or `h100:8`; raises `UsageError` for what is no such machine."""
    name, _, size = text.strip().lower().partition(":")
    if name in TPUS:
        return _tpu(text, name, size)
    if name in GPUS:
        return _gpu(text, name, size)
    known = (*TPUS, *GPUS)
    raise UsageError(
        f"target={printable(text, 60)}: no machine that is known here{nearest(name, known)}; "
        f"such as {_EXAMPLES}"
    )


def _tpu(text: str, name: str, size: str) -> Target:
    tpu = TPUS[name]
    sizes = tuple(map(int, size.split("x"))) if _SIZES.fullmatch(size) else ()
    smallest = _SMALLEST[tpu.dimensions]
    one_chip = (1,) * tpu.dimensions
    if len(sizes) != tpu.dimensions or (
        sizes != one_chip and any(n % m for n, m in zip(sizes, smallest, strict=True))
    ):
        example, one = ("x".join(map(str, of)) for of in (smallest, one_chip))
        raise UsageError(
            f"target={printable(text, 60)}: a slice of {name} has {tpu.dimensions} sizes, each a "
            f"multiple of those of {name}:{example}; one chip is {name}:{one}"
        )
    devices = math.prod(sizes) * tpu.devices_per_chip
    return Target(f"{name}:{size}", "tpu", tpu.kind, devices, tpu.memory)


def _gpu(text: str, name: str, size: str) -> Target:
    if size and not _COUNT.fullmatch(size):
        given = printable(text, 60)
        raise UsageError(f"target={given}: after the colon stands the number of GPUs, as {name}:8")
    fraction = float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", _GPU_FRACTION))
    gpu, count = GPUS[name], int(size or 1)
    full_name = f"{name}:{count}" if count > 1 else name
    return Target(full_name, "gpu", gpu.kind, count, int(gpu.memory * fraction))


def require_extra(target: Target) -> None:
    """Raise `UsageError` where the compiler of a target is not installed."""
    module, extra = {"tpu": ("libtpu", "tpu"), "gpu": ("jax_plugins.xla_cuda13", "cuda13")}[
        target.platform
    ]
    if not _installed(module):
        raise UsageError(
            f"target={target.name}: its compiler is not installed; "
            f"`pip install 'wanjax[{extra}]'` brings it, no such device is needed"
        )


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False


def host_memory() -> int | None:
    """Bytes of this machine's memory; None on Windows, where Python alone does not tell."""
    if sys.platform == "win32":
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def let_weights_wait_on_host(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let a GPU's process pin most of the host's memory; before JAX starts.

    By default that is 64 GB, of which two experts of 14B and a text encoder, waiting there, take
    all: there is no gap left for the last of them. JAX doubles what it takes: with all of the
    memory as its limit it went from 64 GB to 128, and the system ended the process.
    """
    memory = host_memory()
    if memory is not None:
        limit = int(PINNED_SHARE * memory) // 2**30
        environment.setdefault("XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB", str(limit))


def set_environment(environment: MutableMapping[str, str] = os.environ) -> None:
    """What compiling for an absent machine needs, before JAX is imported.

    The process computes on its CPU; libtpu neither looks for chips nor minds other processes
    that use it; no GPU is there to try kernels on.
    """
    environment["JAX_PLATFORMS"] = "cpu"
    environment.setdefault("TPU_SKIP_MDS_QUERY", "1")
    environment.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    environment.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    environment.setdefault("TPU_ACCELERATOR_TYPE", "v6e-8")  # any: else it complains of none
    environment.setdefault("TPU_MIN_LOG_LEVEL", "3")
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    flags = environment.get("XLA_FLAGS", "")
    if "xla_gpu_autotune_level" not in flags:
        environment["XLA_FLAGS"] = f"{flags} --xla_gpu_autotune_level=0".strip()
