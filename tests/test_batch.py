"""Many videos from one command: one load, one compile, numbered files, and going on."""

from __future__ import annotations

import json

import pytest
from small_folder import SMALL_RUN

from wanjax.cli.main import main
from wanjax.config.resolve import resolve
from wanjax.errors import UsageError
from wanjax.pipeline.pipeline import WanPipeline
from wanjax.planning.batch import make_jobs

PROMPTS = "# two of them\na red ball moving left\n\na blue square\n"
NAMES = ["many-000", "many-001", "many-002", "many-003"]
ASKED = [(p, s) for p in ("a red ball moving left", "a blue square") for s in (3, 5)]


@pytest.fixture
def batch(small_folder, tmp_path, monkeypatch):
    """Runs the batch, with more arguments, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text(PROMPTS)
    model = [f"model={small_folder}", *SMALL_RUN]

    def run(*args):
        many = ["prompts=prompts.txt", "seeds=3,5", "output=out/many.mp4"]
        return main(["generate", *model, *many, *args])

    return run


def records(folder):
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def count_runs(monkeypatch, fails=lambda run: False):
    """The (prompt, seed) of each video that is started, and the pipelines that are loaded."""
    runs, pipes = [], []
    execute, load = WanPipeline.execute, WanPipeline.without_weights.__func__

    def counted(self, run, *args, **values):
        runs.append((run.config.prompt, run.config.seed))
        if fails(run):
            raise fails(run)
        return execute(self, run, *args, **values)

    def loaded(cls, config):
        pipes.append(load(cls, config))
        return pipes[-1]

    monkeypatch.setattr(WanPipeline, "execute", counted)
    monkeypatch.setattr(WanPipeline, "without_weights", classmethod(loaded))
    return runs, pipes


def test_every_prompt_with_every_seed(batch, tmp_path, monkeypatch, capsys, small_folder):
    runs, pipes = count_runs(monkeypatch)
    assert batch() == 0
    assert (runs, len(pipes)) == (ASKED, 1)
    compiled = [compilation.name for compilation in pipes[0].programs.compilations]
    assert len(compiled) == len(set(compiled)) + 1  # each program once, the projection per expert
    made = records(tmp_path / "out")
    assert list(made) == NAMES
    assert [(r["config"]["prompt"], r["config"]["seed"]) for r in made.values()] == ASKED
    said = capsys.readouterr().err
    assert "4 videos, out/many-000.mp4 to out/many-003.mp4" in said
    assert "video 4 of 4, low noise, computed" in said
    assert "24/24" in said  # one bar over all steps

    alone = ["generate", str(tmp_path / "out/many-003.json"), "output=alone.mp4"]
    assert main(alone) == 0
    assert (tmp_path / "alone.mp4").read_bytes() == (tmp_path / "out/many-003.mp4").read_bytes()
    direct = ["a blue square", "seed=5", "output=direct.mp4"]
    assert main(["generate", f"model={small_folder}", *SMALL_RUN, *direct]) == 0
    assert (tmp_path / "direct.mp4").read_bytes() == (tmp_path / "out/many-003.mp4").read_bytes()


def test_an_interrupted_batch_goes_on_where_it_stopped(batch, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop = KeyboardInterrupt()
        count_runs(patch, lambda run: stop if run.config.prompt == "a blue square" else None)
        assert batch() == 130
    assert "2 of 4 written; the same command goes on from there" in capsys.readouterr().err
    before = (tmp_path / "out/many-000.mp4").stat().st_mtime_ns
    runs, _ = count_runs(monkeypatch)
    assert batch() == 0
    assert runs == ASKED[2:]
    assert "2 there already" in capsys.readouterr().err
    assert list(records(tmp_path / "out")) == NAMES
    assert (tmp_path / "out/many-000.mp4").stat().st_mtime_ns == before
    assert batch() == 0  # nothing left to do
    assert runs == ASKED[2:]
    assert batch("overwrite") == 0
    assert runs == ASKED[2:] + ASKED


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), UsageError("no such thing")])
def test_a_failed_one_does_not_stop_the_rest(batch, tmp_path, monkeypatch, capsys, error):
    second = ASKED[1]
    with monkeypatch.context() as patch:
        count_runs(
            patch, lambda run: ((run.config.prompt, run.config.seed) == second and error) or None
        )
        assert batch("quiet") == 1
    said = capsys.readouterr().err
    assert f"out/many-001.mp4 failed: {'RuntimeError: ' * (type(error) is RuntimeError)}" in said
    assert "1 of 4 videos failed; the same command tries them again" in said
    assert list(records(tmp_path / "out")) == [NAMES[0], *NAMES[2:]]
    runs, _ = count_runs(monkeypatch)
    assert batch("quiet") == 0
    assert runs == [second]
    assert capsys.readouterr().err == ""


def test_other_files_are_left_alone(batch, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/many-002.mp4").write_text("mine")
    count_runs(monkeypatch)
    assert batch("seeds=3", "prompts=prompts.txt") == 2  # given twice
    jobs = make_jobs(resolve(["prompts=prompts.txt", "seeds=3,5", "output=out/many.mp4"]))
    assert [job.output for job in jobs] == [f"out/many-1-00{n}.mp4" for n in range(4)]
    jobs = make_jobs(resolve(["prompts=prompts.txt", "seeds=3", "output=out/many.mp4"]))
    assert [job.output for job in jobs] == ["out/many-000.mp4", "out/many-001.mp4"]


@pytest.mark.parametrize(
    ("content", "args", "text"),
    [
        ("a red ball\n | \n", [], "prompt 2 of prompts.txt: prompt is missing"),
        (
            "a red ball\nno.png | a ball\n",
            ["tiny-i2v"],
            "prompt 1 of prompts.txt: image is missing",
        ),
        ("no.png | a ball\n", ["tiny-i2v"], "prompt 1 of prompts.txt: image=no.png: no such file"),
        ("a ball\n", ["seeds="], "seeds is empty: give at least one"),
        ("a ball\n", ["quiet", "verbose"], "quiet and verbose exclude one another"),
        ("", [], "prompts=prompts.txt holds no prompt"),
    ],
)
def test_mistakes_before_anything_is_loaded(content, args, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text(content)
    with pytest.raises(UsageError, match=text):
        make_jobs(resolve(["prompts=prompts.txt", *args]))
