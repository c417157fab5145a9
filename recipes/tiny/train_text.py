"""Makes the tokenizer and the text encoder of the bundled models, from nothing.

    python recipes/tiny/train_text.py --out src/wanjax/tiny/t2v

A Unigram tokenizer is fitted to captions of the tiny world, then a small UMT5 encoder
is trained so that linear heads read what a prompt names (colour, shape, motion,
background, size, speed, or nothing of it) from each token's output and from their mean. The
heads are thrown away; the encoder is written in the layout of the published models.
A few minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import json
import re
import string
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import loop
import numpy as np
import optax
import tokenizers
from flax import nnx
from jaxtyping import Array, Float, Int
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from wanjax.checkpoints.layouts.diffusers.umt5 import RULES
from wanjax.checkpoints.save import save_model
from wanjax.files import write_json
from wanjax.media.tokenizer import Tokenizer, prompt_clean
from wanjax.models.configs import UMT5Config
from wanjax.models.layers import Linear
from wanjax.models.umt5 import UMT5Encoder
from wanjax.tiny.world import ATTRIBUTES, Scene, caption, parse, sample_scene

LENGTH = 32  # tokens, the tiny models' max_sequence_length
SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}
SIZES = {"small": ("small", "little"), "large": ("large", "big")}
SPEEDS = {"slow": ("slowly",), "fast": ("quickly", "swiftly")}
# What heads tell apart: value 0 of each is "not named".
CLASSES = {name: ["", *values] for name, values in ATTRIBUTES.items()}
CLASSES |= {"size": ["", *SIZES], "speed": ["", *SPEEDS]}
# Words around a description which say nothing about the scene.
FILLERS = (
    *("a high quality video of", "cinematic", "4k", "smooth animation of", "please show"),
    *("simple", "the camera does not move", "very detailed", "a clip with", "beautiful"),
)
# Forms and filler words that training never sees; the latter cost a token per letter.
UNSEEN_FORMS = (
    "see how this {color} {shape} keeps {motion}: {background}",
    "{motion} across the whole picture: one {color} {shape}, {background}",
    "Animation, {color} {shape}, {motion}, {background}, 8 fps.",
    "we can see a {shape} which is {color} and it {motion}",
    "IN THIS SCENE A {shape}, {color}, {background}",
)

Rng = np.random.Generator
Examples = tuple[list[str], Int[np.ndarray, "prompts attributes"]]


def held_out_text(text: str) -> bool:
    """One text in ten never occurs in training, whatever scene it describes."""
    return zlib.crc32(text.encode()) % 10 == 0


def captions(rng: Rng, *, held_out: bool) -> Iterator[str]:
    while True:
        yield caption(sample_scene(rng, held_out=held_out), rng)


def keywords(scene: Scene, rng: Rng) -> str:
    """Some attributes of `scene` in any order, the others left out: "a red ball", ..."""
    words = {name: synonym(scene, name, rng) for name in ATTRIBUTES if rng.random() < 0.6}
    noun = [pick(rng, ("", "a", "the", "one")), words.get("color", ""), words.get("shape", "")]
    if rng.random() < 0.2:
        noun.insert(1, pick(rng, sum(SIZES.values(), ())))
    motion = words.get("motion", "")
    if motion and rng.random() < 0.2:
        motion = f"{pick(rng, sum(SPEEDS.values(), ()))} {motion}"
    parts = [" ".join(filter(None, noun)), motion, words.get("background", "")]
    if rng.random() < 0.3:
        rng.shuffle(parts)
    return pick(rng, (" ", ", ", " and ")).join(filter(None, parts))


def descriptions(rng: Rng, keep: Callable[[str], bool]) -> Iterator[str]:
    """Captions, incomplete descriptions and now and then the empty prompt."""
    while True:
        scene = sample_scene(rng)
        text = caption(scene, rng) if rng.random() < 0.6 else keywords(scene, rng)
        if rng.random() < 0.03:
            yield ""
        elif keep(text):
            yield text


def disturb(text: str, rng: Rng) -> str:
    """Add words which say nothing: fillers around, random letters anywhere."""
    if text and rng.random() < 0.25:
        text = " ".join(rng.permutation([text, pick(rng, FILLERS)]))
    if text and rng.random() < 0.3:
        words = text.split()
        for _ in range(rng.integers(1, 4)):
            letters = (pick(rng, string.ascii_lowercase) for _ in range(rng.integers(2, 8)))
            words.insert(int(rng.integers(len(words) + 1)), "".join(letters))
        text = " ".join(words)
    return text + pick(rng, ("", "", "."))


def examples(texts: Iterator[str], count: int, rng: Rng | None = None) -> Examples:
    """`count` prompts with what they name, read before any disturbing (with `rng` alone)."""
    clean = list(islice(texts, count))
    prompts = [disturb(text, rng) for text in clean] if rng else clean
    return prompts, np.array([read_labels(text) for text in clean], np.int32)


def unseen_forms(rng: Rng) -> Iterator[str]:
    while True:
        scene = sample_scene(rng, held_out=bool(rng.integers(2)))
        words = {name: synonym(scene, name, rng) for name in ATTRIBUTES}
        yield pick(rng, UNSEEN_FORMS).format(**words)


def synonym(scene: Scene, attribute: str, rng: Rng) -> str:
    return pick(rng, ATTRIBUTES[attribute][getattr(scene, attribute)])


def pick(rng: Rng, options: tuple[str, ...] | str) -> str:
    return options[int(rng.integers(len(options)))]


def read_labels(text: str) -> list[int]:
    """Index into CLASSES of each attribute that the prompt names."""
    named = parse(text)
    for name, values in (("size", SIZES), ("speed", SPEEDS)):
        for value, words in values.items():
            if re.search(rf"\b({'|'.join(words)})\b", text.lower()):
                named[name] = value
    return [values.index(named.get(name, "")) for name, values in CLASSES.items()]


def train_tokenizer(texts: list[str], vocab_size: int) -> tokenizers.Tokenizer:
    """The published tokenizer's structure; letters are lowered as well."""
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Nmt(),
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL.values()),
        unk_token=SPECIAL["unk_token"],
        initial_alphabet=[chr(i) for i in range(33, 127) if not chr(i).isupper()],
        show_progress=False,
    )
    # The trainer only considers pieces found in two different words: "red" and "red7".
    words = sorted(set(" ".join(texts).split()))
    marked = [word + mark for word in words for mark in string.punctuation + string.digits]
    tokenizer.train_from_iterator([*texts, *marked], trainer)
    tokenizer.model = models.Unigram(tidy(tokenizer), unk_id=3)
    eos = SPECIAL["eos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {eos}",
        pair=f"$A {eos} $B {eos}",
        special_tokens=[(eos, tokenizer.token_to_id(eos))],
    )
    return tokenizer


def tidy(tokenizer: tokenizers.Tokenizer) -> list[tuple[str, float]]:
    """Pieces and scores without words that end in a comma, in a reproducible order.

    The trainer's own order and last digits depend on the hashes of the run.
    """
    pieces = json.loads(tokenizer.to_str())["model"]["vocab"][len(SPECIAL) :]
    kept = [(piece, round(score, 1)) for piece, score in pieces if "," not in piece[1:]]
    special = [(piece, 0.0) for piece in SPECIAL.values()]
    return special + sorted(kept, key=lambda pair: (-pair[1], pair[0]))


def save_tokenizer(tokenizer: tokenizers.Tokenizer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        **SPECIAL,
        "clean_up_tokenization_spaces": False,
        "model_max_length": LENGTH,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_json(folder / "tokenizer_config.json", config)


class Reader(nnx.Module):
    """The encoder and one linear head per attribute, shared by tokens and their mean."""

    def __init__(self, config: UMT5Config, *, rngs: nnx.Rngs):
        self.encoder = UMT5Encoder(config, rngs=rngs)
        query = self.encoder.block.attention.q.kernel
        query[...] = query[...] * config.d_kv**-0.5  # scores are not scaled in UMT5
        self.heads = nnx.List(
            [
                Linear(config.d_model, len(values), axes=(None, None), rngs=rngs)
                for values in CLASSES.values()
            ]
        )

    def __call__(
        self, ids: Int[Array, "batch length"], mask: Int[Array, "batch length"]
    ) -> list[Float[Array, "batch length+1 classes"]]:
        """Logits of each attribute from each token's output and, last, from their mean."""
        x = self.encoder(ids, mask)
        weights = mask / mask.sum(1, keepdims=True)
        mean = jnp.einsum("bl,bld->bd", weights, x)
        x = jnp.concatenate([x, mean[:, None]], axis=1)
        return [head(x) for head in self.heads]


def loss_fn(
    reader: Reader,
    ids: Int[Array, "batch length"],
    mask: Int[Array, "batch length"],
    labels: Int[Array, "batch attributes"],
) -> Float[Array, ""]:
    """Cross-entropy, half of the weight on the tokens and half on their mean."""
    share = mask / mask.sum(1, keepdims=True)
    weights = jnp.concatenate([share, jnp.ones_like(share[:, :1])], axis=1) / 2
    total = jnp.zeros(())
    for logits, label in zip(reader(ids, mask), labels.T, strict=True):
        targets = jax.nn.one_hot(label, logits.shape[-1])[:, None]
        smooth = optax.smooth_labels(targets, 0.02)
        total += (optax.softmax_cross_entropy(logits, smooth) * weights).sum(1).mean()
    return total


def train(reader: Reader, tokenizer: Tokenizer, data: Examples, args: argparse.Namespace) -> None:
    """Adam with warm-up and cosine decay over random batches of `data`."""
    prompts, labels = data
    ids, mask = tokenizer(prompts, LENGTH)
    whole = mask.sum(1) < LENGTH  # what was cut off must not be asked for
    arrays = tuple(jnp.asarray(x[whole]) for x in (ids, mask, labels))
    graph, params = nnx.split(reader)

    def adam(total: Array) -> optax.GradientTransformation:
        schedule = lambda step: 1.5e-3 * loop.cosine(step, total, 100)  # noqa: E731
        return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.01))

    def step(state: Any, arrays: tuple[Array, ...], number: Array, total: Array) -> Any:
        params, moments = state
        key = jax.random.fold_in(jax.random.key(args.seed), number)
        rows = jax.random.randint(key, (args.batch_size,), 0, len(arrays[0]))
        batch = [x[rows] for x in arrays]
        loss, grads = jax.value_and_grad(lambda p: loss_fn(nnx.merge(graph, p), *batch))(params)
        updates, moments = adam(total).update(grads, moments, params)
        return (optax.apply_updates(params, updates), moments), loss[None]

    state = (params, adam(jnp.float32(1)).init(params))
    steps = round(args.steps * args.scale)
    params, _ = loop.run("text", step, state, arrays, steps, limit=args.limit)
    nnx.update(reader, params)


def accuracy(reader: Reader, tokenizer: Tokenizer, data: Examples) -> tuple[float, float]:
    """Share of prompts of which the mean, and of tokens which, tell every attribute right."""
    prompts, labels = data
    ids, mask = map(jnp.asarray, tokenizer([prompt_clean(text) for text in prompts], LENGTH))
    logits = nnx.jit(Reader.__call__)(reader, ids, mask)
    guesses = np.stack([np.asarray(values.argmax(-1)) for values in logits], axis=-1)
    right = (guesses == labels[:, None]).all(-1)
    return right[:, -1].mean(), right[:, :-1][mask > 0].mean()


def report(reader: Reader, tokenizer: Tokenizer, rng: Rng) -> None:
    """Print the accuracy on prompts that training never saw."""
    sets = {
        "held-out combinations": examples(captions(rng, held_out=True), 1000),
        "held-out captions": examples(filter(held_out_text, captions(rng, held_out=False)), 1000),
        "incomplete or disturbed": examples(descriptions(rng, held_out_text), 1000, rng),
        "unseen forms": examples(unseen_forms(rng), 1000),
        "empty prompt": examples(iter([""]), 1),
    }
    for name, data in sets.items():
        prompts, tokens = accuracy(reader, tokenizer, data)
        print(f"{name}: {prompts:.2%} of prompts, {tokens:.2%} of tokens")
    ids, mask = map(jnp.asarray, tokenizer(sets["held-out captions"][0], LENGTH))
    outputs = np.asarray(reader.encoder(ids, mask))[mask > 0]
    print(f"root mean square of the embeddings: {np.sqrt((outputs**2).mean()):.3f}")


def round_to_float16(reader: Reader) -> None:
    """Report what the saved file holds."""
    state = nnx.state(reader.encoder)
    nnx.update(
        reader.encoder, jax.tree.map(lambda x: x.astype(jnp.float16).astype(jnp.float32), state)
    )


def save_encoder(encoder: UMT5Encoder, folder: Path) -> None:
    config = {
        "_class_name": "UMT5EncoderModel",
        "architectures": ["UMT5EncoderModel"],
        "model_type": "umt5",
        "dense_act_fn": "gelu_new",
        "is_gated_act": True,
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "float16",
        **asdict(encoder.config),
    }
    save_model(encoder, RULES, config, folder, filename="model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--prompts", type=int, default=50_000, help="different training prompts")
    parser.add_argument("--vocab-size", type=int, default=512)
    parser.add_argument("--layers", type=int, default=3)
    loop.add_arguments(parser)
    args = parser.parse_args()

    rng = np.random.default_rng(args.seed)
    plain = list(islice(captions(rng, held_out=False), 10_000))
    save_tokenizer(train_tokenizer([*plain, *FILLERS], args.vocab_size), args.out / "tokenizer")
    tokenizer = Tokenizer(args.out / "tokenizer")
    vocabulary = json.loads((args.out / "tokenizer" / "tokenizer.json").read_text())["model"]
    config = UMT5Config(
        vocab_size=len(vocabulary["vocab"]),
        d_model=128,
        d_kv=32,
        d_ff=256,
        num_layers=args.layers,
        num_heads=4,
    )
    reader = Reader(config, rngs=nnx.Rngs(args.seed))
    texts = descriptions(rng, lambda text: not held_out_text(text))
    train(reader, tokenizer, examples(texts, args.prompts, rng), args)
    round_to_float16(reader)
    report(reader, tokenizer, np.random.default_rng(args.seed + 1))
    save_encoder(reader.encoder, args.out / "text_encoder")


if __name__ == "__main__":
    main()
