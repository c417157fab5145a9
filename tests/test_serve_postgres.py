"""The queue in Postgres, of the system's packages, started here and ended again."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from serving import serving
from test_serve import slow_steps
from test_serve_load import load

from wanjax.serve.jobs import Jobs

pytest.importorskip("psycopg", reason="Postgres' client is not installed: pip install psycopg")


DOES_NOT_ANSWER = "the database does not answer: try again"


class Database(NamedTuple):
    url: str
    start: Callable[[], None]
    stop: Callable[[], None]


@pytest.fixture(scope="module")
def database():
    """A new one, on a socket of its own.

    Its folder is not pytest's, into which another user may not come: each pytest that starts closes
    the folders of all anew.
    """
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    if not found:
        pytest.skip("Postgres is not installed: `apt-get install postgresql`.")
    bin, user = Path(found[-1]), None
    if os.geteuid() == 0:  # as whom it does not run
        user = next((u for u in ("postgres", "nobody") if _is_user(u)), None)
        if user is None:
            pytest.skip("There is no user but root, as whom Postgres does not run.")
    with tempfile.TemporaryDirectory(prefix="wanjax-postgres-") as place:
        if user is not None:
            shutil.chown(place, user)
        yield from _running(bin, Path(place), user)


def _running(bin, folder, user):
    def run(*command):
        done = subprocess.run(command, user=user, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    data, options = folder / "data", f"-k {folder} -c listen_addresses="
    run(bin / "initdb", "-D", data, "-U", "wanjax", "-A", "trust")
    start = (bin / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
    stop = (bin / "pg_ctl", "-D", data, "-m", "immediate", "stop")
    run(*start)
    url = f"postgresql+psycopg://wanjax@/postgres?host={folder}"
    yield Database(url, lambda: run(*start), lambda: run(*stop))
    run(*stop)


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="The paths are those of Debian's packages.")
def test_a_queue_in_postgres(small_folder, tmp_path, database):
    given = f"database={database.url}"
    with serving(small_folder, tmp_path / "one", given, work=False) as before:
        first, second = before.create(seed=1), before.create(seed=2)
        before.die(first)
        assert before.server.jobs.told(first["id"], before.server.peers.own, 40)
    with serving(small_folder, tmp_path / "one", given) as after:
        assert after.server.peers.recovered == 1
        made = [after.made(video) for video in (first, second)]
        assert made[0] == after.made(after.create(seed=1)) != made[1]
        _, page, _ = after.ask("/v1/videos?limit=2")
        assert (len(page["data"]), page["has_more"]) == (2, True)
        assert after.ask(f"/v1/videos/{first['id']}", method="DELETE")[0] == 200
        assert after.server.jobs.counts()["completed"] == 2
    assert not (tmp_path / "one/jobs.db").exists()
    again = Jobs(database.url)
    assert again.speeds()
    again.close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="The paths are those of Debian's packages.")
def test_a_server_that_is_killed_leaves_its_videos_to_the_other(tmp_path, database):
    """Two processes on one queue; each video is made once, to the bytes it would have had."""
    sent = load.make_jobs(8, 10)
    given = [f"database={database.url}", f"files={tmp_path / 'files'}", "lease=2"]
    given.append(f"compilation_cache={tmp_path / 'cache'}")
    for name in ("killed", "lives"):
        (tmp_path / name).mkdir()
    with load.Server(tmp_path / "lives", 1, *given) as lives:
        token, jobs = lives.tokens[0], Jobs(database.url)
        with load.Server(tmp_path / "killed", 1, *given) as killed:
            ids = [killed.ask(token, "/v1/videos", job)["id"] for job in sent]
            own = (tmp_path / "killed/store/server").read_text().strip()
            while not any(job.owner == own and 0 < job.progress < 60 for job in jobs.running()):
                time.sleep(0.01)
            killed.kill()
        (left,) = (job.id for job in jobs.running() if job.owner == own)
        for video in ids:
            lives.until_done(video)
        made = [lives.contents(video) for video in ids]
        assert [jobs.get(video).attempts for video in ids] == [1 + (v == left) for v in ids]
        again = [lives.contents(video["id"]) for video in lives.make(sent)]
    assert made == again
    said = [(tmp_path / name / "log").read_text() for name in ("killed", "lives")]
    assert all("".join(said).count(f"completed video={video}") == 1 for video in ids)
    jobs.close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="The paths are those of Debian's packages.")
def test_a_database_that_is_away_for_a_while_ends_nothing(
    small_folder, tmp_path, database, monkeypatch
):
    told = slow_steps(monkeypatch, 0.1)
    with serving(small_folder, tmp_path / "store", f"database={database.url}") as server:
        video, after = server.create(num_inference_steps=20), server.create(num_inference_steps=2)
        while not told:
            time.sleep(0.01)
        database.stop()
        status, error, _ = server.ask(f"/v1/videos/{video['id']}")
        assert (status, error["error"]["message"]) == (503, DOES_NOT_ANSWER)
        while len(told) < 20:
            time.sleep(0.1)
        database.start()
        assert server.made(video) != server.made(after)
        assert server.server.jobs.get(video["id"]).attempts == 1
        assert server.ask("/health")[0] == 200
