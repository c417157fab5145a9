"""Settings in files: YAML written by hand, records and videos that were written by `generate`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from wanjax import files
from wanjax.config.keys import Config, keys
from wanjax.errors import Notice, UsageError
from wanjax.media.examples import picture_digest

_YAML, _RECORD, _VIDEOS = (".yml", ".yaml"), (".json",), (".mp4", ".webm")
SUFFIXES = (*_YAML, *_RECORD, *_VIDEOS)


def read_settings(path: Path) -> dict[str, Any]:
    """The keys in a file, by its suffix. Raises `UsageError` for one that holds none."""
    suffix = path.suffix.lower()
    if suffix in _YAML:
        return read_yaml(path)
    if suffix in _RECORD:
        return _of_record(files.read_json(path, UsageError), path)
    from wanjax.media.video_files import read_tags  # imports a library of codecs

    try:
        record = json.loads(read_tags(path).get("comment", ""))
    except ValueError:
        record = {}
    return _of_record(record if isinstance(record, dict) else {}, path)


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no valid YAML: {error}") from error
    if not isinstance(content or {}, dict):
        raise UsageError(f"{path} must hold `key: value` lines")
    return content or {}


def kept(config: Config) -> dict[str, Any]:
    """What a record has of a configuration: with the same values it is the same video again."""
    fields = keys().items()
    names = [n for n, f in fields if f.metadata["kept"] and _is_of_generate(f.metadata)]
    # a method that was registered after the configuration was made is off there
    return {name: getattr(config, name) for name in names if hasattr(config, name)}


def digests(config: Config) -> dict[str, str]:
    """Digests of the pictures that a run reads, by key."""
    paths = {"image": config.image, "last_image": config.last_image}
    return {name: picture_digest(path) for name, path in paths.items() if path}


def _is_of_generate(metadata: Mapping[str, Any]) -> bool:
    return not metadata["commands"] or "generate" in metadata["commands"]


def _of_record(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The keys of a record of this or another version; what is not known here is left out."""
    config = content.get("config")
    if not isinstance(config, dict):
        raise UsageError(f"{path} is no record of a video made by `wanjax generate`")
    known = keys()
    lost = [name for name, value in config.items() if name not in known and value]
    if lost:
        these = ", ".join(f"{name}={config[name]}" for name in lost)
        warnings.warn(f"{path}: this version has no {these}: left out", Notice, stacklevel=2)
    return {n: v for n, v in config.items() if n in known and known[n].metadata["kept"]}
