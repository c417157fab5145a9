"""From a preset, a file and `key=value` arguments to a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from wanjax.checkpoints.alike import models_like, models_of, parts_in
from wanjax.checkpoints.configs import model_configs
from wanjax.checkpoints.folder_values import folder_values
from wanjax.checkpoints.layouts.original.folder import original_folder
from wanjax.checkpoints.locate import locate
from wanjax.checkpoints.published_models import listed
from wanjax.config.arguments import canonical
from wanjax.config.checks import check
from wanjax.config.keys import Config, config_class, keys, unknown
from wanjax.config.saved import SUFFIXES, read_settings, read_yaml
from wanjax.errors import UsageError, printable
from wanjax.settings import as_written, called, nearest, parse

_PRESETS = Path(__file__).parent / "presets"


def preset_names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in _PRESETS.glob("*.yml")))


def arguments(args: Sequence[str]) -> list[str]:
    """A command line's arguments in their strict form: preset or file, then `key=value` each."""
    return canonical(args, preset_names())


def load_preset(name: str) -> Config:
    """The configuration that a preset stands for."""
    return resolve([name], command="show")


def resolve(
    args: Sequence[str] = (),
    command: str = "generate",
    values: Mapping[str, Any] | None = None,
) -> Config:
    """The configuration of `[PRESET|FILE.yml] key=value ...`, and of `values` from Python.

    Later wins: defaults, preset (or, for a folder without one, the folder's own files), file,
    arguments, values. Raises `UsageError` for anything a user can mend, before any model is
    loaded.
    """
    named, given = _split_arguments(args)
    user = [_typed(given, command, text=True), _typed(values or {}, command)]
    given = {**given, **(values or {})}
    if named and named not in preset_names() and named.lower().endswith(SUFFIXES):
        user.insert(0, _typed(read_settings(Path(named).expanduser()), None, where=f"{named}: "))
        named = None
    asked: dict[str, Any] = {}
    for layer in user:
        _one_of_each(layer, asked)
        if layer.get("model") in preset_names():  # a preset's name stands for its model, too
            layer.setdefault("preset", layer.pop("model"))
        asked |= layer
    _split_file(user, asked)
    if named and asked.get("preset") not in (None, named):
        raise UsageError(f"two presets: {named} and preset={asked['preset']}; name one")
    preset = named or asked.get("preset") or _implied_preset(asked)
    layers = [_base_layer(preset, asked), *user]
    merged: dict[str, Any] = {}
    for layer in layers:
        _one_of_each(layer, merged)
        if layer.get("guidance_scale") is not None:  # over what earlier layers gave each expert
            layer = {"guidance_scale_high": None, "guidance_scale_low": None} | layer
        merged |= _with_steps(layer, merged)
    if not _is_of(merged, layers[0]):
        raise UsageError(
            f"{preset or merged['model']} is {_kind(layers[0])}: task and boundary_ratio=null go "
            f"with the model; asked for {_kind(merged)}"
        )
    if any("height" in layer or "width" in layer for layer in user):
        merged["fit_image"] = any(layer.get("fit_image") for layer in user)
    merged.setdefault("seeds", (merged.get("seed", 0),))
    merged["seed"] = next(iter(merged["seeds"]), 0)
    if merged.get("output") is None and not any("output" in layer for layer in user):
        merged["output"] = _default_output(command, preset, merged)
    _with_tokenizer(merged)
    config = _with_guidance(config_class()(**(merged | {"preset": preset})))
    check(config, command, given)
    return config


def _with_tokenizer(values: dict[str, Any]) -> None:
    """A text encoder's file that carries its tokenizer brings it."""
    encoder = values.get("text_encoder")
    if encoder is None or values.get("tokenizer") is not None:
        return
    from wanjax.media.sentencepiece import carries_pieces  # imports a tokenizer

    if carries_pieces(Path(encoder).expanduser()):
        values["tokenizer"] = encoder


def _with_guidance(config: Config) -> Config:
    """Each expert's guidance spelt out; `guidance_scale` where they share it, else None."""
    both, high, low = config.guidance_scale, config.guidance_scale_high, config.guidance_scale_low
    high = both if high is None else high
    low = both if low is None else low
    if config.num_experts == 1:
        return replace(config, guidance_scale=high, guidance_scale_high=high)
    shared = high if high == low else None
    return replace(config, guidance_scale=shared, guidance_scale_high=high, guidance_scale_low=low)


def _one_of_each(layer: Mapping[str, Any], earlier: dict[str, Any]) -> None:
    """One prompt or many, one seed or many: what `layer` has replaces what was `earlier`."""
    for one, many in (("prompt", "prompts"), ("seed", "seeds")):
        if layer.get(one) is not None and layer.get(many) is not None:
            raise UsageError(f"{one} and {many} exclude one another: give one of them")
        if one in layer:
            earlier.pop(many, None)
        elif many in layer:
            earlier.pop(one, None)


def _with_steps(layer: Mapping[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """The layer with both: given timesteps are so many steps, so many steps no given ones."""
    given, count = layer.get("timesteps"), layer.get("num_inference_steps")
    if given is None:
        unchanged = count in (None, earlier.get("num_inference_steps"))
        return dict(layer) if unchanged else {**layer, "timesteps": None}
    if count not in (None, len(given)):
        raise UsageError(
            f"num_inference_steps={count}, but timesteps={as_written(given)} are {len(given)}: "
            "leave one of them out"
        )
    return {**layer, "num_inference_steps": len(given)}


def _default_output(command: str, preset: str | None, values: Mapping[str, Any]) -> str | None:
    names = {
        "generate": "wanjax.mp4",
        "calibrate": f"{preset or 'wanjax'}-calibration.json",
        "benchmark": f"benchmarks/{preset or 'wanjax'}.json",
        "compare": f"{(not values.get('videos') and preset) or 'wanjax'}-compare",
    }
    return names.get(command)


def _split_arguments(args: Sequence[str]) -> tuple[str | None, dict[str, str]]:
    named: str | None = None
    given: dict[str, str] = {}
    for arg in arguments(args):
        name, equals, value = arg.partition("=")
        if not equals:
            named = arg
        elif name in given:
            raise UsageError(f"{name} is given twice")
        else:
            given[name] = value
    return named, given


def _typed(
    values: Mapping[str, Any], command: str | None, *, text: bool = False, where: str = ""
) -> dict[str, Any]:
    """Values of the keys' types. `command` None: keys of every command are welcome."""
    typed, known = {}, keys()
    for name, value in values.items():
        if name not in known:
            raise UsageError(f"{where}{unknown(str(name))}")
        only = known[name].metadata["commands"]
        if command and only and command not in only:
            others = called(name, {n: field for n, field in known.items() if n != name})
            here = f"; did you mean {' or '.join(others)}?" if others else ""
            raise UsageError(f"{name} is a key of `wanjax {'`, `wanjax '.join(only)}` alone{here}")
        typed[name] = parse(config_class(), known[name], value, text=text, where=where)
    return typed


def _split_file(layers: Sequence[dict[str, Any]], asked: dict[str, Any]) -> None:
    """`model=FILE` is that file as the preset's transformer, and as the other parts it has."""
    folder = locate(asked["model"]) if asked.get("model") else None
    if folder is None or not folder.is_file():
        return
    parts = {name: str(file) for name, file in parts_in(folder).items()}
    for layer in layers:
        if layer.get("model") == asked["model"]:
            layer.pop("model")
            layer |= {name: file for name, file in parts.items() if not asked.get(name)}
    del asked["model"]
    asked |= parts | asked


def _implied_preset(asked: Mapping[str, Any]) -> str | None:
    """The preset of a run that names none: the model's own, else the bundled model's."""
    if asked.get("model") is None:
        if asked.get("transformer"):
            return _preset_of_file(asked)
        return "tiny-i2v" if asked.get("image") else "tiny-t2v"
    folder = locate(asked["model"])
    if folder is not None and folder.is_dir() and original_folder(folder) is not None:
        configs = model_configs(asked["model"])
        fitting = _presets_of(models_like(configs.components["transformer"]))
        experts = configs.index.num_experts
        fitting = [name for name in fitting if load_preset(name).num_experts == experts]
        return fitting[0] if len(fitting) == 1 else None
    for name in preset_names():
        if _preset_values(name).get("model") in (asked["model"], listed(asked["model"])):
            return name
    if locate(asked["model"]) is None:
        raise UsageError(
            f"model={asked['model']} is no preset's: say whose sampling values to use, as in "
            f"`wanjax generate wan2.2-t2v-a14b model={asked['model']}`; presets: "
            + ", ".join(preset_names())
        )
    return None


def _preset_of_file(asked: Mapping[str, Any]) -> str:
    file = Path(asked["transformer"]).expanduser()
    if not file.exists():
        raise UsageError(f"transformer={file}: there is no such file or folder")
    fitting = _presets_of(models_of(file))
    if asked.get("transformer_2"):
        fitting = [name for name in fitting if load_preset(name).num_experts == 2]
    if len(fitting) == 1:
        return fitting[0]
    raise UsageError(
        f"transformer={file} fits {' and '.join(fitting) or 'no preset by its shapes'}: name one, "
        f"as in `wanjax generate {(fitting or preset_names())[0]} transformer=...`"
    )


def _presets_of(models: Sequence[str]) -> list[str]:
    """Of each model the first: others are of the same with few steps."""
    first: dict[str, str] = {}
    for name in preset_names():
        first.setdefault(str(_preset_values(name).get("model")), name)
    return [name for model, name in first.items() if model in models]


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


def _is_of(asked: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Whether the model does what is asked; one of text and image alike also does either."""
    both = own.get("task") == "ti2v"
    return _kind(asked) == _kind({**own, "task": asked.get("task")} if both else own)


def _kind(values: Mapping[str, Any]) -> str:
    experts = "one expert" if values.get("boundary_ratio") is None else "two experts"
    return f"{values.get('task', 't2v')} with {experts}"


def _preset_values(name: str) -> dict[str, Any]:
    if name not in preset_names():
        raise UsageError(
            f"unknown preset {printable(name, 60)}{nearest(name, preset_names())}; presets: "
            + ", ".join(preset_names())
        )
    return dict(_values_in(name))


@cache
def _values_in(preset: str) -> Mapping[str, Any]:
    """Of a preset's file, which is a part of this package and read once."""
    return _typed(read_yaml(_PRESETS / f"{preset}.yml"), None, where=f"preset {preset}: ")
