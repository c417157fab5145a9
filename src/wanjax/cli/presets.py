"""
list the models that can be named, with their sampling values, size, and whether they are here

usage: wanjax presets

GB are those of all weights in bfloat16. A model that is not here is downloaded when it is
first used.
"""

from __future__ import annotations

from collections.abc import Sequence

from wanjax.checkpoints.configs import model_configs
from wanjax.checkpoints.presence import presence
from wanjax.cli.text import guidance_scales, print_table
from wanjax.config.resolve import load_preset, preset_names
from wanjax.errors import UsageError
from wanjax.planning.weights import weight_bytes

_TASKS = {"t2v": "text to video", "i2v": "image to video", "ti2v": "text or image to video"}


def run(args: Sequence[str]) -> None:
    if args:
        raise UsageError(f"`wanjax presets` takes no arguments; got {args[0]}")
    rows = []
    for name in preset_names():
        config = load_preset(name)
        size = f"{config.width}x{config.height}"
        guidance = " / ".join(f"{scale:g}" for scale in guidance_scales(config))
        numbers = (str(config.num_frames), str(config.num_inference_steps))
        shift = f"{config.flow_shift:g}"
        task = _TASKS[config.task]
        model = str(config.model)
        held = f"{weight_bytes(model_configs(model), 'bfloat16') / 1e9:.3g}"
        there = presence(model, revision=config.revision).state
        rows.append((name, task, size, *numbers, shift, guidance, held, there, model))
    titles = ("preset", "task", "size", "frames", "steps", "shift", "guidance", "GB", "", "model")
    print_table(titles, rows)
