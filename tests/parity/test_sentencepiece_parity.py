"""A `spiece.model` that SentencePiece trained, as transformers' converter makes it a tokenizer."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import sentencepiece
from transformers.convert_slow_tokenizer import T5Converter

from wanjax.media.tokenizer import Tokenizer, prompt_clean

WORDS = [
    *("a", "red", "blue", "ball", "moving", "right", "on", "dark", "background", "two", "cats"),
    *("boxing", "the", "of", "and", "in", "with", "slowly", "2nd", "3.5", "café", "naïve", "猫"),
    *("ボクシング", "красный", "шар", "über", "Straße", "한국어", "ملعب"),
    *("\uff26\uff55\uff4c\uff4c", "\ufb01ne", "½", "①"),  # what nmt_nfkc rewrites
]
ODD = "abcdefgh  ijklm①½\ufb01\uff26猫ボ한ш\u0301äß👍\u200b\u3000\u00a0\u200d.,!?<>▁\t"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """With UMT5's settings: Unigram, nmt_nfkc, padding, end, begin and unknown at its ids."""
    stem = tmp_path_factory.mktemp("spiece") / "spiece"
    drawn = random.Random(0)
    lines = [" ".join(drawn.choices(WORDS, k=8)) for _ in range(4000)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(stem),
        vocab_size=220,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    return stem.with_suffix(".model")


def test_equals_transformers_converter_and_sentencepiece(trained) -> None:
    own = sentencepiece.SentencePieceProcessor(model_file=str(trained))
    slow = SimpleNamespace(
        vocab_file=str(trained),
        _extra_ids=0,
        convert_tokens_to_ids=own.piece_to_id,
        add_prefix_space=True,
        legacy=True,
    )
    fast = T5Converter(slow).converted()
    drawn = random.Random(1)
    texts = [" ".join(drawn.choices(WORDS, k=8)) for _ in range(300)]
    texts += ["".join(drawn.choices(ODD, k=drawn.randint(1, 40))) for _ in range(2000)]
    ids, mask = Tokenizer(trained)(texts, 400)
    for text, row, length in zip(texts, ids, mask.sum(1), strict=True):
        assert row[: length - 1].tolist() == fast.encode(text, add_special_tokens=False).ids, text
    prompts = [prompt_clean(text) for text in texts[:300]]
    ids, mask = Tokenizer(trained)(prompts, 400)
    for text, row, length in zip(prompts, ids, mask.sum(1), strict=True):
        assert row[: length - 1].tolist() == own.encode(text)
