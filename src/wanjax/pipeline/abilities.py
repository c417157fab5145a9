"""What a pipeline's model can make, and what a run of it needs; nothing here runs it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from wanjax.caching.method import Measure
from wanjax.config.keys import Config
from wanjax.errors import UsageError
from wanjax.parallel.mesh import MeshShape
from wanjax.parallel.targets import Target, host_memory
from wanjax.pipeline.components import Components
from wanjax.pipeline.inputs import Frames, ImageLike, as_images
from wanjax.planning.memory import ANY_DEVICE, Fit, advice, fit_on, no_room, no_room_on_host
from wanjax.planning.run import Run
from wanjax.sampling.programs import Programs
from wanjax.sampling.step import Settings, keeps_of


class Abilities:
    """A model's parts, what is compiled of them, and what follows from these for a run.

    `components` are the model's parts, `programs` what is compiled of them; `config` has the
    values for arguments that a call leaves out, `target` is the machine.
    """

    def __init__(
        self,
        components: Components,
        config: Config,
        programs: Programs | None = None,
        target: Target = ANY_DEVICE,
    ):
        self.components, self.config, self.target = components, config, target
        self.programs = Programs() if programs is None else programs

    @property
    def takes_image(self) -> bool:
        """Whether this is image to video."""
        return self.components.transformer_config.in_channels > self.components.vae_config.z_dim

    @property
    def may_take_image(self) -> bool:
        """Whether this is text or image to video: an image is the first latent frame."""
        return bool(self.components.folder.index.expand_timesteps)

    @property
    def takes_two_images(self) -> bool:
        """Whether the image embeddings must be those of a first and a last frame."""
        return self.components.transformer_config.pos_embed_seq_len is not None

    def fit(self, run: Run) -> Fit:
        """Where the parts of the model are in each stage; for one video.

        Raises `UsageError` with what would help where the devices have no room for the run.
        """
        mesh = self.programs.mesh
        shape = MeshShape() if mesh is None else MeshShape(**mesh.shape)
        configs = self.components.model_configs()
        fit = fit_on(run.config, run.plan, configs, self.target, shape)
        if not fit.fits:
            keys = advice(run.config, run.plan, configs, self.target)
            raise UsageError(no_room(fit, keys))
        memory = host_memory()
        if memory is not None and (short := no_room_on_host(fit, memory)) is not None:
            raise UsageError(short)
        return fit

    def check_size(self, config: Config) -> None:
        """Raise `UsageError` for a video of a size that the model cannot make."""
        for name, unit in zip(("height", "width"), self.size_units(), strict=True):
            check_multiple(name, getattr(config, name), unit)
        self.components.vae_config.check_frames(config.num_frames)

    def size_units(self) -> tuple[int, int]:
        """What height and width are multiples of: the pixels of a token."""
        _, rows, columns = self.components.transformer_config.patch_size
        factor = self.components.vae_config.spatial_factor
        return rows * factor, columns * factor

    def frames(
        self,
        image: ImageLike | Sequence[ImageLike] | None,
        last_image: ImageLike | Sequence[ImageLike] | None,
    ) -> Frames:
        """First and last frames; raises `UsageError` for what the model cannot use."""
        frames = Frames(as_images(image), as_images(last_image))
        if self.may_take_image:
            if frames.last:
                raise UsageError("this model takes a first frame alone; leave last_image out")
            return frames
        if self.takes_image != bool(frames.first):
            raise UsageError(
                "this model animates a picture: give image=FILE"
                if self.takes_image
                else "this is a text-to-video model, which takes no image; leave image out"
            )
        if self.takes_two_images and not frames.last:
            raise UsageError("this model goes from a first to a last frame: give last_image too")
        sees_images = self.components.transformer_config.image_dim is not None
        if frames.last and sees_images and not self.takes_two_images:
            raise UsageError("this model was not made for a last frame; leave last_image out")
        return frames

    def plain_frames(self, config: Config) -> Frames:
        """As many as the model takes, of nothing in particular: to measure what a run costs."""
        picture = Image.new("RGB", (config.width, config.height), (200, 200, 200))
        last = picture if self.takes_two_images else None
        return self.frames(picture if self.takes_image else None, last)

    def latents_shape(self, config: Config) -> tuple[int, int, int, int]:
        """Of one video: channels, frames, rows, columns."""
        vae = self.components.vae_config
        t = (config.num_frames - 1) // vae.temporal_factor + 1
        return vae.z_dim, t, config.height // vae.spatial_factor, config.width // vae.spatial_factor

    def settings(
        self, run: Run, shape: tuple[int, ...], measures: Sequence[Measure] = ()
    ) -> Settings:
        """What the step programs of a run over latents of this shape depend on."""
        model = self.components.transformer_config
        return Settings(
            graph=self.components.graph("transformer"),
            dtype=run.config.activations_dtype,
            tokens=(math.prod(model.grid(shape)), model.width),
            batch_guidance=run.config.batch_guidance,
            keeps=run.plan.keeps.and_also(keeps_of(measures)),
            measures=tuple(measures),
        )


def check_multiple(name: str, value: int, unit: int) -> None:
    """Raise `UsageError` for a size that the model cannot have, with the nearest it can."""
    if value < unit or value % unit:
        nearest = max(unit, round(value / unit) * unit)
        raise UsageError(f"{name}={value}: must be a multiple of {unit}, such as {nearest}")
