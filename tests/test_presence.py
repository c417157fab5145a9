"""Models refused by their files' names, before they are read or fetched; what is already here."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import DryRunError, LocalEntryNotFoundError

from wanjax.checkpoints.hub import download
from wanjax.checkpoints.presence import commit_of, presence, require_folder, require_weights
from wanjax.cli.main import main
from wanjax.config.resolve import resolve
from wanjax.config.saved import kept
from wanjax.errors import CheckpointError
from wanjax.media.tokenizer import Tokenizer
from wanjax.planning.run import prepare

WAN = {
    "model_index.json": json.dumps({"_class_name": "WanPipeline", "transformer": ["d", "W"]}),
    "tokenizer/tokenizer.json": "{}",
} | {
    f"{part}/{name}": ""
    for part in ("transformer", "vae", "text_encoder")
    for name in ("config.json", "model.safetensors")
}
TOKENIZER = ("tokenizer.json", "spiece.model")
SHARDS = ("config.json", "diffusion_pytorch_model.safetensors")
ORIGINALS = {
    "the original layout": (["Wan2.1_VAE.pth", "config.json"], "layout of Wan-AI without all of"),
    "two original experts": (
        ["high_noise_model/model.safetensors", "models_t5_umt5-xxl-enc-bf16.pth"],
        "the original layout of Wan-AI without all of its files",
    ),
}
OTHERS = {
    "ComfyUI": (["split_files/vae/wan.safetensors"], "shows ComfyUI's layout"),
    "GGUF": (["wan2.2-Q4_K_M.gguf"], "wan2.2-Q4_K_M.gguf shows GGUF"),
    "anything": (["model.safetensors"], "there is no model_index.json"),
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@dataclass
class FakeHub:
    """A repository on a Hub, and what was fetched of it."""

    folder: Path
    files: dict[str, str] = field(default_factory=lambda: dict(WAN))
    sizes: dict[str, int] = field(default_factory=dict)
    reachable: bool = True
    fetched: list[str] = field(default_factory=list)
    revisions: set[str | None] = field(default_factory=set)  # that were asked for

    def snapshot_download(
        self,
        repo_id,
        *,
        revision=None,
        allow_patterns=None,
        ignore_patterns=None,
        dry_run=False,
        tqdm_class=None,
    ):
        self.revisions.add(revision)
        if dry_run:
            if not self.reachable:
                raise DryRunError("no connection")
            return [
                SimpleNamespace(
                    filename=name,
                    file_size=self.sizes.get(name, len(text)),
                    will_download=not (self.folder / name).exists(),
                )
                for name, text in self.files.items()
            ]
        if not self.reachable and not self.folder.exists():
            raise LocalEntryNotFoundError("no connection, and nothing here")
        left = {n for n in self.files for p in ignore_patterns or () if fnmatch(n, p)}
        left |= {n for n in self.files if not any(fnmatch(n, p) for p in allow_patterns)}
        wanted = {name: text for name, text in self.files.items() if name not in left}
        self.fetched += wanted
        return str(write(self.folder, wanted))

    def hf_hub_download(self, repo_id, filename, *, revision=None):
        self.revisions.add(revision)
        self.fetched.append(filename)
        write(self.folder, {filename: self.files[filename]})
        return str(self.folder / filename)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "snapshot")
    for name in ("snapshot_download", "hf_hub_download"):
        monkeypatch.setattr(huggingface_hub, name, getattr(fake, name))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return fake


def test_a_repository_of_ours_is_fetched(hub):
    assert download("someone/wan") == hub.folder
    assert set(hub.fetched) == set(WAN)


def test_nothing_but_safetensors_json_and_tokenizers_is_fetched(hub):
    hub.files |= dict.fromkeys(["x.py", "x.bin", "vae/x.pth", "x.exe", "README.md", "x.pkl"], "")
    assert download("someone/wan", revision="v1.0") == hub.folder
    assert set(hub.fetched) == set(WAN)
    assert hub.revisions == {"v1.0"}


def test_parts_that_are_here_are_not_fetched(hub):
    """Nor are they looked for there, nor does the disk need room for them."""
    hub.sizes = {"transformer/model.safetensors": 10**18}
    del hub.files["vae/model.safetensors"]
    assert download("someone/wan", without=["transformer", "vae"]) == hub.folder
    assert set(hub.fetched) == {name for name in hub.files if "transformer/model" not in name}


@pytest.mark.parametrize(
    ("names", "text"), [*ORIGINALS.values(), *OTHERS.values()], ids=[*ORIGINALS, *OTHERS]
)
def test_another_layout_is_refused_with_nothing_fetched(hub, names, text):
    hub.files = dict.fromkeys(names, "")
    with pytest.raises(CheckpointError, match=text):
        download("someone/wan")
    assert hub.fetched == []


def test_another_pipeline_is_refused_by_its_index_alone(hub):
    hub.files |= {"model_index.json": json.dumps({"_class_name": "FluxPipeline"})}
    with pytest.raises(CheckpointError, match=r"_class_name.*FluxPipeline"):
        download("someone/flux")
    assert hub.fetched == ["model_index.json"]


def test_a_repository_that_lacks_a_part_is_refused(hub):
    del hub.files["vae/model.safetensors"]
    hub.files["vae/model.bin"] = ""
    with pytest.raises(CheckpointError, match=r"someone/wan is not whole: it lacks vae/\*\.safe"):
        download("someone/wan")
    assert hub.fetched == ["model_index.json"]


def test_a_download_that_the_disk_has_no_room_for(hub, monkeypatch):
    hub.sizes = {"transformer/model.safetensors": 57 * 10**9}
    usage = shutil.disk_usage("/")._replace(free=40 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match=r"57\.0 GB are to be .* has 40\.0 GB free.*HF_HOME"):
        download("someone/wan")
    assert hub.fetched == ["model_index.json"]


def test_what_is_here_needs_no_room(hub, monkeypatch):
    hub.sizes = {"transformer/model.safetensors": 57 * 10**9}
    write(hub.folder, WAN)
    usage = shutil.disk_usage("/")._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert download("someone/wan") == hub.folder


def test_without_a_connection_what_is_here_is_taken(hub):
    write(hub.folder, WAN)
    hub.reachable = False
    assert download("someone/wan") == hub.folder


def test_without_a_connection_and_nothing_here(hub):
    hub.reachable = False
    with pytest.raises(CheckpointError, match="hf download someone/wan --local-dir"):
        download("someone/wan")


AUTHORS = dict.fromkeys(
    [
        *(f"{expert}_noise_model/{name}" for expert in ("high", "low") for name in SHARDS),
        "Wan2.1_VAE.pth",
        "models_t5_umt5-xxl-enc-bf16.pth",
        *(f"google/umt5-xxl/{name}" for name in TOKENIZER),
    ],
    "",
)
CONFIG = "high_noise_model/config.json"
AUTHORS |= {CONFIG: json.dumps({"model_type": "t2v"})}


def test_the_authors_repository_is_fetched_without_what_is_not_read(hub):
    hub.files = AUTHORS | dict.fromkeys(["assets/x.png", "README.md", "x.pth", "nlp/x.bin"], "")
    assert download("Wan-AI/Wan2.2-T2V-A14B") == hub.folder
    assert hub.fetched[0] == CONFIG
    assert set(hub.fetched) == set(AUTHORS)
    hub.fetched.clear()
    download("Wan-AI/Wan2.2-T2V-A14B", without=["transformer", "text_encoder"])
    assert set(AUTHORS) - set(hub.fetched) == {
        "high_noise_model/diffusion_pytorch_model.safetensors",
        "models_t5_umt5-xxl-enc-bf16.pth",
    }


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({CONFIG: '{"model_type": "vace"}'}, "config.json: WanVACEPipeline is VACE, made for"),
        ({CONFIG: None}, "Wan2.2-T2V-A14B is not whole: it lacks config.json"),
        ({f"google/umt5-xxl/{name}": None for name in TOKENIZER}, "whole: it lacks tokenizer"),
    ],
)
def test_the_authors_repositories_that_cannot_be_read(hub, changes, text):
    hub.files = {name: x for name, x in (AUTHORS | changes).items() if x is not None}
    with pytest.raises(CheckpointError, match=text):
        download("Wan-AI/Wan2.2-T2V-A14B")
    assert set(hub.fetched) <= {CONFIG}


def test_an_authors_id_has_its_preset(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for model, preset in (
        ("Wan-AI/Wan2.2-T2V-A14B", "wan2.2-t2v-a14b"),
        ("Wan-AI/Wan2.1-FLF2V-14B-720P", "wan2.1-flf2v-14b-720p"),
    ):
        config = resolve([f"model={model}"], "plan")
        assert (config.preset, config.model) == (preset, model)
        assert prepare(config).memory.weight_bytes > 10**10
    config = resolve(["model=Wan-AI/Wan2.2-T2V-A14B"], "plan")
    assert presence(config.model).state == "not here"


def test_a_missing_tokenizer_is_told_with_what_to_give(hub, tmp_path):
    hub.reachable = False
    every = ["transformer", "transformer_2", "vae", "text_encoder"]
    with pytest.raises(CheckpointError, match=r"tokenizer alone is missing: give tokenizer=FOLDER"):
        download("Wan-AI/Wan2.2-T2V-A14B-Diffusers", without=every)
    folder = write(tmp_path / "wan", WAN)
    (folder / "tokenizer/tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks tokenizer/tokenizer\.json; give tokenizer="):
        require_weights(folder)
    with pytest.raises(CheckpointError, match=r"and there is no spiece\.model: give tok"):
        Tokenizer(folder)


# Folders


@pytest.mark.parametrize(("names", "text"), OTHERS.values(), ids=OTHERS)
def test_a_folder_of_another_layout(tmp_path, names, text):
    with pytest.raises(CheckpointError, match=text):
        require_folder(str(write(tmp_path, dict.fromkeys(names, ""))))


def test_shards_that_are_not_there_are_listed_before_anything_is_read(tmp_path):
    """As an interrupted download leaves them."""
    shards = {f"tensor{i}": f"model-{i}.safetensors" for i in range(3)}
    index = {"vae/model.safetensors.index.json": json.dumps({"weight_map": shards})}
    folder = write(tmp_path, WAN | index | {"vae/model-1.safetensors": ""})
    with pytest.raises(CheckpointError) as error:
        require_weights(folder)
    assert str(error.value) == (
        f"model={folder} is not whole: it lacks vae/model-0.safetensors, vae/model-2.safetensors"
    )


# What is here


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The Hub's cache with all of a model but one file, as the Hub's own client lays it out."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--Wan-AI--Wan2.1-T2V-1.3B-Diffusers"
    snapshot = write(repository / "snapshots" / "0123abc", WAN)
    (snapshot / "vae/model.safetensors").unlink()
    write(repository, {"refs/main": "0123abc"})
    return snapshot


def test_how_much_of_a_model_is_in_the_cache(cache):
    model = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    found = presence(model)
    assert (found.state, found.lacking) == ("in part", ("vae/*.safetensors",))
    (cache / "vae/model.safetensors").touch()
    assert presence(model).state == "here"
    assert presence("Wan-AI/Wan2.1-T2V-14B-Diffusers").state == "not here"


def test_parts_from_elsewhere_are_here(cache):
    model = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    assert presence(model, ["vae"]).state == "here"
    every = ["transformer", "vae", "text_encoder", "tokenizer"]
    assert presence("Wan-AI/Wan2.1-T2V-14B-Diffusers", every).state == "here"
    assert presence("Wan-AI/Wan2.1-T2V-14B-Diffusers", every[:3]).state == "not here"


def test_presets_and_plans_say_what_is_here_and_how_large_it_is(cache, capsys):
    (cache / "vae/model.safetensors").touch()
    assert main(["presets"]) == 0
    lines = [re.split("  +", line) for line in capsys.readouterr().out.splitlines()]
    rows = {line[0]: line[-3:-1] for line in lines}
    assert rows["wan2.1-t2v-1.3b"] == ["14.7", "here"]
    assert rows["wan2.2-t2v-a14b"] == ["69.1", "not here"]
    assert rows["tiny-t2v"][1] == "here"
    assert main(["plan", "wan2.2-t2v-a14b"]) == 0
    assert "weights    69.1 GB in bfloat16, not here, dow" in capsys.readouterr().out
    assert main(["plan", "wan2.1-t2v-1.3b", "json=True"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["model_is"] == "here"
    assert facts["weight_bytes"] == pytest.approx(14.7e9, rel=0.005)


def test_the_commit_that_ran_is_known(cache):
    model = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    assert commit_of(model, None) == commit_of(model, "main") == cache.name
    assert commit_of(model, cache.name) == cache.name
    assert commit_of(model, "v9") is None
    assert commit_of("wanjax/tiny/t2v", None) is None


def test_a_pinned_revision_is_what_a_plan_looks_for(cache, capsys):
    (cache / "vae/model.safetensors").touch()
    for revision, said in (("0123abc", "here"), ("main", "here"), ("v9", "not here")):
        args = ["plan", "wan2.1-t2v-1.3b", f"revision={revision}"]
        assert main(args) == 0
        assert f"GB in bfloat16, {said}" in capsys.readouterr().out
        assert main([*args, "json"]) == 0
        assert json.loads(capsys.readouterr().out)["model_is"] == said
    assert presence("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", revision="v9").folder is None


@pytest.mark.parametrize("revision", ["../main", "a/../b", "/etc", "a b", "-x", "a//b", ".hidden"])
def test_revisions_that_can_be_none(revision, capsys):
    assert main(["plan", "wan2.2-t2v-a14b", f"revision={revision}"]) == 2
    assert f"revision={revision}: must be a commit" in capsys.readouterr().err


def test_a_folder_has_no_revision(capsys):
    assert main(["plan", "tiny-t2v", "revision=main"]) == 2
    assert "revisions are of models on the Hub" in capsys.readouterr().err


def test_records_name_no_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    inside = "image=/home/somebody/photo.png"
    config = resolve(["tiny-i2v", "prompt=a", inside, "output=/home/somebodyelse/x.mp4"], "show")
    written = json.dumps(kept(config))
    assert '"~/photo.png"' in written
    assert "/home/somebody/" not in written
    assert "/home/somebodyelse/x.mp4" in written
    assert "hf_secret" not in written
