"""The page of `wanjax serve ui=True`: its form and who may see it; in a browser, the rest."""

from __future__ import annotations

import re
import sys
import threading
from dataclasses import replace

import pytest
from browser import chromium, opened
from serving import PROMPT, serving
from small_folder import make_small_folder
from starlette.datastructures import Headers

from wanjax.cli.main import main
from wanjax.config.resolve import resolve
from wanjax.sampling.denoise import StepReport
from wanjax.serve.auth import COOKIE, Tokens
from wanjax.serve.errors import ApiError
from wanjax.serve.page import views
from wanjax.serve.page.actions import Actions
from wanjax.serve.page.dials import dials_of, method_names
from wanjax.serve.page.form import empty, refilled

CURVE = ["use_magcache=False", f"mag_ratios_base={[1.0] * 40}", "magcache_K=4", "retention_ratio=0"]


@pytest.fixture(scope="module")
def tiny():
    return resolve(["tiny-t2v"], "serve")


def test_an_untouched_form_asks_for_the_servers_own_video(tiny):
    form = empty("tiny-t2v", tiny)
    assert form.request(tiny) == {"model": "tiny-t2v", "prompt": "", "cache": "none"}


def test_the_slider_sets_one_key_and_takes_back_its_rival():
    config = resolve(["tiny-t2v", "use_magcache=True", "target_speedup=2"], "serve")
    form = empty("tiny-t2v", config)
    assert (form.method, form.dial, form.value) == ("magcache", "target_speedup", 2.0)
    body = replace(form, dial="magcache_thresh", value=0.1).request(config)
    assert (body["magcache_thresh"], body["target_speedup"]) == (0.1, None)


def test_each_method_has_a_slider_or_none():
    sliders = {name: [dial.key for dial in dials_of(name)] for name in method_names()}
    assert next(iter(sliders)) == "none"
    assert sliders["none"] == []
    assert sliders["magcache"] == ["target_speedup", "magcache_thresh"]
    assert sliders["cfg_cache"] == ["cfg_cache_interval"]


def test_other_settings_are_lines(tiny):
    form = replace(
        empty("tiny-t2v", tiny), others="guidance_scale = 3\n\nsampler=euler", size="32x32"
    )
    body = form.request(tiny)
    assert (body["guidance_scale"], body["sampler"], body["size"]) == ("3", "euler", "32x32")
    for wrong, said in (
        ("sampler", "write one key=value a line"),
        ("size=1x1", "field of its own"),
    ):
        with pytest.raises(ApiError, match=said):
            replace(form, others=wrong).request(tiny)


def test_a_record_fills_the_form_with_what_the_server_would_not_do_by_itself(tiny):
    made = resolve(
        ["tiny-t2v", "prompt=a ball", "seed=7", "use_forecast=True", "target_speedup=2.5",
         "guidance_scale=3", "num_inference_steps=20"], "serve",
    )  # fmt: skip
    form = refilled("tiny-t2v", tiny, {"config": vars(made)}, "")
    assert (form.method, form.dial, form.value) == ("forecast", "target_speedup", 2.5)
    assert (form.prompt, form.seed, form.steps, form.size) == ("a ball", "7", 20, "")
    assert form.others.splitlines() == [
        "guidance_scale=3.0",
        "guidance_scale_high=3.0",
        "guidance_scale_low=3.0",
    ]
    asked = {
        key: value for key, value in form.request(tiny).items() if key not in ("model", "cache")
    }
    again = resolve(["tiny-t2v", "use_forecast=True"], "serve", asked)
    assert vars(again) == vars(made)


@pytest.fixture(scope="module")
def actions(tmp_path_factory):
    """Of a server that makes nothing, with two clients."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "tokens").write_text("ann 0123456789abcdef\nbob fedcba9876543210\n")
    model = make_small_folder(folder / "small-i2v", image=True)
    own = ["fit_image=True", f"tokens={folder / 'tokens'}"]
    with serving(model, folder / "store", *own, work=False) as running:
        yield Actions(running.server)


PICTURE = "example:red-ball"


def test_a_plan_is_of_the_size_that_the_picture_leads_to(actions):
    form = actions.empty()
    assert actions.look(PICTURE) == "64x64"
    assert "48x32, 5 frames" in actions.plan(form, "")
    assert "32x48, 5 frames" in actions.plan(form, "200x300")
    assert "48x32, 5 frames" in actions.plan(form, "99999x99999")  # no picture's


def test_what_is_no_picture_is_refused_at_once(actions):
    with pytest.raises(ApiError, match="not an image that is read here"):
        actions.look("data:image/png;base64,aGVsbG8=")
    with pytest.raises(ApiError, match="input_reference is missing"):
        actions.submit(replace(actions.empty(), prompt=PROMPT), "ann")


def test_a_client_sees_and_cancels_its_own(actions):
    form = replace(actions.empty(), prompt="a <red> ball", picture=PICTURE, seed="3")
    video = actions.submit(form, "ann").id
    assert actions.unfinished("ann") == video
    assert actions.unfinished("bob") == ""
    stage = actions.stage(video, "", "ann")
    assert "waits, 0 before it" in stage.html
    assert not stage.ended
    assert "a &lt;red&gt; ball" in actions.gallery("ann")
    assert "Nothing has been made" in actions.gallery("bob")
    assert actions.stage(video, "", "bob").html == actions.stage("no id", "", "ann").html
    for call in (actions.cancel, actions.twin, actions.again, actions.pair):
        with pytest.raises(ApiError, match="there is no video"):
            call(video, "bob")
    with pytest.raises(ApiError, match="it has no record yet"):
        actions.again(video, "ann")
    twin = actions.twin(video, "ann").id
    assert actions.pair(twin, "ann") == (video, twin)
    for one in (video, twin):
        actions.cancel(one, "ann")
    assert "This video is deleted" in actions.stage(video, "", "ann").html


def test_what_others_wrote_is_shown_as_text():
    assert views.fault("<b>") == "<p class='fault' role='alert'>&lt;b&gt;</p>"
    assert "&quot;" in views._text('"')


def test_a_token_in_a_cookie_counts_for_the_servers_own_pages_alone(tmp_path):
    (tmp_path / "tokens").write_text("ann 0123456789abcdef\n")
    tokens = Tokens.read(str(tmp_path / "tokens"))

    def ask(**headers: str) -> str:
        cookie = {"cookie": f"{COOKIE}=0123456789abcdef", "host": "here"}
        return tokens.client(Headers(cookie | headers), "1.2.3.4")

    assert ask() == ask(origin="https://here") == "ann"
    for headers in ({"origin": "https://there"}, {"authorization": "Bearer no"}, {"cookie": ""}):
        with pytest.raises(ApiError):
            ask(**headers)


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["serve", "ui=True"]) == 2
    assert "pip install 'wanjax[serve,ui]'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("gradio", reason="the extra `ui`")
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(browser, small_folder, tmp_path_factory):
    with serving(small_folder, tmp_path_factory.mktemp("store"), *CURVE, "ui=True") as running:
        next(iter(running.server.models.values())).pipe.fit_preview()
        yield running


@pytest.fixture
def page(browser, server):
    with visited(browser, server) as page:
        yield page


def visited(browser, server, **how):
    streams = f"{server.url}/page/gradio_api/queue/data"
    return opened(browser, f"{server.url}/", streams=streams, **how)


STRIP = "document.querySelector('#plan .strip').getAttribute('aria-label')"
PLAYED = "document.querySelector('#video video')?.currentTime > 0"


def choose(page, method):
    """By keyboard."""
    before = page.evaluate(STRIP)
    page.focus("#method input")
    for _ in range(method_names().index(method)):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_function(f"{STRIP} !== {before!r}")


@pytest.fixture
def held(monkeypatch):
    """Whatever is made stops before its third step and goes on when this is set.

    A video takes a second: without it the browser races what it is to see.
    """
    told, go, original = [], threading.Event(), StepReport.__init__

    def init(self, *args, **values):
        told.append(self)
        assert len(told) <= 2 or go.wait(60), "the test never let the steps go on"
        original(self, *args, **values)

    monkeypatch.setattr(StepReport, "__init__", init)
    yield go
    go.set()


@pytest.mark.slow
def test_a_prompt_becomes_a_playing_video_beside_its_dense_twin(page, server, held):
    page.wait_for_selector("#plan .strip")
    choose(page, "magcache")
    assert "#...|##" in page.evaluate(STRIP)
    page.focus("#value input[type=range]")
    for _ in range(16):
        page.keyboard.press("ArrowLeft")  # the target speedup, from 2 to 1.2
    page.wait_for_function(f"{STRIP}.includes('###.|##')")
    plan = page.evaluate(STRIP)
    page.fill("#prompt textarea", PROMPT)
    page.keyboard.press("Shift+Enter")
    page.wait_for_selector("#video img.screen")  # a preview
    held.set()
    page.wait_for_function(PLAYED)
    label = "document.querySelector('#video .strip').getAttribute('aria-label')"
    assert page.evaluate(label) == plan
    page.click("#compare")
    page.wait_for_selector("#twin video")
    page.wait_for_selector("#video .apart")
    assert re.search(r"[0-9.]+ dB from dense", page.inner_text("#video"))
    dense, cached = server.ask("/v1/videos")[1]["data"]
    assert (dense["method"], dense["remixed_from_video_id"]) == ("dense", cached["id"])
    assert dense["seed"] == cached["seed"]
    page.fill("#prompt textarea", "another")
    page.click(f"button[data-do=again][data-id={cached['id']}]")
    page.wait_for_function(f"document.querySelector('#prompt textarea').value === {PROMPT!r}")
    page.click("#make")
    page.wait_for_function("document.querySelectorAll('.cards li').length === 3")
    page.wait_for_function(PLAYED)
    newest = server.ask("/v1/videos")[1]["data"][0]
    assert server.made(newest) == server.made(cached)


@pytest.mark.slow
def test_cancel(page, server, held):
    page.fill("#prompt textarea", "a red square")
    page.click("#make")
    page.wait_for_selector("#video progress")
    page.fill("#prompt textarea", "a blue square")
    page.click("#make")  # regression: the page went on to show the first
    page.wait_for_selector("#video .state:has-text('waits')")
    (video,) = (v for v in server.ask("/v1/videos")[1]["data"] if v["prompt"] == "a blue square")
    page.click("#cancel")
    page.wait_for_selector("#video .blank")
    assert server.ask(f"/v1/videos/{video['id']}")[0] == 404
    page.wait_for_selector("#cancel", state="hidden")


@pytest.mark.slow
def test_a_mistake_reads_as_on_the_command_line(page):
    page.click("#more button")
    page.fill("#others textarea", "steps=3")
    page.wait_for_selector("#fault .fault")
    assert "did you mean num_inference_steps" in page.inner_text("#fault")


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1000, False), (390, False), (390, True)])
def test_it_has_room(browser, server, width, dark):
    server.made(server.create())
    with visited(browser, server, width=width, dark=dark) as page:
        page.wait_for_selector(".cards li")
        page.click("button[data-do=show]")
        page.wait_for_function(PLAYED)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, re.findall(r"[0-9]+", paper)[:3])) / 3
        assert (brightness < 60) == dark


@pytest.mark.slow
def test_each_token_sees_its_own_videos(browser, small_folder, tmp_path):
    (tmp_path / "tokens").write_text("ann 0123456789abcdef\nbob fedcba9876543210\n")
    with serving(
        small_folder, tmp_path / "store", *CURVE, "ui=True", f"tokens={tmp_path / 'tokens'}"
    ) as running:
        ann = {"authorization": "Bearer 0123456789abcdef"}
        for prompt in ("a red ball", "a red square"):
            body = {"prompt": prompt, "num_inference_steps": 1}
            assert running.ask("/v1/videos", body, headers=ann)[0] == 200
        assert running.ask("/page/config")[0] == 401
        large = {"content-type": "application/json"}
        assert running.ask("/login", b"x" * 5000, headers=large)[0] == 413
        for token, count in (("0123456789abcdef", 2), ("fedcba9876543210", 0)):
            with visited(browser, running) as page:
                assert page.url == f"{running.url}/login"
                page.fill("#token", token)
                page.keyboard.press("Enter")
                page.wait_for_selector("#gallery p.muted")
                assert page.locator(".cards li").count() == count


@pytest.mark.slow
def test_of_gradio_the_page_alone_is_served(server):
    assert server.ask("/page/config")[0] == 200
    for path in ("gradio_api/file=/etc/passwd", "gradio_api/proxy=http://there/", "monitoring"):
        assert server.ask(f"/page/{path}")[0] == 404
    for path in ("gradio_api/upload", "gradio_api/run/predict", "login"):
        assert server.ask(f"/page/{path}", {})[0] == 404
    large = b"0" * (server.server.largest + 1)
    assert server.ask("/page/gradio_api/queue/join", large)[0] == 413


@pytest.mark.slow
def test_made_up_clicks_do_no_harm(server, caplog):
    """What a program could send to the page's own routes."""
    join = "/page/gradio_api/queue/join"
    for body in (b"[", b"{}", b'{"data": [], "fn_index": 999, "session_hash": "a"}'):
        headers = {"content-type": "application/json"}
        assert 400 <= server.ask(join, body, headers=headers)[0] < 500
    for function in range(20):
        event = {"do": "show", "id": "../../etc/passwd"}
        body = {"data": [{}] * 12, "fn_index": function, "session_hash": "a", "event_data": event}
        assert server.ask(join, body)[0] < 500
    assert server.made(server.create())
