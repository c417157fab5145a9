"""What the components of a model are, without their weights. No JAX.

From the model's folder, or for a published model that is not here from the package: its
`config.json` files lie in `published/`, a file a model.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanjax.checkpoints.locate import ModelIndex, locate, parse, read_json
from wanjax.errors import CheckpointError

_PUBLISHED = Path(__file__).parent / "published"
_COMPONENTS = ("transformer", "transformer_2", "vae", "text_encoder", "image_encoder")


@dataclass(frozen=True, eq=False)
class ModelConfigs:
    """The content of each component's `config.json`, by the component's name."""

    index: ModelIndex
    components: Mapping[str, Mapping[str, Any]]


def model_configs(model: str) -> ModelConfigs:
    """Of a folder, or of a published model by its Hub id.

    Raises `CheckpointError` for a folder without them, and for other Hub ids: what is not
    here is not looked up.
    """
    folder = locate(model)
    if folder is not None:
        return _of_folder(folder)
    if model not in _published():
        raise CheckpointError(
            f"model={model}: not one of the published models, of which the configurations are in "
            f"this package ({', '.join(_published())}); give the folder it was downloaded to"
        )
    return _published()[model]


def _of_folder(folder: Path) -> ModelConfigs:
    index = parse(ModelIndex, folder / "model_index.json")
    unused = {"transformer_2"} if index.num_experts == 1 else set()
    names = [name for name in _COMPONENTS if name not in unused and (folder / name).is_dir()]
    found = {name: read_json(folder / name / "config.json") for name in names}
    # values left out are those of the published models, which are the defaults of all fields
    return ModelConfigs(index, {name: _defaults()[name] | found[name] for name in names})


@functools.cache
def _defaults() -> dict[str, dict[str, Any]]:
    clip = _published()["Wan-AI/Wan2.1-I2V-14B-720P-Diffusers"].components["image_encoder"]
    components = _published()["Wan-AI/Wan2.2-T2V-A14B-Diffusers"].components
    return {"image_encoder": dict(clip)} | {name: dict(c) for name, c in components.items()}


@functools.cache
def _published() -> Mapping[str, ModelConfigs]:
    found = {}
    for path in sorted(_PUBLISHED.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        model, index = content.pop("model"), content.pop("model_index")
        present = {name: ["wanjax", name] for name in content}
        found[model] = ModelConfigs(ModelIndex.from_dict(index | present), content)
    return found
