"""Every program of a run, compiled for devices that may be elsewhere, and what it takes there.

The pipeline's own functions make the programs, from parameters that have shapes, dtypes and
places alone (`checkpoints.abstract`): no weights, no network, no array of any size.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from wanjax.checkpoints.abstract import AbstractFolder
from wanjax.checkpoints.published_models import ModelConfigs
from wanjax.models.transformer import WanTransformer
from wanjax.models.vae_stripes import decoder_middle, encoder_middle, rounds
from wanjax.parallel.mesh import MeshShape
from wanjax.parallel.sharding import activation_sharding
from wanjax.parallel.targets import Target
from wanjax.pipeline.components import Components
from wanjax.pipeline.encode import Contexts, encode_ids, encode_pixels
from wanjax.pipeline.experts import Experts
from wanjax.pipeline.pipeline import WanPipeline
from wanjax.pipeline.vae_stream import VAENetwork
from wanjax.planning.memory import Fit, advice, fit_on
from wanjax.planning.placement import Placement, Stage, place, stage_names
from wanjax.planning.run import Run
from wanjax.sampling.abstract import AbstractPrograms, Figures
from wanjax.sampling.condition import FirstFrames
from wanjax.sampling.denoise import compile_steps
from wanjax.sampling.step import LATENTS, SamplerState, cache_like

Report = Callable[[str], None]


@dataclass(frozen=True)
class CompiledRun:
    """What the compiler says: figures by program, and how the stages fill a device.

    A program's entry may stand for several that run one after the other (`decode`: the first
    chunk, then the others): it has the figures of the one that needs most.
    """

    target: Target
    mesh: Mesh | None
    programs: dict[str, Figures]
    placement: Placement
    weights: dict[str, int]  # bytes of one device, by component
    cache: int  # bytes of one device that the plan keeps of computed steps
    estimate: Fit  # the same by arithmetic
    advice: list[str]  # keys, each of which would make a run fit that does not

    @property
    def fits(self) -> bool:
        refused = any(figures.refused for figures in self.programs.values())
        return self.placement.fits and not refused


def compile_run(
    run: Run,
    target: Target,
    configs: ModelConfigs,
    mesh: Mesh | None,
    tell: Report,
    *,
    decode: bool = True,
) -> CompiledRun:
    """Compile all programs of a run of one video; `tell` is told what is being compiled.

    Without `decode` that stage is left out, which takes a TPU's compiler longest. Raises
    `UsageError` for a size that the model cannot make, and `CheckpointError` for configurations
    of no Wan model.
    """
    return Compiling(run, target, configs, AbstractPrograms(mesh, tell)).compile(decode)


class Compiling:
    """A run's programs, made by calling the pipeline's functions on what is abstract.

    `text` gives `condition` what it needs, and both of them `denoise`; `decode` stands alone.
    """

    def __init__(self, run: Run, target: Target, configs: ModelConfigs, programs: AbstractPrograms):
        folder = AbstractFolder.of(run.name, configs)
        self.run, self.target, self.configs = run, target, configs
        self.programs, self.mesh = programs, programs.mesh
        mesh = self.mesh
        self.components = Components(folder, run.config, mesh)
        self.pipe = WanPipeline(self.components, run.config, self.programs)
        self.pipe.check_size(run.config)
        shape = MeshShape() if mesh is None else MeshShape(**mesh.shape)
        self.estimate = fit_on(run.config, run.plan, configs, target, shape)
        self.rows = self.estimate.stripe_rows
        self.shape = (1, *self.pipe.latents_shape(run.config))
        self.found: dict[str, Figures] = {}
        self.stages: list[Stage] = []
        self.kept = 0  # bytes that the plan keeps of computed steps

    def compile(self, decode: bool) -> CompiledRun:
        embeds = self.text()
        experts, condition = self.condition(embeds)
        self.denoise(experts, condition)
        if decode:
            self.decode()
        weights = {name: device_bytes(self.parameters(name)) for name in self.names}
        placement = place(weights, self.stages, self.target.memory_limit)
        made = CompiledRun(
            self.target, self.mesh, self.found, placement, weights, self.kept, self.estimate, []
        )
        if made.fits:
            return made
        config, plan = self.run.config, self.run.plan
        return dataclasses.replace(made, advice=advice(config, plan, self.configs, self.target))

    @property
    def names(self) -> list[str]:
        return [name for name in self.configs.components if name in self.components.names]

    def parameters(self, name: str) -> Any:
        folder = self.components.folder
        if name in folder.experts:
            return nnx.state(self.components.transformers[folder.experts.index(name)])
        return nnx.state(getattr(self.components, name))

    def like(self, shape: Sequence[int], dtype: Any, *axes: str | None) -> jax.ShapeDtypeStruct:
        sharding = activation_sharding(axes or (None,) * len(shape), shape, self.mesh)
        return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=sharding)

    def add(self, name: str, uses: Sequence[str], held: Any, since: int) -> None:
        """A stage whose programs are those made since; `held` are the arrays that it keeps."""
        figures = [program.figures for program in self.programs.made[since:]]
        self.found[name] = _together(name, figures)
        added = max(f.added_bytes for f in figures)
        self.stages.append(Stage(name, frozenset(uses), device_bytes(held), added))

    def text(self) -> tuple[Any, ...]:
        since = len(self.programs.made)
        ids = from_host((1, self.run.config.max_sequence_length), jnp.int32)
        embeds = encode_ids(self.components.text_encoder, self.programs, ids, ids)
        self.add("text", ["text_encoder"], (ids, ids, embeds), since)
        return (embeds,) * max(len(step.actions) for step in self.run.plan.steps)

    def condition(self, embeds: tuple[Any, ...]) -> tuple[Experts, Any]:
        config, since = self.run.config, len(self.programs.made)
        uses, condition, cache, image = [], None, None, None
        if config.task == "i2v":
            condition, cache = self.image_latents()
            uses.append("vae")
        if self.components.image_encoder is not None:
            image = self.image_embeds()
            uses.append("image_encoder")
        contexts = Contexts(
            self.programs,
            self.run.schedule,
            embeds,
            image,
            config.activations_dtype,
            config.use_kv_cache,
        )
        for phase in self.run.schedule.phases:
            number = self.run.schedule.experts[phase.start]
            contexts.of(number, self.transformer(number))
        held = (embeds, condition, cache, image, contexts.made)
        self.add("condition", uses, held, since)
        return Experts(self.transformer, self.components.parameters, contexts), condition

    def transformer(self, number: int) -> WanTransformer:
        return self.components.transformers[number]

    def image_latents(self) -> tuple[Any, Any]:
        """The VAE's view of the first frame, and the mask beside it; the VAE's cache."""
        vae, config = self.components.vae, self.run.config
        factor, (z, t, h, w) = vae.config.temporal_factor, self.shape[1:]
        given = self.pipe.may_take_image  # the first latent frame, and no other is looked at
        t = 1 if given else t
        frames = [1] + [factor] * min(t - 1, 1)
        chunks = [from_host((1, n, config.height, config.width, 3), jnp.float32) for n in frames]
        since = len(self.programs.made)
        network, rows = VAENetwork(vae, self.programs), self.rows.encode
        starts, *_ = rounds(rows, h, network.devices)
        part, *_ = network.stripes("encode_stripe", starts, rows, h, chunks)
        features = self.like((*part.shape[:2], h, *part.shape[3:]), part.dtype)
        list(network.middle("encode_middle", encoder_middle(vae.config), [features]))
        channels = z if given else factor + z
        latents: Any = self.like((1, channels, t, h, w), jnp.float32, *LATENTS)
        return FirstFrames(latents) if given else latents, (
            [features] * t,
            self.largest_cache(since),
        )

    def largest_cache(self, since: int) -> Any:
        """What the VAE hands from chunk to chunk; one cache at a time is alive."""
        caches = [program.results[1] for program in self.programs.made[since:]]
        return max(caches, key=device_bytes)

    def image_embeds(self) -> Any:
        encoder = self.components.image_encoder
        assert encoder is not None
        size, count = encoder.config.image_size, 1 + self.pipe.takes_two_images
        pixels = from_host((count, size, size, 3), jnp.float32)
        return encode_pixels(encoder, self.programs, pixels)

    def denoise(self, experts: Experts, condition: Any) -> None:
        plan, since = self.run.plan, len(self.programs.made)
        sample = self.like(self.shape, jnp.float32, *LATENTS)
        state = SamplerState(*[cast(Any, sample)] * 4)
        settings = self.pipe.settings(self.run, self.shape)
        steps, _probes = compile_steps(
            plan, self.run.table, experts, settings, self.programs, state, condition
        )
        for kind, program in steps.items():
            name = _step_name(kind, self.found)
            self.found[name] = dataclasses.replace(program.figures, name=name)
        added = max(program.figures.added_bytes for program in self.programs.made[since:])
        phases = plan.schedule.phases
        for name, phase in zip(stage_names(len(phases)), phases, strict=True):
            first = plan.steps[phase.start]
            cache = cache_like(settings, len(first.actions), sample, self.mesh)
            self.kept = max(self.kept, device_bytes(cache))
            held = device_bytes((state, cache, condition, experts.contexts.made))
            expert = self.components.folder.experts[first.expert]
            self.stages.append(Stage(name, frozenset([expert]), held, added))

    def decode(self) -> None:
        since = len(self.programs.made)
        _, z, t, h, w = self.shape
        vae = self.components.vae
        latents = self.like((1, t, h, w, z), jnp.float32)
        frame = self.like((1, 1, h, w, z), jnp.float32)
        network, rows = VAENetwork(vae, self.programs), self.rows.decode
        starts, *_ = rounds(rows, h, network.devices)
        (features,) = network.middle("decode_middle", decoder_middle(vae.config), [frame])
        list(network.stripes("decode_stripe", starts, rows, h, [features] * min(t, 2)))
        held = (latents, [features] * t, self.largest_cache(since))
        self.add("decode", ["vae"], held, since)


def from_host(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """As NumPy's arrays come: they go wherever the program wants them."""
    return jax.ShapeDtypeStruct(shape, dtype)


def device_bytes(tree: Any) -> int:
    """What one device holds of some arrays, real or abstract."""
    return sum(_device_bytes(x) for x in jax.tree.leaves(tree))


def _device_bytes(x: Any) -> int:
    sharding = getattr(x, "sharding", None)
    shape = x.shape if sharding is None else sharding.shard_shape(tuple(x.shape))
    size: int = math.prod(shape) * jnp.dtype(x.dtype).itemsize
    return size


def _together(name: str, figures: Sequence[Figures]) -> Figures:
    """Those of the program that needs most, and the time of all."""
    most = max(figures, key=lambda f: (f.refused is not None, f.argument_bytes + f.added_bytes))
    seconds = sum(f.compile_seconds for f in figures)
    fused = sorted({kernel for f in figures for kernel in f.kernels})
    return dataclasses.replace(most, name=name, compile_seconds=seconds, kernels=tuple(fused))


def _step_name(kind: Sequence[str], taken: dict[str, Any]) -> str:
    computed = kind.count("blocks")
    name = "computed_step" if computed == len(kind) else "partial_step"
    name = name if computed else "skipped_step"
    return f"{name}_{'_'.join(kind)}" if name in taken else name
