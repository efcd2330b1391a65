"""``vlcot check``: everything that can be wrong with a run and be found without starting one."""

from __future__ import annotations

from rich.table import Table

from cluster.progress import CONSOLE
from configs.derive import degraded_px, derived
from configs.schema import Config
from configs.validate import validate
from rl.data.prompts import PromptSource


def check(config: Config) -> None:
    """Validate the configuration, read its photographs, and print what follows from it.

    Raises:
        ConfigError: With one line that names the key or file and the remedy.
    """
    validate(config)
    output_px = degraded_px(config) * config.scale
    source = PromptSource(config.data, output_px=output_px, scale=config.scale, seed=config.seed)
    prompts = source.held_out(config.eval.num_prompts)
    table = Table(title=f"{config.name}: fine", show_header=False, title_justify="left")
    for key, value in derived(config).items():
        table.add_row(key, value)
    table.add_row("held-out prompts", str(len(prompts)))
    CONSOLE.print(table)
