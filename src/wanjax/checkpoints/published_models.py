"""What the published models' components are, from `published/`, a file a model. No JAX."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanjax.checkpoints.locate import ModelIndex
from wanjax.checkpoints.stored import Kept

_PUBLISHED = Path(__file__).parent / "published"


@dataclass(frozen=True, eq=False)
class ModelConfigs:
    """The content of each component's `config.json`, by the component's name.

    `kept` says what the transformers' files have in eight bits or fewer, as far as it is known.
    """

    index: ModelIndex
    components: Mapping[str, Mapping[str, Any]]
    kept: Mapping[str, Kept] = field(default_factory=dict)


@functools.cache
def defaults() -> dict[str, dict[str, Any]]:
    """What a component's `config.json` leaves out."""
    clip = published()["Wan-AI/Wan2.1-I2V-14B-720P-Diffusers"].components["image_encoder"]
    components = published()["Wan-AI/Wan2.2-T2V-A14B-Diffusers"].components
    return {"image_encoder": dict(clip)} | {name: dict(c) for name, c in components.items()}


def listed(model: str | None) -> str | None:
    """The Hub id by which a model is among `published`: its own, or the authors' -Diffusers."""
    names = (str(model).lower(), f"{model}-diffusers".lower())
    return next((known for known in published() if known.lower() in names), None)


@functools.cache
def published() -> Mapping[str, ModelConfigs]:
    """By Hub id."""
    found = {}
    for path in sorted(_PUBLISHED.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        model, index = content.pop("model"), content.pop("model_index")
        present = {name: ["wanjax", name] for name in content}
        found[model] = ModelConfigs(ModelIndex.from_dict(index | present), content)
    return found
