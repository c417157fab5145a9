"""The published architectures, built without memory: how large they are, what their tensors are.

tests/parity compares every name and shape with diffusers' own models.
"""

from __future__ import annotations

import jax
import pytest
from flax import nnx

from wanjax.checkpoints.layouts.diffusers.transformer import RULES
from wanjax.checkpoints.mapping import entries, flat_parameters
from wanjax.models.configs import TransformerConfig
from wanjax.models.transformer import WanTransformer

A14B: dict = {}  # the defaults: 40 layers, width 5120
SMALL = {"num_layers": 30, "num_attention_heads": 12, "ffn_dim": 8960}
IMAGE = {"in_channels": 36}
CLIP = {"image_dim": 1280, "added_kv_proj_dim": 5120}
TI2V = {"num_layers": 30, "num_attention_heads": 24, "ffn_dim": 14336}
TI2V |= {"in_channels": 48, "out_channels": 48}
# The published models' configurations and numbers of parameters (of each expert).
PUBLISHED = {
    "wan2.1-t2v-1.3b": (SMALL, 1_418_996_800),
    "wan2.2-t2v-a14b": (A14B, 14_288_491_584),
    "wan2.2-i2v-a14b": (A14B | IMAGE, 14_288_901_184),
    "wan2.1-i2v-14b": (A14B | IMAGE | CLIP, 16_394_878_784),
    "wan2.2-ti2v-5b": (TI2V, 4_999_787_712),
    "wan2.1-flf2v-14b": (A14B | IMAGE | CLIP | {"pos_embed_seq_len": 514}, 16_395_536_704),
}


def abstract_parameters(values: dict) -> nnx.State:
    config = TransformerConfig.from_dict(values)
    return nnx.state(nnx.eval_shape(lambda: WanTransformer(config, rngs=nnx.Rngs(0))))


def checkpoint_shapes(values: dict) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that the loader would ask for."""
    table = entries(abstract_parameters(values), RULES)
    return {key: entry.shape for entry in table for key in entry.keys}


def kept_in_float32(values: dict) -> set[str]:
    """Names of the tensors that stay in float32 when the model is loaded in bfloat16."""
    state = abstract_parameters(values)
    variables = dict(flat_parameters(state))
    kept = (e for e in entries(state, RULES) if variables[e.path].get_metadata("keep_float32"))
    return {key for entry in kept for key in entry.keys}


@pytest.mark.parametrize("name", PUBLISHED)
def test_number_of_parameters(name):
    values, expected = PUBLISHED[name]
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract_parameters(values))) == expected


def test_tensors_of_the_14b_text_to_video_experts():
    shapes = checkpoint_shapes(A14B)
    assert len(shapes) == 40 * 27 + 15
    expected = {
        "patch_embedding.weight": (5120, 16, 1, 2, 2),
        "condition_embedder.time_embedder.linear_1.weight": (5120, 256),
        "condition_embedder.time_proj.weight": (30720, 5120),
        "condition_embedder.text_embedder.linear_1.weight": (5120, 4096),
        "blocks.0.scale_shift_table": (1, 6, 5120),
        "blocks.39.attn1.norm_q.weight": (5120,),
        "blocks.39.attn2.to_out.0.bias": (5120,),
        "blocks.17.ffn.net.0.proj.weight": (13824, 5120),
        "blocks.17.ffn.net.2.weight": (5120, 13824),
        "blocks.3.norm2.weight": (5120,),
        "scale_shift_table": (1, 2, 5120),
        "proj_out.weight": (64, 5120),
    }
    assert {key: shapes.get(key) for key in expected} == expected


def test_tensors_of_image_to_video():
    assert checkpoint_shapes(A14B | IMAGE)["patch_embedding.weight"] == (5120, 36, 1, 2, 2)
    shapes = checkpoint_shapes(PUBLISHED["wan2.1-flf2v-14b"][0])
    embedder = "condition_embedder.image_embedder."
    expected = {
        f"{embedder}norm1.weight": (1280,),
        f"{embedder}ff.net.0.proj.weight": (1280, 1280),
        f"{embedder}ff.net.2.weight": (5120, 1280),
        f"{embedder}norm2.bias": (5120,),
        f"{embedder}pos_embed": (1, 514, 1280),
        "blocks.39.attn2.add_k_proj.weight": (5120, 5120),
        "blocks.39.attn2.norm_added_k.weight": (5120,),
    }
    assert {key: shapes.get(key) for key in expected} == expected


def test_what_stays_in_float32():
    """As diffusers has it: the time embedder, the modulation tables, the norms with parameters."""
    kept = kept_in_float32(PUBLISHED["wan2.1-i2v-14b"][0])
    parts = (".time_embedder.", "scale_shift_table", ".norm1.", ".norm2.")
    counts = [sum(part in key for key in kept) for part in parts]
    assert counts == [4, 41, 2, 82]  # norm1 of the image embedder, norm2 also of every block
    assert sum(counts) == len(kept)
