"""Instruction bundles of the splash kernel on TPUs that are not here, from the compiler's dump.

A TPU executes one bundle a cycle, so the bundles of the innermost loop, for 1,024 scores, tell
how blocks compare (memory moves meanwhile). They chose the table in `kernels/choose.py`.

    pip install "jax[tpu]" && python benchmarks/splash_cycles.py v6e 9472,1024,256 4736,1024,256

For JAX's own kernel with the same blocks (block_q, block_kv, block_kv_compute), masked by
segment ids as a padded length needs it: `jax:2048,1024,512`.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "tpu7x": "tpu7x:2x2x1"}
TOKENS, HEADS, DIM = 75_600, 5, 128


def prepare(dump: str) -> None:
    """What libtpu reads when it is loaded."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "LIBTPU_INIT_ARGS": f"--xla_jf_dump_to={dump} --xla_jf_dump_llo_text=true "
        "--xla_jf_dump_llo_pass_label_regex=.*final.*",
    }


def compile_kernel(target: str, sizes: tuple[int, int, int], from_jax: bool) -> None:
    import jax
    import jax.numpy as jnp
    from jax.experimental import topologies
    from jax.sharding import SingleDeviceSharding

    from wanjax.models.kernels import splash
    from wanjax.models.kernels.choose import TPUS, Blocks, Kernel

    device = topologies.get_topology_desc(topology_name=TOPOLOGIES[target], platform="tpu").devices[
        0
    ]
    memory = next(
        tpu.vector_memory for kind, tpu in TPUS.items() if device.device_kind.startswith(kind)
    )
    shape = jax.ShapeDtypeStruct(
        (1, TOKENS, HEADS, DIM), jnp.bfloat16, sharding=SingleDeviceSharding(device)
    )
    kernel = Kernel("splash", Blocks(*sizes), memory * 7 // 8)

    def attend(q, k, v):
        return _jax_splash(q, k, v, sizes) if from_jax else splash.attend(q, k, v, None, kernel)

    jax.jit(attend).lower(shape, shape, shape).compile()


def _jax_splash(q, k, v, sizes: tuple[int, int, int]):
    import jax.numpy as jnp
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    def padded(x, block):
        return jnp.pad(x[0], ((0, -TOKENS % block), (0, 0), (0, 0))).swapaxes(0, 1)

    q, k, v = padded(q, sizes[0]), padded(k, sizes[1]), padded(v, sizes[1])
    mask = masks.MultiHeadMask([masks.FullMask((q.shape[1], k.shape[1]))] * HEADS)
    attend = kernel.make_splash_mha_single_device(mask, block_sizes=kernel.BlockSizes(*sizes))
    ids = kernel.SegmentIds(
        jnp.ones(q.shape[1], jnp.int32), (jnp.arange(k.shape[1]) < TOKENS).astype(jnp.int32)
    )
    return attend(q, k, v, ids)


def bundles(dump: Path, sizes: tuple[int, int, int], from_jax: bool) -> float:
    """Of the innermost loop, or of the largest branch where all is unrolled; for 1,024 scores."""
    (file,) = dump.glob("*splash*[0-9]-final_bundles.txt")
    started: dict[str, int] = {}
    branches, inner = [0], 0
    for line in file.read_text().splitlines():
        if not (found := re.match(r"\s*(0x[0-9a-f]+)\s+\w*\s*:((?: >+)?)", line)):
            continue
        position = int(found[1], 16)
        inner += found[2].count(">") == 2
        started |= dict.fromkeys(re.findall(r"Start region (\d+)", line), position)
        ended = re.findall(r"End region (\d+)", line)
        branches += [position - started[region] for region in ended if region in started]
    queries, keys, keys_compute = sizes
    if not from_jax:
        return inner * 1024 / (queries * keys_compute)
    return sorted(set(branches))[-3] * 1024 / (queries * keys)  # but for the loop and its body


def main(target: str, *cases: str) -> None:
    if len(cases) > 1:  # libtpu reads where to dump once: a process for each
        for case in cases:
            os.spawnv(os.P_WAIT, sys.executable, [sys.executable, __file__, target, case])
        return
    with tempfile.TemporaryDirectory() as dump:
        prepare(dump)
        from_jax, _, text = cases[0].rpartition(":")
        sizes = tuple(map(int, text.split(",")))
        compile_kernel(target, sizes, bool(from_jax))
        print(f"{target} {cases[0]}: {bundles(Path(dump), sizes, bool(from_jax)):.2f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
