"""Images for the CLIP image encoder, as `image_processor/preprocessor_config.json` says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from pydantic import Field

from wanjax.errors import CheckpointError
from wanjax.validation import FromJSON, Number, Positive, Whole, checked

Pixels = Annotated[Whole, Field(ge=1, le=4096)]


@checked(CheckpointError)
class ImageProcessor(FromJSON):
    """Resize the shortest edge, crop the centre, scale to [0, 1], normalise.

    Sizes are in pixels; `resample` is PIL's number (3 is bicubic). The defaults are those of
    the published folders. Raises `CheckpointError` for what cannot be.
    """

    shortest_edge: Pixels = 224
    crop_height: Pixels = 224
    crop_width: Pixels = 224
    resample: Annotated[Whole, Field(ge=0, le=5)] = 3
    image_mean: tuple[Number, Number, Number] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[Positive, Positive, Positive] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        if self.shortest_edge < max(self.crop_height, self.crop_width):
            raise ValueError(
                f"crop_size {self.crop_height} by {self.crop_width} is larger than the "
                f"shortest edge {self.shortest_edge} after resizing"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImageProcessor:
        """From a parsed `preprocessor_config.json`; sizes may be numbers, as in old files."""
        size = values.get("size", cls.shortest_edge)
        edge = _sides("size", size, "shortest_edge")["shortest_edge"]
        crop = _sides("crop_size", values.get("crop_size", edge), "height", "width")
        sizes = {"shortest_edge": edge, "crop_height": crop["height"], "crop_width": crop["width"]}
        return super().from_dict({**values, **sizes})

    def __call__(self, image: Image.Image) -> Float[np.ndarray, "height width 3"]:
        """Normalised float32 pixels of the centre of `image`."""
        image = image.convert("RGB")
        edge, short = self.shortest_edge, min(image.size)
        # the longer edge is cut to whole pixels, not rounded, as in the reference
        width, height = (edge * length // short for length in image.size)
        image = image.resize((width, height), Image.Resampling(self.resample))
        left, top = (width - self.crop_width) // 2, (height - self.crop_height) // 2
        image = image.crop((left, top, left + self.crop_width, top + self.crop_height))
        pixels = np.asarray(image, np.float32) / 255
        mean, std = (np.asarray(x, np.float32) for x in (self.image_mean, self.image_std))
        return (pixels - mean) / std


def _sides(name: str, value: Any, *sides: str) -> Mapping[str, Any]:
    """A size by its sides, which have one length where the size is a number."""
    by_side = value if isinstance(value, Mapping) else dict.fromkeys(sides, value)
    if not set(sides) <= by_side.keys():
        raise CheckpointError(
            f"{name}={dict(by_side)}: must be pixels, or an object with {' and '.join(sides)}, "
            "which is what CLIP's image processor has"
        )
    return by_side
