"""Which kernel computes an attention, decided on the host from the target and static sizes.

Pure Python: the target is the device that a program is compiled *for*, which need not be here.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from wanjax.errors import UsageError

Name = Literal["cudnn", "splash", "chunked", "xla"]
Requested = Literal["auto", "cudnn", "splash", "chunked", "xla"]

MIB = 2**20
LANES = 128  # the width of a TPU's vector registers
# A score that does not count, and the sum's logarithm of a query without keys. Finite: a maximum
# of masked scores alone still subtracts to zero.
MASKED = -1e30

# Up to this many scores a head, the score matrix is held whole: at most 4 MiB in float32.
MAX_WHOLE_SCORES = 2**20
# One tile of float32 scores, all heads together, of the chunked kernel.
SCORE_BYTES = 256 * MIB

_OLD_OR_AMD = re.compile(
    r"\b(AMD|Instinct|Radeon|[KPMV]\d{2,3}|P4|T4|GTX|RTX 20\d0|TITAN|Quadro)\b"
)


@dataclass(frozen=True)
class DeviceKind:
    """The device that a program is compiled for: JAX's `device.platform` and `device.device_kind`.

    Such as ("tpu", "TPU v6 lite"), ("gpu", "NVIDIA H100 80GB HBM3") or ("cpu", "cpu").
    """

    platform: str
    kind: str

    @classmethod
    def of(cls, device: Any) -> DeviceKind:
        """Of a `jax.Device`, or whatever has its `platform` and `device_kind`."""
        return cls(device.platform, device.device_kind)

    @classmethod
    def here(cls) -> DeviceKind:
        """Of this process's default device."""
        import jax

        return cls.of(jax.devices()[0])

    @property
    def has_cudnn_attention(self) -> bool:
        """NVIDIA from Ampere (compute capability 8.0) on."""
        return self.platform in ("gpu", "cuda") and _OLD_OR_AMD.search(self.kind) is None


@dataclass(frozen=True)
class Blocks:
    """What the splash kernel holds in vector memory at once, in queries and keys.

    `keys` are brought in together, `keys_compute` of them are scored together.
    """

    queries: int
    keys: int
    keys_compute: int

    def vector_memory(self, head_dim: int, itemsize: int) -> int:
        """Bytes of vector memory: a bound from above, measured by compiling (docs/attention.md).

        Queries, keys, values, output and log-sum-exp are buffered twice, so that one block moves
        while another is computed. Between them lie the float32 accumulator, the running maximum
        and sum (8 rows each) and one tile of scores.
        """
        moved = self.queries * head_dim * (itemsize + 4) + 2 * self.keys * head_dim * itemsize
        moved += 8 * self.queries * 4
        kept = self.queries * (head_dim + 2 * 8) * 4
        return 2 * moved + kept + self.keys_compute * self.queries * 4


@dataclass(frozen=True)
class Kernel:
    """A kernel and its sizes: a static value of the program that contains it."""

    name: Name
    blocks: Blocks | None = None  # of splash
    vector_memory: int = 0  # of splash: the limit that its compiler is told
    interpret: bool = False  # of splash: in Python, on a CPU, to check it
    score_bytes: int = SCORE_BYTES  # of chunked: one tile of scores


@dataclass(frozen=True)
class KernelChoice:
    """The target and what was asked for: answers for each attention of a model.

    A model has several (tokens, text, image, pixels), whose lengths it learns from its inputs.
    """

    target: DeviceKind
    requested: Requested = "auto"

    def kernel(
        self, dtype: str, head_dim: int, query_length: int, key_length: int, parts: int = 1
    ) -> Kernel:
        """See `choose`."""
        sizes = (dtype, head_dim, query_length, key_length)
        return choose(self.target, *sizes, self.requested, parts)


@dataclass(frozen=True)
class _Tpu:
    """Vector memory of a core, and the blocks that take the fewest cycles (docs/attention.md)."""

    vector_memory: int
    wanted: Blocks


# The first whose name starts a device's kind.
TPUS = {
    "TPU7x": _Tpu(64 * MIB, Blocks(9472, 1024, 512)),
    "TPU v6": _Tpu(128 * MIB, Blocks(9472, 1024, 256)),
    "TPU v5 lite": _Tpu(128 * MIB, Blocks(9472, 1024, 128)),
    "TPU v5e": _Tpu(128 * MIB, Blocks(9472, 1024, 128)),
    "TPU v5": _Tpu(64 * MIB, Blocks(4736, 1024, 128)),
}
_UNKNOWN_TPU = _Tpu(16 * MIB, Blocks(2048, 512, 128))
# What a kernel leaves of the vector memory to the operations around it.
_SHARE_OF_VECTOR_MEMORY = 0.75
_FEW_KEYS = 1024
_QUERIES_OF_FEW_KEYS = 2048


def choose(
    target: DeviceKind,
    dtype: str,
    head_dim: int,
    query_length: int,
    key_length: int,
    requested: str = "auto",
    parts: int = 1,
) -> Kernel:
    """The kernel for queries and keys of these lengths, on one device.

    With `parts`, that many queries and keys of these lengths lie one after the other.

    `auto` takes the target's fused kernel where it applies: cuDNN on NVIDIA from Ampere on, splash
    on TPU, both for half precision and long sequences. Short ones are computed whole (`xla`), all
    others in chunks. Any other name is taken as it is; `UsageError` if the target cannot run it.
    """
    if requested not in get_args(Requested):
        raise UsageError(f"attention={requested}: must be one of {', '.join(get_args(Requested))}")
    fused = _fused(target, dtype, head_dim)
    name = requested
    if requested == "auto":
        short = query_length * key_length * parts**2 <= MAX_WHOLE_SCORES
        name = "xla" if short else fused or "chunked"
    if name == "cudnn" and fused != "cudnn":
        raise UsageError(
            f"attention=cudnn on {target.kind} ({dtype}, head dimension {head_dim}): it needs an "
            "NVIDIA GPU from Ampere on, bfloat16 or float16, and a head dimension of at most 128 "
            "that 8 divides; attention=auto takes what fits"
        )
    if name != "splash":
        return Kernel(cast(Name, name))
    if target.platform not in ("tpu", "cpu"):
        raise UsageError(
            f"attention=splash on {target.kind}: it needs a TPU (a CPU interprets it, slowly); "
            "attention=auto takes what fits"
        )
    return _splash(target, dtype, head_dim, query_length, key_length)


def _fused(target: DeviceKind, dtype: str, head_dim: int) -> Literal["cudnn", "splash"] | None:
    half = str(dtype) in ("bfloat16", "float16")
    if target.has_cudnn_attention and half and head_dim % 8 == 0 and head_dim <= 128:
        return "cudnn"
    if target.platform == "tpu" and str(dtype) == "bfloat16" and head_dim % LANES == 0:
        return "splash"
    return None


def _splash(target: DeviceKind, dtype: str, head_dim: int, queries: int, keys: int) -> Kernel:
    tpu = next((tpu for kind, tpu in TPUS.items() if target.kind.startswith(kind)), _UNKNOWN_TPU)
    itemsize = 4 if str(dtype) == "float32" else 2
    head_dim = _round_up(head_dim, LANES)
    limit = int(tpu.vector_memory * _SHARE_OF_VECTOR_MEMORY)
    wanted = tpu.wanted
    at_once = min(wanted.queries, _QUERIES_OF_FEW_KEYS) if keys <= _FEW_KEYS else wanted.queries
    keys_compute = min(wanted.keys_compute, _round_up(keys, LANES))
    block_keys = min(wanted.keys, _round_up(keys, keys_compute))
    while True:
        blocks = Blocks(_divided(queries, at_once), block_keys, keys_compute)
        need = blocks.vector_memory(head_dim, itemsize)
        if need <= limit or at_once <= LANES:
            break
        at_once = max(at_once // 2, LANES)
    # some room: a compiler of another version may keep a little more
    told = min(need * 5 // 4, tpu.vector_memory)
    return Kernel("splash", blocks, told, interpret=target.platform == "cpu")


def _divided(length: int, most: int) -> int:
    """`length` in equal blocks of at most `most`, each whole vector registers."""
    count = math.ceil(length / most)
    return _round_up(math.ceil(length / count), LANES)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
