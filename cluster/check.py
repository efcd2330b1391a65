"""``vlcot check``: everything that can be wrong with a run and be found without starting one."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from configs.derive import coldstart_directory, degraded_px, derived
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
    directory = Path(coldstart_directory(config))
    table.add_row("cold start", f"{directory} ({'made' if directory.exists() else 'to be made'})")
    Console().print(table)
