"""A model that is served: its name, what its videos have as defaults, and its pipeline."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from wanjax.checkpoints.published_models import ModelConfigs
from wanjax.config.keys import Config, keys
from wanjax.config.resolve import arguments, resolve
from wanjax.pipeline.ahead import compile_ahead
from wanjax.pipeline.pipeline import WanPipeline
from wanjax.planning.run import Run, prepare


@dataclass
class Model:
    """`args` are what every video's configuration begins with, as a command line has them."""

    name: str
    args: list[str]
    config: Config
    pipe: WanPipeline
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def of(cls, args: Sequence[str], config: Config) -> Model:
        """Of the command line of `wanjax serve` and its configuration; no weights are loaded.

        Raises `UsageError` where the devices have no room for it.
        """
        fields = keys()
        own = [arg for arg in arguments(args) if not _is_servers(arg, fields)]
        name = config.preset or Path(str(config.model)).name
        pipe = WanPipeline.without_weights(config)
        pipe.check_size(config)
        pipe.fit(prepare(replace(config, image=None, last_image=None)))
        return cls(name, own, config, pipe)

    @cached_property
    def configs(self) -> ModelConfigs:
        """Of the model's parts, as its folder has them."""
        return self.pipe.components.folder.model_configs()

    @property
    def needs_picture(self) -> bool:
        return self.config.task == "i2v"

    def load(self) -> None:
        """The weights, while the programs of the default video compile."""
        threads = compile_ahead(self.pipe, prepare(replace(self.config, image=None)))
        self.pipe.load(progress=False)
        for thread in threads:
            thread.join()

    def run(
        self,
        args: Sequence[str],
        values: Mapping[str, Any],
        folder: Path,
        pictures: Mapping[str, Path],
    ) -> Run:
        """The run that arguments and values ask for, in `folder`: what the command line would do.

        Raises `UsageError` for what cannot be, a video too large for the devices among it.
        """
        paths = {name: str(path) for name, path in pictures.items()}
        own = {"output": str(folder / "video.mp4"), **paths}
        run = prepare(resolve(args, "generate", {**values, **own}))
        pipe = self.pipe.with_config(run.config)
        pipe.check_size(run.config)
        pipe.fit(run)
        return run

    def public(self, config: Config) -> Config:
        """A configuration without the paths of this machine."""
        named = {n: f"{n}.png" for n in ("image", "last_image") if getattr(config, n)}
        pictures: dict[str, Any] = named
        model = config.model if config.preset else self.name
        return replace(config, model=model, output="video.mp4", lora=None, **pictures)


def _is_servers(arg: str, fields: Mapping[str, Any]) -> bool:
    name, equals, _ = arg.partition("=")
    return bool(equals) and name in fields and fields[name].metadata["commands"] == ("serve",)
