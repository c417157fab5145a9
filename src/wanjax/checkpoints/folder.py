"""A checkpoint folder, or parts from here and there: which models it has, and loading each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike

from wanjax.checkpoints.configs import model_configs
from wanjax.checkpoints.kept import WHOLE, Quantize, Rounding, as_files_have, every_layer
from wanjax.checkpoints.layouts.diffusers import clip as clip_keys
from wanjax.checkpoints.layouts.diffusers import transformer as transformer_keys
from wanjax.checkpoints.layouts.diffusers import umt5 as umt5_keys
from wanjax.checkpoints.layouts.diffusers import vae as vae_keys
from wanjax.checkpoints.layouts.names import Rule
from wanjax.checkpoints.layouts.original.folder import original_folder
from wanjax.checkpoints.layouts.recognise import part_files
from wanjax.checkpoints.load import NOTHING, Reading, check_files, load_parameters
from wanjax.checkpoints.locate import ModelIndex, parse
from wanjax.checkpoints.lora_live import (
    PLAIN,
    Form,
    LiveFiles,
    changed,
    form_of,
    live_form,
    take_form,
)
from wanjax.checkpoints.lora_merge import MergedFiles
from wanjax.checkpoints.loras import LoRA
from wanjax.checkpoints.mapping import Entry, entries
from wanjax.checkpoints.published_models import ModelConfigs
from wanjax.checkpoints.rounding import RoundedFiles, take_rounding
from wanjax.checkpoints.tensor_files import TensorFiles
from wanjax.errors import CheckpointError
from wanjax.media.clip_processor import ImageProcessor
from wanjax.media.tokenizer import Tokenizer
from wanjax.models.attention import AttentionKernel
from wanjax.models.clip import CLIPVisionModel
from wanjax.models.configs import CLIPVisionConfig, TransformerConfig, UMT5Config, VAEConfig
from wanjax.models.layers import Undrawn
from wanjax.models.transformer import WanTransformer
from wanjax.models.umt5 import UMT5Encoder
from wanjax.models.vae import WanVAE
from wanjax.validation import Parsed, named

Model = TypeVar("Model", bound=nnx.Module)


NO_PARTS: Mapping[str, Path] = {}


@dataclass(frozen=True)
class Loadable(Generic[Model]):
    """What loading a part takes: its name, what makes the model, the rules and the files.

    `files` are opened, and the model is made, when they are asked for. Parameters become `dtype`
    where their layer does not say otherwise, on `mesh`; `unused` are keys nobody reads, and why.
    """

    name: str
    make: Callable[[], Model]
    rules: Sequence[Rule]
    files: Callable[[], TensorFiles]
    dtype: DTypeLike = jnp.float32
    mesh: Mesh | None = None
    unused: Mapping[str, str] = field(default_factory=lambda: NOTHING)


class LoadReport(NamedTuple):
    """How far a part of a model is loaded; `part` is its name, as `transformer_2`."""

    part: str
    bytes: int  # of `total`, read and in their place
    total: int  # what this process reads


@dataclass(frozen=True)
class Folder:
    """`path` with what its index says; `progress` is told of all that is loaded.

    `parts` says where parts lie that are given apart from the folder, `own` where the folder has
    those that are in none of their name. `configs` are the components' configurations of a folder
    without their files.
    """

    path: Path
    index: ModelIndex
    progress: Callable[[LoadReport], None] | None = None
    parts: Mapping[str, Path] = field(default_factory=dict)
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    own: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, parts: Mapping[str, Path] = NO_PARTS) -> Folder:
        """In diffusers' or the authors' layout, with some `parts` from elsewhere.

        Raises `CheckpointError` if `path` is not the folder of a Wan pipeline.
        """
        if not path.is_dir():
            raise CheckpointError(f"model={str(path)!r}: no such folder")
        if (original := original_folder(path)) is not None:
            configs = original.configs
            return cls(path, configs.index, None, parts, configs.components, original.files)
        return cls(path, parse(ModelIndex, path / "model_index.json"), parts=parts)

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the transformers: high noise, then low noise."""
        return ("transformer", "transformer_2")[: self.index.num_experts]

    def place(self, name: str) -> Path:
        """The folder or file of a part."""
        return {name: self.path / name, **self.own, **self.parts}[name]

    def checking(self) -> Checking | None:
        """What reads headers alone; None where there are no files."""
        return Checking(self.path, self.index, None, self.parts, self.configs, self.own)

    def model_configs(self) -> ModelConfigs:
        """All components' configurations as their files have them."""
        if self.configs:
            return ModelConfigs(self.index, self.configs)
        return model_configs(str(self.path))

    def transformer_config(self, name: str = "transformer") -> TransformerConfig:
        return self._config(TransformerConfig, name)

    def vae_config(self) -> VAEConfig:
        return self._config(VAEConfig, "vae")

    def load_transformer(
        self,
        name: str,
        *,
        dtype: DTypeLike = jnp.bfloat16,
        kernel: AttentionKernel = "auto",
        mesh: Mesh | None = None,
        loras: Sequence[LoRA] = (),
        form: Form = PLAIN,
        rounding: Rounding = WHOLE,
    ) -> WanTransformer:
        """One of `experts`, with LoRAs merged into its weights, or kept apart in `form`.

        Of its linear layers those of `rounding` are kept in eight bits or fewer.
        """
        return self._load(
            Loadable(
                name,
                lambda: self._transformer(name, form, rounding, kernel),
                transformer_keys.RULES,
                lambda: self._transformer_files(name, loras, form, rounding),
                dtype=dtype,
                mesh=mesh,
                unused=transformer_keys.UNUSED,
            )
        )

    def rounding(self, quantize: Quantize | None, *, keep: bool = False) -> Rounding:
        """How the linear layers of all experts are kept; `keep`: as their files have them.

        Raises `CheckpointError` where there is nothing to keep.
        """
        if quantize is not None:
            return every_layer(quantize)
        if not keep:
            return WHOLE
        files = [self._files(name, self.transformer_config(name)) for name in self.experts]
        found = as_files_have(files)
        if not found:
            places = " and ".join(str(of.place) for of in files)
            raise CheckpointError(
                f"weights=keep: {places} has no matrix of the blocks in eight bits or fewer that "
                "can be kept; leave it out, or let quantize=int8 round them"
            )
        return found

    def lora_form(self, loras: Sequence[Sequence[LoRA]]) -> Form:
        """What has room for the live ones among each expert's LoRAs; reads them alone."""
        if not any(lora.live for its_own in loras for lora in its_own):
            return PLAIN
        return live_form(self._entries("transformer"), loras)

    def check_loras(self, name: str, loras: Sequence[LoRA], form: Form = PLAIN) -> None:
        """Raise `CheckpointError` for LoRAs that do not fit a transformer; reads them alone."""
        self._transformer_files(name, loras, form, WHOLE)

    def change_loras(
        self,
        model: WanTransformer,
        name: str,
        loras: tuple[Sequence[LoRA], Sequence[LoRA]],
        form: Form,
        rounding: Rounding = WHOLE,
        *,
        dtype: DTypeLike,
        mesh: Mesh | None,
    ) -> WanTransformer:
        """An expert with other live LoRAs: `loras` are those before, and those from now on.

        No weight is read again that these do not change.
        """
        before, after = ([lora.file for lora in its_own if lora.live] for its_own in loras)
        same = before == after and form_of(model) == form
        files = RoundedFiles(
            self._transformer_files(name, loras[1], form, WHOLE),
            rounding,
            self._entries(name, form, rounding),
        )
        remade = set().union(*(self._remade(name, its_own, form) for its_own in loras))
        remade |= {scale for scale, weight in files.weights.items() if weight in remade}
        return load_parameters(
            take_form(model, form),
            transformer_keys.RULES,
            files,
            dtype=dtype,
            mesh=mesh,
            unused=transformer_keys.UNUSED,
            only=changed(remade, strengths_alone=same),
        )

    def _remade(self, name: str, loras: Sequence[LoRA], form: Form) -> set[str]:
        """The tensors that live LoRAs are merged into nevertheless."""
        found = self._files(name, self.transformer_config(name))
        return LiveFiles(found, loras, self._entries(name, form)).remade

    def _transformer(
        self, name: str, form: Form, rounding: Rounding, kernel: AttentionKernel = "auto"
    ) -> WanTransformer:
        """Abstract."""
        model = WanTransformer(self.transformer_config(name), kernel=kernel, rngs=Undrawn())
        return take_rounding(take_form(model, form), rounding)

    def _entries(self, name: str, form: Form = PLAIN, rounding: Rounding = WHOLE) -> list[Entry]:
        model = self._transformer(name, form, rounding)
        return entries(nnx.state(model), transformer_keys.RULES)

    def _transformer_files(
        self, name: str, loras: Sequence[LoRA], form: Form, rounding: Rounding
    ) -> TensorFiles:
        files = self._files(name, self.transformer_config(name))
        if form:
            files = LiveFiles(files, loras, self._entries(name, form))
        elif loras:
            files = MergedFiles(files, loras)
        if rounding:
            files = RoundedFiles(files, rounding, self._entries(name, form, rounding))
        return files

    def load_vae(self, *, mesh: Mesh | None = None, kernel: AttentionKernel = "auto") -> WanVAE:
        """The VAE, always in float32."""
        config = self.vae_config()
        return self._load(
            Loadable(
                "vae",
                lambda: WanVAE(config, kernel=kernel, rngs=Undrawn()),
                vae_keys.rules(config),
                lambda: self._files("vae", config),
                mesh=mesh,
            )
        )

    def load_text_encoder(
        self, *, dtype: DTypeLike = jnp.bfloat16, mesh: Mesh | None = None
    ) -> UMT5Encoder:
        config = self._config(UMT5Config, "text_encoder")
        return self._load(
            Loadable(
                "text_encoder",
                lambda: UMT5Encoder(config, rngs=Undrawn()),
                umt5_keys.RULES,
                lambda: self._files("text_encoder", config),
                dtype=dtype,
                mesh=mesh,
            )
        )

    def load_image_encoder(
        self,
        *,
        dtype: DTypeLike = jnp.float32,
        mesh: Mesh | None = None,
        kernel: AttentionKernel = "auto",
    ) -> CLIPVisionModel:
        """Of Wan 2.1 image to video."""
        config = self._config(CLIPVisionConfig, "image_encoder")
        return self._load(
            Loadable(
                "image_encoder",
                lambda: CLIPVisionModel(config, kernel=kernel, rngs=Undrawn()),
                clip_keys.RULES,
                lambda: self._files("image_encoder", config),
                dtype=dtype,
                mesh=mesh,
                unused=clip_keys.unused(config.num_hidden_layers),
            )
        )

    def load_image_processor(self) -> ImageProcessor:
        if self.configs:  # its values are the published ones
            return ImageProcessor()
        return parse(ImageProcessor, self.path / "image_processor/preprocessor_config.json")

    def load_tokenizer(self) -> Tokenizer:
        """Raises `CheckpointError` for one with ids that the text encoder does not know."""
        tokenizer = Tokenizer(self.place("tokenizer"))
        known = self._config(UMT5Config, "text_encoder").vocab_size
        if (largest := tokenizer.largest_id) >= known:
            raise CheckpointError(
                f"{self.place('tokenizer')}: has ids up to {largest}, and the text encoder's "
                f"vocab_size is {known}: they do not belong together"
            )
        return tokenizer

    def _config(self, kind: type[Parsed], name: str) -> Parsed:
        if not self.configs:
            return parse(kind, self.path / name / "config.json")
        with named(self.path / name / "config.json"):
            return kind.from_dict(self.configs[name])

    def _files(self, name: str, config: Any) -> TensorFiles:
        """Raises `CheckpointError` for FP8 without scales, unless its file was asked for."""
        files = part_files(name, self.place(name), config)
        if name not in self.parts and (bare := files.bare):
            raise CheckpointError(
                f"{bare.file}: {bare.key} is {bare.dtype}, and no tensor there has a scale. No "
                "model's folder is published so: its scales may be lost. If there never were any, "
                f"{name}={files.place} reads such numbers as they are"
            )
        return files

    def _load(self, part: Loadable[Model]) -> Model:
        def report(done: int, total: int) -> None:
            if self.progress is not None:
                self.progress(LoadReport(part.name, done, total))

        return load_parameters(
            part.make(),
            part.rules,
            part.files(),
            dtype=part.dtype,
            mesh=part.mesh,
            unused=part.unused,
            report=report,
        )


@dataclass(frozen=True)
class Checking(Folder):
    """Loads no parameter: models have shapes alone. `readings` says what would be read."""

    readings: dict[str, Reading] = field(default_factory=dict)

    def _load(self, part: Loadable[Model]) -> Model:
        model = part.make()
        self.readings[part.name] = check_files(model, part.rules, part.files(), part.unused)
        return model
