"""What is found before a run starts, for chains and prompts that are not about photographs."""

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.run.preflight import preflight
from configs.load import load_config
from configs.schema import Config, OwnData, RewardConfig
from rl.errors import ConfigError

HERE = "tests.reference"
TINY = load_config("tiny")
FIRST = next(iter(TINY.chain))


def text_only(folder: Path, source: str = "Sums", **reward: object) -> Config:
    """Plain GRPO on sums: one text block, exact match."""
    return replace(
        TINY,
        output_dir=str(folder),
        chain={FIRST: TINY.chain[FIRST]},
        policies={"text": TINY.policies["text"]},
        rewards={
            "right": RewardConfig(target=f"{HERE}.rewards:verl_equal", options={"low": 0, "high": 1} | reward)
        },
        advantage=replace(TINY.advantage, gate=""),
        coldstart=replace(TINY.coldstart, expert_steps=0),
        eval=replace(TINY.eval, metrics=[]),
        data=OwnData(target=f"{HERE}.sums:{source}"),
    )


def test_a_chain_of_text_with_prompts_of_ones_own_is_fine(tmp_path: Path) -> None:
    source = preflight(text_only(tmp_path))
    assert source.files() == []
    assert source.train(1).reference["ground_truth"] == str(1 + (1 + TINY.seed) % 9)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("Sums", {"ground_truth": "answer"}, r"rewards\.right\.options: ground_truth: no column 'answer'"),
        (
            "Sums",
            {"needs": ["ground_trth"]},
            r".*options: needs ground_trth, .*did you mean ground_truth",
        ),
        ("Odd", {}, "data: 0 has a reference value that is not JSON"),
        ("Clash", {}, f"data: prompts carry a picture '{FIRST}', a name of the chain's own"),
    ],
)
def test_prompts_that_do_not_fit_cost_one_line(
    tmp_path: Path, source: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^{message}[^\n]*$"):
        preflight(text_only(tmp_path, source, **options))
