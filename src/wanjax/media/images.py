"""Images in: any file as upright RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from wanjax.errors import UsageError


def load_image(path: str | Path) -> Image.Image:
    """Any image file as upright RGB: EXIF rotation applied, transparency on white.

    Raises `UsageError` for a file that is missing, empty, cut short or no image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return to_rgb(image)
    except FileNotFoundError:
        raise UsageError(f"image={str(path)!r}: no such file") from None
    except UnidentifiedImageError:
        raise UsageError(f"image={str(path)!r}: not an image that Pillow can read") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"image={str(path)!r} cannot be read: {error}") from error


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
