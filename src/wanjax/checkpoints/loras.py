"""Which LoRAs a run takes, as its configuration says. No JAX."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open

from wanjax.errors import CheckpointError, printable
from wanjax.files import fault_in_name

# `..._high_noise_...`, `...-LowNoise...`, and `..._HIGH` at the end, as published pairs are named
_OF_EXPERT = re.compile(r"(high|low)[_-]?noise|[_-](high|low)([_-]?fp\d+)?\.\w+$", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,2})?", re.IGNORECASE)


@dataclass(frozen=True)
class LoRA:
    """A file, and how strongly it counts; `live`: kept apart, so that the strength can change."""

    file: Path
    strength: float = 1.0
    live: bool = False

    def __str__(self) -> str:
        """As a key has it."""
        return f"{self.file}:{self.strength:g}{':live' * self.live}"

    @property
    def numbers(self) -> int:
        """How many the file has."""
        try:
            with safe_open(self.file, framework="np") as tensors:
                keys = tensors.keys()
                return sum(math.prod(tensors.get_slice(key).get_shape()) for key in keys)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{self.file} is no safetensors file, or is cut short: {error}"
            ) from error


def parse_loras(text: str | None, key: str) -> list[LoRA]:
    """`FILE[:STRENGTH][:live]`, with commas between.

    Raises `CheckpointError` for a strength that is no number, and for a file that is not there.
    """
    return [_parse(part.strip(), key) for part in (text or "").split(",") if part.strip()]


def live_text(before: str | None, live: str | None, key: str) -> str | None:
    """A key's value with other live LoRAs than it had; those that are merged stay."""
    kept = [lora for lora in parse_loras(before, key) if not lora.live]
    loras = [*kept, *(replace(lora, live=True) for lora in parse_loras(live, key))]
    return ",".join(map(str, loras)) or None


def _parse(text: str, key: str) -> LoRA:
    named = text.removesuffix(":live")
    if fault := fault_in_name(named):
        raise CheckpointError(f"{key}={printable(text, 200)}: {fault}")
    file, colon, strength = named.rpartition(":")
    if not colon or Path(named).expanduser().exists():
        file, strength = named, "1"
    path = Path(file).expanduser()
    if not path.is_file():
        raise CheckpointError(f"{key}={text}: there is no file {path}")
    if not _NUMBER.fullmatch(strength.strip()):
        raise CheckpointError(
            f"{key}={text}: the strength after the colon must be a number, as FILE:0.8 or "
            "FILE:0.8:live"
        )
    return LoRA(path, float(strength), named != text)


def expert_loras(
    both: str | None, high: str | None, low: str | None, experts: int
) -> tuple[list[LoRA], ...]:
    """Those of each expert: high noise, then low noise.

    Raises `CheckpointError` for one expert's file that was given to both or to the other, and for
    an expert that the model does not have.
    """
    shared = parse_loras(both, "lora")
    if experts == 1:
        for key, text in (("lora_high", high), ("lora_low", low)):
            if text:
                raise CheckpointError(f"{key}={text}: this model has one expert; give it as lora=")
        return (shared,)
    its_own = parse_loras(high, "lora_high"), parse_loras(low, "lora_low")
    for key, loras, other in (
        ("lora", shared, ("high", "low")),
        ("lora_high", its_own[0], ("low",)),
        ("lora_low", its_own[1], ("high",)),
    ):
        for lora in loras:
            _check_expert(key, lora, other)
    return tuple(shared + loras for loras in its_own)


def _check_expert(key: str, lora: LoRA, others: Sequence[str]) -> None:
    """Raise `CheckpointError` for a file that by its name is that of an expert among `others`."""
    which = expert_named(lora.file)
    if which in others:
        both = " is for both" if key == "lora" else f" is for the {key.removeprefix('lora_')} one"
        raise CheckpointError(
            f"{key}={lora.file}: by its name it is the {which}-noise expert's, and {key}{both}; "
            f"give it as lora_{which}="
        )


def expert_named(file: Path) -> str | None:
    """`high` or `low`, where a file's name says so."""
    match = _OF_EXPERT.search(file.name)
    return (match[1] or match[2]).lower() if match else None
