"""The examples of docs/serve.md, against a server."""

from __future__ import annotations

import json
import os
import pkgutil
import re
import shutil
import socket
import subprocess
import sys
import time
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


def test_the_container_copies_what_exists():
    for *copied, _ in copies():
        assert [(ROOT / name).exists() for name in copied] == [True] * len(copied)


def copies() -> list[list[str]]:
    """What each line of the container file copies, and where to."""
    return [line.split() for line in re.findall(r"^COPY (.*)", CONTAINERFILE, re.MULTILINE)]


@pytest.mark.slow
def test_what_the_container_installs_is_to_be_had(tmp_path):
    """From the files that it copies alone, in an environment with nothing; from an index."""
    source = tmp_path / "src"
    for *copied, to in copies():
        for name in copied:
            place = tmp_path / to.lstrip("/")
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, place)
            else:
                place.mkdir(exist_ok=True)
                shutil.copy(ROOT / name, place)
    (wanted,) = re.findall(r"pip install --no-cache-dir (.*?) &&", CONTAINERFILE)
    (extras,) = re.findall(r"^ARG EXTRAS=(.*)", CONTAINERFILE, re.MULTILINE)
    wanted = wanted.replace("/src", str(source)).replace("$EXTRAS", extras)
    run([sys.executable, "-m", "venv", tmp_path / "venv"], tmp_path)
    pip = f"{tmp_path / 'venv/bin/python'} -m pip install --dry-run --quiet --report report.json"
    run(["bash", "-c", f"{pip} {wanted}"], tmp_path, without=("PYTHONPATH",))
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    installed = {package["metadata"]["name"].lower() for package in report["install"]}
    assert {"wanjax", "jax", "fastapi", "uvicorn", "psycopg", "psycopg-binary"} <= installed


@pytest.mark.slow
def test_the_containers_command_serves_is_healthy_and_ends(tmp_path):
    (tmp_path / "tokens").write_text("a-token-of-the-operator")
    words = re.findall(r"^(?:ENTRYPOINT|CMD) (\[.*])", CONTAINERFILE, re.MULTILINE)
    command = [word for line in words for word in json.loads(line)]
    command = [word.replace("=/", f"={tmp_path}/") for word in command]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (check,) = re.findall(r"^HEALTHCHECK CMD (\[.*])", CONTAINERFILE, re.MULTILINE)
    check = [word.replace(":8000/", f":{port}/") for word in json.loads(check)]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *command, f"port={port}"], stderr=log, cwd=tmp_path
        )
    ends = time.monotonic() + 100
    while healthy := subprocess.run(check, capture_output=True, check=False).returncode:
        assert server.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < ends
        time.sleep(0.5)
    server.terminate()  # STOPSIGNAL SIGTERM
    assert (healthy, server.wait(60)) == (0, 0)
    assert (tmp_path / "store/jobs.db").exists()


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


def run(command, folder, without=()) -> str:
    given = {name: value for name, value in os.environ.items() if name not in without}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, env=given
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
