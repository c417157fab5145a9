"""What is said of prompts and pictures that the model will not take as they are."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import render
from PIL import Image

import wanjax
from wanjax.cli.main import main
from wanjax.config.resolve import load_preset, resolve
from wanjax.errors import Notice, UsageError
from wanjax.media.images import load_image
from wanjax.media.prompts import Prompt, as_lines, load_prompts
from wanjax.media.tokenizer import Tokenizer
from wanjax.pipeline.notices import notice
from wanjax.planning.run import fitted
from wanjax.tiny.sight import WORLD, about_prompt, is_drawing
from wanjax.tiny.world import caption, sample_scene

TOKENIZER = Tokenizer(Path(wanjax.__file__).parent / "tiny/t2v/tokenizer")


def told(preset, *prompts, picture=None, **values):
    """The warnings."""
    config = fitted(resolve([preset], "show", values))
    with pytest.warns(Notice) as found:
        notice(config, prompts, [picture] if picture else [], TOKENIZER)
    return [str(warning.message) for warning in found]


def photo(width, height):
    """Smooth patches of all colours, as no drawing has them."""
    noise = np.random.default_rng(0).integers(0, 255, (6, 6, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def test_a_prompt_outside_the_bundled_models_world():
    (text,) = told("tiny-t2v", "two cats boxing in a ring")
    assert text.startswith('"two cats boxing in a ring": outside the bundled model\'s world: ')
    assert "it does not know 'two', 'cats', 'boxing', 'in', 'ring'" in text
    assert WORLD in text
    (text,) = told("tiny-t2v", "red moving left")
    assert "no shape is named" in text


def test_words_that_were_never_learnt():
    (text,) = told("tiny-t2v", "a shiny red ball moving right")
    assert "in part outside the bundled model's world: it does not know 'shiny'" in text


def test_a_prompt_cut_at_its_limit():
    prompt = "a red ball moving right on a dark background " * 4
    (text,) = told("tiny-t2v", prompt)
    assert "has 36 tokens, and max_sequence_length=32 leaves room for 31" in text
    assert 'the model does not see "right on a dark background"; shorten it' in text
    (text,) = told("wan2.2-t2v-a14b", prompt, max_sequence_length=10)  # of every model
    assert "leaves room for 9" in text


@pytest.mark.parametrize("background_rate", [0.0, 1.0])
def test_nothing_is_said_of_what_was_learnt(background_rate):
    rng = np.random.default_rng(0)
    for _ in range(200):
        scene = sample_scene(rng, held_out=True)
        text = caption(scene, rng, background_rate=background_rate)
        assert about_prompt(text, TOKENIZER.words) is None, text
        assert is_drawing(render.render(scene)[0])
    notice(load_preset("tiny-t2v"), ["A red ball!"], [], TOKENIZER)
    notice(load_preset("wan2.2-t2v-a14b"), ["two cats boxing"], [], TOKENIZER)


def test_a_photo_where_drawings_were_learnt():
    (text,) = told("tiny-i2v", picture=photo(64, 64))
    assert "outside the bundled model's world, which is drawn" in text
    assert "image=example:red-ball" in text
    drawing = load_image("example:red-ball").resize((300, 300))
    file = io.BytesIO()
    drawing.save(file, "JPEG", quality=75)
    notice(load_preset("tiny-i2v"), [], [drawing, Image.open(file)], TOKENIZER)


def test_a_picture_that_is_cut():
    wide = load_image("example:red-ball").resize((64, 64))
    wide = Image.fromarray(np.pad(np.asarray(wide), ((0, 0), (10, 10), (0, 0)), mode="edge"))
    (text,) = told("tiny-i2v", picture=wide)
    assert "the picture is 84x64, the video 64x64: 24% of it is cut away, at left and right" in text
    assert "trained on squares" in text
    (text,) = told("wan2.2-i2v-a14b", picture=photo(90, 160), height=480, width=832)
    assert "68% of it is cut away, at top and bottom; leave height and width out" in text
    notice(load_preset("wan2.2-i2v-a14b"), [], [photo(1290, 720)], TOKENIZER)  # a few pixels


def test_examples_are_at_hand(tmp_path):
    config = resolve(["image=example:red-ball", "the red ball moves left"])
    assert (config.preset, config.image) == ("tiny-i2v", "example:red-ball")
    with pytest.raises(UsageError, match="image=example:cat: no such picture; those at hand: exa"):
        resolve(["image=example:cat", "the cat moves left"])
    file = tmp_path / "prompts.txt"
    file.write_text("example:red-ball | the ball moves left\n")
    assert load_prompts(file) == [Prompt("the ball moves left", "example:red-ball")]
    assert as_lines(load_prompts(file)) == file.read_text()


def test_the_command_line_says_it_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args = ["image=example:red-ball", "a cat", "seeds=0,1", "num_inference_steps=2", "quiet"]
    assert main(["generate", *args]) == 0
    said = capsys.readouterr().err
    assert said.startswith('warning: "a cat": outside the bundled model')
    assert said.count("\n") == 1


def test_python_is_told_too():
    pipe = wanjax.WanPipeline.from_pretrained("tiny-t2v")
    with pytest.warns(Notice, match="it does not know 'cat'"):
        pipe("a cat", num_inference_steps=2, output_type="latent")
