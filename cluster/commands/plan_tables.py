"""Tables of ``vlcot plan``: where a run goes and what it holds, before anything starts."""

from __future__ import annotations

from collections.abc import Iterable

import psutil
from rich import box
from rich.table import Table

from actors.policies.model_size import find_models
from cluster.runtime.console import CONSOLE, make_table
from configs.checks.validate import validate
from configs.planning.memory import PARTS, Memory
from configs.planning.placement import Bundle, Process
from configs.planning.plan import Plan, make_plan
from configs.schema import Config
from rl.errors import ConfigError

SHORT = {
    "weights": "weight", "gradients": "grads", "optimizer": "optim", "activations": "activ", "latents": "latent",
    "experts": "expert", "buffers": "buffer",
}  # fmt: skip
"""Headings that would make the table wider than a terminal."""
UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def plan(config: Config) -> None:
    """Print the plan of a configuration.

    Raises:
        ConfigError: If something does not fit; the tables say what, and what to change.
    """
    validate(config)
    is_here = not config.ray_address
    host_bytes = psutil.virtual_memory().total if is_here else None
    made = make_plan(config, find_models(config), host_bytes=host_bytes)
    CONSOLE.print(placement_table(config, made))
    CONSOLE.print(memory_table(made))
    CONSOLE.print(step_table(config, made))
    if made.findings:
        CONSOLE.print(findings_table(made))
    fatal = [finding for finding in made.findings if finding.is_fatal]
    if fatal:
        raise ConfigError(f"{config.name} does not fit: {fatal[0].what}; {fatal[0].remedy}")


def placement_table(config: Config, made: Plan) -> Table:
    """Lay out bundles by machine, equal ones in one row."""
    headings = ("node", "bundles", "GPUs", "who", "turns", "memory", "of")
    table = make_table(f"{config.name}: placement", *headings)
    for number, node in enumerate(made.placement.nodes):
        rows: dict[tuple[str, float], list[Bundle]] = {}
        for bundle in node.bundles:
            rows.setdefault((_who(bundle.processes), bundle.num_gpus), []).append(bundle)
        for (who, gpus), bundles in rows.items():
            taken = made.bundle_bytes(bundles[0])
            table.add_row(
                str(number),
                str(len(bundles)),
                f"{gpus:g}" if gpus else "-",
                who,
                "yes" if config.colocate and gpus and "learner" in who else "",
                size(taken) if taken else "-",
                f"{gpus * config.gpu_gib:g} GiB" if gpus else "host",
            )
    gpus = sum(node.num_gpus for node in made.placement.nodes)
    nodes = len(made.placement.nodes)
    table.caption = (
        f"{gpus:g} GPUs on {nodes} machine{'s' if nodes > 1 else ''}; every bundle is reserved before a worker starts"
        if gpus
        else "no GPU; the bundles are spread over the machines there are"
    )
    return table


def memory_table(made: Plan) -> Table:
    """What one process of each kind holds, by part, in one unit; kinds that hold the same are one row."""
    parts = [part for part in PARTS if any(getattr(m, part) for m in made.memory.values())]
    most = max((memory.total for memory in made.memory.values()), default=0)
    unit, name = next((unit for unit in UNITS if most >= 10 * unit[0]), UNITS[-1])
    table = Table(
        title=f"memory of one process, {name}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    table.add_column("process", overflow="fold", min_width=14)
    for heading in (*(SHORT.get(part, part) for part in parts), "total"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows: dict[Memory, list[Process]] = {}
    for process in made.placement.processes():
        if process.name in made.memory:
            rows.setdefault(made.memory[process.name], []).append(process)
    for memory, processes in rows.items():
        held = [getattr(memory, part) for part in parts]
        table.add_row(_who(processes), *(_cell(n / unit) for n in (*held, memory.total)))
    known = [
        f"{name}: {model.num_trained / 1e6:,.1f} M parameters, {model.origin} ({model.name})"
        for name, model in made.models.items()
        if model is not None
    ]
    on_host = [
        f"{name}: {size(num_bytes)} of each learner rank on the host"
        for name, num_bytes in made.offloaded_bytes.items()
    ]
    table.caption = "\n".join([*known, *on_host])
    table.caption_justify = "left"
    return table


def step_table(config: Config, made: Plan) -> Table:
    """What one step moves."""
    table = make_table("a step, at most")
    work = made.work
    table.add_row("chains", f"{work.num_chains:,}")
    table.add_row("sampled tokens", f"{work.num_tokens:,}")
    table.add_row("denoising steps", f"{work.num_denoising_steps:,}")
    table.add_row("latents and pictures in the object store", size(work.latent_bytes))
    for name, num_bytes in made.published_bytes.items():
        workers = config.policies[name].rollout.num_workers
        table.add_row(f"weights published, policy {name}", f"{size(num_bytes)} to {workers} workers")
    table.add_row("object store", size(made.store_bytes))
    return table


def findings_table(made: Plan) -> Table:
    """What does not fit, and what to change."""
    table = make_table("what to change", "", "what", "remedy")
    for finding in made.findings:
        table.add_row("does not fit" if finding.is_fatal else "note", finding.what, finding.remedy)
    return table


def size(num_bytes: float) -> str:
    """Write bytes for a person."""
    for unit, name in UNITS:
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes:.0f} B"


def _cell(amount: float) -> str:
    if not amount:
        return ""
    return f"{amount:,.0f}" if amount >= 100 else f"{amount:.1f}"


def _who(processes: Iterable[Process]) -> str:
    """Name processes without their numbers."""
    kinds: dict[str, int] = {}
    for process in processes:
        kind = f"{process.role} {process.key}".strip()
        kinds[kind] = kinds.get(kind, 0) + 1
    return ", ".join(f"{kind} x {count}" if count > 1 else kind for kind, count in kinds.items())
