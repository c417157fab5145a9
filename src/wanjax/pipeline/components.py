"""The parts of a model: loaded from its folder, kept on the device, rested on the host, freed."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from wanjax.checkpoints.folder import Folder, LoadReport
from wanjax.checkpoints.hub import download
from wanjax.checkpoints.load import Reading
from wanjax.checkpoints.locate import locate
from wanjax.checkpoints.lora_live import united
from wanjax.checkpoints.loras import LoRA, expert_loras
from wanjax.checkpoints.presence import needed, presence, require_weights
from wanjax.checkpoints.published_models import ModelConfigs, listed, published
from wanjax.config.keys import Config
from wanjax.errors import CheckpointError, UsageError
from wanjax.media.clip_processor import ImageProcessor
from wanjax.media.tokenizer import Tokenizer
from wanjax.models.clip import CLIPVisionModel
from wanjax.models.kernels.choose import DeviceKind, KernelChoice
from wanjax.models.transformer import WanTransformer
from wanjax.models.umt5 import UMT5Encoder
from wanjax.models.vae import WanVAE
from wanjax.parallel.layouts import laid_out
from wanjax.pipeline.preview import Preview
from wanjax.planning.placement import Place

Part = TypeVar("Part")
SMALL = ("tokenizer", "image_processor")  # parts without weights
LoadProgress = Callable[[LoadReport], None]


class Components:
    """The parts of one model folder, each loaded once, when it is first asked for.

    On a mesh each device loads and holds its own part of the parameters. `rest` moves a part's
    parameters to the host until it is asked for again, `free` forgets it altogether. Raises
    `CheckpointError` for a folder or file that does not hold the model.
    """

    def __init__(self, folder: Folder, config: Config, mesh: Mesh | None = None):
        self.mesh = mesh
        self.folder = folder = replace(folder, progress=self._tell)
        self.transformer_config = folder.transformer_config()
        self.vae_config = folder.vae_config()
        self._loras: tuple[list[LoRA], ...] = self._loras_of(config)
        self._form = folder.lora_form(self._loras)
        self.rounding = folder.rounding(config.quantize, keep=config.weights == "keep")
        self._outdated: dict[str, list[LoRA]] = {}  # of resting experts: the LoRAs that they have
        self._load = self._loaders(folder, config)
        # of all parts, before anything large is read of one; those without weights are kept
        self.readings: dict[str, Reading] = {}
        self._parts: dict[str, Any] = {}
        if (checking := folder.checking()) is not None:
            checking.model_configs()
            checked = {name: load() for name, load in self._loaders(checking, config).items()}
            self._parts = {name: checked[name] for name in SMALL if name in checked}
            self.readings = checking.readings
        self.read_bytes = 0  # of the parts that have been loaded, in numbers as they are read
        self._progress: LoadProgress | None = None
        fit = folder.path / "vae/preview.json"
        self.preview = Preview.load(fit) if fit.exists() else None  # of latents, without the VAE
        self._resting: dict[str, Any] = {}  # and where the parameters lay on the mesh
        self._arriving: set[str] = set()  # of the resting: some parameters are on the device
        # a part that has rested rests again at once, by what stayed on the host; on a CPU, whose
        # devices compute in the same memory, that would be a second copy for nothing
        self.keeps_copies = jax.devices()[0].platform != "cpu"
        self._copies: dict[str, Any] = {}
        # taking a model apart takes as long as a tenth of a small one's step: once
        self._graphs: dict[str, nnx.GraphDef[Any]] = {}
        self._plain: dict[str, dict[str, Any]] = {}  # of parameters, while they stay

    def _loaders(self, folder: Folder, config: Config) -> dict[str, Callable[[], Any]]:
        """What loads each part, by its name."""
        mesh, dtype = self.mesh, jnp.dtype(config.weights_dtype)
        device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
        kernel = KernelChoice(DeviceKind.of(device), config.attention)
        loaders: dict[str, Callable[[], Any]] = {
            "tokenizer": folder.load_tokenizer,
            "text_encoder": lambda: folder.load_text_encoder(dtype=dtype, mesh=mesh),
            "vae": lambda: folder.load_vae(mesh=mesh, kernel=kernel),
        }
        load_expert = partial(folder.load_transformer, dtype=dtype, kernel=kernel, mesh=mesh)
        self._change_loras = partial(folder.change_loras, dtype=dtype, mesh=mesh)
        for number, name in enumerate(folder.experts):
            loaders[name] = partial(self._load_expert, load_expert, number)
        if self.transformer_config.image_dim is not None:
            loaders["image_processor"] = folder.load_image_processor
            loaders["image_encoder"] = lambda: folder.load_image_encoder(
                dtype=dtype, mesh=mesh, kernel=kernel
            )
        return loaders

    @classmethod
    def of(cls, config: Config, mesh: Mesh | None = None) -> Components:
        """Of the configuration's model, which is downloaded where it is a Hub id."""
        assert config.model is not None
        path, parts = locate(config.model), config.parts
        if path is None and presence(config.model, parts, config.revision).folder is None:
            known = published().get(str(listed(config.model)))
            if known is not None and needed(known.index) <= parts.keys():
                place = Path(config.model)  # of which nothing is read
                return cls(Folder(place, known.index, None, parts, known.components), config, mesh)
        if path is None:
            path = download(
                config.model,
                revision=config.revision,
                quiet=config.quiet,
                without=parts.keys(),
            )
        folder = Folder.open(path, parts)
        require_weights(path, parts.keys())
        if other := parts.keys() - needed(folder.index):
            raise CheckpointError(f"{min(other)}={parts[min(other)]}: this model has no such part")
        return cls(folder, config, mesh)

    def take_loras(self, config: Config) -> None:
        """Have the live LoRAs of a configuration, with its strengths.

        Nothing is loaded again but what they change, and nothing compiled anew where they need no
        more room than those before. Raises `UsageError` for a change of those that were merged
        into the weights, and `CheckpointError` for what does not fit the model.
        """
        loras = self._loras_of(config)
        if loras == self._loras:
            return
        for before, after in zip(self._loras, loras, strict=True):
            merged, asked = ([lora for lora in its if not lora.live] for its in (before, after))
            if merged != asked:
                named = ", ".join(map(str, merged)) or "none"
                raise UsageError(
                    f"lora: those merged into the weights that are loaded ({named}) cannot change; "
                    "load the model again, or give those that change as FILE:STRENGTH:live"
                )
        form = self.folder.lora_form(loras)
        form = united(form, self._form) if form else form
        for name, its_own in zip(self.folder.experts, loras, strict=True):
            self.folder.check_loras(name, its_own, form)
        before_all, self._loras = self._loras, loras
        if form != self._form:
            self._form = form
            self._graphs.clear()
            for name in {*self._resting} & {*self.folder.experts}:
                self.free(name)
        for name, its_own in zip(self.folder.experts, before_all, strict=True):
            if name in self._parts:
                self._outdated.setdefault(name, its_own)
                if name not in self._resting:
                    self._update(name)

    def _loras_of(self, config: Config) -> tuple[list[LoRA], ...]:
        given = (config.lora, config.lora_high, config.lora_low)
        return expert_loras(*given, len(self.folder.experts))

    def _load_expert(self, load: Callable[..., WanTransformer], number: int) -> WanTransformer:
        form, rounding = self._form, self.rounding
        return load(
            self.folder.experts[number], loras=self._loras[number], form=form, rounding=rounding
        )

    def _update(self, name: str) -> None:
        """Give an expert on the device the LoRAs that it should have."""
        loras = self._outdated.pop(name), self._loras[self.folder.experts.index(name)]
        self._plain.pop(name, None)
        self._copies.pop(name, None)  # of what it was
        part, form, rounding = self._parts[name], self._form, self.rounding
        self._parts[name] = self._change_loras(part, name, loras, form, rounding)

    def model_configs(self) -> ModelConfigs:
        """All components' configurations, and what is kept in eight bits or fewer."""
        return replace(self.folder.model_configs(), kept=self.rounding)

    @property
    def names(self) -> tuple[str, ...]:
        """The parts that this model has."""
        return tuple(self._load)

    def load(
        self,
        places: Mapping[str, Place] | None = None,
        progress: LoadProgress | None = None,
    ) -> None:
        """Load all parts that are not here yet: to the device, or where `places` says.

        Small parts come first, of the others those that wait on the host, by way of the device.
        `progress` is told what is loaded, piece by piece.
        """
        places = places or {}
        wanted = [name for name in self._load if places.get(name) != "files"]
        wanted.sort(key=lambda name: (name in places, places.get(name) != "pinned_host"))
        self._progress = progress
        try:
            for name in wanted:
                self._part(name, object)
                if places.get(name) == "pinned_host":
                    self.rest(name)
        finally:
            self._progress = None

    def _tell(self, report: LoadReport) -> None:
        if report.bytes == report.total:
            self.read_bytes += report.total
        if self._progress is not None:
            self._progress(report)

    def arrange(self, places: Mapping[str, Place]) -> None:
        """Send to the host what has its place there; others come when they are asked for."""
        for name, place in places.items():
            if place == "pinned_host":
                self.rest(name)

    def rest(self, name: str) -> None:
        """Move a part's parameters to the host's memory, until it is asked for again.

        On return the device has its memory back, for whatever comes instead. They stay in the
        host's memory, too, when they come back: to take that of the system anew takes longer
        than to move them (half a minute for an expert of 14B).
        """
        if name not in self._parts or (name in self._resting and name not in self._arriving):
            return
        if name not in self._resting:
            parameters = nnx.state(self._parts[name])
            self._resting[name] = jax.tree.map(_place, parameters)
        self._arriving.discard(name)

        def leave(parameters: Any) -> Any:
            there = self._copies.get(name)
            if there is None:
                there = jax.block_until_ready(_all_on_host(parameters))
            if self.keeps_copies:
                self._copies[name] = there
            return jax.tree.map(_same, there)

        self._move(name, leave)

    def expect(self, name: str, room: int) -> None:
        """Let a resting part's parameters come, as many as fit `room` bytes of each device.

        They arrive while the device computes; the part still counts as resting.
        """
        if name not in self._resting or name in self._arriving:
            return
        self._arriving.add(name)

        def fetch(x: jax.Array, place: Any) -> jax.Array:
            nonlocal room
            size = math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
            if size > room:
                return x
            room -= size
            fetched: jax.Array = jax.device_put(x, place)
            return fetched

        self._move(name, lambda parameters: jax.tree.map(fetch, parameters, self._resting[name]))

    def free(self, name: str) -> None:
        """Forget a part; asked for again, it is loaded from its files."""
        parts = (self._parts, self._resting, self._copies)
        for known in (*parts, self._graphs, self._plain, self._outdated):
            known.pop(name, None)
        self._arriving.discard(name)

    def where(self, name: str) -> str:
        """`device`, `host` (resting) or `files` (not loaded)."""
        if name not in self._parts:
            return "files"
        return "host" if name in self._resting else "device"

    def on_device(self, name: str) -> nnx.Module | None:
        """A model whose parameters are there now."""
        return self._parts[name] if self.where(name) == "device" else None

    @property
    def tokenizer(self) -> Tokenizer:
        return self._part("tokenizer", Tokenizer)

    @property
    def text_encoder(self) -> UMT5Encoder:
        return self._part("text_encoder", UMT5Encoder)

    @property
    def vae(self) -> WanVAE:
        return self._part("vae", WanVAE)

    def expert(self, number: int) -> WanTransformer:
        """0: for high noise, 1: for low noise."""
        return self._part(self.folder.experts[number], WanTransformer)

    def parameters(self, number: int) -> dict[str, Any]:
        """Those of an expert, on the device, as a plain dict of arrays."""
        expert, name = self.expert(number), self.folder.experts[number]
        if name not in self._plain:
            self._plain[name] = nnx.to_pure_dict(nnx.state(expert))
        return self._plain[name]

    @property
    def transformers(self) -> tuple[WanTransformer, ...]:
        """The experts: high noise, low noise."""
        return tuple(self._part(name, WanTransformer) for name in self.folder.experts)

    @property
    def image_processor(self) -> ImageProcessor:
        return self._part("image_processor", ImageProcessor)

    @property
    def image_encoder(self) -> CLIPVisionModel | None:
        """CLIP, of models that attend to an image's embeddings (Wan 2.1 image to video)."""
        if "image_encoder" not in self._load:
            return None
        return self._part("image_encoder", CLIPVisionModel)

    def graph(self, name: str) -> nnx.GraphDef[Any]:
        """A part's structure, wherever its parameters are."""
        if name not in self._graphs:
            if name not in self._parts:
                self._part(name, object)
            self._graphs[name] = nnx.graphdef(self._parts[name])
        return self._graphs[name]

    def _part(self, name: str, kind: type[Part]) -> Part:
        if name not in self._parts:
            self._parts[name] = self._load[name]()
        elif name in self._resting:
            self._move(name, partial(jax.device_put, device=self._resting.pop(name)))
            self._arriving.discard(name)
            if name in self._outdated:
                self._update(name)
        part = self._parts[name]
        assert isinstance(part, kind)
        return part

    def _move(self, name: str, move: Callable[[Any], Any]) -> None:
        self._plain.pop(name, None)  # else the device would keep them
        graph, parameters = nnx.split(self._parts[name])
        self._parts[name] = nnx.merge(graph, move(parameters))
        del parameters
        gc.collect()  # flax from 0.12.12 on keeps what it takes apart in circles


def _place(x: jax.Array) -> Any:
    """Where a parameter is, to which it can return."""
    return laid_out(x.shape, x.dtype, x.sharding)


def _same(x: jax.Array) -> jax.Array:
    """Of a tree: other containers, the same arrays."""
    return x


def _all_on_host(parameters: Any) -> Any:
    """In memory of the host that devices fetch from by themselves."""
    places = jax.tree.map(lambda x: x.sharding.with_memory_kind("pinned_host"), parameters)
    return jax.device_put(parameters, places)
