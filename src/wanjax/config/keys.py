"""Every key of the configuration, declared once: type, default, allowed values, help."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union

from wanjax.caching import METHODS, Method
from wanjax.caching.method import configured, settings_of
from wanjax.settings import kinds_of, setting


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every key with its type, default (where no preset or folder says otherwise) and help."""

    preset: str | None = setting(None, "preset that the values start from; see `wanjax presets`")
    model: str | None = setting(None, "checkpoint in diffusers' layout: folder, or Hub id")
    task: Literal["t2v", "i2v"] = setting(
        "t2v", "text to video or image to video; goes with the model"
    )

    prompt: str = setting("", "what the video shows")
    negative_prompt: str = setting("", "what it should not show; used where guidance acts")
    image: str | None = setting(None, "first frame, an image file (image to video)")
    last_image: str | None = setting(None, "last frame, where the model takes one")
    fit_image: bool = setting(
        True, "size from the image's own aspect ratio, unless height or width is given"
    )
    output: str | None = setting(
        None,
        "file to write (generate: .mp4, .webm, .webp or .gif, with a .json record beside it; "
        "calibrate: .json; compare: a folder)",
    )
    video_quality: Literal["standard", "high", "lossless"] = setting(
        "standard",
        "plays everywhere, with the colours at half the resolution; high: the colours whole; "
        "lossless: every pixel (.webm, .webp)",
        commands=("generate", "plan"),
    )
    seed: int = setting(0, "of the starting noise", low=0, high=2**32 - 1)

    height: int = setting(480, "frame height in pixels", low=16, grid=(16, 0))
    width: int = setting(832, "frame width in pixels", low=16, grid=(16, 0))
    num_frames: int = setting(81, "frames in the video, 4 n + 1", low=1, grid=(4, 1))
    fps: int = setting(16, "frames a second of the written video", low=1)

    num_inference_steps: int = setting(50, "denoising steps", low=1, high=1000)
    sampler: Literal["unipc", "euler"] = setting("unipc", "how a step is taken")
    flow_shift: float = setting(5.0, "above 1: more steps at high noise", above=0)
    boundary_ratio: float | None = setting(
        None,
        "noise level where the low-noise expert takes over; null: one expert",
        above=0,
        below=1,
    )
    guidance_scale: float | None = setting(
        5.0, "classifier-free guidance, of both experts; 1 or less: off", low=0
    )
    guidance_scale_high: float | None = setting(None, "guidance of the high-noise expert", low=0)
    guidance_scale_low: float | None = setting(None, "guidance of the low-noise expert", low=0)
    batch_guidance: bool = setting(True, "both guidance branches in one batch (else one by one)")

    low_memory: bool = setting(
        False, "the text and image encoders leave the device once they have encoded"
    )
    use_kv_cache: bool = setting(
        False, "keys and values of the prompt (and image) once a run, for memory"
    )

    max_sequence_length: int = setting(512, "tokens of the prompt", low=1, high=4096)
    weights_dtype: Literal["float32", "bfloat16"] = setting(
        "bfloat16", "of the transformer's parameters"
    )
    activations_dtype: Literal["float32", "bfloat16"] = setting(
        "bfloat16", "of the transformer's arithmetic"
    )
    attention: Literal["auto", "cudnn", "splash", "chunked", "xla"] = setting(
        "auto", "attention kernel; auto takes the fastest that the device has"
    )
    mesh: str = setting(
        "auto",
        "devices along each axis, as data:1,fsdp:2,context:4,tensor:1; auto: the fastest that fits",
    )
    target: str | None = setting(
        None,
        "machine to compile for, such as v6e:2x4, tpu7x:2x2x1, h100 or h100:8; null: this one",
        commands=("plan", "compile"),
    )

    prompts: str | None = setting(
        None,
        "text file with one prompt a line (image to video: `image.png | prompt`)",
        commands=("calibrate", "compare"),
    )
    seeds: tuple[int, ...] = setting(
        (0,), "of the starting noise, each with every prompt", commands=("calibrate", "compare")
    )

    reference_steps: int | None = setting(
        None,
        "steps of a converged run, a second reference beside the dense one",
        low=1,
        high=1000,
        commands=("compare",),
    )
    repeats: int = setting(
        3, "runs of each variant to time, at least", low=1, commands=("compare",)
    )
    videos: str | None = setting(
        None,
        "instead of generating: folders of mp4 files with equal names, the reference first",
        commands=("compare",),
    )

    json: bool = setting(False, "print JSON", commands=("plan", "compile"))
    plot: str | None = setting(None, "picture to draw: .png, .pdf or .svg", commands=("plan",))

    @property
    def num_experts(self) -> int:
        return 1 if self.boundary_ratio is None else 2


def keys() -> Mapping[str, dataclasses.Field[Any]]:
    """Every key by name: those above, and those that the caching methods declare."""
    return {field.name: field for field in dataclasses.fields(config_class())}


def config_class() -> type[Config]:
    """`Config` with a switch `use_NAME` for each caching method, and the keys of its settings."""
    return _with_methods(tuple(METHODS.values()))


@functools.cache
def _with_methods(methods: tuple[type[Method], ...]) -> type[Config]:
    fields: dict[str, tuple[Any, Any]] = {}
    for method in methods:
        fields[f"use_{method.name}"] = (bool, setting(False, method.help))
        for field in settings_of(method):  # of a key that methods share the first one's
            kind: Any = Union[kinds_of(method, field)]  # noqa: UP007 (made at run time)
            key = dataclasses.field(default=field.default, metadata=field.metadata)
            fields.setdefault(field.metadata["key"], (kind, key))
    triples = [(name, *typed) for name, typed in fields.items()]
    return dataclasses.make_dataclass(
        "Config",
        triples,
        bases=(Config,),
        namespace={"__module__": __name__},
        frozen=True,
        kw_only=True,
    )


def active_methods(config: Config) -> list[type[Method]]:
    """The caching methods that are switched on."""
    # a method that was registered after the configuration was made is off there
    return [method for name, method in METHODS.items() if getattr(config, f"use_{name}", False)]


def method_of(config: Config) -> Method | None:
    """The caching method that is switched on, with its settings."""
    for method in active_methods(config):
        return method(**configured(method, config))
    return None
