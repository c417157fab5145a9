"""A checkpoint folder in the layout of diffusers: which models it has, and loading each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike

from wanjax.checkpoints.configs import ModelConfigs, model_configs
from wanjax.checkpoints.layouts.diffusers import clip as clip_keys
from wanjax.checkpoints.layouts.diffusers import transformer as transformer_keys
from wanjax.checkpoints.layouts.diffusers import umt5 as umt5_keys
from wanjax.checkpoints.layouts.diffusers import vae as vae_keys
from wanjax.checkpoints.load import load_parameters
from wanjax.checkpoints.locate import ModelIndex, parse
from wanjax.checkpoints.lora_merge import MergedFiles
from wanjax.checkpoints.loras import LoRA
from wanjax.checkpoints.mapping import Rule
from wanjax.checkpoints.tensor_files import TensorFiles
from wanjax.errors import CheckpointError
from wanjax.media.clip_processor import ImageProcessor
from wanjax.media.tokenizer import Tokenizer
from wanjax.models.attention import AttentionKernel
from wanjax.models.clip import CLIPVisionConfig, CLIPVisionModel
from wanjax.models.layers import Undrawn
from wanjax.models.transformer import TransformerConfig, WanTransformer
from wanjax.models.umt5 import UMT5Config, UMT5Encoder
from wanjax.models.vae import VAEConfig, WanVAE
from wanjax.validation import Parsed

Model = TypeVar("Model", bound=nnx.Module)


class LoadReport(NamedTuple):
    """How far a part of a model is loaded; `part` is the name of its folder."""

    part: str
    bytes: int  # of `total`, read and in their place
    total: int  # what this process reads


@dataclass(frozen=True)
class Folder:
    """`path` with what its `model_index.json` says; `progress` is told of all that is loaded."""

    path: Path
    index: ModelIndex
    progress: Callable[[LoadReport], None] | None = None

    @classmethod
    def open(cls, path: Path) -> Folder:
        """Raises `CheckpointError` if `path` is not the folder of a Wan pipeline."""
        if not path.is_dir():
            raise CheckpointError(f"model={str(path)!r}: no such folder")
        return cls(path, parse(ModelIndex, path / "model_index.json"))

    @property
    def experts(self) -> tuple[str, ...]:
        """Folders of the transformers: high noise, then low noise."""
        return ("transformer", "transformer_2")[: self.index.num_experts]

    def model_configs(self) -> ModelConfigs:
        """All components' configurations as their files have them."""
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
    ) -> WanTransformer:
        """One of `experts`, with LoRAs merged into its weights."""
        config = self.transformer_config(name)
        return self._load(
            lambda: WanTransformer(config, kernel=kernel, rngs=Undrawn()),
            transformer_keys.RULES,
            lambda: self._transformer_files(name, loras),
            dtype=dtype,
            mesh=mesh,
            unused=transformer_keys.UNUSED,
        )

    def check_loras(self, name: str, loras: Sequence[LoRA]) -> None:
        """Raise `CheckpointError` for LoRAs that do not fit a transformer; reads them alone."""
        self._transformer_files(name, loras)

    def _transformer_files(self, name: str, loras: Sequence[LoRA]) -> TensorFiles:
        return MergedFiles(self.path / name, loras) if loras else TensorFiles(self.path / name)

    def load_vae(self, *, mesh: Mesh | None = None, kernel: AttentionKernel = "auto") -> WanVAE:
        """The VAE, always in float32."""
        config = self.vae_config()
        return self._load(
            lambda: WanVAE(config, kernel=kernel, rngs=Undrawn()),
            vae_keys.rules(config),
            lambda: TensorFiles(self.path / "vae"),
            mesh=mesh,
        )

    def load_text_encoder(
        self, *, dtype: DTypeLike = jnp.bfloat16, mesh: Mesh | None = None
    ) -> UMT5Encoder:
        config = self._config(UMT5Config, "text_encoder")
        return self._load(
            lambda: UMT5Encoder(config, rngs=Undrawn()),
            umt5_keys.RULES,
            lambda: TensorFiles(self.path / "text_encoder", umt5_keys.ALIASES),
            dtype=dtype,
            mesh=mesh,
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
            lambda: CLIPVisionModel(config, kernel=kernel, rngs=Undrawn()),
            clip_keys.RULES,
            lambda: TensorFiles(self.path / "image_encoder", prefix=clip_keys.PREFIX),
            dtype=dtype,
            mesh=mesh,
            unused=clip_keys.unused(config.num_hidden_layers),
        )

    def load_image_processor(self) -> ImageProcessor:
        return parse(ImageProcessor, self.path / "image_processor/preprocessor_config.json")

    def load_tokenizer(self) -> Tokenizer:
        return Tokenizer(self.path / "tokenizer")

    def _config(self, kind: type[Parsed], name: str) -> Parsed:
        return parse(kind, self.path / name / "config.json")

    def _load(
        self,
        make: Callable[[], Model],
        rules: Sequence[Rule],
        files: Callable[[], TensorFiles],
        *,
        dtype: DTypeLike = jnp.float32,
        mesh: Mesh | None = None,
        unused: Sequence[str] = (),
    ) -> Model:
        found = files()

        def report(done: int, total: int) -> None:
            if self.progress is not None:
                self.progress(LoadReport(found.folder.name, done, total))

        return load_parameters(
            make(), rules, found, dtype=dtype, mesh=mesh, unused=unused, report=report
        )
