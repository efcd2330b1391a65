"""Methods that cannot work with the rewards or the chain cost one line."""

from dataclasses import replace

import pytest

from configs.checks.rewards import check_advantage
from configs.checks.validate import validate
from configs.errors import ConfigError
from configs.load import load_config
from configs.schema import AdvantageConfig, BlockConfig, Config, RewardConfig
from rewards.load import reward_terms
from rl.advantage.overlong import OVERLONG

CONFIG = Config(
    chain={"words": BlockConfig(max_tokens=8)},
    rewards={"form": RewardConfig(weight=0.0), "a": RewardConfig(), "b": RewardConfig(weight=0.0)},
)
PICTURES = replace(CONFIG, chain={"picture": BlockConfig(kind="image")})


def with_advantage(**keys):
    return replace(CONFIG, advantage=AdvantageConfig(**keys))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (with_advantage(gate="fromat"), "advantage.gate: no reward 'fromat'; rewards are form, a, b"),
        (with_advantage(gate="a"), "advantage.gate: a has no other reward with a weight above 0"),
        (with_advantage(baseline="batch"), "advantage.scale: group_std divides a distance from the batch"),
        (replace(PICTURES, overlong="punish"), "overlong: punish is about text, and the chain has no text block"),
        (replace(PICTURES, overlong="mask"), "overlong: mask is about text"),
        (replace(CONFIG, overlong="punish", rewards={OVERLONG: RewardConfig()}),
         "rewards.overlong: the name is taken by overlong=punish"),
    ],
)  # fmt: skip
def test_a_fault_is_one_line_that_names_key_and_remedy(config, message):
    with pytest.raises(ConfigError) as caught:
        check_advantage(config)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        PICTURES,
        with_advantage(gate="form"),
        with_advantage(gate="b"),
        with_advantage(baseline="leave_one_out"),  # RLOO's advantage over the group's deviation: harmless
        with_advantage(baseline="batch", scale="batch_std", whiten=True),
        with_advantage(baseline="batch", scale="none"),
        replace(CONFIG, overlong="punish"),
        replace(CONFIG, overlong="mask"),
        replace(CONFIG, overlong="mask", rewards={OVERLONG: RewardConfig()}),
    ],
)
def test_what_works_passes(config):
    check_advantage(config)


def test_a_shipped_file_is_checked_too():
    with pytest.raises(ConfigError, match=r"^advantage\.gate: no reward 'form'"):
        validate(load_config("demo", ["advantage.gate=form"]), paths=False)
    validate(load_config("demo", ["advantage.gate=format", "overlong=punish"]), paths=False)


# --------------------------------------------------------------------------------- with the classes loaded


def test_terms_are_what_the_rewards_declare():
    config = load_config("demo", ["advantage.gate=format", "overlong=punish", "rewards.format.weight=0.5"])
    terms = reward_terms(config)
    text = [name for name, block in config.chain.items() if block.kind == "text"]
    assert list(terms) == [*config.rewards, *(f"overlong.{name}" for name in text)]
    assert (terms["format"].weight, terms["format"].best, terms["format"].missing) == (0.5, 1.0, 0.0)
    assert terms["format"].blocks == tuple(text)
    assert (terms["generation"].best, terms["generation"].missing) == (2.0, 0.0)
    assert terms["generation"].blocks == ("rough_image", "middle_image", "final_image")
    assert reward_terms(load_config("tiny"))["generation"].blocks == tuple(config.chain)
    assert terms["overlong.degradation"].missing is None


HERE = "tests.reference.rewards"


def test_a_reward_where_smaller_is_better_is_turned_round():
    term = reward_terms(load_config("demo", [f"rewards.loss.target={HERE}:LossReward"]))["loss"]
    assert (term.best, term.missing) == (0.0, -100.0)


@pytest.mark.parametrize(
    ("gate", "options", "message"),
    [
        (
            "mine",
            "{}",
            "advantage.gate: mine declares no best score that a chain could reach; give rewards.mine",
        ),
        ("format", "{missing: .inf}", "advantage.gate: chains that miss it get rewards.mine's missing value"),
    ],
)
def test_a_gate_needs_numbers_that_are_declared(gate, options, message):
    target = f"rewards.mine.target={HERE}:trl_length"
    overrides = [target, f"rewards.mine.options={options}", f"advantage.gate={gate}"]
    with pytest.raises(ConfigError) as caught:
        reward_terms(load_config("demo", overrides))
    assert str(caught.value).startswith(message)
    bounded = [*overrides, "rewards.mine.options={high: 1.0, missing: 0.0}"]
    assert reward_terms(load_config("demo", bounded))["mine"].best == 1.0
