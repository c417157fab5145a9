"""A model that is served: its name, what its videos have as defaults, and its pipeline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from wanjax.checkpoints.published_models import ModelConfigs
from wanjax.config.keys import Config, keys
from wanjax.config.resolve import arguments, resolve
from wanjax.errors import UsageError
from wanjax.parallel import launch
from wanjax.parallel.hosts import several
from wanjax.pipeline.ahead import compile_ahead
from wanjax.pipeline.components import SMALL
from wanjax.pipeline.inputs import Frames, Prompts
from wanjax.pipeline.pipeline import WanPipeline
from wanjax.pipeline.video import Video
from wanjax.planning.run import Run, fitted, of_one_task, prepare
from wanjax.sampling.denoise import StepReport
from wanjax.serve.eta import programs_of, shape_of
from wanjax.serve.jobs import Job
from wanjax.serve.loras import lora_values, without_paths

_PLANS = 200  # that are remembered


@dataclass
class Model:
    """`args` are what every video's configuration begins with, as a command line has them."""

    name: str
    args: list[str]
    config: Config
    pipe: WanPipeline
    _plans: dict[Config, Run] = field(default_factory=dict)
    _planning: threading.Lock = field(default_factory=threading.Lock)
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

    @cached_property
    def default(self) -> Run:
        """Of a video with nothing but the server's own settings; its picture is yet to come."""
        return prepare(replace(self.config, image=None))

    @property
    def shape(self) -> str:
        """Of the default video, as seconds are compared within."""
        return shape_of(self.name, self.default.config)

    @property
    def programs(self) -> str:
        """Names those of the default video, which `load` compiles."""
        return programs_of(self.shape, self.default)

    @property
    def needs_picture(self) -> bool:
        return self.config.task == "i2v"

    def load(self) -> None:
        """The weights, while the programs of the default video compile."""
        threads = compile_ahead(self.pipe, self.default)
        self.pipe.load(progress=False)
        for thread in threads:
            thread.join()

    def rest(self) -> None:
        """Move the weights to the host's memory; they come again when they are asked for."""
        for name in self.pipe.components.names:
            if name not in SMALL:
                self.pipe.components.rest(name)

    def configured(
        self,
        args: Sequence[str],
        values: Mapping[str, Any],
        folder: Path,
        pictures: Mapping[str, Path],
    ) -> Config:
        """The configuration that arguments and values ask for, as the command line has it.

        The video is written in `folder`. Raises `UsageError`.
        """
        paths = {name: str(path) for name, path in pictures.items()}
        own = {"output": str(folder / "video.mp4"), **paths}
        return fitted(resolve(args, "generate", {**values, **own, **self._loras(values)}))

    def _loras(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return lora_values(values.get("lora"), self.config)

    def run(self, config: Config) -> Run:
        """What `prepare` makes of it. Raises `UsageError`, also where the devices have no room."""
        run = replace(self._planned(config), config=config)
        pipe = self.pipe.with_config(config)
        pipe.check_size(config)
        pipe.fit(run)
        return run

    def run_of(self, job: Job) -> Run:
        """A job's run, but for its pictures: what is compiled for it. Raises `UsageError`."""
        sized = {name: job.facts[name] for name in ("width", "height")} | {"fit_image": False}
        values = {**job.values, **sized, **self._loras(job.values)}
        config = resolve(job.arguments, "plan", values)
        return self.run(of_one_task(config, bool(job.pictures)))

    def make(self, run: Run, frames: Frames, callback: Callable[[StepReport], None]) -> Video:
        """The video of a run; on several hosts all of them do this at once."""
        config = run.config
        return self.pipe.with_config(config).execute(
            run,
            Prompts(config.prompt, config.negative_prompt),
            frames,
            seed=config.seed,
            callback=callback,
        )

    def _planned(self, config: Config) -> Run:
        """A run of the same plan; planning a forecast takes seconds: one at a time."""
        same: dict[str, Any] = {
            "prompt": "",
            "negative_prompt": "",
            "seed": 0,
            "seeds": (0,),
            "output": None,
        }
        key = replace(config, image=None, last_image=None, fit_image=False, **same)
        if (known := self._plans.get(key)) is not None:
            return known
        with self._planning:
            if key not in self._plans:
                self._plans[key] = prepare(key)
                while len(self._plans) > _PLANS:
                    self._plans.pop(next(iter(self._plans)))
            return self._plans[key]

    def public(self, config: Config) -> Config:
        """A configuration without the paths of this machine."""
        named = {n: f"{n}.png" for n in ("image", "last_image") if getattr(config, n)}
        pictures: dict[str, Any] = named
        model = config.model if config.preset else self.name
        loras: dict[str, Any] = without_paths(config, self.config.lora_folder)
        return replace(config, model=model, output="video.mp4", **pictures, **loras)


def models_of(args: Sequence[str], config: Config) -> dict[str, Model]:
    """All that a command line serves, by name: its own model, and those of `also`.

    Raises `UsageError` where one is named twice, and for several on several hosts.
    """
    first = Model.of(args, config)
    models, beside = {first.name: first}, (config.also or "").split(",")
    shared = [arg for arg in arguments(args) if "=" in arg]
    shared = [arg for arg in shared if arg.partition("=")[0] not in ("preset", "model")]
    for name in filter(None, map(str.strip, beside)):
        if several():
            raise UsageError(f"also={config.also}: several hosts serve one model; leave it out")
        own = [name, *shared]
        model = Model.of(own, resolve(own, "serve"))
        if model.name in models:
            raise UsageError(f"also={config.also}: {model.name} is served already")
        models[model.name] = model
    return models


def rest_others(models: Mapping[str, Model], name: str) -> None:
    """The devices have room for one model, as far as we know."""
    for other, model in models.items():
        if other != name:
            model.rest()


def _is_servers(arg: str, fields: Mapping[str, Any]) -> bool:
    """Whether it says where to listen, what to keep, or which process this is."""
    name, equals, _ = arg.partition("=")
    if not equals or name not in fields:
        return False
    return name in launch.KEYS or fields[name].metadata["commands"] == ("serve",)
