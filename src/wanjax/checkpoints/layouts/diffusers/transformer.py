"""Checkpoint names of the transformer (diffusers' `WanTransformer3DModel`)."""

from wanjax.checkpoints.layouts.names import Rule

RULES: list[Rule] = [
    (r"patch_embedding\.kernel", "patch_embedding.weight", "conv3d"),
    (r"(.*image_embedder\.norm\d)\.scale", r"\1.weight", "copy"),
    (r"(.*image_embedder\.ff)\.linear_1\.kernel", r"\1.net.0.proj.weight", "linear"),
    (r"(.*image_embedder\.ff)\.linear_1\.bias", r"\1.net.0.proj.bias", "copy"),
    (r"(.*image_embedder\.ff)\.linear_2\.kernel", r"\1.net.2.weight", "linear"),
    (r"(.*image_embedder\.ff)\.linear_2\.bias", r"\1.net.2.bias", "copy"),
    (r"blocks\.norm2\.scale", "blocks.{i}.norm2.weight", "copy"),
    (r"blocks\.(attn\d)\.to_out\.kernel", r"blocks.{i}.\1.to_out.0.weight", "linear"),
    (r"blocks\.(attn\d)\.to_out\.bias", r"blocks.{i}.\1.to_out.0.bias", "copy"),
    (r"blocks\.ffn\.linear_1\.kernel", "blocks.{i}.ffn.net.0.proj.weight", "linear"),
    (r"blocks\.ffn\.linear_1\.bias", "blocks.{i}.ffn.net.0.proj.bias", "copy"),
    (r"blocks\.ffn\.linear_2\.kernel", "blocks.{i}.ffn.net.2.weight", "linear"),
    (r"blocks\.ffn\.linear_2\.bias", "blocks.{i}.ffn.net.2.bias", "copy"),
    (r"blocks\.(.*)\.kernel", r"blocks.{i}.\1.weight", "linear"),
    (r"blocks\.(.*)", r"blocks.{i}.\1", "copy"),
    (r"(.*)\.kernel", r"\1.weight", "linear"),
    (r"(.*)", r"\1", "copy"),
]

# Real image-to-video checkpoints carry a norm that the architecture never uses.
UNUSED = {r"blocks\.\d+\.attn2\.norm_added_q\.weight": "the architecture never uses it"}
