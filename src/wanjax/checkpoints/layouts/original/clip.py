"""The authors' names of CLIP, beside which a text tower lies."""

from wanjax.checkpoints.layouts.names import Names

_LAYER = "encoder.layers.{i}"

NAMES: Names = {
    "visual.cls_embedding": "embeddings.class_embedding",
    "visual.pos_embedding": "embeddings.position_embedding.weight",
    "visual.patch_embedding": "embeddings.patch_embedding",
    "visual.pre_norm": "pre_layrnorm",
    "visual.transformer.{i}.norm1": f"{_LAYER}.layer_norm1",
    "visual.transformer.{i}.norm2": f"{_LAYER}.layer_norm2",
    "visual.transformer.{i}.attn.proj": f"{_LAYER}.self_attn.out_proj",
    "visual.transformer.{i}.mlp.0": f"{_LAYER}.mlp.fc1",
    "visual.transformer.{i}.mlp.2": f"{_LAYER}.mlp.fc2",
    "visual.post_norm": "post_layernorm",
    "visual.head": "visual_projection.weight",
}
# One module here, three there: its rows are theirs, one after the other.
FUSED = "visual.transformer.{i}.attn.to_qkv"
SPLIT = tuple(f"{_LAYER}.self_attn.{x}_proj" for x in "qkv")

SKIPPED = {
    r"textual\..*": "CLIP's text tower: prompts are UMT5's",
    r"log_scale": "of CLIP's own training",
}
