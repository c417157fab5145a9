"""Writing a model in the layout of diffusers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from wanjax.checkpoints.mapping import Rule, checkpoint_tensors


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
    folder.mkdir(parents=True, exist_ok=True)
    tensors = checkpoint_tensors(nnx.state(model), rules)
    save_file({key: x.astype(dtype) for key, x in tensors.items()}, folder / filename)
    (folder / filename).chmod(0o644)  # safetensors makes it readable by its owner alone
    write_json(folder / "config.json", config)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
