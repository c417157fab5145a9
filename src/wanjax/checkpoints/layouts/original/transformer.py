"""The authors' names of the transformer, which ComfyUI's and GGUF files have too."""

from wanjax.checkpoints.layouts.names import Names

_ATTENTION = {
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "o": "to_out.0",
    "norm_q": "norm_q",
    "norm_k": "norm_k",
    "k_img": "add_k_proj",
    "v_img": "add_v_proj",
    "norm_k_img": "norm_added_k",
}

NAMES: Names = {
    "patch_embedding": "patch_embedding",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed",
    **{f"blocks.{{i}}.self_attn.{x}": f"blocks.{{i}}.attn1.{y}" for x, y in _ATTENTION.items()},
    **{f"blocks.{{i}}.cross_attn.{x}": f"blocks.{{i}}.attn2.{y}" for x, y in _ATTENTION.items()},
    "blocks.{i}.ffn.0": "blocks.{i}.ffn.net.0.proj",
    "blocks.{i}.ffn.2": "blocks.{i}.ffn.net.2",
    "blocks.{i}.norm3": "blocks.{i}.norm2",  # before the cross-attention; the others have none
    "blocks.{i}.modulation": "blocks.{i}.scale_shift_table",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
