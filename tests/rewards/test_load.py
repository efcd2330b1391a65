"""Rewards are found by name, and every mistake is one line that names the key and the remedy."""

import subprocess
import sys

import pytest

from configs.checks.validate import validate
from configs.load import load_config
from configs.schema import BlockConfig, RewardConfig
from rewards.examples import example_blocks
from rewards.generation import GenerationReward
from rewards.load import load_reward, reward_term
from rl.errors import ConfigError
from tests.reference.command import ROOT
from tests.reference.rewards import LengthReward

HERE = "tests.reference.rewards"


def wrong(config: RewardConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        reward_term("mine", config, example_blocks())
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("rewards.fromat:FormatReward", "no module 'rewards.fromat'; did you mean rewards.format?"),
        ("no_such_package.x:Y", "no module 'no_such_package'; is its folder on PYTHONPATH?"),
        ("rewards.format:FromatReward", "rewards.format has no 'FromatReward'; did you mean FormatReward"),
        ("rewards.format", "want package.module:Thing, got 'rewards.format'"),
        (f"{HERE}:NOT_A_REWARD", f"{HERE}:NOT_A_REWARD is neither a Reward class nor a function"),
        (f"{HERE}:NotAReward", f"{HERE}:NotAReward is neither a Reward class nor a function"),
    ],
)
def test_a_wrong_target_is_named_with_the_nearest_right_one(target, message):
    said = wrong(RewardConfig(target=target))
    assert said.startswith("rewards.mine.target: ")
    assert message in said


def test_an_error_inside_the_authors_module_stays_the_authors(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "authors_module.py").write_text("import a_package_nobody_has\n")
    with pytest.raises(ModuleNotFoundError, match="a_package_nobody_has"):
        load_reward("mine", RewardConfig(target="authors_module:Thing"))


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (
            "rewards.understanding:UnderstandingReward",
            {"substr": True},
            "unexpected keyword argument 'substr'; UnderstandingReward takes: block, substring; "
            "did you mean substring?",
        ),
        ("rewards.generation:GenerationReward", {}, "missing a required argument: 'experts'"),
        ("rewards.generation:GenerationReward", {"experts": {}}, "experts: name at least one pyiqa metric"),
        ("rewards.generation:GenerationReward", {"experts": ["musiq"]}, "experts: name at least one"),
        ("rewards.degradation:DegradationReward", {"block": "degradations"},
         "'degradations' is not a block of the chain; did you mean degradation?"),
        ("rewards.format:FormatReward", {"blocks": ["a"]}, "blocks: want the chain's own, [degradation, "),
    ],
)  # fmt: skip
def test_a_wrong_option_is_named(target, options, message):
    said = wrong(RewardConfig(target=target, options=options))
    assert said.startswith("rewards.mine.options: ")
    assert message in said


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"wieght": 2}, "experts.psnr: unknown key 'wieght'; did you mean weight"),
        ({"weight": 0}, "experts.psnr.weight: want a number above 0, got 0"),
        ({"weight": "much"}, "experts.psnr.weight: want a number above 0, got 'much'"),
        ({"range": [40, 10]}, "experts.psnr.range: want [low, high] with low < high, got [40, 10]"),
        ({"range": 40}, "experts.psnr.range: want [low, high] with low < high, got 40"),
        ({"range": "10"}, "experts.psnr.range: want [low, high]"),
        (3, "experts.psnr: want a mapping of range, weights, weight, options, got 3"),
    ],
)
def test_a_wrong_expert_entry_is_named(entry, message):
    config = RewardConfig(target="rewards.generation:GenerationReward", options={"experts": {"psnr": entry}})
    assert f"rewards.mine.options: {message}" in wrong(config)


def test_blocks_of_the_config_come_before_those_the_reward_declares():
    blocks = example_blocks()
    config = RewardConfig(target=f"{HERE}:LengthReward", blocks=["final_understand"], options={"factor": 2.0})
    assert reward_term("mine", config, blocks).blocks == ("final_understand",)
    declared = reward_term("mine", RewardConfig(target=f"{HERE}:LengthReward"), blocks).blocks
    assert declared == tuple(name for name, block in blocks.items() if block.kind == "text")
    reward = load_reward("mine", config)
    assert isinstance(reward, LengthReward)
    assert reward.factor == 2.0
    said = wrong(RewardConfig(target=f"{HERE}:LengthReward", blocks=["final_understanding"]))
    assert "rewards.mine.blocks: 'final_understanding' is not a block" in said
    assert "did you mean final_understand" in said


def test_a_reward_of_pictures_wants_a_chain_that_paints():
    config = RewardConfig(target=f"{HERE}:LossReward")
    text = {"answer": BlockConfig(kind="text", max_tokens=8)}
    with pytest.raises(
        ConfigError, match=r"^rewards\.mine: judges the final picture, and the chain paints none"
    ):
        reward_term("mine", config, text)


def test_the_shipped_rewards_fit_the_demo_and_the_learned_expert_can_be_named_by_a_word():
    config = load_config("demo", ["rewards.generation.options.experts.cnniqa={weights: coldstart}"])
    validate(config, paths=False)
    blocks = {name: reward_term(name, reward, config.chain).blocks for name, reward in config.rewards.items()}
    assert blocks["degradation"] == ("degradation",)
    assert blocks["generation"] == ("rough_image", "middle_image", "final_image")
    reward = load_reward("generation", config.rewards["generation"])
    assert isinstance(reward, GenerationReward)
    assert reward.missing == 0.0


def test_the_word_for_the_learned_expert_wants_one_to_be_taught_or_there(tmp_path):
    settings = [
        "rewards.generation.options.experts.cnniqa={weights: coldstart}",
        "coldstart.expert_steps=0",
        f"coldstart.directory={tmp_path / 'start'}",
        f"output_dir={tmp_path}",
    ]
    with pytest.raises(
        ConfigError, match=r"rewards\.generation\.options: 'coldstart' is the learned expert, and"
    ):
        validate(load_config("demo", settings))
    (tmp_path / "start" / "expert").mkdir(parents=True)
    (tmp_path / "start" / "expert" / "expert.pth").touch()
    validate(load_config("demo", settings))
    validate(load_config("demo", [settings[0], *settings[2:]]))


def test_reading_declarations_loads_no_framework():
    code = (
        "import sys\nfrom configs.load import load_config\nfrom rewards.load import reward_term\n"
        "c = load_config('demo', [])\n"
        "[reward_term(n, r, c.chain) for n, r in c.rewards.items()]\n"
        "print(*sorted({'torch', 'pyiqa', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
