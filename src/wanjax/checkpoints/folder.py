"""A checkpoint folder in the layout of diffusers: which models it has, and loading each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from wanjax.checkpoints.layouts.diffusers import clip as clip_keys
from wanjax.checkpoints.layouts.diffusers import transformer as transformer_keys
from wanjax.checkpoints.layouts.diffusers import umt5 as umt5_keys
from wanjax.checkpoints.layouts.diffusers import vae as vae_keys
from wanjax.checkpoints.load import TensorFiles, load_parameters
from wanjax.checkpoints.locate import read_json
from wanjax.checkpoints.mapping import Rule
from wanjax.errors import CheckpointError
from wanjax.media.clip_processor import ImageProcessor
from wanjax.media.tokenizer import Tokenizer
from wanjax.models.attention import AttentionKernel
from wanjax.models.clip import CLIPVisionConfig, CLIPVisionModel
from wanjax.models.transformer import TransformerConfig, WanTransformer
from wanjax.models.umt5 import UMT5Config, UMT5Encoder
from wanjax.models.vae import VAEConfig, WanVAE

Model = TypeVar("Model", bound=nnx.Module)
Parsed = TypeVar("Parsed")

PIPELINE_CLASSES = ("WanPipeline", "WanImageToVideoPipeline")


@dataclass(frozen=True)
class Folder:
    """`path` with its parsed `model_index.json`."""

    path: Path
    index: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> Folder:
        """Raises `CheckpointError` if `path` is not the folder of a Wan pipeline."""
        if not path.is_dir():
            raise CheckpointError(f"model={str(path)!r}: no such folder")
        index = read_json(path / "model_index.json")
        name = index.get("_class_name")
        if name not in PIPELINE_CLASSES:
            raise CheckpointError(
                f"{path / 'model_index.json'}: _class_name is {name!r}, expected one of "
                + ", ".join(PIPELINE_CLASSES)
            )
        return cls(path, index)

    @property
    def experts(self) -> tuple[str, ...]:
        """Folders of the transformers: high noise, then low noise."""
        return tuple(name for name in ("transformer", "transformer_2") if self.has(name))

    def has(self, component: str) -> bool:
        """Whether the index lists the component (old ones leave it out, or say null)."""
        return bool((self.index.get(component) or [None])[0])

    def transformer_config(self, name: str = "transformer") -> TransformerConfig:
        return self._parsed(TransformerConfig.from_dict, name)

    def vae_config(self) -> VAEConfig:
        return self._parsed(VAEConfig.from_dict, "vae")

    def _config(self, component: str, file: str = "config.json") -> dict[str, Any]:
        return read_json(self.path / component / file)

    def _parsed(self, from_dict: Callable[[dict[str, Any]], Parsed], component: str) -> Parsed:
        """The component's configuration; one of another architecture is a `CheckpointError`."""
        values = self._config(component)
        try:
            return from_dict(values)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{self.path / component}: {error}") from error

    def load_transformer(
        self,
        name: str,
        *,
        dtype: jnp.dtype = jnp.bfloat16,
        kernel: AttentionKernel = "auto",
        mesh: Mesh | None = None,
    ) -> WanTransformer:
        config = self.transformer_config(name)
        return _load(
            lambda: WanTransformer(config, kernel=kernel, rngs=nnx.Rngs(0)),
            transformer_keys.RULES,
            TensorFiles(self.path / name),
            dtype=dtype,
            mesh=mesh,
            unused=transformer_keys.UNUSED,
        )

    def load_vae(self) -> WanVAE:
        """The VAE, always in float32."""
        config = self.vae_config()
        files = TensorFiles(self.path / "vae")
        return _load(lambda: WanVAE(config, rngs=nnx.Rngs(0)), vae_keys.RULES, files)

    def load_text_encoder(
        self, *, dtype: jnp.dtype = jnp.bfloat16, mesh: Mesh | None = None
    ) -> UMT5Encoder:
        config = self._parsed(UMT5Config.from_dict, "text_encoder")
        return _load(
            lambda: UMT5Encoder(config, rngs=nnx.Rngs(0)),
            umt5_keys.RULES,
            TensorFiles(self.path / "text_encoder", umt5_keys.ALIASES),
            dtype=dtype,
            mesh=mesh,
        )

    def load_image_encoder(self, *, dtype: jnp.dtype = jnp.float32) -> CLIPVisionModel:
        """Of Wan 2.1 image to video."""
        config = self._parsed(CLIPVisionConfig.from_dict, "image_encoder")
        return _load(
            lambda: CLIPVisionModel(config, rngs=nnx.Rngs(0)),
            clip_keys.RULES,
            TensorFiles(self.path / "image_encoder", prefix=clip_keys.PREFIX),
            dtype=dtype,
            unused=clip_keys.unused(config.num_hidden_layers),
        )

    def load_image_processor(self) -> ImageProcessor:
        values = self._config("image_processor", "preprocessor_config.json")
        return ImageProcessor.from_dict(values)

    def load_tokenizer(self) -> Tokenizer:
        try:
            return Tokenizer(self.path / "tokenizer")
        except (OSError, ValueError) as error:
            raise CheckpointError(str(error)) from error


def _load(
    make: Callable[[], Model],
    rules: Sequence[Rule],
    files: TensorFiles,
    *,
    dtype: jnp.dtype = jnp.float32,
    mesh: Mesh | None = None,
    unused: Sequence[str] = (),
) -> Model:
    return load_parameters(
        nnx.eval_shape(make), rules, files, dtype=dtype, mesh=mesh, unused=unused
    )
