"""LoRAs: read in every spelling that is about, and merged into a transformer's tensors.

A change is `strength * alpha / rank * up @ down` (no alpha: the rank itself) of a weight, or a
whole difference (`.diff`, `.diff_b`, `.diff_m`) of a weight, bias or modulation table.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wanjax.checkpoints.layouts.names import inverted, renamed
from wanjax.checkpoints.layouts.original.transformer import NAMES
from wanjax.checkpoints.loras import LoRA
from wanjax.checkpoints.stored import DTYPES
from wanjax.checkpoints.tensor_files import Index, Rounded, TensorFiles
from wanjax.errors import CheckpointError

_LISTED = 4  # names in a text
_PREFIX = re.compile(r"(base_model\.model\.|model\.|diffusion_model\.|transformer\.|lora_unet_)+")
_ENDS = {
    "down": r"\.(lora_down|lora_A|lora\.down)(\.default)?(\.weight)?",
    "up": r"\.(lora_up|lora_B|lora\.up)(\.default)?(\.weight)?",
    "alpha": r"\.alpha",
    "diff": r"\.diff",
    "diff_b": r"\.diff_b",
    "diff_m": r"\.diff_m",
    "dora": r"\.(dora_scale|lora_magnitude_vector)(\.default)?(\.weight)?",
}
_ORIGINAL = inverted(NAMES)
# Of models that see an image by CLIP. Others lack them, and a LoRA of Wan 2.1 may have them.
_IMAGE = re.compile(r".*(k_img|v_img|img_emb|add_[kv]_proj|norm_added_[kq]|image_embedder).*")


@dataclass(frozen=True)
class _Delta:
    """A change of one tensor: `up @ down` with `up` scaled, or all of it as `whole`."""

    up: np.ndarray | None
    down: np.ndarray | None
    whole: np.ndarray | None

    def part(self, index: Index) -> np.ndarray:
        if self.whole is not None:
            return np.asarray(self.whole[index])
        assert self.up is not None
        assert self.down is not None
        rows, *others = index
        down = self.down[(slice(None), *others)]
        product = self.up[rows] @ down.reshape(len(down), -1)
        part: np.ndarray = product.reshape(len(product), *down.shape[1:])
        return part


class MergedFiles(TensorFiles):
    """The tensors of a transformer with LoRAs merged into them, as float32.

    Raises `CheckpointError` naming file and key for what does not fit the tensors, before any of
    them is read; warns of image modules that the model lacks.
    """

    def __init__(self, files: TensorFiles, loras: Sequence[LoRA]):
        self.files, self.place, self.arranged = files, files.place, files.arranged
        self._deltas: dict[str, list[_Delta]] = defaultdict(list)
        shapes = {key: files.shape(key) for key in files.keys()}  # noqa: SIM118 (no mapping)
        for lora in loras:
            for key, delta in _deltas(lora, shapes):
                self._deltas[key].append(delta)

    def keys(self) -> Iterable[str]:
        return self.files.keys()

    def said(self, name: str) -> str:
        return self.files.said(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.files.shape(name)

    def dtype(self, name: str) -> str:
        return "F32" if name in self._deltas else self.files.dtype(name)

    def stored_dtypes(self) -> Counter[str]:
        return self.files.stored_dtypes()

    def used(self) -> set[str]:
        return self.files.used()

    def rounded(self, name: str) -> Rounded | None:
        return None if name in self._deltas else self.files.rounded(name)

    def read_rounded(self, name: str, index: Index, out: np.ndarray | None = None) -> np.ndarray:
        return self.files.read_rounded(name, index, out)

    def read(self, name: str, index: Index, out: np.ndarray | None = None) -> np.ndarray:
        if name not in self._deltas:
            return self.files.read(name, index, out)
        merged = self.files.read(name, index).astype(np.float32)
        for delta in self._deltas[name]:
            merged += delta.part(index)
        if out is None:
            return merged
        out[...] = merged
        return out


def _deltas(lora: LoRA, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, _Delta]]:
    """Key of each tensor that a file changes, and the change."""
    modules = _modules(shapes)
    found: dict[str, dict[str, tuple[str, np.ndarray]]] = defaultdict(dict)
    lacking: list[str] = []
    unknown: list[str] = []
    for key, tensor in _tensors(lora.file):
        module, part = _split(key)
        if part == "dora":
            raise CheckpointError(
                f"{lora.file}: {key} is of a DoRA, which is not implemented; take a plain LoRA"
            )
        name = modules.get(_PREFIX.sub("", module, count=1))
        if name is not None and part:
            found[name][part] = (key, tensor)
        else:
            (lacking if _IMAGE.fullmatch(module) else unknown).append(key)
    if unknown or not found:
        named = ", ".join((unknown or lacking)[:_LISTED])
        raise CheckpointError(
            f"{lora.file}: {len(unknown or lacking)} keys are of no module of this model, such as "
            f"{named or 'none at all'}: it is a LoRA of another model, or in a spelling that is "
            "not known"
        )
    if lacking:
        warnings.warn(
            f"{lora.file}: {len(lacking)} keys of image modules, which this model lacks, are "
            f"skipped: {', '.join(lacking[:_LISTED])} ...",
            stacklevel=2,
        )
    for name, parts in found.items():
        yield from _of_module(lora, name, parts, shapes)


def _of_module(
    lora: LoRA,
    module: str,
    parts: Mapping[str, tuple[str, np.ndarray]],
    shapes: Mapping[str, tuple[int, ...]],
) -> Iterator[tuple[str, _Delta]]:
    wholes = {"diff": f"{module}.weight", "diff_b": f"{module}.bias"}
    table = module if module.endswith("scale_shift_table") else f"{module}.scale_shift_table"
    for part, target in (*wholes.items(), ("diff", table), ("diff_m", table)):
        if part in parts and target in shapes:
            key, tensor = parts[part]
            whole = _fitted(lora, key, tensor, shapes[target], target)
            yield target, _Delta(None, None, lora.strength * whole)
    pair = [parts.get(part) for part in ("down", "up")]
    if pair[0] is None and pair[1] is None:
        return
    if pair[0] is None or pair[1] is None:
        key = (pair[0] or pair[1] or ("", None))[0]
        raise CheckpointError(f"{lora.file}: {key} has no counterpart: half of it is missing")
    (down_key, down), (up_key, up) = pair[0], pair[1]
    target = f"{module}.weight"
    if target not in shapes:
        raise CheckpointError(f"{lora.file}: {down_key}: {module} has no weight")
    shape, rank = shapes[target], down.shape[0]
    up = up.reshape(up.shape[:2])
    if list(up.shape) != [shape[0], rank]:
        raise CheckpointError(
            f"{lora.file}: {up_key} is {list(up.shape)}, expected {[shape[0], rank]} for "
            f"{target} {list(shape)} and {down_key} {list(down.shape)}"
        )
    down = _fitted(lora, down_key, down, (rank, *shape[1:]), target)
    alpha = float(parts["alpha"][1].reshape(())) if "alpha" in parts else rank
    yield target, _Delta(np.float32(lora.strength * alpha / rank) * up, down, None)


def _fitted(
    lora: LoRA, key: str, tensor: np.ndarray, shape: tuple[int, ...], target: str
) -> np.ndarray:
    """The tensor in the shape of ours.

    A text-to-video LoRA knows the first channels alone of an image-to-video model's patches.
    """
    if target == "patch_embedding.weight" and tensor.ndim == len(shape):
        missing = shape[1] - tensor.shape[1]
        if missing > 0 and (tensor.shape[0], *tensor.shape[2:]) == (shape[0], *shape[2:]):
            return np.pad(tensor, [(0, 0), (0, missing), *[(0, 0)] * (tensor.ndim - 2)])
    if tensor.shape != shape:
        raise CheckpointError(
            f"{lora.file}: {key} is {list(tensor.shape)}, expected {list(shape)} for {target}"
        )
    return tensor


def _modules(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Every spelling of a module's name, to diffusers' (a table is a module of its own)."""
    spellings = {}
    for key in shapes:
        module = re.sub(r"\.(weight|bias)$", "", key)
        names = [module, renamed(module, _ORIGINAL) or module]
        if key.endswith(".scale_shift_table"):  # `blocks.0.diff_m` is its table's
            names.append(key.removesuffix(".scale_shift_table"))
        for name in names:
            spellings[name] = module
            spellings[name.replace(".", "_")] = module
    return spellings


def _split(key: str) -> tuple[str, str]:
    """A key's module and part; the part is empty where it is none that is known."""
    for part, end in _ENDS.items():
        if match := re.search(f"{end}$", key):
            return key[: match.start()], part
    return key, ""


def _tensors(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    files = TensorFiles(file)
    for key in files.keys():  # noqa: SIM118 (no mapping)
        if files.dtype(key) not in DTYPES:
            raise CheckpointError(f"{file}: {key} is {files.dtype(key)}, which cannot be read")
        index = tuple(slice(0, size) for size in files.shape(key))
        yield key, files.read(key, index).astype(np.float32)
