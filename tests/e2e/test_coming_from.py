"""The worked examples of docs/coming_from.md, from a reader's folder: each file is taken, and its reward scores."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from cluster.cli import main
from configs.build import merge
from configs.load import load_config
from configs.schema import Config
from rewards.load import load_reward
from rl.data.source import prompt_source
from rl.types import Finish, FinishedChain
from tests.reference.command import ROOT
from tests.reference.language_models import make

PAGE = (ROOT / "docs" / "coming_from.md").read_text()
FIRST, VERL, OPENRLHF = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
MODULES = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in MODULES:
        (tmp_path / f"{name}.py").write_text(text)
    make("qwen3", tmp_path / "model")
    return tmp_path


def write_trl(rows: int = 20) -> None:
    lines = [json.dumps({"prompt": f"{i} + {i} =", "answer": str(2 * i)}) for i in range(rows)]
    Path("train.jsonl").write_text("\n".join(lines))


def write_verl(rows: int = 20) -> None:
    for name, first in (("train", 0), ("test", 100)):
        table = [
            {
                "data_source": "sums",
                "prompt": [{"role": "user", "content": f"{i} + {i} ="}],
                "reward_model": {"style": "rule", "ground_truth": str(2 * i)},
                "extra_info": {"index": i},
            }
            for i in range(first, first + rows)
        ]
        pq.write_table(pa.Table.from_pylist(table), f"{name}.parquet")


def write_openrlhf(rows: int = 20) -> None:
    lines = [json.dumps({"problem": f"{i} + {i} =", "solution": str(2 * i)}) for i in range(rows)]
    Path("train.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("write", "piece"),
    [
        (write_trl, {}),
        (write_verl, VERL),
        (write_openrlhf, OPENRLHF),
    ],
    ids=["TRL", "verl", "OpenRLHF"],
)
def test_an_example_is_checked_and_its_reward_scores(
    write: Any, piece: dict[str, Any], reader: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write()
    content = FIRST | piece
    if piece is OPENRLHF:
        content["rewards"] = {"correct": {"target": "rewards.exact_match:exact_match"}}
    content = merge(content, {"policies": {"text": {"source": str(reader / "model")}}}, Config)
    Path("mine.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    assert main(["check", "mine.yaml"]) == 0, capsys.readouterr().err
    config = load_config("mine.yaml")
    prompt = prompt_source(config).train(0)
    (name,) = config.rewards
    for answer, score in ((str(prompt.reference["ground_truth"]), 1.0), ("no number", 0.0)):
        chain = FinishedChain(
            chain_id="a",
            group_id="a",
            prompt=prompt,
            finish=Finish.STOP,
            text=answer,
            block_text={"answer": answer},
            pictures={},
            final_block="",
        )
        (scored,) = load_reward(name, config.rewards[name]).score([chain])
        assert scored == score
