"""What a command writes never lands on what it reads, nor on a JSON of somebody else."""

from __future__ import annotations

import os
from pathlib import Path

from wanjax.config.keys import Config, keys
from wanjax.errors import UsageError
from wanjax.files import read_json
from wanjax.media.examples import picture_path
from wanjax.media.names import record_of

_WRITTEN = ("output", "plot", "figure")


def check_own_files(config: Config) -> None:
    """Raise `UsageError` where a file that would be written is one to keep."""
    written = {name: value for name in _WRITTEN if (value := getattr(config, name))}
    output = written.get("output")
    if output and not output.endswith(os.sep):
        written["the record of output"] = str(record_of(output))
    names = [name for name, field in keys().items() if field.metadata["path"]]
    read = {getattr(config, name) for name in names if name not in _WRITTEN}
    read_files = [picture_path(value) for value in read if isinstance(value, str)]
    for key, value in written.items():
        path = Path(value).expanduser()
        if not path.is_file():
            continue
        if any(other.exists() and path.samefile(other) for other in read_files):
            raise UsageError(f"{key}={value} is read by the same command: name another file")
        if config.overwrite and path.suffix == ".json" and not _is_ours(path):
            raise UsageError(f"{key}={value} is no file that wanjax wrote: name another file")


def _is_ours(path: Path) -> bool:
    """Whether a JSON file is a record or a calibration."""
    try:
        content = read_json(path, UsageError)
    except UsageError:
        return False
    return {"config", "plan"} <= content.keys() or {"format", "version"} <= content.keys()
