"""Loss settings that cannot be followed cost one line that names key and remedy."""

from __future__ import annotations

import pytest

from configs.checks.losses import check_losses
from configs.checks.validate import validate
from configs.errors import ConfigError
from configs.load import load_config
from configs.methods import CISPO, GMPO, GSPO, PPO, DualClip, Guard, OnPolicy
from configs.schema import Config, PolicyConfig


def fault(policy: PolicyConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        check_losses(Config(policies={"p": policy}))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_guard_is_for_denoising_steps():
    message = fault(PolicyConfig(surrogate=Guard()))
    assert message.startswith("policies.p.surrogate: guard")
    assert "use ppo" in message
    check_losses(Config(policies={"p": PolicyConfig(kind="denoising", surrogate=Guard())}))


def test_step_mean_is_for_denoising_steps():
    message = fault(PolicyConfig(kl_estimator="step_mean"))
    assert message.startswith("policies.p.kl_estimator: step_mean")
    assert "use k3" in message
    check_losses(Config(policies={"p": PolicyConfig(kind="denoising", kl_estimator="step_mean")}))


def test_entropy_bonus_is_for_tokens():
    message = fault(PolicyConfig(kind="denoising", entropy_weight=0.01))
    assert message.startswith("policies.p.entropy_weight: ")
    assert "set it to 0" in message
    check_losses(Config(policies={"p": PolicyConfig(entropy_weight=0.01)}))


def test_dual_clip_wants_a_bound_above_1():
    message = fault(PolicyConfig(surrogate=DualClip(bound=1.0)))
    assert message.startswith("policies.p.surrogate.bound: want above 1")


@pytest.mark.parametrize("kind", ["token", "denoising"])
@pytest.mark.parametrize("surrogate", [PPO(), DualClip(), GSPO(), CISPO(), GMPO(), OnPolicy()])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_all_else_is_for_both(kind, surrogate, estimator):
    policy = PolicyConfig(kind=kind, surrogate=surrogate, kl_estimator=estimator, kl_weight=0.1)
    check_losses(Config(policies={"p": policy}))


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("policies.text.surrogate=guard", "policies.text.surrogate"),
        ("policies.text.correction={kind: token_mask, low: 2}", "policies.text.correction.low"),
        ("policies.text.correction={kind: token_mask, high: 0.5}", "policies.text.correction.high"),
        ("policies.text.correction={kind: sequence_mask, low: 1.5}", "policies.text.correction.low"),
        ("policies.text.correction={kind: truncate, cap: 0.5}", "policies.text.correction.cap"),
    ],
)
def test_validation_of_a_run_says_so(setting, named):
    with pytest.raises(ConfigError) as caught:
        validate(load_config("tiny", [setting]), paths=False)
    assert str(caught.value).startswith(named)
