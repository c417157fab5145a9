"""Text (and image) in, video out: encode, condition, plan, denoise, decode."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Shaped, UInt8
from PIL import Image

from wanjax.caching.plan import PREDICT, REUSE, REUSE_OUTPUT, Plan, Schedule, dense_plan
from wanjax.checkpoints.folder import Folder
from wanjax.checkpoints.hub import download
from wanjax.conditioning import image_condition, to_batch
from wanjax.config import Config, resolve
from wanjax.denoise import StepReport, denoise
from wanjax.errors import UsageError
from wanjax.media import load_image, save_video, to_rgb
from wanjax.model_folder import locate
from wanjax.models.transformer import Context, WanTransformer
from wanjax.models.vae_stream import decode_frames
from wanjax.planning import conditions_of, schedule_for
from wanjax.programs import Programs
from wanjax.schedulers import SAMPLERS
from wanjax.step import Expert, Settings
from wanjax.text import prompt_clean

ImageLike = Image.Image | str | Path


class CachingMethod(Protocol):
    """Anything that makes a plan from a schedule, such as `wanjax.MagCache`."""

    def plan(self, schedule: Schedule, conditions: Mapping[str, Any] | None = None) -> Plan: ...


@dataclass
class Timings:
    """Seconds and peak memory by stage; compiling is apart from everything else.

    Peak memory is the device's so far or, where the device does not tell (CPU), the process's.
    """

    programs: Programs
    stages: dict[str, float] = field(default_factory=dict)
    peak_memory: dict[str, int] = field(default_factory=dict)
    steps: list[float] = field(default_factory=list)
    compile: float = 0.0

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        compiled, began = self.programs.seconds, time.perf_counter()
        yield
        elapsed, compiling = time.perf_counter() - began, self.programs.seconds - compiled
        self.stages[stage] = elapsed - compiling
        self.compile += compiling
        self.peak_memory[stage] = peak_memory()


@dataclass(frozen=True)
class Video:
    """What a pipeline call returns. `frames` is None with output_type "latent"."""

    frames: UInt8[np.ndarray, "batch frames height width 3"] | None
    latents: Float[np.ndarray, "batch z t h w"]
    plan: Plan
    timings: Timings
    fps: int

    def save(self, path: str | Path) -> list[Path]:
        """Write an mp4, or NAME-0.mp4, NAME-1.mp4, ... for a batch; returns what was written."""
        if self.frames is None:
            raise UsageError('this call returned latents (output_type="latent"), no frames')
        path = Path(path)
        names = [path]
        if len(self.frames) > 1:
            names = [path.with_stem(f"{path.stem}-{i}") for i in range(len(self.frames))]
        for frames, name in zip(self.frames, names, strict=True):
            save_video(frames, name, self.fps)
        return names


class WanPipeline:
    """Wan with one or two experts, text- or image-conditioned, as its folder says.

    `defaults` are the sampling values for arguments that a call leaves out.
    """

    def __init__(self, folder: Folder, defaults: Config):
        self.folder, self.defaults = folder, defaults
        dtype = jnp.dtype(defaults.weights_dtype)
        self.tokenizer = folder.load_tokenizer()
        self.text_encoder = folder.load_text_encoder(dtype=dtype)
        self.vae = folder.load_vae()
        self.transformers = tuple(
            folder.load_transformer(name, dtype=dtype, kernel=defaults.attention)
            for name in folder.experts
        )
        self.programs = Programs()

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **values: Any) -> WanPipeline:
        """From a preset's name, a folder in diffusers' layout, or a Hub id that a preset has.

        `values` are keys of the configuration, such as `weights_dtype` ("float32",
        "bfloat16"), `activations_dtype`, `attention`, or sampling values that calls then
        have as defaults. Raises `UsageError` (or its `CheckpointError`) for what cannot work.
        """
        name = str(name_or_path)
        is_model = "/" in name or Path(name).exists()
        arguments = [f"model={name}"] if is_model else [name]
        arguments += [f"{key}={value}" for key, value in values.items()]
        config = resolve(arguments, command="show")  # a call brings prompt and output
        return cls.from_config(config)

    @classmethod
    def from_config(cls, config: Config) -> WanPipeline:
        assert config.model is not None
        path = locate(config.model)
        return cls(Folder.open(download(config.model) if path is None else path), config)

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        image: ImageLike | Sequence[ImageLike] | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_scale_2: float | None = None,
        seed: int | Sequence[int] | None = None,
        latents: Float[Array, "batch z t h w"] | None = None,
        prompt_embeds: Float[Array, "batch length dim"] | None = None,
        negative_prompt_embeds: Float[Array, "batch length dim"] | None = None,
        cache: CachingMethod | Plan | None = None,
        output_type: str = "np",
        measure: bool = False,
        callback: Callable[[StepReport], None] | None = None,
    ) -> Video:
        """Generate one video per prompt.

        `guidance_scale` is the high-noise expert's, `guidance_scale_2` the low-noise one's
        (left out: the same). `seed` counts up over the batch, or is one per video.
        `prompt_embeds` take the place of prompts; rows beyond a prompt's end must be zero.
        `cache` is a caching method or a plan of your own. `callback(report)`
        is called after each step; with `measure` the report says how the block residual
        changed. Arguments left out have the values of the preset or folder.
        """
        if output_type not in ("np", "latent"):
            raise UsageError(f'output_type={output_type!r}: must be "np" or "latent"')
        config = self._with(
            height=height,
            width=width,
            num_frames=num_frames,
            num_inference_steps=num_inference_steps,
            **self._guidance(guidance_scale, guidance_scale_2),
        )
        timings = Timings(self.programs)
        schedule = schedule_for(config)
        table = SAMPLERS[config.sampler](config.num_inference_steps, config.flow_shift)
        plan = _plan(cache, schedule, config)
        guided = any(scale > 1 for scale in schedule.guidance_scales)
        with timings.measure("text"):
            embeds = self._embeds(
                prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, guided
            )
            jax.block_until_ready(embeds)  # else the next stage waits for it
        batch = len(embeds[0])
        start = self._noise(latents, seed, batch, config)
        with timings.measure("condition"):
            condition = self._condition(image, batch, config)

        def on_step(report: StepReport) -> None:
            timings.steps.append(report.seconds)
            if callback is not None:
                callback(report)

        settings = Settings(
            graph=nnx.graphdef(self.transformers[0]),
            dtype=config.activations_dtype,
            batch_guidance=config.batch_guidance,
            keep_residual=plan.may(REUSE) or measure,
            keep_outputs=plan.may(PREDICT, REUSE_OUTPUT),
            measure=measure,
        )
        with timings.measure("denoise"):
            experts = self._experts(embeds, schedule)
            final, plan = denoise(
                start, plan, table, experts, settings, self.programs, condition, on_step
            )
        frames = None
        if output_type == "np":
            with timings.measure("decode"):
                frames = self.decode(final)
        return Video(frames, np.asarray(final), plan, timings, config.fps)

    def encode_prompt(self, prompts: Sequence[str]) -> Float[Array, "batch length dim"]:
        """Text embeddings; rows beyond a prompt's end are zero, as the models expect."""
        cleaned = [prompt_clean(prompt) for prompt in prompts]
        ids, mask = self.tokenizer(cleaned, self.defaults.max_sequence_length)
        arguments = (nnx.state(self.text_encoder), ids, mask)
        program = self.programs.get(_encode_text, (nnx.graphdef(self.text_encoder),), arguments)
        return program(*arguments)

    def decode(
        self, latents: Float[Array, "batch z t h w"], dtype: str = "uint8"
    ) -> Shaped[np.ndarray, "batch frames height width 3"]:
        """Pixels of denoised latents: from 0 to 255, or with "float32" from 0 to 1, unrounded."""
        latents = self.vae.denormalize(jnp.moveaxis(jnp.asarray(latents, jnp.float32), 1, -1))
        chunks = decode_frames(self.vae, latents, self.programs)
        convert = _to_uint8 if dtype == "uint8" else _to_unit
        return np.concatenate(list(map(convert, chunks)), axis=1)

    def _with(self, **values: Any) -> Config:
        """The defaults with a call's own values, checked against what the model can do."""
        config = replace(self.defaults, **{k: v for k, v in values.items() if v is not None})
        patch = self.transformers[0].config.patch_size
        vae = self.vae.config
        for name, unit in (("height", patch[1]), ("width", patch[2])):
            check_multiple(name, getattr(config, name), unit * vae.spatial_factor)
        vae.check_frames(config.num_frames)
        return config

    def _guidance(self, high: float | None, low: float | None) -> dict[str, float | None]:
        if len(self.transformers) == 1:
            if low is not None:
                raise UsageError("guidance_scale_2: this model has one expert; give guidance_scale")
            return {"guidance_scale_high": high}
        return {"guidance_scale_high": high, "guidance_scale_low": high if low is None else low}

    def _embeds(
        self,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] | None,
        prompt_embeds: Array | None,
        negative_prompt_embeds: Array | None,
        guided: bool,
    ) -> tuple[Array, ...]:
        """Conditional and, where guidance acts, unconditional text embeddings."""
        if (prompt is None) == (prompt_embeds is None):
            raise UsageError("give either prompt or prompt_embeds")
        if prompt is not None:
            prompts = _as_list(prompt)
            prompt_embeds = self.encode_prompt(prompts)
        assert prompt_embeds is not None
        prompt_embeds = jnp.asarray(prompt_embeds)
        if not guided:
            return (prompt_embeds,)
        if negative_prompt_embeds is None:
            if negative_prompt is None:
                negative_prompt = self.defaults.negative_prompt
            negative = _repeat(_as_list(negative_prompt), len(prompt_embeds), "negative_prompt")
            negative_prompt_embeds = self.encode_prompt(negative)
        if negative_prompt_embeds.shape != prompt_embeds.shape:
            raise UsageError(
                f"negative_prompt_embeds have shape {negative_prompt_embeds.shape}, "
                f"prompt_embeds {prompt_embeds.shape}; they must be equal"
            )
        return prompt_embeds, jnp.asarray(negative_prompt_embeds)

    def _noise(
        self,
        latents: Array | None,
        seed: int | Sequence[int] | None,
        batch: int,
        config: Config,
    ) -> Float[Array, "batch z t h w"]:
        vae = self.vae.config
        t = (config.num_frames - 1) // vae.temporal_factor + 1
        size = (config.height // vae.spatial_factor, config.width // vae.spatial_factor)
        shape = (vae.z_dim, t, *size)
        if latents is not None:
            if latents.shape != (batch, *shape):
                raise UsageError(f"latents have shape {latents.shape}, expected {(batch, *shape)}")
            return jnp.array(latents, jnp.float32)  # a copy: the loop consumes its own
        seed = config.seed if seed is None else seed
        seeds = [seed + i for i in range(batch)] if isinstance(seed, int) else list(seed)
        if len(seeds) != batch:
            raise UsageError(f"{len(seeds)} seeds for {batch} videos; give one, or one each")
        return jnp.stack([jax.random.normal(jax.random.key(s), shape) for s in seeds])

    def _condition(
        self, image: ImageLike | Sequence[ImageLike] | None, batch: int, config: Config
    ) -> Float[Array, "batch c t h w"] | None:
        conditioned = self.transformers[0].config.in_channels > self.vae.config.z_dim
        if conditioned != (image is not None):
            raise UsageError(
                "this model animates a picture: give image=FILE"
                if conditioned
                else "this is a text-to-video model, which takes no image; leave image out"
            )
        if image is None:
            return None
        several = image if isinstance(image, Sequence) and not isinstance(image, str) else [image]
        images = [to_rgb(i) if isinstance(i, Image.Image) else load_image(i) for i in several]
        frames = to_batch(_repeat(images, batch, "image"), config.height, config.width)
        return jnp.asarray(image_condition(self.vae, frames, config.num_frames, self.programs))

    def _experts(self, embeds: Sequence[Array], schedule: Schedule) -> list[Expert | None]:
        """Each expert with its own projection of the context; None for one without steps."""
        experts: list[Expert | None] = [None] * len(self.transformers)
        for phase in schedule.phases:
            number = schedule.experts[phase.start]
            branches = schedule.num_branches(phase.start)
            text = jnp.concatenate(list(embeds[:branches])).astype(self.defaults.activations_dtype)
            graph, params = nnx.split(self.transformers[number])
            program = self.programs.get(_embed_context, (graph,), (params, text))
            experts[number] = Expert(params, program(params, text))
        return experts


def _plan(cache: CachingMethod | Plan | None, schedule: Schedule, config: Config) -> Plan:
    if cache is None:
        return dense_plan(schedule)
    if isinstance(cache, Plan):
        if cache.schedule != schedule:
            raise UsageError("cache: this plan was made for other steps than this call's")
        return cache
    return cache.plan(schedule, conditions_of(config))


def check_multiple(name: str, value: int, unit: int) -> None:
    """Raise `UsageError` for a size that the model cannot have, with the nearest it can."""
    if value < unit or value % unit:
        nearest = max(unit, round(value / unit) * unit)
        raise UsageError(f"{name}={value}: must be a multiple of {unit}, such as {nearest}")


def peak_memory() -> int:
    """Bytes: the device's peak so far or, on CPU, the process's."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def _as_list(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _repeat(values: Sequence[Any], count: int, name: str) -> list[Any]:
    if len(values) not in (1, count):
        raise UsageError(f"{name}: {len(values)} for {count} prompts; give one, or one each")
    return list(values) * (count if len(values) == 1 else 1)


def _encode_text_impl(graph: nnx.GraphDef, params: nnx.State, ids: Array, mask: Array) -> Array:
    return nnx.merge(graph, params)(ids, mask) * mask[..., None]


def _embed_context_impl(graph: nnx.GraphDef, params: nnx.State, text: Array) -> Context:
    model: WanTransformer = nnx.merge(graph, params)
    return model.embed_context(text)


_encode_text = jax.jit(_encode_text_impl, static_argnums=0)
_embed_context = jax.jit(_embed_context_impl, static_argnums=0)


def _to_unit(video: Float[np.ndarray, "b f H W 3"]) -> Float[np.ndarray, "b f H W 3"]:
    return (np.clip(video, -1, 1) + 1) / 2


def _to_uint8(video: Float[np.ndarray, "b f H W 3"]) -> UInt8[np.ndarray, "b f H W 3"]:
    return np.round(_to_unit(video) * 255).astype(np.uint8)
