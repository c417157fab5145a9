"""A run's programs, compiled by threads while its model's weights load."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp

from wanjax.checkpoints.loras import LoRA, expert_loras
from wanjax.config.keys import Config
from wanjax.pipeline.compiling import Compiling
from wanjax.pipeline.inputs import start_latents
from wanjax.pipeline.pipeline import WanPipeline
from wanjax.planning.run import Run
from wanjax.sampling.abstract import AbstractProgram, AbstractPrograms, Figures
from wanjax.sampling.programs import Programs


def compile_ahead(pipe: WanPipeline, run: Run) -> list[threading.Thread]:
    """Start compiling the programs of a run of one video, and return the threads that do.

    Shapes and places follow from the model's configuration, so that no weight need be there. The
    run waits for its programs as it comes to them; what fails to compile fails there. On several
    hosts nothing is done ahead: they must compile in the same order. Steps with live LoRAs are
    compiled by the run: how much room these have, what is loaded says.
    """
    if jax.process_count() > 1:
        return []
    makes = [_until_latents, _decode, _noise]  # none needs another
    if any(lora.live for its in _loras(run.config) for lora in its):
        makes.remove(_until_latents)
    threads = [threading.Thread(target=m, args=(pipe, run), name=m.__name__) for m in makes]
    for thread in threads:
        thread.start()
    return threads


def _loras(config: Config) -> tuple[list[LoRA], ...]:
    return expert_loras(config.lora, config.lora_high, config.lora_low, config.num_experts)


def _until_latents(pipe: WanPipeline, run: Run) -> None:
    with suppress(Exception):  # the run comes to the same program, and fails there or before
        compiling = _compiling(pipe, run)
        compiling.denoise(*compiling.condition(compiling.text()))


def _decode(pipe: WanPipeline, run: Run) -> None:
    with suppress(Exception):  # as above
        _compiling(pipe, run).decode()


def _noise(pipe: WanPipeline, run: Run) -> None:
    with suppress(Exception):  # as above
        noise = start_latents(pipe.latents_shape(run.config), 1, run.config.seed, None)
        jnp.zeros_like(noise)  # which the sampler begins with


def _compiling(pipe: WanPipeline, run: Run) -> Compiling:
    configs = pipe.components.model_configs()
    return Compiling(run, pipe.target, configs, _Ahead(pipe.programs))


class _Ahead(AbstractPrograms):
    """Compiles into the programs that will run, and gives abstract results."""

    def __init__(self, programs: Programs):
        super().__init__(programs.mesh)
        self._programs = programs

    def get(
        self, function: Any, static: tuple[Hashable, ...], args: tuple[Any, ...]
    ) -> Callable[..., Any]:
        compiled: Any = self._programs.ahead(function, static, args)
        program = AbstractProgram(Figures(function.__name__), compiled.out_info)
        self.made.append(program)
        return program
