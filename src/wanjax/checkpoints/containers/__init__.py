"""Files of tensors, by what they are: what is in them, without reading a tensor. No JAX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from wanjax.checkpoints.containers.gguf import gguf_header
from wanjax.checkpoints.containers.safetensors import safetensors_header
from wanjax.checkpoints.containers.torch_zip import torch_header
from wanjax.checkpoints.stored import Header
from wanjax.errors import CheckpointError

# By suffix; a folder's files are those of the first kind that it has.
CONTAINERS: Mapping[str, Callable[[Path], Header]] = {
    ".safetensors": safetensors_header,
    ".pth": torch_header,
    ".pt": torch_header,
    ".gguf": gguf_header,
}


def files_of(place: Path) -> list[Path]:
    """A file, or those of a folder that belong to one model's part."""
    if place.is_file():
        return [place]
    for suffix in CONTAINERS:
        # beside the shards of an original folder there may lie a LoRA
        for name in ("diffusion_pytorch_model*", "*"):
            if files := sorted(place.glob(name + suffix)):
                return files
    raise CheckpointError(f"{place}: no *.safetensors file")


def read_header(file: Path) -> Header:
    """Raises `CheckpointError` for a file that is none that is known, cut short, or dangerous."""
    if file.suffix not in CONTAINERS:
        raise CheckpointError(
            f"{file} cannot be read: its name ends in none of {', '.join(CONTAINERS)}"
        )
    return CONTAINERS[file.suffix](file)
