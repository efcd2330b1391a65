"""A policy that writes whole chains: its blocks, its pictures' sizes, and what follows from them."""

from __future__ import annotations

import pytest

from configs.checks.validate import validate
from configs.derive import derived
from configs.errors import ConfigError
from configs.load import digest, load_config
from rl.advantage.batching import max_actions

UNIFIED = """
name: unified
policies: {one: {kind: unified}}
chain:
  look: {kind: text, policy: one, max_tokens: 16}
  paint: {kind: image, policy: one, size_px: 32}
rewards:
  format: {target: "rewards.format:FormatReward"}
"""


def load(tmp_path, *changes):
    path = tmp_path / "run.yaml"
    path.write_text(UNIFIED)
    return load_config(str(path), list(changes))


def test_one_policy_writes_text_and_pictures(tmp_path):
    config = load(tmp_path)
    validate(config, paths=False)
    assert derived(config)["picture codes a chain"] == "64"
    assert max_actions("one", config) == 16 + 64


def test_the_start_depends_on_the_stride_and_not_on_how_it_is_trained(tmp_path):
    plain = digest(load(tmp_path))
    assert (
        digest(load(tmp_path, "policies.one.learner.learning_rate=1e-4", "policies.one.num_threads=2"))
        == plain
    )
    assert digest(load(tmp_path, "policies.one.stride_px=8")) != plain


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            ["chain.paint.num_steps=4"],
            "chain.paint.num_steps: has no meaning in a image block of a unified policy",
        ),
        (
            ["policies.one.stride_px=5"],
            "chain.paint.size_px: want a multiple of policies.one.stride_px (5), got 32",
        ),
        (
            ["policies.other.kind=denoising", "chain.paint.policy=other", "chain.paint.num_steps=4"],
            "chain.paint.policy: policy one is unified and writes every block of its chain, got other",
        ),
        (
            ["policies.one.kind=token"],
            "chain.paint.policy: image is written by a denoising or unified policy",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes, expected, tmp_path):
    with pytest.raises(ConfigError) as caught:
        validate(load(tmp_path, *changes), paths=False)
    assert expected in str(caught.value)
