"""Training loops: many steps per compiled call, as many as fit in the time, with checkpoints."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from wanjax.files import atomic_path

CHECKPOINT_SECONDS = 120
# Half the bytes and twice the speed on a GPU; weights, loss and moments stay in float32.
COMPUTE = jnp.bfloat16 if jax.default_backend() == "gpu" else jnp.float32

State = TypeVar("State")
# (state, data, number of the step, steps in all) to the next state and what to report
Step = Callable[[Any, Any, Int[Array, ""], Float[Array, ""]], tuple[Any, Float[Array, " losses"]]]


def run(
    name: str,
    step: Step,
    state: State,
    data: Any,
    steps: int,
    *,
    limit: float | None = None,
    per_call: int = 50,
    checkpoint: Path | None = None,
    describe: Callable[[np.ndarray], str] = lambda losses: f"loss {losses[0]:.4f}",
) -> State:
    """The state after `steps` steps, or after as many as fit in `limit` seconds after compiling.

    How many these are is measured as it goes, and told to every step, so that a schedule comes to
    its end. `data` stays on the device. With a `checkpoint`, a later call goes on from there.
    """
    began = saved = time.monotonic()
    per_call = min(per_call, max(steps, 1))
    total = max(steps, 1) // per_call * per_call
    done = 0
    if checkpoint is not None and checkpoint.exists():
        done, total, state = restore(checkpoint, state)
        print(f"{name}: goes on at step {done} of {total}", flush=True)
    if done >= total:
        return state

    advance = _compiled(step, state, data, per_call)
    print(f"{name}: compiled in {time.monotonic() - began:.0f} s", flush=True)
    started, here = time.monotonic(), 0
    while done < total:
        state, losses = advance(state, done, total)
        told = np.asarray(losses).mean(axis=0)
        if not np.isfinite(told).all():
            raise SystemExit(f"{name}: the loss is {told} near step {done}: lower the rate")
        done, here = done + per_call, here + per_call
        now = time.monotonic()
        if limit is not None:
            left = max(limit - (now - started), 0) / ((now - started) / here)
            total = min(max(steps, done), done + int(left / per_call) * per_call)
        print(f"{name} {done}/{total} {describe(told)}, {now - began:.0f} s", flush=True)
        if checkpoint is not None and (done >= total or now - saved > CHECKPOINT_SECONDS):
            save(checkpoint, done, total, state)
            saved = now
    each = 1000 * (time.monotonic() - started) / here
    print(f"{name}: {here} steps of {each:.1f} ms", flush=True)
    return state


def _compiled(
    step: Step, state: Any, data: Any, count: int
) -> Callable[[Any, int, int], tuple[Any, Array]]:
    """`count` steps from a state, a number and the steps in all.

    One program on an accelerator, which then waits for the host no more than once. On a CPU a
    program each: inside a loop XLA computes convolutions there on one core.
    """

    def many(state: Any, data: Any, first: Array, total: Array) -> tuple[Any, Array]:
        def one(state: Any, number: Array) -> tuple[Any, Array]:
            return step(state, data, number, total)

        return jax.lax.scan(one, state, first + jnp.arange(count))

    on_cpu = jax.default_backend() == "cpu"
    program = jax.jit(step if on_cpu else many, donate_argnums=0)
    compiled = program.lower(state, data, jnp.int32(0), jnp.float32(1)).compile()

    def advance(state: Any, first: int, total: int) -> tuple[Any, Array]:
        if not on_cpu:
            return compiled(state, data, jnp.int32(first), jnp.float32(total))
        losses = []
        for number in range(first, first + count):
            state, loss = compiled(state, data, jnp.int32(number), jnp.float32(total))
            losses.append(loss)
        return state, jnp.stack(losses)

    return advance


def cosine(step: Array, total: Array, warm_up: int, floor: float = 0.0) -> Array:
    """The share of the peak rate: a short rise, then half a cosine down to `floor`."""
    rise = jnp.minimum(1.0, (step + 1) / jnp.minimum(warm_up, total / 4 + 1))
    return rise * (floor + (1 - floor) * 0.5 * (1 + jnp.cos(jnp.pi * step / total)))


def moving_average(average: State, params: State, step: Array, total: Array) -> State:
    """Exponential, over the last thirtieth of the run; a plain mean as long as it is younger."""
    keep = 1 - 1 / jnp.clip(total / 30, 1.0, step + 1.0)
    return jax.tree.map(lambda a, p: keep * a + (1 - keep) * p, average, params)


def least_seconds(run: Callable[[], Any]) -> float:
    """Of some tries, the first of which compiles."""
    times = []
    for _ in range(6):
        began = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - began)
    return min(times)


def save(file: Path, step: int, total: int, state: Any) -> None:
    """Step and state, never half-written."""
    leaves = map(np.asarray, jax.tree.leaves(state))
    with atomic_path(file) as partial:
        np.savez(partial, *leaves, step=step, total=total)


def restore(file: Path, state: State) -> tuple[int, int, State]:
    with np.load(file) as arrays:
        leaves = [jnp.asarray(arrays[f"arr_{i}"]) for i in range(len(jax.tree.leaves(state)))]
        tree = jax.tree.unflatten(jax.tree.structure(state), leaves)
        return int(arrays["step"]), int(arrays["total"]), tree


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What all training programs take."""
    parser.add_argument("--work", type=Path, default=Path("work/tiny"), help="data, checkpoints")
    parser.add_argument("--scale", type=float, default=1.0, help="times the steps of every stage")
    parser.add_argument("--batch-scale", type=float, default=1.0, help="times every batch")
    parser.add_argument("--limit", type=float, help="seconds: fewer steps if they take longer")
    parser.add_argument("--seed", type=int, default=0)
