"""Which LoRAs a run takes, as its configuration says. No JAX."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from wanjax.errors import CheckpointError

_OF_EXPERT = re.compile(r"(high|low)[_-]?noise", re.IGNORECASE)


@dataclass(frozen=True)
class LoRA:
    """A file, and how strongly it counts."""

    file: Path
    strength: float = 1.0


def parse_loras(text: str | None, key: str) -> list[LoRA]:
    """`FILE` or `FILE:STRENGTH`, with commas between.

    Raises `CheckpointError` for a strength that is no number, and for a file that is not there.
    """
    return [_parse(part.strip(), key) for part in (text or "").split(",") if part.strip()]


def _parse(text: str, key: str) -> LoRA:
    file, colon, strength = text.rpartition(":")
    if not colon or Path(text).expanduser().exists():
        file, strength = text, "1"
    path = Path(file).expanduser()
    if not path.is_file():
        raise CheckpointError(f"{key}={text}: there is no file {path}")
    try:
        return LoRA(path, float(strength))
    except ValueError:
        raise CheckpointError(
            f"{key}={text}: the strength after the colon must be a number, as FILE:0.8"
        ) from None


def expert_loras(
    both: str | None, high: str | None, low: str | None, experts: int
) -> tuple[list[LoRA], ...]:
    """Those of each expert: high noise, then low noise.

    Raises `CheckpointError` for one expert's file that was given to both, and for an expert that
    the model does not have.
    """
    shared = parse_loras(both, "lora")
    if experts == 1:
        for key, text in (("lora_high", high), ("lora_low", low)):
            if text:
                raise CheckpointError(f"{key}={text}: this model has one expert; give it as lora=")
        return (shared,)
    for lora in shared:
        if match := _OF_EXPERT.search(lora.file.name):
            which = match[1].lower()
            raise CheckpointError(
                f"lora={lora.file}: by its name it is the {which}-noise expert's, and lora= is for "
                f"both; give it as lora_{which}="
            )
    return shared + parse_loras(high, "lora_high"), shared + parse_loras(low, "lora_low")
