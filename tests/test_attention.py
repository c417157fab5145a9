"""Which attention kernel is chosen for what, and that all of them compute the same."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wanjax.errors import UsageError
from wanjax.models.attention import attention
from wanjax.models.clip import CLIPVisionModel
from wanjax.models.configs import CLIPVisionConfig, TransformerConfig, VAEConfig
from wanjax.models.kernels import chunked, run, splash
from wanjax.models.kernels.choose import TPUS, Blocks, DeviceKind, Kernel, KernelChoice, choose
from wanjax.models.kernels.ulysses import Exchange
from wanjax.models.transformer import WanTransformer
from wanjax.models.vae import WanVAE

HERE = Path(__file__).parent
MIB = 2**20
# Sums of some hundred terms near 1, in float32, in another order: about ten roundings of 6e-8.
ROUNDING = 1e-6

H100 = DeviceKind("gpu", "NVIDIA H100 80GB HBM3")
V6E = DeviceKind("tpu", "TPU v6 lite")
CPU = DeviceKind("cpu", "cpu")
VIDEO = 75_600  # tokens of 81 frames of 720x1280

# target, dtype, head dimension, queries, keys: the kernel that `auto` takes
AUTO = {
    "video on NVIDIA": (H100, "bfloat16", 128, VIDEO, VIDEO, "cudnn"),
    "video on A100": (
        DeviceKind("gpu", "NVIDIA A100-SXM4-80GB"),
        "bfloat16",
        128,
        VIDEO,
        VIDEO,
        "cudnn",
    ),
    "video on B200": (DeviceKind("gpu", "NVIDIA B200"), "bfloat16", 128, VIDEO, VIDEO, "cudnn"),
    "video on RTX 4090": (
        DeviceKind("gpu", "NVIDIA GeForce RTX 4090"),
        "float16",
        128,
        VIDEO,
        VIDEO,
        "cudnn",
    ),
    "text on NVIDIA": (H100, "bfloat16", 128, VIDEO, 512, "cudnn"),
    "float32 on NVIDIA": (H100, "float32", 128, VIDEO, VIDEO, "chunked"),
    "VAE on NVIDIA": (H100, "bfloat16", 384, 14_400, 14_400, "chunked"),
    "older than Ampere": (
        DeviceKind("gpu", "Tesla V100-SXM2-32GB"),
        "bfloat16",
        128,
        VIDEO,
        VIDEO,
        "chunked",
    ),
    "Turing": (DeviceKind("gpu", "Tesla T4"), "float16", 128, VIDEO, VIDEO, "chunked"),
    "AMD": (DeviceKind("gpu", "AMD Instinct MI300X"), "bfloat16", 128, VIDEO, VIDEO, "chunked"),
    "video on TPU": (V6E, "bfloat16", 128, VIDEO, VIDEO, "splash"),
    "text on TPU": (V6E, "bfloat16", 128, 9_450, 512, "splash"),
    "float32 on TPU": (V6E, "float32", 128, VIDEO, VIDEO, "chunked"),
    "small heads on TPU": (V6E, "bfloat16", 64, VIDEO, VIDEO, "chunked"),
    "video on CPU": (CPU, "float32", 128, VIDEO, VIDEO, "chunked"),
    "CLIP on NVIDIA": (H100, "bfloat16", 80, 257, 257, "xla"),
    "CLIP on TPU": (V6E, "bfloat16", 80, 257, 257, "xla"),
    "bundled model": (CPU, "float32", 24, 80, 80, "xla"),
}


@pytest.mark.parametrize("case", AUTO.values(), ids=AUTO)
def test_automatic_choice(case):
    *arguments, expected = case
    assert choose(*arguments).name == expected


def test_parts_of_a_long_sequence_are_no_short_sequence():
    """Each of 32 devices holds 1,024 tokens: scores of all of them are not held whole."""
    assert choose(CPU, "float32", 128, 1024, 1024).name == "xla"
    assert choose(CPU, "float32", 128, 1024, 1024, parts=32).name == "chunked"


@pytest.mark.parametrize("name", ["chunked", "xla", "splash"])
def test_a_name_is_taken_as_it_is(name):
    assert choose(V6E, "bfloat16", 128, 80, 80, name).name == name


@pytest.mark.parametrize(
    ("target", "dtype", "requested", "fix"),
    [
        (CPU, "bfloat16", "cudnn", "NVIDIA GPU from Ampere on"),
        (V6E, "bfloat16", "cudnn", "NVIDIA GPU from Ampere on"),
        (H100, "float32", "cudnn", "bfloat16 or float16"),
        (H100, "bfloat16", "splash", "needs a TPU"),
        (H100, "bfloat16", "flash", "must be one of auto, cudnn, splash, chunked, xla"),
    ],
)
def test_what_the_target_cannot_run_is_refused(target, dtype, requested, fix):
    with pytest.raises(UsageError, match=fix):
        choose(target, dtype, 128, VIDEO, VIDEO, requested)


@pytest.mark.parametrize(
    ("kind", "queries", "blocks"),
    [
        ("TPU v6 lite", VIDEO, Blocks(9472, 1024, 256)),
        ("TPU7x", VIDEO, Blocks(9472, 1024, 512)),
        ("TPU v5 lite", VIDEO, Blocks(9472, 1024, 128)),
        ("TPU v5", VIDEO, Blocks(4736, 1024, 128)),
        ("TPU v6 lite", 32_760, Blocks(8192, 1024, 256)),
        ("TPU v9", VIDEO, Blocks(2048, 512, 128)),
    ],
)
def test_blocks_of_splash(kind, queries, blocks):
    """Those with the fewest cycles in docs/attention.md; 480p is divided evenly."""
    assert choose(DeviceKind("tpu", kind), "bfloat16", 128, queries, queries).blocks == blocks


@pytest.mark.parametrize("kind", [*TPUS, "TPU v9"])
@pytest.mark.parametrize(
    ("dtype", "head_dim"), [("bfloat16", 128), ("float32", 128), ("float32", 512)]
)
@pytest.mark.parametrize("keys", [257, 512, VIDEO])
def test_blocks_fit_the_vector_memory(kind, dtype, head_dim, keys):
    kernel = choose(DeviceKind("tpu", kind), dtype, head_dim, VIDEO, keys, "splash")
    memory = TPUS[kind].vector_memory if kind in TPUS else 16 * MIB
    need = kernel.blocks.vector_memory(head_dim, 4 if dtype == "float32" else 2)
    assert need <= kernel.vector_memory <= memory
    assert need <= 0.75 * memory
    assert kernel.blocks.keys % kernel.blocks.keys_compute == 0


def test_the_model_of_vector_memory_is_a_bound():
    """MiB that compiling for v6e, tpu7x and v5p took, at most (docs/attention.md)."""
    measured = {(2048, 256): 5.9, (4736, 256): 12.6, (9472, 256): 24.5, (9472, 128): 20.0}
    for (queries, keys_compute), mib in measured.items():
        need = Blocks(queries, 1024, keys_compute).vector_memory(128, 2) / MIB
        assert mib <= need <= 1.5 * mib


def arrays(batch=2, queries=300, keys=400, heads=3, dim=16, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = [(batch, length, heads, dim) for length in (queries, keys, keys)]
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


SPLASH = Kernel("splash", Blocks(128, 256, 128), 16 * MIB, interpret=True)
KERNELS = {
    "chunked": Kernel("chunked"),
    "chunked by queries": Kernel("chunked", score_bytes=2 * 400 * 4 * 3 * 130),
    "chunked by heads": Kernel("chunked", score_bytes=2 * 400 * 4 * 70),
    "splash": SPLASH,
    "splash as chosen": choose(CPU, "float32", 16, 300, 400, "splash"),
}
each_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)


@each_kernel
@pytest.mark.parametrize("lengths", [None, (383, 129), (1, 400)], ids=str)
def test_every_kernel_computes_the_same(kernel, lengths):
    lengths = None if lengths is None else jnp.array(lengths)
    q, k, v = arrays()
    whole = run.attend(q, k, v, lengths, Kernel("xla"))
    np.testing.assert_allclose(run.attend(q, k, v, lengths, kernel), whole, atol=ROUNDING)


@pytest.mark.parametrize("lengths", [None, (2499,), (2049,), (7,)], ids=str)
def test_tiles_that_overlap_count_no_key_twice(lengths):
    """2,500 keys in tiles of 2,048: the second one starts at 452."""
    lengths = None if lengths is None else jnp.array(lengths)
    q, k, v = arrays(batch=1, queries=5, keys=2500)
    whole = run.attend(q, k, v, lengths, Kernel("xla"))
    chunks = run.attend(q, k, v, lengths, Kernel("chunked"))
    np.testing.assert_allclose(chunks, whole, atol=ROUNDING)


@each_kernel
def test_what_lies_behind_the_keys_does_not_count(kernel):
    """Not even where it is no number."""
    lengths = jnp.array([383, 129])
    q, k, v = arrays()
    expected = run.attend(q, k, v, lengths, kernel)
    behind = (jnp.arange(400) >= lengths[:, None])[..., None, None]
    k, v = (jnp.where(behind, jnp.nan, x) for x in (k, v))
    if kernel.name == "chunked":  # a mask of scores alone, as XLA's own kernel has
        v = jnp.where(behind, 1e30, v)
    np.testing.assert_array_equal(run.attend(q, k, v, lengths, kernel), expected)


@pytest.mark.parametrize("kernel", [Kernel("chunked"), SPLASH], ids=["chunked", "splash"])
def test_half_precision(kernel):
    """Weights and values have 8 bits: results of size 1 agree to a few times 2^-9."""
    q, k, v = arrays(dtype=jnp.bfloat16)
    exact = run.attend(*(x.astype(jnp.float32) for x in (q, k, v)), None, Kernel("xla"))
    result = run.attend(q, k, v, None, kernel)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_allclose(result.astype(jnp.float32), exact, atol=4 * 2**-9)


@pytest.mark.parametrize("part", [chunked, splash], ids=["chunked", "splash"])
def test_parts_add_up_by_their_sums(part):
    """Two halves of the keys, put together; a half without keys weighs nothing."""
    q, k, v = arrays()
    kernel = SPLASH if part is splash else Kernel("chunked")
    for lengths in ([200, 200], [200, 0]):
        halves = [
            run.attend_partly(
                run.prepare(q, kernel)[None],
                x[None],
                y[None],
                jnp.full((1, 2), length, jnp.int32),
                kernel,
            )
            for x, y, length in zip(jnp.split(k, 2, 1), jnp.split(v, 2, 1), lengths, strict=True)
        ]
        (out, out2), (total, total2) = zip(*halves, strict=True)
        weight = jax.nn.sigmoid(total - total2).swapaxes(2, 3)[..., None]
        expected = run.attend(q, k, v, jnp.full(2, sum(lengths)), Kernel("xla"))
        merged = (weight * out + (1 - weight) * out2)[0]
        np.testing.assert_allclose(merged, expected, atol=ROUNDING)


def temporaries(length: int, score_bytes: int, heads: int = 4) -> int:
    """Bytes that the compiled chunked kernel takes beside its arguments."""
    shape = jax.ShapeDtypeStruct((1, length, heads, 64), jnp.float32)
    kernel = Kernel("chunked", score_bytes=score_bytes)
    attend = jax.jit(lambda q, k, v: chunked.attend(q, k, v, None, kernel))
    return attend.lower(shape, shape, shape).compile().memory_analysis().temp_size_in_bytes


def test_memory_of_the_chunked_kernel_follows_its_budget():
    """Scores, their exponentials and little else: at most four tiles."""
    q_k_v = 3 * 16384 * 4 * 64 * 4
    for budget in (4 * MIB, 16 * MIB, 64 * MIB):
        assert budget < temporaries(16384, budget) < 4 * budget + q_k_v


def test_memory_of_the_chunked_kernel_does_not_grow_with_scores():
    """Four times the tokens are 16 times the scores; four times the arrays remain."""
    assert temporaries(65536, 8 * MIB) < 4.5 * temporaries(16384, 8 * MIB)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((2, 40, VIDEO, VIDEO), (40, 409, 2048)),  # 256 MiB for 80 heads
        ((1, 1, 6240, 6240), (1, 6240, 2048)),  # the VAE at 480p, at once
        ((8, 40, 1024, 4096), (32, 128, 2048)),  # too many heads for that few queries
        ((1, 2, 7, 5), (2, 7, 5)),
    ],
)
def test_tiles_of_the_chunked_kernel(sizes, expected):
    tile = chunked.tile(*sizes, score_bytes=256 * MIB)
    assert tile == expected
    assert sizes[0] * tile.heads * tile.queries * tile.keys * 4 <= 256 * MIB


@pytest.mark.parametrize(
    ("devices", "heads", "ulysses", "ring"),
    [(8, 40, 8, 1), (8, 12, 4, 2), (16, 40, 8, 2), (8, 5, 1, 8), (4, 1, 1, 4)],
)
def test_how_devices_share_heads(devices, heads, ulysses, ring):
    exchange = Exchange.of(("context",), devices, heads)
    assert (exchange.ulysses, exchange.ring) == (ulysses, ring)


def test_groups_hold_consecutive_tokens_and_rings_the_same_heads():
    exchange = Exchange.of(("context",), 8, 12)
    assert exchange.groups == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert exchange.rings == [[0, 4], [1, 5], [2, 6], [3, 7]]


@pytest.fixture(scope="module")
def facts():
    """What attention on meshes of eight devices reports."""
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    return _run("attention_on_a_mesh.py", {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"})


def _run(script: str, environment: dict[str, str]) -> dict:
    done = subprocess.run(
        [sys.executable, str(HERE / script)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_mesh_gives_the_result_of_one_device(facts):
    """Self-attention, the same with padding keys, cross-attention."""
    assert len(facts) >= 12
    assert {name: f["errors"] for name, f in facts.items() if max(f["errors"]) > ROUNDING} == {}


@pytest.mark.slow
def test_no_device_gathers_the_tokens(facts):
    """Ulysses exchanges, a ring passes on; where tokens divide nothing else moves."""
    divided = {name: f["collectives"] for name, f in facts.items() if f["divides"]}
    assert divided["ulysses"] == ["all-to-all"]
    assert divided["ring"] == ["collective-permute"]
    assert divided["ring of groups"] == ["all-to-all", "collective-permute"]
    assert all("all-gather" not in moved for moved in divided.values())


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra `tpu`")
def test_blocks_compile_for_tpus_that_are_not_here():
    """Ulysses over eight chips, 75,600 and 32,760 tokens: no vector memory is exceeded."""
    environment = {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    for target, found in _run("attention_on_targets.py", environment).items():
        assert found["kernels"] == ["splash_attention"], target
        # queries, keys and values before and after the exchange, not all at once
        assert found["temporary_bytes"] < 6 * found["query_bytes"], target


def random(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def of_vae(kernel):
    vae = WanVAE(
        VAEConfig(base_dim=8, dim_mult=(1, 2), temperal_downsample=(True,), num_res_blocks=1),
        kernel=kernel,
        rngs=nnx.Rngs(0),
    )
    return partial(vae.encoder.mid_block.attentions[0], random(1, 2, 4, 4, 16))


def of_clip(kernel):
    clip = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=8,
            patch_size=2,
        ),
        kernel=kernel,
        rngs=nnx.Rngs(0),
    )
    return partial(clip, random(1, 8, 8, 3))


def of_transformer(kernel):
    config = TransformerConfig(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=8,
        ffn_dim=16,
        num_layers=1,
    )
    transformer = WanTransformer(config, kernel=kernel, rngs=nnx.Rngs(0))
    text = transformer.embed_context(random(1, 5, 8))
    return partial(transformer, random(1, 4, 2, 4, 4), jnp.array([500.0]), text)


@pytest.mark.parametrize("model", [of_vae, of_clip, of_transformer])
def test_every_model_asks_at_one_place(model):
    """What `attention` refuses, each model refuses; what it allows gives the same."""
    choices = {name: KernelChoice(CPU, name) for name in ("xla", "chunked", "cudnn")}
    calls = {name: jax.jit(model(choice)) for name, choice in choices.items()}
    # three layers deep, each a sum in another order
    np.testing.assert_allclose(calls["chunked"](), calls["xla"](), atol=1e-5)
    with pytest.raises(UsageError, match="attention=cudnn on cpu"):
        calls["cudnn"]()


def test_the_target_is_part_of_what_is_compiled():
    """Two targets, two graphs: no program of one is taken for the other."""
    config = TransformerConfig(num_layers=1, num_attention_heads=1, attention_head_dim=12)

    def graph(target: DeviceKind):
        choice = KernelChoice(target)
        made = nnx.eval_shape(lambda: WanTransformer(config, kernel=choice, rngs=nnx.Rngs(0)))
        return nnx.split(made)[0]

    assert graph(V6E) == graph(V6E)
    assert graph(V6E) != graph(H100)


def test_a_bare_name_is_for_the_devices_that_are_here():
    q, k, v = arrays()
    np.testing.assert_array_equal(
        attention(q, k, v, "chunked"), attention(q, k, v, Kernel("chunked"))
    )
    with pytest.raises(UsageError, match="attention=cudnn on cpu"):
        attention(q, k, v, "cudnn")
