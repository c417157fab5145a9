"""The authors' names of the UMT5 encoder."""

from wanjax.checkpoints.layouts.names import Names

_LAYER = "encoder.block.{i}.layer"

NAMES: Names = {
    "token_embedding": "shared",
    **{f"blocks.{{i}}.attn.{x}": f"{_LAYER}.0.SelfAttention.{x}" for x in "qkvo"},
    "blocks.{i}.pos_embedding.embedding": f"{_LAYER}.0.SelfAttention.relative_attention_bias",
    "blocks.{i}.norm1": f"{_LAYER}.0.layer_norm",
    "blocks.{i}.norm2": f"{_LAYER}.1.layer_norm",
    "blocks.{i}.ffn.gate.0": f"{_LAYER}.1.DenseReluDense.wi_0",
    "blocks.{i}.ffn.fc1": f"{_LAYER}.1.DenseReluDense.wi_1",
    "blocks.{i}.ffn.fc2": f"{_LAYER}.1.DenseReluDense.wo",
    "norm": "encoder.final_layer_norm",
}
