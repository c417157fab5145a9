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
from wanjax.models.vae import WanVAE
from wanjax.pipeline.components import Components
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
    components: Components, expert: Callable[[int], WanTransformer], arrays: Mapping[str, Any]
) -> Sources:
    """The arrays, the parameters of each expert, and of the encoders while they stay."""
    experts = {
        name: partial(_parameters, partial(expert, number))
        for number, name in enumerate(components.folder.experts)
    }
    encoders = {
        name: partial(_parameters, partial(components.on_device, name))
        for name in ("text_encoder", "image_encoder", "vae")
    }
    return {name: partial(_itself, array) for name, array in arrays.items()} | experts | encoders


def _itself(array: Any) -> Any:
    return array


def _parameters(model: Callable[[], nnx.Module | None]) -> Any:
    found = model()
    return None if found is None else nnx.to_pure_dict(nnx.state(found))


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


def check_pixels(video: Shaped[np.ndarray, "..."], vae: WanVAE) -> None:
    """Raise `NonFiniteError` for decoded frames that are not finite, naming what of the VAE is."""
    if not np.isfinite(video).all():
        found = _listed(list(_bad_parts("vae", _parameters(lambda: vae))))
        raise NonFiniteError(
            "the VAE made values that are no finite numbers of latents that are: "
            + (f"not finite: {found}" if found else "these are too large for it")
            + "; nonfinite=keep writes the video nevertheless"
        )


def _blamed(sources: Sources) -> str:
    found = [name for source in sources for name in _bad_parts(source, sources[source]())]
    if not found:
        return "weights and inputs are finite, so an activation grew beyond its type's range"
    return f"not finite at the start: {_listed(found)}"


def _listed(found: Sequence[str]) -> str:
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return ", ".join(found[:_LISTED]) + more


def _bad_parts(source: str, tree: Any) -> Iterator[str]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not is_finite(leaf):
            yield f"{source} {jax.tree_util.keystr(path, simple=True, separator='.')}".strip()
