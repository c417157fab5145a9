"""Every tensor of the published architectures against diffusers' models on the meta device."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel

sys.path.append(str(Path(__file__).parents[1]))  # tests/, where the configurations are
from test_full_size import PUBLISHED, checkpoint_shapes

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes(name):
    values, count = PUBLISHED[name]
    with torch.device("meta"):
        state = WanTransformer3DModel(**values).state_dict()
    assert checkpoint_shapes(values) == {key: tuple(x.shape) for key, x in state.items()}
    assert sum(tensor.numel() for tensor in state.values()) == count


def test_what_stays_in_float32():
    """Our rule for bfloat16 keeps what the reference's keeps."""
    kept = WanTransformer3DModel._keep_in_fp32_modules
    assert set(kept) == {"time_embedder", "scale_shift_table", "norm1", "norm2", "norm3"}
