"""The configuration: flat keys, each declared once; presets, files and `key=value` arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from wanjax.checkpoints.locate import folder_values, locate
from wanjax.config_checks import check
from wanjax.config_values import coerce, key, nearest
from wanjax.errors import UsageError

_PRESETS = Path(__file__).parent / "presets"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every key with its type, default (where no preset or folder says otherwise) and help."""

    preset: str | None = key(None, "preset that the values start from; see `wanjax presets`")
    model: str | None = key(None, "checkpoint in diffusers' layout: folder, or Hub id")
    task: Literal["t2v", "i2v"] = key("t2v", "text to video or image to video; goes with the model")

    prompt: str = key("", "what the video shows")
    negative_prompt: str = key("", "what it should not show; used where guidance acts")
    image: str | None = key(None, "first frame, an image file (image to video)")
    last_image: str | None = key(None, "last frame, where the model takes one")
    fit_image: bool = key(
        True, "size from the image's own aspect ratio, unless height or width is given"
    )
    output: str | None = key(
        None,
        "file to write (generate: .mp4, with a .json record beside it; calibrate: .json; "
        "compare: a folder)",
    )
    seed: int = key(0, "of the starting noise", low=0, high=2**32 - 1)

    height: int = key(480, "frame height in pixels", low=16, grid=(16, 0))
    width: int = key(832, "frame width in pixels", low=16, grid=(16, 0))
    num_frames: int = key(81, "frames in the video, 4 n + 1", low=1, grid=(4, 1))
    fps: int = key(16, "frames a second of the written video", low=1)

    num_inference_steps: int = key(50, "denoising steps", low=1, high=1000)
    sampler: Literal["unipc", "euler"] = key("unipc", "how a step is taken")
    flow_shift: float = key(5.0, "above 1: more steps at high noise", above=0)
    boundary_ratio: float | None = key(
        None,
        "noise level where the low-noise expert takes over; null: one expert",
        above=0,
        below=1,
    )
    guidance_scale: float | None = key(
        5.0, "classifier-free guidance, of both experts; 1 or less: off", low=0
    )
    guidance_scale_high: float | None = key(None, "guidance of the high-noise expert", low=0)
    guidance_scale_low: float | None = key(None, "guidance of the low-noise expert", low=0)
    batch_guidance: bool = key(True, "both guidance branches in one batch (else one by one)")

    use_magcache: bool = key(False, "skip steps by MagCache")
    magcache_thresh: float = key(0.04, "accumulated error up to which steps are skipped", low=0)
    magcache_K: int = key(2, "most steps skipped in a row", low=0)  # noqa: N815
    retention_ratio: float = key(
        0.2, "share of each expert's first steps that always compute", low=0, high=1
    )
    mag_ratios_base: tuple[float, ...] | str | None = key(
        None, "the curve: a file, the name of a shipped one, or a list [cond, uncond, ...]"
    )
    magcache_resample: Literal["noise_level", "nearest"] = key(
        "noise_level", "how a curve is carried to other steps or shifts"
    )
    magcache_rule: Literal["per_phase", "official"] = key(
        "per_phase", "both branches together and per expert, or as the authors' code"
    )
    target_speedup: float | None = key(
        None, "instead of the threshold: least error at this ideal speedup", low=1
    )
    skip_steps: int | None = key(
        None, "instead of the threshold: least error with so many skipped steps", low=0
    )

    use_cfg_cache: bool = key(False, "predict the unconditional branch in some steps (FasterCache)")
    cfg_cache_interval: int = key(
        5, "steps from one that computes both branches to the next", low=2
    )
    cfg_cache_start: int | None = key(
        None, "first step that may be predicted; null: a third of the steps", low=0
    )
    cfg_cache_end: int | None = key(
        None,
        "first step that no longer may; null: nine tenths from height 720 on, else near the last",
        low=0,
    )
    cfg_cache_weight: float = key(
        1.2, "of the low (first half) or high (second half) frequencies of what is added", low=0
    )

    use_sen_cache: bool = key(False, "reuse outputs by SenCache, which decides during the run")
    sen_cache_epsilon: float = key(0.1, "expected change up to which an output is reused", above=0)
    sen_cache_max_reuse: int = key(3, "most steps reused in a row", low=1)
    sen_cache_start: float = key(0.3, "share of the first steps that always compute", low=0, high=1)
    sen_cache_end: float = key(0.9, "share of the steps after which all compute", low=0, high=1)
    sen_cache_sensitivities: tuple[float, ...] | str | None = key(
        None, "file of `wanjax calibrate use_sen_cache=True`, or [alpha_x, alpha_t]; null: 1 each"
    )

    use_kv_cache: bool = key(
        False, "keys and values of the prompt (and image) once a run, for memory"
    )

    max_sequence_length: int = key(512, "tokens of the prompt", low=1, high=4096)
    weights_dtype: Literal["float32", "bfloat16"] = key(
        "bfloat16", "of the transformer's parameters"
    )
    activations_dtype: Literal["float32", "bfloat16"] = key(
        "bfloat16", "of the transformer's arithmetic"
    )
    attention: Literal["auto", "xla", "chunked", "cudnn"] = key("auto", "attention kernel")

    prompts: str | None = key(
        None,
        "text file with one prompt a line (image to video: `image.png | prompt`)",
        commands=("calibrate", "compare"),
    )
    seeds: tuple[int, ...] = key(
        (0,), "of the starting noise, each with every prompt", commands=("calibrate", "compare")
    )

    reference_steps: int | None = key(
        None,
        "steps of a converged run, a second reference beside the dense one",
        low=1,
        high=1000,
        commands=("compare",),
    )
    repeats: int = key(3, "runs of each variant to time, at least", low=1, commands=("compare",))
    videos: str | None = key(
        None,
        "instead of generating: folders of mp4 files with equal names, the reference first",
        commands=("compare",),
    )

    json: bool = key(False, "print JSON", commands=("plan",))
    plot: str | None = key(None, "picture to draw: .png, .pdf or .svg", commands=("plan",))

    @property
    def num_experts(self) -> int:
        return 1 if self.boundary_ratio is None else 2


KEYS: Mapping[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(Config)}


def preset_names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in _PRESETS.glob("*.yml")))


def load_preset(name: str) -> Config:
    """The configuration that a preset stands for."""
    return resolve([name], command="show")


def resolve(args: Sequence[str] = (), command: str = "generate") -> Config:
    """The configuration of `[PRESET|FILE.yml] key=value ...`.

    Later wins: defaults, preset (or, for a folder without one, the folder's own files), file,
    arguments. Raises `UsageError` for anything a user can mend, before any model is loaded.
    """
    named, given = _split_arguments(args)
    user = [_typed(given, command, text=True)]
    if named and _is_file(named):
        user.insert(0, _typed(_read_yaml(Path(named)), None, where=f"{named}: "))
        named = None
    asked: dict[str, Any] = {}
    for layer in user:
        if layer.get("model") in preset_names():  # a preset's name stands for its model, too
            layer.setdefault("preset", layer.pop("model"))
        asked |= layer
    if named and asked.get("preset") not in (None, named):
        raise UsageError(f"two presets: {named} and preset={asked['preset']}; name one")
    preset = named or asked.get("preset") or _implied_preset(asked)
    layers = [_base_layer(preset, asked), *user]
    values: dict[str, Any] = {}
    for layer in layers:
        if layer.get("guidance_scale") is not None:  # over what earlier layers gave each expert
            layer = {"guidance_scale_high": None, "guidance_scale_low": None} | layer
        values |= layer
    if _kind(values) != _kind(layers[0]):
        raise UsageError(
            f"{preset or values['model']} is {_kind(layers[0])}: task and boundary_ratio=null go "
            f"with the model; asked for {_kind(values)}"
        )
    if any("height" in layer or "width" in layer for layer in user):
        values["fit_image"] = any(layer.get("fit_image") for layer in user)
    if values.get("output") is None and not any("output" in layer for layer in user):
        values["output"] = _default_output(command, preset, values)
    config = _with_guidance(Config(**(values | {"preset": preset})))
    check(config, command, given)
    return config


def _with_guidance(config: Config) -> Config:
    """Each expert's guidance spelt out; `guidance_scale` where they share it, else None."""
    both, high, low = config.guidance_scale, config.guidance_scale_high, config.guidance_scale_low
    high = both if high is None else high
    low = both if low is None else low
    if config.num_experts == 1:
        return replace(config, guidance_scale=high, guidance_scale_high=high)
    shared = high if high == low else None
    return replace(config, guidance_scale=shared, guidance_scale_high=high, guidance_scale_low=low)


def _default_output(command: str, preset: str | None, values: Mapping[str, Any]) -> str | None:
    measured = "sensitivities" if values.get("use_sen_cache") else "curve"
    names = {
        "generate": "wanjax.mp4",
        "calibrate": f"{preset or 'wanjax'}-{measured}.json",
        "compare": f"{(not values.get('videos') and preset) or 'wanjax'}-compare",
    }
    return names.get(command)


def _split_arguments(args: Sequence[str]) -> tuple[str | None, dict[str, str]]:
    named, given = None, {}
    for position, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if arg.startswith("-"):
            raise UsageError(f"{arg}: settings are written key=value, without dashes")
        if equals:
            if name in given:
                raise UsageError(f"{name} is given twice")
            given[name] = value
        elif position == 0:
            named = arg
        else:
            raise UsageError(f"{arg}: expected key=value")
    return named, given


def _is_file(named: str) -> bool:
    return named.endswith((".yml", ".yaml"))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no valid YAML: {error}") from error
    if not isinstance(content or {}, dict):
        raise UsageError(f"{path} must hold `key: value` lines")
    return content or {}


def _typed(
    values: Mapping[str, Any], command: str | None, *, text: bool = False, where: str = ""
) -> dict[str, Any]:
    """Values of the keys' types. `command` None: keys of every command are welcome."""
    typed = {}
    for name, value in values.items():
        if name not in KEYS:
            raise UsageError(f"{where}unknown key {name}{nearest(str(name), KEYS)}")
        only = KEYS[name].metadata["commands"]
        if command and only and command not in only:
            raise UsageError(f"{name} is a key of `wanjax {'`, `wanjax '.join(only)}` alone")
        typed[name] = coerce(Config, KEYS[name], value, text=text, where=where)
    return typed


def _implied_preset(asked: Mapping[str, Any]) -> str | None:
    """The preset of a run that names none: the model's own, else the bundled model's."""
    if asked.get("model") is None:
        return "tiny-i2v" if asked.get("image") else "tiny-t2v"
    for name in preset_names():
        if _preset_values(name).get("model") == asked["model"]:
            return name
    if locate(asked["model"]) is None:
        raise UsageError(
            f"model={asked['model']} is no preset's: say whose sampling values to use, as in "
            f"`wanjax generate wan2.2-t2v-a14b model={asked['model']}`; presets: "
            + ", ".join(preset_names())
        )
    return None


def _base_layer(preset: str | None, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The preset's values; without a preset the folder's own."""
    folder = locate(asked["model"]) if asked.get("model") else None
    own = folder_values(folder) if folder is not None and folder.is_dir() else {}
    if preset is None:
        return own
    values = _preset_values(preset)
    if own and _kind(own) != _kind(values):
        raise UsageError(
            f"preset {preset} is {_kind(values)}, the model in {asked['model']} {_kind(own)}; "
            "name another preset or folder"
        )
    return values


def _kind(values: Mapping[str, Any]) -> str:
    experts = "one expert" if values.get("boundary_ratio") is None else "two experts"
    return f"{values.get('task', 't2v')} with {experts}"


def _preset_values(name: str) -> dict[str, Any]:
    if name not in preset_names():
        raise UsageError(
            f"unknown preset {name}{nearest(name, preset_names())}; presets: "
            + ", ".join(preset_names())
        )
    return _typed(_read_yaml(_PRESETS / f"{name}.yml"), None, where=f"preset {name}: ")
