"""Images in: any file as upright RGB."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from wanjax.errors import UsageError
from wanjax.files import require_regular
from wanjax.media.examples import picture_path

# Decoded by Pillow itself: for PostScript and the like it would run other programs.
_FORMATS = (
    "PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "TGA", "ICO",
)  # fmt: skip
_PIXELS, _ASPECT = 100_000_000, 50


def load_image(path: str | Path) -> Image.Image:
    """Any image file as upright RGB: EXIF rotation applied, transparency on white.

    `example:NAME` is one of the pictures in the package.

    Raises `UsageError` for a file that is missing, empty, cut short or no image.
    """
    name, path = f"image={str(path)!r}", picture_path(path)
    require_regular(path, UsageError, name)
    if not path.stat().st_size:  # or a file of the kernel's, which may wait for ever
        raise UsageError(f"{name}: not an image: the file is empty")
    try:
        with Image.open(path, formats=_FORMATS) as image:
            _check_size(image, name)
            image.load()
            return to_rgb(image)
    except UsageError:
        raise
    except UnidentifiedImageError:
        known = ", ".join(_FORMATS)
        raise UsageError(f"{name}: not an image that is read here: {known}") from None
    except Exception as error:  # every decoder has exceptions of its own, struct.error for one
        raise UsageError(f"{name} cannot be read: {error or type(error).__name__}") from error


def _check_size(image: Image.Image, name: str) -> None:
    """Before its pixels are decoded."""
    width, height = image.size
    if width * height > _PIXELS:
        raise UsageError(
            f"{name} has {width}x{height} pixels, more than the {_PIXELS:,} that are read: make "
            "it smaller"
        )
    if max(width, height) > _ASPECT * min(width, height):
        raise UsageError(
            f"{name} has {width}x{height} pixels, longer than {_ASPECT} times its width: cut it"
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright RGB of an image in any mode."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # 16- and 32-bit grey, which `convert` would clip
        values = np.asarray(image, np.float64)
        full = 65535 if image.mode.startswith("I") and values.max() > 255 else 255
        image = Image.fromarray((values / full * 255).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def fit_size(image: Image.Image, pixels: int, multiple: int) -> tuple[int, int]:
    """(height, width) of about `pixels` in the image's own aspect ratio, in whole multiples.

    As the official scripts choose it from their `max_area`.
    """
    ratio = image.height / image.width
    height = round(np.sqrt(pixels * ratio)) // multiple * multiple
    width = round(np.sqrt(pixels / ratio)) // multiple * multiple
    return max(height, multiple), max(width, multiple)


def resize_and_crop(image: Image.Image, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Scale until the frame is covered (Lanczos), then cut the middle; never squashed."""
    scale = max(height / image.height, width / image.width)
    size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    resized = image.resize(size, Image.Resampling.LANCZOS)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return np.asarray(resized.crop((left, top, left + width, top + height)))


def to_batch(
    images: Sequence[Image.Image], height: int, width: int
) -> UInt8[np.ndarray, "b h w 3"]:
    """Images cut to one size."""
    return np.stack([resize_and_crop(image, height, width) for image in images])
