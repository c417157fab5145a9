"""Whether a list of files is a model that can be read, and how much of a model is on this machine.

Looks at names and small JSON files alone: no JAX, no network.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import constants

from wanjax.checkpoints.layouts.original.folder import original_folder
from wanjax.checkpoints.locate import ModelIndex, locate, parse, read_shards
from wanjax.checkpoints.published_models import listed, published
from wanjax.errors import TOKENIZER_HELP, CheckpointError

_INDEX, _TOKENIZER = "model_index.json", "tokenizer/tokenizer.json"
_PIECES = "tokenizer/spiece.model"  # of which one is made
_REVISION = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)*")

# What shows that files are laid out in another way, and what to do about it.
_FILES = (
    "; such files are given by their part, beside a preset: transformer=FILE, transformer_2=FILE, "
    "vae=FILE, text_encoder=FILE"
)
_OTHER_LAYOUTS = (
    (
        ("Wan2.1_VAE.pth", "Wan2.2_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth"),
        "the original layout of Wan-AI without all of its files",
    ),
    (("split_files/",), "ComfyUI's layout, of one file a part" + _FILES),
    ((".gguf",), "GGUF" + _FILES),
    (("adapter_model.safetensors", "lora.safetensors"), "a LoRA, which is no model of its own"),
)


@dataclass(frozen=True)
class Presence:
    """How much of a model is here, and where."""

    state: Literal["here", "in part", "not here"]
    folder: Path | None = None
    lacking: tuple[str, ...] = ()


def presence(model: str, parts: Collection[str] = (), revision: str | None = None) -> Presence:
    """Of a folder, or of a Hub id at a revision in the Hub's cache; `parts` are elsewhere."""
    folder = locate(model)
    if folder is None:
        folder = cached(model, revision)
    known = listed(model)
    if folder is None and known and set(parts) >= needed(published()[known].index):
        return Presence("here")
    if folder is None or not _is_model(folder):
        return Presence("not here", folder)
    lacking = tuple(lacks(folder, parts))
    return Presence("in part" if lacking else "here", folder, lacking)


def cached(repo_id: str, revision: str | None = None) -> Path | None:
    """Where the Hub's cache has a commit, tag or branch, by default the newest state that was
    asked for, whole or not. The folder's name is the commit."""
    repository = Path(constants.HF_HUB_CACHE, f"models--{repo_id.replace('/', '--')}")
    name = revision or constants.DEFAULT_REVISION
    known = repository / "refs" / name
    commit = known.read_text(encoding="utf-8").strip() if known.is_file() else name
    snapshot = repository / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def require_revision(model: str, revision: str | None) -> None:
    """Raise `CheckpointError` for a revision that can be none, or of a model that is no Hub id."""
    if revision is None:
        return
    if not _REVISION.fullmatch(revision):
        raise CheckpointError(
            f"revision={revision}: must be a commit, a tag or a branch, such as main"
        )
    if locate(model) is not None:
        raise CheckpointError(
            f"revision={revision}: {model} is a folder; revisions are of models on the Hub"
        )


def commit_of(model: str, revision: str | None) -> str | None:
    """The commit of a model on the Hub that this machine has; None for a folder."""
    folder = None if locate(model) is not None else cached(model, revision)
    return None if folder is None else folder.name


def needed(index: ModelIndex) -> set[str]:
    """The parts that a run of the model reads from files."""
    return {*index.parts, "tokenizer"}


def lacks(folder: Path, parts: Collection[str] = ()) -> Iterator[str]:
    """Names of what a folder lacks for its model, the shards of its weights included.

    `parts` are not looked for: they are elsewhere.
    """
    if (original := original_folder(folder)) is not None:
        for part in sorted(needed(original.configs.index) - set(parts)):
            place = original.files.get(part, folder / part)
            if not place.exists():
                yield part.replace("_", " ")
            elif part in original.configs.index.parts and place.is_dir():
                yield from _lacking_shards(place, place.relative_to(folder))
        return
    index = parse(ModelIndex, folder / _INDEX)
    names = {path.relative_to(folder).as_posix() for path in folder.glob("*/*") if path.exists()}
    yield from _lacking(names, index, parts)
    for part in index.parts:
        if part in parts:
            continue
        yield from _lacking_shards(folder / part, Path(part))


def _lacking_shards(place: Path, said: Path) -> Iterator[str]:
    """Those that a folder's own list names and that are not there."""
    for listing in sorted(place.glob("*.safetensors.index.json")):
        shards = set(read_shards(listing).values())
        yield from ((said / s).as_posix() for s in sorted(shards) if not (place / s).exists())


def _is_model(folder: Path) -> bool:
    return (folder / _INDEX).is_file() or (folder.is_dir() and original_folder(folder) is not None)


def require_folder(model: str) -> None:
    """Raise `CheckpointError` where `model` names a folder that is not there or no model.

    Its weights may be elsewhere: for `wanjax plan` the small files are enough.
    """
    folder = locate(model)
    if folder is None:
        return
    if not folder.is_dir():
        raise CheckpointError(f"model={model}: there is no folder {folder}")
    if original_folder(folder) is not None:
        return
    found = (*folder.glob("*"), *folder.glob("*/*"))
    require_layout(model, {path.relative_to(folder).as_posix() for path in found})
    parse(ModelIndex, folder / _INDEX)


def require_weights(folder: Path, parts: Collection[str] = ()) -> None:
    """Raise `CheckpointError` listing what a folder lacks, before any of it is read."""
    if lacking := list(lacks(folder, parts)):
        help = f"; {TOKENIZER_HELP}" if lacking[-1] in ("tokenizer", _TOKENIZER) else ""
        raise CheckpointError(f"model={folder} is not whole: it lacks {', '.join(lacking)}{help}")


def require_layout(model: str, names: Collection[str]) -> None:
    """Raise `CheckpointError` for files (by relative name) that are laid out in another way."""
    if _INDEX in names:
        return
    for marks, layout in _OTHER_LAYOUTS:
        found = next((n for n in sorted(names) if any(mark in f"/{n}" for mark in marks)), None)
        if found is not None:
            raise CheckpointError(
                f"model={model} cannot be read as a model: {found} shows {layout}. Read are "
                f"repositories in diffusers' layout, with {_INDEX}, transformer/, vae/, ..., and "
                "folders in that or in the authors' layout"
            )
    raise CheckpointError(
        f"model={model} cannot be read: there is no {_INDEX}, so that it is no whole folder or "
        "repository in diffusers' layout"
    )


def require_parts(
    model: str, names: Collection[str], index: ModelIndex, parts: Collection[str] = ()
) -> None:
    """Raise `CheckpointError` listing what a repository lacks for the model of its index.

    `parts` are not looked for: they are elsewhere.
    """
    if lacking := list(_lacking(names, index, parts)):
        raise CheckpointError(f"model={model} is not whole: it lacks {', '.join(lacking)}")


def _lacking(names: Collection[str], index: ModelIndex, parts: Collection[str]) -> Iterator[str]:
    for part in index.parts:
        if f"{part}/config.json" not in names:
            yield f"{part}/config.json"
        weights = (n for n in names if n.startswith(f"{part}/") and n.endswith(".safetensors"))
        if part not in parts and not any(weights):
            yield f"{part}/*.safetensors"
    if "tokenizer" not in parts and not {_TOKENIZER, _PIECES} & {*names}:
        yield _TOKENIZER
