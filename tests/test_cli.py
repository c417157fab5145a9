"""The command line: output, exit codes, speed."""

import json
import os
import re
import resource
import subprocess
import sys

import pytest
from rich.cells import cell_len

from wanjax.cli.main import COMMANDS, main
from wanjax.config.keys import keys

T2V = ["plan", "wan2.2-t2v-a14b", "use_magcache=True"]


def test_plan_as_json(capsys):
    assert main([*T2V, "json=True"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["steps"] == 40
    assert plan["boundary_step"] == 26
    assert (plan["computed"], plan["skipped"]) == (22, 18)
    assert plan["skipped_steps"][:3] == [5, 6, 8]
    assert plan["actions"][5] == ["forecast", "forecast"]
    assert main([*T2V, "magcache_estimate=repeat", "json=True"]) == 0
    repeated = json.loads(capsys.readouterr().out)
    assert repeated["actions"][5] == ["reuse", "reuse"]
    assert repeated["strip"] == plan["strip"]
    assert plan["experts"][25:27] == ["high", "low"]
    assert plan["ideal_speedup"] == pytest.approx(40 / 22)
    assert len(plan["timesteps"]) == 40


def test_plan_of_one_expert_has_no_boundary(capsys):
    assert main(["plan", "wan2.1-t2v-1.3b", "json=true"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["boundary_step"] is None
    assert set(plan["experts"]) == {"single"}


def test_plan_for_people(capsys):
    assert main(T2V) == 0
    out = capsys.readouterr().out
    assert "#####..#..#..#..#..#..#..#|##..#.#.######" in out
    assert "flow_shift 12" in out
    assert "low-noise expert from step 26" in out
    assert "1.82x" in out


def test_warnings_are_printed(capsys):
    assert main(["plan", "use_magcache=True", "mag_ratios_base=wan2.2-t2v-a14b"]) == 0
    assert "model tiny-t2v (curve: wan2.2-t2v-a14b)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["plam"], "unknown command plam; did you mean plan"),
        (["plan", "sede=1"], "unknown key sede; did you mean seed"),
        (["generate"], "prompt is missing"),
        (["presets", "x"], "takes no arguments"),
        ([*T2V, "boundary_ratio=0.5"], "set boundary_ratio=0.875"),
        ([*T2V, "skip_steps=30"], "at most 22"),
        ([*T2V, "target_speedup=2", "skip_steps=3"], "exclude one another"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(args, text, capsys):
    assert main(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("wanjax: error: ")
    assert captured.err.count("\n") == 1
    assert text in captured.err


def test_help_and_version(capsys):
    assert main([]) == 2
    for args in (["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)):
        assert main(args) == 0
    out = capsys.readouterr().out
    assert all(f"usage: wanjax {name}" in out for name in COMMANDS)


def test_presets_and_show(capsys):
    assert main(["presets"]) == 0
    assert "wan2.2-t2v-a14b" in capsys.readouterr().out
    assert main(["show", "wan2.2-t2v-a14b"]) == 0
    rows = dict(re.findall(r"^(\w+) +(\S+)", capsys.readouterr().out, re.MULTILINE))
    assert rows["flow_shift"] == "12.0"
    assert rows["magcache_thresh"] == "0.04"


def test_show_stands_in_groups(capsys):
    assert main(["show"]) == 0
    lines = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    titles = [line for line in lines if line and line not in keys()]
    assert titles[1:6] == ["Model", "Prompt and picture", "Output", "Size", "Sampling"]
    assert lines[lines.index("Step caching") + 1].startswith("use_")
    assert lines.index("Sampling") < lines.index("flow_shift") < lines.index("Machine")


def test_show_one_key(capsys):
    assert main(["show", "wan2.2-t2v-a14b", "num_inference_steps"]) == 0
    assert (
        capsys.readouterr().out
        == """\
num_inference_steps
  means      denoising steps
  value      40 (wan2.2-t2v-a14b)
  allowed    a whole number, at least 1, at most 1000
  elsewhere  steps, num_steps, sample_steps, sampling_steps, inference_steps
"""
    )
    assert main(["show", "use_magcache", "seeds"]) == 0  # a switch is shown, not switched on
    out = capsys.readouterr().out
    assert "value      false (tiny-t2v)" in out
    assert "commands   generate, calibrate, compare" in out
    assert main(["show", "steps"]) == 2
    assert "did you mean num_inference_steps" in capsys.readouterr().err


def test_tables_in_a_pipe_are_plain_and_whole(monkeypatch, capsys):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "40")  # of the terminal that it does not go to
    assert main(["presets"]) == 0
    assert main(["show", "model=models/[/a] folder"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    rows = [" ".join(line.split()) for line in out.splitlines()]
    start = "wan2.2-i2v-a14b image to video 1280x720 81 40 5 3.5 / 3.5"
    assert any(row.startswith(start) for row in rows)
    assert '"models/[/a] folder"' in out
    assert f"{keys()['model'].metadata['help']} (text or null)\n" in out
    assert all(line == line.rstrip() for line in out.splitlines())


@pytest.mark.parametrize("columns", [60, 100])
def test_tables_fit_a_terminal(columns, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes the output for a terminal
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["show", "wan2.1-t2v-1.3b"]) == 0
    out = capsys.readouterr().out
    assert "\x1b[" in out
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
    assert max(map(cell_len, plain.splitlines())) <= columns
    assert all(key in plain for key in ("num_inference_steps", "magcache_thresh"))


def test_interrupt(monkeypatch, capsys):
    def stop(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("wanjax.cli.presets.run", stop)
    assert main(["presets"]) == 130
    assert capsys.readouterr().err == "wanjax: interrupted\n"


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """An environment that keeps bytecode, as an installed package has it."""
    kept = {"PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("bytecode"))}
    return {n: v for n, v in os.environ.items() if n != "PYTHONDONTWRITEBYTECODE"} | kept


def processor_seconds(code: str, environment: dict[str, str]) -> float:
    """Of a Python that runs `code`: the machine may be busy with other things."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["plan"],
        [*T2V, "json=True"],
        [*T2V, "target=v6e:4x4"],
        ["show"],
        ["generate", "--help"],
    ],
)
def test_static_commands_do_without_jax_and_take_less_than_its_import(args, compiled_once):
    command = (
        f"import sys; from wanjax.cli.main import main; code = main({args!r}); "
        "assert not {'jax', 'flax', 'torch'} & set(sys.modules); sys.exit(code)"
    )
    processor_seconds(command, compiled_once)  # writes the bytecode
    # By turns: on a crowded machine the same takes twice the processor time it takes elsewhere.
    assert any(
        processor_seconds(command, compiled_once) < processor_seconds("import jax", compiled_once)
        for _ in range(5)
    )
