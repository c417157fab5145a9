"""From a request's fields to values of the configuration's keys, and the pictures that came."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wanjax.caching import METHODS
from wanjax.caching.curve import shipped_curves
from wanjax.caching.method import settings_of
from wanjax.config.keys import Config, config_class, keys, unknown
from wanjax.errors import UsageError, printable
from wanjax.media.examples import is_example, picture_path
from wanjax.media.images import load_image
from wanjax.serve.errors import ApiError
from wanjax.serve.loras import read_loras
from wanjax.settings import parse

# Keys that a video may have of its own. All others are the server's: they name files of its
# machine, or what is loaded there.
_OWN = (
    "prompt", "negative_prompt", "fit_image", "seed", "height", "width", "num_frames", "fps",
    "num_inference_steps", "sampler", "flow_shift", "boundary_ratio", "guidance_scale",
    "guidance_scale_high", "guidance_scale_low", "video_quality",
)  # fmt: skip
_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
_SECONDS = re.compile(r"[0-9]{1,5}(\.[0-9]{1,3})?")
_NUMBER = re.compile(r"[0-9]{1,10}(\.[0-9]{1,30})?")
_DATA = re.compile(r"data:[\w./+-]*;base64,")
PICTURES = {"input_reference": "image", "last_image": "last_image"}  # field: key


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a request asks for: values of keys, pictures as bytes by key."""

    model: str | None
    values: dict[str, Any]
    pictures: dict[str, bytes]


def own_keys() -> set[str]:
    """The keys that a video may have of its own."""
    settings = {f.metadata["key"] for method in METHODS.values() for f in settings_of(method)}
    return {*_OWN, *(f"use_{method}" for method in METHODS), *settings}


def read_request(body: Mapping[str, Any], config: Config) -> Asked:
    """The fields of a request to a server of `config`.

    Raises `ApiError` for what no video can have. What values may be, the configuration says.
    """
    values: dict[str, Any] = {}
    pictures: dict[str, bytes] = {}
    fields = dict(body)
    model = fields.pop("model", None)
    if model is not None and not isinstance(model, str):
        raise _bad("model", model, "be text")
    for name, value in fields.items():
        if name in PICTURES:
            pictures[PICTURES[name]] = _picture(name, value)
        elif name not in _OTHERS:
            values[_key(name, value)] = value
    for name, other in _OTHERS.items():
        if name in fields:
            _merge(values, name, other(fields[name], values, config))
    for switch in _switched_on(values):  # instead of what all videos have here
        for method in METHODS:
            if f"use_{method}" != switch and getattr(config, f"use_{method}"):
                values.setdefault(f"use_{method}", False)
    return Asked(model, values, pictures)


def remixed(values: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
    """Values of an earlier video with others over them."""
    mine = asked.values
    kept = dict(values)
    if {"guidance_scale"} & mine.keys():
        kept = {n: v for n, v in kept.items() if not n.startswith("guidance_scale")}
    if _switched_on(mine) or any(name.startswith("use_") for name in mine):
        settings = {f.metadata["key"] for m in METHODS.values() for f in settings_of(m)}
        switches = {f"use_{method}" for method in METHODS}
        kept = {n: v for n, v in kept.items() if n not in settings | switches}
    return kept | mine


def typed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values that are checked, as their keys have them: forms have text alone."""
    fields = keys()
    return {n: parse(config_class(), fields[n], value, text=False) for n, value in values.items()}


def save_pictures(pictures: Mapping[str, bytes], folder: Path) -> dict[str, Path]:
    """Decode what was sent, with the guards of files, and keep its pixels alone, as PNG.

    Raises `ApiError` for what is no picture.
    """
    saved = {}
    for key, content in pictures.items():
        field = next(name for name, known in PICTURES.items() if known == key)
        raw, saved[key] = folder / f"{key}.sent", folder / f"{key}.png"
        raw.write_bytes(content)
        try:
            load_image(raw).save(saved[key])
        except UsageError as error:
            text = str(error).replace(f"image={str(raw)!r}", field)
            raise ApiError(400, text, code="invalid_image", param=field) from None
        finally:
            raw.unlink()
    return saved


def _key(name: str, value: Any) -> str:
    """The key that a field is; raises `ApiError` for one that no video may have of its own."""
    for method in METHODS.values():
        for field in settings_of(method):
            if field.metadata["key"] == name and str in (field.metadata["kinds"] or ()):
                _require_no_file(name, value)
    if name in own_keys():
        return name
    if name in keys():
        text = f"{name} is the server's to set: leave it out"
    else:
        text = unknown(printable(name, 60))
    raise ApiError(400, text, code="unknown_parameter", param=printable(name, 60))


def _require_no_file(name: str, value: Any) -> None:
    """A calibration may be numbers, or one that is shipped: a request reads no file."""
    if isinstance(value, str) and value not in shipped_curves():
        items = value.strip().removeprefix("[").removesuffix("]").split(",")
        if not all(_NUMBER.fullmatch(item.strip()) for item in items):
            raise _bad(name, value, "be numbers, or the name of a shipped calibration")


def _switched_on(values: Mapping[str, Any]) -> list[str]:
    switches = [f"use_{method}" for method in METHODS]
    return [name for name in switches if str(values.get(name)).lower() in ("true", "yes", "on")]


def _merge(values: dict[str, Any], field: str, found: Mapping[str, Any]) -> None:
    for name, value in found.items():
        if name in values:
            raise ApiError(400, f"{field} and {name} exclude one another: give one", param=field)
        values[name] = value


def _size(value: Any, values: Mapping[str, Any], config: Config) -> dict[str, Any]:
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise _bad("size", value, "be WIDTHxHEIGHT, as 832x480")
    return {"width": int(found[1]), "height": int(found[2])}


def _seconds(value: Any, values: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """The nearest number of frames, of the form 4 n + 1."""
    text = str(value)
    if isinstance(value, bool) or not _SECONDS.fullmatch(text) or float(text) <= 0:
        raise _bad("seconds", value, "be a number above 0")
    fps = values.get("fps", config.fps)
    if not re.fullmatch(r"[0-9]{1,4}", str(fps)):
        raise _bad("fps", fps, "be a whole number")
    return {"num_frames": round(float(text) * int(fps) / 4) * 4 + 1}


def _cache(value: Any, values: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """A caching method by its name, or none."""
    if value not in ("none", *METHODS):
        raise _bad("cache", value, f"be none or {' or '.join(METHODS)}")
    return {f"use_{method}": method == value for method in METHODS}


def _guidance_2(value: Any, values: Mapping[str, Any], config: Config) -> dict[str, Any]:
    return {"guidance_scale_low": value}


def _lora(value: Any, values: Mapping[str, Any], config: Config) -> dict[str, Any]:
    return {"lora": read_loras(value, config)}


# Fields that are called or written otherwise than keys.
_OTHERS = {
    "size": _size,
    "seconds": _seconds,
    "cache": _cache,
    "guidance_scale_2": _guidance_2,
    "lora": _lora,
}


def _picture(name: str, value: Any) -> bytes:
    """The bytes of a picture: of an upload, or in JSON {"image_url": "data:..."}."""
    if isinstance(value, bytes):
        return value
    url = value.get("image_url") if isinstance(value, dict) and len(value) == 1 else None
    if isinstance(url, str) and is_example(url):
        try:
            return picture_path(url).read_bytes()
        except UsageError as error:
            raise ApiError(400, f"{name}: {error}", param=name) from None
    found = _DATA.match(url) if isinstance(url, str) else None
    if not isinstance(url, str) or found is None:
        raise _bad(
            name, value, 'be a file of a form, or {"image_url": "data:image/png;base64,..."}'
        )
    try:
        return base64.b64decode(url[found.end() :], validate=True)
    except binascii.Error:
        raise ApiError(400, f"{name}: its base64 is damaged", param=name) from None


def _bad(name: str, value: Any, must: str) -> ApiError:
    try:
        shown = printable(str(value), 60)
    except (ValueError, RecursionError):  # a number of thousands of digits, a deep list
        shown = f"({type(value).__name__})"
    return ApiError(400, f"{name}={shown}: must {must}", code="invalid_value", param=name)
