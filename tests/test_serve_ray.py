"""The example of docs/serve.md: two replicas of Ray Serve on this machine. One is killed."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving import Running
from test_serve_load import load

from wanjax.errors import UsageError
from wanjax.serve.jobs import Jobs
from wanjax.serve.replicas import build

PAGE = (Path(__file__).parents[1] / "docs/serve.md").read_text(encoding="utf-8")


@contextmanager
def replicas(folder: Path):
    """`serve run` with the page's file, in `folder` and at a port of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (block,) = [b for b in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "num_cpus: 1" in b]
    block = block.replace("/tmp/wanjax", str(folder)).replace("port: 8000", f"port: {port}")
    more = f"    lease: 3\n    compilation_cache: {folder / 'cache'}\n"
    block = re.sub(r"\n  args:.*\n", rf"\g<0>{more}", block)
    (folder / "wanjax.yaml").write_text(block)
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as sockets:
        own = {"RAY_TMPDIR": sockets, "RAY_USAGE_STATS_ENABLED": "0", "JAX_PLATFORMS": "cpu"}
        command = [str(Path(sys.executable).parent / "serve"), "run", "wanjax.yaml"]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                command, cwd=folder, env=os.environ | own, stdout=log, stderr=log
            )
        try:
            yield Running(None, f"http://127.0.0.1:{port}")
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def holder(store: Path) -> int:
    """The process that has a store, by the lock that it holds."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink() == store / "lock":
                return int(link.parts[2])
        except OSError:  # ended meanwhile
            continue
    raise AssertionError(f"nobody has {store}")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="The extra `ray` is missing.")
@pytest.mark.skipif(sys.platform != "linux", reason="A process is found by /proc.")
def test_a_replica_that_is_killed_leaves_its_videos_to_the_other(tmp_path):
    sent = load.make_jobs(6, 20)
    with replicas(tmp_path) as server:
        until(lambda: len(list(tmp_path.glob("replicas/*/server"))) == 2)
        until(lambda: all(server.ask("/ready")[0] == 200 for _ in range(8)))
        jobs = Jobs(f"sqlite:///{tmp_path / 'jobs.db'}")
        videos = [server.ask("/v1/videos", job)[1] for job in sent]
        until(lambda: any(0 < job.progress < 60 for job in jobs.running()))
        job = next(job for job in jobs.running() if job.progress > 0)
        stores = {
            path.read_text().strip(): path.parent for path in tmp_path.glob("replicas/*/server")
        }
        os.kill(holder(stores[job.owner]), signal.SIGKILL)
        made = [server.made(video) for video in videos]
        assert [jobs.get(v["id"]).attempts for v in videos] == [
            1 + (v["id"] == job.id) for v in videos
        ]
        again = [server.ask("/v1/videos", job)[1] for job in sent]
        assert made == [server.made(video) for video in again]
        jobs.close()


def until(true):
    ends = time.monotonic() + 300  # Ray starts two servers for a minute on two busy cores
    while True:
        try:
            if true():
                return
        except OSError:  # nobody listens yet
            pass
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_what_replicas_need():
    with pytest.raises(UsageError, match="database and files: missing"):
        build({"preset": "tiny-t2v"})
    with pytest.raises(UsageError, match="port: Ray listens"):
        build({"port": 8000})
