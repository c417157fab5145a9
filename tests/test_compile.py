"""Programs compiled without weights: what they take of a device, and whether a run fits."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import jax
import pytest
from flax import nnx
from small_folder import SMALL_RUN

from wanjax.checkpoints.abstract import AbstractFolder
from wanjax.checkpoints.configs import model_configs
from wanjax.checkpoints.folder import Folder
from wanjax.cli.main import main
from wanjax.config.resolve import load_preset, preset_names, resolve
from wanjax.errors import UsageError
from wanjax.pipeline.compiling import compile_run, device_bytes
from wanjax.pipeline.machine import machine
from wanjax.pipeline.pipeline import WanPipeline
from wanjax.planning.run import prepare

MAGCACHE = ["use_magcache=True", "retention_ratio=0.1", f"mag_ratios_base={[1.0] * 12}"]
PROGRAMS = ["text", "condition", "computed_step", "skipped_step", "decode"]


def compile_here(folder, *arguments):
    config = resolve([f"model={folder}", *SMALL_RUN, *arguments], "compile")
    run = prepare(config)
    here, mesh = machine(config, run.plan)
    return compile_run(run, here, model_configs(str(folder)), mesh, lambda line: None)


@pytest.fixture(scope="module")
def compiled(small_folder):
    return compile_here(small_folder, *MAGCACHE)


def test_every_program_of_the_run(compiled):
    assert list(compiled.programs) == PROGRAMS
    assert all(figures.argument_bytes > 0 for figures in compiled.programs.values())


def test_a_compiler_that_fails_is_named_in_one_line(small_folder, monkeypatch):
    def as_text(compiled):
        raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: no text\nand a long trace")

    monkeypatch.setattr(jax.stages.Compiled, "as_text", as_text)
    with pytest.raises(UsageError, match=r"compiling encode_text: .*: UNIMPLEMENTED: no text; the"):
        compile_here(small_folder)


def test_a_run_uses_the_programs_that_were_compiled(compiled, small_folder):
    """The same bytes of arguments, results and temporaries, program by program."""
    pipe = WanPipeline.from_config(
        resolve([f"model={small_folder}", *SMALL_RUN, *MAGCACHE], "show")
    )
    used = {}

    def watch(function, args, program):
        memory = program.memory_analysis()
        sizes = (memory.argument_size_in_bytes, memory.temp_size_in_bytes)
        used.setdefault(function.__name__, set()).add(sizes)

    pipe.programs.watch = watch
    pipe("a red ball", cache="magcache")
    for name, function in (
        ("text", "_encode_text_impl"),
        ("condition", "_embed_context_impl"),
        ("computed_step", "run_step"),
        ("skipped_step", "run_step"),
    ):
        figures = compiled.programs[name]
        assert (figures.argument_bytes, figures.temporary_bytes) in used[function]
    decode = compiled.programs["decode"]
    parts = used["_stripe_impl"] | used["_whole"]
    assert (decode.argument_bytes, decode.temporary_bytes) in parts


def test_bytes_of_each_component(compiled, small_folder):
    """As of the weights that are loaded."""
    pipe = WanPipeline.from_config(resolve([f"model={small_folder}", *SMALL_RUN], "show"))
    loaded = {
        "transformer": pipe.components.transformers[0],
        "transformer_2": pipe.components.transformers[1],
        "vae": pipe.components.vae,
        "text_encoder": pipe.components.text_encoder,
    }
    assert compiled.weights == {name: device_bytes(nnx.state(m)) for name, m in loaded.items()}


def test_stages_hold_what_runs_in_them(compiled):
    stages = {stage.name: stage for stage in compiled.placement.stages}
    assert list(stages) == ["text", "condition", "denoise_high", "denoise_low", "decode"]
    weights = sum(compiled.weights.values())
    for stage in stages.values():  # a CPU tells no limit, so that everything stays
        assert weights < stage.resident <= stage.peak
    step = compiled.programs["computed_step"]
    assert stages["denoise_low"].peak >= stages["denoise_low"].resident + step.temporary_bytes
    assert compiled.placement.peak == max(stage.peak for stage in stages.values())


def test_a_dense_run_has_no_skipped_step(small_folder):
    assert "skipped_step" not in compile_here(small_folder).programs


def test_json_and_exit_code(small_folder, capsys):
    arguments = [f"model={small_folder}", *SMALL_RUN, *MAGCACHE]
    assert main(["compile", *arguments, "json=True"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert set(found) >= {
        "target", "devices", "mesh", "memory_limit_bytes", "programs", "stages", "peak_bytes",
        "fits", "advice",
    }  # fmt: skip
    assert list(found["programs"]) == PROGRAMS
    assert set(found["programs"]["decode"]) == {
        "argument_bytes", "temporary_bytes", "output_bytes", "donated_bytes", "collectives",
        "kernels", "compile_seconds",
    }  # fmt: skip
    assert found["fits"] is True
    assert "compiling run_step" in printed.err


def test_a_run_that_does_not_fit_exits_with_1(small_folder, capsys, monkeypatch):
    from wanjax.parallel.targets import Target

    small = Target("here", "cpu", "cpu", 1, memory_limit=10_000)
    monkeypatch.setattr("wanjax.pipeline.machine.target_here", lambda: small)
    assert main(["compile", f"model={small_folder}", *SMALL_RUN]) == 1
    assert "does not fit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["target=v6:2x4"], "did you mean v6e"),
        (["target=v6e:2x4", "mesh=context:3"], "v6e:2x4; the product of the sizes must divide 8"),
        (["mesh=contxt:8"], "there is no axis 'contxt'"),
        (["mesh=context:64"], "64 devices"),
        (["wan2.1-t2v-14b", "model=someone/else"], "not one of the published models"),
    ],
)
def test_mistakes(arguments, text, capsys):
    named = [] if arguments[0].startswith("wan") else ["tiny-t2v"]
    assert main(["compile", *named, *arguments]) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("preset", [p for p in preset_names() if not p.startswith("tiny")])
def test_published_models_need_no_folder(preset):
    """Their configurations are in the package: the transformers have the known sizes."""
    sizes = {"wan2.1-t2v-1.3b": 1_418_996_800, "wan2.1-t2v-14b": 14_288_491_584}
    sizes |= {"wan2.2-t2v-a14b": 14_288_491_584, "wan2.2-i2v-a14b": 14_288_901_184}
    sizes |= {"wan2.2-ti2v-5b": 4_999_787_712, "wan2.1-flf2v-14b-720p": 16_395_536_704}
    sizes |= dict.fromkeys(["wan2.1-i2v-14b-480p", "wan2.1-i2v-14b-720p"], 16_394_878_784)
    config = load_preset(preset)
    configs = model_configs(config.model)
    folder = AbstractFolder.of(config.model, configs)
    assert len(folder.experts) == config.num_experts
    for name in folder.experts:
        parameters = nnx.state(folder.load_transformer(name))
        size = sum(x.size for x in jax.tree.leaves(parameters))
        assert size == sizes[preset.removesuffix("-4step").removesuffix("-8step")]
    assert (folder.transformer_config().in_channels == 36) == (config.task == "i2v")
    assert bool(folder.index.expand_timesteps) == (config.task == "ti2v")
    assert ("image_encoder" in configs.components) == (
        folder.transformer_config().image_dim is not None
    )


def test_an_abstract_model_is_as_its_folder_says(small_folder):
    configs = model_configs(str(small_folder))
    abstract = AbstractFolder.of(str(small_folder), configs)
    real = nnx.state(Folder.open(small_folder).load_text_encoder())
    found = nnx.state(abstract.load_text_encoder())
    assert jax.tree.map(lambda x: (x.shape, x.dtype), found) == jax.tree.map(
        lambda x: (x.shape, x.dtype), real
    )


def run_command(*arguments, flags="", seconds=None):
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    return subprocess.run(
        [sys.executable, "-m", "wanjax", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


@pytest.mark.slow
def test_on_eight_devices_a_skipped_step_exchanges_no_hidden_states(small_folder):
    size = ["height=64", "width=128"]  # tokens that eight divide
    run = [*size, *(a for a in SMALL_RUN if not a.startswith(("height=", "width=")))]
    flags = "--xla_force_host_platform_device_count=8"
    arguments = [f"model={small_folder}", *run, *MAGCACHE, "mesh=context:8", "json=True"]
    done = run_command("compile", *arguments, flags=flags)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["devices"], found["mesh"]["context"]) == (8, 8)
    latents = 4 * 2 * 8 * 16 * 4  # bytes
    moved = found["programs"]["skipped_step"]["collectives"]
    assert sum(kind["bytes"] for kind in moved.values()) <= 4 * 2 * latents
    assert found["programs"]["computed_step"]["collectives"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "module", "devices", "limit"),
    [
        ("v6e:2x4", "libtpu", 8, 31.25),
        ("v5e:1x1", "libtpu", 1, 15.75),
        ("h100:8", "jax_cuda13_plugin", 8, 59.33),
    ],
)
def test_for_a_machine_that_is_not_here(small_folder, target, module, devices, limit):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"the compiler for {target} is not installed: {module}")
    done = run_command("compile", f"model={small_folder}", *SMALL_RUN, *MAGCACHE,
                       f"target={target}", "json=True")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["devices"] == devices
    assert found["memory_limit_bytes"] / 2**30 == pytest.approx(limit, abs=0.01)
    assert list(found["programs"]) == PROGRAMS
