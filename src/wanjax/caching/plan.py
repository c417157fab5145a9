"""The plan: what happens in each step and guidance branch of a run, known before it.

A caching method is a function from a `Schedule` (and its own settings) to a `Plan`;
the denoising loop executes plans and knows no method by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from wanjax.caching.actions import COMPUTE, NEEDS, REUSE, WITHOUT_MODEL, Action, Keeps, Source
from wanjax.caching.drawing import strip_svg
from wanjax.caching.schedule import EXPERT_NAMES, Schedule
from wanjax.caching.strips import COMPUTED, PARTIAL, SKIPPED, SWITCH, UNDECIDED, read_strip
from wanjax.errors import PlanError


@dataclass(frozen=True)
class Step:
    """One denoising step. `actions` has an entry per branch: (conditional, unconditional).

    `correction` makes good what was estimated since the last computed step, now that this one
    computes: a row for each of the sampler's (x, x', m', m'') and this step's guided output,
    with weights over that output and the last computed ones, newest first; see
    `caching.estimates`.
    """

    index: int
    timestep: float
    sigma: float
    expert: int
    guidance_scale: float
    actions: tuple[Action, ...]
    correction: tuple[tuple[float, ...], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The actions for people and records."""
        return tuple(action.name for action in self.actions)

    @property
    def kind(self) -> tuple[Source, ...]:
        """What the step's compiled program depends on."""
        return tuple(action.source for action in self.actions)

    @property
    def computed(self) -> int:
        """How many branches run the transformer blocks."""
        return sum(action.computes for action in self.actions)

    @property
    def skipped(self) -> bool:
        """Whether no branch runs the transformer blocks."""
        return not self.computed

    @property
    def without_model(self) -> bool:
        """Whether nothing of the model runs."""
        return self.kind[0] in WITHOUT_MODEL

    @property
    def estimated(self) -> bool:
        """Whether the guided output is estimated and the sampler goes by that."""
        return self.without_model and not self.passed

    @property
    def passed(self) -> bool:
        """Whether nothing happens in it: the sampler goes straight past."""
        return self.kind[0] == "nothing"

    @property
    def keeps(self) -> Keeps:
        """What has to be kept for this step's estimates."""
        needs = Keeps(outputs=len(self.correction[0]) - 1 if self.correction else 0)
        for action in self.actions:
            times = 1 if action.source == "branch" else len(action.weights)
            needs = needs.and_also(Keeps(*(n * times for n in NEEDS[action.source])))
        return needs

    def instead(self, action: Action) -> Step:
        """This step with `action` in every branch."""
        return replace(self, actions=(action,) * len(self.actions))


@runtime_checkable
class Decisions(Protocol):
    """How a method decides during a run.

    The loop starts a new `state` at each expert's first step, hands it on unopened, and lets
    `decide` say what each step becomes. `read()` there gives what `probe` made on the device
    of the values in sight (see `sampling.probe.Sight`), as NumPy arrays; waiting for it is
    the cost of a decision, so a step that is decided without it does not call it. `probe` is
    a plain function, compiled once a run.
    """

    @property
    def keeps(self) -> Keeps:
        """What the probe looks at, besides the sample."""

    @property
    def probe(self) -> Callable[[Any], Any]: ...

    def options(self, step: Step) -> Sequence[Step]:
        """What `step` may become, besides itself."""

    def start(self) -> Any:
        """The state before an expert's first step."""

    def decide(self, state: Any, step: Step, read: Callable[[], Any]) -> tuple[Step, Any]:
        """The step to execute, and the state for the next one."""


class Prediction(NamedTuple):
    """What a plan is expected to cost: known where a calibration has the outputs' matrix.

    `error` is the distance of the final latents from the dense run's, root mean square over
    elements; `psnr` that of the frames in dB, where the calibration says how the two go together.
    """

    error: float
    psnr: float | None = None


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
    prediction: Prediction | None = None
    together: int | None = None  # videos that were decided on as one, during the run

    def __repr__(self) -> str:
        return f"Plan({self.method}: {self.strip()}, {self.summary()})"

    def _repr_svg_(self) -> str:
        return strip_svg(self.strip(), f"{self.method}: {len(self.steps)} steps, {self.summary()}")

    @classmethod
    def from_strip(
        cls, strip: str, schedule: Schedule | None = None, skipped: Action = REUSE
    ) -> Plan:
        """The plan that a strip such as `"###.#.##"` shows; `strip()` and `wanjax plan` print one.

        `#` computes, `.` takes the action `skipped`, `+` computes the conditional branch and
        takes `skipped` in the other. A `|` must stand where the experts change, or be left out.
        Without a `schedule` the plan takes the steps of the run that it is given to, which must
        be as many. Raises `PlanError` for other marks and for steps that cannot be carried out.
        """
        actions, boundary = read_strip(strip, skipped)
        plan = make_plan(Schedule.unplaced(len(actions), boundary), actions, "strip")
        return plan if schedule is None else plan.on(schedule)

    def on(self, schedule: Schedule) -> Plan:
        """The same actions in the steps of another schedule, which has as many.

        Raises `PlanError` where they cannot be carried out there, or follow from the noise levels
        (corrections) or the data.
        """
        if len(self.steps) != schedule.num_steps:
            raise PlanError(
                f"the plan {self.strip()} has {len(self.steps)} steps, the run "
                f"{schedule.num_steps}: set num_inference_steps={len(self.steps)}"
            )
        if self.boundary_step not in (None, schedule.boundary_step):
            raise PlanError(
                f"the plan {self.strip()} changes experts at step {self.boundary_step}, the run "
                f"at {schedule.boundary_step}: move the | or leave it out"
            )
        if self.decisions is not None or self.corrects:
            raise PlanError(f"a plan of {self.method} is for its own steps: plan anew for others")
        actions = []
        for step in self.steps:
            branches = schedule.num_branches(step.index)
            same = len(set(step.actions)) == 1
            actions.append(step.actions[:1] * branches if same else step.actions)
        return make_plan(schedule, actions, self.method, self.settings)

    @property
    def skipped_steps(self) -> tuple[int, ...]:
        return tuple(step.index for step in self.steps if step.skipped)

    @property
    def partial_steps(self) -> tuple[int, ...]:
        """Steps in which some of the branches run the transformer blocks."""
        return tuple(s.index for s in self.steps if 0 < s.computed < len(s.actions))

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
        kinds: dict[tuple[Source, ...], Step] = {}
        for step in self._possible():
            if not step.passed:
                kinds.setdefault(step.kind, step)
        return tuple(kinds.values())

    @cached_property
    def runs(self) -> tuple[tuple[Step, ...], ...]:
        """The steps, with those in a row that go by the same estimates together.

        Nothing comes in between, so one call of a program does for all of them. A plan that is
        decided during the run goes step by step.
        """
        runs: list[tuple[Step, ...]] = []
        for step in self.steps:
            joins = self.decisions is None and step.index not in (0, self.boundary_step)
            if joins and step.estimated and runs[-1][-1].estimated:
                runs[-1] += (step,)
            else:
                runs.append((step,))
        return tuple(runs)

    @cached_property
    def keeps(self) -> Keeps:
        """What a run of this plan has to keep from step to step."""
        keeps = Keeps() if self.decisions is None else self.decisions.keeps
        for step in self._possible():
            keeps = keeps.and_also(step.keeps)
        return keeps

    @cached_property
    def num_weights(self) -> int:
        """The most weights that an estimate has: so many stand in each step's inputs."""
        return max(len(a.weights) for step in self._possible() for a in step.actions)

    @cached_property
    def corrects(self) -> bool:
        """Whether any step corrects earlier ones, so that all steps' programs provide for it."""
        return any(step.correction for step in self.steps)

    def _possible(self) -> list[Step]:
        """Every step, and what it may become."""
        if self.decisions is None:
            return list(self.steps)
        return [s for step in self.steps for s in (step, *self.decisions.options(step))]

    def executed(self, steps: Sequence[Step], videos: int) -> Plan:
        """This plan with the steps as they came out for `videos`; none is left to decide."""
        together = None if self.decisions is None else videos
        return replace(self, steps=tuple(steps), decisions=None, together=together)

    @property
    def ideal_speedup(self) -> float:
        """Block evaluations of the dense run over those of this plan (branches counted)."""
        dense = sum(len(step.actions) for step in self.steps)
        planned = sum(step.computed for step in self.steps)
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

    def about(self, step: Step) -> str:
        """A step in words, as `high noise, skipped`."""
        expert = f"{EXPERT_NAMES[step.expert]} noise, " if self.schedule.num_experts == 2 else ""
        return expert + ("skipped" if step.skipped else "computed")

    def strip(self) -> str:
        """One character a step: `#` computed, `.` skipped, `+` in part, `?` still to be decided.

        `|` stands before a new expert.
        """
        marks, open_steps, partial = [], set(self.open_steps), set(self.partial_steps)
        for step in self.steps:
            if step.index == self.boundary_step and step.index:
                marks.append(SWITCH)
            if step.index in open_steps:
                marks.append(UNDECIDED)
            else:
                some = PARTIAL if step.index in partial else COMPUTED
                marks.append(SKIPPED if step.skipped else some)
        return "".join(marks)

    def to_dict(self) -> dict[str, Any]:
        """The plan as the `plan` command and the record beside an mp4 have it."""
        two = self.schedule.num_experts == 2
        skipped = len(self.skipped_steps)
        return {
            "method": self.method,
            "settings": dict(self.settings),
            "decided": self.decided,
            "decided_together": self.together,
            "steps": len(self.steps),
            "flow_shift": self.schedule.flow_shift,
            "boundary_ratio": self.schedule.boundary_ratio,
            "boundary_step": self.boundary_step,
            "timesteps": [_whole(step.timestep) for step in self.steps],
            "sigmas": [step.sigma for step in self.steps],
            "experts": [EXPERT_NAMES[step.expert] if two else "single" for step in self.steps],
            "guidance_scales": [step.guidance_scale for step in self.steps],
            "actions": [list(step.names) for step in self.steps],
            "computed": len(self.steps) - skipped,
            "skipped": skipped,
            "skipped_steps": list(self.skipped_steps),
            "partial_steps": list(self.partial_steps),
            "open_steps": list(self.open_steps),
            "ideal_speedup": self.ideal_speedup,
            "strip": self.strip(),
            "predicted_error": None if self.prediction is None else self.prediction.error,
            "expected_psnr": None if self.prediction is None else self.prediction.psnr,
            "warnings": list(self.warnings),
        }


def make_plan(
    schedule: Schedule,
    actions: Sequence[Sequence[Action]],
    method: str = "dense",
    settings: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
    corrections: Mapping[int, tuple[tuple[float, ...], ...]] | None = None,
    prediction: Prediction | None = None,
) -> Plan:
    """A plan from per-step, per-branch actions, and corrections of some computed steps.

    Raises `PlanError` where an action cannot be carried out: an estimate from more computed
    steps than its expert has made, or a wrong number of branches.
    """
    if len(actions) != schedule.num_steps:
        raise PlanError(f"{schedule.num_steps} steps need as many actions; got {len(actions)}")
    steps = []
    for phase in schedule.phases:
        made = _Made()
        for i in phase:
            _check(i, actions[i], schedule.num_branches(i), made)
            correction = (corrections or {}).get(i, ())
            steps.append(_step(schedule, i, tuple(actions[i]), correction))
            made = made.after(steps[-1])
    return Plan(
        schedule, tuple(steps), method, settings or {}, tuple(warnings), prediction=prediction
    )


def dense_plan(schedule: Schedule) -> Plan:
    """Every step computes every branch."""
    branches = map(schedule.num_branches, range(schedule.num_steps))
    return make_plan(schedule, [(COMPUTE,) * count for count in branches])


class _Made(NamedTuple):
    """How many steps of an expert have computed each branch, and all of them."""

    branches: tuple[int, int] = (0, 0)
    whole: int = 0

    def after(self, step: Step) -> _Made:
        first, last = step.actions[0].computes, step.actions[-1].computes
        counts = (self.branches[0] + first, self.branches[1] + last)
        return _Made(counts, self.whole + (first and last))


def _check(i: int, actions: Sequence[Action], branches: int, made: _Made) -> None:
    names = [action.name for action in actions]
    if len(actions) != branches:
        raise PlanError(f"step {i} has {branches} guidance branches; got actions {names}")
    sources = [action.source for action in actions]
    if "branch" in sources and sources != ["blocks", "branch"]:
        raise PlanError(f"step {i}: only the unconditional branch can be predicted; got {names}")
    if {"output", "offset"} & set(sources) and len(set(actions)) > 1:
        raise PlanError(f"step {i}: a guided output stands for both branches; got {names}")
    if "nothing" in sources and (i == 0 or len(set(actions)) > 1):
        raise PlanError(
            f"step {i} cannot be passed: it is the first, or a branch acts; got {names}"
        )
    for branch, action in enumerate(actions):
        have = made.branches[branch] if action.source == "residual" else made.whole
        need = 1 if action.source == "branch" else len(action.weights)
        if need > have:
            raise PlanError(
                f"step {i} would {action.name} in branch {branch} from {need} computed step(s), "
                f"and its expert has made {have}"
            )


def _whole(timestep: float) -> float:
    """7 rather than 7.0: UniPC's timesteps are whole numbers."""
    return int(timestep) if timestep == int(timestep) else timestep


def _step(
    schedule: Schedule,
    i: int,
    actions: tuple[Action, ...],
    correction: tuple[tuple[float, ...], ...],
) -> Step:
    return Step(
        index=i,
        timestep=schedule.timesteps[i],
        sigma=schedule.sigmas[i],
        expert=schedule.experts[i],
        guidance_scale=schedule.guidance_scales[i],
        actions=actions,
        correction=correction,
    )
