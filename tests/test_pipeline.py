"""The pipeline on small random weights: programs, plans, batches, results, mistakes."""

from __future__ import annotations

import gc
import re
import weakref
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx
from jax import monitoring
from PIL import Image
from small_folder import TEXT_DIM, Z
from test_media import interrupt_writing

import wanjax
from wanjax.caching import Curve, make_plan
from wanjax.caching.actions import COMPUTE, REUSE
from wanjax.errors import UsageError
from wanjax.media.video_files import read_video
from wanjax.parallel.targets import Target
from wanjax.planning.run import prepare
from wanjax.planning.schedule import make_schedule
from wanjax.sampling.skipped import run_skipped
from wanjax.sampling.step import run_step

PROMPTS = ("a red ball moving left", "dark")
STEPS, BOUNDARY = 8, 5  # with the folder's flow_shift 5 and boundary_ratio 0.8
FLAT = Curve.from_list([1.0] * 2 * STEPS)  # nothing changes, so everything may be skipped
STEEP = Curve.from_list([1.0, 1.0] + [0.5] * 2 * (STEPS - 1))
ALL_SKIPPED = wanjax.MagCache(mag_ratios_base=FLAT, retention_ratio=0)


def load(folder, **values):
    defaults = {"weights_dtype": "float32", "activations_dtype": "float32", "fps": 8}
    size = {"height": 32, "width": 48, "num_frames": 5, "num_inference_steps": STEPS}
    return wanjax.WanPipeline.from_pretrained(
        folder, max_sequence_length=16, **(defaults | size | values)
    )


@pytest.fixture(scope="module")
def pipe(small_folder):
    return load(small_folder)


def latents_of(pipe, *prompts, **arguments):
    arguments = {"output_type": "latent", "seed": 3} | arguments
    return pipe(*(prompts or PROMPTS), **arguments).latents


@contextmanager
def denoising_programs(pipe):
    """The distinct programs that runs inside use for their steps, by their actions."""
    used = {}

    def watch(function, args, program):
        if function in (run_step, run_skipped):
            used[id(program)] = program

    pipe.programs.watch = watch
    yield used
    pipe.programs.watch = None


@contextmanager
def compilations():
    """Everything that XLA compiles inside, the smallest operation included."""
    found = []

    def listen(event, seconds, **about):
        if event.endswith("backend_compile_duration"):
            found.append(event)

    monitoring.register_event_duration_secs_listener(listen)
    yield found
    monitoring.unregister_event_duration_listener(listen)


# Programs


def test_dense_needs_one_program_and_magcache_two(pipe):
    with denoising_programs(pipe) as dense:
        latents_of(pipe)
    with denoising_programs(pipe) as cached:
        video = pipe(*PROMPTS, output_type="latent", cache=ALL_SKIPPED)
    assert video.plan.strip() == "#..#.|#.#"
    assert (len(dense), len(cached)) == (1, 2)


def test_a_phase_of_one_branch_has_programs_of_its_own(pipe):
    """Computed and skipped, with guidance and without: four, which the documentation says."""
    with denoising_programs(pipe) as cached:
        video = pipe(*PROMPTS, guidance_scale_2=1.0, output_type="latent", cache=ALL_SKIPPED)
    assert video.plan.strip() == "#..#.|#.#"
    assert len(cached) == 4


USES = {
    "text": {"text_encoder"},
    "condition": set(),
    "denoise_high": {"transformer"},
    "denoise_low": {"transformer_2"},
    "decode": {"vae"},
}


@pytest.mark.slow
def test_parts_wait_on_the_host_where_the_device_has_no_room(small_folder, pipe, monkeypatch):
    """As the placement says: only what a stage uses is on the device, and nothing else changes."""
    crowded = load(small_folder)

    def fit(run):
        real = pipe.fit(run)
        stages = []
        for stage in real.placement.stages:
            places = {c: "device" if c in USES[stage.name] else "pinned_host" for c in stage.places}
            stages.append(replace(stage, places=places))
        return replace(real, placement=replace(real.placement, stages=tuple(stages)))

    monkeypatch.setattr(crowded, "fit", fit)
    seen, fetched = [], []
    part = crowded.components._part

    def count(name, kind):
        if crowded.components.where(name) == "host":
            fetched.append(name)
        return part(name, kind)

    monkeypatch.setattr(crowded.components, "_part", count)

    def note(report):
        names = ("text_encoder", "transformer", "transformer_2", "vae")
        there = [name for name in names if crowded.components.where(name) == "device"]
        seen.append((report.step.expert, there))

    with denoising_programs(crowded) as programs:
        for _ in range(2):
            video = crowded(*PROMPTS, cache=ALL_SKIPPED, callback=note)
        np.testing.assert_array_equal(video.frames, pipe(*PROMPTS, cache=ALL_SKIPPED).frames)
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]
    assert dict(seen) == {0: ["transformer"], 1: ["transformer_2"]}
    assert len(programs) == 2  # not compiled again for what has moved
    each = ["text_encoder", "transformer", "transformer_2", "vae"]  # once, as the run needs them
    assert fetched == [*each[1:], *each]
    assert video.memory.fit.placement["decode"].places["transformer"] == "pinned_host"


def test_the_next_expert_arrives_while_the_last_step_before_the_boundary_runs(
    small_folder, pipe, monkeypatch
):
    """As far as there is room: from the step's start, and not before."""
    crowded = load(small_folder)
    room = sum(x.nbytes for x in jax.tree.leaves(nnx.state(crowded.components.expert(1)))) // 2

    def fit(run):
        real = pipe.fit(run)
        away = {"denoise_high": {"transformer_2": "pinned_host"}}
        stages = [
            replace(s, places=dict(s.places) | away.get(s.name, {}), arriving=room)
            for s in real.placement.stages
        ]
        return replace(real, placement=replace(real.placement, stages=tuple(stages)))

    monkeypatch.setattr(crowded, "fit", fit)
    crowded.components.rest("transformer_2")
    there = []

    def note(report):
        model = crowded.components._parts["transformer_2"]
        parameters = jax.tree.leaves(nnx.state(model))
        here = sum(x.nbytes for x in parameters if x.sharding.memory_kind == "device")
        there.append(here / room)

    video = crowded(*PROMPTS, cache=ALL_SKIPPED, callback=note)
    assert video.plan.strip() == "#..#.|#.#"
    assert there[:3] == [0, 0, 0]
    assert 0.5 < there[3] <= 1
    assert there[3] == there[4] < there[5]
    np.testing.assert_array_equal(video.frames, pipe(*PROMPTS, cache=ALL_SKIPPED).frames)


def test_an_expert_on_its_way_can_be_sent_back(small_folder):
    components = load(small_folder).components
    components.rest("transformer_2")
    components.expect("transformer_2", room=10**9)
    assert components.where("transformer_2") == "host"
    components.rest("transformer_2")
    kinds = {
        x.sharding.memory_kind
        for x in jax.tree.leaves(nnx.state(components._parts["transformer_2"]))
    }
    assert kinds == {"pinned_host"}
    assert components.transformers[1] is components.expert(1)
    assert components.where("transformer_2") == "device"


def test_parameters_that_rest_leave_the_device(small_folder):
    components = load(small_folder).components
    one = weakref.ref(jax.tree.leaves(components.parameters(0))[0])
    assert one() is not None
    components.rest("transformer")
    assert one() is None


def test_what_has_rested_rests_again_without_being_moved(small_folder):
    """As accelerators do it: the host keeps what it was sent."""
    components = load(small_folder).components
    before = [np.asarray(x) for x in jax.tree.leaves(components.parameters(1))]
    components.keeps_copies = True
    components.rest("transformer_2")
    there = jax.tree.leaves(nnx.state(components._parts["transformer_2"]))
    after = jax.tree.leaves(components.parameters(1))
    assert {x.sharding.memory_kind for x in after} == {"device"}
    components.rest("transformer_2")
    again = jax.tree.leaves(nnx.state(components._parts["transformer_2"]))
    assert all(one is other for one, other in zip(there, again, strict=True))
    for one, other in zip(before, jax.tree.leaves(components.parameters(1)), strict=True):
        np.testing.assert_array_equal(one, np.asarray(other))
    components.rest("transformer_2")
    components.free("transformer_2")
    assert components._copies == {}


@pytest.mark.parametrize("fails", [False, True])
def test_a_pipeline_that_is_dropped_gives_its_memory_back(small_folder, fails):
    def held():
        gc.collect()
        return sum(array.nbytes for array in jax.live_arrays())

    def stop(report):
        raise KeyboardInterrupt

    def run():
        its_own = load(small_folder)
        with pytest.raises(KeyboardInterrupt) if fails else nullcontext():
            its_own(*PROMPTS, output_type="latent", callback=stop if fails else None)
        assert held() > before
        return weakref.ref(its_own), weakref.ref(its_own.components), weakref.ref(its_own.programs)

    before = held()
    gone = run()
    assert held() == before
    assert [one() for one in gone] == [None, None, None]


def test_a_run_without_room_is_refused_with_what_would_help(small_folder):
    crowded = load(small_folder)
    crowded.target = Target("here", "gpu", "a small one", 1, memory_limit=600_000)
    with pytest.raises(UsageError, match=r"a small one\) has 0.0 GiB, and this run needs about"):
        crowded(*PROMPTS)


def test_a_host_without_room_for_what_waits_there_is_refused(small_folder, monkeypatch):
    crowded = load(small_folder, height=96)
    crowded.target = Target("here", "gpu", "a small one", 1, memory_limit=2_600_000)
    run = prepare(crowded.config)
    waiting = crowded.fit(run).host_bytes
    for name, memory in (("enough", 2 * waiting), ("too little", waiting)):
        monkeypatch.setattr("wanjax.pipeline.abilities.host_memory", lambda memory=memory: memory)
        refused = pytest.raises(UsageError, match=r"waiting in the host's memory \(.*transformer")
        with refused if name == "too little" else nullcontext():
            crowded.fit(run)


@pytest.mark.slow
def test_the_vae_takes_stripes_where_frames_do_not_fit(small_folder, pipe):
    expected = pipe(*PROMPTS, height=96).frames
    crowded = load(small_folder, height=96)
    crowded.target = Target("here", "gpu", "a small one", 1, memory_limit=2_600_000)
    fit = crowded.fit(prepare(crowded.config))
    assert fit.stripe_rows.decode == 3  # of 12
    assert fit.placement["decode"].places["transformer"] == "pinned_host"
    # the last place of a pixel: sums are taken in another order
    assert np.abs(crowded(*PROMPTS).frames.astype(int) - expected).max() <= 1


def test_what_has_encoded_may_leave_the_device(small_folder, pipe):
    """With low_memory the text encoder rests on the host until the next call needs it."""
    spare = load(small_folder, low_memory=True)
    first = latents_of(spare)
    assert spare.components.where("text_encoder") == "host"
    assert spare.components.where("transformer") == "device"
    np.testing.assert_array_equal(latents_of(spare), first)
    np.testing.assert_array_equal(latents_of(pipe), first)
    assert pipe.components.where("text_encoder") == "device"
    spare.components.free("vae")
    assert spare.components.where("vae") == "files"
    np.testing.assert_array_equal(latents_of(spare), first)  # loaded again, for its sizes


def test_a_skipped_step_runs_no_blocks(pipe):
    """The blocks are the one loop of a program: over the stacked layers."""
    with denoising_programs(pipe) as cached:
        latents_of(pipe, cache=ALL_SKIPPED)
    loops = [len(re.findall(r"\swhile\(", program.as_text())) for program in cached.values()]
    assert sorted(loops) == [0, 1]
    flops = sorted(program.cost_analysis()["flops"] for program in cached.values())
    assert flops[0] < flops[1] / 2


@pytest.mark.parametrize("cache", [None, ALL_SKIPPED], ids=["dense", "magcache"])
def test_other_prompt_guidance_or_seed_compiles_nothing(pipe, cache):
    pipe(*PROMPTS, cache=cache)
    programs = len(pipe.programs)
    with compilations() as compiled:
        pipe("a blue square", "", guidance_scale=2.5, guidance_scale_2=7.0, seed=9, cache=cache)
    assert len(pipe.programs) == programs
    assert compiled == []


def test_other_steps_compile_no_program(pipe):
    latents_of(pipe)
    programs = len(pipe.programs)
    for steps in (1, 2, 9):
        latents_of(pipe, num_inference_steps=steps)
    assert len(pipe.programs) == programs


def test_compiling_is_timed_apart(pipe):
    first, second = (pipe(*PROMPTS, num_frames=1).timings for _ in range(2))
    assert first.compile > 0
    assert second.compile == 0
    for timings in (first, second):
        assert set(timings.stages) == {"text", "condition", "denoise", "decode"}
        assert len(timings.steps) == STEPS
        assert sum(timings.steps) <= timings.stages["denoise"]
        assert min(timings.peak_memory.values()) > 0


# Plans


def test_runs_are_equal(pipe):
    first, second = pipe(*PROMPTS, seed=1), pipe(*PROMPTS, seed=1)
    np.testing.assert_array_equal(first.latents, second.latents)
    np.testing.assert_array_equal(first.frames, second.frames)
    assert not np.array_equal(first.latents, latents_of(pipe, seed=2))


def test_a_curve_that_forces_no_skip_is_dense(pipe):
    cache = wanjax.MagCache(mag_ratios_base=STEEP)
    np.testing.assert_array_equal(latents_of(pipe, cache=cache), latents_of(pipe))


def test_steps_before_the_first_skip_are_dense(pipe):
    """Keeping the residual changes nothing; using it does."""
    cache = wanjax.MagCache(mag_ratios_base=FLAT, retention_ratio=0.5)
    seen = {}
    for name, method in {"dense": None, "cached": cache}.items():
        samples = seen[name] = []
        latents_of(pipe, cache=method, callback=lambda r, s=samples: s.append(np.array(r.latents)))
    assert cache.plan(schedule()).skipped_steps[0] == 2
    difference = [np.abs(a - b).max() for a, b in zip(*seen.values(), strict=True)]
    assert max(difference[:2]) < 1e-6
    assert min(difference[2:]) > 1e-3


def schedule(steps=STEPS, guidance=5.0):
    return make_schedule(steps, 5.0, guidance, guidance, boundary_ratio=0.8)


def test_callback_reports_every_step(pipe):
    reports = []
    video = pipe(*PROMPTS, cache=ALL_SKIPPED, output_type="latent", callback=reports.append)
    assert [r.step for r in reports] == list(video.plan.steps)
    assert video.plan.boundary_step == BOUNDARY
    assert video.plan.skipped_steps == (1, 2, 4, 6)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_few_steps_with_magcache(pipe, steps, guidance):
    """Regression: others skip before any residual exists."""
    video = pipe(
        *PROMPTS, cache=ALL_SKIPPED, num_inference_steps=steps, guidance_scale=guidance,
        output_type="latent",
    )  # fmt: skip
    assert np.isfinite(video.latents).all()
    assert not video.plan.steps[0].skipped
    assert not video.plan.steps[-1].skipped


def test_a_residual_reused_twice_does_not_drift(small_folder):
    """In bfloat16 (tokens + residual) - tokens is not the residual: it must not be taken again."""
    pipe = load(small_folder, activations_dtype="bfloat16")
    plan = ALL_SKIPPED.plan(schedule())
    assert plan.skipped_steps[:2] == (1, 2)
    changes = []
    latents_of(
        pipe,
        cache=plan,
        measures=("residual",),
        callback=lambda r: changes.append(r.changes["residual"]),
    )
    for step in plan.skipped_steps:
        ratio, spread, distance = np.moveaxis(np.asarray(changes[step]), -1, 0)
        np.testing.assert_allclose(ratio, 1, atol=1e-6)
        np.testing.assert_allclose(spread, 0, atol=1e-6)
        np.testing.assert_allclose(distance, 0, atol=1e-6)


def test_a_plan_of_ones_own(pipe):
    """Also one that skips the last step, which no method does."""
    both = {"#": (COMPUTE,) * 2, ".": (REUSE,) * 2}
    plan = make_plan(schedule(), [both[mark] for mark in "##.#.#.."], "mine")
    video = pipe(*PROMPTS, cache=plan, output_type="latent")
    assert (video.plan.method, video.plan.skipped_steps) == ("mine", (2, 4, 6, 7))
    assert not np.array_equal(video.latents, latents_of(pipe))


def test_guidance_of_one_has_no_unconditional_branch(pipe):
    """v = u + 1 (c - u) = c."""
    video = pipe(*PROMPTS, seed=3, guidance_scale=1.0, output_type="latent")
    assert {step.actions for step in video.plan.steps} == {(COMPUTE,)}
    almost = latents_of(pipe, guidance_scale=1.00001)
    np.testing.assert_allclose(video.latents, almost, atol=1e-3)


def test_branches_one_by_one(small_folder, pipe):
    one_by_one = load(small_folder, batch_guidance=False)
    np.testing.assert_allclose(latents_of(one_by_one), latents_of(pipe), atol=1e-5)


def test_each_expert_has_its_own_guidance(pipe):
    samples = {}
    for low in (5.0, 2.0):
        seen = samples[low] = []
        latents_of(
            pipe, guidance_scale=5.0, guidance_scale_2=low,
            callback=lambda r, s=seen: s.append(np.array(r.latents)),
        )  # fmt: skip
    difference = [np.abs(a - b).max() for a, b in zip(*samples.values(), strict=True)]
    assert max(difference[:BOUNDARY]) == 0
    assert min(difference[BOUNDARY:]) > 1e-4


# Batches


def test_a_batch_equals_single_runs(pipe):
    prompts = ["a red ball moving left", "a blue square"]
    batch = pipe(prompts, "dark", seed=[5, 11])
    for i, seed in enumerate((5, 11)):
        single = pipe(prompts[i], "dark", seed=seed)
        np.testing.assert_allclose(batch.latents[i], single.latents[0], atol=1e-5)
        assert np.abs(batch.frames[i].astype(int) - single.frames[0]).max() <= 1


def test_a_method_that_decides_from_data_says_for_how_many_videos(pipe):
    """Each of them depends on its neighbours then."""
    always = wanjax.SenCache(9.0, start=0.0, end=1.0, sensitivities=(0.0, 0.0))
    two = pipe(list(PROMPTS), "", seed=5, cache=always, output_type="latent").plan.to_dict()
    assert (two["decided"], two["decided_together"]) == ("during the run", 2)
    assert two["skipped"] > 0
    dense = pipe(list(PROMPTS), "", seed=5, output_type="latent").plan.to_dict()
    assert (dense["decided"], dense["decided_together"]) == ("before the run", None)


def test_a_seed_counts_up_over_the_batch(pipe):
    counted = latents_of(pipe, list(PROMPTS), "", seed=5)
    np.testing.assert_array_equal(counted, latents_of(pipe, list(PROMPTS), "", seed=[5, 6]))
    np.testing.assert_array_equal(counted, latents_of(pipe, list(PROMPTS), "", seed=np.int64(5)))


def test_given_noise_and_embeddings(pipe):
    noise = np.asarray(jax.random.normal(jax.random.key(3), (Z, 2, 4, 6)))[None]
    expected = latents_of(pipe)
    np.testing.assert_array_equal(latents_of(pipe, latents=noise, seed=8), expected)
    embeds = [pipe.encode_prompt([prompt]) for prompt in PROMPTS]
    given = pipe(
        prompt_embeds=embeds[0], negative_prompt_embeds=embeds[1], seed=3, output_type="latent"
    )
    np.testing.assert_array_equal(given.latents, expected)


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"prompt": None}, "either prompt or prompt_embeds"),
        ({"prompt_embeds": np.zeros((1, 16, TEXT_DIM))}, "either prompt or prompt_embeds"),
        ({"negative_prompt": ["a", "b"]}, "negative_prompt: 2 for 1 prompts"),
        ({"negative_prompt_embeds": np.zeros((1, 9, TEXT_DIM))}, r"\(1, 9, 32\).*must be equal"),
        ({"latents": np.zeros((1, Z, 2, 4, 5))}, r"\(1, 4, 2, 4, 5\), expected \(1, 4, 2, 4, 6\)"),
        ({"seed": [1, 2]}, "2 seeds for 1 videos"),
        ({"image": "ball.png"}, "no such file"),
        ({"image": Image.new("RGB", (48, 32))}, "takes no image"),
        ({"image": np.zeros((4, 4, 3), np.uint8)}, "a file or a PIL image, not a ndarray"),
        ({"height": 40}, "height=40: must be a multiple of 16; nearest: 32 or 48"),
        ({"width": 0}, "width=0: must be at least 16"),
        ({"num_frames": 4}, "num_frames=4"),
        ({"num_inference_steps": 0}, "num_inference_steps=0: must be at least 1"),
        ({"guidance_scale": -1.0}, "guidance_scale"),
        ({"output_type": "jpg"}, "output_type='jpg'"),
        ({"cache": make_plan(schedule(2), [(COMPUTE,) * 2] * 2)}, "for other steps"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.usefixtures("unchecked_types")
def test_mistakes(pipe, arguments, text):
    with pytest.raises(ValueError, match=text) as error:
        pipe(**({"prompt": PROMPTS[0]} | arguments))
    assert isinstance(error.value, UsageError)


# Results


def test_saved_video_can_be_read(pipe, tmp_path):
    video = pipe(*PROMPTS)
    assert (video.frames.shape, video.frames.dtype) == ((1, 5, 32, 48, 3), np.uint8)
    assert [file.path for file in video.save(tmp_path / "ball.mp4")] == [tmp_path / "ball.mp4"]
    assert read_video(tmp_path / "ball.mp4").shape == (5, 32, 48, 3)


def test_a_batch_is_saved_as_numbered_files(pipe, tmp_path):
    names = [file.path for file in pipe(list(PROMPTS)).save(tmp_path / "ball.mp4")]
    assert [name.name for name in names] == ["ball-0.mp4", "ball-1.mp4"]
    assert all(name.exists() for name in names)


def test_interrupted_save_leaves_no_file(pipe, tmp_path, monkeypatch):
    video = pipe(*PROMPTS)
    interrupt_writing(monkeypatch, after=2)
    with pytest.raises(KeyboardInterrupt):
        video.save(tmp_path / "ball.mp4")
    assert list(tmp_path.iterdir()) == []


def test_latents_alone(pipe):
    video = pipe(*PROMPTS, output_type="latent")
    assert video.frames is None
    assert video.latents.shape == (1, Z, 2, 4, 6)
    assert "decode" not in video.timings.stages
    with pytest.raises(UsageError, match="returned latents"):
        video.save("ball.mp4")
    np.testing.assert_array_equal(pipe.decode(video.latents), pipe(*PROMPTS).frames)
