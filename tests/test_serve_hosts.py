"""A server in two processes, as on a slice of two hosts: one serves, the other follows."""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest
from serving import PROMPT, Running
from test_hosts import outcomes, run, small_run, two

from wanjax.media.video_files import read_video

MESH = "mesh=data:2,fsdp:2,context:2"


@pytest.mark.slow
def test_two_processes_serve_what_one_makes_and_end_together(small_folder, tmp_path):
    """Also after a video that was deleted amid its steps, which both must leave at the same one."""
    alone = tmp_path / "alone.mp4"
    keys = small_run(small_folder, MESH)
    args = ["generate", PROMPT, *keys, "seed=3", f"output={alone}"]
    one = run(*args, devices=8)
    with two("serve", *keys, "port=0", f"store={tmp_path / 'store'}") as processes:
        first, other = processes
        url = next(line.split()[2] for line in first.stderr if " at http" in line)
        server = Running(None, url.removesuffix("/v1/videos,"))
        long = server.create(num_inference_steps=100)
        video = server.create(seed=3)
        while server.show(long)["steps_done"] < 3:
            time.sleep(0.1)
        assert server.ask(f"/v1/videos/{long['id']}", method="DELETE")[0] == 200
        (tmp_path / "served.mp4").write_bytes(server.made(video))
        time.sleep(3)  # with nothing to do
        assert [process.poll() for process in processes] == [None, None]
        other.send_signal(signal.SIGTERM)  # as a cluster sends it to all
        first.send_signal(signal.SIGTERM)
        (code, _, said), followed = outcomes(processes)
    assert code == 0, said
    assert "cancelled" in said
    assert followed == (0, "", "")
    assert outcomes([one])[0][0] == 0
    np.testing.assert_array_equal(read_video(tmp_path / "served.mp4"), read_video(alone))
