"""Model families: the record each declares, and what is refused."""

from __future__ import annotations

import json
import sys

import pytest

from actors.learner.model import load_policy
from actors.learner.spec import LearnerSpec
from actors.policies.base import TrainablePolicy
from actors.policies.denoising.family import DIFFUSERS
from actors.policies.family import FAMILIES, family_of
from actors.policies.token.family import LANGUAGE_MODEL
from actors.rollout.worker import RolloutWorker
from configs.load import load_config
from configs.schema import ColdstartConfig
from rl.errors import ConfigError
from rl.targets import load_target
from tests.reference.policy_configs import policy_config
from tests.reference.tiny_policy import BLOCKS, write_start

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


def test_a_policy_without_a_family_has_that_of_its_kind():
    assert family_of("text", policy_config(kind="token")) is LANGUAGE_MODEL
    assert family_of("image", policy_config(kind="denoising")) is DIFFUSERS


@pytest.mark.parametrize(
    ("family", "file", "content", "error"),
    [
        (
            LANGUAGE_MODEL,
            "other.json",
            {},
            r"no config\.json in it; a token policy starts from a language model",
        ),
        (LANGUAGE_MODEL, "config.json", {"model_type": "lama"}, r"transformers cannot read its config\.json"),
        (
            LANGUAGE_MODEL,
            "config.json",
            {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]},
            "holds a T5ForConditionalGeneration model, which writes no text that transformers",
        ),
        (
            LANGUAGE_MODEL,
            "config.json",
            {"model_type": "bert", "architectures": ["BertModel"]},
            "holds a BertModel model, from which vLLM does not write text",
        ),
        (DIFFUSERS, "model_index.json", [], "is damaged: it holds no mapping"),
        (
            DIFFUSERS,
            "model_index.json",
            {"_class_name": "FluxPriorReduxPipeline", "image_encoder": ["transformers", "SiglipVisionModel"]},
            "FluxPriorReduxPipeline has no component named transformer or unet to train",
        ),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused_by_its_name(tmp_path, family, file, content, error):
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=error) as caught:
        family.check_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_its_own_checkpoint_is_taken(tmp_path):
    index = {"_class_name": ["pipeline", "RestorationPipeline"]}
    index |= {"unet": ["diffusers", "UNet2DConditionModel"], "scheduler": ["diffusers", "DDIMScheduler"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "scheduler").mkdir()
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    DIFFUSERS.check_checkpoint(tmp_path)


SKETCHES = '''
"""A model family of a user's own."""
from actors.policies.family import CheckpointMark, PolicyFamily
from tests.reference.tiny_policy import TinyPolicy

class SketchPolicy(TinyPolicy):
    pass

SKETCH = PolicyFamily(
    name="sketch",
    kind="token",
    checkpoint=CheckpointMark(file="config.json", key="architectures", value="SketchForCausalLM"),
    learner="sketches:SketchPolicy",
    rollout="sketches:SketchWorker",
    coldstart="sketches:train",
    coldstart_steps="text_steps",
    lora_targets=("head",),
)
NUMBER = 3
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A second family, in a module outside the checkout; returns what makes its configuration."""
    (tmp_path / "sketches.py").write_text(SKETCHES)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield lambda family: load_config("tiny", [f"policies.text.family={family}"]).policies["text"]
    sys.modules.pop("sketches", None)


def test_a_family_of_the_users_own_is_found_by_its_key(own, tmp_path):
    policy = own("sketches:SKETCH")
    family = family_of("text", policy)
    assert (family.name, family.lora_targets) == ("sketch", ("head",))
    (tmp_path / "config.json").write_text('{"architectures": ["SketchForCausalLM"]}')
    family.check_checkpoint(tmp_path)
    write_start(tmp_path)
    spec = LearnerSpec(
        policy_name="text",
        family=family,
        config=policy,
        directory=tmp_path,
        block_names=BLOCKS,
        bucket_bytes=100,
        num_optimizer_steps=1,
    )
    assert type(load_policy(spec)).__name__ == "SketchPolicy"


@pytest.mark.parametrize(
    ("family", "error"),
    [
        ("language_modle", r"no model family 'language_modle'; did you mean language_model\?"),
        ("diffusers", "diffusers is a family of denoising policies, and policies.text.kind is token"),
        ("sketches:SKETHC", r"sketches has no 'SKETHC'; did you mean SKETCH\?"),
        ("sketches:NUMBER", "sketches:NUMBER is an int, want a PolicyFamily"),
        ("sketched:SKETCH", "no module 'sketched'"),
    ],
)
def test_a_family_that_cannot_be_is_refused_in_one_line(own, family, error):
    with pytest.raises(ConfigError, match=rf"^policies\.text\.family: {error}") as caught:
        family_of("text", own(family))
    assert "\n" not in str(caught.value)


def test_a_family_that_names_nothing_is_refused_before_a_run(own):
    with pytest.raises(ConfigError, match=r"model family sketch, rollout: sketches has no 'SketchWorker'"):
        family_of("text", own("sketches:SKETCH")).check()
