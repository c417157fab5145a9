"""A model of a few tensors, the names of its checkpoint, and the tensors."""

from __future__ import annotations

import numpy as np
from flax import nnx

from wanjax.models.layers import LayerNorm, Linear, stack

DEPTH, WIDTH = 3, 4
RULES = [
    (r"blocks\.kernel", "blocks.{i}.weight", "linear"),
    (r"blocks\.bias", "blocks.{i}.bias", "copy"),
    (r"norm\.scale", "norm.weight", "copy"),
    (r"(.*)\.kernel", r"\1.weight", "linear"),
    (r"(.*)", r"\1", "copy"),
]


class Toy(nnx.Module):
    """Stacked layers, a single one, and a norm that stays in float32."""

    def __init__(self, depth: int, width: int, rngs: nnx.Rngs):
        axes = ("embed", "mlp")
        self.blocks = stack(lambda r: Linear(width, width, axes=axes, rngs=r), depth, rngs)
        self.norm = LayerNorm(width, eps=1e-6, rngs=rngs)
        self.out = Linear(width, 2, axes=axes, rngs=rngs)


def toy(depth: int = DEPTH, width: int = WIDTH) -> Toy:
    return nnx.eval_shape(lambda: Toy(depth, width, nnx.Rngs(0)))


def tensors(depth: int = DEPTH, width: int = WIDTH) -> dict[str, np.ndarray]:
    """A checkpoint of `toy`, every number another one."""
    shapes = {f"blocks.{i}.weight": (width, width) for i in range(depth)}
    shapes |= {f"blocks.{i}.bias": (width,) for i in range(depth)}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    shapes |= {"out.weight": (2, width), "out.bias": (2,)}
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
