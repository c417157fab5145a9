"""The plan: what happens in each step and guidance branch of a run, known before it.

A caching method is a function from a `Schedule` (and its own settings) to a `Plan`;
the denoising loop executes plans and knows no method by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

Action = Literal["compute", "reuse", "predict", "reuse_output"]
COMPUTE: Action = "compute"  # run the transformer blocks
REUSE: Action = "reuse"  # add the branch's last block residual instead of running the blocks
PREDICT: Action = "predict"  # derive the branch's output from the other branch's
REUSE_OUTPUT: Action = "reuse_output"  # the last guided model output; the model does not run

EXPERT_NAMES = ("high", "low")


@dataclass(frozen=True)
class Schedule:
    """The steps of a run before any caching: noise levels, experts, guidance.

    `timesteps` and `experts` have one entry per step, `sigmas` one more (the last is 0).
    Expert 0 is `transformer` (high noise), expert 1 `transformer_2` (low noise).
    """

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]
    experts: tuple[int, ...]
    guidance_scales: tuple[float, ...]
    num_experts: int = 1
    flow_shift: float | None = None
    boundary_ratio: float | None = None

    def __post_init__(self) -> None:
        n = len(self.timesteps)
        if not n == len(self.experts) == len(self.guidance_scales) == len(self.sigmas) - 1:
            raise ValueError(
                f"{n} timesteps need {n} experts, {n} guidance scales and {n + 1} sigmas; got "
                f"{len(self.experts)}, {len(self.guidance_scales)} and {len(self.sigmas)}"
            )

    @property
    def num_steps(self) -> int:
        return len(self.timesteps)

    @property
    def boundary_step(self) -> int | None:
        """Index of the first low-noise step (`num_steps` if none is); None with one expert."""
        if self.num_experts == 1:
            return None
        return self.experts.index(1) if 1 in self.experts else self.num_steps

    @property
    def phases(self) -> tuple[range, ...]:
        """The steps of each expert that has any, in order."""
        if self.boundary_step is None:
            return (range(self.num_steps),)
        halves = (range(self.boundary_step), range(self.boundary_step, self.num_steps))
        return tuple(half for half in halves if len(half))

    def num_branches(self, step: int) -> int:
        """2 (conditional, unconditional) where guidance acts, else 1."""
        return 2 if self.guidance_scales[step] > 1 else 1


@dataclass(frozen=True)
class Step:
    """One denoising step. `actions` has an entry per branch: (conditional, unconditional)."""

    index: int
    timestep: float
    sigma: float
    expert: int
    guidance_scale: float
    actions: tuple[Action, ...]
    weights: tuple[float, float] = (0.0, 0.0)  # of a prediction: low and high frequencies

    @property
    def skipped(self) -> bool:
        """Whether no branch runs the transformer blocks."""
        return COMPUTE not in self.actions


# Takes a step and a function which reads the sample's drift (RMS) since the last computed
# step from the device; returns the step to execute.
Decide = Callable[[Step, Callable[[], float]], Step]


@runtime_checkable
class Decisions(Protocol):
    """How a method decides during a run."""

    def options(self, step: Step) -> Sequence[Step]:
        """What `step` may become, besides itself."""

    def start(self) -> Decide:
        """A decider for one run."""


@dataclass(frozen=True)
class Plan:
    """The steps of a run, with the method and settings that made it."""

    schedule: Schedule
    steps: tuple[Step, ...]
    method: str = "dense"
    settings: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    decisions: Decisions | None = None  # of a method that decides during the run, before it
    decided: Literal["before the run", "during the run"] = "before the run"
    kv_cache_bytes: int | None = None  # what the KV cache holds, where it is on and known

    @property
    def skipped_steps(self) -> tuple[int, ...]:
        return tuple(step.index for step in self.steps if step.skipped)

    @property
    def partial_steps(self) -> tuple[int, ...]:
        """Steps in which some of the branches run the transformer blocks."""
        computed = [(step, step.actions.count(COMPUTE)) for step in self.steps]
        return tuple(step.index for step, n in computed if 0 < n < len(step.actions))

    @property
    def open_steps(self) -> tuple[int, ...]:
        """Steps that the method still decides on, during the run."""
        if self.decisions is None:
            return ()
        return tuple(step.index for step in self.steps if self.decisions.options(step))

    @property
    def boundary_step(self) -> int | None:
        return self.schedule.boundary_step

    @property
    def distinct_steps(self) -> tuple[Step, ...]:
        """One step of each kind that may occur: a run needs as many compiled programs."""
        kinds: dict[tuple[Action, ...], Step] = {}
        for step in self.steps:
            options = () if self.decisions is None else self.decisions.options(step)
            for option in (step, *options):
                kinds.setdefault(option.actions, option)
        return tuple(kinds.values())

    def may(self, *actions: Action) -> bool:
        """Whether any of `actions` can occur, so that the run has to keep what it needs."""
        return any(action in step.actions for step in self.distinct_steps for action in actions)

    def start_decisions(self) -> Decide | None:
        """For methods that decide during the run: a decider in its initial state."""
        return None if self.decisions is None else self.decisions.start()

    def executed(self, steps: Sequence[Step]) -> Plan:
        """This plan with the steps as they came out; none is left to decide."""
        return replace(self, steps=tuple(steps), decisions=None)

    @property
    def ideal_speedup(self) -> float:
        """Block evaluations of the dense run over those of this plan (branches counted)."""
        dense = sum(len(step.actions) for step in self.steps)
        planned = sum(step.actions.count(COMPUTE) for step in self.steps)
        return dense / planned

    def summary(self) -> str:
        """How many steps are computed, in part, skipped, left open; and the ideal speedup."""
        counts = {
            "in part": len(self.partial_steps),
            "skipped": len(self.skipped_steps),
            "to be decided during the run": len(self.open_steps),
        }
        whole = len(self.steps) - sum(counts.values())
        parts = [f"{whole} computed", *(f"{n} {name}" for name, n in counts.items() if n)]
        if not self.open_steps:
            parts.append(f"ideal {self.ideal_speedup:.2f}x")
        return ", ".join(parts)

    def strip(self) -> str:
        """One character a step: `#` computed, `.` skipped, `+` in part, `?` still to be decided.

        `|` stands before a new expert.
        """
        marks, open_steps, partial = [], set(self.open_steps), set(self.partial_steps)
        for step in self.steps:
            if step.index == self.boundary_step and step.index:
                marks.append("|")
            if step.index in open_steps:
                marks.append("?")
            else:
                marks.append("." if step.skipped else "+" if step.index in partial else "#")
        return "".join(marks)

    def to_dict(self) -> dict[str, Any]:
        """The plan as the `plan` command and the record beside an mp4 have it."""
        two = self.schedule.num_experts == 2
        skipped = len(self.skipped_steps)
        return {
            "method": self.method,
            "settings": dict(self.settings),
            "decided": self.decided,
            "steps": len(self.steps),
            "flow_shift": self.schedule.flow_shift,
            "boundary_ratio": self.schedule.boundary_ratio,
            "boundary_step": self.boundary_step,
            "timesteps": [_whole(step.timestep) for step in self.steps],
            "sigmas": [step.sigma for step in self.steps],
            "experts": [EXPERT_NAMES[step.expert] if two else "single" for step in self.steps],
            "guidance_scales": [step.guidance_scale for step in self.steps],
            "actions": [list(step.actions) for step in self.steps],
            "computed": len(self.steps) - skipped,
            "skipped": skipped,
            "skipped_steps": list(self.skipped_steps),
            "partial_steps": list(self.partial_steps),
            "open_steps": list(self.open_steps),
            "ideal_speedup": self.ideal_speedup,
            "strip": self.strip(),
            "kv_cache_bytes": self.kv_cache_bytes,
            "warnings": list(self.warnings),
        }


def make_plan(
    schedule: Schedule,
    actions: Sequence[tuple[Action, ...]],
    method: str = "dense",
    settings: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
    weights: Sequence[tuple[float, float]] | None = None,
) -> Plan:
    """A plan from per-step, per-branch actions, and per-step weights if it predicts.

    Raises `ValueError` where an action cannot be carried out: a reuse in a phase that
    has not computed that branch yet, or a wrong number of branches.
    """
    if len(actions) != schedule.num_steps:
        raise ValueError(f"{schedule.num_steps} steps need as many actions; got {len(actions)}")
    steps = []
    for phase in schedule.phases:
        computed: set[int] = set()
        for i in phase:
            _check(i, actions[i], schedule.num_branches(i), computed)
            computed |= {b for b, action in enumerate(actions[i]) if action == COMPUTE}
            step = _step(schedule, i, tuple(actions[i]))
            steps.append(step if weights is None else replace(step, weights=weights[i]))
    return Plan(schedule, tuple(steps), method, settings or {}, tuple(warnings))


def dense_plan(schedule: Schedule) -> Plan:
    """Every step computes every branch."""
    branches = map(schedule.num_branches, range(schedule.num_steps))
    return make_plan(schedule, [(COMPUTE,) * count for count in branches])


def _whole(timestep: float) -> float:
    """7 rather than 7.0: UniPC's timesteps are whole numbers."""
    return int(timestep) if timestep == int(timestep) else timestep


def _step(schedule: Schedule, i: int, actions: tuple[Action, ...]) -> Step:
    return Step(
        index=i,
        timestep=schedule.timesteps[i],
        sigma=schedule.sigmas[i],
        expert=schedule.experts[i],
        guidance_scale=schedule.guidance_scales[i],
        actions=actions,
    )


def _check(i: int, actions: Sequence[Action], branches: int, computed: set[int]) -> None:
    if len(actions) != branches:
        raise ValueError(f"step {i} has {branches} guidance branches; got actions {actions}")
    for branch, action in enumerate(actions):
        if action != COMPUTE and branch not in computed:
            raise ValueError(
                f"step {i} would {action} in branch {branch}, which its expert has not computed"
            )
    if PREDICT in actions and actions != (COMPUTE, PREDICT):
        raise ValueError(f"step {i}: only the unconditional branch can be predicted; got {actions}")
