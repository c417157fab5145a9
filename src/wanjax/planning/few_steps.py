"""What a run of few steps should know: of its model, and of caching. No JAX."""

from __future__ import annotations

from wanjax.caching import Plan
from wanjax.checkpoints.published_models import listed
from wanjax.config.keys import Config, active_methods

FEW = 10  # steps; a cache finds little below


def few_step_notes(config: Config, plan: Plan) -> tuple[str, ...]:
    """In a sentence each; none of a run of many steps."""
    steps = plan.schedule.num_steps
    if steps >= FEW:
        return ()
    notes = []
    guided = max(plan.schedule.guidance_scales) > 1
    if listed(config.model) and not guided and not _is_changed(config):
        keys = "lora=" if config.num_experts == 1 else "lora_high= and lora_low="
        notes.append(
            f"{config.model} was not made for {steps} steps without guidance: give its LoRAs for "
            f"few steps as {keys}, or a distilled model as model="
        )
    if active_methods(config):
        computed = {0, steps - 1, *(phase.start for phase in plan.schedule.phases)}
        most = steps - len(computed)
        each = "the first" if len(plan.schedule.phases) == 1 else "each expert's first"
        notes.append(
            f"caching: {each} step and the last compute, so that of {steps} steps at most {most} "
            f"can be skipped ({steps / len(computed):.2f}x); a curve of a model for many steps "
            "says little of one for few"
        )
    return tuple(notes)


def _is_changed(config: Config) -> bool:
    """Whether the transformers are others than the model's own."""
    loras = (config.lora, config.lora_high, config.lora_low)
    return any(loras) or not {"transformer", "transformer_2"}.isdisjoint(config.parts)
