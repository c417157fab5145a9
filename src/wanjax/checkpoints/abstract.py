"""A checkpoint folder without weights: its models have shapes, dtypes and shardings alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from wanjax.checkpoints.folder import Folder, Loadable, Model
from wanjax.checkpoints.kept import Quantize, Rounding
from wanjax.checkpoints.load import kept_dtype
from wanjax.checkpoints.published_models import ModelConfigs
from wanjax.models.layers import logical_axes
from wanjax.parallel.layouts import laid_out
from wanjax.parallel.sharding import parameter_sharding


@dataclass(frozen=True)
class AbstractFolder(Folder):
    """Loads each model as its real folder would, with `jax.ShapeDtypeStruct` for parameters.

    `kept` is what its files have in eight bits or fewer; where that is not known, all that can be
    in eight.
    """

    kept: Rounding = field(default_factory=dict)

    @classmethod
    def of(cls, model: str, configs: ModelConfigs) -> AbstractFolder:
        """`model` is the name for error texts."""
        return cls(Path(model), configs.index, configs=configs.components, kept=configs.kept)

    def rounding(self, quantize: Quantize | None, *, keep: bool = False) -> Rounding:
        if keep and quantize is None:
            return self.kept or super().rounding("fp8")
        return super().rounding(quantize)

    def checking(self) -> None:
        """There are no files that could be looked at."""

    def _load(self, part: Loadable[Model]) -> Model:
        graph, parameters = nnx.split(part.make())

        def kept(variable: nnx.Variable[Any]) -> nnx.Variable[Any]:
            shape = tuple(variable.get_value().shape)
            sharding = parameter_sharding(logical_axes(variable), shape, part.mesh)
            as_kept = kept_dtype(variable, part.dtype)
            place = laid_out(shape, as_kept, sharding)
            return variable.replace(jax.ShapeDtypeStruct(shape, as_kept, sharding=place))

        is_variable = lambda x: isinstance(x, nnx.Variable)  # noqa: E731
        return nnx.merge(graph, jax.tree.map(kept, parameters, is_leaf=is_variable))
