"""Variants against rivals: rows of equal cost, what the differences are worth, what is said."""

import csv
import math

import made_up
import numpy as np
import pytest
from scipy import stats

from wanjax.cli.main import main
from wanjax.config.keys import config_class
from wanjax.errors import UsageError
from wanjax.evaluate import findings, markdown, save
from wanjax.evaluate.paired import paired
from wanjax.evaluate.spreadsheets import save_csv
from wanjax.planning.run import prepare
from wanjax.planning.schedule import schedule_for
from wanjax.planning.variants import is_exact, read_variants, resolve_variants

SLOW = "slow:use_magcache=True;magcache_thresh=0.02"
FAST = "fast:use_magcache=True;magcache_thresh=0.2;magcache_K=6"


def steps_of(configs):
    return {name: config.num_inference_steps for name, config in configs.items()}


def test_every_cached_variant_has_a_row_of_its_own_cost():
    found = resolve_variants(["tiny-t2v", f"variants=dense,{SLOW},{FAST},fewer-steps"], "plan")
    costs = {name: 40 / prepare(found[name]).plan.ideal_speedup for name in ("slow", "fast")}
    assert list(found)[:3] == ["dense", "slow", "fast"]
    rows = {name: steps for name, steps in steps_of(found).items() if "fewer" in name}
    slow, fast = (round(cost) for cost in costs.values())
    assert slow > fast
    assert rows == {"fewer-steps": slow, f"fewer-steps-{fast}": fast}


def test_variants_of_equal_cost_share_a_row():
    variants = read_variants(["tiny-t2v", f"variants={SLOW},{FAST},fewer-steps"], "plan")
    configs, rows = variants.with_rows({"slow": 20.4, "fast": 19.6})
    assert rows == {"slow": "fewer-steps", "fast": "fewer-steps"}
    assert steps_of(configs)["fewer-steps"] == 20
    assert list(configs) == ["slow", "fast", "fewer-steps"]


@pytest.mark.parametrize(("rows", "planned"), [("", 0), (",fewer-steps", 2)])
def test_only_rows_of_equal_cost_need_plans_ahead_of_time(rows, planned):
    seen = []
    found = resolve_variants(
        ["tiny-t2v", f"variants={SLOW},{FAST}{rows}"],
        "plan",
        prepared=lambda config: seen.append(config) or prepare(config),
    )
    assert len(seen) == planned
    assert len(found) == 2 + planned


def test_the_command_plans_no_variant_twice(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(
        "wanjax.planning.run.schedule_for",
        lambda config: seen.append(config) or schedule_for(config),
    )
    assert main(["plan", "tiny-t2v", f"variants={SLOW},{FAST},fewer-steps"]) == 0
    assert len(seen) == len(set(seen)) == 4
    assert "fewer-steps" in capsys.readouterr().out


def test_what_decides_during_the_run_has_no_cost_ahead_of_time():
    variants = read_variants(["tiny-t2v", "variants=easycache,magcache,fewer-steps"], "plan")
    assert list(variants.planned_costs(prepare)) == ["magcache"]


def test_a_row_takes_no_name_that_is_taken():
    own = "fewer-steps-20:num_inference_steps=20"
    variants = read_variants(["tiny-t2v", f"variants={SLOW},{FAST},{own},fewer-steps"], "plan")
    with pytest.raises(UsageError, match="fewer-steps-20: a row of equal cost has this name"):
        variants.with_rows({"slow": 30, "fast": 20})


@pytest.mark.parametrize(
    ("changes", "exact"),
    [
        ({"use_kv_cache": True}, True),
        ({"batch_guidance": False, "output": "elsewhere"}, True),
        ({"magcache_thresh": 0.5}, True),  # of a method that is off
        ({"num_inference_steps": 12}, False),
        ({"activations_dtype": "bfloat16"}, False),
        ({"use_magcache": True}, False),
        ({"use_kv_cache": True, "guidance_scale": 3.0}, False),
    ],
)
def test_exact_variants_are_those_that_differ_by_rounding(changes, exact):
    base = config_class()(activations_dtype="float32")
    assert is_exact(base, config_class()(**({"activations_dtype": "float32"} | changes))) == exact


def test_interval_and_sign_test_are_scipys():
    ours, theirs = np.random.default_rng(0).normal([[0.4], [0]], size=(2, 12))
    found = paired(ours.tolist(), theirs.tolist(), min)
    test = stats.ttest_rel(ours, theirs)
    assert found.difference == pytest.approx((ours - theirs).mean())
    assert found.interval == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert found.decided == (test.pvalue < 0.05)
    wins = int((ours > theirs).sum())
    assert (found.closer, found.tied, found.farther) == (wins, 0, 12 - wins)
    assert found.sign_p == pytest.approx(stats.binomtest(wins, 12).pvalue)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """2000 experiments of 8 videos with a true difference of 1 dB and a spread of 2."""
    draws = np.random.default_rng(1).normal(1, 2, size=(2000, 8))
    intervals = [paired(draw.tolist(), [0.0] * 8, min).interval for draw in draws]
    share = np.mean([low <= 1 <= high for low, high in intervals])
    assert share == pytest.approx(0.95, abs=0.015)  # 3 standard errors of that share


def test_where_less_is_nearer_and_where_all_is_equal():
    assert paired([1.0, 1.0, 2.0], [2.0, 1.0, 3.0], max).closer == 2
    same = paired([1.0, 2.0], [1.0, 2.0], min)
    assert (same.difference, same.interval, same.tied, same.sign_p) == (0, (0, 0), 2, 1)
    assert paired([1.0], [0.0], min).interval is None


CLOSER = {"magcache": {"psnr": [31, 33, 32, 36]}, "fewer-steps": {"psnr": [30, 31, 30, 32]}}


def test_a_finding_has_interval_and_sign_test():
    (duel, *_) = [line for line in findings(made_up.comparison(CLOSER)) if "equal cost" in line]
    assert "33.0 against 30.8 dB, closer in 4 of 4 videos (+2.2 dB" in duel
    assert "95 % interval +0.2 to +4.3; sign test p = 0.12)" in duel


def test_few_videos_that_differ_do_not_decide():
    near = {"magcache": {"psnr": [40, 30]}, "fewer-steps": {"psnr": [31, 31]}}
    (duel, *_) = [line for line in findings(made_up.comparison(near)) if "equal cost" in line]
    assert "the interval holds zero, so the videos do not decide it" in duel


@pytest.mark.parametrize(
    ("metric", "ours", "theirs", "said"),
    [
        ("ssim", [0.96] * 4, [0.97] * 4, "SSIM (0.9700 against 0.9600)"),
        ("added_flicker", [2.0] * 4, [1.0] * 4, "added flicker (1.00 against 2.00)"),
        ("psnr", [29, 40, 40, 40], [30, 31, 31, 31], "the worst video's PSNR (30.0 against 29.0)"),
    ],
)
def test_a_finding_says_where_another_measure_disagrees(metric, ours, theirs, said):
    near = {name: dict(values) for name, values in CLOSER.items()}
    near["magcache"][metric], near["fewer-steps"][metric] = ours, theirs
    (line,) = [line for line in findings(made_up.comparison(near)) if "not all of it" in line]
    assert "`fewer-steps` is closer to `dense` than `magcache` by" in line
    assert line.endswith(f"by {said}.")
    agreed = findings(made_up.comparison(CLOSER))
    assert not any("not all of it" in line for line in agreed)


def test_a_sweep_is_one_finding():
    near = CLOSER | {"magcache-0.2": {"psnr": [31, 32, 31, 33]}, "magcache-0.3": {"psnr": [9] * 4}}
    line = ("magcache", "magcache-0.2", "magcache-0.3")
    told = findings(made_up.comparison(near, sweeps={"magcache, thresh": line}))
    assert sum("At equal cost" in text for text in told) == 1
    (text,) = [text for text in told if "sweep" in text]
    assert "closer to `dense` than fewer steps of the same cost at 2 of 3 values, 2 of" in text


def test_pairs_in_json_and_markdown():
    near = CLOSER | {"magcache-fast": {"psnr": [29, 29, 29, math.inf]}}
    made = made_up.comparison(near)
    metrics = made.metrics()["variants"]
    assert list(metrics["magcache-fast"]["paired"]) == ["fewer-steps", "magcache"]
    assert metrics["magcache"]["equal_cost"] == "fewer-steps"
    assert metrics["magcache"]["cost"] == 4
    pair = metrics["magcache-fast"]["paired"]["magcache"]["dense"]["psnr"]
    assert pair["difference"] == pytest.approx((-2 - 4 - 3 + 64) / 4)  # infinite counts as 100 dB
    row = next(line for line in markdown(made).splitlines() if "| fewer-steps | 4.0 / 4.0" in line)
    assert "+2.2 [+0.2, +4.3]" in row
    assert "4 of 4" in row


def test_exact_variants_stand_in_a_table_of_their_own():
    near = CLOSER | {"kv": {"psnr": [90, 95, 99, 92]}}
    made = made_up.comparison(near, exact=frozenset({"kv"}))
    lossy, _, exact = markdown(made).partition("Exact variants")
    assert "| kv" not in lossy
    assert "| kv" in exact.split("\n\n")[1]
    assert made.metrics()["variants"]["kv"]["kind"] == "exact"
    assert made.rivals("kv") == []


def test_csv_files(tmp_path):
    made = made_up.comparison(CLOSER, tmp_path)
    videos, variants = save_csv(made, tmp_path)
    with videos.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["video"], row["variant"]) for row in rows[:3]] == [
        ("0", "magcache"),
        ("0", "fewer-steps"),
        ("1", "magcache"),
    ]
    assert [float(row["psnr"]) for row in rows if row["variant"] == "magcache"] == [31, 33, 32, 36]
    assert rows[0]["plan"] == "#.#.#.#."
    with variants.open(newline="") as file:
        found = {row["variant"]: row for row in csv.DictReader(file)}
    assert float(found["magcache"]["psnr_mean"]) == 33
    assert found["magcache"]["equal_cost"] == "fewer-steps"
    assert float(found["magcache"]["psnr_paired_difference"]) == 2.25
    assert found["fewer-steps"]["psnr_paired_difference"] == ""


def test_save_names_what_it_writes(tmp_path):
    made = made_up.comparison(CLOSER, tmp_path)
    for name in made.variants:
        for clip in made.clips:
            path = tmp_path / f"{name}-{clip['name']}.mp4"
            path.write_bytes(b"video")
            made.videos.setdefault(name, {})[clip["name"]] = path
    names = [path.name for path in save(made)]
    assert names == ["report.html", "metrics.json", "table.md", "videos.csv", "variants.csv"]
    assert all((tmp_path / name).stat().st_size for name in names)
