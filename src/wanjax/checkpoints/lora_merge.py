"""LoRAs: read in every spelling that is about, and merged into a transformer's tensors.

A change is `strength * alpha / rank * up @ down` of a weight, or a whole difference (`.diff`,
`.diff_b`, `.diff_m`) of a weight, bias or modulation table. Without an alpha that of the file's
metadata or of peft's `adapter_config.json` counts, else the rank itself.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wanjax.checkpoints.containers.gguf_blocks import Scales
from wanjax.checkpoints.layouts.names import inverted, renamed
from wanjax.checkpoints.layouts.original.transformer import NAMES
from wanjax.checkpoints.lora_config import LoRAConfig, lora_config
from wanjax.checkpoints.loras import LoRA
from wanjax.checkpoints.stored import DTYPES, Kept
from wanjax.checkpoints.tensor_files import Index, TensorFiles
from wanjax.errors import CheckpointError
from wanjax.validation import named

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
class _Tensor:
    """One of a LoRA's file, read as float32 where it is needed.

    Raises `CheckpointError` for numbers that are not finite.
    """

    files: TensorFiles
    key: str
    shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        stored = self.files.shape(self.key)
        read = self.files.read(self.key, tuple(slice(0, size) for size in stored))
        read = read.astype(np.float32)
        if not np.isfinite(read).all():
            raise CheckpointError(
                f"{self.files.place}: {self.key} has values that are no finite numbers (NaN or "
                "infinity): the file is damaged"
            )
        if stored != self.shape and len(stored) == len(self.shape):  # see `_fitted`
            read = np.pad(read, [(0, n - m) for m, n in zip(stored, self.shape, strict=True)])
        return read.reshape(self.shape)


@dataclass(frozen=True)
class Delta:
    """`strength` times a change of one tensor: `scale * up @ down`, or all of it as `whole`."""

    strength: float
    scale: float = 1.0
    up: _Tensor | None = None
    down: _Tensor | None = None
    whole: _Tensor | None = None

    @property
    def rank(self) -> int | None:
        """None of a whole difference."""
        return None if self.down is None else self.down.shape[0]

    def down_half(self) -> np.ndarray:
        """[rank, inputs]."""
        assert self.down is not None
        return self.down.read().reshape(self.down.shape[0], -1)

    def up_half(self) -> np.ndarray:
        """[outputs, rank], scaled."""
        assert self.up is not None
        return np.float32(self.scale) * self.up.read()

    def part(self, index: Index) -> np.ndarray:
        if self.whole is not None:
            return np.float32(self.strength) * self.whole.read()[index]
        assert self.down is not None
        rows, *others = index
        down = self.down_half().reshape(self.down.shape)[(slice(None), *others)]
        product = np.float32(self.strength) * self.up_half()[rows] @ down.reshape(len(down), -1)
        part: np.ndarray = product.reshape(len(product), *down.shape[1:])
        return part


class MergedFiles(TensorFiles):
    """The tensors of a transformer with LoRAs merged into them, as float32.

    A live LoRA's change of a tensor among `kept` is not merged, but in `apart`, as far as it is
    one of low rank. `remade` are the tensors that live LoRAs have been merged into. Raises
    `CheckpointError` naming file and key for what does not fit the tensors, before any of
    them is read; warns of image modules that the model lacks.
    """

    def __init__(self, files: TensorFiles, loras: Sequence[LoRA], kept: Container[str] = ()):
        self.files, self.place, self.arranged = files, files.place, files.arranged
        self._deltas: dict[str, list[Delta]] = defaultdict(list)
        self.apart: dict[str, list[Delta]] = defaultdict(list)
        self.remade: set[str] = set()
        shapes = {key: files.shape(key) for key in files.keys()}  # noqa: SIM118 (no mapping)
        for lora in loras:
            for key, delta in deltas(lora, shapes):
                if lora.live and delta.rank is not None and key in kept:
                    self.apart[key].append(delta)
                    continue
                self._deltas[key].append(delta)
                if lora.live:
                    self.remade.add(key)

    def keys(self) -> Iterable[str]:
        return self.files.keys()

    def said(self, name: str) -> str:
        return self.files.said(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.files.shape(name)

    def dtype(self, name: str) -> str:
        return "F32" if name in self._deltas else self.files.dtype(name)

    def stored_dtype(self, name: str) -> str:
        return self.files.stored_dtype(name)

    def stored_dtypes(self) -> Counter[str]:
        return self.files.stored_dtypes()

    def used(self) -> set[str]:
        return self.files.used()

    def kept(self, name: str) -> Kept | None:
        return None if name in self._deltas else self.files.kept(name)

    def read_rounded(self, name: str, index: Index, out: np.ndarray | None = None) -> np.ndarray:
        return self.files.read_rounded(name, index, out)

    def read_scales(self, name: str, rows: slice) -> Scales:
        return self.files.read_scales(name, rows)

    def read_as(self, name: str, index: Index, dtype: np.dtype) -> np.ndarray:
        if name in self._deltas or name not in self.files.keys():  # noqa: SIM118 (no mapping)
            return self.read(name, index)
        return self.files.read_as(name, index, dtype)

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


def deltas(
    lora: LoRA, shapes: Mapping[str, tuple[int, ...]], *, quiet: bool = False
) -> Iterator[tuple[str, Delta]]:
    """Key of each tensor that a file changes, and the change; `quiet` of what is skipped."""
    modules, config = _modules(shapes), lora_config(lora.file)
    found: dict[str, dict[str, _Tensor]] = defaultdict(dict)
    lacking: list[str] = []
    unknown: list[str] = []
    for tensor in _tensors(lora.file):
        key = tensor.key
        module, part = _split(key)
        if part == "dora":
            raise CheckpointError(
                f"{lora.file}: {key} is of a DoRA, which is not implemented; take a plain LoRA"
            )
        name = modules.get(_PREFIX.sub("", module, count=1))
        if name is not None and part:
            if part in found[name]:
                both = f"{found[name][part].key} and {key}"
                raise CheckpointError(f"{lora.file}: {both} say the same twice; keep one of them")
            found[name][part] = tensor
        else:
            (lacking if _IMAGE.fullmatch(module) else unknown).append(key)
    if unknown or not found:
        some = ", ".join((unknown or lacking)[:_LISTED])
        raise CheckpointError(
            f"{lora.file}: {len(unknown or lacking)} keys are of no module of this model, such as "
            f"{some or 'none at all'}: it is a LoRA of another model, or in a spelling that is "
            "not known"
        )
    if lacking and not quiet:
        warnings.warn(
            f"{lora.file}: {len(lacking)} keys of image modules, which this model lacks, are "
            f"skipped: {', '.join(lacking[:_LISTED])} ...",
            stacklevel=2,
        )
    with named(lora.file):
        config.require_used(name for module in found for name in _names(module))
    for name, parts in found.items():
        yield from _of_module(lora, config, name, parts, shapes)


def _of_module(
    lora: LoRA,
    config: LoRAConfig,
    module: str,
    parts: Mapping[str, _Tensor],
    shapes: Mapping[str, tuple[int, ...]],
) -> Iterator[tuple[str, Delta]]:
    table = module if module.endswith("scale_shift_table") else f"{module}.scale_shift_table"
    weight = f"{module}.weight"
    targets = {"diff": (weight, table), "diff_b": (f"{module}.bias",), "diff_m": (table,)}
    for part, tensor in parts.items():
        if part not in targets:
            continue
        target = next((target for target in targets[part] if target in shapes), None)
        if target is None:
            raise CheckpointError(
                f"{lora.file}: {tensor.key}: this model has no {' or '.join(targets[part])}"
            )
        yield target, Delta(lora.strength, whole=_fitted(lora, tensor, shapes[target], target))
    if not parts.keys() <= targets.keys():
        yield weight, _low_rank(lora, config, weight, parts, shapes)


def _low_rank(
    lora: LoRA,
    config: LoRAConfig,
    target: str,
    parts: Mapping[str, _Tensor],
    shapes: Mapping[str, tuple[int, ...]],
) -> Delta:
    down, up, alpha = (parts.get(part) for part in ("down", "up", "alpha"))
    if down is None or up is None:
        key = next(t.key for t in (down, up, alpha) if t is not None)
        raise CheckpointError(f"{lora.file}: {key} has no counterpart: half of it is missing")
    if target not in shapes:
        raise CheckpointError(f"{lora.file}: {down.key}: this model has no {target}")
    shape, rank = shapes[target], (down.shape or (0,))[0]
    if rank == 0 or up.shape[:2] != (shape[0], rank) or math.prod(up.shape[2:]) != 1:
        raise CheckpointError(
            f"{lora.file}: {up.key} is {list(up.shape)}, expected {[shape[0], rank or 'rank']} for "
            f"{target} {list(shape)} and {down.key} {list(down.shape)}"
        )
    down = _fitted(lora, down, (rank, *shape[1:]), target)
    if alpha is not None and math.prod(alpha.shape) != 1:
        raise CheckpointError(f"{lora.file}: {alpha.key} is {list(alpha.shape)}, expected a number")
    its_own = config.scale(_names(target.removesuffix(".weight")), rank)
    scale = its_own if alpha is None else alpha.read().item() / rank
    return Delta(lora.strength, scale, replace(up, shape=up.shape[:2]), down)


def _fitted(lora: LoRA, tensor: _Tensor, shape: tuple[int, ...], target: str) -> _Tensor:
    """The tensor in the shape of ours.

    A text-to-video LoRA knows the first channels alone of an image-to-video model's patches.
    """
    given = tensor.shape
    if target == "patch_embedding.weight" and len(given) == len(shape):
        others = (given[0], *given[2:]) == (shape[0], *shape[2:])
        if others and given[1] < shape[1]:
            return replace(tensor, shape=shape)
    if given != shape:
        raise CheckpointError(
            f"{lora.file}: {tensor.key} is {list(given)}, expected {list(shape)} for {target}"
        )
    return tensor


def _modules(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Every spelling of a module's name, to diffusers' (a table is a module of its own)."""
    spellings = {}
    for key in shapes:
        module = re.sub(r"\.(weight|bias)$", "", key)
        names = [*_names(module)]
        if key.endswith(".scale_shift_table"):  # `blocks.0.diff_m` is its table's
            names.append(key.removesuffix(".scale_shift_table"))
        for name in names:
            spellings[name] = module
            spellings[name.replace(".", "_")] = module
    return spellings


def _names(module: str) -> tuple[str, str]:
    """Diffusers' and the authors'."""
    return module, renamed(module, _ORIGINAL) or module


def _split(key: str) -> tuple[str, str]:
    """A key's module and part; the part is empty where it is none that is known."""
    for part, end in _ENDS.items():
        if match := re.search(f"{end}$", key):
            return key[: match.start()], part
    return key, ""


def _tensors(file: Path) -> Iterator[_Tensor]:
    files = TensorFiles(file)
    for key in files.keys():  # noqa: SIM118 (no mapping)
        if files.dtype(key) not in DTYPES:
            raise CheckpointError(f"{file}: {key} is {files.dtype(key)}, which cannot be read")
        yield _Tensor(files, key, files.shape(key))
