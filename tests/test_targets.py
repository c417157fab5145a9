"""Machines by name, without any of them."""

import pytest

from wanjax.errors import UsageError
from wanjax.parallel.targets import (
    let_weights_wait_on_host,
    parse_target,
    require_extra,
    set_environment,
)


@pytest.mark.parametrize(
    ("name", "kind", "devices"),
    [
        ("v5e:2x4", "TPU v5 lite", 8),
        ("v5p:2x2x1", "TPU v5", 4),
        ("v6e:4x4", "TPU v6 lite", 16),
        ("tpu7x:2x2x1", "TPU7x", 8),  # a chip is two devices
        ("h100", "NVIDIA H100 80GB HBM3", 1),
        ("H100:8", "NVIDIA H100 80GB HBM3", 8),
    ],
)
def test_names(name, kind, devices):
    target = parse_target(name)
    assert (target.kind, target.devices) == (kind, devices)


def test_a_gpu_has_what_jax_takes_of_its_memory(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    assert parse_target("h100").memory_limit == int(84942979072 * 0.75)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")
    assert parse_target("h100").memory_limit == int(84942979072 * 0.95)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("v6:2x4", "did you mean v6e"),
        ("v7x:2x2", "no machine that is known here"),
        ("v6e:1x2", "each a multiple of those of v6e:2x2; one chip is v6e:1x1"),
        ("v6e", "has 2 sizes"),
        ("v5p:2x2", "has 3 sizes"),
        ("h100:0", "the number of GPUs"),
        ("h100:2x4", "the number of GPUs"),
    ],
)
def test_what_is_no_machine(name, text):
    with pytest.raises(UsageError, match=text):
        parse_target(name)


def test_a_missing_compiler_names_its_extra(monkeypatch):
    monkeypatch.setattr("wanjax.parallel.targets._installed", lambda module: False)
    with pytest.raises(UsageError, match=r"pip install 'wanjax\[tpu\]'"):
        require_extra(parse_target("v6e:2x4"))
    with pytest.raises(UsageError, match=r"pip install 'wanjax\[cuda13\]'"):
        require_extra(parse_target("h100"))


def test_the_environment_keeps_the_flags_that_are_set():
    environment = {"XLA_FLAGS": "--xla_dump_to=here", "JAX_PLATFORMS": "tpu"}
    set_environment(environment)
    assert environment["XLA_FLAGS"] == "--xla_dump_to=here --xla_gpu_autotune_level=0"
    assert environment["JAX_PLATFORMS"] == "cpu"  # this process computes nothing elsewhere
    set_environment(environment)
    assert environment["XLA_FLAGS"].count("autotune") == 1


def test_weights_may_wait_in_most_of_the_hosts_memory(monkeypatch):
    monkeypatch.setattr("wanjax.parallel.targets.host_memory", lambda: 100 * 2**30)
    environment: dict = {}
    let_weights_wait_on_host(environment)
    assert environment == {"XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB": "70"}
    environment = {"XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB": "90"}  # the user knows better
    let_weights_wait_on_host(environment)
    assert environment == {"XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB": "90"}
