"""The command line: output, exit codes, speed."""

import json
import resource
import subprocess
import sys

import pytest

from wanjax.cli.main import COMMANDS, main

T2V = ["plan", "wan2.2-t2v-a14b", "use_magcache=True"]


def test_plan_as_json(capsys):
    assert main([*T2V, "json=True"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["steps"] == 40
    assert plan["boundary_step"] == 26
    assert (plan["computed"], plan["skipped"]) == (22, 18)
    assert plan["skipped_steps"][:3] == [5, 6, 8]
    assert plan["actions"][5] == ["reuse", "reuse"]
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
    out = capsys.readouterr().out
    assert "flow_shift: 12.0" in out
    assert "magcache_thresh: 0.04" in out


def test_interrupt(monkeypatch, capsys):
    def stop(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("wanjax.cli.presets.run", stop)
    assert main(["presets"]) == 130
    assert capsys.readouterr().err == "wanjax: interrupted\n"


@pytest.mark.parametrize(
    "args", [["--help"], ["plan"], [*T2V, "json=True"], ["show"], ["generate", "--help"]]
)
def test_static_commands_are_quick_and_do_without_jax(args):
    code = (
        f"import sys; from wanjax.cli.main import main; code = main({args!r}); "
        "assert not {'jax', 'flax', 'torch'} & set(sys.modules); sys.exit(code)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # processor time: the machine may be busy with other things
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
