"""Text (and image) in, video out: encode, condition, plan, denoise, decode."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
from wanjax.checkpoints.locate import locate
from wanjax.config.keys import KEYS, Config
from wanjax.config.resolve import resolve
from wanjax.config.values import coerce
from wanjax.errors import UsageError
from wanjax.media.images import load_image, to_rgb
from wanjax.media.tokenizer import prompt_clean
from wanjax.models.transformer import Context, KeysValues, WanTransformer
from wanjax.pipeline.conditioning import fit_size, image_condition, to_batch
from wanjax.pipeline.vae_stream import decode_video
from wanjax.pipeline.video import Timings, Video
from wanjax.planning.plans import conditions_of, schedule_for
from wanjax.sampling.denoise import StepReport, denoise
from wanjax.sampling.programs import Programs
from wanjax.sampling.step import Expert, Measure, Settings
from wanjax.schedulers import SAMPLERS

ImageLike = Image.Image | str | Path


class CachingMethod(Protocol):
    """Anything that makes a plan from a schedule, such as `wanjax.MagCache`."""

    def plan(self, schedule: Schedule, conditions: Mapping[str, Any] | None = None) -> Plan: ...


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
        self.image_encoder = None
        if self.transformers[0].config.image_dim is not None:
            self.image_processor = folder.load_image_processor()
            self.image_encoder = folder.load_image_encoder(dtype=dtype)
        self.programs = Programs()

    @property
    def takes_image(self) -> bool:
        """Whether this is image to video."""
        return self.transformers[0].config.in_channels > self.vae.config.z_dim

    @property
    def takes_two_images(self) -> bool:
        """Whether the image embeddings must be those of a first and a last frame."""
        return self.transformers[0].config.pos_embed_seq_len is not None

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
        last_image: ImageLike | Sequence[ImageLike] | None = None,
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
        measure: Measure | None = None,
        callback: Callable[[StepReport], None] | None = None,
    ) -> Video:
        """Generate one video per prompt.

        `image` is the first frame of all videos, or one each; `last_image` likewise the last
        frame, where the model takes one. An image is scaled and cut to `height` and `width`;
        without them, and with the configuration's `fit_image`, these follow from its aspect
        ratio.

        `guidance_scale` is the high-noise expert's, `guidance_scale_2` the low-noise one's
        (left out: the same). `seed` counts up over the batch, or is one per video.
        `prompt_embeds` take the place of prompts; rows beyond a prompt's end must be zero.
        `cache` is a caching method or a plan of your own. `callback(report)`
        is called after each step; with `measure` the report says how the block "residual" or
        the model's "output" changed. Arguments left out have the values of the preset or folder.
        """
        if output_type not in ("np", "latent"):
            raise UsageError(f'output_type={output_type!r}: must be "np" or "latent"')
        first, last = self._images(image, last_image)
        if height is None and width is None and self.defaults.fit_image and first:
            height, width = fit_size(first[0], self.defaults.height * self.defaults.width, 16)
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
            condition = self._condition(first, last, batch, config)
            image_embeds = self._image_embeds(first, last, batch)
            experts = self._experts(embeds, image_embeds, schedule)
            contexts = [expert.context for expert in experts if expert]
            jax.block_until_ready(contexts)

        def on_step(report: StepReport) -> None:
            timings.steps.append(report.seconds)
            if callback is not None:
                callback(report)

        model = self.transformers[0]
        settings = Settings(
            graph=nnx.graphdef(model),
            dtype=config.activations_dtype,
            tokens=(math.prod(model.grid(start.shape)), model.config.width),
            batch_guidance=config.batch_guidance,
            keep_residual=plan.may(REUSE) or measure == "residual",
            keep_outputs=plan.may(PREDICT, REUSE_OUTPUT) or measure == "output",
            measure=measure,
        )
        if config.use_kv_cache:
            held = sum(x.nbytes for x in jax.tree.leaves(contexts))
            plan = replace(plan, kv_cache_bytes=held)
        with timings.measure("denoise"):
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
        convert = _to_uint8 if dtype == "uint8" else _to_unit
        return decode_video(self.vae, latents, self.programs, convert)

    def _with(self, **values: Any) -> Config:
        """The defaults with a call's own values, checked against what the model can do."""
        given = {name: value for name, value in values.items() if value is not None}
        typed = {name: coerce(Config, KEYS[name], given[name], text=False) for name in given}
        config = replace(self.defaults, **typed)
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
        if isinstance(seed, int | np.integer):
            seed = [int(seed) + i for i in range(batch)]
        if len(seed) != batch:
            raise UsageError(f"{len(seed)} seeds for {batch} videos; give one, or one each")
        return jnp.stack([jax.random.normal(jax.random.key(s), shape) for s in seed])

    def _images(self, *given: ImageLike | Sequence[ImageLike] | None) -> list[list[Image.Image]]:
        """First and last frames as upright RGB; raises `UsageError` for what cannot be used."""
        first, last = (_as_images(images) for images in given)
        if self.takes_image != bool(first):
            raise UsageError(
                "this model animates a picture: give image=FILE"
                if self.takes_image
                else "this is a text-to-video model, which takes no image; leave image out"
            )
        if self.takes_two_images and not last:
            raise UsageError("this model goes from a first to a last frame: give last_image too")
        if last and self.image_encoder is not None and not self.takes_two_images:
            raise UsageError("this model was not made for a last frame; leave last_image out")
        return [first, last]

    def _condition(
        self,
        first: Sequence[Image.Image],
        last: Sequence[Image.Image],
        batch: int,
        config: Config,
    ) -> Float[Array, "batch c t h w"] | None:
        """What is concatenated to the latents' channels."""
        if not first:
            return None
        size = (config.height, config.width)
        frames = [to_batch(_repeat(x, batch, "image"), *size) for x in (first, last) if x]
        return jnp.asarray(image_condition(self.vae, config.num_frames, self.programs, *frames))

    def _image_embeds(
        self, first: Sequence[Image.Image], last: Sequence[Image.Image], batch: int
    ) -> Float[Array, "images tokens dim"] | None:
        """CLIP's view of the images: of each video the first and, if taken, the last frame."""
        if self.image_encoder is None:
            return None
        ends = [_repeat(images, batch, "image") for images in (first, last) if images]
        in_turn = [image for video in zip(*ends, strict=True) for image in video]
        pixels = np.stack([self.image_processor(image) for image in in_turn])
        graph, params = nnx.split(self.image_encoder)
        program = self.programs.get(_encode_images, (graph,), (params, pixels))
        return program(params, pixels)

    def _experts(
        self, embeds: Sequence[Array], image_embeds: Array | None, schedule: Schedule
    ) -> list[Expert | None]:
        """Each expert with its own projection of the context; None for one without steps."""
        experts: list[Expert | None] = [None] * len(self.transformers)
        dtype = self.defaults.activations_dtype
        for phase in schedule.phases:
            number = schedule.experts[phase.start]
            branches = schedule.num_branches(phase.start)
            text = jnp.concatenate(list(embeds[:branches])).astype(dtype)
            image = None
            if image_embeds is not None:
                image = jnp.concatenate([image_embeds] * branches).astype(dtype)
            graph, params = nnx.split(self.transformers[number])
            static = (graph, self.defaults.use_kv_cache)
            program = self.programs.get(_embed_context, static, (params, text, image))
            experts[number] = Expert(nnx.to_pure_dict(params), program(params, text, image))
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


def _as_images(images: ImageLike | Sequence[ImageLike] | None) -> list[Image.Image]:
    if images is None:
        return []
    several = [images] if isinstance(images, ImageLike) else images
    for image in several:
        if not isinstance(image, ImageLike):
            raise UsageError(f"image: give a file or a PIL image, not a {type(image).__name__}")
    return [to_rgb(i) if isinstance(i, Image.Image) else load_image(i) for i in several]


def _as_list(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _repeat(values: Sequence[Any], count: int, name: str) -> list[Any]:
    if len(values) not in (1, count):
        raise UsageError(f"{name}: {len(values)} for {count} prompts; give one, or one each")
    return list(values) * (count if len(values) == 1 else 1)


def _encode_text_impl(graph: nnx.GraphDef, params: nnx.State, ids: Array, mask: Array) -> Array:
    return nnx.merge(graph, params)(ids, mask) * mask[..., None]


def _embed_context_impl(
    graph: nnx.GraphDef, keys_values: bool, params: nnx.State, text: Array, image: Array | None
) -> Context | KeysValues:
    """The context as the model projects it, or its `keys_values` in every layer."""
    model: WanTransformer = nnx.merge(graph, params)
    context = model.embed_context(text, image)
    return model.keys_values(context) if keys_values else context


def _encode_images_impl(graph: nnx.GraphDef, params: nnx.State, pixels: Array) -> Array:
    return nnx.merge(graph, params)(pixels)


_encode_text = jax.jit(_encode_text_impl, static_argnums=0)
_encode_images = jax.jit(_encode_images_impl, static_argnums=0)
_embed_context = jax.jit(_embed_context_impl, static_argnums=(0, 1))


def _to_unit(video: Float[np.ndarray, "b f H W 3"]) -> Float[np.ndarray, "b f H W 3"]:
    return (np.clip(video, -1, 1) + 1) / 2


def _to_uint8(video: Float[np.ndarray, "b f H W 3"]) -> UInt8[np.ndarray, "b f H W 3"]:
    return np.round(_to_unit(video) * 255).astype(np.uint8)
