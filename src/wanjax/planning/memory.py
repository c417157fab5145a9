"""How much memory a run holds, told without a model."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanjax.caching import Schedule
from wanjax.checkpoints.locate import locate
from wanjax.config.keys import Config

_ITEM_BYTES = {"float32": 4, "bfloat16": 2}
_CLIP_TOKENS = 257  # of one image: 16 x 16 patches and the class token


@dataclass(frozen=True)
class _Architecture:
    """What the cache's size depends on: layers, width, and tokens of the image if attended to."""

    layers: int
    width: int
    image_tokens: int = 0


# The published models, as their transformer/config.json has it.
_PUBLISHED = {
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": _Architecture(30, 1536),
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": _Architecture(40, 5120),
    "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers": _Architecture(40, 5120, _CLIP_TOKENS),
    "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers": _Architecture(40, 5120, _CLIP_TOKENS),
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": _Architecture(40, 5120),
    "Wan-AI/Wan2.2-I2V-A14B-Diffusers": _Architecture(40, 5120),
}


@dataclass(frozen=True)
class Memory:
    """Bytes that a run of one video holds; None for what is off, or of an unknown model.

    `kv_cache_bytes`: the keys and values of all experts' cross-attention.
    """

    kv_cache_bytes: int | None = None

    def to_dict(self) -> dict[str, int | None]:
        return dataclasses.asdict(self)


def estimate(config: Config, schedule: Schedule) -> Memory:
    return Memory(kv_cache_bytes(config, schedule) if config.use_kv_cache else None)


def kv_cache_bytes(config: Config, schedule: Schedule) -> int | None:
    """Bytes that a run of one video keeps for all its experts; None for an unknown model."""
    architecture = _architecture(config)
    if architecture is None:
        return None
    tokens = config.max_sequence_length + architecture.image_tokens
    branches = sum(schedule.num_branches(phase.start) for phase in schedule.phases)
    keys_and_values = 2 * architecture.layers * tokens * architecture.width
    return branches * keys_and_values * _ITEM_BYTES[config.activations_dtype]


def _architecture(config: Config) -> _Architecture | None:
    """From the folder's own configuration files, or a published model's by its Hub id."""
    folder = locate(str(config.model))
    if folder is None:
        return _PUBLISHED.get(str(config.model))
    try:
        own = json.loads((folder / "transformer/config.json").read_text(encoding="utf-8"))
        image = _image_tokens(own, folder / "image_encoder/config.json")
        width = own["num_attention_heads"] * own["attention_head_dim"]
        return _Architecture(own["num_layers"], width, image)
    except (OSError, ValueError, KeyError):
        return None  # whoever loads the model says what is wrong with it


def _image_tokens(transformer: dict[str, Any], image_encoder: Path) -> int:
    """Tokens of the image embeddings that the blocks attend to; 0 where they do not."""
    if transformer.get("image_dim") is None:
        return 0
    if transformer.get("pos_embed_seq_len") is not None:  # of a first and a last frame
        both: int = transformer["pos_embed_seq_len"]
        return both
    clip = json.loads(image_encoder.read_text(encoding="utf-8"))
    tokens: int = (clip["image_size"] // clip["patch_size"]) ** 2 + 1
    return tokens
