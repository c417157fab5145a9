"""The report in a real browser: it loads, plays, scrubs, compares; by mouse and by keyboard."""

from pathlib import Path

import numpy as np
import pytest
from browser import chromium, opened

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


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    runs, videos = {}, {}
    for position, (name, noise) in enumerate(VARIANTS.items()):
        runs[name], videos[name] = {}, {}
        for seed, clip in enumerate(CLIPS):
            frames = _frames(noise, seed)
            videos[name][clip["name"]] = folder / f"videos/{name}/{clip['name']}.mp4"
            save_video(frames, videos[name][clip["name"]], FPS)
            pair = (frames / 255, _frames(0, seed) / 255)
            runs[name][clip["name"]] = _record(*pair, STRIPS[position], position)
    environment = {
        "device": {"kind": "cpu", "platform": "cpu", "count": 1},
        "host": {"python": "3.11", "machine": "x86_64"},
        "packages": {"wanjax": "0"},
    }
    comparison = Comparison(
        about={
            "title": "made up <model>",
            "command": "wanjax compare",
            "created": "today",
            "settings": {"size": "64x64"},
            "environment": environment,
        },
        references=("dense",),
        changes={"magcache": "use_magcache=True"},
        clips=CLIPS,
        runs=runs,
        videos=videos,
        folder=folder,
        fps=FPS,
        timed={name: list(found.values()) for name, found in runs.items()},
        notes=["a note"],
        exact=frozenset({"same"}),
        rows={"magcache": "fewer-steps"},
    )
    return save(comparison)[0]


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
    assert len(rows) == len(VARIANTS)
    assert "∞" in rows[2]
    cost = page.evaluate("document.querySelector('#cost').innerText")
    assert "6 of 8" in cost
    assert page.evaluate("document.querySelectorAll('#scatter .dot').length") == 3
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


def test_folders_without_times(browser, report, tmp_path):
    """What `videos=A,B` writes: no plans, no costs."""
    folders = [report.parent / "videos" / name for name in ("dense", "magcache")]
    about = {"command": "wanjax compare videos=dense,magcache", "created": "today"}
    comparison = compare_folders(",".join(map(str, folders)), tmp_path, None, about, [])
    with opened(browser, save(comparison)[0].as_uri()) as page:
        page.wait_for_function(f"{TIMES}.length === 2")
        assert page.evaluate("document.getElementById('cost').hidden")
        assert page.evaluate("document.querySelectorAll('#curves path').length") == 1


def test_page_files_are_in_the_package():
    import wanjax.evaluate.report as module

    names = {path.name for path in (Path(module.__file__).parent / "page").iterdir()}
    assert {"report.html", "report.css", *module._SCRIPTS} <= names
