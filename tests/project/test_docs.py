"""What the documentation says is there: every method of the table, its key, its code and its test."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from cluster.run.preflight import check_methods
from configs.algorithms import ALGORITHMS
from configs.checks.validate import validate
from configs.errors import ConfigError
from configs.load import load_config
from configs.methods import Own
from rl.advantage.baselines import find_baseline
from rl.denoising.samplers import step_mean_std
from rl.loss.actions import ActionScores
from rl.loss.surrogates import surrogate_terms
from tests.reference.command import ROOT

ROWS = [
    [cell.strip() for cell in line.strip("| \n").split(" | ")]
    for line in (ROOT / "docs/algorithm.md").read_text().splitlines()
    if line.startswith("| ") and "::test_" in line
]


def names_in(path: Path) -> set[str]:
    """Everything a module defines at its top."""
    defined = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined.add(node.target.id)
    return defined


def test_every_algorithm_is_in_the_table():
    assert {row[0].strip("`") for row in ROWS if row[0].startswith("`")} == set(ALGORITHMS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_names_a_key_code_and_a_test_that_are_there(row):
    assert len(row) == 6
    load_config("demo", [row[2].strip("`")])
    file, _, name = row[4].strip("`").partition(":")
    assert name in names_in(ROOT / file)
    file, _, name = row[5].strip("`").partition("::")
    assert name in names_in(ROOT / "tests" / file)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_links_inside_the_project_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_ones_own_methods_of_the_page_are_trained_with(tmp_path, monkeypatch):
    page = (ROOT / "docs/algorithm.md").read_text()
    (code,) = re.findall(r"```python\n(# my_methods\.py.*?)```", page, re.DOTALL)
    (tmp_path / "my_methods.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    best = find_baseline("my_methods:best_of_others")
    assert list(best(np.array([1.0, 3.0, 2.0]), np.zeros(3, int), np.ones(3))) == [3.0, 2.0, 3.0]
    mask = torch.ones(1, 2).bool()
    scores = ActionScores(logprobs=torch.zeros(1, 2))
    own = Own(target="my_methods:soft_ppo", options={"temperature": 2.0})
    terms = surrogate_terms(own, scores, scores, torch.tensor([[1.0, -2.0]]), mask)
    assert terms.value.tolist() == [[1.0, -2.0]]
    _, std = step_mean_std("my_methods:QUIET", torch.zeros(1, 1), torch.zeros(1, 1), 0.5, 0.25, 0.4)
    assert std.item() == pytest.approx(0.1)

    (settings,) = re.findall(r"```yaml\n(policies:\n.*?my_methods.*?)```", page, re.DOTALL)
    config = load_config(
        "demo", [f"{key}={json.dumps(value)}" for key, value in leaves(yaml.safe_load(settings))]
    )
    validate(config)
    check_methods(config)
    assert config.policies["text"].loss.surrogate == own
    with pytest.raises(ConfigError, match=r"^policies\.text\.loss\.surrogate: .*did you mean soft_ppo"):
        check_methods(load_config("demo", ["policies.text.loss.surrogate=my_methods:soft_pop"]))


def leaves(tree, prefix=""):
    """Keys of a configuration, as overrides name them; a method with its options is one value."""
    for name, value in tree.items():
        if isinstance(value, dict) and "target" not in value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
