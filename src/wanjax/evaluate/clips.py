"""What is generated for a comparison: every prompt with every seed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from wanjax.media.prompts import Prompt


@dataclass(frozen=True)
class Clip:
    """One video to generate under every variant; `name` is its files'."""

    name: str
    prompt: Prompt
    seed: int


def make_clips(prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Clip]:
    """Every prompt with every seed; the names sort in this order."""
    digits = len(str(len(prompts)))
    return [
        Clip(f"{number:0{digits}}-{_slug(prompt.text)}-seed{seed}", prompt, seed)
        for number, prompt in enumerate(prompts, 1)
        for seed in seeds
    ]


def _slug(text: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", text.lower()))[:48].strip("-") or "prompt"
