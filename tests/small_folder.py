"""Small random checkpoint folders with the real structure, written by our own code.

No torch. A run over one takes some hundredths of a second, after seconds of compiling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from tokenizers import Tokenizer, models, pre_tokenizers

from wanjax.checkpoints.layouts.diffusers import transformer as transformer_keys
from wanjax.checkpoints.layouts.diffusers import umt5 as umt5_keys
from wanjax.checkpoints.layouts.diffusers import vae as vae_keys
from wanjax.checkpoints.layouts.names import Rule
from wanjax.checkpoints.mapping import flat_parameters
from wanjax.checkpoints.save import save_model
from wanjax.files import write_json
from wanjax.models.configs import TransformerConfig, UMT5Config, VAEConfig
from wanjax.models.transformer import WanTransformer
from wanjax.models.umt5 import UMT5Encoder
from wanjax.models.vae import WanVAE

Z, TEXT_DIM = 4, 32
WORDS = "a red blue ball square moving left right on the dark light background , ."

RESIDUAL = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12}

# What a run over a small folder needs besides `model=`; arguments of the command line.
SMALL_RUN = [
    "height=32",
    "width=48",
    "num_frames=5",
    "fps=8",
    "num_inference_steps=6",
    "max_sequence_length=16",
    "weights_dtype=float32",
    "activations_dtype=float32",
]


def make_small_folder(
    path: Path,
    *,
    two_experts: bool = True,
    image: bool = False,
    expand: bool = False,
    flow_shift: float = 5.0,
    boundary_ratio: float = 0.8,
) -> Path:
    """Write a text- or image-to-video model with one or two experts to `path`; returns it.

    `expand`: one for both, as Wan 2.2's 5B model, with its form of the VAE.
    """
    transformer = TransformerConfig(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=2 * Z + 4 if image else Z,
        out_channels=Z,
        text_dim=TEXT_DIM,
        freq_dim=32,
        ffn_dim=48,
        num_layers=2,
    )
    experts = ("transformer", "transformer_2")[: 1 + two_experts]
    for seed, name in enumerate(experts):
        _save(WanTransformer, transformer, seed, transformer_keys.RULES, path / name)
    vae = VAEConfig(
        base_dim=4,
        z_dim=Z,
        num_res_blocks=1,
        latents_mean=(0.1, -0.2, 0.3, 0.0),
        latents_std=(1.5, 0.8, 1.0, 1.2),
        **(RESIDUAL if expand else {}),
    )
    _save(WanVAE, vae, 8, vae_keys.rules(vae), path / "vae")
    text = UMT5Config(vocab_size=64, d_model=TEXT_DIM, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    _save(UMT5Encoder, text, 7, umt5_keys.RULES, path / "text_encoder", "model.safetensors")
    _save_tokenizer(path / "tokenizer")
    write_json(path / "scheduler/scheduler_config.json", {"flow_shift": flow_shift})
    components = {name: ["wanjax", name] for name in (*experts, "vae", "text_encoder")}
    index = {
        "_class_name": "WanImageToVideoPipeline" if image else "WanPipeline",
        "boundary_ratio": boundary_ratio if two_experts else None,
        "expand_timesteps": expand,
    }
    write_json(path / "model_index.json", index | components)
    return path


def _save(
    model: Callable[..., nnx.Module],
    config: Any,
    seed: int,
    rules: Sequence[Rule],
    folder: Path,
    filename: str = "diffusion_pytorch_model.safetensors",
) -> None:
    """A model of NumPy noise: initialising one by JAX would compile for minutes."""
    made = nnx.eval_shape(lambda: model(config, rngs=nnx.Rngs(0)))
    noise_parameters(made, seed)
    save_model(made, rules, asdict(config), folder, dtype=np.float32, filename=filename)


def noise_parameters(model: nnx.Module, seed: int) -> None:
    """Give every parameter of an abstract model noise for values."""
    rng = np.random.default_rng(seed)
    for path, variable in flat_parameters(nnx.state(model)):
        variable.set_value(_noise(path, variable.get_value().shape, rng))


def _noise(path: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Noise of a size that keeps activations in range, with no scale or bias trivial."""
    noise = rng.normal(size=shape)
    if path.endswith(".kernel"):
        inputs = shape[-2] if len(shape) < 4 else np.prod(shape[:-1])  # linear, convolution
        return noise * inputs**-0.5
    is_scale = path.endswith((".scale", ".gamma", "norm.weight"))
    return 1 + 0.2 * noise if is_scale else 0.3 * noise


def _save_tokenizer(folder: Path) -> None:
    pieces = ["<pad>", "</s>", "<s>", "<unk>", "▁", *(f"▁{word}" for word in WORDS.split())]
    vocabulary = [(piece, -float(i)) for i, piece in enumerate(pieces)]
    vocabulary += [(letter, -50.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
