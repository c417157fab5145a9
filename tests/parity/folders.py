"""Small checkpoint folders with the real structure, written by the reference implementation."""

from __future__ import annotations

from pathlib import Path

import torch
from against import randomize
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    T5TokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

TEXT_DIM = 32
CLIP_DIM = 20
Z = 4
WORDS = "a red blue ball square moving left right on the dark light background , ."


def make_folder(
    path: Path,
    *,
    two_experts: bool = True,
    image: bool = False,
    clip: bool = False,
    last: bool = False,
    expand: bool = False,
    flow_shift: float = 5.0,
    boundary_ratio: float = 0.8,
    save_options: dict | None = None,
):
    """Write a folder to `path`; returns the reference pipeline, loaded and in float32.

    `last`: CLIP's view of two images; `expand`: Wan 2.2's 5B model, whose folder is one for text
    and image.
    """
    transformers = [
        randomize(_transformer(2 * Z + 4 if image and not expand else Z, clip, last), seed)
        for seed in range(1 + two_experts)
    ]
    components = {
        "tokenizer": _tokenizer(path),
        "text_encoder": randomize(_text_encoder(), 7),
        "vae": randomize(_vae(expand), 8),
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=flow_shift
        ),
        "transformer": transformers[0],
        "transformer_2": transformers[1] if two_experts else None,
        "boundary_ratio": boundary_ratio if two_experts else None,
    }
    if image:
        components |= {
            "image_encoder": randomize(_image_encoder(), 9) if clip else None,
            "image_processor": _image_processor() if clip else None,
        }
    if expand:
        components["expand_timesteps"] = True
    pipeline = (WanImageToVideoPipeline if image else WanPipeline)(**components)
    pipeline.save_pretrained(path, **(save_options or {}))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _transformer(in_channels: int, clip: bool, last: bool) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        image_dim=CLIP_DIM if clip else None,
        added_kv_proj_dim=32 if clip else None,
        pos_embed_seq_len=2 * 5 if last else None,
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=in_channels,
        out_channels=Z,
        text_dim=TEXT_DIM,
        freq_dim=32,
        ffn_dim=48,
        num_layers=2,
    )


def _image_encoder() -> CLIPVisionModel:
    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=CLIP_DIM,
            intermediate_size=40,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
            hidden_act="gelu",
        )
    )


def _image_processor() -> CLIPImageProcessor:
    return CLIPImageProcessor(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, do_convert_rgb=True
    )


def _vae(residual: bool) -> AutoencoderKLWan:
    patches = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12}
    return AutoencoderKLWan(
        **(patches | {"scale_factor_spatial": 16} if residual else {}),
        base_dim=4,
        z_dim=Z,
        num_res_blocks=1,
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.8, 1.0, 1.2],
    )


def _text_encoder() -> UMT5EncoderModel:
    return UMT5EncoderModel(
        UMT5Config(vocab_size=64, d_model=TEXT_DIM, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    )


def _tokenizer(path: Path) -> T5TokenizerFast:
    pieces = ["<pad>", "</s>", "<s>", "<unk>", "▁", *(f"▁{word}" for word in WORDS.split())]
    vocabulary = [(piece, -float(i)) for i, piece in enumerate(pieces)]
    vocabulary += [(letter, -50.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    path.mkdir(parents=True, exist_ok=True)
    file = path / "raw_tokenizer.json"
    tokenizer.save(str(file))
    return T5TokenizerFast(
        tokenizer_file=str(file),
        extra_ids=0,
        unk_token="<unk>",
        eos_token="</s>",
        pad_token="<pad>",
    )


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
