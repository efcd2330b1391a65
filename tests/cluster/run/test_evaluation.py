"""Held-out evaluation: greedy and drawn answers, means by prompt, what is written and read again; no Ray."""

import json
import logging

import numpy as np
import pytest

from cluster.record.recorder import ChainRecorder
from cluster.record.run_files import read_evaluation
from cluster.record.rundir import RunDir
from cluster.run.evaluation import Evaluator, by_prompt
from configs.load import load_config
from rl.errors import DamagedFileError
from tests.reference.damage import DAMAGES, damage
from tests.reference.fake_run import PHOTOS, make_prompt

GREEDY = {
    "bicubic": {"psnr": [20.0, 21.0]},
    "start": {"format": [0.0, 1.0], "psnr": [None, 20.0]},
    "now": {"format": [1.0, 1.0], "psnr": [22.0, 21.0]},
}
DRAWN = {"start": {"format": [0.5, 0.25]}, "now": {"format": [0.75, 1.0]}}


@pytest.fixture
def prompts():
    rng = np.random.default_rng(0)
    return [make_prompt(photo, "eval/0", rng) for photo in PHOTOS][:2]


def evaluator_of(run, prompts, *overrides):
    config = load_config("tiny", list(overrides))
    return Evaluator(
        config=config, prompts=prompts, runners=[], picture_metrics=None, recorder=ChainRecorder(run.path)
    )


def test_text_is_greedy_and_with_samples_also_drawn(tmp_path, prompts):
    run = RunDir(tmp_path)
    (way,) = evaluator_of(run, prompts).ways
    request = way.request(prompts[0])
    assert (request.temperature, request.noise_level, request.num_chains) == (0.0, 0.0, 1)
    evaluator = evaluator_of(run, prompts, "eval.samples=3", "eval.samplers=[stochastic,deterministic]")
    assert [(w.name, w.temperature, w.noise_level, w.num_chains) for w in evaluator.ways] == [
        ("stochastic", 0.0, None, 1),
        ("deterministic", 0.0, 0.0, 1),
        ("drawn", None, None, 3),
    ]


def test_a_mean_is_over_the_answers_that_have_a_value():
    assert by_prompt([1.0, 2.0, None, 4.0, None, None], 2) == [1.5, 4.0, None]
    assert by_prompt([0.1, None, 0.3], 1) == [0.1, None, 0.3]


def test_what_was_written_is_taken_up_again(tmp_path, prompts):
    run = RunDir(tmp_path)
    first = evaluator_of(run, prompts, "eval.samples=4")
    first.rows |= {"deterministic": GREEDY, "drawn": DRAWN}
    content = first.write(run)
    assert content["paired"]["now-start"]["format"]["mean"] == 0.5
    assert content["paired"]["now-start"]["psnr"]["num"] == 1
    assert content["drawn"]["paired"]["now-start"]["format"]["mean"] == pytest.approx(0.5)
    assert content["drawn"]["num_samples"] == 4
    assert read_evaluation(run.evaluation) == content
    again = evaluator_of(run, prompts, "eval.samples=4")
    again.read(run)
    assert again.rows == {"deterministic": GREEDY, "drawn": DRAWN}
    others = evaluator_of(run, prompts, "eval.samples=2")
    others.read(run)
    assert others.rows == {"deterministic": GREEDY}
    fewer = evaluator_of(run, prompts[:1])
    fewer.read(run)
    assert not fewer.rows


def test_files_of_before_formats_were_numbered_are_read(tmp_path, prompts):
    run = RunDir(tmp_path)
    evaluator = evaluator_of(run, prompts)
    evaluator.rows["deterministic"] = GREEDY
    content = evaluator.write(run)
    old = {key: content[key] for key in ("rows", "paired", "num_prompts", "prompts")}
    text = json.dumps(old).replace("now-start", "grpo-coldstart").replace("now-bicubic", "grpo-bicubic")
    run.evaluation.write_text(text.replace('"start"', '"coldstart"').replace('"now"', '"grpo"'))
    assert read_evaluation(run.evaluation) == old | {"format": 2}
    run.evaluation.write_text(json.dumps(content | {"format": 3}))
    with pytest.raises(DamagedFileError, match="is of format 3"):
        read_evaluation(run.evaluation)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_evaluation_does_not_stop_a_run_that_goes_on(tmp_path, prompts, caplog, how):
    run = RunDir(tmp_path)
    evaluator = evaluator_of(run, prompts)
    evaluator.rows["deterministic"] = GREEDY
    evaluator.write(run)
    content = json.loads(run.evaluation.read_text())
    run.evaluation.write_text(json.dumps({"rows": content.pop("rows")} | content))
    damage(run.evaluation, how)
    again = evaluator_of(run, prompts)
    with caplog.at_level(logging.WARNING):
        again.read(run)
    assert not again.rows
    (record,) = caplog.records
    assert str(run.evaluation) in record.getMessage()


def test_without_a_truth_nothing_is_measured(tmp_path, prompts):
    evaluator = evaluator_of(RunDir(tmp_path), prompts)
    evaluator.baselines()
    assert not evaluator.rows
