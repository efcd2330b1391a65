"""The learned expert: its loss, a short fit, and what is written for pyiqa and the generation reward to load."""

import json

import numpy as np
import pytest
import torch

from actors.coldstart.restoration.expert_data import ExpertDataset
from actors.coldstart.restoration.expert_trainer import (
    ARCHITECTURE,
    MEAN_QUALITY,
    REGRESSION_WEIGHT,
    TEMPERATURE,
    WORSE_KINDS,
    ExpertModel,
    expert_batches,
    fit_expert,
    report_expert,
    save_expert,
)
from actors.coldstart.supervised import SupervisedSpec
from configs.schema import RewardConfig
from rewards.base import evaluate
from rewards.contract import check_reward
from rewards.experts.expert import Expert, to_tensor
from rewards.experts.pyiqa_metric import import_pyiqa
from rewards.generation import GenerationReward
from rewards.load import load_reward
from rl.errors import DivergedError
from tests.reference.expert import ranking_loss, tiny_dataset
from tests.reference.rewards import make_view


@pytest.fixture(scope="module")
def dataset() -> ExpertDataset:
    return tiny_dataset()


@pytest.fixture(scope="module")
def fitted(dataset, tmp_path_factory):
    directory = tmp_path_factory.mktemp("coldstart") / "expert"
    losses: list[float] = []
    record = fit_expert(
        dataset,
        SupervisedSpec(num_steps=12, learning_rate=2e-3),
        directory=directory,
        seed=0,
        batch_size=2,
        report=lambda _, seen: losses.append(seen["loss"]),
    )
    return directory, record, losses


class SaysMean(torch.nn.Module):
    """Scores a picture by its mean, so that a test decides the scores."""

    def forward(self, pictures):
        return pictures.mean(dim=(1, 2, 3), keepdim=True).flatten(1)


def loss_of(scores: np.ndarray, qualities: np.ndarray) -> float:
    model = ExpertModel(seed=0)
    model.network = SaysMean()
    flat = torch.as_tensor(scores, dtype=torch.float32)[..., None, None, None].expand(-1, -1, 3, 2, 2)
    batch = {"pictures": flat, "qualities": torch.as_tensor(qualities, dtype=torch.float32)}
    return float(model(batch))


def test_the_loss_is_the_divergence_of_all_pairs_plus_the_squared_error():
    rng = np.random.default_rng(0)
    qualities = rng.uniform(0.6, 0.8, (3, 5))
    scores = qualities + rng.normal(0, 0.02, qualities.shape)
    expected = ranking_loss(scores, qualities, TEMPERATURE, REGRESSION_WEIGHT)
    assert loss_of(scores, qualities) == pytest.approx(expected, rel=1e-3)
    assert loss_of(qualities, qualities) == pytest.approx(0.0, abs=1e-5)
    # A shift costs the regression alone.
    shift = REGRESSION_WEIGHT * (0.03 / TEMPERATURE) ** 2
    assert loss_of(qualities + 0.03, qualities) == pytest.approx(shift, rel=1e-2)


def test_a_model_starts_at_the_mean_quality_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    one, same, other = (ExpertModel(seed=seed).eval() for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert one.network(pictures).flatten().tolist() == pytest.approx([MEAN_QUALITY] * 2, abs=0.02)
        assert torch.equal(one.network(pictures), same.network(pictures))
        assert not torch.equal(one.network(pictures), other.network(pictures))


def test_a_fit_teaches_and_says_how_far_it_can_be_trusted(fitted, dataset):
    directory, record, losses = fitted
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert record == json.loads((directory / "expert.json").read_text())
    assert record["metric"] == "cnniqa"
    assert record["options"] == ARCHITECTURE
    assert record["range"][0] < record["range"][1]
    assert {"spearman", "spearman_near", "spearman_restored"} <= record.keys()
    shares = [record[f"truth_over_{kind.replace('/', '_')}"] for kind in WORSE_KINDS]
    assert all(0 <= share <= 1 for share in shares)


def test_pyiqa_loads_what_was_written_and_scores_alike(fitted, dataset):
    directory, record, _ = fitted
    path = str(directory / "expert.pth")
    metric = import_pyiqa().create_metric(
        "cnniqa", device=torch.device("cpu"), pretrained_model_path=path, **record["options"]
    )
    pictures = list(dataset.pictures[0])
    theirs = metric(to_tensor(pictures)).flatten().tolist()
    expert = Expert("cnniqa", weights=path)  # the file beside the weights knows the architecture
    expert.setup()
    assert expert.score(pictures).tolist() == pytest.approx(theirs, abs=1e-6)
    assert expert.score_range == tuple(record["range"])
    assert not expert.full_reference
    assert not expert.lower_better


def test_a_fit_is_the_same_for_one_seed(dataset, tmp_path):
    spec = SupervisedSpec(num_steps=2, learning_rate=2e-3)
    one, same = (
        fit_expert(dataset, spec, directory=tmp_path / d, seed=3, batch_size=1, report=lambda *_: None)
        for d in "ab"
    )
    assert one == same
    first, second = (torch.load(tmp_path / d / "expert.pth")["params"] for d in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_generation_reward_reads_range_and_architecture_beside_the_weights(fitted, dataset):
    directory, record, _ = fitted
    low, high = record["range"]
    entry = {"weights": str(directory / "expert.pth")}
    config = RewardConfig(
        target="rewards.generation:GenerationReward", options={"experts": {"cnniqa": entry}}
    )
    reward = load_reward("generation", config)
    reward.setup()
    views = [make_view(final=picture) for picture in dataset.pictures[1]]
    scores = evaluate(reward, "generation", views)
    expert = Expert("cnniqa", weights=directory / "expert.pth")
    expert.setup()
    raw = expert.score(list(dataset.pictures[1]))
    assert scores.values == pytest.approx(np.clip((raw - low) / (high - low), -1, 2), abs=1e-4)
    check_reward(GenerationReward({"cnniqa": {**entry, "range": [0.0, 1.0]}}))


def test_one_content_is_too_few(tmp_path):
    with pytest.raises(ValueError, match="at least 2 contents"):
        fit_expert(
            tiny_dataset(1),
            SupervisedSpec(num_steps=1, learning_rate=1e-3),
            directory=tmp_path,
            seed=0,
            report=lambda *_: None,
        )


def test_an_expert_that_diverged_is_not_saved(dataset, tmp_path):
    model = ExpertModel(seed=0)
    with torch.no_grad():
        model.network.fc3.bias.fill_(float("nan"))
    with pytest.raises(DivergedError, match="not finite"):
        save_expert(model, dataset, directory=tmp_path, held=[0])
    assert list(tmp_path.iterdir()) == []


def test_the_report_says_how_often_the_truth_wins_and_how_ranks_agree(dataset):
    perfect = report_expert(dataset.qualities[[0, 2]], dataset, [0, 2])
    assert perfect["spearman"] == pytest.approx(1.0)
    assert all(perfect[f"truth_over_{kind.replace('/', '_')}"] == 1.0 for kind in WORSE_KINDS)
    reverse = report_expert(-dataset.qualities, dataset, range(5))
    assert reverse["spearman_near"] == pytest.approx(-1.0)
    assert reverse["truth_over_bicubic"] == 0.0
    flat = report_expert(np.ones_like(dataset.qualities), dataset, range(5))
    assert flat["spearman"] == 0.0  # ranks of equal scores say nothing


def test_gradients_reach_every_weight(dataset):
    model = ExpertModel(seed=0)
    model(next(expert_batches(dataset, batch_size=2, seed=0))).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.network.parameters())
