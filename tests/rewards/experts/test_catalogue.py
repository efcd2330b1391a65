"""Every metric of pyiqa is known as pyiqa knows it, and what cannot be used is said before a run starts."""

import subprocess
import sys
import urllib.request

import numpy as np
import pytest
import torch
from skimage import data

from cluster.run.preflight import preflight
from configs.load import load_config
from rewards.base import evaluate
from rewards.core.offline import DownloadRefusedError, refuse_downloads
from rewards.examples import example_blocks, example_chains
from rewards.experts.catalogue import catalogue, find_metric, parse_range
from rewards.experts.expert import Expert, check_size, smallest_px
from rewards.experts.picture_metrics import PictureMetrics
from rewards.experts.pyiqa_metric import import_pyiqa
from rewards.fidelity import FidelityReward
from rewards.generation import ENSEMBLES, GenerationReward
from rl.errors import ConfigError
from tests.reference.command import ROOT

WITHOUT_WEIGHTS = [name for name, metric in catalogue().items() if not metric.has_weights]


def test_it_is_pyiqas_own_table():
    pyiqa = import_pyiqa()
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    assert sorted(catalogue()) == sorted(pyiqa.list_models())
    for name, metric in catalogue().items():
        assert metric.full_reference == (DEFAULT_CONFIGS[name]["metric_mode"] == "FR")
        flag = DEFAULT_CONFIGS[name].get("lower_better", False)
        assert metric.lower_better == (True if name == "dmm" else flag)  # a distance that pyiqa does not flag
    assert [name for name, metric in catalogue().items() if metric.of_sets] == [
        "fid", "sfid", "fid_dinov2", "inception_score",
    ]  # fmt: skip


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_a_metric_without_weights_loads_and_judges(name):
    expert = Expert(name, device="cpu")
    expert.setup()
    metric = expert._metric
    assert expert.lower_better == metric.lower_better
    assert expert.full_reference == (metric.metric_mode == "FR")
    check_size(expert, 176)


def worse_pictures(photo: np.ndarray) -> dict[str, np.ndarray]:
    """The same picture, damaged more and more, and otherwise."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0.0, 1.0, photo.shape)
    blocks = photo.reshape(photo.shape[0] // 16, 16, -1, 16, 3).mean(axis=(1, 3)).repeat(16, 0).repeat(16, 1)
    return {
        "noisy": np.clip(photo + 12 * noise, 0, 255).astype(np.uint8),
        "noisier": np.clip(photo + 40 * noise, 0, 255).astype(np.uint8),
        "flat": (0.2 * photo + 0.8 * photo.mean()).astype(np.uint8),
        "coarse": blocks.astype(np.uint8),
    }


NO_REFERENCE_DAMAGE = {"piqe": ("noisier", "coarse"), "entropy": ("flat", "coarse")}
"""What each of those metrics was made to see."""


@pytest.fixture
def random_vgg(monkeypatch):
    """A distance of features is 0 for equal pictures, whatever the weights: random ones are never fetched."""
    import_pyiqa()
    import torchvision

    real = torchvision.models.vgg16
    torch.manual_seed(0)
    monkeypatch.setattr("torchvision.models.vgg16", lambda *args, **kwargs: real(weights=None))


@pytest.mark.parametrize("name", [*WITHOUT_WEIGHTS, "dmm"])
def test_a_metrics_direction_is_what_it_says_of_a_picture_and_worse_ones(name, random_vgg):
    size = {"mad": 64, "dmm": 128}.get(name, 176)
    photo = data.coffee()[100 : 100 + size, 200 : 200 + size]
    expert = Expert(name, device="cpu")
    expert.setup()
    worse = worse_pictures(photo)
    kinds = ("noisy", "noisier") if expert.full_reference else NO_REFERENCE_DAMAGE[name]
    pictures = [photo, *(worse[kind] for kind in kinds)]
    scores = expert.score(pictures, [photo] * len(pictures))
    sign = -1 if expert.lower_better else 1
    assert (sign * scores[0] > sign * scores[1:]).all(), dict(zip(["itself", *kinds], scores, strict=True))
    if expert.full_reference:
        assert sign * scores[1] > sign * scores[2]


def test_what_needs_weights_is_told_from_what_does_not():
    assert len(WITHOUT_WEIGHTS) == 14
    for name in (
        "musiq",
        "niqe",
        "lpips",
        "deepdc",
        "inception_score",
        "maclip",
        "clipscore",
        "qalign",
        "brisque",
    ):
        assert find_metric(name).has_weights, name


def test_colours_and_ranges():
    assert find_metric("ssim").colours == "luma (yiq)"
    assert find_metric("ssimc").colours == "RGB"
    assert find_metric("musiq").score_range == (0.0, 100.0)
    assert find_metric("mad").score_range is None
    assert parse_range("~-1, ~0.1") == (-1.0, 0.1)
    assert parse_range("quality: 0, 1; rank: 0, 2; rank_prob: 0, 1") is None


def test_reading_it_imports_neither_pyiqa_nor_torch():
    code = (
        "import sys\nfrom rewards.experts.catalogue import catalogue\nassert len(catalogue()) > 100\n"
        "print(*sorted({'torch', 'pyiqa', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


# --------------------------------------------------------------------------------- before a run


def test_a_missing_weights_file_is_named_with_its_address_and_its_place():
    with pytest.raises(ConfigError) as caught:
        Expert("musiq").check()
    said = str(caught.value)
    assert "expert musiq wants to download weights, which is never done here (https://" in said
    assert "/pyiqa/musiq_koniq_ckpt-" in said
    assert "\n" not in said


def test_a_missing_local_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"expert cnniqa: no weights file .*gone\.pth"):
        GenerationReward({"cnniqa": {"weights": tmp_path / "gone.pth"}}).check()


def test_a_refused_download_says_what_was_asked_for():
    with refuse_downloads(), pytest.raises(DownloadRefusedError) as caught:
        urllib.request.urlopen("http://127.0.0.1:9/weights.pth")
    assert caught.value.url == "http://127.0.0.1:9/weights.pth"


def test_weights_in_the_cache_are_found(tmp_path):
    weights = tmp_path / "expert.pth"
    from pyiqa.archs.cnniqa_arch import CNNIQA

    torch.save({"params": CNNIQA(pretrained=None).state_dict()}, weights)
    expert = Expert("cnniqa", weights=weights)
    expert.check(64)
    assert expert.device == "cpu"
    assert smallest_px(expert) == 7  # its first kernel


@pytest.mark.parametrize(("name", "smallest"), [("ssim", 11), ("ms_ssim", 161), ("psnr", 4)])
def test_the_smallest_picture_is_measured(name, smallest):
    expert = Expert(name, device="cpu")
    expert.setup()
    assert smallest_px(expert) == smallest
    check_size(expert, smallest)


def test_a_chain_with_pictures_too_small_is_refused():
    with pytest.raises(
        ConfigError, match=r"ms_ssim cannot judge pictures of 64 px \(.*smallest is 161 px: raise"
    ):
        GenerationReward({"ms_ssim": {}}).check_chain(example_blocks())
    GenerationReward({"ssim": {}}).check_chain(example_blocks())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rewards.generation.options.experts={ms_ssim: {}}", "rewards.generation.options: expert ms_ssim cannot judge"),
        ("rewards.generation.options.experts={muqis: {}}", "rewards.generation.options: pyiqa has no metric 'muqis'"),
        ("rewards.generation.options.experts={musiq: {}}", "rewards.generation.options: expert musiq wants to"),
        ("rewards.generation.options.experts={fid: {}}", "rewards.generation.options: expert fid compares folders"),
        ("rewards.generation.options.experts={mad: {}}", "rewards.generation.options: expert mad: its scores have no"),
        ("eval.metrics=[psnr, ms_ssim]", "eval.metrics: expert ms_ssim cannot judge pictures of 64 px"),
        ("eval.metrics=[lpips]", "eval.metrics: expert lpips wants to download"),
    ],
)  # fmt: skip
def test_the_preflight_finds_it(override, message):
    with pytest.raises(ConfigError) as caught:
        preflight(load_config("tiny", [override]))
    assert str(caught.value).startswith(message)


# --------------------------------------------------------------------------------- the paper's ensemble


class Constant(Expert):
    """Stands for an expert whose weights are not here."""

    SCORES = {"topiq_nr": 0.5, "musiq": 60.0, "maniqa-pipal": 0.7, "clipiqa": 0.4}  # noqa: RUF012

    def setup(self) -> None:
        self.score_range = find_metric(self.name).score_range

    def score(self, pictures, truths=()):
        return np.full(len(pictures), self.SCORES[self.name], dtype=np.float32)


def test_one_line_is_the_papers_ensemble(monkeypatch):
    monkeypatch.setattr("rewards.generation.Expert", Constant)
    config = load_config("demo", ["rewards.generation.options.experts=realsr_r1"]).rewards["generation"]
    reward = GenerationReward(**config.options)
    reward.setup()
    scores = evaluate(reward, "generation", example_chains())
    assert scores.values[0] == pytest.approx((0.5 + 60 / 100 + 0.7 + 0.4) / 4)
    for name, entry in ENSEMBLES["realsr_r1"].items():
        assert tuple(entry["range"]) == find_metric(name).score_range


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("realsr", "experts: no ensemble 'realsr'; did you mean realsr_r1?; there is realsr_r1"),
        ("musiq", "experts: musiq is one metric; write experts: {musiq: {}}"),
    ],
)
def test_another_word_is_named(word, message):
    with pytest.raises(ConfigError) as caught:
        GenerationReward(word)
    assert message in str(caught.value)


# --------------------------------------------------------------------------------- eval.metrics and fidelity share them


def test_fidelity_is_the_metrics_value_as_a_share_of_its_range():
    chains = example_chains()
    metrics = PictureMetrics(["psnr", "gmsd"])
    metrics.setup()
    pictures = [chain.final_picture for chain in chains[:-1]]
    raw = metrics.score(pictures, [chain.prompt.pictures["truth"] for chain in chains[:-1]])
    for name, low, high in (("psnr", 0.0, 40.0), ("gmsd", 1.0, 0.0)):
        reward = FidelityReward(name)
        reward.setup()
        shares = evaluate(reward, name, chains)
        assert shares.values[:-1] == pytest.approx(np.clip((raw[name] - low) / (high - low), 0, 1), abs=1e-6)
        assert shares.missing[-1]
