"""The examples of docs/serve.md, against a server."""

from __future__ import annotations

import json
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from serving import serving

from wanjax.config.resolve import resolve
from wanjax.serve.replicas import build

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/serve.md").read_text(encoding="utf-8")
CONTAINERFILE = (ROOT / "Containerfile").read_text(encoding="utf-8")


def example(language: str, of: str, url: str) -> str:
    (block,) = [b for b in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if of in b]
    return block.replace("http://localhost:8000", url).replace("localhost:8000", url)


def test_the_files_for_ray_and_kubernetes_and_the_container_name_what_exists():
    blocks = [yaml.safe_load(b) for b in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
    ray, kuberay = blocks[0], yaml.safe_load(blocks[1]["spec"]["serveConfigV2"])
    for (application,) in (ray["applications"], kuberay["applications"]):
        assert pkgutil.resolve_name(application["import_path"]) is build
        assert [deployment["name"] for deployment in application["deployments"]] == ["wanjax"]
        given = [f"{name}={value}" for name, value in application["args"].items()]
        config = resolve(given, "serve")
        assert config.database.partition(":")[0] in ("sqlite", "postgresql+psycopg")
    lines = re.findall(r"^(?:ENTRYPOINT|CMD) (\[.*])", CONTAINERFILE, re.MULTILINE)
    command, serve, *keys = [word for line in lines for word in json.loads(line)]
    assert (command, serve) == ("wanjax", "serve")
    assert resolve(keys, "serve").preset == "tiny-t2v"


@pytest.fixture(scope="module")
def server(small_folder, tmp_path_factory):
    cached = ["use_magcache=True", f"mag_ratios_base={[1.0] * 40}"]
    with serving(small_folder, tmp_path_factory.mktemp("store"), *cached) as running:
        yield running


@pytest.mark.slow
def test_the_example_in_python(server, tmp_path):
    code = example("python", "openai", server.url)
    told = run([sys.executable, "-W", "ignore", "-c", code], tmp_path)
    assert told.startswith("completed #")
    assert (tmp_path / "ball.mp4").stat().st_size > 1000


@pytest.mark.slow
def test_the_example_in_javascript(server, tmp_path):
    if shutil.which("node") is None:
        pytest.skip("There is no Node here.")
    (tmp_path / "example.mjs").write_text(example("js", "fetch", server.url))
    told = run(["node", "example.mjs"], tmp_path)
    assert "completed 100 %" in told
    assert re.search(r"\d{4,} bytes", told)


@pytest.mark.slow
def test_the_examples_with_curl(server, tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("There is no curl here.")
    code = example("sh", "curl -X", server.url)
    create, *rest = code.replace("\\\n", " ").splitlines()
    video = re.search(r"video_[0-9a-f]{32}", run(["bash", "-c", create], tmp_path))
    assert video is not None
    server.wait({"id": video[0]})
    for line in rest:
        answer = run(["bash", "-c", line.replace("video_...", video[0])], tmp_path)
        assert "error" not in answer or '"error":null' in answer
    assert (tmp_path / "ball.mp4").stat().st_size > 1000
    assert server.ask(f"/v1/videos/{video[0]}")[0] == 404


def run(command, folder) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
