"""Model families: the record each declares, and what is refused."""

from __future__ import annotations

import json

import pytest

from actors.policies.base import TrainablePolicy
from actors.policies.denoising.family import RESTORATION
from actors.policies.family import FAMILIES, check_checkpoint, family_of
from actors.policies.token.family import QWEN2_5_VL
from actors.rollout.worker import RolloutWorker
from configs.schema import ColdstartConfig, PolicyConfig
from rl.errors import ConfigError
from rl.targets import load_target

RECORDS = [load_target(target, key=name) for name, target in FAMILIES.items()]


@pytest.mark.parametrize("family", RECORDS, ids=list(FAMILIES))
def test_what_a_record_names_is_there(family):
    assert FAMILIES[family.name].endswith(f":{family.name.upper()}")
    assert issubclass(family.load("learner"), TrainablePolicy)
    assert issubclass(family.load("rollout"), RolloutWorker)
    assert callable(family.load("coldstart"))
    assert getattr(ColdstartConfig(), family.coldstart_steps) > 0
    if family.kind == "token":
        assert callable(family.load("vocabulary"))
        assert family.load("published_name")("model.visual.weight") == "model.visual.weight"


def test_a_policy_without_a_family_has_that_of_its_kind():
    assert family_of("text", PolicyConfig(kind="token")) is QWEN2_5_VL
    assert family_of("image", PolicyConfig(kind="denoising")) is RESTORATION


@pytest.mark.parametrize(
    ("family", "file", "content", "error"),
    [
        (QWEN2_5_VL, "other.json", {}, r"no config\.json in it; .* starts from a qwen2_5_vl checkpoint$"),
        (QWEN2_5_VL, "config.json", {"model_type": "llama"}, "holds a llama model; a token policy of family"),
        (
            RESTORATION,
            "model_index.json",
            {"_class_name": ["pipeline", "FluxPipeline"]},
            "a FluxPipeline model",
        ),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused_by_its_name(tmp_path, family, file, content, error):
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=error) as caught:
        check_checkpoint(tmp_path, family)
    assert "\n" not in str(caught.value)


def test_its_own_checkpoint_is_taken(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": ["pipeline", "RestorationPipeline"]}')
    check_checkpoint(tmp_path, RESTORATION)
