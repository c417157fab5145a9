"""Checkpoints by Hub id."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
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

from wanjax.checkpoints.layouts.original.folder import original_files, require_implemented
from wanjax.checkpoints.locate import ModelIndex, parse
from wanjax.checkpoints.presence import require_layout, require_parts
from wanjax.errors import TOKENIZER_HELP, CheckpointError

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
    the tokenizer's files is fetched, of the authors' own repositories also .pth of the VAE and the
    encoders; the weights of the parts in `without` stay there.

    A repository that is no model of ours is refused before anything large is fetched, as is one
    for which the disk has no room. Without a connection what the Hub's cache has is taken. Raises
    `CheckpointError`, with what to do instead.
    """
    bars = _Silent if quiet else None
    try:
        wanted = _check(repo_id, revision, without)
        return Path(
            huggingface_hub.snapshot_download(
                repo_id, revision=revision, allow_patterns=wanted, tqdm_class=bars
            )
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        only_tokenizer = {"transformer", "vae", "text_encoder"} <= {*without} - {"tokenizer"}
        help = f". Of it the tokenizer alone is missing: {TOKENIZER_HELP}" if only_tokenizer else ""
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"model={repo_id!r} could not be fetched from the Hub ({reason}). On a machine with "
            f"access: `hf download {repo_id} --local-dir FOLDER`; then model=FOLDER{help}"
        ) from error


def _check(repo_id: str, revision: str | None, without: Collection[str]) -> list[str]:
    """The files to fetch; raises `CheckpointError` for a repository that should not be."""
    try:
        files: Sequence[Any] = huggingface_hub.snapshot_download(
            repo_id, revision=revision, dry_run=True, tqdm_class=_Silent
        )
    except DryRunError:
        return _PATTERNS  # no connection: it is here already, or the download says what is wrong
    names = {file.filename for file in files}
    original = original_files(names)
    if "model_index.json" not in names and {"vae", "text_encoder"} <= original.keys():
        _check_original(repo_id, revision, original, without)
        kept = [name for of in original.values() for name in of]
        unwanted = [name for part in without for name in original.get(part, ())]
    else:
        require_layout(repo_id, names)
        index = huggingface_hub.hf_hub_download(repo_id, "model_index.json", revision=revision)
        require_parts(repo_id, names, parse(ModelIndex, Path(index)), without)
        kept = [name for name in names if _is_any(name, _PATTERNS)]
        unwanted = [name for name in kept if name.startswith(tuple(f"{p}/" for p in without))]
    left = {name for name in unwanted if not name.endswith(".json")}
    wanted = sorted({*kept} - left)
    missing = sum(f.file_size or 0 for f in files if f.filename in wanted and f.will_download)
    _check_space(repo_id, missing)
    return wanted


def _check_original(
    repo_id: str,
    revision: str | None,
    files: Mapping[str, Sequence[str]],
    without: Collection[str],
) -> None:
    """Raise `CheckpointError` for a repository of the authors' that lacks something, or of another
    form of Wan."""
    parts = ("transformer", "vae", "text_encoder", "tokenizer")
    lacking = [part.replace("_", " ") for part in parts if not {part} & {*files, *without}]
    if lacking:
        raise CheckpointError(f"model={repo_id} is not whole: it lacks {', '.join(lacking)}")
    configs = [name for name in files.get("transformer", ()) if name.endswith("config.json")]
    if not configs:
        raise CheckpointError(f"model={repo_id} is not whole: it lacks config.json")
    config = huggingface_hub.hf_hub_download(repo_id, min(configs), revision=revision)
    require_implemented(Path(config))


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
