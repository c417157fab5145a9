"""
write a model's files in another layout or with other numbers

usage: wanjax convert IN OUT [layout=diffusers|original|comfyui|gguf] [dtype=TYPE] [key=value ...]

  wanjax convert Wan2.2-T2V-A14B wan-diffusers dtype=bfloat16    # the authors' folder
  wanjax convert wan-diffusers wan-original layout=original
  wanjax convert wan2.1-t2v-1.3b OUT transformer=wan2.1-t2v-1.3b-Q8_0.gguf   # that part alone
  wanjax convert wan2.2-t2v-a14b OUT layout=comfyui dtype=float8             # if it is here
  wanjax convert wan-diffusers OUT layout=gguf dtype=q8_0

IN is a folder, a file, or a preset whose model is here; OUT a folder, new or left by the same
command when it was interrupted, which goes on then. Files are written piece by piece, in shards
of 5 GB: a few hundred megabytes of memory are enough. Parts by key (transformer=, vae=, ...) take
the place of the model's own; of a model that is not here these alone are written.

layout=original writes the VAE and the text encoder as .pth, comfyui a file a part, gguf the same
with the transformers as GGUF. dtype=float8 keeps each product of the layers in FP8 with a scale, as
ComfyUI does, and the rest in bfloat16; q8_0, q5_1, q5_0, q4_1 and q4_0 do so in GGUF's blocks.
Without dtype numbers stay as they are; quantised ones become bfloat16. The VAE, and what stays in
float32 when a model is loaded, keep their numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wanjax.checkpoints.convert import convert, open_sources
from wanjax.checkpoints.folder import Folder
from wanjax.checkpoints.locate import locate
from wanjax.checkpoints.presence import needed, presence, require_weights
from wanjax.checkpoints.published_models import listed, published
from wanjax.config.keys import Config
from wanjax.config.resolve import preset_names, resolve
from wanjax.errors import UsageError
from wanjax.files import require_writable

_USAGE = "`wanjax convert IN OUT [layout=...] [dtype=...]`"


def run(args: Sequence[str]) -> None:
    words = [arg for arg in args if "=" not in arg and not arg.startswith("-")]
    if len(words) != 2:
        raise UsageError(f"{_USAGE} takes two places; got {len(words)}: {', '.join(words)}")
    source, out = words
    rest = [arg for arg in args if arg not in words]
    of = source if source in preset_names() else f"model={source}"
    config = resolve([of, *rest], "convert")
    folder, parts = _source(config)
    require_writable(Path(out) / "model_index.json", f"OUT={out}")
    opening = open_sources(folder, parts)
    for name, reading in opening.readings.items():
        print(f"{name} from {reading}", file=sys.stderr)
    shown = _Bar()
    try:
        made = convert(opening, Path(out), config.layout, config.dtype, shown)
    finally:
        shown.close()
    there = f", of which {made.kept} were there" if made.kept else ""
    rate = made.bytes / 1e9 / max(made.seconds, 1e-9)
    print(
        f"wrote {out}: {made.files} files{there}, {made.bytes / 1e9:.3g} GB in "
        f"{made.seconds:.1f} s, {rate:.2g} GB/s"
    )


def _source(config: Config) -> tuple[Folder, list[str]]:
    """What is converted, and its parts with weights: all, or those given of a model not here."""
    assert config.model is not None
    given = config.parts
    place = locate(config.model) or presence(config.model, (), config.revision).folder
    if place is not None and place.is_dir():
        folder = Folder.open(place, given)
        require_weights(place, given.keys())
        return folder, list(folder.index.parts)
    known = published().get(str(listed(config.model)))
    if known is None or not given:
        raise UsageError(
            f"{config.model} is not here: give its folder, or parts as transformer=FILE, vae=FILE"
        )
    folder = Folder(Path(config.model), known.index, None, given, known.components)
    unknown = given.keys() - needed(known.index)
    if unknown:
        raise UsageError(f"{min(unknown)}={given[min(unknown)]}: this model has no such part")
    return folder, [name for name in known.index.parts if name in given]


class _Bar:
    """Bytes written, where somebody looks on."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            from tqdm.auto import tqdm  # looks for a notebook, which takes a moment

            self._bar = tqdm(desc="writing", total=total, unit="B", unit_scale=True)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
