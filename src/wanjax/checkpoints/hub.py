"""Checkpoints by Hub id."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    DryRunError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
)
from tqdm.auto import tqdm

from wanjax.checkpoints.locate import ModelIndex, parse
from wanjax.checkpoints.presence import require_layout, require_parts
from wanjax.errors import CheckpointError

_PATTERNS = ["*.json", "*.safetensors", "*.model"]
_SPARE_BYTES = 10**9  # that a download leaves free


class _Silent(tqdm):  # type: ignore[type-arg]  # it takes none when it runs
    """A progress bar that shows nothing."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options | {"disable": True})


def download(
    repo_id: str,
    *,
    revision: str | None = None,
    quiet: bool = False,
    without: Collection[str] = (),
) -> Path:
    """The folder of a Hub repository, downloaded where it is not yet here; `quiet`: without bars.

    Of a commit, tag or branch, by default of the newest state. Nothing but safetensors, JSON and
    the tokenizer's files is fetched, and the weights of the parts in `without` stay there.

    A repository that is no model of ours is refused before anything large is fetched, as is one
    for which the disk has no room. Without a connection what the Hub's cache has is taken. Raises
    `CheckpointError`, with what to do instead.
    """
    bars = _Silent if quiet else None
    try:
        _check(repo_id, revision, without)
        return Path(
            huggingface_hub.snapshot_download(
                repo_id,
                revision=revision,
                allow_patterns=_PATTERNS,
                ignore_patterns=_weights(without),
                tqdm_class=bars,
            )
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"model={repo_id!r} could not be fetched from the Hub ({reason}). On a machine with "
            f"access: `hf download {repo_id} --local-dir FOLDER`; then model=FOLDER"
        ) from error


def _weights(parts: Collection[str]) -> list[str]:
    return [f"{part}/*.safetensors" for part in parts]


def _check(repo_id: str, revision: str | None, without: Collection[str]) -> None:
    """Raise `CheckpointError` for a repository that should not be downloaded."""
    try:
        files: Sequence[Any] = huggingface_hub.snapshot_download(
            repo_id, revision=revision, dry_run=True, tqdm_class=_Silent
        )
    except DryRunError:
        return  # no connection: it is here already, or `snapshot_download` says what is wrong
    names = {file.filename for file in files}
    require_layout(repo_id, names)
    index = Path(huggingface_hub.hf_hub_download(repo_id, "model_index.json", revision=revision))
    require_parts(repo_id, names, parse(ModelIndex, index), without)
    unwanted = _weights(without)
    wanted = [f for f in files if _is_any(f.filename, _PATTERNS)]
    wanted = [f for f in wanted if not _is_any(f.filename, unwanted)]
    missing = sum(file.file_size or 0 for file in wanted if file.will_download)
    _check_space(repo_id, missing)


def _is_any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _check_space(repo_id: str, missing: int) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    there = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if missing and missing + _SPARE_BYTES > free:
        raise CheckpointError(
            f"model={repo_id!r}: {missing / 1e9:.1f} GB are to be downloaded, and the disk of "
            f"{cache} has {free / 1e9:.1f} GB free. Make room, or set HF_HOME to a folder on "
            "another disk"
        )
