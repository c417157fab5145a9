"""What the components of a model are, without their weights. No JAX.

From the model's folder, or for a published model that is not here from the package.
"""

from __future__ import annotations

from pathlib import Path

from wanjax.checkpoints.layouts.original.folder import original_folder
from wanjax.checkpoints.locate import ModelIndex, locate, parse, read_json
from wanjax.checkpoints.published_models import ModelConfigs, defaults, published
from wanjax.errors import CheckpointError

_COMPONENTS = ("transformer", "transformer_2", "vae", "text_encoder", "image_encoder")


def model_configs(model: str) -> ModelConfigs:
    """Of a folder, or of a published model by its Hub id.

    Raises `CheckpointError` for a folder without them, and for other Hub ids: what is not
    here is not looked up.
    """
    folder = locate(model)
    if folder is not None:
        return _of_folder(folder)
    if model not in published():
        raise CheckpointError(
            f"model={model}: not one of the published models, of which the configurations are in "
            f"this package ({', '.join(published())}); give the folder it was downloaded to"
        )
    return published()[model]


def _of_folder(folder: Path) -> ModelConfigs:
    if (original := original_folder(folder)) is not None:
        return original.configs
    index = parse(ModelIndex, folder / "model_index.json")
    unused = {"transformer_2"} if index.num_experts == 1 else set()
    names = [name for name in _COMPONENTS if name not in unused and (folder / name).is_dir()]
    found = {name: read_json(folder / name / "config.json") for name in names}
    # values left out are those of the published models, which are the defaults of all fields
    return ModelConfigs(index, {name: defaults()[name] | found[name] for name in names})
