"""A secret of a reward's environment reaches its worker, and no file, report or tracker."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from configs.checks.rewards import runtime_env
from configs.checks.validate import validate
from configs.errors import ConfigError
from configs.load import load_config, to_yaml

OVERRIDES = (
    "rewards.format.env={env_vars: {KEY: '${oc.env:MY_SECRET}', URL: 'a-${oc.env:MY_SECRET}', N: 2}}",
    "rewards.degradation.env='${rewards.format.env}'",
)


def test_a_secret_is_looked_up_where_the_worker_starts_and_stands_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_SECRET", "hunter2")
    config = load_config("tiny", OVERRIDES)
    assert "hunter2" not in str(asdict(config))
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(to_yaml(config))
    assert "hunter2" not in resolved.read_text()
    again = load_config(str(resolved))
    assert again == config
    for name in ("format", "degradation"):
        variables = runtime_env(again.rewards[name])["env_vars"]
        assert variables == {"KEY": "hunter2", "URL": "a-hunter2", "N": "2"}


def test_a_secret_that_is_not_there_costs_one_line(monkeypatch):
    monkeypatch.delenv("MY_SECRET", raising=False)
    config = load_config("tiny", OVERRIDES[:1])
    with pytest.raises(ConfigError, match=r"rewards\.format\.env\.env_vars\.KEY: .*MY_SECRET") as caught:
        validate(config)
    assert "\n" not in str(caught.value)
