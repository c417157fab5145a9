"""Checkpoint names of the CLIP vision tower (`image_encoder/` of a folder)."""

from wanjax.checkpoints.layouts.names import Rule

# Dropped where keys have it: published folders do, those saved by transformers 5 do not.
PREFIX = "vision_model."

RULES: list[Rule] = [
    (r"class_embedding", "embeddings.class_embedding", "copy"),
    (r"patch_embedding\.kernel", "embeddings.patch_embedding.weight", "conv2d"),
    (r"position_embedding", "embeddings.position_embedding.weight", "copy"),
    (r"pre_layrnorm\.scale", "pre_layrnorm.weight", "copy"),
    (r"pre_layrnorm\.bias", "pre_layrnorm.bias", "copy"),
    (r"layers\.(layer_norm[12])\.scale", r"encoder.layers.{i}.\1.weight", "copy"),
    (r"layers\.(.+)\.kernel", r"encoder.layers.{i}.\1.weight", "linear"),
    (r"layers\.(.+)\.bias", r"encoder.layers.{i}.\1.bias", "copy"),
]

# What comes after the hidden states that Wan reads: the last layer, whose number depends on
# the model, is among the layers (see `unused`).
_AFTER = (r"visual_projection\..*", r"post_layernorm\..*", r"embeddings\.position_ids")


def unused(num_hidden_layers: int) -> dict[str, str]:
    """Patterns of the tensors (without `PREFIX`) which the model does not read, and why."""
    last = rf"encoder\.layers\.{num_hidden_layers - 1}\..*"
    return dict.fromkeys((*_AFTER, last), "comes after the hidden states that Wan reads")
