"""Experts and metrics against other implementations, and never a download."""

import os
import socket
import threading
from contextlib import closing

import numpy as np
import pytest
import torch
from skimage.color import rgb2yiq
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from rewards.core.offline import DownloadRefusedError, refuse_downloads
from rewards.experts import expert as experts
from rewards.experts.expert import Expert, to_tensor
from rewards.experts.picture_metrics import PictureMetrics
from rl.errors import ConfigError
from tests.reference.rewards import picture

TRUTHS = [picture(seed, 64, level=2.0) for seed in range(3)]
PICTURES = [
    np.clip(t + np.random.default_rng(9).normal(0, s, t.shape), 0, 255).astype(np.uint8)
    for t, s in zip(TRUTHS, (2, 10, 40), strict=True)
]


@pytest.fixture(scope="module")
def metrics() -> PictureMetrics:
    made = PictureMetrics(names=["psnr", "psnry", "ssim", "ssimc", "gmsd", "fsim", "vsi"])
    made.setup()
    return made


def luma(image: np.ndarray) -> np.ndarray:
    return np.asarray(rgb2yiq(image)[..., 0] * 255.0)


def slow_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang's window, by skimage, without the border that its padding spoils."""
    _, full = structural_similarity(
        x, y, data_range=255.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    return float(full[5:-5, 5:-5].mean())


def test_psnr_is_on_rgb_without_border_and_psnry_on_luma(metrics):
    scores = metrics.score(PICTURES, TRUTHS)
    pairs = list(zip(PICTURES, TRUTHS, strict=True))
    expected = [peak_signal_noise_ratio(t, p) for p, t in pairs]
    assert scores["psnr"] == pytest.approx(expected, abs=2e-3)
    on_luma = [peak_signal_noise_ratio(luma(t) / 255, luma(p) / 255, data_range=1.0) for p, t in pairs]
    assert scores["psnry"] == pytest.approx(on_luma, abs=5e-3)


def test_ssim_is_on_rounded_luma_without_border_and_ssimc_on_rgb(metrics):
    scores = metrics.score(PICTURES, TRUTHS)
    pairs = list(zip(PICTURES, TRUTHS, strict=True))
    on_luma = [slow_ssim(np.rint(luma(p)), np.rint(luma(t))) for p, t in pairs]
    assert scores["ssim"] == pytest.approx(on_luma, abs=2e-4)
    planes = [
        [slow_ssim(p[..., c].astype(float), t[..., c].astype(float)) for c in range(3)] for p, t in pairs
    ]
    assert scores["ssimc"] == pytest.approx(np.mean(planes, axis=1), abs=1e-3)  # it has no negatives


def test_every_metric_prefers_the_better_picture_and_the_truth_most(metrics):
    better = metrics.lower_better()
    assert {name for name, lower in better.items() if lower} == {"gmsd"}
    for name, values in metrics.score([TRUTHS[0], *PICTURES], [TRUTHS[0], *TRUTHS]).items():
        order = values if better[name] else -values
        assert order.tolist() == sorted(order.tolist()), name
        assert values.dtype == np.float32


def test_a_batch_scores_as_its_pictures_do_alone_whatever_its_size(metrics, monkeypatch):
    whole = metrics.score(PICTURES, TRUTHS)
    monkeypatch.setattr(experts, "BATCH_PIXELS", 2 * 64 * 64)
    cut = metrics.score(PICTURES, TRUTHS)
    for name, values in whole.items():
        alone = [metrics.score([p], [t])[name][0] for p, t in zip(PICTURES, TRUTHS, strict=True)]
        assert values == pytest.approx(alone, rel=1e-5, abs=1e-6), name
        assert cut[name] == pytest.approx(alone, rel=1e-5, abs=1e-6), name
    assert metrics.score([], [])["psnr"].shape == (0,)


def test_read_only_pictures_of_several_sizes_are_fine(metrics):
    small = picture(5, 48)
    small.flags.writeable = False
    scores = metrics.score([PICTURES[0], small], [TRUTHS[0], small])
    assert scores["psnr"][1] == pytest.approx(80.0, abs=0.01)  # equal pictures: pyiqa's upper end


def test_a_full_reference_metric_wants_one_truth_a_picture(metrics):
    with pytest.raises(ValueError, match="psnr: 2 pictures, 1 truths"):
        metrics.score(PICTURES[:2], TRUTHS[:1])
    with pytest.raises(ValueError, match="picture 0 is"):
        metrics.score([picture(0, 48)], TRUTHS[:1])


def test_score_before_setup_is_refused():
    with pytest.raises(RuntimeError, match=r"expert psnr: setup\(\) was not called"):
        Expert("psnr").score(PICTURES, TRUTHS)


def test_an_unknown_metric_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"^eval\.metrics: pyiqa has no metric 'sssim'; did you mean ssim"):
        PictureMetrics(["psnr", "sssim"]).setup()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_a_weights_file_that_is_none_is_named(tmp_path, content):
    path = tmp_path / "expert.pth"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"expert cnniqa cannot use .*expert\.pth.*pyiqa's own checkpoint"):
        Expert("cnniqa", weights=path).setup()


@pytest.mark.parametrize("state", [{"weights": {}}, {"params": {"conv1.weight": torch.zeros(2)}}])
def test_weights_of_something_else_are_named(tmp_path, state):
    torch.save(state, tmp_path / "expert.pth")
    with pytest.raises(ConfigError, match=r"expert cnniqa cannot use .*expert\.pth") as caught:
        Expert("cnniqa", weights=tmp_path / "expert.pth").setup()
    assert "\n" not in str(caught.value)


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_weights_file_that_holds_code_is_refused_and_not_run(tmp_path):
    torch.save({"params": Runs(tmp_path / "ran")}, tmp_path / "expert.pth")
    with pytest.raises(
        ConfigError, match=r"expert cnniqa cannot use .*expert\.pth: .* it holds posix\.mkdir"
    ) as caught:
        Expert("cnniqa", weights=tmp_path / "expert.pth").setup()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_pictures_become_tensors_of_0_to_1():
    tensor = to_tensor([TRUTHS[0], TRUTHS[1]])
    assert tensor.shape == (2, 3, 64, 64)
    assert torch.equal(tensor[1, 2, 5, 7] * 255, torch.tensor(float(TRUTHS[1][5, 7, 2])))


# --------------------------------------------------------------------------------- never a download


@pytest.mark.parametrize("name", ["cnniqa", "niqe", "lpips"])
def test_no_metric_is_ever_downloaded(name, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(ConfigError, match=f"expert {name} wants to download weights"):
        Expert(name).setup()


def test_only_this_thread_is_refused_and_only_for_a_while():
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        address = server.getsockname()

        def connect() -> None:
            socket.create_connection(address, timeout=5).close()

        with refuse_downloads():
            with pytest.raises(DownloadRefusedError):
                connect()
            with refuse_downloads(), pytest.raises(DownloadRefusedError):
                connect()
            with pytest.raises(DownloadRefusedError):
                connect()
            others: list[BaseException | None] = []

            def elsewhere() -> None:
                try:
                    connect()
                    others.append(None)
                except DownloadRefusedError as error:
                    others.append(error)

            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            assert others == [None]
        connect()
