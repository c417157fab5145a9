"""What is known of a run's model before it is loaded: its configurations, what its files keep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from wanjax.checkpoints.configs import model_configs
from wanjax.checkpoints.kept import WHOLE, Rounding, every_layer, kept_in
from wanjax.checkpoints.layouts.original.folder import original_folder
from wanjax.checkpoints.locate import locate
from wanjax.checkpoints.presence import cached
from wanjax.checkpoints.published_models import ModelConfigs, listed
from wanjax.config.keys import Config
from wanjax.planning.placement import EXPERTS


def known_configs(config: Config) -> ModelConfigs | None:
    """Of the run's model; with `weights=keep` what its files keep, if they are here.

    None for a model on the Hub that is none of the published ones.
    """
    if config.model is None or not (locate(config.model) or listed(config.model)):
        return None
    configs = model_configs(config.model)
    if config.weights != "keep":
        return configs
    places = list(_experts(config, configs))
    there = len(places) == configs.index.num_experts
    return replace(configs, kept=kept_in(places)) if there else configs


def rounding_of(config: Config, configs: ModelConfigs) -> Rounding:
    """The matrices in eight bits or fewer; of files that are not here all, in eight bits."""
    if config.quantize is not None:
        return every_layer(config.quantize)
    if config.weights == "keep":
        return configs.kept or every_layer("int8")
    return WHOLE


def _experts(config: Config, configs: ModelConfigs) -> Iterator[Path]:
    """Where the transformers' files are that are here."""
    model = str(config.model)
    folder = locate(model) or cached(model, config.revision)
    original = None if folder is None else original_folder(folder)
    for name in EXPERTS[: configs.index.num_experts]:
        place = config.parts.get(name)
        if place is None and folder is not None:
            place = folder / name if original is None else original.files.get(name)
        if place is not None and place.exists():
            yield place
