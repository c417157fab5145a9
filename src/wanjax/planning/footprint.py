"""What the stages of a run hold on each device besides weights, by arithmetic. No JAX.

Arrays that last (latents, contexts, a caching method's cache) are counted. What a program holds
while it runs follows a model of its widest moment, with coefficients from compiled programs:
see docs/machines.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wanjax.caching import Plan
from wanjax.caching.actions import Keeps
from wanjax.checkpoints.published_models import ModelConfigs
from wanjax.config.keys import Config
from wanjax.models import vae_memory, vae_stripes
from wanjax.parallel.mesh import ACTIVATION_RULES, MeshShape, share
from wanjax.parallel.targets import Target
from wanjax.planning.known import rounding_of
from wanjax.planning.placement import EXPERTS, Stage, stage_names
from wanjax.planning.weights import ITEM_BYTES, layer_bytes, transformer_width

_FLOAT32 = _INT32 = 4  # bytes
# Hidden states of a block's self-attention at once, by platform; as compiled at 75,600 tokens.
_STATES_IN_ATTENTION = {"gpu": 6, "tpu": 7}
_GATHERED_LAYERS = 2  # of a sharded model: one computes while the next one's weights arrive


@dataclass(frozen=True)
class VAEForm:
    """What `models.vae_memory` asks of a VAE's configuration."""

    base_dim: int
    decoder_base_dim: int | None
    z_dim: int
    dim_mult: tuple[int, ...]
    num_res_blocks: int
    temperal_downsample: tuple[bool, ...]
    in_channels: int = 3
    out_channels: int = 3
    is_residual: bool = False
    patch: int = 1

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> VAEForm:
        return cls(
            values["base_dim"],
            values.get("decoder_base_dim"),
            values["z_dim"],
            tuple(values["dim_mult"]),
            values["num_res_blocks"],
            tuple(values["temperal_downsample"]),
            values.get("in_channels", 3),
            values.get("out_channels", 3),
            values.get("is_residual", False),
            values.get("patch_size") or 1,
        )

    @property
    def temporal_factor(self) -> int:
        return int(2 ** sum(self.temperal_downsample))

    @property
    def spatial_factor(self) -> int:
        return int(self.patch * 2 ** (len(self.dim_mult) - 1))


def pixels_of_token(configs: ModelConfigs) -> int:
    """Rows (and columns) of pixels that are one token."""
    patch: int = configs.components["transformer"]["patch_size"][1]
    return patch * VAEForm.of(configs.components["vae"]).spatial_factor


@dataclass(frozen=True)
class Footprint:
    """A run of one video of a model, on a mesh of a target's devices."""

    config: Config
    plan: Plan
    configs: ModelConfigs
    target: Target
    mesh: MeshShape

    @property
    def transformer(self) -> Mapping[str, Any]:
        return self.configs.components["transformer"]

    @property
    def vae(self) -> VAEForm:
        return VAEForm.of(self.configs.components["vae"])

    @property
    def latents(self) -> tuple[int, int, int, int]:
        """Channels, frames, rows, columns."""
        vae, config = self.vae, self.config
        frames = 1 + (config.num_frames - 1) // vae.temporal_factor
        height, width = (side // vae.spatial_factor for side in (config.height, config.width))
        return vae.z_dim, frames, height, width

    @property
    def tokens(self) -> int:
        patch, (_, *sizes) = self.transformer["patch_size"], self.latents
        return math.prod(size // part for size, part in zip(sizes, patch, strict=True))

    @property
    def branches(self) -> int:
        return max(len(step.actions) for step in self.plan.steps)

    @property
    def item(self) -> int:
        """Bytes of a number of the transformer's arithmetic."""
        return ITEM_BYTES[self.config.activations_dtype]

    @property
    def takes_image(self) -> bool:
        return self.config.task == "i2v"

    @property
    def takes_frames(self) -> bool:
        """Whether an image is a latent frame of its own, and no channels beside them all."""
        return self.takes_image and self.transformer["in_channels"] == self.vae.z_dim

    def part(self, size: int, axes: tuple[str | None, ...], shape: tuple[int, ...]) -> int:
        """What one device holds of an activation of `size` bytes."""
        shared, _ = share(axes, shape, ACTIVATION_RULES, self.mesh.sizes)
        return size // math.prod(self.mesh.sizes[axis] for names in shared for axis in names)

    def hidden(self, batch: int, width: int, name: str | None = None) -> int:
        """Bytes of all tokens' activations of a width, whose axis may be shared."""
        shape = (batch, self.tokens, width)
        return self.part(math.prod(shape) * self.item, ("batch", "tokens", name), shape)

    # stages ---------------------------------------------------------------------------------

    def stages(self, encode_rows: int, decode_rows: int) -> list[Stage]:
        """In the order in which they run; the VAE takes stripes of so many rows of latents."""
        return [
            self.text(),
            self.condition(encode_rows),
            *self.denoise(),
            self.decode(decode_rows),
        ]

    def text(self) -> Stage:
        encoder, length = self.configs.components["text_encoder"], self.config.max_sequence_length
        scores = encoder["num_heads"] * length**2 * _FLOAT32 // self.mesh.tensor
        ffn = 2 * length * encoder["d_ff"] * self.text_item
        gathered = 0
        if self.mesh.fsdp > 1:
            gathered = _GATHERED_LAYERS * self.text_layer_bytes
        ids_and_mask = 2 * length * _INT32
        held = ids_and_mask + self.embeds
        return Stage("text", frozenset(["text_encoder"]), held, 2 * scores + ffn + gathered)

    def condition(self, stripe_rows: int) -> Stage:
        uses, added, held = set(), 0, self.beside_vae("encode")
        if self.takes_image:
            uses.add("vae")
            kept = self.vae_keeps("encode", stripe_rows)
            held += kept
            added = self.vae_bytes("encode", stripe_rows) - self.vae_weights - kept
        if "image_encoder" in self.configs.components:
            uses.add("image_encoder")
        return Stage("condition", frozenset(uses), held, added)

    def denoise(self) -> list[Stage]:
        plan = self.plan
        added = max(self.computed_step(), self.skipped_step())
        stages = []
        phases = plan.schedule.phases
        for name, phase in zip(stage_names(len(phases)), phases, strict=True):
            step = plan.steps[phase.start]
            held = 4 * self.sample + self.cache(len(step.actions)) + self.contexts
            held += self.condition_latents if self.takes_image else 0
            stages.append(Stage(name, frozenset([EXPERTS[step.expert]]), held, added))
        return stages

    def decode(self, stripe_rows: int) -> Stage:
        kept = self.vae_keeps("decode", stripe_rows)
        added = self.vae_bytes("decode", stripe_rows) - self.vae_weights - kept
        held = self.beside_vae("decode") + kept
        return Stage("decode", frozenset(["vae"]), held, added)

    # what lasts -----------------------------------------------------------------------------

    @property
    def embeds(self) -> int:
        """Of one branch."""
        width = self.configs.components["text_encoder"]["d_model"]
        return int(self.config.max_sequence_length * width * self.text_item)

    @property
    def sample(self) -> int:
        return math.prod(self.latents) * _FLOAT32

    @property
    def condition_latents(self) -> int:
        if self.takes_frames:
            return self.sample // self.latents[1]
        channels = self.transformer["in_channels"] - self.transformer["out_channels"]
        return int(channels * math.prod(self.latents[1:]) * _FLOAT32)

    @property
    def contexts(self) -> int:
        """Of all experts that have steps."""
        branches = sum(self.plan.schedule.num_branches(p.start) for p in self.plan.schedule.phases)
        length = self.config.max_sequence_length + self.image_tokens
        of_one = length * transformer_width(self.transformer) * self.item
        if self.config.use_kv_cache:
            layers = int(self.transformer["num_layers"])
            return branches * 2 * layers * of_one // self.mesh.tensor
        return branches * of_one

    @property
    def image_tokens(self) -> int:
        """Of the image's embeddings that the blocks attend to; 0 where they do not."""
        transformer = self.transformer
        if transformer.get("image_dim") is None:
            return 0
        if transformer.get("pos_embed_seq_len") is not None:  # of a first and a last frame
            return int(transformer["pos_embed_seq_len"])
        clip = self.configs.components["image_encoder"]
        return int((clip["image_size"] // clip["patch_size"]) ** 2 + 1)

    def cache(self, branches: int) -> int:
        """What the plan keeps of computed steps."""
        keeps: Keeps = self.plan.keeps
        width = transformer_width(self.transformer)
        latents = keeps.outputs + keeps.samples + keeps.branches * branches + keeps.previous
        return keeps.residuals * self.hidden(branches, width) + latents * self.sample

    # what programs hold while they run ------------------------------------------------------

    @property
    def text_item(self) -> int:
        return ITEM_BYTES[self.config.weights_dtype]

    @property
    def text_layer_bytes(self) -> int:
        encoder = self.configs.components["text_encoder"]
        width, inner = encoder["d_model"], encoder["num_heads"] * encoder["d_kv"]
        matrices = 4 * width * inner + 3 * width * encoder["d_ff"]
        return int(matrices * self.text_item // self.mesh.tensor)

    def computed_step(self) -> int:
        """The wider of a block's two moments, and the gathered weights of a sharded model.

        In self-attention there are queries, keys, values and what is about to become of them,
        once more where devices exchange them. In the feed-forward there are its input, that
        normalised, the wide activations, and the tokens from before all blocks where a residual
        is kept.
        """
        width, batch = transformer_width(self.transformer), self.branches_at_once
        hidden = self.hidden(batch, width)
        wide = self.hidden(batch, self.transformer["ffn_dim"], "mlp")
        before = self.hidden(1, width) if self.plan.keeps.residuals else 0
        states = _STATES_IN_ATTENTION.get(self.target.platform, 6)
        if self.mesh.context * self.mesh.fsdp > 1:
            states += 1
        gathered = 0
        if self.mesh.fsdp > 1:
            whole = MeshShape(tensor=self.mesh.tensor)
            kept = rounding_of(self.config, self.configs)
            layer = layer_bytes(self.transformer, self.config.weights_dtype, whole, kept)
            gathered = _GATHERED_LAYERS * layer
        return max(states * hidden, 2 * hidden + wide + before) + gathered

    def skipped_step(self) -> int:
        if not self.plan.keeps.residuals:
            return 4 * self.sample
        return 2 * self.hidden(self.branches, transformer_width(self.transformer))

    @property
    def branches_at_once(self) -> int:
        return self.branches if self.config.batch_guidance else 1

    # the VAE --------------------------------------------------------------------------------

    def beside_vae(self, direction: vae_memory.Direction) -> int:
        """What lasts while the VAE runs and is not its own."""
        if direction == "decode":
            return self.sample
        condition = self.condition_latents if self.takes_image else 0
        return self.branches * self.embeds + self.contexts + condition

    @property
    def vae_weights(self) -> int:
        return _FLOAT32 * vae_memory.parameter_count(self.vae)

    @property
    def video(self) -> vae_memory.Size:
        config = self.config
        lanes = 128 if self.target.platform == "tpu" else 1
        return vae_memory.Size(config.height, config.width, config.num_frames, lanes=lanes)

    def vae_bytes(self, direction: vae_memory.Direction, rows: int) -> int:
        return vae_memory.peak_bytes(self.vae, direction, self.video, rows)

    def vae_keeps(self, direction: vae_memory.Direction, rows: int) -> int:
        """All frames between the VAE's two parts, and the larger part's cache."""
        vae, (_, frames, height, width) = self.vae, self.latents
        if direction == "encode" and self.takes_frames:
            frames = 1
        if direction == "decode":
            whole, stripes = vae_stripes.decoder_middle(vae), vae_stripes.decoder_stripes(vae)
            channels = stripes[0].inputs
        else:
            whole, stripes = vae_stripes.encoder_middle(vae), vae_stripes.encoder_stripes(vae)
            channels = stripes[-1].outputs
        caches = (
            vae_stripes.cache_shapes(whole, 1, height, width),
            vae_stripes.cache_shapes(stripes, 1, height, width, rows),
        )
        cache = max(sum(map(math.prod, shapes)) for shapes in caches)
        return _FLOAT32 * (frames * height * width * channels + cache)

    @property
    def stripe_share(self) -> int:
        """Rows of latents in a stripe where each device has one."""
        return vae_stripes.share_of(self.latents[2], self.mesh.devices)

    def stripe_rows(self, direction: vae_memory.Direction, budget: int | None) -> int:
        """Rows of latents in a stripe such that the VAE, its weights included, fits `budget`.

        1 where not even that fits.
        """
        if budget is None:
            return self.stripe_share
        devices = self.mesh.devices
        try:
            return vae_memory.choose_stripes(self.vae, direction, self.video, budget, devices).rows
        except ValueError:
            return 1
