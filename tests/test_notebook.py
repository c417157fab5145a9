"""What a person meets in a notebook or a prompt of Python: pictures, lines, bars, arguments."""

from __future__ import annotations

import base64
import inspect
import pickle
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from small_folder import SMALL_RUN

import wanjax
from wanjax.config.resolve import resolve
from wanjax.errors import Notice, UsageError
from wanjax.media.video_files import read_video
from wanjax.pipeline.progress import Progress, watched

PROMPT = "a red ball moving left"


@pytest.fixture(scope="module")
def pipe(small_folder):
    return wanjax.WanPipeline.from_config(resolve([f"model={small_folder}", *SMALL_RUN], "show"))


@pytest.fixture(scope="module")
def video(pipe):
    return pipe(PROMPT, seed=3)


# A video shows itself


def test_a_video_is_a_line(video, pipe):
    assert re.fullmatch(
        r"Video\(1 video of \d+ frames, .* fps; Plan\(dense: .*\); .* s\)", repr(video)
    )
    latent = replace(video, frames=None)
    assert repr(latent).startswith("Video(1 video as latents (4, ")
    assert re.fullmatch(
        r"Timings\(compile .* s, text .*, 6 steps, peak .* GiB\)", repr(video.timings)
    )
    assert re.match(r"WanPipeline\(.*: text to video, two experts, .*, 6 steps", repr(pipe))


def test_a_video_is_a_player_with_plan_and_caption(video, tmp_path):
    html = video._repr_html_()
    assert f"<figcaption>{PROMPT}</figcaption>" in html
    assert "dense: 6 steps" in html
    (content,) = re.findall(r'src="data:video/mp4;base64,([^"]*)"', html)
    file = tmp_path / "shown.mp4"
    file.write_bytes(base64.b64decode(content))
    assert read_video(file).shape == video.frames[0].shape


def test_text_in_a_caption_is_no_markup(video):
    html = replace(video, prompts=("<script>a & b",))._repr_html_()
    assert "<figcaption>&lt;script&gt;a &amp; b</figcaption>" in html


def test_latents_alone_show_the_plan(video):
    html = replace(video, frames=None)._repr_html_()
    assert "<svg" in html
    assert "<video" not in html


def test_a_page_does_not_hold_every_byte(video, monkeypatch):
    monkeypatch.setattr("wanjax.pipeline.display._MOST", 10)
    assert "1 more, too large for a page" in video._repr_html_()


# Arguments of a call


def test_frames_as_images(pipe, video, tmp_path):
    images = pipe(PROMPT, seed=3, output_type="pil")
    assert all(isinstance(image, Image.Image) for image in images.frames[0])
    np.testing.assert_array_equal(images.array(), video.frames)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(images)).array(), video.frames)
    (file,) = images.save(tmp_path / "a.mp4")
    assert file.path.exists()
    assert "<video" in images._repr_html_()
    with pytest.raises(UsageError, match='output_type=\'jpg\': must be "np", "pil" or "latent"'):
        pipe(PROMPT, output_type="jpg")


def test_several_videos_of_a_prompt_are_those_of_their_seeds(pipe):
    prompts = [PROMPT, "a blue square"]
    videos = pipe(prompts, num_videos_per_prompt=2, seed=5, output_type="latent")
    one_by_one = pipe([PROMPT, PROMPT, *prompts[1:] * 2], seed=[5, 6, 7, 8], output_type="latent")
    # the same arithmetic in another program: text of two prompts, or of four
    np.testing.assert_allclose(videos.latents, one_by_one.latents, atol=2e-5)
    assert videos.prompts == (PROMPT, PROMPT, "a blue square", "a blue square")
    with pytest.raises(UsageError, match="num_videos_per_prompt=0: must be at least 1"):
        pipe(PROMPT, num_videos_per_prompt=0)


def test_the_sampler_of_one_call(pipe, video):
    euler = pipe(PROMPT, seed=3, sampler="euler", output_type="latent")
    config = replace(pipe.config, sampler="euler")
    configured = pipe.with_config(config)(PROMPT, seed=3, output_type="latent")
    np.testing.assert_array_equal(euler.latents, configured.latents)
    assert not np.array_equal(euler.latents, video.latents)
    with pytest.raises(UsageError, match="sampler"):
        pipe(PROMPT, sampler="ddim")


def test_a_plan_from_a_strip_runs(pipe):
    video = pipe(PROMPT, cache=wanjax.Plan.from_strip("##.##."), output_type="latent")
    assert (video.plan.method, video.plan.skipped_steps) == ("strip", (2, 5))


# Bars


def test_progress_of_loading_compiling_and_steps(small_folder, capsys, monkeypatch):
    monkeypatch.setattr("wanjax.pipeline.progress._MOMENT", 0)
    arguments = dict(a.split("=") for a in SMALL_RUN)
    values = {
        k: int(v) if v.isdigit() else float(v) for k, v in arguments.items() if v[0].isdigit()
    }
    pipe = wanjax.WanPipeline.from_pretrained(small_folder, progress=True, **values)
    loaded = capsys.readouterr().err
    assert "loading transformer: 100%" in loaded
    assert "transformer_2" in loaded
    pipe(PROMPT, output_type="latent", progress=True)
    shown = capsys.readouterr().err
    assert "compiling: 1program" in shown
    assert "denoising: 100%" in shown
    assert "low noise, computed" in shown
    pipe(PROMPT, seed=1, output_type="latent")  # nobody looks on in a test
    assert capsys.readouterr().err == ""


def test_a_bar_ends_with_a_failing_step(pipe, capsys):
    def fail(report):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        pipe(PROMPT, progress=True, callback=fail)
    assert pipe.programs.compiling("x").__class__.__name__ == "nullcontext"


def test_bars_come_up_where_somebody_looks_on(monkeypatch):
    assert not watched()
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True))
    assert watched()
    monkeypatch.undo()
    notebook = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    assert watched()
    assert Progress().shown
    assert not Progress(False).shown
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not watched()


# What is at hand


def test_help_begins_with_a_quick_start():
    text = inspect.getdoc(wanjax)
    assert "Quick start" in text[:120]
    names = set(re.findall(r"wanjax\.(\w+)", text))
    assert {"WanPipeline", "MagCache", "Plan", "schedule"} <= names
    assert [name for name in names if not hasattr(wanjax, name)] == []


def test_a_notice_names_the_callers_line():
    pipe = wanjax.WanPipeline.from_pretrained("tiny-t2v")
    with pytest.warns(Notice) as found:
        pipe("a cat", num_inference_steps=1, output_type="latent")
    assert not found[0].filename.startswith(str(Path(wanjax.__file__).parent))
