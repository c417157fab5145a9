"""Settings in files: YAML written by hand, records and videos that were written by `generate`."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from wanjax import files
from wanjax.config.keys import Config, keys
from wanjax.errors import UsageError, notify
from wanjax.media.examples import picture_digest
from wanjax.validation import named

_YAML, _RECORD, _VIDEOS = (".yml", ".yaml"), (".json",), (".mp4", ".webm")
_LARGEST, _DEEPEST = 2**16, 8  # bytes and levels of a YAML file
SUFFIXES = (*_YAML, *_RECORD, *_VIDEOS)


def read_settings(path: Path) -> dict[str, Any]:
    """The keys in a file, by its suffix. Raises `UsageError` for one that holds none."""
    suffix = path.suffix.lower()
    if suffix in _YAML:
        return read_yaml(path)
    if suffix in _RECORD:
        return _of_record(files.read_json(path, UsageError), path)
    files.require_regular(path, UsageError)
    from wanjax.media.video_files import read_tags  # imports a library of codecs

    try:
        comment = read_tags(path).get("comment", "")
        record = json.loads(comment)
    except UsageError:  # no video, or not to be read
        raise
    except ValueError:
        record = {}
    return _of_record(record if isinstance(record, dict) else {}, path)


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a YAML file: the plain part of the language that settings need.

    Raises `UsageError` naming the file for anything else.
    """
    text = files.read_text(path, largest=_LARGEST)
    try:
        with named(path):
            content = yaml.load(text, Loader=_Plain)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path} is no valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UsageError(f"{path} must hold `key: value` lines")
    return content


class _Plain(yaml.SafeLoader):
    """Numbers, true and false, null; the rest is text: no dates, no 1:30, no 0x10, no yes.

    (`yes` and `on` are read as switches by the keys that are switches.)
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own way; each class has its own)

    depth = 0

    def get_single_node(self) -> yaml.Node | None:
        """Of the one document that there may be."""
        try:
            node: yaml.Node | None = super().get_single_node()
        except yaml.composer.ComposerError:  # its only one: aliases do not get that far
            raise UsageError("holds two documents (---): keep one") from None
        return node

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuses what YAML has beyond values: references, types, deep nesting."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            raise UsageError("anchors and aliases (&, *) are not read: write the value out")
        if event.tag:
            raise UsageError(f"types ({event.tag}) are not read: write the value alone")
        inside = isinstance(event, yaml.CollectionStartEvent)
        self.depth += inside
        if self.depth > _DEEPEST:
            raise UsageError(f"nested more than {_DEEPEST} deep: settings are `key: value` lines")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= inside
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        counts = Counter(str(key.value) for key, _ in node.value)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise UsageError(f"{twice[0]} is given twice")
        return super().construct_mapping(node, deep)


_CORE = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]{1,40}", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
for _name, (_pattern, _first) in _CORE.items():
    _type = f"tag:yaml.org,2002:{_name}"
    _Plain.add_implicit_resolver(_type, re.compile(f"^(?:{_pattern})$"), _first)


def kept(config: Config) -> dict[str, Any]:
    """What a record has of a configuration: with the same values it is the same video again."""
    fields = keys().items()
    names = [n for n, f in fields if f.metadata["kept"] and _is_of_generate(f.metadata)]
    # a method that was registered after the configuration was made is off there
    values = {name: getattr(config, name) for name in names if hasattr(config, name)}
    prose = [name for name in values if keys()[name].metadata["from_file"]]  # stays as it was
    return files.without_home(values) | {name: values[name] for name in prose}


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
        notify(f"{path}: this version has no {these}: left out", stacklevel=2)
    return {n: v for n, v in config.items() if n in known and known[n].metadata["kept"]}
