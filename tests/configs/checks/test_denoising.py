"""A sampler that does not fit its policy or its pictures costs one line."""

import pytest

from configs.checks.policies import check_denoising
from configs.checks.validate import validate
from configs.derive import derived
from configs.errors import ConfigError
from configs.load import load_config

FOREIGN = "has no meaning for a token policy; take it out"
FAULTS = {
    "policies.text.rollout.sampler=cps": f"policies.text.rollout.sampler: {FOREIGN}",
    "policies.text.rollout.noise_level=0.5": f"policies.text.rollout.noise_level: {FOREIGN}",
    "policies.text.rollout.trained_steps=window": f"policies.text.rollout.trained_steps: {FOREIGN}",
    "policies.text.rollout.logprob_reduction=sum": f"policies.text.rollout.logprob_reduction: {FOREIGN}",
    "policies.text.loss.step_weighting=noise": f"policies.text.loss.step_weighting: {FOREIGN}",
    "policies.text.rollout.shared_noise=true": f"policies.text.rollout.shared_noise: {FOREIGN}",
    "policies.image.rollout.temperature=0.5": "policies.image.rollout.temperature: has no meaning for a denoising "
                                              "policy; take it out",
    "policies.image.rollout.trained_steps={kind: window, size: 9}": "policies.image.rollout.trained_steps.size: want "
                                                                    "at most 4, ",
    "policies.image.rollout.trained_steps={kind: random, count: 9}": "policies.image.rollout.trained_steps.count: "
                                                                     "want at most 4, ",
}  # fmt: skip


def demo(*overrides):
    steps = [f"chain.{size}_image.num_steps=5" for size in ("rough", "middle", "final")]
    return load_config("demo", [*steps, *overrides])


@pytest.mark.parametrize(("override", "expected"), FAULTS.items())
def test_a_setting_that_does_not_fit(override, expected):
    with pytest.raises(ConfigError) as caught:
        validate(demo(override))
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_guard_is_made_of_means():
    overrides = ["policies.image.loss.surrogate=guard", "policies.image.rollout.logprob_reduction=sum"]
    with pytest.raises(
        ConfigError, match=r"policies\.image\.rollout\.logprob_reduction: surrogate guard is made of means"
    ):
        check_denoising(demo(*overrides))
    check_denoising(demo(overrides[1]))


@pytest.mark.parametrize("sampler", ["cps", "ddim"])
def test_a_share_of_the_noise_is_at_most_all_of_it(sampler):
    with pytest.raises(
        ConfigError, match=r"policies\.image\.rollout\.noise_level: want at most 1 with sampler"
    ):
        check_denoising(
            demo(f"policies.image.rollout.sampler={sampler}", "policies.image.rollout.noise_level=1.2")
        )
    check_denoising(demo(f"policies.image.rollout.sampler={sampler}", "policies.image.rollout.noise_level=1"))


def test_the_shortest_picture_counts():
    short = "chain.rough_image.num_steps=3"
    with pytest.raises(
        ConfigError, match=r"want at most 2, the steps of chain\.rough_image less its last, got 4"
    ):
        check_denoising(demo(short, "policies.image.rollout.trained_steps=window"))
    check_denoising(demo(short, "policies.image.rollout.trained_steps={kind: window, size: 2}"))


@pytest.mark.parametrize(
    ("steps", "trained"),
    [("all", 12), ("{kind: share, share: 0.5}", 6), ("{kind: window, size: 3}", 9), ("random", 3)],
)
def test_the_trained_steps_are_said_before_the_start(steps, trained):
    config = demo(f"policies.image.rollout.trained_steps={steps}")
    validate(config, paths=False)
    assert derived(config)["trained denoising steps a chain"] == str(trained)


@pytest.mark.parametrize("sampler", ["flow_grpo", "dance", "cps", "ddim"])
def test_what_fits_is_let_through(sampler):
    validate(
        demo(
            f"policies.image.rollout.sampler={sampler}",
            "policies.image.loss.step_weighting=noise",
            "policies.image.rollout.shared_noise=true",
            "policies.image.call.guidance_scale=1.5",
            "policies.image.rollout.trained_steps={kind: share, share: 0.4}",
        ),
        paths=False,
    )
