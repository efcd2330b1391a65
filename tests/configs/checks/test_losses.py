"""Loss settings that cannot be followed cost one line that names key and remedy."""

from __future__ import annotations

import pytest

from configs.checks.policies import check_losses
from configs.checks.validate import validate
from configs.errors import ConfigError
from configs.load import load_config
from configs.methods import CISPO, GMPO, GSPO, PPO, DualClip, Guard, OnPolicy
from configs.schema import Config, PolicyConfig
from tests.reference.policy_configs import policy_config


def fault(policy: PolicyConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        check_losses(Config(policies={"p": policy}))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_guard_is_for_denoising_steps():
    message = fault(policy_config(surrogate=Guard()))
    assert message.startswith("policies.p.loss.surrogate: guard")
    assert "use ppo" in message
    check_losses(Config(policies={"p": policy_config(kind="denoising", surrogate=Guard())}))


def test_step_mean_is_for_denoising_steps():
    message = fault(policy_config(kl_estimator="step_mean"))
    assert message.startswith("policies.p.loss.kl_estimator: step_mean")
    assert "use k3" in message
    check_losses(Config(policies={"p": policy_config(kind="denoising", kl_estimator="step_mean")}))


def test_entropy_bonus_is_for_tokens():
    with pytest.raises(ConfigError) as caught:
        load_config("tiny", ["policies.image.loss.entropy_weight=0.01"])
    assert str(caught.value) == (
        "policies.image.loss.entropy_weight: has no meaning for a denoising policy; take it out"
    )
    check_losses(load_config("tiny", ["policies.text.loss.entropy_weight=0.01"]))


def test_dual_clip_wants_a_bound_above_1():
    message = fault(policy_config(surrogate=DualClip(bound=1.0)))
    assert message.startswith("policies.p.loss.surrogate.bound: want above 1")


@pytest.mark.parametrize("kind", ["token", "denoising"])
@pytest.mark.parametrize("surrogate", [PPO(), DualClip(), GSPO(), CISPO(), GMPO(), OnPolicy()])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_all_else_is_for_both(kind, surrogate, estimator):
    policy = policy_config(kind=kind, surrogate=surrogate, kl_estimator=estimator, kl_weight=0.1)
    check_losses(Config(policies={"p": policy}))


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("policies.text.loss.surrogate=guard", "policies.text.loss.surrogate"),
        ("policies.text.loss.correction={kind: token_mask, low: 2}", "policies.text.loss.correction.low"),
        ("policies.text.loss.correction={kind: token_mask, high: 0.5}", "policies.text.loss.correction.high"),
        (
            "policies.text.loss.correction={kind: sequence_mask, low: 1.5}",
            "policies.text.loss.correction.low",
        ),
        ("policies.text.loss.correction={kind: truncate, cap: 0.5}", "policies.text.loss.correction.cap"),
    ],
)
def test_validation_of_a_run_says_so(setting, named):
    with pytest.raises(ConfigError) as caught:
        validate(load_config("tiny", [setting]), paths=False)
    assert str(caught.value).startswith(named)
