"""What a model's folder says about sampling. Reads small JSON files alone. No JAX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wanjax.checkpoints.layouts.original.folder import original_folder
from wanjax.checkpoints.locate import ModelIndex, parse, refuse_other_forms
from wanjax.errors import CheckpointError
from wanjax.validation import FromJSON, Positive, Size, checked, named

_USE = "take a Wan 2.1 or 2.2 folder for text or image to video"


@checked(CheckpointError)
class _Channels(FromJSON):
    """Of `transformer/config.json`, what tells the task; the rest is the model's to read."""

    in_channels: Size = 16
    out_channels: Size = 16
    _class_name: str | None = None
    model_type: str | None = None

    def __post_init__(self) -> None:
        refuse_other_forms(self._class_name)
        refuse_other_forms(self.model_type)
        latents, beside = self.out_channels, self.in_channels - self.out_channels
        if beside not in (0, latents + 4):  # an image's latents, and a mask of four channels
            raise ValueError(
                f"in_channels={self.in_channels} with out_channels={latents}: text to video has "
                f"{latents}, image to video {2 * latents + 4}; others, such as the Fun models that "
                f"follow a control video or camera, are not implemented; {_USE}"
            )


@checked(CheckpointError)
class _Scheduler(FromJSON):
    """Of `scheduler/scheduler_config.json`. Its key has been `shift` and is `flow_shift`."""

    flow_shift: Positive | None = None
    shift: Positive | None = None


def folder_values(folder: Path) -> dict[str, Any]:
    """The configuration's values that a model's folder fixes or suggests.

    `task` and `boundary_ratio` (None with one expert) go with the model; `flow_shift` is its
    scheduler's, which for the published models is not the official sampling value.
    """
    if (original := original_folder(folder)) is not None:
        with named(folder):
            channels = _Channels.from_dict(original.configs.components["transformer"])
        return _values(folder, original.configs.index, channels, original.flow_shift)
    index = parse(ModelIndex, folder / "model_index.json")
    transformer = parse(_Channels, folder / "transformer/config.json")
    scheduler = parse(_Scheduler, folder / "scheduler/scheduler_config.json")
    return _values(folder, index, transformer, scheduler.flow_shift or scheduler.shift)


def _values(
    folder: Path, index: ModelIndex, transformer: _Channels, shift: float | None
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "model": str(folder),
        "task": _task(index, transformer),
        "boundary_ratio": index.boundary_ratio if index.num_experts == 2 else None,
    }
    return values if shift is None else values | {"flow_shift": shift}


def _task(index: ModelIndex, transformer: _Channels) -> str:
    if index.expand_timesteps:
        return "ti2v"
    return "i2v" if transformer.in_channels > transformer.out_channels else "t2v"
