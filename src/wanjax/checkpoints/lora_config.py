"""What peft and diffusers say of a LoRA beside its tensors: alpha, above all. No JAX.

diffusers writes it into the file's metadata, peft into `adapter_config.json` beside the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from wanjax.checkpoints.containers.safetensors import metadata_of
from wanjax.errors import CheckpointError
from wanjax.files import parse_json, read_json
from wanjax.validation import Flag, FromJSON, Number, checked, named

_MODULE = re.compile(r"\^?[\w.]+")
_METADATA = "lora_adapter_metadata"
_PREFIXES = ("transformer_2.", "transformer.")  # of keys, where a file is a pipeline's


@checked(CheckpointError)
class LoRAConfig(FromJSON):
    """What is read of it; without `lora_alpha` alpha is the rank."""

    lora_alpha: Number | None = None
    alpha_pattern: dict[str, Number] | None = None
    use_rslora: Flag = False
    use_dora: Flag = False

    def __post_init__(self) -> None:
        if self.use_dora:
            raise ValueError("use_dora=true: a DoRA, which is not implemented; take a plain LoRA")
        for pattern in self.alpha_pattern or {}:
            if not _MODULE.fullmatch(pattern):
                raise ValueError(
                    f"alpha_pattern: {pattern[:80]!r} is no name of modules; others are not read"
                )

    def scale(self, names: Sequence[str], rank: int) -> float:
        """What `up @ down` of a module (by any of its names) is multiplied by."""
        alpha = self.lora_alpha
        for pattern, its_own in (self.alpha_pattern or {}).items():
            if any(_is_of(pattern, name) for name in names):
                alpha = its_own
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def require_used(self, names: Iterable[str]) -> None:
        """Raise `CheckpointError` for a module of `alpha_pattern` that is not among the file's."""
        known = [*names]
        for pattern in self.alpha_pattern or {}:
            if not any(_is_of(pattern, name) for name in known):
                raise CheckpointError(f"alpha_pattern: {pattern!r} is of no module of this file")


def _is_of(pattern: str, name: str) -> bool:
    """As peft looks for it: the end of a name, after ^ all of it."""
    if pattern.startswith("^"):
        return name == pattern[1:]
    return f".{name}".endswith(f".{pattern}")


def lora_config(file: Path) -> LoRAConfig:
    """Raises `CheckpointError` naming the file where it cannot be read, or for a DoRA."""
    text = metadata_of(file).get(_METADATA)
    beside = file.with_name("adapter_config.json")
    if text is not None:
        with named(f"{file}: {_METADATA}"):
            values = _unprefixed(_parsed(text))
            return LoRAConfig.from_dict(values)
    if file.name.startswith("adapter_model") and beside.is_file():
        with named(beside):
            return LoRAConfig.from_dict(read_json(beside, CheckpointError))
    return LoRAConfig()


def _parsed(text: str) -> Mapping[str, object]:
    try:
        values = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError("is no JSON object")
    return values


def _unprefixed(values: Mapping[str, object]) -> dict[str, object]:
    for prefix in _PREFIXES:
        if any(key.startswith(prefix) for key in values):
            return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
    return dict(values)
