"""A run, prepared once: everything about it that is known before any model is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from wanjax.caching import METHODS, Method, Plan, Schedule, dense_plan
from wanjax.caching.method import keys_of
from wanjax.config.keys import Config, method_of
from wanjax.errors import UsageError
from wanjax.files import without_home
from wanjax.planning.few_steps import few_step_notes
from wanjax.planning.memory import Memory, estimate, size_unit
from wanjax.planning.schedule import schedule_for
from wanjax.schedulers import SamplerTable, respaced, sampler_table
from wanjax.settings import nearest


class _FromConfig:
    """The type of `FROM_CONFIG`."""

    def __repr__(self) -> str:
        return "FROM_CONFIG"


FROM_CONFIG: Final = _FromConfig()
Caching = Method | Plan | str | _FromConfig | None


@dataclass(frozen=True, eq=False)
class Run:
    """A configuration with all that follows from it; every command takes its facts from here.

    `table` are the sampler's coefficients for the steps of `schedule`, `method` made `plan`
    (None: a dense run, or a plan of the caller's own). The frames' size is the configuration's,
    already fitted to its image.
    """

    config: Config
    schedule: Schedule
    table: SamplerTable
    method: Method | None
    plan: Plan
    memory: Memory

    @property
    def name(self) -> str:
        """The model's: a preset, folder or Hub id."""
        return str(self.config.preset or self.config.model)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to say of it before it starts, besides the plan's warnings."""
        return few_step_notes(self.config, self.plan)

    def to_dict(self) -> dict[str, Any]:
        """The plan as `wanjax plan json=True` prints it, and what it holds in memory."""
        return self.plan.to_dict() | self.memory.to_dict()


def prepare(config: Config, cache: Caching = FROM_CONFIG) -> Run:
    """Plan the run of `config`.

    `cache` takes the place of the configuration's caching method: another one (of which
    settings that it was not given are the configuration's), a method's name, a plan for the
    same steps, or None for a dense run. Raises `UsageError` where the method's settings or
    curve do not fit the run, or where the image cannot be used.
    """
    config = fitted(config)
    schedule = schedule_for(config)
    method, plan = None, None
    if isinstance(cache, Plan):
        plan = cache if cache.schedule.placed else cache.on(schedule)
        if plan.schedule != schedule:
            raise UsageError("cache: this plan was made for other steps than this run's")
    else:
        method = _method(config, cache)
        plan = dense_plan(schedule) if method is None else method.plan(schedule, conditions(config))
    steps = (config.num_inference_steps, config.flow_shift, config.timesteps)
    table = sampler_table(config.sampler, *steps)
    if any(step.passed for step in plan.steps):
        table = respaced(config.sampler, table, [not step.passed for step in plan.steps])
    return Run(config, schedule, table, method, plan, estimate(config, plan))


def conditions(config: Config) -> dict[str, Any]:
    """Facts of a run that a curve may have been measured under others than these."""
    return {
        "model": without_home(config.preset or config.model),  # as calibrations have it
        "image": config.task == "i2v",
        "height": config.height,
        "width": config.width,
        "num_frames": config.num_frames,
        "dtype": config.activations_dtype,
        "attention": config.attention,
    }


def of_one_task(config: Config, image: bool) -> Config:
    """Of a model of both tasks the one that a run does: by whether it has an `image`.

    `{task}` in a caching method's settings, as in the name of a curve, is that task's.
    """
    task = config.task if config.task != "ti2v" else "i2v" if image else "t2v"
    keys = {key for method in METHODS.values() for key in keys_of(method).values()}
    named = {key: value for key in keys if isinstance(value := getattr(config, key, None), str)}
    own: dict[str, Any] = {key: value.replace("{task}", task) for key, value in named.items()}
    return replace(config, task=task, **own)


def fitted(config: Config) -> Config:
    """The configuration with the size that its image leads to; bad images are refused here."""
    config = of_one_task(config, config.image is not None)
    paths = [path for path in (config.image, config.last_image) if path]
    if not paths:
        return config
    from wanjax.media.images import fit_size, load_image  # few runs have an image

    images = [load_image(path) for path in paths]
    if not config.fit_image:
        return config
    height, width = fit_size(images[0], config.height * config.width, size_unit(config))
    return replace(config, height=height, width=width, fit_image=False)


def _method(config: Config, cache: Method | str | _FromConfig | None) -> Method | None:
    if isinstance(cache, _FromConfig):
        return method_of(config)
    if isinstance(cache, str):
        if cache not in METHODS:
            raise UsageError(
                f"cache={cache!r}: no caching method{nearest(cache, METHODS)}; "
                f"methods: {', '.join(METHODS)}"
            )
        cache = METHODS[cache]()
    if cache is None:
        return None
    if not isinstance(cache, Method):
        raise UsageError(
            f"cache: give a caching method such as wanjax.MagCache(), its name, a plan, or None; "
            f"got a {type(cache).__name__}"
        )
    return cache.completed(config)
