"""The bundled text encoder: what a prompt names is linearly readable from its outputs."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

import wanjax.tiny
from wanjax.checkpoints.layouts.diffusers import umt5 as umt5_keys
from wanjax.checkpoints.layouts.recognise import part_files
from wanjax.checkpoints.load import load_parameters
from wanjax.checkpoints.locate import read_json
from wanjax.media.tokenizer import Tokenizer
from wanjax.models.configs import UMT5Config
from wanjax.models.umt5 import UMT5Encoder
from wanjax.tiny.world import ATTRIBUTES, caption, held_out_prompts, parse, sample_scene

FOLDER = Path(wanjax.tiny.__file__).parent / "t2v"
LENGTH = 32
CLASSES = {name: ["", *values] for name, values in ATTRIBUTES.items()}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(FOLDER / "tokenizer")


@pytest.fixture(scope="module")
def encoder() -> nnx.Module:
    config = UMT5Config.from_dict(read_json(FOLDER / "text_encoder" / "config.json"))
    files = part_files("text_encoder", FOLDER / "text_encoder")
    abstract = nnx.eval_shape(lambda: UMT5Encoder(config, rngs=nnx.Rngs(0)))
    return load_parameters(abstract, umt5_keys.RULES, files)


def embed(encoder, tokenizer, prompts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    ids, mask = tokenizer(prompts, LENGTH)
    return np.asarray(nnx.jit(UMT5Encoder.__call__)(encoder, ids, mask)), mask


def mean_features(encoder, tokenizer, prompts: list[str]) -> np.ndarray:
    outputs, mask = embed(encoder, tokenizer, prompts)
    mean = np.einsum("bl,bld->bd", mask / mask.sum(1, keepdims=True), outputs)
    return np.concatenate([mean, np.ones_like(mean[:, :1])], axis=1)


def labels(prompts: list[str]) -> np.ndarray:
    named = [parse(prompt) for prompt in prompts]
    return np.array([[CLASSES[a].index(n.get(a, "")) for a in ATTRIBUTES] for n in named])


def test_held_out_combinations_are_linearly_readable(encoder, tokenizer):
    rng = np.random.default_rng(0)
    known = [caption(sample_scene(rng), rng) for _ in range(500)] + [""] * 20
    known += [f"a {color} {shape}" for color, shape in product(*list(ATTRIBUTES.values())[:2])]
    unknown = [prompt for prompt, _ in held_out_prompts(300)] + ["A red ball.", "moving left", ""]
    features, targets = mean_features(encoder, tokenizer, known), labels(known)
    queries, answers = mean_features(encoder, tokenizer, unknown), labels(unknown)
    right = np.ones(len(unknown), bool)
    for column, values in enumerate(CLASSES.values()):
        one_hot = np.eye(len(values))[targets[:, column]]
        gram = features.T @ features + 0.1 * np.eye(features.shape[1])
        readout = np.linalg.solve(gram, features.T @ one_hot)
        right &= (queries @ readout).argmax(1) == answers[:, column]
    assert right.mean() >= 0.99


def test_embeddings_have_unit_scale(encoder, tokenizer):
    outputs, mask = embed(encoder, tokenizer, [prompt for prompt, _ in held_out_prompts(64)])
    assert np.sqrt(np.mean(outputs[mask > 0] ** 2)) == pytest.approx(1.0, abs=0.1)


def test_words_of_the_world_are_single_tokens(tokenizer):
    for synonyms in (values for name in ATTRIBUTES for values in ATTRIBUTES[name].values()):
        for synonym in synonyms:
            ids, mask = tokenizer([synonym], LENGTH)
            assert mask.sum() == len(synonym.split()) + 1, synonym
            assert 3 not in ids  # unknown


def test_special_tokens_and_letter_case(tokenizer):
    assert (tokenizer.pad_id, tokenizer.eos_id) == (0, 1)
    ids, _ = tokenizer(["a red ball", "A RED Ball", "😀"], LENGTH)
    np.testing.assert_array_equal(ids[0], ids[1])
    assert ids[2, :4].tolist().count(3) == 1
