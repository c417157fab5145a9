"""Whether a list of files is a model that can be read, and how much of a model is on this machine.

Looks at names and small JSON files alone: no JAX, no network.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import constants

from wanjax.checkpoints.locate import ModelIndex, locate, parse, read_json
from wanjax.errors import CheckpointError

_INDEX = "model_index.json"

# What shows that files are laid out in another way, and what to do about it.
_OTHER_LAYOUTS = (
    (
        ("Wan2.1_VAE.pth", "Wan2.2_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth"),
        "the original layout of Wan-AI; the same model in diffusers' layout has the Hub id with "
        "-Diffusers at its end, such as model=Wan-AI/Wan2.2-T2V-A14B-Diffusers",
    ),
    (("split_files/",), "ComfyUI's layout, of one file a part"),
    ((".gguf",), "GGUF"),
    (("adapter_model.safetensors", "lora.safetensors"), "a LoRA, which is no model of its own"),
)


@dataclass(frozen=True)
class Presence:
    """How much of a model is here, and where."""

    state: Literal["here", "in part", "not here"]
    folder: Path | None = None
    lacking: tuple[str, ...] = ()


def presence(model: str) -> Presence:
    """Of a folder, or of a Hub id in the Hub's cache."""
    folder = locate(model)
    if folder is None:
        folder = cached(model)
    if folder is None or not (folder / _INDEX).is_file():
        return Presence("not here", folder)
    lacking = tuple(lacks(folder))
    return Presence("in part" if lacking else "here", folder, lacking)


def cached(repo_id: str) -> Path | None:
    """Where the Hub's cache has the newest revision that was asked for, whole or not."""
    repository = Path(constants.HF_HUB_CACHE, f"models--{repo_id.replace('/', '--')}")
    revision = repository / "refs" / constants.DEFAULT_REVISION
    if not revision.is_file():
        return None
    snapshot = repository / "snapshots" / revision.read_text(encoding="utf-8").strip()
    return snapshot if snapshot.is_dir() else None


def lacks(folder: Path) -> Iterator[str]:
    """Names of what a folder lacks for its model, the shards of its weights included."""
    index = parse(ModelIndex, folder / _INDEX)
    names = {path.relative_to(folder).as_posix() for path in folder.glob("*/*") if path.exists()}
    yield from _lacking(names, index)
    for part in index.parts:
        for listing in sorted((folder / part).glob("*.safetensors.index.json")):
            shards = {f"{part}/{s}" for s in read_json(listing).get("weight_map", {}).values()}
            yield from sorted(shards - names)


def require_folder(model: str) -> None:
    """Raise `CheckpointError` where `model` names a folder that is not there or no model.

    Its weights may be elsewhere: for `wanjax plan` the small files are enough.
    """
    folder = locate(model)
    if folder is None:
        return
    if not folder.is_dir():
        raise CheckpointError(f"model={model}: there is no folder {folder}")
    found = (*folder.glob("*"), *folder.glob("*/*"))
    require_layout(model, {path.relative_to(folder).as_posix() for path in found})
    parse(ModelIndex, folder / _INDEX)


def require_weights(folder: Path) -> None:
    """Raise `CheckpointError` listing what a folder lacks, before any of it is read."""
    if lacking := list(lacks(folder)):
        raise CheckpointError(f"model={folder} is not whole: it lacks {', '.join(lacking)}")


def require_layout(model: str, names: Collection[str]) -> None:
    """Raise `CheckpointError` for files (by relative name) that are laid out in another way."""
    if _INDEX in names:
        return
    for marks, layout in _OTHER_LAYOUTS:
        found = next((n for n in sorted(names) if any(mark in f"/{n}" for mark in marks)), None)
        if found is not None:
            raise CheckpointError(
                f"model={model} cannot be read: {found} shows {layout}. Read are folders and "
                f"repositories in diffusers' layout, with {_INDEX}, transformer/, vae/, ..."
            )
    raise CheckpointError(
        f"model={model} cannot be read: there is no {_INDEX}, so that it is no whole folder or "
        "repository in diffusers' layout"
    )


def require_parts(model: str, names: Collection[str], index: ModelIndex) -> None:
    """Raise `CheckpointError` listing what a repository lacks for the model of its index."""
    if lacking := list(_lacking(names, index)):
        raise CheckpointError(f"model={model} is not whole: it lacks {', '.join(lacking)}")


def _lacking(names: Collection[str], index: ModelIndex) -> Iterator[str]:
    for part in index.parts:
        if f"{part}/config.json" not in names:
            yield f"{part}/config.json"
        if not any(n.startswith(f"{part}/") and n.endswith(".safetensors") for n in names):
            yield f"{part}/*.safetensors"
    if "tokenizer/tokenizer.json" not in names:
        yield "tokenizer/tokenizer.json"
