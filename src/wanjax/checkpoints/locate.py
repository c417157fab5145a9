"""Where a model lies, and what its index says. Reads small JSON files alone. No JAX."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from wanjax import files
from wanjax.errors import CheckpointError
from wanjax.validation import Flag, Fraction, FromJSON, Parsed, checked, named, validate

Component = tuple[str | None, str | None] | None  # library and class; null where there is none

_Shards = dict[str, str]

_PACKAGE = "wanjax/tiny/"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


# Forms of Wan that are not implemented, by what their files say they are.
OTHER_FORMS = {
    "VACE": "VACE, made for control by videos, masks and reference pictures",
    "Animate": "Wan-Animate, made for moving a character as in another video",
    "VideoToVideo": "video to video",
    "S2V": "speech to video",
    "control": "Wan Fun Control, made for control by depth, pose or camera",
}
_PIPELINES = ("WanPipeline", "WanImageToVideoPipeline")
_USE = "take a Wan 2.1 or 2.2 folder for text or image to video"


def refuse_other_forms(class_name: str | None) -> None:
    """Raise ValueError for a form of Wan that is not implemented."""
    for form, what in OTHER_FORMS.items():
        if form in (class_name or ""):
            raise ValueError(f"{class_name} is {what}, a form that is not implemented; {_USE}")


@checked(CheckpointError)
class ModelIndex(FromJSON):
    """What is read of `model_index.json`. Old ones leave `transformer_2` out, or say null."""

    _class_name: str
    transformer: Component = None
    transformer_2: Component = None
    image_encoder: Component = None
    boundary_ratio: Fraction | None = None
    expand_timesteps: Flag | None = None  # a timestep for each token: Wan 2.2's 5B model

    def __post_init__(self) -> None:
        refuse_other_forms(self._class_name)
        if self._class_name not in _PIPELINES:
            raise ValueError(
                f"_class_name={self._class_name!r}: must be {' or '.join(map(repr, _PIPELINES))}"
            )
        if not any(self.transformer or ()):
            raise ValueError("transformer is missing: there is no model without")
        if self.num_experts == 2 and self.boundary_ratio is None:
            raise ValueError("boundary_ratio is missing: two transformers need one, such as 0.875")

    @property
    def num_experts(self) -> int:
        return 2 if any(self.transformer_2 or ()) else 1

    @property
    def parts(self) -> tuple[str, ...]:
        """Folders of all that has weights."""
        experts = ("transformer", "transformer_2")[: self.num_experts]
        images = ("image_encoder",) if any(self.image_encoder or ()) else ()
        return ("text_encoder", *images, *experts, "vae")


def locate(model: str) -> Path | None:
    """The folder of `model`, whether or not it exists; None for a Hub id.

    `wanjax/tiny/NAME` lies inside the package.
    """
    if model.startswith(_PACKAGE):
        return Path(__file__).parents[1] / model.removeprefix("wanjax/")
    try:
        path = Path(model).expanduser()
        there = path.exists()
    except (OSError, RuntimeError) as error:  # too long a name, the home of nobody
        raise CheckpointError(f"model={model[:200]} can be no folder: {error}") from error
    return path if there or not _HUB_ID.fullmatch(model) else None


def parse(kind: type[Parsed], path: Path) -> Parsed:
    """A JSON file of a checkpoint folder as `kind`; raises `CheckpointError` naming the file."""
    values = read_json(path)
    with named(path):
        return kind.from_dict(values)


def read_shards(path: Path) -> dict[str, str]:
    """The file of each tensor, by an index of shards. Raises `CheckpointError`."""
    shards = read_json(path).get("weight_map")
    validated: dict[str, str] = validate(_Shards, shards, f"{path}: weight_map", CheckpointError)
    return validated


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint folder; raises `CheckpointError` naming the file."""
    if not path.exists():
        raise CheckpointError(f"{path} is missing: not a whole checkpoint folder")
    return files.read_json(path, CheckpointError)
