"""The notebooks of the documentation, executed: every cell but those that need a TPU."""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs/notebooks").glob("*.ipynb"))


def read(path: Path):
    return nbformat.read(path, as_version=4)


def needs_a_tpu(cell) -> bool:
    return "tpu" in cell.metadata.get("tags", ())


def run(path: Path, folder: Path):
    """The notebook without the cells that need a TPU, executed in `folder`."""
    notebook = read(path)
    notebook.cells = [cell for cell in notebook.cells if not needs_a_tpu(cell)]
    nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return notebook


def shown(notebook, kind: str) -> list[str]:
    """All outputs of a media type."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output["data"][kind] for output in outputs if kind in output.get("data", ())]


def printed(notebook) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(o["text"] for o in outputs if o["output_type"] == "stream")


@pytest.mark.slow
def test_the_first_hour(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "default")  # a kernel's own are no concern of ours
    notebook = run(NOTEBOOKS[0], tmp_path)
    assert sum("<video" in html for html in shown(notebook, "text/html")) == 5
    assert len(shown(notebook, "image/svg+xml")) == 3  # a plan, two curves
    assert len(shown(notebook, "image/png")) == 2  # a frame, the previews
    text = printed(notebook)
    assert "Plan(forecast: " in text
    assert "dB from dense" in text
    lines = [line for line in text.splitlines() if not line.startswith("\r")]
    assert max(map(len, lines)) < 400  # nothing floods the page


@pytest.mark.slow
def test_the_notebook_for_a_tpu_runs_up_to_what_needs_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    notebook = run(NOTEBOOKS[1], tmp_path)
    assert any("<video" in html for html in shown(notebook, "text/html"))
    assert "True" in printed(notebook)


def test_what_needs_a_tpu_is_marked_and_said():
    first, tpu = map(read, NOTEBOOKS)
    assert [path.stem for path in NOTEBOOKS] == ["first_hour", "tpu"]
    assert not any(needs_a_tpu(cell) for cell in first.cells)
    for number, cell in enumerate(tpu.cells):
        if needs_a_tpu(cell):
            assert "Needs a TPU" in tpu.cells[number - 1].source
    for cell in tpu.cells:
        large = "from_pretrained" in cell.source and "tiny" not in cell.source
        assert needs_a_tpu(cell) or not large


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path):
    """They would go stale, and fill the history."""
    assert [cell for cell in read(path).cells if cell.get("outputs")] == []
