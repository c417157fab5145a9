"""Every tensor of the published architectures against diffusers' models on the meta device."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel

sys.path.append(str(Path(__file__).parents[1]))  # tests/, where the configurations are
from test_full_size import PUBLISHED, checkpoint_shapes, kept_in_float32

pytestmark = pytest.mark.parity


def reference_state(values: dict) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return WanTransformer3DModel(**values).state_dict()


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes(name):
    values, count = PUBLISHED[name]
    state = reference_state(values)
    assert checkpoint_shapes(values) == {key: tuple(x.shape) for key, x in state.items()}
    assert sum(tensor.numel() for tensor in state.values()) == count


def test_what_stays_in_float32():
    values = PUBLISHED["wan2.1-i2v-14b"][0]
    modules = set(WanTransformer3DModel._keep_in_fp32_modules)
    expected = {key for key in reference_state(values) if modules & set(key.split("."))}
    assert kept_in_float32(values) == expected
