"""How much memory a run holds, told without a model and without JAX."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from wanjax.caching import Plan, Schedule
from wanjax.checkpoints.kept import in_words
from wanjax.checkpoints.loras import expert_loras
from wanjax.checkpoints.published_models import ModelConfigs
from wanjax.config.keys import Config
from wanjax.models import vae_memory
from wanjax.parallel.mesh import MeshShape, parse_mesh
from wanjax.parallel.targets import HERE, PINNED_SHARE, Target, parse_target
from wanjax.planning.footprint import Footprint, pixels_of_token
from wanjax.planning.known import known_configs, rounding_of
from wanjax.planning.placement import EXPERTS, USABLE, PlacedStage, Placement, place, stage_names
from wanjax.planning.weights import ITEM_BYTES, component_bytes, weight_bytes

# A plan without a target: one device of which nothing is known.
ANY_DEVICE = Target("one device", "cpu", "any", 1, None)


class StripeRows(NamedTuple):
    """Rows of latents of a stripe of the VAE, each way."""

    encode: int
    decode: int


@dataclass(frozen=True)
class Fit:
    """A run of one video on a mesh of a target's devices; bytes are those of one device.

    `weights` by component, `stripe_rows`: rows of latents that the VAE takes at a time.
    """

    target: Target
    mesh: MeshShape
    weights: dict[str, int]
    placement: Placement
    stripe_rows: StripeRows

    @property
    def fits(self) -> bool:
        return self.placement.fits

    @property
    def host_bytes(self) -> int:
        """Of the memory of each process's host, for what waits there."""
        waiting = sum(self.weights[name] for name in self.placement.waiting)
        return waiting * self.mesh.devices // self.target.processes

    def of_expert(self, schedule: Schedule, number: int) -> PlacedStage:
        """The stage in which an expert denoises."""
        phases = schedule.phases
        first = [schedule.experts[phase.start] for phase in phases]
        return self.placement[stage_names(len(phases))[first.index(number)]]

    def to_dict(self) -> dict[str, Any]:
        return {
            "target": self.target.name,
            "devices": self.target.devices,
            "mesh": self.mesh.sizes,
            "memory_limit_bytes": self.target.memory_limit,
            "component_bytes": self.weights,
            "stages": self.placement.to_dict(),
            "stripe_rows": self.stripe_rows._asdict(),
            "peak_bytes": self.placement.peak,
            "host_bytes": self.host_bytes,
            "fits": self.fits,
        }


@dataclass(frozen=True)
class Memory:
    """Bytes that a run of one video holds; None for what is off, or of an unknown model.

    `weight_bytes`: all of the model's weights, as they are kept, and `blocks` the types of the
    blocks' matrices if they are others than the rest; `kv_cache_bytes`: the keys and
    values of all experts' cross-attention; `cache_bytes`: what the plan keeps of computed steps,
    on one device.
    """

    kv_cache_bytes: int | None = None
    cache_bytes: int | None = None
    fit: Fit | None = None
    weight_bytes: int | None = None
    blocks: str = ""

    def to_dict(self) -> dict[str, Any]:
        fit = {} if self.fit is None else self.fit.to_dict()
        names = ("weight_bytes", "kv_cache_bytes", "cache_bytes")
        bytes_ = {name: getattr(self, name) for name in names}
        return bytes_ | fit


def estimate(config: Config, plan: Plan) -> Memory:
    """For the configuration's target and mesh; without a target for one device of any kind."""
    configs = known_configs(config)
    if configs is None:
        return Memory()
    target = ANY_DEVICE if config.target is None else parse_target(config.target)
    asked = None if config.mesh == "auto" else parse_mesh(config.mesh)
    if config.target is None and asked is not None:
        target = replace(target, name=f"{asked.devices} devices", devices=asked.devices)
    fit = (
        best_fit(config, plan, configs, target)
        if asked is None
        else fit_on(config, plan, configs, target, asked)
    )
    kv_cache = Footprint(config, plan, configs, target, MeshShape()).contexts
    on_mesh = Footprint(config, plan, configs, target, fit.mesh)
    kept = rounding_of(config, configs)
    return Memory(
        kv_cache if config.use_kv_cache else None,
        on_mesh.cache(on_mesh.branches),
        fit,
        weight_bytes(configs, config.weights_dtype, kept),
        in_words(kept),
    )


def size_unit(config: Config) -> int:
    """What height and width are multiples of; of a model that is not known, Wan 2.1's."""
    configs = known_configs(config)
    return 16 if configs is None else pixels_of_token(configs)


def mesh_shape(config: Config, plan: Plan, target: Target) -> MeshShape | None:
    """The configuration's mesh on a target; None is one device of the process's own.

    A CPU's devices share its cores, so that only a mesh that is asked for takes several.
    """
    if config.mesh != "auto":
        return parse_mesh(config.mesh)
    alone = target.processes == 1
    if target.name == HERE and alone and (target.devices == 1 or target.platform == "cpu"):
        return None
    configs = known_configs(config)
    if configs is None:
        return MeshShape(fsdp=target.devices)
    return best_fit(config, plan, configs, target).mesh


def fit_on(
    config: Config, plan: Plan, configs: ModelConfigs, target: Target, mesh: MeshShape
) -> Fit:
    """What a run comes to on one mesh."""
    footprint = Footprint(config, plan, configs, target, mesh)
    weights = component_bytes(configs, config.weights_dtype, mesh, rounding_of(config, configs))
    for name in EXPERTS[: configs.index.num_experts]:
        weights[name] += ITEM_BYTES[config.weights_dtype] * _live_numbers(config)
    rows = StripeRows(
        _stripe_rows(footprint, weights, "encode"), _stripe_rows(footprint, weights, "decode")
    )
    placement = place(weights, footprint.stages(*rows), target.memory_limit)
    return Fit(target, mesh, weights, placement, rows)


def _live_numbers(config: Config) -> int:
    """Parameters that live LoRAs add to each expert: room for the larger one's."""
    loras = expert_loras(config.lora, config.lora_high, config.lora_low, config.num_experts)
    return max(sum(lora.numbers for lora in its_own if lora.live) for its_own in loras)


def best_fit(config: Config, plan: Plan, configs: ModelConfigs, target: Target) -> Fit:
    """On the fastest mesh of all devices that fits; if none does, on the one that needs least."""
    fits = []
    for mesh in meshes(config, plan, configs, target):
        fit = fit_on(config, plan, configs, target, mesh)
        limit = target.memory_limit
        if limit is None or fit.placement.peak <= USABLE * limit:
            return fit
        fits.append(fit)
    return min(fits, key=lambda fit: fit.placement.peak)


def meshes(config: Config, plan: Plan, configs: ModelConfigs, target: Target) -> list[MeshShape]:
    """The meshes of all of a target's devices, the fastest first.

    The less a device computes the better: tokens or branches that do not divide are computed
    whole. Among equals, one whose devices hold the weights whole is faster than one that
    gathers them in every step.
    """

    def slowness(mesh: MeshShape) -> tuple[int, int, int]:
        footprint = Footprint(config, plan, configs, target, mesh)
        return footprint.hidden(footprint.branches, 1), mesh.fsdp, mesh.data

    devices = target.devices
    found = [
        MeshShape(data=data, fsdp=fsdp, context=devices // data // fsdp)
        for data in (1, 2)
        for fsdp in _divisors(devices // data)
        if devices % data == 0
    ]
    return sorted(found, key=slowness)


def advice(config: Config, plan: Plan, configs: ModelConfigs, target: Target) -> list[str]:
    """Keys that would each make a run fit that does not, by the estimate."""
    found = []
    for name, changed in _changes(config):
        mesh = MeshShape() if changed.mesh == "auto" else parse_mesh(changed.mesh)
        auto = changed.mesh == "auto"
        fit = (
            best_fit(changed, plan, configs, target)
            if auto
            else fit_on(changed, plan, configs, target, mesh)
        )
        if fit.fits:
            found.append(f"mesh={fit.mesh}" if name == "mesh" else name)
    return found


def no_room(fit: Fit, keys: Sequence[str]) -> str:
    """That a run does not fit, by how much, and what would help."""
    target, peak = fit.target, fit.placement.peak / 2**30
    assert target.memory_limit is not None
    limit = target.memory_limit / 2**30
    stage = max(fit.placement.stages, key=lambda stage: stage.peak).name
    help = f"; {' or '.join(keys)} would make it fit" if keys else ""
    return (
        f"a device of {target.name} ({target.kind}) has {limit:.1f} GiB, and this run needs about "
        f"{peak:.1f} GiB on it (stage {stage}, mesh={fit.mesh}){help}"
    )


def no_room_on_host(fit: Fit, memory: int) -> str | None:
    """That what waits on a host of so much memory has no room there, and what would help."""
    if fit.host_bytes <= PINNED_SHARE * memory:
        return None
    waiting = ", ".join(sorted(fit.placement.waiting))
    larger = ""
    if fit.target.platform == "gpu":
        larger = (
            ", more of the GPU's memory (XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 in the environment; "
            "JAX takes 0.75 of it)"
        )
    return (
        f"this run keeps {fit.host_bytes / 2**30:.1f} GiB of weights waiting in the host's memory "
        f"({waiting}), which has {memory / 2**30:.1f} GiB, of which {PINNED_SHARE:.0%} may be "
        f"taken; quantize=int8{larger} or a host of more memory would make it fit"
    )


def _changes(config: Config) -> Iterator[tuple[str, Config]]:
    if config.mesh != "auto":
        yield "mesh", replace(config, mesh="auto")
    smaller: dict[str, Any] = {
        "batch_guidance": False,
        "weights_dtype": "bfloat16",
        "activations_dtype": "bfloat16",
    }
    if config.quantize is None and config.weights != "keep":
        smaller["quantize"] = "int8"
    for key, value in smaller.items():
        if getattr(config, key) != value:
            yield f"{key}={value}", replace(config, **{key: value})
    if config.height * config.width > 480 * 832:
        tall = config.height > config.width
        height, width = (832, 480) if tall else (480, 832)
        yield f"height={height} width={width}", replace(config, height=height, width=width)
    if config.num_frames > 49:
        yield "num_frames=49", replace(config, num_frames=49)


def _stripe_rows(footprint: Footprint, weights: dict[str, int], way: vae_memory.Direction) -> int:
    """What fits beside all other weights, if that is not too little.

    Else they leave: a stripe's margins are computed twice, so that narrow ones cost more.
    """
    limit = footprint.target.memory_limit
    if limit is None:
        return footprint.stripe_rows(way, None)
    alone = int(USABLE * limit) - footprint.beside_vae(way)
    beside = alone - sum(size for name, size in weights.items() if name != "vae")
    rows = footprint.stripe_rows(way, beside)
    wide_enough = rows >= min(_NARROW, footprint.stripe_share)
    return rows if wide_enough else footprint.stripe_rows(way, alone)


_NARROW = 16  # rows of latents


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
