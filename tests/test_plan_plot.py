"""Pictures of plans, and several configurations on one command line."""

import json
import sys

import pytest

from wanjax.cli.main import main
from wanjax.errors import UsageError
from wanjax.planning.variants import resolve_variants

T2V = ["plan", "wan2.2-t2v-a14b", "use_magcache=True"]
BOTH = "variants=K2:,K4:magcache_K=4;mag_ratios_base=[0.99,0.98],I2V:wan2.2-i2v-a14b"


def test_variants_override_the_rest():
    found = resolve_variants([*T2V[1:], "magcache_K=3", BOTH], "plan")
    assert list(found) == ["K2", "K4", "I2V"]
    assert [config.magcache_K for config in found.values()] == [3, 4, 3]
    assert found["K4"].mag_ratios_base == (0.99, 0.98)
    assert found["I2V"].preset == "wan2.2-i2v-a14b"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "each needs a name of its own"),
        ("magcache_K=2", "each needs a name of its own"),
        ("A:,A:seed=1", "each needs a name of its own"),
        ("A:sede=1", "variant A: unknown key sede"),
    ],
)
def test_mistakes_in_variants(text, error):
    with pytest.raises(UsageError, match=error):
        resolve_variants([f"variants={text}"], "plan")


def test_plans_of_variants(capsys):
    assert main([*T2V, "json=True", "variants=A:,B:magcache_thresh=0"]) == 0
    plans = json.loads(capsys.readouterr().out)
    assert {name: plan["skipped"] for name, plan in plans.items()} == {"A": 18, "B": 0}


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_picture(tmp_path, suffix):
    pytest.importorskip("matplotlib", reason="Drawing needs matplotlib, of the extra `plot`.")
    path = tmp_path / f"plan.{suffix}"
    variants = "rule:,budget:skip_steps=9,official:magcache_rule=official,dense"
    assert main([*T2V, f"plot={path}", f"variants={variants}"]) == 0
    assert path.stat().st_size > 5000


def test_picture_of_a_run_without_guidance_and_of_one_step(tmp_path):
    pytest.importorskip("matplotlib", reason="Drawing needs matplotlib, of the extra `plot`.")
    path = tmp_path / "plan.svg"
    assert main([*T2V, f"plot={path}", "guidance_scale=1"]) == 0
    assert main([*T2V, f"plot={path}", "num_inference_steps=1"]) == 0
    assert "low-noise expert" not in path.read_text()


def test_picture_that_cannot_be_written(tmp_path, capsys):
    assert main([*T2V, f"plot={tmp_path}/a.gif"]) == 2
    assert ".png, .pdf, .svg" in capsys.readouterr().err
    assert main([*T2V, f"plot={tmp_path}/none/a.png"]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_without_matplotlib(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main([*T2V, f"plot={tmp_path}/a.png"]) == 2
    assert 'pip install "wanjax[plot]"' in capsys.readouterr().err
