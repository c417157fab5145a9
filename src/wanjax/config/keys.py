"""Every key of the configuration, declared once: type, default, allowed values, help."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from wanjax.config.values import key


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
    attention: Literal["auto", "cudnn", "splash", "chunked", "xla"] = key(
        "auto", "attention kernel; auto takes the fastest that the device has"
    )

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
