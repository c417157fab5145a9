"""The experts of a run, one after the other on the device where there is no room for both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from wanjax.caching import Plan, Schedule, Step
from wanjax.models.transformer import WanTransformer
from wanjax.pipeline.components import Components
from wanjax.pipeline.encode import Contexts, encode_images
from wanjax.pipeline.inputs import Embeds
from wanjax.planning.memory import Fit
from wanjax.planning.run import Run
from wanjax.sampling.programs import Programs
from wanjax.sampling.step import Expert


class Experts:
    """By number: 0 for high noise, 1 for low noise. Holds the one asked for last.

    `transformer(number)` has its parameters on the device, and may send the other's away: so
    whoever holds an expert lets it go before asking for the next. `parameters(number)` are the
    same as a plain dict.
    """

    def __init__(
        self,
        transformer: Callable[[int], WanTransformer],
        parameters: Callable[[int], dict[str, Any]],
        contexts: Contexts,
    ):
        self.contexts = contexts
        self.transformer, self._parameters = transformer, parameters
        self._number: int | None = None
        self._expert: Expert | None = None

    def __getitem__(self, number: int, /) -> Expert:
        if self._expert is None or number != self._number:
            self._expert = None  # its parameters are not held any more when they move
            transformer = self.transformer(number)
            context = self.contexts.of(number, transformer)
            self._number, self._expert = number, Expert(self._parameters(number), context)
        return self._expert


def experts_at_hand(fit: Fit, schedule: Schedule, first: int, keys_values: bool) -> list[int]:
    """The experts whose contexts can be made before the first step, none being moved for it.

    The `first` one to denoise, and the other where both stay on the device; not its keys and
    values, which are large.
    """
    numbers = [schedule.experts[phase.start] for phase in schedule.phases]
    places = [dict(fit.of_expert(schedule, number).places) for number in numbers]
    stay = all(place == places[0] for place in places)
    return numbers if stay and not keys_values else [first]


def last_computed_before_boundary(plan: Plan) -> int | None:
    """The last step that the plan computes with the first of two experts."""
    boundary = plan.boundary_step or 0
    return max((s.index for s in plan.steps[:boundary] if not s.skipped), default=None)


def experts_of_run(
    components: Components,
    programs: Programs,
    run: Run,
    fit: Fit,
    embeds: Sequence[Embeds],
    ends: Sequence[Sequence[Any]],
) -> Experts:
    """A run's experts, each with the context that it attends to; the first is ready.

    `embeds` are the guidance branches' prompts, `ends` the pictures of each video.
    """

    def expert(number: int) -> WanTransformer:
        components.arrange(fit.of_expert(run.schedule, number).places)
        return components.expert(number)

    config = run.config
    image_embeds = encode_images(components, programs, ends)
    if config.low_memory and image_embeds is not None:
        jax.block_until_ready(image_embeds)
        components.rest("image_encoder")
    contexts = Contexts(
        programs,
        run.schedule,
        embeds,
        image_embeds,
        config.activations_dtype,
        config.use_kv_cache,
    )
    first = run.plan.steps[0].expert
    contexts.compile(expert(first))
    for number in experts_at_hand(fit, run.schedule, first, config.use_kv_cache):
        contexts.of(number, expert(number))
    return Experts(expert, components.parameters, contexts)


def bring_next_expert(components: Components, run: Run, fit: Fit) -> Callable[[Step], None]:
    """Send for the low-noise expert while the last step before it computes."""
    last = last_computed_before_boundary(run.plan)  # long enough to fetch an expert in

    def meanwhile(step: Step) -> None:
        if step.index == last:
            room = fit.of_expert(run.schedule, step.expert).arriving
            components.expect(components.folder.experts[1 - step.expert], room)

    return meanwhile
