"""LoRAs that a request may name: files of the operator's folder, never a client's path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from wanjax.checkpoints.loras import LoRA, expert_named, live_text, parse_loras
from wanjax.config.keys import Config
from wanjax.errors import UsageError, printable
from wanjax.serve.errors import ApiError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_STRENGTH = re.compile(r"-?[0-9]{1,3}(\.[0-9]{1,6})?")
_FIELDS = {"name", "scale", "strength"}  # of one, written as an object
_MOST = 8  # in one video
KEYS = ("lora", "lora_high", "lora_low")


def loras_in(folder: str | None) -> dict[str, Path]:
    """Files by name: of `style.safetensors` it is `style`. Other names cannot be asked for."""
    found = sorted(Path(folder).expanduser().glob("*.safetensors")) if folder else []
    return {path.stem: path for path in found if _NAME.fullmatch(path.stem)}


def require_folder(folder: str | None) -> None:
    """Raise `UsageError` where there is none, or one whose name a key cannot have."""
    if folder is not None and not Path(folder).expanduser().is_dir():
        raise UsageError(f"lora_folder={folder}: there is no such folder")
    if folder is not None and "," in folder:
        raise UsageError(f"lora_folder={folder}: commas separate LoRAs: name a folder without one")


def read_loras(value: Any, config: Config) -> str:
    """What a request asks for, as `NAME:STRENGTH,NAME:STRENGTH`.

    It is written so, or as {"name": NAME, "scale": STRENGTH}, or a list of these. Raises
    `ApiError` for a name that is not in the server's folder.
    """
    if config.lora_folder is None:
        text = "lora: this server has none to choose from; its operator sets lora_folder=FOLDER"
        raise ApiError(400, text, code="unsupported_parameter", param="lora")
    parts = value.split(",") if isinstance(value, str) else value
    parts = parts if isinstance(parts, list) else [parts]
    if len(parts) > _MOST:
        raise _bad(f"{len(parts)} of them", f"be at most {_MOST}")
    known = loras_in(config.lora_folder)
    chosen = []
    for part in parts:
        name, strength = _one(part)
        if name not in known:
            raise _bad(name, f"be one of: {', '.join(known) or 'none is there'}")
        chosen.append(f"{name}:{float(strength):g}")
    return ",".join(chosen)


def lora_values(text: str | None, config: Config) -> dict[str, str | None]:
    """The keys that the named LoRAs are, live, beside those that the server has itself.

    One that by its name is of one expert is that one's. Raises `UsageError` for one that is gone.
    """
    if not text:
        return {}
    known = loras_in(config.lora_folder)
    asked: dict[str, list[LoRA]] = {key: [] for key in KEYS}
    for part in text.split(","):
        name, _, strength = part.partition(":")
        if name not in known:
            raise UsageError(f"lora={name}: it is no longer in the server's folder")
        which = expert_named(known[name])
        asked[f"lora_{which}" if which else "lora"].append(LoRA(known[name], float(strength)))
    return {
        key: live_text(getattr(config, key), ",".join(map(str, loras)), key)
        for key, loras in asked.items()
    }


def without_paths(config: Config, folder: str | None) -> dict[str, str | None]:
    """The keys of a video's LoRAs with names of files alone; only those of the server's folder."""
    own = set(loras_in(folder).values())
    named = {}
    for key in KEYS:
        loras = [lora for lora in parse_loras(getattr(config, key), key) if lora.file in own]
        named[key] = ",".join(str(replace(lora, file=Path(lora.file.name))) for lora in loras)
    return {key: text or None for key, text in named.items()}


def _one(part: Any) -> tuple[str, str]:
    """A name and a strength, as text. Raises `ApiError`."""
    if isinstance(part, Mapping):
        if not {"name"} <= part.keys() <= _FIELDS or len(part) > 2:
            raise _bad(part, 'have "name" and perhaps "scale"')
        strength = part.get("scale", part.get("strength", 1))
        name, strength = part["name"], "" if isinstance(strength, bool) else str(strength)
    elif isinstance(part, str):
        name, _, strength = part.strip().partition(":")
        strength = strength or "1"
    else:
        raise _bad(part, "be NAME or NAME:STRENGTH")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _bad(name, "be a name of the server's folder")
    if not _STRENGTH.fullmatch(strength):
        raise _bad(f"{name}:{strength}", "have a number as its strength, as 0.8")
    return name, strength


def _bad(value: Any, must: str) -> ApiError:
    try:
        shown = printable(str(value), 60)
    except (ValueError, RecursionError):  # a number of thousands of digits, a deep list
        shown = f"({type(value).__name__})"
    return ApiError(400, f"lora={shown}: must {must}", code="invalid_value", param="lora")
