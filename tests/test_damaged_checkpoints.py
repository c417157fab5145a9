"""A model's folder that is damaged, odd or hostile is refused in one line, before weights are read.

Every case is one of a class. Each is tried on a copy of a small folder by the command line, whose
exit code is 2 and whose line names the file and, where one is to blame, the key.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_folder import SMALL_RUN

from wanjax.checkpoints import folder as folder_module
from wanjax.cli.main import main

WEIGHTS = "diffusion_pytorch_model.safetensors"
FILE = f"transformer/{WEIGHTS}"
KEY = "blocks.0.attn1.to_q.weight"
CONFIG = "transformer/config.json"
INDEX = f"transformer/{WEIGHTS}.index.json"


@pytest.fixture
def folder(small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to be damaged, in the folder that tests run in."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(small_folder, tmp_path / "model"))


@pytest.fixture
def refused(folder: Path, capsys, monkeypatch) -> Callable[..., None]:
    def never(*_: object, **__: object) -> None:
        pytest.fail("weights are read")

    monkeypatch.setattr(folder_module, "load_parameters", never)
    monkeypatch.setattr("wanjax.pipeline.ahead.compile_ahead", lambda *_: None)

    def assert_refused(*named: str, command: str = "generate", args: tuple[str, ...] = ()) -> None:
        began = time.process_time()
        run = ["a red ball", "output=ball.mp4"] if command == "generate" else []
        code = main([command, f"model={folder}", *SMALL_RUN, *run, *args])
        seconds = time.process_time() - began
        error = capsys.readouterr().err
        assert code == 2, (code, error)
        *_, line = error.splitlines()
        assert line.startswith("wanjax: error: "), error
        assert line.isprintable(), error
        assert len(line) < 1000, error
        for name in named:
            assert name in line, error
        assert seconds < 3, (seconds, line)
        assert not Path("ball.mp4").exists()

    return assert_refused


# Tensors


def change(folder: Path, tensor: Callable[[np.ndarray], np.ndarray]) -> None:
    tensors = load_file(folder / FILE)
    save_file(tensors | {KEY: tensor(tensors[KEY])}, folder / FILE)


def retype(folder: Path, name: str, width: float) -> None:
    """The tensor as another type, of numbers that are zero."""
    header, data = header_of(folder / FILE)
    entry = header[KEY]
    start, end = entry["data_offsets"]
    size = int(np.prod(entry["shape"]) * width)
    for other in header.values():
        if other.get("data_offsets", [0])[0] >= end:
            other["data_offsets"] = [at + size - (end - start) for at in other["data_offsets"]]
    entry |= {"dtype": name, "data_offsets": [start, start + size]}
    write(folder / FILE, json.dumps(header).encode(), data[:start] + bytes(size) + data[end:])


def header_of(file: Path) -> tuple[dict[str, Any], bytes]:
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def write(file: Path, header: bytes, data: bytes = b"", length: int | None = None) -> None:
    file.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)


@pytest.mark.parametrize(
    "dtype",
    [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64, np.bool_],
    ids=lambda dtype: dtype.__name__,
)
def test_weights_that_are_whole_numbers(folder, refused, dtype) -> None:
    change(folder, lambda x: x.astype(dtype))
    eight_bits = dtype is np.int8  # which may be weights, where they have a scale
    why = "weight_scale is missing" if eight_bits else "1 wrong type of numbers: "
    refused("transformer", KEY, why)


@pytest.mark.parametrize(
    ("name", "width"),
    [("F8_E8M0", 1), ("C64", 8), ("F4", 0.5), ("BF17", 2)],
)
def test_weights_of_types_that_say_too_little(folder, refused, name, width) -> None:
    """Scales alone, complex numbers, half a byte each, a type that does not exist."""
    retype(folder, name, width)
    refused("transformer", KEY if name != "BF17" else WEIGHTS, name)


SHAPES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "transposed": lambda x: np.ascontiguousarray(x.reshape(16, 64)),
    "flat": lambda x: x.reshape(-1),
    "scalar": lambda x: np.ones((), np.float32),
    "empty": lambda x: x[:0],
    "a row less": lambda x: x[1:],
    "a row more": lambda x: np.concatenate([x, x[:1]]),
    "an axis more": lambda x: x[None],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_of_another_shape(folder, refused, shape) -> None:
    change(folder, SHAPES[shape])
    refused("transformer", "1 wrong shape: " + KEY, "expected [32, 32]")


def test_weights_that_are_not_there_or_too_many(folder, refused) -> None:
    tensors = load_file(folder / FILE)
    save_file({key: x for key, x in tensors.items() if key != KEY}, folder / FILE)
    refused("1 missing: " + KEY)
    save_file(tensors | {"blocks.2.attn1.to_q.weight": tensors[KEY]}, folder / FILE)
    refused("1 unexpected: blocks.2.attn1.to_q.weight")


@pytest.mark.parametrize("part", ["transformer_2", "vae", "text_encoder"])
def test_every_part_is_looked_at_before_any_is_read(folder, refused, part) -> None:
    (file,) = (folder / part).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    refused(str(file), "is cut short")


# Several files


def test_two_shards_with_the_same_key(folder, refused) -> None:
    shutil.copy(folder / FILE, folder / "transformer/diffusion_pytorch_model-2.safetensors")
    refused("which of them is meant", WEIGHTS, "model-2.safetensors")


@pytest.mark.parametrize("variant", ["fp16", "bf16", "non_ema"])
def test_a_second_variant_of_a_file(folder, refused, variant) -> None:
    tensors = {key: x.astype(np.float16) for key, x in load_file(folder / FILE).items()}
    save_file(tensors, folder / f"transformer/diffusion_pytorch_model.{variant}.safetensors")
    refused("which of them is meant", f"model.{variant}.safetensors", "one variant")


def sharded(folder: Path) -> dict[str, str]:
    """The transformer as two shards with their index, which it returns."""
    tensors = load_file(folder / FILE)
    (folder / FILE).unlink()
    names = {key: f"model-{i % 2:05}-of-00002.safetensors" for i, key in enumerate(tensors)}
    for name in set(names.values()):
        its_own = {key: tensors[key] for key in names if names[key] == name}
        save_file(its_own, folder / "transformer" / name)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return names


INDEXES: Mapping[str, tuple[Callable[[dict[str, str]], Any], tuple[str, ...]]] = {
    "a shard that is not there": (
        lambda names: {"weight_map": names | {KEY: "model-3.safetensors"}},
        ("model-3.safetensors",),
    ),
    "a file outside": (
        lambda names: {"weight_map": names | {KEY: "../../x.safetensors"}},
        ("x.safetensors",),
    ),
    "a key in no shard": (
        lambda names: {"weight_map": names | {"more.weight": names[KEY]}},
        (INDEX, "more.weight is to be in model-0"),
    ),
    "a key in the other shard": (
        lambda names: {
            "weight_map": names | {KEY: next(n for n in names.values() if n != names[KEY])}
        },
        (INDEX, f"{KEY} is to be in model-0"),
    ),
    "no map": (lambda names: {}, (INDEX, "weight_map=None: must be an object")),
    "a list": (lambda names: {"weight_map": list(names)}, (INDEX, "weight_map=[")),
    "numbers": (lambda names: {"weight_map": dict.fromkeys(names, 1)}, (INDEX, "must be text")),
    "all of it a list": (lambda names: [], (INDEX, "holds a list, expected an object")),
}


@pytest.mark.parametrize("fault", INDEXES)
def test_an_index_that_names_what_is_not_there(folder, refused, fault) -> None:
    content, named = INDEXES[fault]
    (folder / INDEX).write_text(json.dumps(content(sharded(folder))))
    refused("transformer", *named)


# Bytes


BYTES: Mapping[str, Callable[[bytes], bytes]] = {
    "no byte": lambda content: b"",
    "one byte": lambda content: content[:1],
    "eight bytes": lambda content: content[:8],
    "half the header": lambda content: content[:900],
    "half the tensors": lambda content: content[: len(content) // 2],
    "a byte less": lambda content: content[:-1],
    "a byte more": lambda content: content + b"\0",
    "zeros": lambda content: bytes(len(content)),
    "ones": lambda content: b"\xff" * len(content),
    "a Git LFS pointer": lambda content: b"version https://git-lfs.github.com/spec/v1\n",
    "a web page": lambda content: b"<!DOCTYPE html><html><body>not found</body></html>",
    "a pickle": lambda content: b"\x80\x02}q\x00." + content,
    "a zip": lambda content: b"PK\x03\x04" + content,
    "a header of 2**63 bytes": lambda content: struct.pack("<Q", 2**63) + content[8:],
    "a header longer than the file": lambda content: struct.pack("<Q", 10**9) + content[8:],
    "a header a byte short": lambda content: _length(content, -1),
    "a header a byte long": lambda content: _length(content, 1),
}


def _length(content: bytes, more: int) -> bytes:
    return struct.pack("<Q", int.from_bytes(content[:8], "little") + more) + content[8:]


@pytest.mark.parametrize("damage", BYTES)
def test_a_file_of_other_bytes(folder, refused, damage) -> None:
    file = folder / FILE
    file.write_bytes(BYTES[damage](file.read_bytes()))
    refused(str(file), "is no safetensors file, or is cut short: ")


def one(**changes: Any) -> bytes:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes
    return json.dumps({KEY: {k: v for k, v in entry.items() if v is not ...}}).encode()


HEADERS: Mapping[str, bytes] = {
    "empty": b"",
    "no JSON": b"hello",
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "not UTF-8": b'{"\xff": 1}',
    "nested": b"[" * 10**6,
    "nested and closed": b'{"a":' * 10**5 + b"1" + b"}" * 10**5,
    "a key twice": one()[:-1] + b"," + one()[1:],
    "an entry that is a list": json.dumps({KEY: [1, 2]}).encode(),
    "an entry that is null": json.dumps({KEY: None}).encode(),
    "no type": one(dtype=...),
    "no shape": one(shape=...),
    "no offsets": one(data_offsets=...),
    "a type that is a number": one(dtype=32),
    "a shape that is a number": one(shape=2),
    "a negative size": one(shape=[-2]),
    "a fraction": one(shape=[2.0]),
    "a boolean": one(shape=[True, 2]),
    "sizes beyond any file": one(shape=[2**62, 4]),
    "sizes beyond 64 bits": one(shape=[10**30]),
    "5,000 digits": b'{"a": %s}' % (b"9" * 5000),
    "NaN": one(shape=[float("nan")]),
    "offsets beyond the file": one(data_offsets=[0, 10**12], shape=[25 * 10**10]),
    "offsets backwards": one(data_offsets=[8, 0]),
    "negative offsets": one(data_offsets=[-8, 0]),
    "offsets that leave a gap": one(data_offsets=[4, 12]),
    "offsets for another shape": one(shape=[1]),
    "three offsets": one(data_offsets=[0, 4, 8]),
    "overlap": json.dumps(
        {
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        }
    ).encode(),
    "metadata of other things": one()[:-1] + b', "__metadata__": {"format": [1]}}',
    "too long": b"{" + b" " * 2**25 + b"}",
    "many keys": b"{%s}" % b",".join(b'"%d":{}' % i for i in range(500_000)),
}  # fmt: skip


@pytest.mark.parametrize("damage", HEADERS)
def test_a_header_that_cannot_be(folder, refused, damage) -> None:
    write(folder / FILE, HEADERS[damage], bytes(8))
    refused(str(folder / FILE), "is no safetensors file, or is cut short: ")


# What is no file


def pipe(path: Path) -> None:
    os.mkfifo(path)


NO_FILE: Mapping[str, Callable[[Path], object]] = {
    "a pipe": pipe,
    "a folder": lambda path: path.mkdir(),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a circle of links": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
}


@pytest.mark.parametrize("kind", NO_FILE)
@pytest.mark.parametrize(
    "name", [FILE, "vae/config.json", "model_index.json", "tokenizer/tokenizer.json"]
)
def test_what_is_no_file_is_not_waited_for(folder, refused, kind, name) -> None:
    (folder / name).unlink()
    NO_FILE[kind](folder / name)
    refused(Path(name).name if "transformer" not in name else "transformer")


# config.json


CONFIGS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "10^9 layers": (CONFIG, {"num_layers": 10**9}),
    "no layer": (CONFIG, {"num_layers": 0}),
    "fewer than no layer": (CONFIG, {"num_layers": -1}),
    "half a layer": (CONFIG, {"num_layers": 1.5}),
    "layers as text": (CONFIG, {"num_layers": "2"}),
    "layers as a switch": (CONFIG, {"num_layers": True}),
    "a width of zero": (CONFIG, {"attention_head_dim": 0}),
    "an odd width": (CONFIG, {"attention_head_dim": 15}),
    "an absurd width": (CONFIG, {"ffn_dim": 2**40}),
    "a width of 400 digits": (CONFIG, {"ffn_dim": 10**400}),
    "a width that is a list": (CONFIG, {"ffn_dim": [48]}),
    "a width that is null": (CONFIG, {"ffn_dim": None}),
    "patches of two sizes": (CONFIG, {"patch_size": [1, 2]}),
    "patches of zero": (CONFIG, {"patch_size": [1, 0, 2]}),
    "eps of zero": (CONFIG, {"eps": 0}),
    "eps of 10^400": (CONFIG, {"eps": 10**400}),
    "eps below zero": (CONFIG, {"eps": -1e-6}),
    "a norm of another kind": (CONFIG, {"qk_norm": "layer_norm"}),
    "std of zero": ("vae/config.json", {"latents_std": [1, 1, 0, 1]}),
    "std below zero": ("vae/config.json", {"latents_std": [1, 1, -1, 1]}),
    "std that is text": ("vae/config.json", {"latents_std": "1"}),
    "too few means": ("vae/config.json", {"latents_mean": [0, 0]}),
    "a wide latent": ("vae/config.json", {"z_dim": 10**9}),
    "no level": ("vae/config.json", {"dim_mult": []}),
    "too many levels": ("vae/config.json", {"dim_mult": [1] * 10**4}),
    "blocks beyond any": ("vae/config.json", {"num_res_blocks": 10**9}),
    "a vocabulary of none": ("text_encoder/config.json", {"vocab_size": 0}),
    "a vocabulary beyond any": ("text_encoder/config.json", {"vocab_size": 10**12}),
    "heads below zero": ("text_encoder/config.json", {"num_heads": -4}),
    "another activation": ("text_encoder/config.json", {"feed_forward_proj": "relu"}),
    "a boundary of 5": ("model_index.json", {"boundary_ratio": 5}),
    "a boundary of -1": ("model_index.json", {"boundary_ratio": -1}),
    "a shift of 0": ("scheduler/scheduler_config.json", {"flow_shift": 0}),
    "a shift of -3": ("scheduler/scheduler_config.json", {"flow_shift": -3}),
    "another pipeline": ("model_index.json", {"_class_name": ["WanPipeline"]}),
}


@pytest.mark.parametrize("fault", CONFIGS)
def test_configurations_that_cannot_be(folder, refused, fault) -> None:
    name, changes = CONFIGS[fault]
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    refused(str(path), *changes)
    refused(str(path), *changes, command="plan")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "NaN", '{"eps": NaN}', '{"eps": 1e999}', '{"eps": 1, "eps": 1}',
     "[" * 10**5, '{"eps": %s}' % ("9" * 5000), "{" + " " * 2**27, '{"num_layers": 2', "\ud800"],
    ids=lambda text: ascii(text[:12]),
)  # fmt: skip
@pytest.mark.parametrize("name", [CONFIG, "model_index.json", "vae/config.json"])
def test_what_is_no_json(folder, refused, name, text) -> None:
    (folder / name).write_text(text, errors="surrogatepass")
    refused(str(folder / name))
    refused(str(folder / name), command="plan")


STRANGERS = [
    ("vae/config.json", {"z_dim": 2, "latents_mean": [0, 0], "latents_std": [1, 1]}, "z_dim"),
    ("text_encoder/config.json", {"d_model": 64}, "d_model"),
    ("transformer_2/config.json", {"text_dim": 64}, "text_dim"),
    ("transformer_2/config.json", {"patch_size": [1, 4, 4]}, "patch_size"),
]


@pytest.mark.parametrize(("name", "changes", "key"), STRANGERS)
def test_parts_of_different_models(folder, refused, name, changes, key) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    refused(key, "they are parts of different models")
    refused(key, "they are parts of different models", command="plan")


def test_sizes_that_fit_each_other_and_no_machine(folder, refused) -> None:
    """Each size is allowed; the weights, which are not there in that size, say that it is wrong."""
    path = folder / CONFIG
    sizes = {"num_layers": 1000, "ffn_dim": 2**20, "num_attention_heads": 2**10}
    path.write_text(json.dumps(json.loads(path.read_text()) | sizes))
    refused("transformer does not hold this model")


# The tokenizer: all else is refused by its headers, and so is this before anything is read


TOKENIZERS: Mapping[str, Callable[[bytes], bytes]] = {
    "cut short": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "a pointer of Git LFS": lambda content: b"version https://git-lfs.github.com/spec/v1\n",
    "another object": lambda content: b'{"model": {"type": "Unigram", "vocab": 5}}',
    "no padding token": lambda content: content.replace(b"<pad>", b"<pat>"),
}


@pytest.mark.parametrize("damage", TOKENIZERS)
def test_a_damaged_tokenizer_is_seen_before_anything_compiles(
    folder, refused, damage, monkeypatch
) -> None:
    monkeypatch.setattr("wanjax.pipeline.ahead.compile_ahead", lambda *_: pytest.fail("compiles"))
    path = folder / "tokenizer/tokenizer.json"
    path.write_bytes(TOKENIZERS[damage](path.read_bytes()))
    refused(str(path))


# Token ids


def test_ids_beyond_the_embedding_table(folder, refused) -> None:
    """Seen where the tokenizer is read, which is before any weights are."""
    path = folder / "text_encoder/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 40}))
    (file,) = (folder / "text_encoder").glob("*.safetensors")
    tensors = load_file(file)
    save_file(tensors | {"shared.weight": tensors["shared.weight"][:40]}, file)
    refused("tokenizer: has ids up to 45, and the text encoder's vocab_size is 40")


# LoRAs


DOWN, UP = "blocks.0.attn1.to_q.lora_A.weight", "blocks.0.attn1.to_q.lora_B.weight"
PAIR = {DOWN: np.ones((2, 32), np.float32), UP: np.ones((32, 2), np.float32)}
LORAS: Mapping[str, Mapping[str, np.ndarray]] = {
    "whole numbers": {UP: np.ones((32, 2), np.int32)},
    "no rank": {DOWN: np.ones((0, 32), np.float32), UP: np.ones((32, 0), np.float32)},
    "a scalar": {DOWN: np.ones((), np.float32)},
    "two axes more": {UP: np.ones((32, 2, 3, 3), np.float32)},
    "another width": {DOWN: np.ones((2, 31), np.float32)},
    "two alphas": {"blocks.0.attn1.to_q.alpha": np.ones(2, np.float32)},
}


@pytest.mark.parametrize("damage", LORAS)
def test_loras_that_cannot_be_merged(folder, refused, damage) -> None:
    save_file(PAIR | dict(LORAS[damage]), "lora.safetensors")
    refused("lora.safetensors: ", "attn1.to_q", args=("lora=lora.safetensors",))


@pytest.mark.parametrize("strength", ["nan", "inf", "-inf", "1e999", "strong", ""])
def test_strengths_that_are_no_numbers(folder, refused, strength) -> None:
    save_file(PAIR, "lora.safetensors")
    refused("must be a number", args=(f"lora=lora.safetensors:{strength}",))
    os.mkfifo("pipe.safetensors")
    refused("pipe.safetensors", args=("lora=pipe.safetensors",))
