"""Text (and image) in, video out: encode, condition, denoise as planned, decode."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8
from PIL import Image

from wanjax.caching.method import Measure
from wanjax.checkpoints.folder import Folder
from wanjax.checkpoints.loras import live_text
from wanjax.config.keys import Config, active_methods, config_class, keys
from wanjax.config.resolve import resolve
from wanjax.errors import CheckpointError, UsageError
from wanjax.media.images import fit_size
from wanjax.parallel.hosts import fetch
from wanjax.pipeline.abilities import Abilities
from wanjax.pipeline.components import Components
from wanjax.pipeline.conditioning import condition_of
from wanjax.pipeline.decode import decode_latents
from wanjax.pipeline.encode import embed_prompts, encode_prompts
from wanjax.pipeline.experts import bring_next_expert, experts_of_run
from wanjax.pipeline.finite import check_latents, check_step, require_finite, sources_of
from wanjax.pipeline.inputs import (
    Embeds,
    Frames,
    ImageLike,
    OneOrMore,
    Prompts,
    spread,
    start_latents,
)
from wanjax.pipeline.machine import machine
from wanjax.pipeline.notices import notice
from wanjax.pipeline.preview import Preview, sample_latents
from wanjax.pipeline.progress import Progress
from wanjax.pipeline.timings import Stopwatch
from wanjax.pipeline.video import Video
from wanjax.planning.memory import Fit, Memory
from wanjax.planning.run import FROM_CONFIG, Caching, Run, of_one_task, prepare
from wanjax.sampling.compilation_cache import use_compilation_cache
from wanjax.sampling.denoise import StepReport, denoise
from wanjax.sampling.programs import Programs
from wanjax.settings import parse


class WanPipeline(Abilities):
    """Wan with one or two experts, text- or image-conditioned, as its folder says.

    `components` are the model's parts, `programs` what is compiled of them; `config` has the
    values for arguments that a call leaves out, `target` is the machine.
    """

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, progress: bool | None = None, **values: Any
    ) -> WanPipeline:
        """From a preset's name, a folder in diffusers' layout, or a Hub id that a preset has.

        `values` are keys of the configuration, such as `weights_dtype` ("float32",
        "bfloat16"), `use_magcache`, or sampling values that calls then have as defaults.
        `progress`: show what is loading; left out, in a terminal and in a notebook.
        `compilation_cache` is off here, since JAX has one cache for all of a process. Raises
        `UsageError` (or its `CheckpointError`) for what cannot work.
        """
        name = str(name_or_path)
        is_model = "/" in name or os.path.exists(name)
        arguments = [f"model={name}"] if is_model else [name]
        values = {"compilation_cache": False} | values
        # a call brings prompt and output
        return cls.from_config(resolve(arguments, command="show", values=values), progress)

    @classmethod
    def from_config(cls, config: Config, progress: bool | None = False) -> WanPipeline:
        """The configuration's model, with all its parts loaded.

        Raises `UsageError` where the devices have no room for it, before anything is loaded.
        """
        pipe = cls.without_weights(config)
        pipe.load(progress)
        return pipe

    @classmethod
    def without_weights(cls, config: Config, folder: Folder | None = None) -> WanPipeline:
        """As `from_config`, with nothing loaded yet: each part is when it is first used.

        `folder` takes the place of the configuration's model.
        """
        use_compilation_cache(config.compilation_cache)
        run = prepare(replace(config, image=None, last_image=None), None)
        target, mesh = machine(config, run.plan)
        components = (
            Components.of(config, mesh) if folder is None else Components(folder, config, mesh)
        )
        return cls(components, config, Programs(mesh), target)

    def load(self, progress: bool | None = False) -> None:
        """Load all parts that are not here yet, each to its place; `progress` as in a call.

        Raises `UsageError` where the devices have no room for the run, before anything is loaded.
        """
        run = prepare(replace(self.config, image=None, last_image=None), None)
        first, *_ = self.fit(run).placement.stages
        self.components.load(first.places, Progress(progress).loading)

    def __repr__(self) -> str:
        config, count = self.config, len(self.components.folder.experts)
        facts = [
            "text or image to video"
            if self.may_take_image
            else "image to video"
            if self.takes_image
            else "text to video",
            "two experts" if count == 2 else "one expert",
            f"{config.width}x{config.height}",
            f"{config.num_frames} frames",
            f"{config.num_inference_steps} steps",
            *(f"cache {method.name}" for method in active_methods(config)),
            config.weights_dtype,
        ]
        return f"WanPipeline({config.preset or config.model}: {', '.join(facts)})"

    def with_config(self, config: Config) -> WanPipeline:
        """The same model and programs under other values; what is loaded is shared."""
        return WanPipeline(self.components, config, self.programs, self.target)

    def set_loras(
        self, lora: str | None = None, *, high: str | None = None, low: str | None = None
    ) -> None:
        """Other live LoRAs from now on, or the same with other strengths, or none.

        Each is `FILE[:STRENGTH]`, with commas between several; `high` and `low` are those of one
        expert alone. With other strengths nothing is loaded or compiled again. Those that were
        merged into the weights stay. Raises `CheckpointError` for what does not fit the model.
        """
        config = replace(
            self.config,
            lora=live_text(self.config.lora, lora, "lora"),
            lora_high=live_text(self.config.lora_high, high, "lora_high"),
            lora_low=live_text(self.config.lora_low, low, "lora_low"),
        )
        self.components.take_loras(config)
        self.config = config

    def __call__(
        self,
        prompt: OneOrMore = None,
        negative_prompt: OneOrMore = None,
        image: ImageLike | Sequence[ImageLike] | None = None,
        last_image: ImageLike | Sequence[ImageLike] | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | None = None,
        sampler: str | None = None,
        guidance_scale: float | None = None,
        guidance_scale_2: float | None = None,
        num_videos_per_prompt: int = 1,
        seed: int | np.integer | Sequence[int] | None = None,
        latents: Float[Array | np.ndarray, "batch z t h w"] | None = None,
        prompt_embeds: Embeds | None = None,
        negative_prompt_embeds: Embeds | None = None,
        cache: Caching = FROM_CONFIG,
        output_type: str = "np",
        measures: Sequence[Measure] = (),
        callback: Callable[[StepReport], None] | None = None,
        progress: bool | None = None,
    ) -> Video:
        """Generate `num_videos_per_prompt` videos per prompt, those of a prompt side by side.

        `image` is the first frame of all videos, or one each; `last_image` likewise the last
        frame, where the model takes one. An image is scaled and cut to `height` and `width`;
        without them, and with the configuration's `fit_image`, these follow from its aspect
        ratio.

        `sampler` is "unipc" or "euler".
        `guidance_scale` is the high-noise expert's, `guidance_scale_2` the low-noise one's
        (left out: the same). `seed` counts up over the batch, or is one per video.
        `prompt_embeds` take the place of prompts; rows beyond a prompt's end must be zero.
        `cache` is a caching method (settings that it was not given are the configuration's),
        the name of one, a plan of your own, or None for a dense run; left out, it is what the
        configuration switches on. `callback(report)` is called after each step with a
        `StepReport`, of which `preview` makes a picture; it has what `measures` ask for (see
        `caching.method.Measure`). `output_type` is "np", "pil" (`frames` are lists of images) or
        "latent" (there are none). `progress`: show how far compiling and steps are; left out, in a
        terminal and in a notebook. Arguments left out have the values of the preset or folder.
        """
        if output_type not in ("np", "pil", "latent"):
            raise UsageError(f'output_type={output_type!r}: must be "np", "pil" or "latent"')
        frames = self.frames(image, last_image)
        if height is None and width is None and self.config.fit_image and frames.first:
            pixels = self.config.height * self.config.width
            height, width = fit_size(frames.first[0], pixels, self.size_units()[0])
        config = self._with(
            height=height,
            width=width,
            num_frames=num_frames,
            num_inference_steps=num_inference_steps,
            sampler=sampler,
            **self._guidance(guidance_scale, guidance_scale_2),
        )
        run = prepare(of_one_task(config, bool(frames.first)), cache)
        prompts = Prompts(
            prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, num_videos_per_prompt
        )
        with Progress(progress).over(self.programs) as shown:
            video = self.execute(
                run,
                prompts,
                frames,
                seed=config.seed if seed is None else seed,
                latents=latents,
                decode=output_type != "latent",
                measures=measures,
                callback=shown.steps(run.plan, callback),
            )
        return video.as_images() if output_type == "pil" else video

    def execute(
        self,
        run: Run,
        prompts: Prompts,
        frames: Frames,
        *,
        seed: int | np.integer | Sequence[int],
        latents: Float[Array | np.ndarray, "batch z t h w"] | None = None,
        decode: bool = True,
        measures: Sequence[Measure] = (),
        callback: Callable[[StepReport], None] | None = None,
    ) -> Video:
        """A prepared run, from what a call was given to its video.

        Warns (`Notice`) of prompts and pictures that the model will not take as they are.
        """
        config, stopwatch, fit = run.config, Stopwatch(self.programs), self.fit(run)
        self.check_size(config)
        self.components.take_loras(config)
        require_finite("latents", latents)
        require_finite("prompt_embeds", prompts.prompt_embeds)
        require_finite("negative_prompt_embeds", prompts.negative_prompt_embeds)
        tokenizer = self.components.tokenizer if prompts.texts else None
        notice(config, prompts.texts, frames.all, tokenizer)
        with stopwatch.measure("text"):
            self.components.arrange(fit.placement["text"].places)
            guided = max(run.schedule.guidance_scales) > 1
            embeds = embed_prompts(self.encode_prompt, prompts, config.negative_prompt, guided)
            jax.block_until_ready(embeds)  # else the next stage waits for it
        if config.low_memory:
            self.components.rest("text_encoder")
        start = start_latents(self.latents_shape(config), len(embeds[0]), seed, latents)
        with stopwatch.measure("condition"):
            self.components.arrange(fit.placement["condition"].places)
            ends = frames.repeated(len(start), prompts.copies)
            condition = condition_of(
                ends,
                config,
                self.components,
                self.programs,
                fit.stripe_rows.encode,
                expand_timesteps=self.may_take_image,
            )
            experts = experts_of_run(self.components, self.programs, run, fit, embeds, ends)
        texts = ("the prompt's embedding", "the negative prompt's embedding")
        inputs = {
            **dict(zip(texts, embeds, strict=False)),
            "the image's embedding": experts.contexts.image,
            "the image's encoding": condition,
        }
        sources = sources_of(self.components, experts.transformer, inputs)

        def on_step(report: StepReport) -> None:
            stopwatch.timings.steps.append(report.seconds)
            if config.nonfinite == "each_step":
                check_step(report, sources)
            if callback is not None:
                callback(report)

        with stopwatch.measure("denoise"):
            final, plan = denoise(
                start,
                run.plan,
                run.table,
                experts,
                self.settings(run, start.shape, measures),
                self.programs,
                condition,
                on_step,
                bring_next_expert(self.components, run, fit),
            )
        denoised = fetch(final)
        check_latents(denoised, config, sources)
        pixels = None
        if decode:
            with stopwatch.measure("decode"):
                pixels = self.decode_in(fit, denoised, finite=config.nonfinite != "keep")
        keys_values = nbytes(experts.contexts.made) if config.use_kv_cache else None
        return Video(
            pixels,
            denoised,
            plan,
            stopwatch.timings,
            config.fps,
            Memory(keys_values, run.memory.cache_bytes, fit),
            tuple(spread(prompts.texts, prompts.copies)),
        )

    def encode_prompt(self, prompts: Sequence[str]) -> Embeds:
        """Text embeddings; rows beyond a prompt's end are zero, as the models expect."""
        length = self.config.max_sequence_length
        return encode_prompts(self.components, self.programs, prompts, length)

    def decode(
        self,
        latents: Float[Array | np.ndarray, "batch z t h w"],
        dtype: Literal["uint8", "float32"] = "uint8",
        *,
        stripe_rows: int | None = None,
        finite: bool = True,
    ) -> Shaped[np.ndarray, "batch frames height width 3"]:
        """Pixels of denoised latents: from 0 to 255, or with "float32" from 0 to 1, unrounded.

        `stripe_rows` of latents at a time on each device; left out, whole frames, or of a
        mesh's devices each its share. Raises `NonFiniteError` where they are not `finite`, unless
        they need not be.
        """
        vae = self.components.vae
        return decode_latents(vae, self.programs, latents, dtype, stripe_rows, finite=finite)

    def decode_in(
        self, fit: Fit, latents: Float[Array | np.ndarray, "batch z t h w"], *, finite: bool = True
    ) -> UInt8[np.ndarray, "batch frames height width 3"]:
        """As a run of this `fit` decodes: the parts where it has them, in its stripes."""
        self.components.arrange(fit.placement["decode"].places)
        return self.decode(latents, stripe_rows=fit.stripe_rows.decode, finite=finite)

    def preview(
        self, report: StepReport, *, video: int = 0, frame: int | None = None
    ) -> Image.Image:
        """A small picture of what a step takes the end to be, at next to no cost.

        Of the latent frame `frame`, or the middle one. It is a linear map of the latents, fitted
        once per VAE: colours and places are right, edges are not. Raises `CheckpointError` for a
        VAE that has no fit yet (`fit_preview`).
        """
        if self.components.preview is None:
            raise CheckpointError(
                "preview: there is no linear fit of this VAE; pipe.fit_preview() makes one, from "
                "random latents that it decodes, and fit_preview(video) from a video of yours"
            )
        latents = report.denoised[video]
        at = latents.shape[1] // 2 if frame is None else frame
        return self.components.preview.picture(latents[:, at])

    def fit_preview(self, video: Video | None = None) -> Preview:
        """Fit what `preview` shows for this VAE, and keep it for this pipeline.

        From random latents, which the VAE decodes, and the frames of `video`, if given: the more
        it shows, the better. `.save(FOLDER / "vae/preview.json")` keeps the fit with the model.
        """
        vae = self.components.vae_config
        samples = sample_latents(vae.z_dim, 2)
        fits = [(samples, self.decode(samples, "float32"))]
        if video is not None:
            fits.append((video.latents, video.array().astype(np.float32) / 255))
        self.components.preview = Preview.fit_all(fits)
        return self.components.preview

    def _with(self, **values: Any) -> Config:
        """The configuration with a call's own values."""
        given = {name: value for name, value in values.items() if value is not None}
        fields = keys()
        typed = {n: parse(config_class(), fields[n], given[n], text=False) for n in given}
        if typed.get("num_inference_steps", self.config.num_inference_steps) != (
            self.config.num_inference_steps
        ):
            typed["timesteps"] = None  # which were those of so many steps
        # the images of a call are its own
        return replace(self.config, **typed, image=None, last_image=None)

    def _guidance(self, high: float | None, low: float | None) -> dict[str, float | None]:
        if len(self.components.folder.experts) == 1:
            if low is not None:
                raise UsageError("guidance_scale_2: this model has one expert; give guidance_scale")
            return {"guidance_scale_high": high}
        return {"guidance_scale_high": high, "guidance_scale_low": high if low is None else low}


def nbytes(tree: Any) -> int:
    """What arrays hold, over all devices."""
    return sum(x.nbytes for x in jax.tree.leaves(tree))
