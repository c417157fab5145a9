"""A tokenizer that a text encoder's file carries, as ComfyUI's do, is the published one."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from spiece import spiece_model

from wanjax.checkpoints.folder import Folder
from wanjax.cli.main import main
from wanjax.config.resolve import resolve
from wanjax.errors import CheckpointError
from wanjax.media.sentencepiece import tokenizer_of
from wanjax.media.tokenizer import Tokenizer

TEXTS = ["a red ball", "  a  red   ball ", "balls, redder: 猫!", "</s> a<pad>", "", "▁a", "x" * 99]


@pytest.fixture
def pieces(small_folder: Path) -> bytes:
    """Of the vocabulary of the folder's tokenizer.json."""
    own = json.loads((small_folder / "tokenizer/tokenizer.json").read_text())
    return spiece_model(own["model"]["vocab"])


@pytest.fixture
def encoder(small_folder: Path, pieces: bytes, tmp_path: Path) -> Path:
    """A single file of the folder's text encoder, which carries its tokenizer."""
    (file,) = (small_folder / "text_encoder").glob("*.safetensors")
    made = tmp_path / "umt5.safetensors"
    save_file(load_file(file) | {"spiece_model": np.frombuffer(pieces, np.uint8)}, made)
    return made


def without_tokenizer(small_folder: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(small_folder, tmp_path / "model"))
    shutil.rmtree(folder / "tokenizer")
    return folder


def test_it_gives_the_ids_of_the_tokenizer_json(small_folder, encoder) -> None:
    texts = TEXTS[:3] + TEXTS[4:]  # the folder's own knows no control tokens in a text
    theirs, mask = Tokenizer(small_folder / "tokenizer")([" ".join(t.split()) for t in texts], 32)
    ours, our_mask = Tokenizer(encoder)(texts, 32)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(our_mask, mask)


def test_control_tokens_in_a_text_are_themselves(encoder) -> None:
    ids, mask = Tokenizer(encoder)(["</s> a<pad>"], 8)
    assert ids[0, 0] == 1
    assert ids[0, mask[0].sum() - 2] == 0


def test_a_text_encoder_brings_its_tokenizer(small_folder, encoder, tmp_path) -> None:
    folder = without_tokenizer(small_folder, tmp_path)
    config = resolve([f"model={folder}", "prompt=ball", f"text_encoder={encoder}"])
    assert config.tokenizer == str(encoder)
    own = [f"text_encoder={encoder}", f"tokenizer={small_folder}/tokenizer"]
    assert resolve([f"model={folder}", "prompt=ball", *own]).tokenizer == own[1].partition("=")[2]
    checking = Folder.open(folder, config.parts).checking()
    checking.load_text_encoder()
    assert "1 skipped, the tokenizer, which is no weight" in str(checking.readings["text_encoder"])
    assert checking.load_tokenizer().largest_id == 45


def test_a_folder_may_have_it_alone(small_folder, pieces, tmp_path) -> None:
    folder = without_tokenizer(small_folder, tmp_path)
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer/spiece.model").write_bytes(pieces)
    assert Folder.open(folder).load_tokenizer().largest_id == 45


def test_convert_writes_it_as_a_tokenizer_json(small_folder, encoder, tmp_path) -> None:
    folder = without_tokenizer(small_folder, tmp_path)
    out = tmp_path / "out"
    assert main(["convert", str(folder), str(out), f"text_encoder={encoder}"]) == 0
    ours, _ = Tokenizer(out / "tokenizer")(TEXTS, 32)
    np.testing.assert_array_equal(ours, Tokenizer(encoder)(TEXTS, 32)[0])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: content[:-3], "it is cut short"),
        (lambda content: b"", "there are no pieces"),
        (lambda content: b"version https://git-lfs.github.com/spec/v1\n", "no message of Protocol"),
        (lambda content: spiece_model([("<pad>", 0.0)], unknown=9), "unk_id"),
        (lambda content: spiece_model([("a", 0.0)] * 5, model_type=2), "expected 1 (Unigram)"),
        (lambda content: spiece_model([("a", float("nan"))] * 5), "a score is nan"),
    ],
)
def test_a_damaged_one_is_named(damage, said, pieces, tmp_path) -> None:
    file = tmp_path / "spiece.model"
    file.write_bytes(damage(pieces))
    with pytest.raises(CheckpointError) as error:
        Tokenizer(file)
    assert str(error.value).startswith(f"{file} cannot be read as a SentencePiece model (")
    assert said in str(error.value)


def test_whatever_is_in_a_file_makes_a_tokenizer_or_is_refused(pieces) -> None:
    drawn = random.Random(0)
    refused = 0
    for _ in range(300):
        content = bytearray(pieces)
        for _ in range(drawn.randint(1, 8)):
            content[drawn.randrange(len(content))] = drawn.randrange(256)
        try:
            tokenizer_of(bytes(content), "spiece.model").encode("a red ball")
        except CheckpointError as error:
            refused += str(error).startswith("spiece.model cannot be read")
    assert 100 < refused < 300
