"""What is found before a run starts, for chains and prompts that are not about photographs."""

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.run.preflight import preflight
from configs.load import load_config
from configs.schema import Config, OwnData, PromptTable, RewardConfig
from rl.errors import ConfigError, DataError

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


def painting(folder: Path, **changes: object) -> Config:
    return replace(load_config("text_to_image"), output_dir=str(folder), **changes)


def test_a_painter_is_made_from_prompts_that_say_which_picture_is_right(tmp_path: Path) -> None:
    config = painting(tmp_path)
    source = preflight(config)
    assert len(source.held_out(config.eval.num_prompts)) > 60


def test_a_painter_that_cannot_be_made_costs_one_line(tmp_path: Path) -> None:
    config = painting(tmp_path)
    file = tmp_path / "asked.jsonl"
    file.write_text('{"prompt": "a cat"}\n{"prompt": "a dog"}\n')
    silent = replace(config, data=PromptTable(prompts=str(file)))
    with pytest.raises(
        DataError, match=r"^asked/\d/0: a file's regions can be taught .*this row has none; or name a"
    ):
        preflight(silent)
    block = config.chain["picture"]
    two = {"sketch": replace(block, size_px=16), "picture": block}
    with pytest.raises(
        ConfigError, match=r"^policies\.image\.source: .* one image block, and this one has 2 blocks"
    ):
        preflight(replace(config, chain=two))
    named = replace(config.policies["image"], source=str(tmp_path / "there"))
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match=r"no model_index\.json in it"):
        preflight(replace(config, policies={"image": named}))
