"""Run by tests/test_machines.py: the programs of full-size runs for machines that are not here."""

from __future__ import annotations

import json

from wanjax.parallel.targets import parse_target, set_environment

set_environment()  # before anything imports JAX

from wanjax.checkpoints.configs import model_configs  # noqa: E402
from wanjax.cli.compile import to_dict  # noqa: E402
from wanjax.config.resolve import resolve  # noqa: E402
from wanjax.pipeline.compiling import compile_run  # noqa: E402
from wanjax.pipeline.machine import machine  # noqa: E402
from wanjax.planning.run import prepare  # noqa: E402

# With decoding, which a GPU's compiler does in seconds and a TPU's in minutes.
TARGETS = {"h100": True, "h100:8": True, "v6e:2x4": False}


def compile_for(name: str, decode: bool) -> dict[str, object]:
    """81 frames of 720x1280 with MagCache."""
    run = prepare(resolve(["wan2.2-t2v-a14b", "use_magcache=True", f"target={name}"], "compile"))
    target, mesh = machine(run.config, run.plan, parse_target(name))
    configs = model_configs(str(run.config.model))
    return to_dict(compile_run(run, target, configs, mesh, lambda line: None, decode=decode))


def main() -> None:
    print(json.dumps({name: compile_for(name, decode) for name, decode in TARGETS.items()}))


if __name__ == "__main__":
    main()
