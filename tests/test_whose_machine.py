"""What others may read says nothing of whose machine it was: no home folder, no token."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from small_folder import SMALL_RUN

from wanjax.cli.main import main
from wanjax.config.saved import read_settings
from wanjax.files import without_home
from wanjax.serve.errors import ApiError
from wanjax.serve.logs import LOG, log_to_stderr

WHOSE, TOKEN = "ann-otherwise", "hf_neverToBeSeenAnywhere"


@pytest.fixture
def home(small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a model in it, and work going on in a folder that no name tells whose it is."""
    home = tmp_path / WHOSE
    shutil.copytree(small_folder, home / "models/small")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return home


def told(folder: Path) -> list[str]:
    """The files in which whose machine it was can be read."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    secrets = (WHOSE.encode(), TOKEN.encode())
    return [str(path) for path in files if any(s in path.read_bytes() for s in secrets)]


@pytest.mark.slow
def test_no_file_that_a_command_writes_says_whose_machine_it_was(home: Path) -> None:
    prompts = home / "mine.txt"
    prompts.write_text("a red ball\n")
    model = f"model={home}/models/small"
    assert main(["calibrate", model, *SMALL_RUN, f"prompts={prompts}", "output=c.json"]) == 0
    shutil.copy("c.json", home / "c.json")
    cached = ["use_magcache=True", f"mag_ratios_base={home}/c.json", "magcache_thresh=0.9"]
    ball = [model, *SMALL_RUN, "prompt=a red ball", "compilation_cache=False"]
    assert main(["generate", *ball, *cached, "output=a.mp4"]) == 0
    assert main(["compare", *ball, f"variants=dense,m:{';'.join(cached)}", "output=compared"]) == 0
    assert told(Path.cwd()) == []
    record = read_settings(Path("a.mp4"))  # by which it is made again
    assert record["model"] == "~/models/small"
    assert record["mag_ratios_base"] == "~/c.json"
    assert json.loads(Path("c.json").read_text())["model"] == "~/models/small"
    assert (
        "model=~/models/small" in json.loads(Path("compared/metrics.json").read_text())["command"]
    )


def test_what_a_server_logs_and_answers(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for form in ("text", "json"):
        log_to_stderr(form)
        try:
            raise ValueError(f"{home}/models/small")
        except ValueError:
            LOG.exception("failed: %s", f"{home}/a.png", extra={"folder": home / "store"})
    LOG.handlers = []
    logging.getLogger("uvicorn").handlers = []
    said = capsys.readouterr().err
    assert said.count("~/models/small") == said.count("~/a.png") == said.count("~/store") == 2
    assert WHOSE not in said
    assert ApiError(400, f"lora={home}/x: no such file").message == "lora=~/x: no such file"


def test_home_is_found_wherever_it_stands_in_a_text(home: Path) -> None:
    given = {"lora": f"{home}/a:0.5,{home}/b", "n": 3, "of": [f"'{home}'", (f"file://{home}/",)]}
    assert without_home(given) == {"lora": "~/a:0.5,~/b", "n": 3, "of": ["'~'", ("file://~/",)]}
    for other in (f"{home}s/a", f"/mnt{home}/a", f"{home}-2", f"{home}.old"):
        assert without_home(other) == other
