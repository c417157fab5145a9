"""The report in a real browser: it loads, plays, scrubs, compares; by mouse and by keyboard."""

from pathlib import Path

import numpy as np
import pytest
from browser import chromium, opened
from PIL import Image

from wanjax.evaluate import Comparison, save
from wanjax.evaluate.folders import compare_folders
from wanjax.evaluate.measuring import measure_against, measure_alone
from wanjax.evaluate.store import plain
from wanjax.media.video_files import save_video

pytestmark = pytest.mark.slow

FRAMES, FPS, SIDE = 17, 8, 64
VARIANTS = {"dense": 0, "magcache": 12, "same": 0, "fewer-steps": 40}  # noise in 8-bit levels
STRIPS = ["####|####", "##.#|#.##", "####|####", "###|##"]
CLIPS = [
    {"name": "1-ball", "prompt": "a red ball </script>", "seed": 0},
    {"name": "2-cross", "prompt": "a blue cross", "seed": 1},
]


def _frames(noise, seed):
    """A square that moves right, and noise."""
    rng = np.random.default_rng(seed)
    frames = np.full((FRAMES, SIDE, SIDE, 3), 30.0)
    for i, frame in enumerate(frames):
        frame[20:40, 2 * i : 2 * i + 16] = (200, 60, 60)
    return (frames + noise * rng.normal(size=frames.shape)).clip(0, 255).astype(np.uint8)


def _record(frames, reference, strip, position):
    """What a run leaves, with made-up times."""
    steps = [mark for mark in strip if mark != "|"]
    plan = {"strip": strip, "steps": len(steps), "computed": steps.count("#")}
    plan["method"] = "magcache" if "." in strip else "dense"
    plan["ideal_speedup"] = len(steps) / steps.count("#")
    record = measure_alone(frames, None) | {
        "right": {"color": True, "motion": position != 3},
        "score": 1.0 if position != 3 else 0.5,
        "plan": plan,
        "seconds": {"text": 0.01, "denoise": 0.1 * steps.count("#") + 0.02, "decode": 0.05},
        "step_seconds": [0.1 if mark == "#" else 0.01 for mark in steps],
        "compile_seconds": 3.0,
        "peak_memory_bytes": 500_000_000,
        "step_memory_bytes": 20_000_000,
        "cache_bytes": 1_000_000 * (position == 1),
        "against": {"dense": measure_against(frames, reference, None)} if position else {},
    }
    return plain(record)


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


ENVIRONMENT = {
    "device": {"kind": "cpu", "platform": "cpu", "count": 1},
    "host": {"python": "3.11", "machine": "x86_64", "cpu": "A Processor", "cores": 2},
    "packages": {"wanjax": "0"},
    "commit": "0123abc",
}


def _save(folder, variants, strips, clips=CLIPS, **fields):
    """The report of variants by their noise; returns the page."""
    runs, videos = {}, {}
    for position, (name, noise) in enumerate(variants.items()):
        runs[name], videos[name] = {}, {}
        for seed, clip in enumerate(clips):
            frames = _frames(noise * (1 + seed), seed)
            videos[name][clip["name"]] = folder / f"videos/{name}/{clip['name']}.mp4"
            save_video(frames, videos[name][clip["name"]], FPS)
            pair = (frames / 255, _frames(0, seed) / 255)
            runs[name][clip["name"]] = _record(*pair, strips[position], position)
    comparison = Comparison(
        about={
            "title": "made up <model>",
            "command": "wanjax compare",
            "created": "today",
            "settings": {"size": "64x64"},
            "environment": ENVIRONMENT,
        },
        references=("dense",),
        clips=clips,
        runs=runs,
        videos=videos,
        folder=folder,
        fps=FPS,
        timed={name: list(found.values()) for name, found in runs.items()},
        notes=["a note"],
        **fields,
    )
    return save(comparison)[0]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return _save(
        tmp_path_factory.mktemp("report"),
        VARIANTS,
        STRIPS,
        changes={"magcache": "use_magcache=True"},
        exact=frozenset({"same"}),
        rows={"magcache": "fewer-steps"},
    )


SWEPT = [f"magcache-thresh-0.{digits}" for digits in ("02", "065", "11", "155")]
TEN = {
    "dense": 0, "kv": 0, "magcache": 2, "forecast": 2.1, "cfg_cache": 2.2,
    **{name: 2.3 + i for i, name in enumerate(SWEPT)}, "fewer-steps": 4, "fewer-steps-6": 4.1,
}  # fmt: skip
TEN_STRIPS = ["####|####"] * 2 + ["##.#|#.##"] * 3 + ["##.#|#..#"] * 4 + ["###|##", "###|###"]


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    """Ten variants and their reference, of which some are all but equal; and a given picture."""
    folder = tmp_path_factory.mktemp("ten")
    colours = ("orange", "purple")
    for name in colours:
        Image.new("RGB", (320, 200), name).save(folder / f"{name}.png")
    clips = [
        clip | {"image": str(folder / f"{name}.png")}
        for clip, name in zip(CLIPS, colours, strict=True)
    ]
    return _save(
        folder,
        TEN,
        TEN_STRIPS,
        clips,
        changes={name: f"use_magcache=True magcache_thresh={name[-4:]}" for name in SWEPT},
        exact=frozenset({"kv"}),
        rows=dict.fromkeys(["magcache", "forecast", *SWEPT], "fewer-steps")
        | {"cfg_cache": "fewer-steps-6"},
        sweeps={"magcache, magcache_thresh": ("magcache", *SWEPT)},
    )


@pytest.fixture
def page(browser, report):
    with opened(browser, report.as_uri()) as page:
        page.wait_for_function(LOADED)
        yield page


LOADED = "[...document.querySelectorAll('video')].every((v) => v.readyState >= 2)"
TIMES = "[...document.querySelectorAll('video')].map((v) => v.currentTime)"


def _shown(page):
    """The frame that each video shows."""
    return [int(time * FPS) for time in page.evaluate(TIMES)]


def _wait_for_frame(page, frame):
    page.wait_for_function(f"{TIMES}.every((t) => Math.floor(t * {FPS}) === {frame})")
    page.wait_for_function("[...document.querySelectorAll('video')].every((v) => !v.seeking)")
    assert page.evaluate("document.getElementById('scrubber').value") == str(frame)


def test_all_videos_play_in_step(page):
    """They start by themselves; space stops them."""
    assert page.evaluate("document.querySelectorAll('video').length") == len(VARIANTS)
    page.wait_for_function(f"{TIMES}.every((t) => t > 0.5)")
    times = page.evaluate(TIMES)
    assert max(times) - min(times) < 2 / FPS
    page.keyboard.press(" ")
    page.wait_for_function("[...document.querySelectorAll('video')].every((v) => v.paused)")
    page.keyboard.press(" ")
    page.wait_for_function("[...document.querySelectorAll('video')].every((v) => !v.paused)")
    before = page.evaluate(TIMES)[0]
    page.wait_for_function(f"{TIMES}[0] !== {before}")


def test_the_scrubber_moves_all_videos(page):
    page.evaluate(
        "{ const s = document.getElementById('scrubber'); s.value = 5;"
        "  s.dispatchEvent(new Event('input')); }"
    )
    _wait_for_frame(page, 5)
    for key, frame in (("ArrowRight", 6), ("ArrowLeft", 5), ("End", FRAMES - 1), ("Home", 0)):
        page.keyboard.press(key)
        _wait_for_frame(page, frame)
    assert page.evaluate("document.getElementById('frame').value") == f"frame 1 of {FRAMES}"
    assert page.evaluate("document.querySelector('#curves .cursor').getAttribute('x1') > 0")


def test_difference(page):
    page.keyboard.press("Home")
    _wait_for_frame(page, 0)
    page.keyboard.press("d")
    bright = (
        "[...document.querySelectorAll('#cards canvas')].map((c) => Math.max(...c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data.filter((_, i) => i % 4 < 3)))"
    )
    page.wait_for_function(f"{bright}[3] > 0")
    values = dict(zip(VARIANTS, page.evaluate(bright), strict=True))
    assert values["dense"] == values["same"] == 0
    assert 0 < values["magcache"] <= values["fewer-steps"]
    visibility = "getComputedStyle(document.querySelector('canvas')).visibility"
    assert page.evaluate(visibility) == "visible"
    page.keyboard.press("d")
    assert page.evaluate(visibility) == "hidden"


def test_the_other_clip(page):
    page.keyboard.press("n")
    page.wait_for_function(LOADED)
    chosen = "document.getElementById('clip').selectedOptions[0].textContent"
    assert page.evaluate(chosen) == "2. a blue cross, seed 1"
    page.keyboard.press("p")
    assert page.evaluate(chosen) == "1. a red ball </script>, seed 0"


def test_numbers(page):
    rows = page.evaluate(
        "[...document.querySelectorAll('#quality tbody tr')].map((r) => r.innerText)"
    )
    assert len(rows) == len(VARIANTS) + 2
    exact, same, lossy, *_ = rows[1:]
    assert (exact, lossy) == ("Exact: the same to rounding", "Lossy")
    assert "∞" in same
    cost = page.evaluate("document.querySelector('#cost').innerText")
    assert "6 of 8" in cost
    # the row of fewer steps is hollow, the exact variant is not there
    assert page.evaluate("document.querySelectorAll('#scatter .dot').length") == 1
    assert page.evaluate("document.querySelectorAll('#scatter .hollow').length") == 1
    assert page.evaluate("document.querySelectorAll('.strip i.skipped').length") == 2
    assert page.evaluate("document.querySelectorAll('#curves path').length") == 3
    assert page.evaluate("document.getElementById('title').textContent") == "made up <model>"
    findings = page.evaluate("document.getElementById('findings').innerText")
    assert "At equal cost magcache is closer to dense than fewer-steps" in findings


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_narrow(browser, report, dark):
    with opened(browser, report.as_uri(), width=360, height=740, dark=dark) as page:
        page.wait_for_function("document.querySelectorAll('video').length > 0")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, paper.strip("rgb()").split(","))) / 3
        assert (brightness < 60) == dark


ALL_INSIDE = (
    "[...document.querySelectorAll('section:not([hidden]) .scroll')].map((box) => "
    "box.scrollWidth - box.clientWidth)"
)
# Texts of a chart that lie on one another, or outside of it.
COLLIDING = """(id) => {
  const texts = [...document.querySelectorAll(`${id} svg text.name`)];
  const boxes = texts.map((text) => [text.textContent, text.getBoundingClientRect()]);
  const within = document.querySelector(`${id} svg`).getBoundingClientRect();
  const found = [];
  boxes.forEach(([name, a], i) => {
    if (a.left < within.left - 1 || a.right > within.right + 1) found.push(`${name} is outside`);
    for (const [other, b] of boxes.slice(i + 1)) {
      const beside = a.right <= b.left || b.right <= a.left;
      const above = a.bottom <= b.top + 2 || b.bottom <= a.top + 2;
      if (!beside && !above) found.push(`${name} and ${other}`);
    }
  });
  return [texts.length, found];
}"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1400, 1000, 390])
def test_ten_variants_have_room(browser, ten, width, dark):
    """Regression: tables were cut off at these widths, and names lay on one another."""
    with opened(browser, ten.as_uri(), width=width, dark=dark) as page:
        page.wait_for_function(LOADED)
        assert page.evaluate(ALL_INSIDE) == [0, 0, 0, 0]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        named, colliding = page.evaluate(COLLIDING, "#scatter")
        assert named == 5  # dense, the sweep, forecast, cfg_cache, fewer steps
        assert colliding == []
        named, colliding = page.evaluate(COLLIDING, "#curves")
        assert (named, colliding) == (0 if width < 620 else len(TEN) - 1, [])
        if not named:
            assert page.evaluate("document.querySelectorAll('.legend span').length") == len(TEN) - 1


def test_a_narrow_table_names_each_number(browser, ten):
    with opened(browser, ten.as_uri(), width=390) as page:
        head = page.evaluate(
            "getComputedStyle(document.querySelector('#cost td'), '::before').content"
        )
        assert head == '"steps computed"'


def test_the_number_under_a_tile_says_what_it_is(page):
    shown = page.evaluate("[...document.querySelectorAll('.now')].map((n) => n.innerText)")
    assert shown[0].startswith("reference")
    assert all(text.startswith("PSNR ") and " dB" in text for text in shown[1:])


def test_a_difference_can_be_seen_at_once(browser, ten):
    """Regression: four times the difference of near videos was still nearly black."""
    with opened(browser, ten.as_uri()) as page:
        page.wait_for_function(LOADED)
        page.keyboard.press("End")
        _wait_for_frame(page, FRAMES - 1)
        page.keyboard.press("d")
        bright = (
            "[...document.querySelectorAll('#cards canvas')].map((c) => {"
            "  const all = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "  return all.reduce((sum, v, i) => sum + (i % 4 < 3 ? v : 0), 0) / all.length * 4 / 3;"
            "})"
        )
        page.wait_for_function(f"{bright}[2] > 0")
        values = dict(zip(TEN, page.evaluate(bright), strict=True))
        assert values["magcache"] > 15  # four times its difference comes to 3
        assert values["fewer-steps"] > values["magcache"]
        assert values["dense"] == values["kv"] == 0
        chosen = "document.getElementById('gain').selectedOptions[0].text"
        assert page.evaluate(chosen).startswith("auto, ")


def test_the_given_picture_is_in_view(browser, ten):
    """Of each clip its own, in the videos' shape."""
    with opened(browser, ten.as_uri()) as page:
        page.wait_for_function(LOADED)
        seen = []
        for _ in CLIPS:
            page.wait_for_function("document.querySelector('.given img').naturalWidth > 0")
            seen.append(page.evaluate("document.querySelector('.given img').src"))
            picture, video = page.evaluate(
                "['.given .screen', '.card:nth-child(2) .screen'].map((s) => {"
                "  const { width, height } = document.querySelector(s).getBoundingClientRect();"
                "  return [width, height]; })"
            )
            assert picture == pytest.approx(video, abs=1)
            page.keyboard.press("n")
            page.wait_for_function(LOADED)
        assert len(set(seen)) == len(CLIPS)


def test_the_worst_video_comes_first_and_opens(page):
    """The second clip has twice the noise."""
    rows = "[...document.querySelectorAll('#videos tbody tr')].map((r) => r.innerText)"
    worst, *_ = page.evaluate(rows)
    assert "a blue cross" in worst
    assert "fewer-steps" in worst
    page.click("#videos tbody button")
    page.wait_for_function(LOADED)
    assert page.evaluate("document.getElementById('clip').value") == "1"
    page.select_option("#of-variant", "magcache")
    page.select_option("#by-metric", "")
    first, second = page.evaluate(rows)
    assert "a red ball" in first
    assert "a blue cross" in second


def test_speed_as_measured_or_as_counted(page):
    """The made-up times have what no step takes, so that less is realised than counted."""
    place = "document.querySelector('#scatter .dot').getAttribute('cx')"
    measured = float(page.evaluate(place))
    assert "the measured speedup" in page.inner_text("#scatter figcaption")
    page.select_option("#speed-of", "ideal")
    assert float(page.evaluate(place)) != measured
    assert "counting transformer blocks" in page.inner_text("#scatter figcaption")


def test_variants_by_their_worst_video(page):
    heads = "[...document.querySelectorAll('#quality tbody tr:not(.kind) th')]"
    names = heads + ".map((head) => head.innerText.split('\\n')[0])"
    assert page.evaluate(names) == ["dense", "same", "magcache", "fewer-steps"]
    page.select_option("#order", "worst video first")
    assert page.evaluate(names) == ["dense", "same", "fewer-steps", "magcache"]


def test_folders_without_times(browser, report, tmp_path):
    """What `videos=A,B` writes: no plans, no costs."""
    folders = [report.parent / "videos" / name for name in ("dense", "magcache")]
    about = {"command": "wanjax compare videos=dense,magcache", "created": "today"}
    comparison = compare_folders(",".join(map(str, folders)), tmp_path, None, about, [])
    with opened(browser, save(comparison)[0].as_uri()) as page:
        page.wait_for_function(f"{TIMES}.length === 2")
        assert page.evaluate("document.getElementById('cost').hidden")
        assert page.evaluate("document.getElementById('frontier').hidden")
        assert page.evaluate("document.querySelectorAll('#curves path').length") == 1


def test_page_files_are_in_the_package():
    import wanjax.evaluate.report as module

    names = {path.name for path in (Path(module.__file__).parent / "page").iterdir()}
    assert {"report.html", "report.css", *module._SCRIPTS} <= names
