"""What a server does under load, against calling the pipeline in a loop.

python benchmarks/serving.py [jobs=200] [clients=8] [steps=20] [long=True] [rounds=1] [loop=False]
    [paced=GFLOPS] [output=FILE.json]
python benchmarks/serving.py kills=10 [jobs=16] [steps=20]

Starts `wanjax serve` in a process of its own. Clients with a token each send videos of mixed
settings (dense, MagCache, forecast; two sizes) all at once and look at them as often as they are
told to. Reported: videos lost and made twice, how fair the order was, how often the programs
changed, the time told after two steps against the truth (apart for the first video of each kind,
whose programs are cold), the process's memory after 50 and after all videos, and the seconds from
the first to the last video against those of the same videos in a loop over the pipeline that
writes the same files: each with its record. On a machine that does other things, too, `rounds=4`
has both make a quarter of the videos in turns. How far the loop's videos are from the median of
their kind says what a time can be told to at best there. `long=True` takes larger videos: 10 to 20
s each, where the others take half a second. With `paced=2.5` the server computes at that pace,
however busy the machine is (see `paced.py`): what is left of the errors is the server's own, as
long as few results were late.

With `kills` the server is killed (SIGKILL) so often at random moments with all videos in its
queue, and started again; then their bytes are compared with those of a server that was not.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

_ANEW = ("compilation_cache=False",)  # as in the loop
LATE = "the device was late"  # as the log of a paced server says
_PACED = str(Path(__file__).with_name("paced.py"))
_IDLE = 1.0  # seconds; between two videos of a full queue there are hundredths
_READY, _ALIVE = 0.7, 3.0  # share of kills after loading; seconds until one, at most
PROMPTS = ("a red ball moving right", "a blue square moving left")
KINDS: tuple[dict[str, Any], ...] = (
    {"cache": "none"},
    {"cache": "magcache"},
    {"cache": "forecast", "target_speedup": 2},
    {"cache": "none", "size": "48x48"},
)
LONG: tuple[dict[str, Any], ...] = (
    {"cache": "none", "size": "128x128", "num_frames": 49},
    {"cache": "none", "size": "160x160", "num_frames": 49},
    {"cache": "magcache", "size": "192x192", "num_frames": 49},
    {"cache": "forecast", "target_speedup": 2, "size": "192x192", "num_frames": 49},
)


def main(args: Sequence[str]) -> dict[str, Any]:
    given = dict(arg.split("=", 1) for arg in args)
    jobs = int(given.get("jobs", 16 if "kills" in given else 200))
    kinds = LONG if given.get("long") == "True" else KINDS
    clients = int(given.get("clients", 8))
    sent = make_jobs(jobs, int(given.get("steps", 20)), kinds)
    with tempfile.TemporaryDirectory() as folder:
        if "kills" in given:
            found = killed(sent, int(given["kills"]), Path(folder))
        else:
            rounds = int(given.get("rounds", 1))
            loop, paced = given.get("loop") != "False", given.get("paced")
            found = loaded(sent, clients, Path(folder), rounds, loop, paced)
    found |= {"load": os.getloadavg()[0], "cores": os.cpu_count()}
    print(json.dumps(found, indent=2))
    if "output" in given:
        Path(given["output"]).write_text(json.dumps(found, indent=2) + "\n")
    return found


def loaded(
    sent: Sequence[dict[str, Any]],
    clients: int,
    folder: Path,
    rounds: int,
    against_loop: bool,
    paced: str | None = None,
) -> dict[str, Any]:
    """The videos by a server, and in a loop: in turns, so that both meet the same machine."""
    loop, made, spent = Loop() if against_loop else None, [], Counter[str]()
    with Server(folder, clients, *_ANEW, paced=paced) as server:
        most = -(-len(sent) // rounds)
        for part in (sent[i : i + most] for i in range(0, len(sent), most)):
            before = server.cpu_seconds()
            found = server.make(part)
            spent["served_seconds"] += span(found)
            spent["served_cpu_seconds"] += server.cpu_seconds() - before
            made += found
            if loop is not None:
                wall, cpu = time.perf_counter(), time.process_time()
                loop.make(part)
                spent["loop_seconds"] += time.perf_counter() - wall
                spent["loop_cpu_seconds"] += time.process_time() - cpu
        late = late_by(server.log.read_text())
        report = judge(sent, made, late) | server.memory_report() | {"clients": clients}
    report |= {name: round(seconds, 2) for name, seconds in spent.items()}
    if paced is not None:
        report["late_videos"] = len(late)
    if loop is None:
        return report
    return report | {
        "rounds": rounds,
        "throughput": round(spent["loop_seconds"] / spent["served_seconds"], 3),
        "loop_seconds_each": loop.seconds_each(spent["loop_seconds"]),
        "loop_within_5_percent_of_its_median": loop.alike(),
    }


def killed(sent: Sequence[dict[str, Any]], kills: int, folder: Path) -> dict[str, Any]:
    """The videos by a server that is left alone, and by one that is killed again and again."""
    rng, moments = random.Random(1), []
    cache = f"compilation_cache={folder / 'cache'}"
    for name in ("whole", "killed"):
        (folder / name).mkdir()
    with Server(folder / "whole", 1, cache) as server:
        whole = [server.contents(video["id"]) for video in server.make(sent)]
    with Server(folder / "killed", 1, cache) as server:
        token = server.tokens[0]
        ids = [server.ask(token, "/v1/videos", job)["id"] for job in sent]
        for _ in range(kills):
            if rng.random() < _READY:
                server.until_ready()
            time.sleep(rng.uniform(0.0, _ALIVE))
            server.kill()
            moments.append(server.states())
            server.start()
        server.until_ready()
        for video in ids:
            server.until_done(video)
        made = [server.contents(video) for video in ids]
        listed = server.ask(token, "/v1/videos?limit=100")["data"]
    return {
        "jobs": len(sent),
        "kills": kills,
        "killed_amid_a_video": sum("in_progress" in states for states in moments),
        "done_at_each_kill": [states.get("completed", 0) for states in moments],
        "lost": len(sent) - sum(video["status"] == "completed" for video in listed),
        "doubled": len(listed) - len(set(ids)),
        "other_bytes": sum(a != b for a, b in zip(made, whole, strict=True)),
    }


def make_jobs(
    count: int, steps: int, kinds: Sequence[dict[str, Any]] = KINDS
) -> list[dict[str, Any]]:
    """Requests of mixed settings, the same ones each time."""
    rng = random.Random(0)
    choices = [rng.choice(kinds) for _ in range(count)]
    return [
        kind | {"prompt": PROMPTS[i % 2], "seed": i, "num_inference_steps": steps}
        for i, kind in enumerate(choices)
    ]


class Server:
    """`wanjax serve` and its clients, a thread each."""

    def __init__(self, folder: Path, clients: int, *args: str, paced: str | None = None):
        self.tokens = [f"client-{number}-0123456789" for number in range(clients)]
        (folder / "tokens").write_text("\n".join(self.tokens))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        wanjax = ["-m", "wanjax"] if paced is None else [_PACED, paced]
        self.command = [sys.executable, *wanjax, "serve", "tiny-t2v", f"port={port}"]
        self.store = folder / "store"
        self.command += [f"store={self.store}", f"tokens={folder / 'tokens'}", *args]
        self.log = folder / "log"
        self.memory: dict[int, float] = {}
        self._made = 0
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
        if answer.headers.get_content_subtype() != "json":
            return content
        found = json.loads(content)
        if "openai-poll-after-ms" in answer.headers:
            found["poll_after"] = int(answer.headers["openai-poll-after-ms"]) / 1000
        return found

    def contents(self, video: str) -> bytes:
        content: bytes = self.ask(self.tokens[0], f"/v1/videos/{video}/content")
        return content

    def until_done(self, video: str) -> None:
        while True:
            found = self.ask(self.tokens[0], f"/v1/videos/{video}")
            assert found["status"] != "failed", found
            if found["status"] == "completed":
                return
            time.sleep(found["poll_after"])

    def states(self) -> Counter[str]:
        """How many videos are in each state, as the store of a server that is dead has it."""
        with contextlib.closing(sqlite3.connect(self.store / "jobs.db")) as database:
            return Counter(state for (state,) in database.execute("select state from jobs"))

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
                self._measure(self._made + sum(map(bool, found)))
                time.sleep(video["poll_after"])

        threads = [threading.Thread(target=client, args=(n,)) for n in range(len(self.tokens))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._made += len(jobs)
        return found

    def cpu_seconds(self) -> float:
        """Of the server's process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

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


def late_by(log: str) -> dict[str, float]:
    """Seconds by which this machine was later than the paced device, of each such video.

    A video's results stand in the log before its completion; the first one has those of warming up.
    """
    late, found = 0.0, {}
    for line in log.splitlines():
        if line.startswith(LATE):
            late += float(line.split()[5])
        elif late and (completed := re.search(r"completed .*video=(\S+)", line)):
            found[completed[1]], late = round(late, 3), 0.0
    return found


def judge(
    sent: Sequence[dict[str, Any]], made: Sequence[dict[str, Any]], late: Mapping[str, float]
) -> dict[str, Any]:
    """Lost, doubled, fair, in which order, when it was said to be there."""
    done = [video for video in made if video["status"] == "completed"]
    order = sorted(done, key=lambda video: video["started_at"])
    kinds = [(video["size"], video["method"]) for video in order]
    known, cold, errors = set[tuple[str, str]](), [], []
    for kind, video in zip(kinds, order, strict=True):
        if video["predicted_time_s"] is not None:
            error = abs(video["predicted_time_s"] / video["inference_time_s"] - 1)
            (errors if kind in known else cold).append(error)
        known.add(kind)  # its programs have run
    return {
        "jobs": len(sent),
        "completed": len(done),
        "lost": len(sent) - len(done),
        "doubled": len(done) - len({video["id"] for video in done}),
        "changes_of_programs": sum(a != b for a, b in itertools.pairwise(kinds)),
        "kinds": len(set(kinds)),
        "unfairness_seconds": round(unfairness(order), 2),
        "eta_error_median": round(statistics.median(errors), 4),
        "eta_error_90": round(statistics.quantiles(errors, n=10)[-1], 4),
        "eta_within_5_percent": within_5_percent(errors),
        "eta_errors_cold": [round(error, 3) for error in cold],
        "eta_worst": worst(order, late),
        "seconds_each": seconds_each(order),
    }


def within_5_percent(errors: Sequence[float]) -> float:
    return round(sum(error <= 0.05 for error in errors) / len(errors), 3)


def span(made: Sequence[dict[str, Any]]) -> float:
    """Seconds from the begin of the first video to the end of the last."""
    ended = max(video["started_at"] + video["inference_time_s"] for video in made)
    begun: float = min(video["started_at"] for video in made)
    return ended - begun


def worst(order: Sequence[dict[str, Any]], late: Mapping[str, float], most: int = 8) -> list[str]:
    """Whose times were told worst: which video of its kind it was, both times, how late it was."""
    known: Counter[str] = Counter()
    told = []
    for video in order:
        kind = f"{video['method']} {video['size']}"
        known[kind] += 1
        if video["predicted_time_s"] is not None:
            predicted, took = video["predicted_time_s"], video["inference_time_s"]
            text = f"{kind}, number {known[kind]}: {predicted:.3f} for {took:.3f} s"
            if video["id"] in late:
                text += f", late by {late[video['id']]:.3f}"
            told.append((abs(predicted / took - 1), text))
    return [text for _, text in sorted(told, reverse=True)[:most]]


def seconds_each(order: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What a video has cost on average: its stages, the rest of its time, the time between two."""
    stages: Counter[str] = Counter()
    for video in order:
        stages.update(video["stage_durations"])
        stages["around"] += video["inference_time_s"] - sum(video["stage_durations"].values())
    for before, after in itertools.pairwise(order):
        stages["between"] += after["started_at"] - before["started_at"] - before["inference_time_s"]
    return {name: round(seconds / len(order), 4) for name, seconds in stages.items()}


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


class Loop:
    """The same videos by the pipeline alone, one after another, each to a file with its record."""

    def __init__(self) -> None:
        from wanjax.config.resolve import resolve
        from wanjax.pipeline.pipeline import WanPipeline

        self.config = resolve(["tiny-t2v", *_ANEW], "show")
        self.pipe = WanPipeline.from_config(self.config)
        self.pipe("a red ball", num_inference_steps=20)  # compiles, as a server does at its start
        self.planned: dict[str, Any] = {}
        self.took: dict[str, list[float]] = {}  # seconds of each video of the same settings
        self.stages: Counter[str] = Counter()
        self.count = 0

    def make(self, jobs: Sequence[dict[str, Any]]) -> None:
        from wanjax.config.resolve import resolve
        from wanjax.planning.run import prepare
        from wanjax.serve.requests import read_request

        with tempfile.TemporaryDirectory() as folder:
            for i, job in enumerate(jobs):
                values = read_request(job, self.config).values
                output = f"{folder}/{i}.mp4"
                settings = {n: v for n, v in values.items() if n not in ("prompt", "seed")}
                known = json.dumps(settings)
                if known not in self.planned:
                    named = values | {"output": output}
                    self.planned[known] = prepare(resolve(["tiny-t2v"], "generate", named))
                run = self.planned[known]
                own = {"prompt": values["prompt"], "seed": values["seed"], "output": output}
                began = time.perf_counter()
                self._make_one(replace(run, config=replace(run.config, **own)))
                self.took.setdefault(known, []).append(time.perf_counter() - began)

    def _make_one(self, run: Any) -> None:
        from wanjax.files import write_json
        from wanjax.pipeline.inputs import Prompts
        from wanjax.pipeline.record import make_record, make_tags

        config = run.config
        video = self.pipe.with_config(config).execute(
            run,
            Prompts(config.prompt, config.negative_prompt),
            self.pipe.frames(None, None),
            seed=config.seed,
        )
        saving = time.perf_counter()
        (file,) = video.save(config.output, tags=make_tags(config))
        write_json(Path(config.output).with_suffix(".json"), make_record(config, video, file))
        self.stages.update(video.timings.stages)
        self.stages["compile"] += video.timings.compile
        self.stages["save"] += time.perf_counter() - saving
        self.count += 1

    def alike(self) -> float:
        """The share of videos, but for the first of each kind, so near to their kind's median."""
        apart = []
        for _, *took in self.took.values():
            apart += [abs(seconds / statistics.median(took) - 1) for seconds in took]
        return within_5_percent(apart)

    def seconds_each(self, whole: float) -> dict[str, float]:
        """Of each stage, per video, and what is left of the `whole`."""
        stages = dict(self.stages) | {"around": whole - sum(self.stages.values())}
        return {name: round(spent / self.count, 4) for name, spent in stages.items()}


if __name__ == "__main__":
    main(sys.argv[1:])
