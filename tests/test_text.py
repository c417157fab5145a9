# ruff: noqa: RUF001  (curly quotes and full-width letters are what is tested)
"""Prompt cleaning and the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from wanjax.errors import CheckpointError, UsageError
from wanjax.media.tokenizer import Tokenizer, prompt_clean

PIECES = ["▁", "▁a", "▁red", "▁ball", "▁moving", "r", "e", "d"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer of the published structure: Unigram, NFKC, Metaspace, "$A </s>"."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<s>", 0.0), ("<unk>", 0.0)]
    vocabulary = special + [(piece, -float(i)) for i, piece in enumerate(PIECES, 1)]
    tokenizer = tokenizers.Tokenizer(models.Unigram(vocabulary, unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.add_special_tokens(["<pad>", "</s>", "<s>", "<unk>"])
    # settings of a file which must not change ours
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=3, pad_id=2)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  a \t red\n\n ball ", "a red ball"),
        ("a &amp;amp; b &lt;c&gt;", "a & b <c>"),
        ("schÃ¶n", "schön"),  # UTF-8 read as Latin-1
        ("“red” ball’s", '"red" ball\'s'),
        ("红球，向右", "红球,向右"),
        ("&nbsp;a&#160;red\u3000ball&nbsp;", "a red ball"),
        ("", ""),
    ],
)
def test_prompt_clean(text, expected):
    assert prompt_clean(text) == expected


def test_ids_mask_eos_and_padding(folder):
    ids, mask = Tokenizer(folder)(["a red ball", "", "moving"], 6)
    assert ids.dtype == mask.dtype == np.int32
    np.testing.assert_array_equal(ids, [[5, 6, 7, 1, 0, 0], [1, 0, 0, 0, 0, 0], [8, 1, 0, 0, 0, 0]])
    np.testing.assert_array_equal(mask.sum(1), [4, 1, 2])


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_truncation_includes_eos(folder, length):
    ids, mask = Tokenizer(folder)(["a red ball moving"], length)
    np.testing.assert_array_equal(ids[0], [*[5, 6, 7, 8][: length - 1], 1])
    assert mask.all()


@pytest.mark.parametrize("length", [1, 3, 8])
def test_equals_the_tokenizers_library(folder, length):
    prompts = ["a red ball", "moving 😀 ball", "red</s> a", "", "ｒｅｄ", "unseen words 日本"]
    raw = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    raw.enable_truncation(length)
    raw.enable_padding(length=length, pad_id=0, pad_token="<pad>")
    expected = raw.encode_batch(prompts)
    ids, mask = Tokenizer(folder)(prompts, length)
    np.testing.assert_array_equal(ids, [encoding.ids for encoding in expected])
    np.testing.assert_array_equal(mask, [encoding.attention_mask for encoding in expected])


def test_unknown_characters_are_unk(folder):
    ids, _ = Tokenizer(folder)(["😀"], 4)
    np.testing.assert_array_equal(ids[0], [4, 3, 1, 0])


@pytest.mark.parametrize("pad", ["<s>", {"content": "<s>", "lstrip": False}])
def test_special_tokens_of_the_config(folder, pad):
    config = {"pad_token": pad, "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    ids, _ = Tokenizer(folder)(["a"], 3)
    np.testing.assert_array_equal(ids[0], [5, 1, 2])


def test_errors_name_the_file_and_the_fix(folder):
    tokenizer = Tokenizer(folder)
    with pytest.raises(UsageError, match="max_sequence_length=0: must be at least 1"):
        tokenizer(["a"], 0)
    with pytest.raises(UsageError, match=r"give a list: \['a'\]"):
        tokenizer("a", 4)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        Tokenizer(folder / "elsewhere")
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({"eos_token": "<end>"}))
    with pytest.raises(
        CheckpointError, match=r"eos_token is '<end>', which is not in the vocabulary"
    ):
        Tokenizer(folder)
    config.write_text('{"pad_token": {"text": "<pad>"}}')
    with pytest.raises(CheckpointError, match=r"config\.json: pad_token=.*: must be text"):
        Tokenizer(folder)
    config.write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json is cut short or not valid"):
        Tokenizer(folder)
    (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        Tokenizer(folder)
