"""Numbers that are no longer finite are noticed, and where they come from is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Shaped

from wanjax.config.keys import Config
from wanjax.errors import NonFiniteError, UsageError, notify
from wanjax.models.transformer import WanTransformer
from wanjax.sampling.denoise import StepReport

# Of what a run is made of, by name, each fetched when it is asked for.
Sources = Mapping[str, Callable[[], Any]]

_LISTED = 3
_ASK = "nonfinite=each_step names the step, nonfinite=keep writes the video nevertheless"


def require_finite(name: str, given: Any) -> None:
    """Raise `UsageError` for an array of a caller that is not finite throughout."""
    if given is not None and not is_finite(given):
        raise UsageError(f"{name}: has values that are no finite numbers (NaN or infinity)")


def is_finite(array: Any) -> bool:
    """Whether all of an array is; of integers all are."""
    if isinstance(array, np.ndarray):
        return not np.issubdtype(array.dtype, np.inexact) or bool(np.isfinite(array).all())
    return not jnp.issubdtype(array.dtype, jnp.inexact) or bool(jnp.isfinite(array).all())


def sources_of(
    expert: Callable[[int], WanTransformer], names: Sequence[str], **arrays: Any
) -> Sources:
    """The arrays, and the parameters of each expert."""

    def parameters(number: int) -> Any:
        return nnx.to_pure_dict(nnx.state(expert(number)))

    experts = {name: partial(parameters, number) for number, name in enumerate(names)}
    return {name: partial(_itself, array) for name, array in arrays.items()} | experts


def _itself(array: Any) -> Any:
    return array


def check_latents(latents: np.ndarray, config: Config, sources: Sources) -> None:
    """What `config.nonfinite` says of latents, denoised, that may not be finite.

    Raises `NonFiniteError` naming what of the run's `sources` is to blame.
    """
    if is_finite(latents):
        return
    text = f"the denoised latents are not finite (NaN or infinity); {_blamed(sources)}"
    if config.nonfinite != "keep":
        raise NonFiniteError(f"{text}; {_ASK}")
    notify(f"{text}: the video is kept as nonfinite=keep asks", stacklevel=2)


def check_step(report: StepReport, sources: Sources) -> None:
    """Raise `NonFiniteError` naming the step after which the latents are no longer finite."""
    if not is_finite(report.latents):
        step = report.step
        raise NonFiniteError(
            f"after step {step.index} (expert {step.expert}, timestep {step.timestep:g}) the "
            f"latents are not finite (NaN or infinity); {_blamed(sources)}"
        )


def check_pixels(video: Shaped[np.ndarray, "..."]) -> None:
    """Raise `NonFiniteError` for decoded frames that are not finite."""
    if not np.isfinite(video).all():
        raise NonFiniteError(
            "the VAE made values that are no finite numbers of latents that are: its weights are "
            "damaged, or the latents too large; nonfinite=keep writes the video nevertheless"
        )


def _blamed(sources: Sources) -> str:
    found = [name for source in sources for name in _bad_parts(source, sources[source]())]
    if not found:
        return "weights and inputs are finite, so an activation grew beyond its type's range"
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return f"not finite at the start: {', '.join(found[:_LISTED])}{more}"


def _bad_parts(source: str, tree: Any) -> Iterator[str]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not is_finite(leaf):
            yield f"{source} {jax.tree_util.keystr(path, simple=True, separator='.')}".strip()
