"""Made-up input of every kind that is read: it is understood, or refused in one line by name.

Fifty cases of each are always tried, a thousand with `-m slow`; the same ones every time.
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from wanjax.caching import Curve
from wanjax.caching.curve import FORMAT
from wanjax.caching.sensitivities import Sensitivities
from wanjax.checkpoints.containers.safetensors import safetensors_header
from wanjax.checkpoints.locate import ModelIndex, parse
from wanjax.checkpoints.stored import DTYPES
from wanjax.config.keys import Config, keys
from wanjax.config.resolve import resolve
from wanjax.config.saved import read_yaml
from wanjax.errors import CheckpointError, CurveError, SensitivityError, UsageError, printable
from wanjax.files import read_json
from wanjax.media.clip_processor import ImageProcessor
from wanjax.models.configs import CLIPVisionConfig, TransformerConfig, UMT5Config, VAEConfig

COUNTS = [50, pytest.param(1000, marks=pytest.mark.slow)]

NUMBERS = st.one_of(
    st.integers(-3, 70),
    st.integers(-(2**70), 2**70),
    st.floats(-2, 1100),
    st.floats(),
    st.sampled_from([0, 1, 0.5, 1e-6, 10**400, -0.0, 1e308, 2**53 + 1]),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=12))
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)
TEXTS = st.one_of(
    st.text(max_size=40),
    st.text(string.printable, max_size=40),
    st.text(string.digits + "+-.eE_xn", max_size=12),
    NUMBERS.map(str),
    st.sampled_from(
        ["", "@", "-", "~", "../x", "nan", "inf", "[1,2]", "true", "null", "{}", "a,b"]
    ),
)


def all_hold(count: int, cases: SearchStrategy[Any], holds: Callable[[Any], None]) -> None:
    """Try `holds` with so many cases; what fails is made as small as it can be."""
    tried = settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )(given(cases)(lambda case: holds(case)))
    tried()


def assert_readable(error: UsageError, file: str = "") -> None:
    """What a command prints of it is one line of a bounded length, which names the file."""
    text = printable(str(error))
    assert text
    assert file in text
    assert text.isprintable()
    assert len(text) <= 2003


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("count", COUNTS)
def test_the_configuration(count: int) -> None:
    names = st.one_of(st.sampled_from(sorted(keys())), st.text(max_size=8))
    pairs = st.lists(st.tuples(names, TEXTS).map("=".join), max_size=3)
    arguments = st.tuples(st.sampled_from(["tiny-t2v", "tiny-i2v", "wan2.2-t2v-a14b"]), pairs)

    def holds(case: tuple[str, list[str]]) -> None:
        preset, given = case
        try:
            config = resolve([preset, *given], "show")
        except UsageError as error:
            assert_readable(error)
        else:
            assert isinstance(config, Config)
            assert_possible(config)

    all_hold(count, arguments, holds)


def assert_possible(config: Config) -> None:
    assert config.height > 0
    assert config.width > 0
    assert config.num_frames % 4 == 1
    assert config.num_inference_steps >= 1
    assert 0 < config.flow_shift < math.inf
    assert config.boundary_ratio is None or 0 <= config.boundary_ratio <= 1
    assert config.seed is None or 0 <= config.seed < 2**32


@pytest.mark.parametrize("count", COUNTS)
def test_values_from_python(count: int) -> None:
    names = st.sampled_from(sorted(keys()))

    def holds(values: dict[str, Any]) -> None:
        try:
            assert_possible(resolve(["tiny-t2v"], "show", values=values))
        except UsageError as error:
            assert_readable(error)

    all_hold(count, st.dictionaries(names, JSON, max_size=3), holds)


@pytest.mark.parametrize("count", COUNTS)
def test_yaml(count: int) -> None:
    written = st.dictionaries(st.one_of(st.sampled_from(sorted(keys())), st.text(max_size=5)), JSON)
    texts = st.one_of(
        written.map(yaml.safe_dump).map(str.encode),
        st.text(":-[]{},&*!|>'\"%@`#?\n \tab1", max_size=60).map(str.encode),
        st.binary(max_size=60),
    )

    def holds(content: bytes) -> None:
        Path("x.yml").write_bytes(content)
        try:
            found = read_yaml(Path("x.yml"))
        except UsageError as error:
            assert_readable(error, "x.yml")
        else:
            assert all(isinstance(name, str) for name in found)

    all_hold(count, texts, holds)


def written(value: Any) -> str:
    return json.dumps(value)


CURVE: dict[str, SearchStrategy[Any]] = {
    "format": st.just(FORMAT),
    "version": st.sampled_from([1, 2, 3, 4, "1", None]),
    "ratios": st.one_of(st.lists(st.lists(NUMBERS, max_size=3), max_size=5), JSON),
    "sigmas": st.one_of(st.lists(NUMBERS, max_size=5), JSON),
    "flow_shift": SCALARS,
    "boundary_ratio": SCALARS,
    "boundary_step": SCALARS,
    "steps": SCALARS,
    "growth": JSON,
    "inner_products": JSON,
    "notes": SCALARS,
}


@pytest.mark.parametrize("count", COUNTS)
def test_curves(count: int) -> None:
    """A shipped one with fields changed, and dictionaries of such fields alone."""
    Curve.load("tiny-t2v").save("shipped.json")
    shipped = json.loads(Path("shipped.json").read_text())
    changes = st.fixed_dictionaries({}, optional=CURVE)
    cases = st.one_of(
        changes.map(lambda changed: shipped | changed),
        changes,
        st.tuples(st.sampled_from(sorted(shipped)), JSON).map(lambda pair: shipped | dict([pair])),
    )

    def holds(content: dict[str, Any]) -> None:
        Path("c.json").write_text(written(content))
        try:
            curve = Curve.load("c.json")
        except CurveError as error:
            assert_readable(error, "c.json")
        else:
            assert curve.ratios.ndim == 2
            assert not np.isnan(curve.ratios).any()

    all_hold(count, cases, holds)


@pytest.mark.parametrize("count", COUNTS)
def test_sensitivities(count: int) -> None:
    lists = st.one_of(st.lists(NUMBERS, max_size=4), JSON)
    cases = st.fixed_dictionaries(
        {"format": st.just("wanjax-sensitivities"), "version": st.sampled_from([1, 1, 1, 2, "1"])},
        optional={
            "timesteps": lists, "alpha_x": lists, "alpha_t": lists, "model": SCALARS, "x": JSON,
        },
    )  # fmt: skip

    def holds(content: dict[str, Any]) -> None:
        Path("s.json").write_text(written(content))
        try:
            found = Sensitivities.load("s.json")
        except SensitivityError as error:
            assert_readable(error, "s.json")
        else:
            assert len(found.timesteps) == len(found.alpha_x) == len(found.alpha_t)
            assert np.isfinite(found.alpha_x).all()

    all_hold(count, cases, holds)


KINDS = [ModelIndex, TransformerConfig, VAEConfig, UMT5Config, CLIPVisionConfig, ImageProcessor]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_configurations_of_checkpoints(kind: Any, count: int) -> None:
    names = st.sampled_from([*kind.__dataclass_fields__, "size", "crop_size", "other"])
    sizes = st.sampled_from([1, 2, 4, 16, [1, 2, 2], [4, 4], [1.0] * 16, "gelu", True])

    def holds(content: dict[str, Any]) -> None:
        Path("config.json").write_text(written(content))
        try:
            made = parse(kind, Path("config.json"))
        except CheckpointError as error:
            assert_readable(error, "config.json")
        else:
            assert all(not isinstance(v, float) or math.isfinite(v) for v in vars(made).values())

    all_hold(count, st.dictionaries(names, st.one_of(sizes, JSON), max_size=5), holds)


@pytest.mark.parametrize("count", COUNTS)
def test_json_of_any_bytes(count: int) -> None:
    texts = st.one_of(
        JSON.map(written).map(str.encode),
        st.text('{}[],:"01.eE-nultrfasN \\', max_size=40).map(str.encode),
        st.binary(max_size=40),
    )

    def holds(content: bytes) -> None:
        Path("x.json").write_bytes(content)
        try:
            assert isinstance(read_json(Path("x.json"), CheckpointError), dict)
        except CheckpointError as error:
            assert_readable(error, "x.json")

    all_hold(count, texts, holds)


ENTRIES = st.one_of(
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F16", "BF16", "F8_E4M3", "I64", "C64", "X", 1, None]),
            "shape": st.one_of(st.lists(st.integers(-1, 5), max_size=3), JSON),
            "data_offsets": st.one_of(
                st.tuples(st.integers(-1, 40), st.integers(-1, 40)).map(list), JSON
            ),
        }
    ),
    JSON,
)
NAMES = st.sampled_from(["a", "b", "c", "__metadata__"])


@pytest.mark.parametrize("count", COUNTS)
def test_headers_of_safetensors(count: int) -> None:
    """What is taken lies in the file, tensor after tensor."""
    headers = st.one_of(
        st.dictionaries(NAMES, ENTRIES, max_size=3).map(written).map(str.encode),
        st.lists(st.integers(0, 3), max_size=3).map(right_header),
        st.binary(max_size=60),
    )
    lengths = st.one_of(st.none(), st.integers(0, 200), st.sampled_from([2**63, 2**64 - 1, 10**9]))

    def holds(case: tuple[bytes, int | None, int]) -> None:
        header, length, data = case
        size = (len(header) if length is None else length).to_bytes(8, "little")
        file = Path("x.safetensors")
        file.write_bytes(size + header + bytes(data))
        try:
            found = safetensors_header(file)
        except CheckpointError as error:
            assert_readable(error, "x.safetensors")
            return
        for stored in found.tensors.values():
            assert all(side >= 0 for side in stored.shape)
            if stored.dtype in DTYPES:
                end = stored.offset + math.prod(stored.shape) * DTYPES[stored.dtype].itemsize
                assert 8 <= stored.offset <= end <= file.stat().st_size

    all_hold(count, st.tuples(headers, lengths, st.integers(0, 48)), holds)


def right_header(sizes: list[int]) -> bytes:
    entries, end = {}, 0
    for name, size in zip("abc", sizes, strict=False):
        start, end = end, end + 4 * size
        entries[name] = {"dtype": "F32", "shape": [size], "data_offsets": [start, end]}
    return json.dumps(entries).encode()
