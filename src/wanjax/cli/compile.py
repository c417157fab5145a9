"""
compile a run for devices that are here, or that are not: memory, collectives, does it fit

usage: wanjax compile [PRESET|FILE.yml] [target=NAME] [mesh=AXES] [json=True] [key=value ...]

  wanjax compile                                         # the bundled model, on this machine
  wanjax compile wan2.2-t2v-a14b target=v6e:2x4 use_magcache=True
  wanjax compile wan2.2-t2v-a14b target=h100:8 mesh=context:8 json=True

The programs are those of `wanjax generate` with the same arguments, compiled without weights
and without a network. Targets: TPUs v5e:2x4, v5p:2x2x1, v6e:2x4, tpu7x:2x2x1, larger slices and
one chip as v6e:1x1 (`pip install 'wanjax[tpu]'`), NVIDIA's a100, h100, h100:8, h200, b200, a10g,
rtx4090, rtx5090 (`wanjax[cuda13]`); the devices themselves need not be there. All bytes are those
of one device.

The exit code is 0 where the run fits, 1 where it does not.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wanjax.checkpoints.configs import model_configs
from wanjax.cli.text import gib, print_table, short_mesh
from wanjax.config.resolve import resolve
from wanjax.files import json_text
from wanjax.parallel.mesh import MeshShape
from wanjax.parallel.targets import parse_target, require_extra, set_environment
from wanjax.planning.known import known_configs
from wanjax.planning.run import prepare

if TYPE_CHECKING:
    from wanjax.pipeline.compiling import CompiledRun
    from wanjax.sampling.abstract import Figures


def run(args: Sequence[str]) -> int:
    config = resolve(args, "compile")
    target = None if config.target is None else parse_target(config.target)
    if target is not None:
        require_extra(target)
        set_environment()  # before anything imports JAX
    prepared = prepare(config)
    configs = known_configs(config) or model_configs(str(config.model))
    from wanjax.pipeline.compiling import compile_run
    from wanjax.pipeline.machine import machine

    here, mesh = machine(config, prepared.plan, target)
    found = compile_run(prepared, here, configs, mesh, _tell)
    if config.json:
        print(json_text(to_dict(found)))
    else:
        _print(found)
    return 0 if found.fits else 1


def to_dict(found: CompiledRun) -> dict[str, Any]:
    """What `json=True` prints."""
    return {
        "target": found.target.name,
        "devices": found.target.devices,
        "mesh": {} if found.mesh is None else dict(found.mesh.shape),
        "memory_limit_bytes": found.target.memory_limit,
        "programs": {name: _figures(figures) for name, figures in found.programs.items()},
        "stages": found.placement.to_dict(),
        "component_bytes": found.weights,
        "cache_bytes": found.cache,
        "peak_bytes": found.placement.peak,
        "fits": found.fits,
        "estimate": found.estimate.to_dict(),
        "advice": found.advice,
    }


def _figures(figures: Figures) -> dict[str, Any]:
    found = {
        "argument_bytes": figures.argument_bytes,
        "temporary_bytes": figures.temporary_bytes,
        "output_bytes": figures.output_bytes,
        "donated_bytes": figures.donated_bytes,
        "collectives": {
            kind: {"count": moved.count, "bytes": moved.bytes}
            for kind, moved in figures.collectives.items()
        },
        "kernels": list(figures.kernels),
        "compile_seconds": round(figures.compile_seconds, 2),
    }
    return found if figures.refused is None else found | {"refused": figures.refused}


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print(found: CompiledRun) -> None:
    target = found.target
    mesh = "of one device" if found.mesh is None else short_mesh(MeshShape(**found.mesh.shape))
    limit = "" if target.memory_limit is None else f", {gib(target.memory_limit)} GiB each"
    print(f"{target.name}: {target.devices} x {target.kind}{limit}; mesh {mesh}")
    print()
    sizes = ("arguments", "temporary", "results", "donated", "exchanged")
    titles = ("program", *(f"{size} GiB" for size in sizes), "kernels", "seconds")
    print_table(titles, [(name, *_row(figures)) for name, figures in found.programs.items()])
    print()
    names = list(found.weights)
    stages = [
        (s.name, gib(s.resident), gib(s.peak), *(s.places[n] for n in names))
        for s in found.placement.stages
    ]
    print_table(("stage", "resident GiB", "peak GiB", *names), stages)
    print()
    if found.cache:
        print(f"kept of computed steps: {found.cache / 1e6:,.1f} MB a device")
    print(_verdict(found))


def _row(figures: Figures) -> tuple[str, ...]:
    moved = sum(collective.bytes for collective in figures.collectives.values())
    sizes = (
        figures.argument_bytes,
        figures.temporary_bytes,
        figures.output_bytes,
        figures.donated_bytes,
        moved,
    )
    kernels = "refused by the compiler" if figures.refused else ", ".join(figures.kernels)
    return (*map(gib, sizes), kernels, f"{figures.compile_seconds:.1f}")


def _verdict(found: CompiledRun) -> str:
    peak, limit = gib(found.placement.peak), found.target.memory_limit
    if limit is None:
        return f"needs {peak} GiB; what a device of this machine has is not known"
    if found.fits:
        return f"fits: {peak} of {gib(limit)} GiB at its peak"
    lines = [f"does not fit: {peak} GiB where there are {gib(limit)}"]
    lines += [f"  {name}: {f.refused}" for name, f in found.programs.items() if f.refused]
    lines += [f"  {advice} would make it fit" for advice in found.advice]
    return "\n".join(lines)
