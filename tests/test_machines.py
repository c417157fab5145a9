"""docs/machines.md: what was compiled for each machine, and what `wanjax plan` says of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from wanjax.config.resolve import resolve
from wanjax.parallel.mesh import MeshShape
from wanjax.planning.run import prepare

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
from compiled import ROWS, T2V, compiled, moved, table  # noqa: E402

GIB, MIB = 2**30, 2**20
COMPILED = [row for row in ROWS if row.file.exists()]
each_row = pytest.mark.parametrize("row", COMPILED, ids=lambda row: row.file.stem)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=() if row == ROWS[0] else pytest.mark.slow, id=row.file.stem)
        for row in COMPILED
    ],
)
def test_the_plan_is_within_15_percent_of_what_was_compiled(row):
    found, fit = row.read(), prepare(resolve(row.arguments, "plan")).memory.fit
    assert fit.mesh == MeshShape(**found["mesh"])
    peak = max(stage.peak for stage in fit.placement.stages if stage.name in found["stages"])
    assert peak == pytest.approx(found["peak_bytes"], rel=0.15)
    assert fit.fits == found["fits"]


@each_row
def test_it_fits(row):
    found = row.read()
    assert found["fits"]
    assert found["peak_bytes"] <= found["memory_limit_bytes"]


@each_row
def test_a_skipped_step_exchanges_latents_alone(row):
    assert moved(row.read()["programs"]["skipped_step"]) <= 64 * MIB


@each_row
def test_a_fused_kernel_computes_attention(row):
    kernel = "cudnn" if row.target[0] in "abhr" else "splash"
    assert row.read()["programs"]["computed_step"]["kernels"] == [kernel]


# Of one device, in GiB: what a computed step may hold while it runs.
TEMPORARIES = {"h100:8": 4, "v6e:2x4": 4, "tpu7x:2x2x1": 7}


@pytest.mark.parametrize(
    "row", [row for row in COMPILED if row.target in TEMPORARIES], ids=lambda row: row.file.stem
)
def test_temporaries_of_a_computed_step(row):
    """Of tpu7x this says too that no weights are held twice: an expert has 26.7 GiB."""
    step = row.read()["programs"]["computed_step"]
    assert step["temporary_bytes"] <= TEMPORARIES[row.target] * GIB


def test_an_80_gb_gpu_decodes_beside_no_expert_in_bfloat16():
    whole = [row for row in COMPILED if row.preset.startswith("wan2.2") and not row.more]
    for target in ("h100", "a100"):
        rows = [row for row in whole if row.target == target]
        for decode in (row.read()["stages"]["decode"] for row in rows):
            assert decode["components"]["transformer_2"] == "pinned_host"
            assert decode["peak_bytes"] < 24 * GIB


def test_both_experts_stay_on_an_h200():
    (row,) = (row for row in COMPILED if row.target == "h200")
    for stage in row.read()["stages"].values():
        assert set(stage["components"].values()) == {"device"}


def test_the_page_has_the_figures_that_were_compiled():
    assert table() in (ROOT / "docs/machines.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["h100", "h100:8", "v6e:2x4"])
def test_full_size_for_a_machine_that_is_not_here(target):
    """As in the table, and not more than it says; another version's compiler may need less.

    Of a TPU without decoding, over whose program its compiler spends minutes.
    """
    pytest.importorskip("libtpu" if target.startswith("v") else "jax_cuda13_plugin")
    row = next(row for row in COMPILED if row.target == target and row.preset == T2V)
    found, stored = compiled(row, steps_alone=target.startswith("v")), row.read()
    assert found is not None
    assert found["fits"]
    assert found["mesh"] == stored["mesh"]
    for name in ("computed_step", "skipped_step"):
        now, then = found["programs"][name], stored["programs"][name]
        assert now["kernels"] == then["kernels"]
        assert moved(now) <= 1.05 * moved(then)
        assert now["temporary_bytes"] <= 1.1 * then["temporary_bytes"]
