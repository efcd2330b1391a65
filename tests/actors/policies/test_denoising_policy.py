"""The denoising policy scores what the sampler did, whatever else is in the batch."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import replace
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.policies.denoising.policy import DenoisingPolicy
from actors.policies.denoising.sampler import PaintJob
from actors.policies.restoration.image_model import resize, to_latents, to_pictures
from actors.policies.restoration.small import build_image_policy
from configs.methods import Guard
from rl.denoising.samplers import SAMPLERS
from rl.denoising.step_selection import all_steps
from rl.types import Example, ImageRequest, Pixels, SamplerSpec, StepPlan
from tests.reference.painting import load, paint, paint_examples
from tests.reference.policy_configs import policy_config

OURS = {"actors", "cluster", "configs", "rewards", "rl"}
BLOCKS = ("degradation", "rough_image", "final_image")
TEXTS = ["light blur, keep", "a cat on a mat"]


def pixels(size: int, seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def job(
    seed: int,
    *,
    size_px: int = 32,
    with_previous: bool = True,
    num_steps: int = 3,
    steps: StepPlan | None = None,
    source_seed: int | None = None,
    **sampler: Any,
) -> PaintJob:
    pictures = {"degraded": pixels(8, seed)} | ({"previous": pixels(16, seed)} if with_previous else {})
    request = ImageRequest(
        request_id=str(seed),
        block="final_image",
        size_px=size_px,
        height_px=size_px,
        num_steps=num_steps,
        sampler=SamplerSpec(**sampler),
        pictures={name: index for index, name in enumerate(pictures)},
        words={"text": "a cat " * seed, "question": ""},
        seed=seed,
        source_seed=source_seed,
        steps=steps,
    )
    return PaintJob(request=request, pictures=pictures)


def of_photo(job: PaintJob, photo: Pixels) -> PaintJob:
    return replace(job, pictures={**job.pictures, "degraded": photo})


def stirred(directory: Path) -> Path:
    """Write a checkpoint whose net is no longer zero at the end."""
    build_image_policy(directory, texts=TEXTS, sizes=(8, 16, 32), seed=0, channels=(16, 16), patch=2)
    pipeline = load(directory)
    torch.manual_seed(1)
    torch.nn.init.normal_(pipeline.unet.conv_out.weight, std=0.2)
    pipeline.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stirred(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def policy(directory: Path) -> DenoisingPolicy:
    return DenoisingPolicy.load(directory, policy_config(kind="denoising"), block_names=BLOCKS).eval()


@pytest.fixture(scope="module")
def examples(directory: Path) -> list[Example]:
    return paint_examples(directory, [job(seed) for seed in range(5)])


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [4, 1], [3]])
def test_logprobs_at_equal_weights_match(
    policy: DenoisingPolicy, examples: list[Example], rows: list[int]
) -> None:
    batch = policy.collate([examples[row] for row in rows])
    scores = policy(batch.inputs).logprobs
    assert scores.dtype == torch.float32
    assert batch.action_mask.tolist() == [[True, True, False]] * len(rows)
    assert batch.block_of.tolist() == [[2, 2, -1]] * len(rows)
    assert torch.allclose(scores, batch.behaviour_logprobs, atol=1e-5, rtol=0)
    assert batch.behaviour_logprobs[:, :2].abs().min() > 0.1


def test_logprobs_see_every_condition(policy: DenoisingPolicy, examples: list[Example]) -> None:
    seen = examples[2]
    before = policy(policy.collate([seen]).inputs).logprobs
    others = [
        replace(seen, pictures=(seen.pictures[1][:8, :8], seen.pictures[1])),
        replace(seen, pictures=(seen.pictures[0], 255 - seen.pictures[1])),
        replace(seen, segment=replace(seen.segment, pictures=("degraded",)), pictures=seen.pictures[:1]),
        replace(seen, told=examples[3].told),
    ]
    for other in others:
        assert (policy(policy.collate([other]).inputs).logprobs - before).abs().max() > 1e-6


def test_gradient_reaches_the_net_only(policy: DenoisingPolicy, examples: list[Example]) -> None:
    policy.zero_grad()
    policy(policy.collate(examples[:2]).inputs).logprobs.sum().backward()
    assert all(p.grad is not None for name, p in policy.published() if "attentions" not in name)
    names = [name for name, _ in policy.published()]
    assert all(name.startswith("unet.") for name in names)
    assert len(names) == len(list(policy.net.parameters()))


def test_deterministic_pictures_have_no_actions_but_a_gradient_path(
    directory: Path, policy: DenoisingPolicy
) -> None:
    batch = policy.collate(paint_examples(directory, [job(1, noise_level=0.0)]))
    scores = policy(batch.inputs).logprobs
    assert not batch.action_mask.any()
    assert scores.requires_grad
    assert torch.equal(scores, torch.zeros(1, 3))


def of_config(directory: Path, **settings: Any) -> DenoisingPolicy:
    config = policy_config(kind="denoising", **settings)
    return DenoisingPolicy.load(directory, config, block_names=BLOCKS).eval()


PLANS = {
    "all": [all_steps(5)] * 3,
    "share": [StepPlan(random=(0, 1, 2, 3), trained=trained) for trained in ((0, 2), (1, 3), (2, 3))],
    "window": [StepPlan(random=(1, 2), trained=(1, 2))] * 3,
    "random": [StepPlan(random=(3,), trained=(3,))] * 3,
}


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("plans", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("kind", SAMPLERS)
def test_any_sampler_steps_and_guidance_score_as_sampled(
    directory: Path, kind: str, plans: list[StepPlan], scale: float
) -> None:
    call = {"guidance_scale": scale}
    policy = of_config(directory, sampler=kind, call=call)
    jobs = [job(seed, num_steps=5, steps=steps, size_px=16, kind=kind) for seed, steps in enumerate(plans)]
    seen = paint_examples(directory, jobs, call)
    rows_of_net: list[int] = []
    policy.net.register_forward_pre_hook(lambda _, args: rows_of_net.append(args[0].shape[0]))
    for rows in ([0, 1, 2], [2, 0]):
        batch = policy.collate([seen[row] for row in rows])
        with torch.no_grad():
            scores = policy(batch.inputs).logprobs
        trained = torch.zeros(len(rows), 5, dtype=torch.bool)
        for index, row in enumerate(rows):
            trained[index, list(plans[row].trained)] = True
        assert torch.equal(batch.action_mask, trained)
        assert torch.allclose(scores, batch.behaviour_logprobs, atol=1e-5, rtol=0)
        assert (batch.behaviour_logprobs != 0).equal(trained)
        assert not scores[~trained].any()
        # One call a step, and no row for a step that is not trained.
        assert len(rows_of_net) == trained.any(dim=0).sum()
        assert sum(rows_of_net) == trained.sum() * (1 if scale == 1 else 2)
        rows_of_net.clear()


def test_elsewhere_than_in_the_window_it_is_the_ode(directory: Path) -> None:
    steps = StepPlan(random=(1,), trained=(1,))
    windowed, other, still = (
        one.segment.latents
        for jobs in (
            [job(1, num_steps=4, steps=steps)],
            [job(1, num_steps=4)],
            [job(1, num_steps=4, noise_level=0.0)],
        )
        for one in paint_examples(directory, jobs)
    )
    assert np.array_equal(windowed[:2], still[:2])
    assert np.abs(windowed[2] - still[2]).max() > 1e-3
    assert np.abs(windowed[1] - other[1]).max() > 1e-3


def test_guidance_moves_pictures_away_from_those_without_text(directory: Path) -> None:
    pictures = {
        scale: paint_examples(directory, [job(2, num_steps=1, noise_level=0.0)], {"guidance_scale": scale})[
            0
        ].segment.latents[1]
        for scale in (0.0, 1.0, 3.0)
    }
    without = replace(job(2, num_steps=1, noise_level=0.0).request, words={"text": "", "question": ""})
    empty = paint_examples(directory, [replace(job(2), request=without)])[0].segment.latents[1]
    assert np.abs(pictures[1.0] - pictures[0.0]).max() > 1e-5
    np.testing.assert_allclose(pictures[0.0], empty, atol=2e-5)
    np.testing.assert_allclose(pictures[3.0], empty + 3 * (pictures[1.0] - empty), atol=1e-4)


def test_gradient_flows_through_both_branches(directory: Path) -> None:
    """With text and without being the same, guidance cancels: so must its gradient."""
    grads = []
    for scale in (4.0, 1.0):
        call = {"guidance_scale": scale}
        policy, seen = of_config(directory, call=call), paint_examples(directory, [job(0)], call)[0]
        policy(policy.collate([seen]).inputs).logprobs.sum().backward()
        grads.append(policy.net.get_parameter("conv_out.weight").grad)
    torch.testing.assert_close(grads[0], grads[1], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_sums_over_elements_score_as_sampled(directory: Path, kind: str) -> None:
    policy = of_config(directory, sampler=kind, logprob_reduction="sum")
    means = of_config(directory, sampler=kind)
    jobs = [job(seed, size_px=16, kind=kind, reduction="sum") for seed in range(3)]
    batch = policy.collate(paint_examples(directory, jobs))
    with torch.no_grad():
        logprobs = policy(batch.inputs).logprobs[batch.action_mask]
        per_element = means(batch.inputs).logprobs[batch.action_mask]
    num = 3 * 16 * 16
    torch.testing.assert_close(logprobs, per_element * num, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(
        batch.behaviour_logprobs[batch.action_mask] / num, logprobs / num, rtol=0, atol=1e-5
    )


def test_a_picture_sampled_otherwise_is_refused(directory: Path, examples: list[Example]) -> None:
    for settings in ({"sampler": "cps"}, {"logprob_reduction": "sum"}):
        with pytest.raises(ValueError, match="was sampled by"):
            of_config(directory, **settings).collate(examples[:1])
    assert of_config(directory, noise_level=0.2).collate(examples[:1]).action_mask.any()


def test_pictures_of_a_group_may_share_their_first_noise_only(directory: Path) -> None:
    first, second = (of_photo(job(seed, source_seed=9), pixels(8, 0)) for seed in (1, 2))
    a, b = (one.segment.latents for one in paint_examples(directory, [first, second]))
    assert np.array_equal(a[0], b[0])
    assert np.abs(a[1] - b[1]).max() > 1e-2
    other = paint_examples(directory, [of_photo(job(1, source_seed=8), pixels(8, 0))])[0].segment.latents
    assert np.abs(other[0] - a[0]).max() > 1e-2


@pytest.mark.parametrize(
    "settings", [{"surrogate": Guard()}, {"kl_estimator": "step_mean", "kl_weight": 0.1}], ids=["guard", "kl"]
)
def test_step_means_come_where_the_loss_needs_them(directory: Path, settings: dict[str, Any]) -> None:
    policy = of_config(directory, **settings)
    plans = [StepPlan(random=(0, 1, 2), trained=trained) for trained in ((0, 1), (1, 2))]
    jobs = [job(seed, num_steps=4, size_px=16, steps=plan) for seed, plan in enumerate(plans)]
    batch = policy.collate(paint_examples(directory, jobs, keep_step_means=True))
    scores = policy(batch.inputs)
    assert scores.step_mean is not None
    assert scores.step_std is not None
    assert scores.step_mean.shape == (2, 4, 3 * 16 * 16)
    assert scores.step_mean.requires_grad
    assert not scores.step_std.requires_grad
    mask, std = batch.action_mask, scores.step_std
    assert (std[~mask] == 1).all()
    # Mean and deviation are those of the log-prob.
    latents = np.stack([row.segment.latents[1:] for row in batch.inputs["rows"]])
    taken = torch.from_numpy(latents).flatten(2)
    normal = torch.distributions.Normal(scores.step_mean, std[:, :, None].expand_as(scores.step_mean))
    assert torch.allclose(normal.log_prob(taken).mean(2)[mask], scores.logprobs[mask], atol=1e-5)
    if "surrogate" in settings:
        assert batch.behaviour_step_mean is not None
        gap = (batch.behaviour_step_mean - scores.step_mean).abs()
        assert gap[mask].max() < 1e-5
        assert not batch.behaviour_step_mean[~mask].any()
    else:
        assert batch.behaviour_step_mean is None


def test_step_means_are_neither_kept_nor_computed_otherwise(
    policy: DenoisingPolicy, directory: Path, examples: list[Example]
) -> None:
    batch = policy.collate(examples)
    assert all(one.segment.behaviour_step_mean is None for one in examples)
    assert batch.behaviour_step_mean is None
    assert batch.action_weights is None
    assert policy(batch.inputs).step_mean is None
    with pytest.raises(ValueError, match="needs behaviour step means"):
        of_config(directory, surrogate=Guard()).collate(examples)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_weights_follow_the_noise_and_have_mean_one(directory: Path, kind: str) -> None:
    policy = of_config(directory, sampler=kind, step_weighting="noise", surrogate=Guard())
    plans = [StepPlan(random=(0, 1, 2, 3), trained=trained) for trained in ((0, 1, 3), (2,))]
    jobs = [job(seed, num_steps=5, size_px=16, steps=plan, kind=kind) for seed, plan in enumerate(plans)]
    batch = policy.collate(paint_examples(directory, jobs, keep_step_means=True))
    std = policy(batch.inputs).step_std
    assert batch.action_weights is not None
    assert std is not None
    assert not batch.action_weights[~batch.action_mask].any()
    for row, plan in enumerate(plans):
        trained = list(plan.trained)
        want = std[row, trained] / std[row, trained].mean()
        torch.testing.assert_close(batch.action_weights[row, trained], want)


def test_guard_gives_every_step_of_an_uneven_schedule_equal_say(directory: Path) -> None:
    policy = of_config(directory, surrogate=Guard())
    examples = paint_examples(directory, [job(0, num_steps=4, size_px=16)], keep_step_means=True)
    sigmas = np.array([1.0, 0.9, 0.6, 0.2, 0.0], dtype=np.float32)
    segment = dataclasses.replace(examples[0].segment, levels=sigmas)
    batch = policy.collate([dataclasses.replace(examples[0], segment=segment)])
    want = torch.tensor([[1 / 0.4, 1 / 1.2, 1 / 1.6, 1 / 0.8]])
    torch.testing.assert_close(batch.action_weights, want)


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_half_precision_nets_have_single_precision_steps(directory: Path, scale: float) -> None:
    call = {"guidance_scale": scale}
    policy = of_config(directory, surrogate=Guard(), call=call).to(torch.bfloat16)
    jobs = [job(seed, size_px=16) for seed in range(2)]
    seen = paint_examples(directory, jobs, call, dtype=torch.bfloat16, keep_step_means=True)
    batch = policy.collate(seen)
    with torch.no_grad():
        scores = policy(batch.inputs)
    assert scores.step_mean is not None
    assert {seen[0].segment.latents.dtype, seen[0].segment.behaviour_step_mean.dtype} == {
        np.dtype(np.float32)
    }
    assert {scores.step_mean.dtype, scores.logprobs.dtype} == {torch.float32}
    assert torch.allclose(scores.logprobs, batch.behaviour_logprobs, atol=5e-2)


def test_collate_refuses_other_shapes(
    policy: DenoisingPolicy, directory: Path, examples: list[Example]
) -> None:
    with pytest.raises(ValueError, match="one shape"):
        policy.collate([examples[0], *paint_examples(directory, [job(1, size_px=16)])])


def test_export_writes_what_the_library_loads(policy: DenoisingPolicy, tmp_path: Path) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DConditionModel
    from transformers import AutoTokenizer, T5EncoderModel

    weights = {name: parameter.detach() + 1 for name, parameter in policy.published()}
    policy.export(tmp_path / "out", weights)
    net = UNet2DConditionModel.from_pretrained(tmp_path / "out" / "unet")
    assert all(torch.equal(value, weights[f"unet.{name}"]) for name, value in net.named_parameters())
    FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path / "out" / "scheduler")
    T5EncoderModel.from_pretrained(tmp_path / "out" / "text_encoder")
    assert AutoTokenizer.from_pretrained(tmp_path / "out" / "tokenizer")("a cat")["input_ids"][-1] == 1
    assert {"pipeline.py", "image_model.py"} <= {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_stock_scheduler_paints_the_same_picture_without_noise(directory: Path, scale: float) -> None:
    one = job(3, noise_level=0.0)
    call = {"guidance_scale": scale}
    (ours,) = paint(directory, [one], call)
    theirs = load(directory)(
        **one.pictures,
        **call,
        prompt=one.request.words["text"],
        height=32,
        width=32,
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(3),
    ).images[0]
    assert np.abs(ours.picture.astype(int) - np.asarray(theirs).astype(int)).max() <= 1


def test_untrained_is_bicubic(tmp_path: Path) -> None:
    build_image_policy(tmp_path, texts=TEXTS, sizes=(8, 16, 32), seed=0, channels=(16, 16), patch=2)
    one = job(1)
    picture = paint(tmp_path, [one])[0].picture
    bicubic = to_pictures(resize(to_latents([one.pictures["degraded"]]), (32, 32)))[0]
    assert np.array_equal(picture, bicubic)


def test_pictures_survive_latents() -> None:
    picture = pixels(4, 0)
    assert np.array_equal(to_pictures(to_latents([picture]))[0], picture)


class NothingOfOurs(MetaPathFinder):
    """Refuses our packages, as where only the plain library is installed."""

    def find_spec(self, fullname: str, *_: Any) -> None:
        assert fullname.partition(".")[0] not in OURS, f"the checkpoint's code imports {fullname}"


def test_plain_library_paints(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import DiffusionPipeline
    from diffusers.utils import dynamic_modules_utils

    # Beside ours, what another folder's pipeline.py has left under the one name that diffusers gives them.
    for name in [name for name in sys.modules if name.partition(".")[0] in {*OURS, "diffusers_modules"}]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NothingOfOurs(), *sys.meta_path])
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])  # the cache is put on it
    path = str(directory)
    pipe: Any = DiffusionPipeline.from_pretrained(path, custom_pipeline=path, trust_remote_code=True)
    assert type(pipe).__module__.startswith("diffusers_modules.")
    picture = pipe(np.zeros((8, 8, 3), np.uint8), height=32, width=32, num_inference_steps=2).images[0]
    assert picture.size == (32, 32)
    assert not [name for name in sys.modules if name.partition(".")[0] in OURS]
