"""Where a model lies, and what its folder says about sampling. Reads small JSON files alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from wanjax.errors import CheckpointError

_PACKAGE = "wanjax/tiny/"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def locate(model: str) -> Path | None:
    """The folder of `model`, whether or not it exists; None for a Hub id.

    `wanjax/tiny/NAME` lies inside the package.
    """
    if model.startswith(_PACKAGE):
        return Path(__file__).parents[1] / model.removeprefix("wanjax/")
    path = Path(model).expanduser()
    if path.exists() or not _HUB_ID.fullmatch(model):
        return path
    return None


def require_folder(model: str) -> None:
    """Raise `CheckpointError` where `model` names a folder that is not there or no model."""
    folder = locate(model)
    if folder is None:
        return
    if not folder.is_dir():
        raise CheckpointError(f"model={model}: there is no folder {folder}")
    read_json(folder / "model_index.json")


def folder_values(folder: Path) -> dict[str, Any]:
    """The configuration's values that a folder in diffusers' layout fixes or suggests.

    `task` and `boundary_ratio` (None with one expert) go with the model; `flow_shift` is its
    scheduler's, which for the published models is not the official sampling value.
    """
    index = read_json(folder / "model_index.json")
    transformer = read_json(folder / "transformer/config.json")
    scheduler = read_json(folder / "scheduler/scheduler_config.json")
    conditioned = transformer.get("in_channels", 16) > transformer.get("out_channels", 16)
    values: dict[str, Any] = {
        "model": str(folder),
        "task": "i2v" if conditioned else "t2v",
        "boundary_ratio": None,
    }
    if any(index.get("transformer_2") or ()):
        if index.get("boundary_ratio") is None:
            raise CheckpointError(
                f"{folder}/model_index.json: two transformers need a boundary_ratio"
            )
        values["boundary_ratio"] = float(index["boundary_ratio"])
    shift = scheduler.get("flow_shift", scheduler.get("shift"))
    if shift is not None:
        values["flow_shift"] = float(shift)
    return values


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint folder; raises `CheckpointError` naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: not a whole checkpoint folder") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected an object")
    return content
