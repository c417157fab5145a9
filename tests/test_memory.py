"""The memory of a run by arithmetic: against compiled programs, and what follows from it."""

from __future__ import annotations

import pytest
from small_folder import SMALL_RUN, make_small_folder

from wanjax.checkpoints.configs import model_configs
from wanjax.config.resolve import resolve
from wanjax.parallel.mesh import MeshShape
from wanjax.parallel.targets import Target, parse_target
from wanjax.pipeline.compiling import compile_run
from wanjax.pipeline.machine import machine
from wanjax.planning.memory import advice, best_fit, fit_on, mesh_shape, meshes
from wanjax.planning.run import prepare

GIB = 2**30
MAGCACHE = ["use_magcache=True", "retention_ratio=0.1", f"mag_ratios_base={[1.0] * 12}"]


def run_of(*arguments):
    return prepare(resolve(arguments, "plan"))


def arguments_of(run):
    """What the functions of `planning.memory` take first."""
    return run.config, run.plan, model_configs(run.config.model)


@pytest.fixture(scope="module")
def a14b():
    return run_of("wan2.2-t2v-a14b", "use_magcache=True")


@pytest.mark.parametrize("image", [False, True], ids=["text", "image"])
def test_what_stages_hold_is_what_the_programs_hold(tmp_path, image):
    """To the byte: arrays and weights are counted, not modelled."""
    folder = make_small_folder(tmp_path, image=image)
    run = run_of(f"model={folder}", *SMALL_RUN, *MAGCACHE)
    here, mesh = machine(run.config, run.plan)
    compiled = compile_run(run, here, model_configs(str(folder)), mesh, lambda line: None)
    assert run.memory.fit.weights == compiled.weights
    assert run.memory.cache_bytes == compiled.cache
    expected = [(stage.name, stage.resident) for stage in compiled.placement.stages]
    assert [(s.name, s.resident) for s in run.memory.fit.placement.stages] == expected


def test_without_a_target_the_plan_is_for_one_device_of_any_size(a14b):
    found = a14b.to_dict()
    assert (found["target"], found["fits"]) == ("one device", True)
    assert found["peak_bytes"] / GIB == pytest.approx(81, abs=3)  # both experts, text encoder, VAE


def test_outputs_take_a_fortieth_of_the_residuals():
    """A14B at 720p: two arrays of latent size, or both branches' tokens in bfloat16."""
    kept = {
        estimate: run_of(
            "wan2.2-t2v-a14b", "use_magcache=True", f"magcache_estimate={estimate}"
        ).memory.cache_bytes
        for estimate in ("repeat", "linear")
    }
    assert kept["repeat"] == 2 * (21 * 45 * 80) * 5120 * 2
    assert kept["linear"] == 2 * (16 * 21 * 90 * 160) * 4
    assert kept["linear"] / kept["repeat"] == 0.025


@pytest.mark.slow
def test_a_plan_for_a_target_says_what_is_where():
    found = run_of("wan2.2-t2v-a14b", "use_magcache=True", "target=h100").to_dict()
    assert found["fits"]
    assert found["peak_bytes"] < found["memory_limit_bytes"]
    high = found["stages"]["denoise_high"]["components"]
    assert (high["transformer"], high["transformer_2"]) == ("device", "pinned_host")


def test_both_experts_stay_on_an_h200(a14b):
    fit = best_fit(*arguments_of(a14b), parse_target("h200"))
    assert {place for s in fit.placement.stages for place in s.places.values()} == {"device"}


def test_meshes_that_keep_the_weights_whole_come_first(a14b):
    found = meshes(*arguments_of(a14b), parse_target("v6e:2x4"))
    assert found[0] == MeshShape(context=8)
    assert MeshShape(fsdp=8) in found
    assert all(mesh.devices == 8 for mesh in found)


def test_tokens_that_do_not_divide_make_a_mesh_slow():
    """32,760 tokens among 16 devices: two guidance branches among two groups of eight do."""
    run = run_of("wan2.2-t2v-a14b", "height=480", "width=832")
    first, *_ = meshes(*arguments_of(run), parse_target("v6e:4x4"))
    assert first == MeshShape(data=2, context=8)


def test_the_mesh_is_the_fastest_that_fits(a14b):
    """A 14B expert is more than a v5e chip has, so that its weights have to be shared."""
    arguments = arguments_of(a14b)
    assert best_fit(*arguments, parse_target("tpu7x:2x2x1")).mesh == MeshShape(context=8)
    small = best_fit(*arguments, parse_target("v5e:2x4"))
    assert small.fits
    assert small.mesh.fsdp > 1


def test_a_cpu_is_one_device_unless_a_mesh_is_asked_for(a14b):
    here = Target("here", "cpu", "cpu", 8, None)
    assert mesh_shape(a14b.config, a14b.plan, here) is None
    asked = run_of("wan2.2-t2v-a14b", "mesh=context:8")
    assert mesh_shape(asked.config, asked.plan, here) == MeshShape(context=8)


@pytest.mark.slow
def test_advice_is_what_would_fit(a14b):
    target = parse_target("v5e:2x4")
    config, plan, configs = arguments_of(
        run_of("wan2.2-t2v-a14b", "use_magcache=True", "mesh=context:8")
    )
    assert not fit_on(config, plan, configs, target, MeshShape(context=8)).fits
    (found,) = (a for a in advice(config, plan, configs, target) if a.startswith("mesh="))
    assert found == f"mesh={best_fit(*arguments_of(a14b), target).mesh}"


def test_stripes_are_as_high_as_memory_allows(a14b):
    def rows(gib, mesh):
        chip = Target("some", "tpu", "a chip", mesh.devices, int(gib * GIB))
        return fit_on(*arguments_of(a14b), chip, mesh).stripe_rows.decode

    assert rows(12, MeshShape()) < rows(90, MeshShape()) == 90
    assert rows(3.5, MeshShape(fsdp=8)) < rows(16, MeshShape(fsdp=8)) == 12  # 90 among eight


def test_a_mesh_is_not_refused_for_what_could_leave(a14b):
    """A stage that fits with all parts beside it, but without room, sends some to the host."""
    fit = fit_on(*arguments_of(a14b), parse_target("v6e:2x4"), MeshShape(context=8))
    assert fit.placement.peak <= 0.95 * fit.target.memory_limit
    assert best_fit(*arguments_of(a14b), fit.target).mesh == fit.mesh
