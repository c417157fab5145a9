"""What a server does under load, against calling the pipeline in a loop.

python benchmarks/serving.py [jobs=200] [clients=8] [steps=20] [output=FILE.json]

Starts `wanjax serve` in a process of its own. Clients with a token each send videos of mixed
settings (dense, MagCache, forecast; two sizes) all at once and wait for them. Reported: videos lost
and made twice, how fair the order was, how often the programs changed, the time told after two
steps against the truth, the process's memory after 50 and after all videos, and the seconds from
the first to the last video against those of the same videos in a loop over the pipeline.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ANEW = ("compilation_cache=False",)  # as in the loop
PROMPTS = ("a red ball moving right", "a blue square moving left")
KINDS: tuple[dict[str, Any], ...] = (
    {"cache": "none"},
    {"cache": "magcache"},
    {"cache": "forecast", "target_speedup": 2},
    {"cache": "none", "size": "48x48"},
)


def main(args: Sequence[str]) -> dict[str, Any]:
    given = dict(arg.split("=", 1) for arg in args)
    jobs, clients = int(given.get("jobs", 200)), int(given.get("clients", 8))
    sent = make_jobs(jobs, int(given.get("steps", 20)))
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder), clients, *_ANEW) as server:
        made = server.make(sent)
        found = judge(sent, made) | server.memory_report()
    seconds = loop(sent)
    found |= {"loop_seconds": round(seconds, 2), "throughput": seconds / found["served_seconds"]}
    found |= {"clients": clients, "load": os.getloadavg()[0], "cores": os.cpu_count()}
    print(json.dumps(found, indent=2))
    if "output" in given:
        Path(given["output"]).write_text(json.dumps(found, indent=2) + "\n")
    return found


def make_jobs(count: int, steps: int) -> list[dict[str, Any]]:
    """Requests of mixed settings, the same ones each time."""
    rng = random.Random(0)
    choices = [rng.choice(KINDS) for _ in range(count)]
    return [
        kind | {"prompt": PROMPTS[i % 2], "seed": i, "num_inference_steps": steps}
        for i, kind in enumerate(choices)
    ]


class Server:
    """`wanjax serve` and its clients, a thread each."""

    def __init__(self, folder: Path, clients: int, *args: str):
        self.tokens = [f"client-{number}-0123456789" for number in range(clients)]
        (folder / "tokens").write_text("\n".join(self.tokens))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.command = [sys.executable, "-m", "wanjax", "serve", "tiny-t2v", f"port={port}"]
        self.command += [f"store={folder / 'store'}", f"tokens={folder / 'tokens'}", *args]
        self.log = folder / "log"
        self.memory: dict[int, float] = {}
        self.start()

    def start(self) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(self.command, stderr=log)

    def kill(self) -> None:
        """As a power cut would, or a system that is out of memory."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Server:
        self.until_ready()
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait(60)

    def until_ready(self) -> None:
        self.until_answering("/ready")

    def until_answering(self, path: str = "/health") -> None:
        while True:
            try:
                urllib.request.urlopen(f"{self.url}{path}", timeout=5)
                return
            except OSError:  # refused, or too busy to answer
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(0.1)

    def ask(self, token: str, path: str, body: Any = None) -> Any:
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, content, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            content = answer.read()
        return json.loads(content) if answer.headers.get_content_subtype() == "json" else content

    def make(self, jobs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """All jobs, from all clients at once; what became of each."""
        found: list[dict[str, Any]] = [{}] * len(jobs)
        sent = threading.Barrier(len(self.tokens))

        def client(number: int) -> None:
            token, mine = self.tokens[number], range(number, len(jobs), len(self.tokens))
            ids = {i: self.ask(token, "/v1/videos", jobs[i])["id"] for i in mine}
            sent.wait()
            while waiting := [i for i in mine if not found[i]]:
                for i in waiting:
                    video = self.ask(token, f"/v1/videos/{ids[i]}")
                    if video["status"] not in ("completed", "failed"):
                        break  # the others of this client are not done either, as a rule
                    found[i] = video | {"client": number}
                self._measure(sum(map(bool, found)))
                time.sleep(0.5)

        threads = [threading.Thread(target=client, args=(n,)) for n in range(len(self.tokens))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    def _measure(self, done: int) -> None:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                self.memory[done] = int(line.split()[1]) / 1024

    def memory_report(self) -> dict[str, float]:
        """MiB that the process held after 50 videos (or half of them), and after all."""
        last = max(self.memory)
        at = min((n for n in self.memory if n >= min(50, last // 2)), default=last)
        return {
            "memory_mib_early": round(self.memory[at]),
            "memory_mib_late": round(self.memory[last]),
        }


def judge(sent: Sequence[dict[str, Any]], made: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Lost, doubled, fair, in which order, when it was said to be there."""
    done = [video for video in made if video["status"] == "completed"]
    order = sorted(done, key=lambda video: video["started_at"])
    kinds = [(video["size"], video["method"]) for video in order]
    errors = [
        abs(v["predicted_time_s"] / v["inference_time_s"] - 1)
        for v in order
        if v["predicted_time_s"] is not None
    ]
    begun = order[0]["started_at"]
    ended = max(video["started_at"] + video["inference_time_s"] for video in order)
    return {
        "jobs": len(sent),
        "completed": len(done),
        "lost": len(sent) - len(done),
        "doubled": len(done) - len({video["id"] for video in done}),
        "served_seconds": round(ended - begun, 2),
        "changes_of_programs": sum(a != b for a, b in itertools.pairwise(kinds)),
        "kinds": len(set(kinds)),
        "unfairness_seconds": round(unfairness(order), 2),
        "eta_error_median": round(statistics.median(errors), 4),
        "eta_error_90": round(statistics.quantiles(errors, n=10)[-1], 4),
        "eta_within_5_percent": round(sum(e <= 0.05 for e in errors) / len(errors), 3),
    }


def unfairness(order: Sequence[dict[str, Any]]) -> float:
    """The most seconds of the server that a client ever had more than another that waited."""
    left = Counter(video["client"] for video in order)
    had = dict.fromkeys(left, 0.0)
    most = 0.0
    for video in order:
        had[video["client"]] += video["inference_time_s"]
        left[video["client"]] -= 1
        waiting = [seconds for client, seconds in had.items() if left[client]]
        if waiting:
            most = max(most, max(had.values()) - min(waiting))
    return most


def loop(jobs: Sequence[dict[str, Any]]) -> float:
    """Seconds of the same videos by the pipeline alone, each written to a file."""
    from wanjax.config.resolve import resolve
    from wanjax.pipeline.inputs import Prompts
    from wanjax.pipeline.pipeline import WanPipeline
    from wanjax.planning.run import prepare
    from wanjax.serve.requests import read_request

    config = resolve(["tiny-t2v", *_ANEW], "show")
    pipe = WanPipeline.from_config(config)
    with tempfile.TemporaryDirectory() as folder:
        pipe("a red ball", num_inference_steps=20).save(f"{folder}/first.mp4")  # as a server does
        began = time.perf_counter()
        planned: dict[str, Any] = {}
        for i, job in enumerate(jobs):
            values = read_request(job, config).values
            own = values | {"output": f"{folder}/{i}.mp4"}
            settings = json.dumps({n: v for n, v in values.items() if n not in ("prompt", "seed")})
            if settings not in planned:
                planned[settings] = prepare(resolve(["tiny-t2v"], "generate", own))
            video = pipe.with_config(planned[settings].config).execute(
                planned[settings],
                Prompts(values["prompt"], config.negative_prompt),
                pipe.frames(None, None),
                seed=values["seed"],
            )
            video.save(own["output"])
        return time.perf_counter() - began


if __name__ == "__main__":
    main(sys.argv[1:])
