"""GGUF's names of the UMT5 encoder; the transformer has the authors' there."""

from wanjax.checkpoints.layouts.names import Names

_LAYER = "encoder.block.{i}.layer"

NAMES: Names = {
    "token_embd": "shared",
    **{f"enc.blk.{{i}}.attn_{x}": f"{_LAYER}.0.SelfAttention.{x}" for x in "qkvo"},
    "enc.blk.{i}.attn_rel_b": f"{_LAYER}.0.SelfAttention.relative_attention_bias",
    "enc.blk.{i}.attn_norm": f"{_LAYER}.0.layer_norm",
    "enc.blk.{i}.ffn_norm": f"{_LAYER}.1.layer_norm",
    "enc.blk.{i}.ffn_gate": f"{_LAYER}.1.DenseReluDense.wi_0",
    "enc.blk.{i}.ffn_up": f"{_LAYER}.1.DenseReluDense.wi_1",
    "enc.blk.{i}.ffn_down": f"{_LAYER}.1.DenseReluDense.wo",
    "enc.output_norm": "encoder.final_layer_norm",
}
