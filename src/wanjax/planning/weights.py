"""Bytes of a model's parameters on each device of a mesh, from its configurations. No JAX.

The tables say what `wanjax.models` declares: shapes, logical axes, and which parameters stay in
float32. A test holds the two together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wanjax.checkpoints.kept import WHOLE, Rounding, kept_bytes
from wanjax.checkpoints.published_models import ModelConfigs
from wanjax.parallel.mesh import PARAMETER_RULES, MeshShape, share

ITEM_BYTES = {"float32": 4, "bfloat16": 2}

Values = Mapping[str, Any]
Axes = tuple[str | None, ...]


@dataclass(frozen=True)
class Parameter:
    """One declared parameter, or `times` equal ones."""

    shape: tuple[int, ...]
    axes: Axes
    times: int = 1
    float32: bool = False
    layer: str | None = None  # of a kernel that can be in eight bits or fewer

    def bytes(self, item: int, mesh: MeshShape, kept: Rounding = WHOLE) -> int:
        """What one device holds."""
        if self.layer is not None and self.layer in kept:
            numbers, scales = kept_bytes(kept[self.layer], self.shape)
            of_outputs = self._parts((None, *self.axes[1:]), mesh)
            return self.times * (numbers // self._parts(self.axes, mesh) + scales // of_outputs)
        size = 4 if self.float32 else item
        return self.times * math.prod(self.shape) // self._parts(self.axes, mesh) * size

    def _parts(self, axes: Axes, mesh: MeshShape) -> int:
        """How many devices share it."""
        shared, _ = share(axes, self.shape, PARAMETER_RULES, mesh.sizes)
        return math.prod(mesh.sizes[axis] for axes in shared for axis in axes)


def component_bytes(
    configs: ModelConfigs, dtype: str, mesh: MeshShape, kept: Rounding = WHOLE
) -> dict[str, int]:
    """Bytes of one device by component, for weights in `dtype`; the VAE is in float32.

    Matrices of the transformers' blocks may be `kept` in eight bits or fewer.
    """
    found = {}
    for name, values in configs.components.items():
        parameters = _PARAMETERS[name.removesuffix("_2")](values)
        item = 4 if name == "vae" else ITEM_BYTES[dtype]
        found[name] = sum(p.bytes(item, mesh, kept) for p in parameters)
    return found


def weight_bytes(configs: ModelConfigs, dtype: str, kept: Rounding = WHOLE) -> int:
    """Bytes of all components' weights, whole."""
    return sum(component_bytes(configs, dtype, MeshShape(), kept).values())


def layer_bytes(transformer: Values, dtype: str, mesh: MeshShape, kept: Rounding = WHOLE) -> int:
    """Those of one transformer block, as it lies on a device."""
    return sum(p.bytes(ITEM_BYTES[dtype], mesh, kept) for p in _block(transformer))


def transformer_width(values: Values) -> int:
    width: int = values["num_attention_heads"] * values["attention_head_dim"]
    return width


def _linear(
    inputs: int, outputs: int, axes: Axes, *, layer: str | None = None, **how: Any
) -> Iterator[Parameter]:
    yield Parameter((inputs, outputs), axes, layer=layer, **how)
    yield Parameter((outputs,), axes[1:], **how)


def _mlp(
    inputs: int,
    hidden: int,
    outputs: int,
    layers: Sequence[str | None] = (None, None),
    **how: Any,
) -> Iterator[Parameter]:
    yield from _linear(inputs, hidden, ("embed", "mlp"), layer=layers[0], **how)
    yield from _linear(hidden, outputs, ("mlp", "embed"), layer=layers[1], **how)


def _norm(width: int, **how: Any) -> Parameter:
    """Scale and bias of a layer norm."""
    return Parameter((2, width), (None, None), float32=True, **how)


def _transformer(values: Values) -> Iterator[Parameter]:
    width, patch = transformer_width(values), values["patch_size"]
    yield Parameter((*patch, values["in_channels"], width), (None,) * 4 + ("embed",))
    yield Parameter((width,), ("embed",))
    yield from _mlp(values["freq_dim"], width, width, float32=True)
    yield from _linear(width, 6 * width, ("embed", "mlp"))
    yield from _mlp(values["text_dim"], width, width)
    if values.get("image_dim") is not None:
        dim = values["image_dim"]
        yield from (_norm(dim), _norm(width))
        yield from _mlp(dim, dim, width)
        if values.get("pos_embed_seq_len") is not None:
            yield Parameter((1, values["pos_embed_seq_len"], dim), (None,) * 3)
    for parameter in _block(values):
        yield replace(parameter, times=values["num_layers"])
    yield from _linear(width, values["out_channels"] * math.prod(patch), ("embed", None))
    yield Parameter((1, 2, width), (None, None, "embed"), float32=True)


def _block(values: Values) -> Iterator[Parameter]:
    width = transformer_width(values)
    added = ("add_k_proj", "add_v_proj") if values.get("added_kv_proj_dim") is not None else ()
    for attention, of_images in (("attn1", ()), ("attn2", added)):
        for name in ("to_q", "to_k", "to_v", *of_images):
            yield from _linear(width, width, ("embed", "heads"), layer=f"{attention}.{name}")
        yield from _linear(width, width, ("heads", "embed"), layer=f"{attention}.to_out.0")
        for _ in range(2 + len(of_images) // 2):
            yield Parameter((width,), ("heads",))
    yield _norm(width)
    yield from _mlp(width, values["ffn_dim"], width, ("ffn.net.0.proj", "ffn.net.2"))
    yield Parameter((1, 6, width), (None, None, "embed"), float32=True)


def _text_encoder(values: Values) -> Iterator[Parameter]:
    width, heads, layers = values["d_model"], values["num_heads"], values["num_layers"]
    inner, hidden = heads * values["d_kv"], values["d_ff"]
    yield Parameter((values["vocab_size"], width), ("vocab", "embed"))
    yield Parameter((width, inner), ("embed", "heads"), 3 * layers)
    yield Parameter((inner, width), ("heads", "embed"), layers)
    buckets = values.get("relative_attention_num_buckets", 32)
    yield Parameter((buckets, heads), (None, "heads"), layers)
    yield Parameter((width, hidden), ("embed", "mlp"), 2 * layers)
    yield Parameter((hidden, width), ("mlp", "embed"), layers)
    yield Parameter((width,), (None,), 2 * layers + 1)


def _image_encoder(values: Values) -> Iterator[Parameter]:
    width, patch, layers = values["hidden_size"], values["patch_size"], values["num_hidden_layers"]
    tokens, layers = (values["image_size"] // patch) ** 2 + 1, layers - 1  # the last is not used
    yield Parameter(
        (patch, patch, values.get("num_channels", 3), width), (None, None, None, "embed")
    )
    yield Parameter((width,), ("embed",))
    yield Parameter((tokens, width), (None, "embed"))
    yield _norm(width)
    yield _norm(width, times=2 * layers)
    for _ in range(3):
        yield from _linear(width, width, ("embed", "heads"), times=layers)
    yield from _linear(width, width, ("heads", "embed"), times=layers)
    yield from _mlp(width, values["intermediate_size"], width, times=layers)


def _vae(values: Values) -> Iterator[Parameter]:
    yield from _encoder(values)
    yield from _decoder(values)
    z = values["z_dim"]
    for channels in (2 * z, z):
        yield _convolution(1, channels, channels)


def _encoder(values: Values) -> Iterator[Parameter]:
    widths = [values["base_dim"] * mult for mult in (1, *values["dim_mult"])]
    yield _convolution(27, values.get("in_channels", 3), widths[0])
    for level, (inputs, width) in enumerate(itertools.pairwise(widths)):
        yield from _residuals([inputs, *[width] * values["num_res_blocks"]])
        if level < len(values["dim_mult"]) - 1:
            yield _convolution(9, width, width)
            if values["temperal_downsample"][level]:
                yield _convolution(3, width, width)
    yield from _middle(widths[-1])
    yield _whole((widths[-1],))
    yield _convolution(27, widths[-1], 2 * values["z_dim"])


def _decoder(values: Values) -> Iterator[Parameter]:
    base = values.get("decoder_base_dim") or values["base_dim"]
    widths = [base * mult for mult in reversed(values["dim_mult"])]
    yield _convolution(27, values["z_dim"], widths[0])
    yield from _middle(widths[0])
    made = [width // (1 if values.get("is_residual") else 2) for width in widths]
    inputs = [widths[0], *made[:-1]]
    upsamplers = [*reversed(values["temperal_downsample"]), None]
    for before, width, up, temporal in zip(inputs, widths, made, upsamplers, strict=True):
        yield from _residuals([before, *[width] * (values["num_res_blocks"] + 1)])
        if temporal is not None:
            yield _convolution(9, width, up)
        if temporal:
            yield _convolution(3, width, 2 * width)
    yield _whole((widths[-1],))
    yield _convolution(27, widths[-1], values.get("out_channels", 3))


def _middle(width: int) -> Iterator[Parameter]:
    yield from _residuals([width] * 3)
    yield _whole((width,))
    yield _convolution(1, width, 3 * width)
    yield _convolution(1, width, width)


def _residuals(widths: Sequence[int]) -> Iterator[Parameter]:
    """A residual block from each width to the next."""
    for inputs, outputs in itertools.pairwise(widths):
        yield _whole((inputs + outputs,))  # scales of the two norms
        yield _convolution(27, inputs, outputs)
        yield _convolution(27, outputs, outputs)
        if inputs != outputs:
            yield _convolution(1, inputs, outputs)


def _convolution(window: int, inputs: int, outputs: int) -> Parameter:
    """Kernel and bias."""
    return _whole((window * inputs + 1, outputs))


def _whole(shape: tuple[int, ...]) -> Parameter:
    return Parameter(shape, (None,) * len(shape))


_PARAMETERS = {
    "transformer": _transformer,
    "text_encoder": _text_encoder,
    "image_encoder": _image_encoder,
    "vae": _vae,
}
