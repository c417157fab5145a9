"""Comparing variants: resuming, what is shared, tables, the report's structure, folders."""

import json
import math
import re
import shlex

import numpy as np
import pytest
from small_folder import SMALL_RUN

import wanjax.evaluate.runner as runner
from wanjax.cli.main import main
from wanjax.config.resolve import resolve
from wanjax.errors import Notice, UsageError
from wanjax.evaluate import compare, findings, markdown, psnr, save
from wanjax.evaluate.comparing import compare_arguments
from wanjax.media.prompts import Prompt, as_lines, load_prompts
from wanjax.media.video_files import save_video
from wanjax.pipeline.pipeline import WanPipeline

PROMPTS = ["a red ball moving right", "a blue square </script> &"]
CURVE = "mag_ratios_base=[1,1,.99,.99,.99,.99,.98,.98,.97,.97,.97,.97]"
VARIANTS = "dense,magcache,again:use_magcache=False,fewer-steps"
# per clip: dense and again 6 steps, converged 8, MagCache 6 with two skipped, fewer steps 4
CLIPS, STEPS = 2, 6 + 8 + 6 + 6 + 4


@pytest.fixture(scope="module")
def pipe(small_folder):
    return WanPipeline.from_config(resolve([f"model={small_folder}", *SMALL_RUN], "show"))


@pytest.fixture(scope="module")
def arguments(pipe):
    keys = [f"model={pipe.config.model}", *SMALL_RUN, CURVE, "retention_ratio=0.1", "repeats=2"]
    return [*keys, f"variants={VARIANTS}", "reference_steps=8"]


@pytest.fixture(scope="module")
def comparison(pipe, arguments, tmp_path_factory):
    return compare(
        *arguments, prompts=PROMPTS, pipe=pipe, output=tmp_path_factory.mktemp("comparison")
    )


def test_variants(comparison):
    assert comparison.variants == ("dense", "converged", "magcache", "again", "fewer-steps")
    assert comparison.references == ("dense", "converged")
    plans = {name: comparison.plan(name) for name in comparison.variants}
    assert plans["magcache"]["strip"] == "#..#|##"
    assert {name: plan["steps"] for name, plan in plans.items()} == {
        "dense": 6,
        "converged": 8,
        "magcache": 6,
        "again": 6,
        "fewer-steps": 4,
    }
    assert comparison.changes["fewer-steps"] == "num_inference_steps=4"
    assert "use_magcache=True" in comparison.changes["magcache"]


def test_what_decides_during_the_run_has_a_row_of_the_cost_that_it_came_to(pipe, tmp_path):
    """The mean over the clips; MagCache's plan is known before."""
    made = compare(
        f"model={pipe.config.model}", *SMALL_RUN, CURVE, prompts=PROMPTS, pipe=pipe, repeats=1,
        output=tmp_path, retention_ratio=0.1, easycache_thresh=9, easycache_start=3,
        variants="dense,easycache,magcache,fewer-steps",
    )  # fmt: skip
    assert made.rows == {"magcache": "fewer-steps", "easycache": "fewer-steps-5"}
    assert (made.cost("magcache"), made.cost("easycache")) == (4, 5)
    assert [made.plan(row)["steps"] for row in made.rows.values()] == [4, 5]
    assert made.time("fewer-steps-5")["runs"] >= 1


def test_the_record_says_on_what_machine_and_from_which_commit(comparison):
    environment = comparison.metrics()["environment"]
    assert {"python", "machine", "cpu", "cores", "memory_bytes"} <= set(environment["host"])
    assert environment["host"]["memory_bytes"] > 2**30
    assert "commit" in environment


def test_all_variants_start_from_the_same_noise(comparison):
    assert comparison.values("again", "psnr", "dense") == [math.inf] * CLIPS
    stat = comparison.stat("again", "psnr", "dense")
    assert (stat.mean, stat.spread, stat.worst) == (math.inf, 0, math.inf)
    assert comparison.stat("again", "ssim", "dense").mean == pytest.approx(1)


def test_metrics_are_of_the_frames_before_encoding(comparison, pipe):
    clip = comparison.clips[0]["name"]
    files = [comparison.folder / f"runs/{name}/{clip}.npz" for name in ("magcache", "dense")]
    latents = [np.load(file)["latents"][None] for file in files]
    exact = [pipe.decode(z, dtype="float32")[0] for z in latents]
    rounded = [pipe.decode(z)[0].astype(np.float32) / 255 for z in latents]
    found = comparison.runs["magcache"][clip]["against"]["dense"]["psnr"]
    np.testing.assert_allclose(found, psnr(*exact), atol=1e-3)
    assert psnr(*rounded).mean() < np.mean(found) - 0.5  # what 8 bits alone would cost here


def test_cost(comparison):
    dense, cached = comparison.time("dense"), comparison.time("magcache")
    assert dense["speedup"] == 1
    assert dense["runs"] >= 2
    assert cached["ideal_speedup"] == pytest.approx(1.5)
    assert comparison.time("fewer-steps")["ideal_speedup"] == pytest.approx(1.5)
    assert comparison.time("converged")["ideal_speedup"] == pytest.approx(6 / 8)
    assert set(cached["step_seconds"]) == {"computed", "skipped"}
    assert all(not run["cold"] for runs in comparison.timed.values() for run in runs)
    # 2 branches of 2 x 2 x 3 tokens of width 32 in float32
    assert comparison.memory("magcache")["cache_bytes"] == 2 * 12 * 32 * 4
    assert comparison.memory("dense")["cache_bytes"] == 0
    assert comparison.memory("dense")["step_memory_bytes"] > 0


def test_python_values_stay_values_and_the_command_can_be_typed(pipe, tmp_path, monkeypatch):
    """Regression: a list went through text, and the recorded command had no prompts."""
    ratios = [1.0, 1.0, *[0.99] * 10]
    output = tmp_path / "out"
    made = compare(
        f"model={pipe.config.model}", *SMALL_RUN, prompts=PROMPTS[:1], pipe=pipe, output=output,
        variants="dense,magcache", mag_ratios_base=ratios, repeats=1,
    )  # fmt: skip
    assert made.plan("magcache")["skipped"] > 0
    command = shlex.split(made.about["command"])
    assert command[:2] == ["wanjax", "compare"]
    assert load_prompts(output / "prompts.txt") == [Prompt(PROMPTS[0])]
    monkeypatch.setattr(runner, "generate", None)  # the same runs: nothing is left to make
    again = compare_arguments(command[2:], {}, pipe=pipe)
    assert again.plan("magcache") == made.plan("magcache")


def test_prompts_survive_their_file(tmp_path):
    prompts = [Prompt("# a | b", None), Prompt("plain"), Prompt("moves", str(tmp_path / "a.png"))]
    (tmp_path / "p.txt").write_text(as_lines(prompts))
    assert load_prompts(tmp_path / "p.txt") == prompts


@pytest.mark.slow
def test_a_killed_comparison_goes_on(pipe, arguments, tmp_path, monkeypatch):
    generated = []
    generate = runner.generate

    def counting(pipe, run, clip, callback):
        if len(generated) == 3:
            raise KeyboardInterrupt
        generated.append((run.config.num_inference_steps, clip.seed))
        return generate(pipe, run, clip, callback)

    def go_on(seeds):
        return compare(
            *arguments, prompts=PROMPTS[:1], seeds=seeds, pipe=pipe, output=tmp_path, repeats=1
        )

    monkeypatch.setattr(runner, "generate", counting)
    with pytest.raises(KeyboardInterrupt):
        go_on([3])
    assert generated == [(6, 3), (8, 3), (6, 3)]

    monkeypatch.setattr(runner, "generate", generate)
    steps = []
    monkeypatch.setattr(runner, "generate", lambda *a: steps.append(a[1]) or generate(*a))
    whole = go_on([3])
    # two variants were left; then each variant runs warm once, those seen first also cold
    assert [run.config.num_inference_steps for run in steps[:2]] == [6, 4]
    assert len(steps) == 2 + 5 + 3

    steps.clear()
    again = go_on([3])
    assert not steps
    assert again.metrics()["variants"] == whole.metrics()["variants"]

    go_on([3, 4])
    assert [run.config.num_inference_steps for run in steps[:5]] == [6, 8, 6, 6, 4]


def test_a_finished_comparison_loads_no_model(comparison, arguments, monkeypatch):
    monkeypatch.setattr(WanPipeline, "from_config", None)
    again = compare(*arguments, prompts=PROMPTS, output=comparison.folder)
    assert again.metrics()["variants"] == comparison.metrics()["variants"]


def test_missing_metrics_are_measured_without_generating(comparison, arguments, pipe, monkeypatch):
    """As when LPIPS is installed later."""
    monkeypatch.setattr(runner, "generate", None)
    monkeypatch.setattr(
        "wanjax.evaluate.comparing.load_lpips", lambda: lambda a, b: np.full(len(a), 0.25)
    )
    with_lpips = compare(*arguments, prompts=PROMPTS, pipe=pipe, output=comparison.folder)
    assert with_lpips.stat("magcache", "lpips", "dense").mean == 0.25
    assert "LPIPS" in markdown(with_lpips).split("\n\n")[4]


def test_a_missing_lpips_is_noted(comparison):
    assert any(note.startswith("LPIPS is left out") for note in comparison.notes)


def test_json_and_markdown(comparison):
    save(comparison)
    text = (comparison.folder / "metrics.json").read_text()
    metrics = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert metrics["variants"]["again"]["against"]["dense"]["psnr"]["mean"] == "inf"
    assert metrics["variants"]["magcache"]["against"]["dense"]["psnr"]["mean"] > 20
    assert len(metrics["clips"]) == CLIPS
    table = (comparison.folder / "table.md").read_text()
    assert re.search(r"\| again +\| ∞ +\| 1.0000", table)
    assert "wanjax compare model=" in table
    widths = {line.count("|") for line in table.split("Cost:")[1].splitlines() if "|" in line}
    assert len(widths) == 1


def test_findings_say_who_is_closer(comparison):
    duel = next(line for line in findings(comparison) if line.startswith("At equal cost"))
    assert "`magcache` is closer to `dense` than `fewer-steps`" in duel
    runs = dict(comparison.runs)
    runs["magcache"], runs["fewer-steps"] = (
        {
            clip: record | {"against": runs[other][clip]["against"]}
            for clip, record in runs[name].items()
        }
        for name, other in (("magcache", "fewer-steps"), ("fewer-steps", "magcache"))
    )
    lost = type(comparison)(**(vars(comparison) | {"runs": runs}))
    assert any("`magcache` loses: it is less close to `dense`" in text for text in findings(lost))


def test_report_is_one_file_that_asks_for_nothing(comparison):
    save(comparison)
    page = (comparison.folder / "report.html").read_text()
    assert "{{" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert page.count("</script>") == 2  # none from a prompt
    block = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    data = json.loads(block[1], parse_constant=lambda name: pytest.fail(name))
    assert [clip["prompt"] for clip in data["clips"]] == PROMPTS
    for variant in comparison.variants:
        for clip in comparison.clips:
            assert data["videos"][variant][clip["name"]]["base64"]


def test_large_videos_stay_beside_the_report(comparison, monkeypatch):
    monkeypatch.setattr("wanjax.evaluate.report._EMBEDDED_BYTES", 0)
    with pytest.warns(Notice, match=r"report\.html: \d+ videos are links to files beside the page"):
        save(comparison)
    clip = comparison.clips[0]["name"]
    page = (comparison.folder / "report.html").read_text()
    assert f'{{"url": "videos/dense/{clip}.mp4"}}' in page
    assert "videos are links to files beside the page" in page


def test_folders_of_videos(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, noise in (("a", 0), ("b", 0), ("c", 20)):
        (tmp_path / name).mkdir()
        frames = np.full((4, 32, 48, 3), 120) + noise * rng.normal(size=(4, 32, 48, 3))
        save_video(frames.clip(0, 255).astype(np.uint8), tmp_path / name / "x.mp4", 8)
    save_video(np.zeros((4, 32, 48, 3), np.uint8), tmp_path / "a/only.mp4", 8)
    folders = ",".join(str(tmp_path / name) for name in "abc")
    assert main(["compare", f"videos={folders}", f"output={tmp_path / 'out'}"]) == 0
    table = capsys.readouterr().out
    assert re.search(r"\| b +\| ∞", table)
    assert "only.mp4" in table
    assert "Cost" not in table
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert 15 < metrics["variants"]["c"]["against"]["a"]["psnr"]["mean"] < 35
    assert (tmp_path / "out/report.html").stat().st_size > 20_000


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["variants=dense,magcach"], "magcach is none of dense, fewer-steps, cfg_cache"),
        (["variants=dense,fewer-steps"], "the cost of the cached variants, and there is none"),
        (["variants=big:height=64"], "variant big: height is 64, but all variants share height=32"),
        (["variants=../x:seed=1"], "each needs a name of its own"),
        (["prompts=missing.txt"], "missing.txt: no such file"),
        (["videos=/nowhere,/tmp"], "there is no folder /nowhere"),
        (["videos=/tmp"], "name two folders or more"),
        (["repeats=0"], "repeats=0: must be at least 1"),
        (["variants=fast:magcache_thresh=0.1"], "magcache_thresh acts only with"),
        ([f"output={__file__}"], "is a file; name a folder"),
    ],
)
def test_mistakes_are_refused_before_the_model_is_loaded(args, text, pipe, monkeypatch, capsys):
    monkeypatch.setattr(WanPipeline, "from_config", None)
    base = [f"model={pipe.config.model}", *SMALL_RUN]
    base += [] if args[0].startswith("prompts") else ["prompt=a ball"]
    base += [] if args[0].startswith("variants") else ["variants=dense"]
    assert main(["compare", *base, *args]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert text in captured.err


def test_an_image_for_a_model_that_takes_none(pipe):
    prompts = [Prompt("a red ball", "ball.png")]
    with pytest.raises(UsageError, match="has an image, but the model takes none"):
        compare(f"model={pipe.config.model}", *SMALL_RUN, prompts=prompts, variants="dense")
