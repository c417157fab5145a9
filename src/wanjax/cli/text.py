"""Plans and tables as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wanjax.caching import Plan
from wanjax.caching.actions import Keeps
from wanjax.caching.plan import Prediction
from wanjax.checkpoints.presence import presence
from wanjax.config.keys import Config
from wanjax.parallel.mesh import MeshShape
from wanjax.planning.memory import Fit
from wanjax.planning.run import Run

_WIDEST = 40  # characters of a value in a table
_PIPE_WIDTH = 1000  # of a table that no terminal limits


def plan_text(run: Run) -> str:
    """The plan for people to read."""
    config, plan = run.config, run.plan
    settings = ", ".join(f"{name} {value}" for name, value in plan.settings.items())
    timesteps = plan.schedule.timesteps if config.timesteps else ()
    given = f", at {' '.join(f'{t:.4g}' for t in timesteps)}" if timesteps else ""
    not_computed = {"skipped": plan.skipped_steps}
    if plan.partial_steps:
        not_computed["in part"] = plan.partial_steps
    if plan.open_steps:  # which leaves nothing to say of the skipped ones
        not_computed = {"undecided": plan.open_steps}
    lines = [
        f"model      {run.name}",
        f"steps      {len(plan.steps)} ({config.sampler}, flow_shift {config.flow_shift:g}{given})",
        f"guidance   {' / '.join(f'{scale:g}' for scale in guidance_scales(config))}",
        f"cache      {plan.method}{f' ({settings})' if settings else ''}",
        f"computed   {len(plan.steps) - sum(map(len, not_computed.values()))}",
        *(f"{name:11}{len(found)}{_indices(found)}" for name, found in not_computed.items()),
        f"speedup    {_speedup(plan)}",
        f"plan       {plan.strip()}",
    ]
    if plan.prediction is not None and plan.skipped_steps:
        lines.append(f"error      {_prediction(plan.prediction)}")
    if any(plan.keeps):
        lines.append(f"keeps      {_kept(plan.keeps, run.memory.cache_bytes)}")
    if config.use_kv_cache:
        lines.append(f"kv cache   {_kv_cache(run.memory.kv_cache_bytes)}")
    lines += [*_weights(run), *_memory(run.memory.fit)]
    if plan.boundary_step is not None:
        lines.insert(2, f"boundary   {_boundary(config, plan)}")
    lines += [f"warning    {warning}" for warning in plan.warnings]
    lines += [f"note       {note}" for note in run.notes]
    return "\n".join(lines)


def _boundary(config: Config, plan: Plan) -> str:
    where = f"boundary_ratio {config.boundary_ratio:g}"
    if plan.boundary_step == len(plan.steps):
        return f"no step of the low-noise expert ({where})"
    return f"low-noise expert from step {plan.boundary_step} on ({where})"


def _indices(steps: Sequence[int]) -> str:
    return f": {' '.join(map(str, steps))}" if steps else ""


def _speedup(plan: Plan) -> str:
    if plan.open_steps:
        return "as each run decides from its data, for all videos of a call of pipe(...) together"
    return f"{plan.ideal_speedup:.2f}x at most (counting transformer blocks alone)"


def _prediction(prediction: Prediction) -> str:
    frames = ""
    if prediction.psnr is not None:
        frames = f", about {prediction.psnr:.0f} dB of PSNR in frames"
    return f"{prediction.error:.3g} from dense in the final latents (root mean square){frames}"


def _kept(keeps: Keeps, held: int | None) -> str:
    """What of computed steps stays for others, such as 2 outputs, 38.7 MB."""
    kept = ", ".join(
        f"{count} {name if count > 1 else name.removesuffix('es' if name == 'branches' else 's')}"
        for name, count in keeps._asdict().items()
        if count
    )
    return kept if held is None else f"{kept}: {held / 1e6:,.1f} MB a device, estimated"


def _kv_cache(held: int | None) -> str:
    if held is None:
        return "of unknown size: the model is not at hand"
    return f"{held / 1e6:,.1f} MB, for one video"


def _weights(run: Run) -> list[str]:
    """Gigabytes of the model, and whether it is here."""
    held = run.memory.weight_bytes
    if held is None:
        return []
    config = run.config
    found = presence(str(config.model), config.parts, config.revision)
    where = {
        "here": "here",
        "in part": f"in part in {found.folder}: {len(found.lacking)} files are lacking",
        "not here": "not here, downloaded at first use",
    }
    blocks = f", blocks in {run.memory.blocks}" if run.memory.blocks else ""
    kept = config.weights_dtype + blocks
    return [f"weights    {held / 1e9:.3g} GB in {kept}, {where[found.state]}"]


def _memory(fit: Fit | None) -> list[str]:
    """What a device holds in each stage, and what waits elsewhere then; an estimate."""
    if fit is None:
        return ["memory     of unknown size: the model is not at hand"]
    target, peak = fit.target, gib(fit.placement.peak)
    if target.memory_limit is None:
        return [f"memory     {peak} GiB on {target.name}, estimated"]
    verdict = "fits" if fit.fits else "does not fit"
    lines = [
        f"target     {target.name}: {target.devices} x {target.kind}, mesh {short_mesh(fit.mesh)}",
        f"memory     {verdict}: {peak} of {gib(target.memory_limit)} GiB a device, estimated",
    ]
    for stage in fit.placement.stages:
        away = ", ".join(name for name, place in stage.places.items() if place == "pinned_host")
        waits = f"; on the host: {away}" if away else ""
        if stage.arriving:
            waits += f"; {gib(stage.arriving)} GiB of the next expert come while the last step runs"
        lines.append(f"  {stage.name:13}{gib(stage.peak):>6} GiB{waits}")
    if fit.placement.waiting:
        where = "of the host's memory" if target.devices == 1 else "of all hosts' memory together"
        lines.append(f"waiting    takes {gib(fit.host_bytes)} GiB {where}")
    return lines


def short_mesh(mesh: MeshShape) -> str:
    """The axes that more than one device shares."""
    return ",".join(f"{a}:{n}" for a, n in mesh.sizes.items() if n > 1) or "of one device"


def gib(size: int) -> str:
    return f"{size / 2**30:.2f}"


def guidance_scales(config: Config) -> list[float]:
    scales = (config.guidance_scale_high, config.guidance_scale_low)
    return [scale for scale in scales if scale is not None]


def print_table(
    titles: Sequence[str], rows: Iterable[Sequence[str]], *, wrapped: Sequence[str] = ()
) -> None:
    """A table on standard output: coloured and fitted to a terminal, plain and whole elsewhere.

    Columns of `wrapped` take several lines where a terminal is too narrow. All of these but the
    last do so anywhere for what is longer than `_WIDEST`, so that one value parts no columns.
    """
    from rich.console import Console  # takes as long to import as `plan` to answer
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, title in enumerate(titles):
        table.add_column(
            title,
            style="" if number else "cyan",
            overflow="fold",
            no_wrap=title not in wrapped,
            max_width=_WIDEST if title in wrapped and title != titles[-1] else None,
        )
    for row in rows:
        table.add_row(*map(Text, row))  # as text: brackets are no markup
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
