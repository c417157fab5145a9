"""Whatever is sent is refused with a reason: no trace, the server lives, no file is touched."""

from __future__ import annotations

import base64
import io
import json
import os
import struct
import sys
import zlib

import pytest
from PIL import Image
from serving import PROMPT, serving
from small_folder import make_small_folder

SECRET = "what no client may read"


def png(width=48, height=32) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


def bomb() -> bytes:
    """A picture of a hundred bytes that says it has four billion pixels."""

    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 65535, 65535, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def inside(content: bytes) -> dict[str, str]:
    return {"image_url": "data:image/png;base64," + base64.b64encode(content).decode()}


def form(*parts: tuple[str, bytes, str]) -> tuple[bytes, dict[str, str]]:
    """A form's body and header; a part is name, content, file name (none: a field)."""
    body = b""
    for name, content, file in (("prompt", PROMPT.encode(), ""), *parts):
        filename = f'; filename="{file}"' if file else ""
        body += f'--x\r\ncontent-disposition: form-data; name="{name}"{filename}\r\n\r\n'.encode()
        body += content + b"\r\n"
    return body + b"--x--\r\n", {"content-type": "multipart/form-data; boundary=x"}


FIELDS = {
    "no prompt": {"prompt": ""},
    "prompt of spaces": {"prompt": "  "},
    "prompt a list": {"prompt": ["a"]},
    "prompt an object": {"prompt": {"a": 1}},
    "prompt null": {"prompt": None},
    "prompt with a control character": {"prompt": "a\x00b"},
    "prompt with half a character": {"prompt": "\ud800"},
    "unknown field": {"steps": 3},
    "unknown field with a long name": {"x" * 10000: 3},
    "field of the server: mesh": {"mesh": "data:2"},
    "field of the server: output": {"output": "/tmp/x.mp4"},
    "field of the server: model's folder": {"model": "/etc"},
    "field of the server: weights": {"weights_dtype": "bfloat16"},
    "field of the server: port": {"port": 1},
    "a file as calibration": {"use_magcache": True, "mag_ratios_base": "/etc/passwd"},
    "a relative file as calibration": {"use_magcache": True, "mag_ratios_base": "../x"},
    "a file that looks like a number": {"use_magcache": True, "mag_ratios_base": "1.2.3"},
    "a file as sensitivities": {"use_sen_cache": True, "sen_cache_sensitivities": "/etc/hosts"},
    "image as a path": {"image": "/etc/passwd"},
    "picture as a path": {"input_reference": "/etc/passwd"},
    "picture as a file's URL": {"input_reference": {"image_url": "file:///etc/passwd"}},
    "picture from elsewhere": {"input_reference": {"image_url": "http://169.254.169.254/"}},
    "picture by an id": {"input_reference": {"file_id": "file-1"}},
    "picture of damaged base64": {"input_reference": {"image_url": "data:image/png;base64,%%%"}},
    "picture that is none": {"input_reference": inside(b"no picture")},
    "picture that is empty": {"input_reference": inside(b"")},
    "picture cut short": {"input_reference": inside(png()[:40])},
    "picture of four billion pixels": {"input_reference": inside(bomb())},
    "picture that is a program": {"input_reference": inside(b"%!PS-Adobe-3.0\n(x) run\n")},
    "picture that is drawn": {"input_reference": inside(b"<svg xmlns='x'></svg>")},
    "picture of an example that is none": {"input_reference": {"image_url": "example:../x"}},
    "lora": {"lora": "/etc/passwd"},
    "model that is not served": {"model": "sora-2"},
    "model a number": {"model": 3},
    "size no size": {"size": "large"},
    "size huge": {"size": "99999x99999"},
    "size off the grid": {"size": "47x31"},
    "size and width": {"size": "48x32", "width": 48},
    "size null": {"size": None},
    "seconds 0": {"seconds": "0"},
    "seconds negative": {"seconds": -4},
    "seconds text": {"seconds": "long"},
    "seconds huge": {"seconds": "99999"},
    "seconds a switch": {"seconds": True},
    "seconds with a bad rate": {"seconds": "4", "fps": "x"},
    "width a text": {"width": "wide"},
    "width a fraction": {"width": 48.5},
    "width a list": {"width": [48]},
    "width a switch": {"width": True},
    "width null": {"width": None},
    "width negative": {"width": -48},
    "width enormous": {"width": 10**30},
    "more pixels than are made here": {"width": 4096, "height": 4096, "num_frames": 81},
    "frames off the grid": {"num_frames": 6},
    "frames enormous": {"num_frames": 10001, "width": 1024, "height": 1024},
    "steps 0": {"num_inference_steps": 0},
    "more steps than are made here": {"num_inference_steps": 101},
    "seed negative": {"seed": -1},
    "seed too large": {"seed": 2**32},
    "seed null": {"seed": None},
    "guidance negative": {"guidance_scale": -1},
    "guidance text": {"guidance_scale": "NaN"},
    "shift 0": {"flow_shift": 0},
    "sampler unknown": {"sampler": "ddim"},
    "boundary out of range": {"boundary_ratio": 2},
    "quality that mp4 lacks": {"video_quality": "lossless"},
    "cache unknown": {"cache": "teacache"},
    "cache a list": {"cache": ["magcache"]},
    "two caches": {"use_magcache": True, "use_sen_cache": True},
    "a setting without its cache": {"magcache_thresh": 0.1},
    "cache and its switch": {"cache": "magcache", "use_magcache": True},
    "negative prompt a number list": {"negative_prompt": [1]},
    "a prompt that is a file": {"prompt": "@/no/such", "width": -1},
}

BODIES = {
    "nothing": b"",
    "no JSON": b"prompt=a",
    "JSON cut short": b'{"prompt": "a',
    "a list": b'["a"]',
    "a number": b"3",
    "null": b"null",
    "no UTF-8": b'{"prompt": "\xff\xfe"}',
    "not a number": b'{"prompt": "a", "seed": NaN}',
    "infinity": b'{"prompt": "a", "flow_shift": Infinity}',
    "a field twice": b'{"prompt": "a", "prompt": "b"}',
    "a number of many digits": b'{"prompt": "a", "seed": ' + b"9" * 10000 + b"}",
    "deep": b"[" * 100_000,
    "deep inside": b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "larger than is read": b'{"prompt": "' + b"a" * 3 * 2**20 + b'"}',
}

FORMS = {
    "a file in no field": form(("other", b"x", "x.png")),
    "a picture that is none": form(("input_reference", b"x", "x.png")),
    "a picture twice": form(("input_reference", png(), "a"), ("input_reference", png(), "b")),
    "a field twice": form(("prompt", b"b", "")),
    "a list and a field": form(("mag_ratios_base[]", b"1", ""), ("mag_ratios_base", b"1", "")),
    "many fields": form(*[(f"f{i}", b"", "") for i in range(500)]),
    "an upload larger than is read": form(("input_reference", b"0" * 3 * 2**20, "x.png")),
    "no boundary": (b"x", {"content-type": "multipart/form-data"}),
    "another boundary": (form()[0], {"content-type": "multipart/form-data; boundary=y"}),
    "cut short": (form()[0][:60], form()[1]),
    "another type": (b"<a/>", {"content-type": "application/xml"}),
    "a form of pairs": (b"prompt=a", {"content-type": "application/x-www-form-urlencoded"}),
}

ID = "video_" + "0" * 32
PATHS = {
    "id unknown": ("GET", f"/v1/videos/{ID}"),
    "id that is none": ("GET", "/v1/videos/x"),
    "id that is a path": ("GET", "/v1/videos/..%2f..%2fjobs.db"),
    "id that is a longer path": ("GET", "/v1/videos/..%2f..%2f..%2fetc%2fpasswd/content"),
    "id with a NUL": ("GET", "/v1/videos/%00"),
    "id of a thousand characters": ("GET", "/v1/videos/" + "a" * 1000),
    "id that is a query": ("GET", "/v1/videos/'%20or%201=1--"),
    "content of nothing": ("GET", f"/v1/videos/{ID}/content"),
    "delete of nothing": ("DELETE", f"/v1/videos/{ID}"),
    "remix of nothing": ("POST", f"/v1/videos/{ID}/remix"),
    "list after nothing": ("GET", f"/v1/videos?after={ID}"),
    "list after no id": ("GET", "/v1/videos?after=x"),
    "list of none": ("GET", "/v1/videos?limit=0"),
    "list of too many": ("GET", "/v1/videos?limit=1000"),
    "list of a word": ("GET", "/v1/videos?limit=all"),
    "list in no order": ("GET", "/v1/videos?order=random"),
    "model unknown": ("GET", "/v1/models/sora-2"),
    "route unknown": ("GET", "/v1/other"),
    "a file of the server": ("GET", "/../../../../etc/passwd"),
    "method that is not there": ("PUT", "/v1/videos"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    (folder / "secret.txt").write_text(SECRET)
    return folder


@pytest.fixture(scope="module")
def servers(place):
    """One of text and one of pictures; neither makes anything."""
    text = make_small_folder(place / "t2v")
    pictures = make_small_folder(place / "i2v", image=True)
    options = {"work": False}
    with (
        serving(text, place / "store", "max_upload=2", **options) as one,
        serving(pictures, place / "pictures", "max_upload=2", **options) as other,
    ):
        yield one, other


@pytest.fixture(scope="module")
def opened():
    """Files outside the interpreter's and the package's that are opened, from here on."""
    found, watching = [], [True]

    def see(event, args):
        if watching and event == "open" and isinstance(args[0], str):
            found.append(os.path.abspath(args[0]))

    sys.addaudithook(see)
    yield found
    watching.clear()


def refusal(answer) -> str:
    """What a refused request is told; checks that it is an answer for clients."""
    status, body, headers = answer
    assert 400 <= status < 500, body
    assert headers["content-type"] == "application/json"
    assert body["error"].keys() == {"message", "type", "param", "code"}
    text = body["error"]["message"]
    assert text
    assert "\n" not in text
    whole = json.dumps(body)
    assert len(whole) < 4000
    assert SECRET not in whole
    assert "Traceback" not in whole
    return text


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS.keys())
def test_bad_fields(servers, place, opened, fields):
    for server in servers:  # what a picture is wrong with, only one that takes them looks at
        before = files(place)
        opened.clear()
        picture = {"input_reference": inside(png())} if server is servers[1] else {}
        text = refusal(server.ask("/v1/videos", {"prompt": PROMPT} | picture | fields))
        assert str(place) not in text
        assert outside(opened, place) == []
        assert files(place) == before
        assert server.ask("/health")[0] in (200, 503)


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_bad_bodies(servers, body):
    answer = servers[0].ask("/v1/videos", body, headers={"content-type": "application/json"})
    refusal(answer)


@pytest.mark.parametrize("sent", FORMS.values(), ids=FORMS.keys())
def test_bad_forms(servers, place, opened, sent):
    opened.clear()
    body, headers = sent
    refusal(servers[1].ask("/v1/videos", body, headers=headers))
    assert outside(opened, place) == []


@pytest.mark.parametrize("asked", PATHS.values(), ids=PATHS.keys())
def test_bad_paths(servers, place, opened, asked):
    opened.clear()
    method, path = asked
    body = {"prompt": "a"} if method == "POST" else None
    refusal(servers[0].ask(path, body, method=method))
    assert outside(opened, place) == []


def test_the_name_of_an_upload_is_no_path(servers, place, opened):
    before = files(place)
    opened.clear()
    body, headers = form(("input_reference", png(), f"../../{'../' * 20}tmp/x.png"))
    status, video, _ = servers[1].ask("/v1/videos", body, headers=headers)
    assert status == 200
    assert outside(opened, place) == []
    folder = place / "pictures/videos" / video["id"]
    assert files(place) - before == {str(folder), str(folder / "image.png")}


def test_there_are_many_cases():
    assert sum(map(len, (FIELDS, BODIES, FORMS, PATHS))) > 100


def files(folder) -> set[str]:
    """All but SQLite's own, which come and go."""
    return {str(path) for path in folder.rglob("*") if "jobs.db" not in path.name}


def outside(opened, place) -> list[str]:
    """What was opened elsewhere than in the stores, but for what Python and the package read."""
    own = (os.path.dirname(os.__file__), sys.prefix, sys.base_prefix, "/proc", "/dev")
    package = os.path.dirname(os.path.abspath(sys.modules["wanjax"].__file__))
    stores = (str(place / "store"), str(place / "pictures"), str(place / "t2v"), str(place / "i2v"))
    return [path for path in opened if not path.startswith((*own, package, *stores))]
