"""Run by tests/test_loading.py as one of two processes of four CPU devices each.

python tests/parts_read.py FILES ADDRESS PROCESS MESH ...

For each mesh and each way of loading, prints as JSON how many bytes of tensors this process read,
which tensors it read otherwise than once where its devices hold them and nowhere else, and
which parameters hold something else than the file has there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from safetensors.numpy import load_file
from toy_checkpoint import RULES, toy

from wanjax.checkpoints.load import load_parameters
from wanjax.checkpoints.mapping import entries, flat_parameters
from wanjax.checkpoints.tensor_files import TensorFiles
from wanjax.parallel.mesh import parse_mesh
from wanjax.parallel.sharding import make_mesh


class CountingFiles(TensorFiles):
    """Counts how often each number of each tensor is read."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.counts = {key: np.zeros(self.shape(key), int) for key in self.keys()}

    def read(self, name, index, out=None):
        self.counts[name][index] += 1
        return super().read(name, index, out)


def main(folder: Path, address: str, process: int, *meshes: str) -> None:
    jax.distributed.initialize(address, 2, process)
    assert (jax.device_count(), jax.local_device_count()) == (8, 4)
    found = {
        f"{mesh} {way}": facts(folder, make_mesh(parse_mesh(mesh)), way == "host")
        for mesh in meshes
        for way in ("host", "device")
    }
    print(json.dumps(found))


def facts(folder: Path, mesh: Mesh, host_memory: bool) -> dict[str, Any]:
    files, reports = CountingFiles(folder), []
    model = load_parameters(
        toy(depth=3, width=16),
        RULES,
        files,
        mesh=mesh,
        piece_bytes=256,
        host_memory=host_memory,
        report=lambda *report: reports.append(report),
    )
    tensors = load_file(folder / "model.safetensors")
    state = nnx.state(model)
    values = dict(flat_parameters(state))
    misread, wrong = [], []
    for entry in entries(state, RULES):
        layers = [entry.transform.load(tensors[key]) for key in entry.keys]
        whole = np.stack(layers) if entry.stacked else layers[0]
        held = np.zeros(whole.shape, int)
        for shard in values[entry.path].get_value().addressable_shards:
            held[shard.index] = 1
            if not np.array_equal(shard.data, whole[shard.index]):
                wrong.append(entry.path)
        for key, layer in zip(entry.keys, held if entry.stacked else [held], strict=True):
            if not np.array_equal(files.counts[key], entry.transform.save(layer)):
                misread.append(key)
    read = sum(4 * int(counts.sum()) for counts in files.counts.values())
    return {"read": read, "reported": reports[-1], "misread": misread, "wrong": wrong}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
