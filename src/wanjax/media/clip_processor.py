"""Images for the CLIP image encoder, as `image_processor/preprocessor_config.json` says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image


@dataclass(frozen=True)
class ImageProcessor:
    """Resize the shortest edge, crop the centre, scale to [0, 1], normalise.

    Sizes are in pixels; `resample` is PIL's number (3 is bicubic). The defaults are those of
    the published folders.
    """

    shortest_edge: int = 224
    crop_height: int = 224
    crop_width: int = 224
    resample: int = 3
    image_mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

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
        edge = size if isinstance(size, int) else size.get("shortest_edge")
        if edge is None:
            raise ValueError(
                f"size is {dict(size)}; only {{'shortest_edge': pixels}} is supported, "
                "which is what CLIP's image processor has"
            )
        crop = values.get("crop_size", edge)
        crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
        return cls(
            shortest_edge=edge,
            crop_height=crop["height"],
            crop_width=crop["width"],
            resample=values.get("resample", cls.resample),
            image_mean=tuple(values.get("image_mean", cls.image_mean)),
            image_std=tuple(values.get("image_std", cls.image_std)),
        )

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
