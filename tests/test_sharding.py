"""Arrays on a mesh: a transformer and whole videos on eight devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec
from small_folder import make_small_folder

from wanjax.errors import UsageError
from wanjax.parallel.mesh import ACTIVATION_RULES, PARAMETER_RULES, MeshShape
from wanjax.parallel.sharding import UndividedWarning, make_mesh, partition_spec, place
from wanjax.sampling.programs import Programs

SCRIPT = Path(__file__).parent / "eight_devices.py"

# What a device holds on each mesh: of the 2 x 32 tokens, and of the blocks' matrices.
MESHES = {
    "fsdp:8": ((2, 4), 1 / 8),
    "context:8": ((2, 4), 1),
    "data:2,fsdp:2,context:2": ((1, 8), 1 / 2),
    "fsdp:2,context:2,tensor:2": ((2, 8), 1 / 4),
    "data:8": ((2, 32), 1),  # does not divide two videos
}


def on_eight_devices(*arguments: str) -> dict:
    """What `eight_devices.py` prints, run with eight CPU devices."""
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["devices"] == 8
    return facts


@pytest.fixture(scope="module")
def facts(small_folder):
    return on_eight_devices(str(small_folder), "transformer", *MESHES)


@pytest.mark.parametrize("mesh", MESHES)
def test_same_output_on_every_mesh(facts, mesh):
    """Sums are taken in another order: 4e-7 here, where a missing part would show as 1e-1."""
    assert facts["meshes"][mesh]["error"] < 2e-6


@pytest.mark.parametrize("mesh", MESHES)
def test_a_mesh_shares_parameters_and_tokens(facts, mesh):
    tokens, matrices = MESHES[mesh]
    found = facts["meshes"][mesh]
    assert tuple(found["tokens"][:2]) == tokens
    assert found["held"] == [matrices]


def test_a_program_is_of_its_mesh(facts):
    """One function, compiled for no mesh and then for others, for the same arguments.

    The mesh was a context variable that no cache knew: every program was that of the first,
    and ran unsharded. A mesh that the caller has set is not taken either.
    """
    assert facts["tokens held"] == [32, 4, 4, 8, 8, 32, 32]


def test_what_a_mesh_cannot_divide_is_said_once(facts):
    (said,) = facts["said"]
    assert said.startswith("batch (2) cannot be divided by 8")


# Two heads, so that eight devices' tokens go round a ring. `tensor:8` divides the feed-forward of
# 48 alone: heads that it does not divide are put together. With `data:2` a single video's guidance
# branches are on a half each.
VIDEO_MESHES = (
    "fsdp:8",
    "context:8",
    "tensor:8",
    "fsdp:4,context:2",
    "data:2,context:4",
    "data:2,fsdp:2,tensor:2",
    "fsdp:2,context:2,tensor:2",
)
BATCH_MESHES = ("data:2,fsdp:2,context:2", "data:4,tensor:2", "fsdp:2,context:4")
IMAGE_MESHES = ("fsdp:8", "data:2,context:4", "fsdp:2,context:2,tensor:2")
ROUNDING = 1e-5  # of eight steps, of the guided difference times five: 1e-6 here


@pytest.mark.slow
@pytest.mark.parametrize("mesh", VIDEO_MESHES)
def test_same_video_on_every_mesh(small_folder, mesh):
    """Dense and by every method, through the whole pipeline; what a step moves is latents."""
    (found,) = on_eight_devices(str(small_folder), "videos", mesh)["meshes"].values()
    assert len(found["errors"]) == 8
    assert found["errors"].pop("frames") <= 1 / 255  # the last place of a pixel
    assert max(found["errors"].values()) < ROUNDING, found["errors"]
    if mesh != "tensor:8":
        check_moved(found["moved"], tensor="tensor" in mesh)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", BATCH_MESHES)
def test_same_videos_of_a_batch_whose_tokens_do_not_divide(small_folder, mesh):
    (found,) = on_eight_devices(str(small_folder), "batches", mesh)["meshes"].values()
    assert found["errors"].pop("frames") <= 1 / 255
    assert max(found["errors"].values()) < ROUNDING, found["errors"]


@pytest.mark.slow
@pytest.mark.parametrize("mesh", IMAGE_MESHES)
def test_same_video_of_an_image_on_every_mesh(tmp_path, mesh):
    folder = make_small_folder(tmp_path, image=True)
    (found,) = on_eight_devices(str(folder), "videos", mesh)["meshes"].values()
    assert found["errors"].pop("frames") <= 1 / 255
    assert max(found["errors"].values()) < ROUNDING, found["errors"]
    check_moved(found["moved"], tensor="tensor" in mesh)


def check_moved(moved: dict[str, list], *, tensor: bool) -> None:
    """No step puts hidden states together; one that is skipped moves none of them at all.

    A computed one exchanges them for heads (all-to-all), passes keys and values on and, with
    `tensor`, adds them up. A step that is forecast moves nothing.
    """
    gathered = [shape for kind, shape in moved["computed"] if kind == "all-gather"]
    assert not [shape for shape in gathered if is_hidden(shape)]
    assert not [shape for _, shape in moved["skipped"] if is_hidden(shape)]
    exchanged = {kind for kind, shape in moved["computed"] if is_hidden(shape)}
    assert exchanged  # so hidden states would be seen
    assert ("all-reduce" in exchanged) == tensor
    assert moved["forecast"] == []


def is_hidden(shape: list[int]) -> bool:
    """80 tokens, or a part of them, of the model's width of 32 or in heads of 16.

    The prompt has 16 tokens and weights two axes; latents end in rows of 20, or in patches of 16.
    """
    tokens = any(size in (10, 20, 40, 80) for size in shape[:-1])
    return tokens and shape[-1:] == [32 if len(shape) == 3 else 16]


@pytest.mark.slow
@pytest.mark.parametrize("image", [False, True], ids=["text", "image"])
def test_a_run_on_a_mesh_uses_the_programs_that_were_compiled(tmp_path, image):
    """24 rows of latents among eight devices, each way, among other programs."""
    folder = make_small_folder(tmp_path, image=image)
    (found,) = on_eight_devices(str(folder), "programs", "fsdp:2,context:4")["meshes"].values()
    assert found["rows"] == [3, 3]
    assert {"condition", "decode"} < set(found["compiled"])
    for name, figures in found["compiled"].items():
        assert figures in found["used"], name


def spec(axes, shape, rules=PARAMETER_RULES, **sizes):
    mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes))
    return partition_spec(axes, shape, rules, mesh)


def test_mesh_axes_of_an_array():
    sizes = {"data": 2, "fsdp": 2, "context": 2, "tensor": 2}
    assert spec(("embed", "heads"), (8, 8), **sizes) == PartitionSpec("fsdp", "tensor")
    activations = spec(("batch", "tokens", "heads", None), (2, 4, 6, 8), ACTIVATION_RULES, **sizes)
    assert activations == PartitionSpec("data", ("fsdp", "context"), "tensor")


def test_a_mesh_may_lack_axes():
    assert spec(("embed", "mlp"), (8, 8), fsdp=4) == PartitionSpec("fsdp")


def test_warns_once_of_what_does_not_divide():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            found = spec(("embed", "mlp"), (6, 9), fsdp=2, tensor=2)
    assert found == PartitionSpec("fsdp")
    assert [w.category for w in caught] == [UndividedWarning]
    assert "mlp (9) cannot be divided by 2" in str(caught[0].message)


def test_a_mesh_needs_its_devices():
    with pytest.raises(UsageError, match="these are 7 devices, and 1 are here"):
        make_mesh(MeshShape(context=7), jax.devices()[:1])


def test_without_a_mesh_arrays_stay():
    array = np.ones(3)
    assert place(array, None, "batch") is array


def test_a_mesh_with_other_axes_is_refused():
    """`jax.make_mesh` makes explicit axes unless told otherwise; the models need automatic ones."""
    mesh = Mesh(np.array(jax.devices()[:1]), ("fsdp",), axis_types=(AxisType.Explicit,))
    with pytest.raises(UsageError, match="automatic axes"):
        Programs(mesh)
