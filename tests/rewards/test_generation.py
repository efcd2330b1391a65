"""The generation reward: experts on the final picture, oriented, rescaled and averaged."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.base import Need, evaluate
from rewards.experts.expert import Expert
from rewards.generation import GenerationReward
from rl.errors import ConfigError
from tests.reference.rewards import make_view, picture


def ready(experts) -> GenerationReward:
    reward = GenerationReward(experts)
    reward.setup()
    return reward


def raw(name: str, finals, truths=()) -> list[float]:
    expert = Expert(name)
    expert.setup()
    return expert.score(finals, truths).tolist()


FINALS = [picture(0, level=level) for level in (5.0, 25.0, 60.0)]
TRUTH = picture(0, level=0.0)
VIEWS = [make_view(final=final, truth=TRUTH) for final in FINALS]


def test_it_is_the_weighted_mean_of_rescaled_experts():
    reward = ready(
        {"psnr": {"range": [10.0, 40.0], "weight": 3}, "gmsd": {"range": [0.0, 0.4]}, "ssim": None}
    )
    psnr, gmsd, ssim = (raw(name, FINALS, [TRUTH] * 3) for name in ("psnr", "gmsd", "ssim"))
    expected = [
        (3 * (p - 10) / 30 + (0.4 - g) / 0.4 + s) / 5  # smaller GMSD is better
        for p, g, s in zip(psnr, gmsd, ssim, strict=True)
    ]
    scores = evaluate(reward, "generation", VIEWS)
    assert scores.values == pytest.approx(expected, abs=1e-6)
    assert scores.values[0] > scores.values[1] > scores.values[2]


def test_an_expert_without_truth_needs_none():
    reward = ready({"piqe": {}})
    assert reward.needs == {Need.FINAL_PICTURE}
    (score,) = evaluate(reward, "generation", [make_view(final=FINALS[0])]).values
    assert score == pytest.approx(1 - raw("piqe", FINALS[:1])[0] / 100)


def test_a_chain_without_a_final_picture_or_a_prompt_without_truth_gets_the_bad_end():
    reward = ready({"ssim": {}})
    scores = evaluate(reward, "generation", [make_view(truth=TRUTH), VIEWS[0], make_view(final=FINALS[0])])
    assert scores.valid.all()
    assert scores.missing.tolist() == [True, False, True]
    assert scores.values[[0, 2]].tolist() == [0.0, 0.0]
    assert scores.values[1] > 0.3
    assert scores.reasons == ("no final_picture", "", "no truth")


def test_pictures_of_several_sizes_score_as_they_do_alone():
    views = [*VIEWS, make_view(final=picture(3, 48)), make_view(final=picture(4, 80)), VIEWS[0]]
    reward = ready({"piqe": {}})
    together = evaluate(reward, "generation", views).values
    alone = [evaluate(reward, "generation", [view]).values[0] for view in views]
    assert together == pytest.approx(alone, abs=1e-6)


def test_a_truth_of_another_size_is_the_scorers_failure():
    views = [make_view(final=picture(0, 48), truth=TRUTH)]
    scores = evaluate(ready({"ssim": {}}), "generation", views)
    assert not scores.valid.any()
    assert "ssim: picture 0 is (48, 48, 3), its truth (64, 64, 3)" in scores.reasons[0]


def test_an_expert_that_gives_no_number_is_named(monkeypatch):
    reward = ready({"ssim": {}, "psnr": {}})
    values = np.asarray([np.nan, 20.0, np.inf], dtype=np.float32)
    monkeypatch.setattr(reward._experts["psnr"], "score", lambda *_: values)
    scores = evaluate(reward, "generation", VIEWS)
    assert scores.valid.tolist() == [False, True, False]
    assert scores.reasons == ("no finite score from psnr", "", "no finite score from psnr")


@settings(deadline=None, max_examples=50)
@given(
    value=st.floats(-1e6, 1e6, width=32),
    low=st.floats(-100, 100),
    span=st.floats(0.01, 100),
    lower_better=st.booleans(),
)
def test_rescaling_maps_the_range_to_0_and_1_and_holds_one_range_more(value, low, span, lower_better):
    expert = Expert("x")
    expert.score_range, expert.lower_better = (low, low + span), lower_better
    expert.score = lambda *_: np.asarray([value], dtype=np.float32)
    (share,) = expert.shares([], margin=1.0).tolist()
    expected = (value - low) / ((low + span) - low)
    expected = 1 - expected if lower_better else expected
    assert share == pytest.approx(max(-1.0, min(2.0, expected)), abs=1e-6)
    assert GenerationReward.low <= share <= GenerationReward.high


def test_the_declared_range_comes_before_the_files_and_the_librarys(tmp_path):
    weights = tmp_path / "mine.pth"
    weights.write_bytes(b"x")
    (tmp_path / "mine.json").write_text(json.dumps({"range": [0.2, 0.6], "options": {"ker_size": 5}}))
    assert Expert("cnniqa", weights=weights)._sidecar()["range"] == [0.2, 0.6]
    assert ready({"psnr": {"range": [1, 2]}})._experts["psnr"].score_range == (1, 2)
    assert ready({"psnr": {}})._experts["psnr"].score_range == (0.0, 40.0)


@pytest.mark.parametrize(
    ("experts", "message"),
    [
        ({"psrn": {}}, r"pyiqa has no metric 'psrn'; did you mean psnr"),
        ({"ssim": {"options": {"border": 4}}}, r"expert ssim does not take \['border'\]: .*border"),
        (
            {"cnniqa": {"weights": "/nowhere/expert.pth"}},
            "expert cnniqa: no weights file /nowhere/expert.pth",
        ),
        ({"cnniqa": {}}, "expert cnniqa wants to download weights.*give the path of its weights file"),
        ({"mad": {}}, r"expert mad: its scores have no declared range; give range: \[low, high\]"),
    ],
)
def test_an_expert_that_cannot_be_set_up_is_named_in_one_line(experts, message):
    with pytest.raises(ConfigError, match=message) as caught:
        ready(experts)
    assert "\n" not in str(caught.value)


def test_the_range_of_scores_is_finite():
    assert math.isfinite(GenerationReward.low)
    assert math.isfinite(GenerationReward.high)
