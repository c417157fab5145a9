"""Checkpoint names of the UMT5 encoder (`text_encoder/` of a folder)."""

from wanjax.checkpoints.layouts.names import Rule

RULES: list[Rule] = [
    (r"shared\.weight", "shared.weight", "copy"),
    (r"block\.attention_norm\.weight", "encoder.block.{i}.layer.0.layer_norm.weight", "copy"),
    (
        r"block\.attention\.relative_attention_bias",
        "encoder.block.{i}.layer.0.SelfAttention.relative_attention_bias.weight",
        "copy",
    ),
    (
        r"block\.attention\.([qkvo])\.kernel",
        r"encoder.block.{i}.layer.0.SelfAttention.\1.weight",
        "linear",
    ),
    (r"block\.feed_forward_norm\.weight", "encoder.block.{i}.layer.1.layer_norm.weight", "copy"),
    (
        r"block\.feed_forward\.(wi_0|wi_1|wo)\.kernel",
        r"encoder.block.{i}.layer.1.DenseReluDense.\1.weight",
        "linear",
    ),
    (r"final_layer_norm\.weight", "encoder.final_layer_norm.weight", "copy"),
]

# The embedding is tied: some checkpoints store it under the second name, some under both.
ALIASES = {"encoder.embed_tokens.weight": "shared.weight"}
