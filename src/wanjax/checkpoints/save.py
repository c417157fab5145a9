"""Writing a model in the layout of diffusers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from wanjax.checkpoints.layouts.names import Rule
from wanjax.checkpoints.mapping import checkpoint_tensors
from wanjax.files import atomic_path, write_json


def save_model(
    model: nnx.Module,
    rules: Sequence[Rule],
    config: Mapping[str, Any],
    folder: Path,
    *,
    dtype: Any = np.float16,
    filename: str = "diffusion_pytorch_model.safetensors",
) -> None:
    """Write `config.json` and the parameters, as `dtype`, under the checkpoint's names."""
    tensors = checkpoint_tensors(nnx.state(model), rules)
    tensors = {key: x.astype(dtype) for key, x in tensors.items()}
    with atomic_path(folder / filename) as partial:
        save_file(tensors, partial, metadata={"format": "pt"})  # transformers asks for it
        partial.chmod(0o644)  # safetensors makes it readable by its owner alone
    write_json(folder / "config.json", config)
