"""What judges and the alarm must be; every fault is one line that names key and remedy."""

from __future__ import annotations

from configs.derive import judge_names
from configs.errors import ConfigError
from configs.schema import Config

LEAST_WINDOW = 8
"""A shorter window has too few steps for any trend."""


def check_judges(config: Config) -> None:
    """Raise ``ConfigError`` where measurements share a name, or an alarm could never go off."""
    for name in config.rewards:
        if name in config.eval.judges:
            raise ConfigError(
                f"rewards.{name}: eval.judges has a {name} too, and one would hide the other; call the reward "
                f"judge_{name}, say, or take {name} out of eval.judges"
            )
        if name == "total":
            raise ConfigError("rewards.total: is the name of the weighted sum; give the reward another")
    if 0 < config.alarm_window < LEAST_WINDOW:
        raise ConfigError(
            f"alarm_window: want at least {LEAST_WINDOW} steps, or 0 for none, got {config.alarm_window}"
        )
    if config.on_alarm == "log":
        return
    if not config.alarm_window:
        raise ConfigError("on_alarm: stop needs trends to be tested; set alarm_window above 0")
    if not judge_names(config) and not (config.eval.every and config.eval.judges):
        raise ConfigError(
            "on_alarm: stop needs a judge; give a reward weight 0, or set eval.every above 0 to watch eval.judges"
        )
