"""Several processes that run one program together, each over the devices of its own host.

All do the same in the same order, with the same inputs; process 0 alone asks, tells and writes.
With one process everything here is what it would be without.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding
from jaxtyping import Array

from wanjax.errors import UsageError
from wanjax.parallel.launch import HEARTBEAT, Launch, find_launch

Value = TypeVar("Value")

_TOLD = 256  # bytes, of which many are told
_SHUTDOWN = 3600  # seconds that a process which is done waits for process 0 to write


def initialize_distributed(
    coordinator: str | None = None,
    process_id: int | None = None,
    num_processes: int | None = None,
    *,
    heartbeat_timeout: int = HEARTBEAT,
) -> bool:
    """Join the other processes of this run; returns whether there are any.

    To be called before anything that computes. What is left out follows from the environment
    (see `parallel.launch.find_launch`); where that knows of no others, this does nothing. A
    process that is not heard of for `heartbeat_timeout` seconds counts as dead, and ends all.
    Raises `UsageError` for what does not go together, RuntimeError where the others do not come.
    """
    launch = find_launch(coordinator, process_id, num_processes)
    if launch is not None:
        connect(launch, heartbeat_timeout)
    return launch is not None


def connect(launch: Launch, heartbeat_timeout: int) -> None:
    """Join the other processes as `launch` says."""
    jax.distributed.initialize(
        launch.coordinator,
        launch.num_processes,
        launch.process_id,
        heartbeat_timeout_seconds=heartbeat_timeout,
        shutdown_timeout_seconds=_SHUTDOWN,
    )


def is_first() -> bool:
    """Whether this is the process that asks, tells and writes."""
    return not several() or jax.process_index() == 0


def several() -> bool:
    """Whether this process is one of several; asked of one that is alone, it starts no device."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def from_first(make: Callable[[], Value]) -> Value:
    """What process 0 makes, told to all: plain data, as JSON can say it.

    Made there alone, such as what its disk says. With one process it is not told to anyone,
    and may be anything.
    """
    if not several():
        return make()
    told = json.dumps(make() if is_first() else None).encode()
    told += b" " * (-len(told) % _TOLD)  # each size is a program of its own
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(told))))
    text = np.zeros(size, np.uint8)
    if is_first():
        text[:] = np.frombuffer(told, np.uint8)
    heard: Value = json.loads(bytes(multihost_utils.broadcast_one_to_all(text)))
    return heard


def array_from_first(make: Callable[[], np.ndarray]) -> np.ndarray:
    """As `from_first`, of an array."""
    if not several():
        return make()
    made = make() if is_first() else None
    about = None if made is None else (made.shape, made.dtype.str)
    shape, dtype = from_first(lambda: about)  # type: ignore[misc]
    array = np.zeros(shape, dtype) if made is None else made
    heard: np.ndarray = multihost_utils.broadcast_one_to_all(array)
    return heard


def agree(values: Mapping[str, Any]) -> None:
    """Raise `UsageError` in all processes where one has other `values` than process 0.

    All must have the same names; values are compared as they are written.
    """
    if not several():
        return
    written = [hashlib.sha256(repr(value).encode()).digest() for value in values.values()]
    own = np.frombuffer(b"".join(written), np.uint8).reshape(len(written), -1)
    gathered = np.asarray(multihost_utils.process_allgather(own))
    for process, theirs in enumerate(gathered):
        differs = (theirs != gathered[0]).any(axis=1)
        other = [name for name, it in zip(values, differs, strict=True) if it]
        if other:
            raise UsageError(
                f"process {process} was given another {', '.join(other)} than process 0: start "
                "all processes with the same arguments, and the same files"
            )


def put(x: Array | np.ndarray, sharding: Sharding) -> Array:
    """An array that every process has, on devices of all of them.

    `jax.device_put` compares such arrays between the processes first, which takes long.
    """
    placed: Array
    if sharding.is_fully_addressable or not _is_own(x):
        placed = jax.device_put(x, sharding)
        return placed
    host = np.asarray(x)
    placed = jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
    return placed


def fetch(x: Array | np.ndarray) -> np.ndarray:
    """All of an array, in every process; of one on devices of several they all must ask for it."""
    if _is_own(x) or x.is_fully_replicated:  # type: ignore[union-attr]
        return np.asarray(x)
    gathered: np.ndarray = multihost_utils.process_allgather(x, tiled=True)
    return gathered


def _is_own(x: Array | np.ndarray) -> bool:
    """Whether this process has all of it."""
    return not isinstance(x, jax.Array) or x.is_fully_addressable
