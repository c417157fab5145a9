"""Checkpoints by Hub id."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from wanjax.errors import CheckpointError

_PATTERNS = ["*.json", "*.safetensors", "*.model"]


def download(repo_id: str) -> Path:
    """The folder of a Hub repository, downloaded (with a progress bar) where it is not yet here.

    Raises `CheckpointError` where that fails, with what to do instead.
    """
    try:
        return Path(huggingface_hub.snapshot_download(repo_id, allow_patterns=_PATTERNS))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"model={repo_id!r} could not be fetched from the Hub ({reason}). On a machine with "
            f"access: `hf download {repo_id} --local-dir FOLDER`; then model=FOLDER"
        ) from error
