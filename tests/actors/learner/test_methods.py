"""Methods of the loss under DeepSpeed, two ranks and several optimizer steps, against plain torch."""

from __future__ import annotations

import numpy as np
import pytest

from rl.measure.metrics import merge, to_metrics
from rl.types import UpdateStats
from tests.reference.learner_jobs import LIFE, METHODS, STEPS, all_methods, plain_training
from tests.reference.policy_configs import policy_config
from tests.reference.ranks import run_ranks
from tests.reference.tiny_policy import write_start

pytestmark = pytest.mark.engine
by_method = pytest.mark.parametrize("method", list(METHODS))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("methods")
    write_start(path / "start")
    return path


@pytest.fixture(scope="module")
def ranks(root):
    return run_ranks(all_methods, 2, root)


def metrics(ranks, method, step):
    return to_metrics(merge([UpdateStats(**rank[method]["stats"][step]) for rank in ranks]))


@by_method
def test_losses_and_weights_are_those_of_plain_torch(ranks, root, method):
    losses, weights = plain_training(root / "start", policy_config(**LIFE, **METHODS[method]), STEPS)
    got = [metrics(ranks, method, step)["loss/tiny/total"] for step in range(len(STEPS))]
    np.testing.assert_allclose(got, losses, atol=1e-5)
    after = ranks[0][method]["after"]
    assert after.keys() == weights.keys()
    for name, want in weights.items():
        np.testing.assert_allclose(after[name], want.numpy(), atol=1e-5, err_msg=name)


@by_method
def test_methods_had_something_to_do(ranks, method):
    """Bounds held some actions in the steps that the first update had already moved the policy for."""
    later = [metrics(ranks, method, step) for step in range(1, len(STEPS))]
    assert max(m["policy/tiny/clip_frac_low"] + m["policy/tiny/clip_frac_high"] for m in later) > 0


def test_the_mismatch_is_measured_and_truncated(ranks):
    for step in range(len(STEPS)):
        seen = metrics(ranks, "truncate", step)
        assert 0.1 < seen["policy/tiny/mismatch_truncated_frac"] < 0.7
        assert seen["policy/tiny/mismatch_masked_frac"] == 0
    first = metrics(ranks, "truncate", 0)
    assert 0.1 < first["policy/tiny/mismatch_logprob_nats/mean"] < 0.4
    assert first["policy/tiny/ratio_before_update/max_dev"] > 0.1
    assert metrics(ranks, "gspo", 0)["policy/tiny/ratio_before_update/max_dev"] < 1e-6
