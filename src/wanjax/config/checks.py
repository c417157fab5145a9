"""What must hold between the keys of a configuration, checked before any model is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from wanjax.caching import METHODS
from wanjax.caching.method import keys_of
from wanjax.checkpoints.loras import expert_loras, expert_named
from wanjax.checkpoints.presence import require_folder, require_revision
from wanjax.config.keys import Config, active_methods
from wanjax.config.own_files import check_own_files
from wanjax.errors import UsageError
from wanjax.files import require_regular, require_writable
from wanjax.media.examples import picture_path
from wanjax.media.formats import FORMATS, encoding_for
from wanjax.media.names import is_folder
from wanjax.parallel.mesh import check_devices, parse_mesh
from wanjax.parallel.targets import parse_target
from wanjax.settings import as_written


def check(config: Config, command: str, given: Mapping[str, Any]) -> None:
    """Raise `UsageError` for keys that contradict one another.

    `given` are the keys of the command line: one that would have no effect is refused.
    """
    _check_guidance(config)
    _check_timesteps(config)
    if config.quantize and config.weights == "keep":
        raise UsageError(
            f"quantize={config.quantize} and weights=keep exclude one another: quantize rounds, "
            "keep takes what the files have"
        )
    _check_one_cache(config)
    _check_machine(config)
    if command in ("generate", "plan", "compile", "compare", "benchmark", "serve"):
        _check_effects(config, given)
    if command == "generate":
        _check_many(config)
        check_inputs(config)
    elif command == "convert":
        _check_model(config)
    elif command in ("calibrate", "benchmark"):
        if command == "calibrate":
            _check_calibration(config)
        _check_model(config)
        _check_output(config, ".json")
    elif command in ("plan", "compile", "serve") or (command == "compare" and not config.videos):
        _check_model(config)
        _check_drawn(config)
    if command == "compare":
        _check_folder(config)
    if command == "serve":
        require_writable(Path(config.store) / "lock", f"store={config.store}")
    if command != "show":
        check_own_files(config)


def check_inputs(config: Config) -> None:
    """Raise `UsageError` where prompt, image, model or output cannot be used.

    Of many `prompts` each is checked once the file is read.
    """
    if config.prompts is None:
        if not config.prompt.strip():
            raise UsageError('prompt is missing: say what the video shows, as prompt="a red ball"')
        _check_image(config)
    _check_model(config)
    _check_output(config, *FORMATS, folder=True)
    size = {"height": config.height, "width": config.width, "fps": config.fps}
    encoding_for(f"output={config.output}", config.video_quality, **size)


def _check_many(config: Config) -> None:
    if not config.seeds:
        raise UsageError("seeds is empty: give at least one, as seeds=0,1")
    if len(set(config.seeds)) < len(config.seeds):
        raise UsageError(f"seeds={','.join(map(str, config.seeds))}: one is given twice")
    if config.quiet and config.verbose:
        raise UsageError("quiet and verbose exclude one another: switch one on")


def _check_model(config: Config) -> None:
    if config.model is None:
        raise UsageError("model is missing: name a preset, a folder or a Hub id")
    require_revision(config.model, config.revision)
    require_folder(config.model)
    for part, place in config.parts.items():
        if not place.exists():
            raise UsageError(f"{part}={place}: there is no such file or folder")
    if config.transformer_2 is not None and config.num_experts == 1:
        raise UsageError(f"transformer_2={config.transformer_2}: this model has one expert")
    if config.transformer is not None and config.num_experts == 2 and not config.transformer_2:
        raise UsageError(
            f"transformer={config.transformer}: this model has two experts, of which that is the "
            "high-noise one's; give the other's as transformer_2="
        )
    for part, other in (("transformer", "low"), ("transformer_2", "high")):
        if part in config.parts and expert_named(config.parts[part]) == other:
            raise UsageError(
                f"{part}={config.parts[part]}: by its name it is the {other}-noise expert's; "
                "transformer= is the high-noise one's, transformer_2= the low-noise one's"
            )
    expert_loras(config.lora, config.lora_high, config.lora_low, config.num_experts)


def _check_one_cache(config: Config) -> None:
    keys = [f"use_{method.name}" for method in active_methods(config)]
    if len(keys) > 1:
        raise UsageError(f"{' and '.join(keys)} exclude one another: switch one on")


def _check_machine(config: Config) -> None:
    """A mesh without a target is compared with the devices that are here, once JAX is."""
    target = None if config.target is None else parse_target(config.target)
    if config.mesh != "auto":
        shape = parse_mesh(config.mesh)
        if target is not None:
            check_devices(shape, target.devices, target.name)


def _check_effects(config: Config, given: Mapping[str, Any]) -> None:
    """A cache's setting on the command line needs that cache on (or said to be off)."""
    for name in given:
        users = [f"use_{m}" for m, method in METHODS.items() if name in keys_of(method).values()]
        if users and not any(getattr(config, use) or use in given for use in users):
            raise UsageError(f"{name} acts only with {' or '.join(users)}=True")


def _check_guidance(config: Config) -> None:
    if config.num_experts == 1 and config.guidance_scale_low is not None:
        raise UsageError(
            f"guidance_scale_low={config.guidance_scale_low}: the model has one expert; "
            "give guidance_scale"
        )
    if config.guidance_scale_high is None or (
        config.num_experts == 2 and config.guidance_scale_low is None
    ):
        raise UsageError("guidance_scale is missing")


def _check_timesteps(config: Config) -> None:
    given = config.timesteps
    if given is not None and not (
        given and given[0] <= 1000 and given[-1] > 0 and all(a > b for a, b in pairwise(given))
    ):
        raise UsageError(
            f"timesteps={as_written(given)}: must fall from step to step, from at most 1000 to "
            "above 0, as 1000,750,500,250"
        )


def _check_image(config: Config) -> None:
    if config.task == "t2v":
        if config.image is not None:
            raise UsageError(
                f"image={config.image}: {config.preset or config.model} takes no image; "
                "take an i2v preset (`wanjax presets`)"
            )
    elif config.image is None and config.task == "ti2v":
        return
    elif config.image is None:
        raise UsageError(
            f"image is missing: {config.preset or config.model} is image to video; "
            "give its first frame as image=FILE"
        )
    elif not picture_path(config.image).is_file():
        raise UsageError(f"image={config.image}: no such file")


def _check_output(config: Config, *suffixes: str, folder: bool = False) -> None:
    """A file with one of the suffixes or, for frames one by one, a `folder`."""
    output = Path(config.output or "").expanduser()  # left empty: refused like any other name
    frames = folder and is_folder(config.output or "")
    if not frames and (output.suffix.lower() not in suffixes or output.is_dir()):
        ends = " or ".join(suffixes) + (f", or a folder of frames: {output}/" if folder else "")
        raise UsageError(f"output={output}: name a file that ends in {ends}")
    if frames and output.exists() and not output.is_dir():
        raise UsageError(f"output={config.output}: {output} is a file, no folder")
    if not output.name:
        raise UsageError(f"output={config.output}: has no name")
    if not frames and os.path.lexists(output):
        require_regular(output, UsageError, f"output={output}")
    require_writable(output, f"output={output}")


def _check_folder(config: Config) -> None:
    """Of a comparison."""
    folder = Path(config.output or "").expanduser()
    if folder.is_file():
        raise UsageError(f"output={folder} is a file; name a folder")
    require_writable(folder / "report.html", f"output={folder}")


def _check_drawn(config: Config) -> None:
    """A file for the picture of a plan or of a comparison."""
    for key in ("plot", "figure"):
        path = getattr(config, key)
        if path is None:
            continue
        file = Path(path).expanduser()
        if file.is_dir():
            raise UsageError(f"{key}={path} is a folder: name a file")
        if os.path.lexists(file):
            require_regular(file, UsageError, f"{key}={path}")
        require_writable(path, f"{key}={path}")


def _check_calibration(config: Config) -> None:
    for method in active_methods(config):
        if method.calibration is None:
            others = [f"use_{m}=True" for m, other in METHODS.items() if other.calibration]
            raise UsageError(
                f"use_{method.name} has nothing to calibrate: take `wanjax calibrate` with "
                + " or ".join(others)
            )
