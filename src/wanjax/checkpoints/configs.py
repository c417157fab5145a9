"""What the components of a model are, without their weights. No JAX.

From the model's folder, or for a published model that is not here from the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wanjax.checkpoints.layouts.original.folder import original_folder
from wanjax.checkpoints.locate import ModelIndex, locate, parse, read_json
from wanjax.checkpoints.published_models import ModelConfigs, defaults, listed, published
from wanjax.errors import CheckpointError
from wanjax.models.configs import CLIPVisionConfig, TransformerConfig, UMT5Config, VAEConfig
from wanjax.validation import FromJSON, named

_KINDS: Mapping[str, type[FromJSON]] = {
    "transformer": TransformerConfig,
    "transformer_2": TransformerConfig,
    "vae": VAEConfig,
    "text_encoder": UMT5Config,
    "image_encoder": CLIPVisionConfig,
}
_ALIKE = ("in_channels", "out_channels", "patch_size", "text_dim")  # in both experts


def model_configs(model: str) -> ModelConfigs:
    """Of a folder, or of a published model by its Hub id.

    Raises `CheckpointError` for a folder without them, and for other Hub ids: what is not
    here is not looked up.
    """
    folder = locate(model)
    if folder is not None:
        return _of_folder(folder)
    if (known := listed(model)) is None:
        raise CheckpointError(
            f"model={model}: not one of the published models, of which the configurations are in "
            f"this package ({', '.join(published())}); give the folder it was downloaded to"
        )
    return published()[known]


def _of_folder(folder: Path) -> ModelConfigs:
    if (original := original_folder(folder)) is not None:
        return original.configs
    index = parse(ModelIndex, folder / "model_index.json")
    unused = {"transformer_2"} if index.num_experts == 1 else set()
    names = [name for name in _KINDS if name not in unused and (folder / name).is_dir()]
    paths = {name: folder / name / "config.json" for name in names}
    # values left out are those of the published models, which are the defaults of all fields
    found = {name: defaults()[name] | read_json(path) for name, path in paths.items()}
    parsed: dict[str, Any] = {}
    for name, path in paths.items():
        with named(path):
            parsed[name] = _KINDS[name].from_dict(found[name])
    _check_together(folder, parsed)
    return ModelConfigs(index, found)


def _check_together(folder: Path, parsed: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` for parts that do not fit each other."""
    pairs = [
        ("transformer", "out_channels", "vae", "z_dim"),
        ("transformer", "text_dim", "text_encoder", "d_model"),
        ("transformer", "image_dim", "image_encoder", "hidden_size"),
        *(("transformer_2", key, "transformer", key) for key in _ALIKE),
    ]
    for one, key, other, of_other in pairs:
        if one in parsed and other in parsed:
            given, expected = getattr(parsed[one], key), getattr(parsed[other], of_other)
            if given != expected and given is not None:
                raise CheckpointError(
                    f"{folder / one / 'config.json'}: {key}={given}: must be {expected}, as "
                    f"{of_other} of {other}/config.json: they are parts of different models"
                )
