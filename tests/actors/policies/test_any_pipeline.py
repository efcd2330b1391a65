"""Diffusers pipelines of every kind as picture policies, none named in the code: painted, scored, taught, exported."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from actors.policies.denoising.policy import DenoisingPolicy
from actors.policies.denoising.sampler import PaintJob
from actors.policies.denoising.stepping import FLOW
from actors.rollout.image_worker import ImageRolloutWorker
from actors.shared.lora import adapters_only, add_adapter, export_adapter, with_targets
from actors.weights.buckets import Bucket, pack
from configs.methods import Adapter
from configs.schema import BlockConfig, PolicyConfig
from rl.types import Example, ImageRequest, Manifest, Pixels, SamplerSpec, StepPlan
from tests.reference.painting import load, paint, paint_examples
from tests.reference.pipelines import PIPELINES, SmallPipeline, build_pipeline
from tests.reference.policy_configs import policy_config
from tests.reference.rollout import rollout_spec

PROMPTS = ("a red house", "two cats on a mat")
NUM_STEPS = 4


def as_call(small: SmallPipeline) -> dict[str, Any]:
    """The small pipeline's arguments as a configuration writes them."""
    shown = {"from": "degraded", "px": small.picture_px}
    return {n: shown if v == "degraded" else {"value": v} for n, v in small.call.items()}


class Case:
    """A checkpoint, its configuration, and pictures to paint."""

    def __init__(self, small: SmallPipeline, directory: Path) -> None:
        self.small, self.directory, self.call = small, directory, as_call(small)
        self.sampler = "flow_grpo" if self.files.process.family == FLOW else "ddim"
        self.config = self.with_learner()

    @property
    def files(self) -> Any:
        from actors.policies.denoising.checkpoint import read_pipeline

        return read_pipeline(self.directory)

    def with_learner(self, **settings: Any) -> PolicyConfig:
        return policy_config(
            "denoising", call=self.call, trust_code=True, sampler=self.sampler, noise_level=0.6, **settings
        )

    def job(self, seed: int, **changes: Any) -> PaintJob:
        rng = np.random.default_rng(seed)
        edge, size = self.small.picture_px, self.small.size_px
        pictures = {"degraded": rng.integers(0, 256, (edge, edge, 3), dtype=np.uint8)} if edge else {}
        fields: dict[str, Any] = {
            "request_id": str(seed),
            "block": "picture",
            "size_px": size,
            "height_px": size,
            "num_steps": NUM_STEPS,
            "sampler": SamplerSpec(kind=self.sampler, noise_level=0.6),
            "pictures": dict.fromkeys(pictures, 0),
            "words": {"text": PROMPTS[seed % 2], "question": ""},
            "seed": seed,
        }
        return PaintJob(request=ImageRequest(**(fields | changes)), pictures=pictures)

    def policy(self, directory: Path | None = None) -> DenoisingPolicy:
        return DenoisingPolicy.load(directory or self.directory, self.config, block_names=("picture",)).eval()

    def worker(self, config: PolicyConfig | None = None) -> ImageRolloutWorker:
        spec = rollout_spec(self.directory, config or self.config, ("picture",))
        size = self.small.size_px
        block = BlockConfig(kind="image", policy="image", size_px=size, num_steps=NUM_STEPS)
        made = ImageRolloutWorker(replace(spec, chain={"picture": block}))
        made.setup()
        return made


QUICK = ("stable_diffusion_3", "stable_diffusion_upscale", "flux_kontext", "own_pipeline")
"""A flow, a v model that is shown a picture, packed latents, code of a user's own; the others are left to
``make test-hosts``."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in PIPELINES],
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    directory = tmp_path_factory.mktemp(request.param)
    build_pipeline(request.param, directory)
    return Case(PIPELINES[request.param], directory)


def scored(policy: DenoisingPolicy, examples: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of learner and rollout worker at the trained steps, of all that fits one call at once."""
    shapes = {len(example.told) for example in examples if example.told is not None}
    parts = [examples] if len(shapes) == 1 else [[example] for example in examples]
    now, before = list[torch.Tensor](), list[torch.Tensor]()
    for part in parts:
        batch = policy.collate(part)
        assert batch.action_mask.any()
        now.append(policy(batch.inputs).logprobs[batch.action_mask])
        before.append(batch.behaviour_logprobs[batch.action_mask])
    return torch.cat(now), torch.cat(before)


def test_the_learner_scores_what_was_painted_without_text_encoders(case: Case) -> None:
    plans = (None, StepPlan(random=(0, 1, 2), trained=(1,)))
    examples = paint_examples(
        case.directory, [case.job(seed, steps=plan) for seed, plan in enumerate(plans)], case.call
    )
    policy = case.policy()
    if case.sampler == "flow_grpo":
        assert examples[0].segment.levels[0] == pytest.approx(1.0, abs=1e-3)
    with torch.no_grad():
        now, before = scored(policy, examples)
        (one,) = scored(policy, examples[1:])[:1]
    assert len(now) == 4
    assert before.abs().min() > 1e-3
    assert (now - before).abs().max() < 1e-5
    assert (one - now[3:]).abs().max() < 1e-5
    assert policy._pipeline.pipe.components.get("text_encoder") is None
    # Another prompt, another picture: other numbers.
    others = [replace(examples[1], told=examples[0].told)]
    if case.small.picture_px:
        others.append(replace(examples[1], pictures=(255 - examples[1].pictures[0],)))
    for other in others:
        with torch.no_grad():
            assert (scored(policy, [other])[0] - one).abs().max() > 1e-6


def test_in_half_precision_latents_and_scores_stay_single_and_agree(case: Case) -> None:
    examples = paint_examples(case.directory, [case.job(0)], case.call, dtype=torch.bfloat16)
    assert examples[0].segment.latents.dtype == np.float32
    policy = case.policy()
    policy.net.to(torch.bfloat16)
    with torch.no_grad():
        now, before = scored(policy, examples)
    assert now.dtype == torch.float32
    assert (now - before).abs().max() < 1e-3
    assert not np.array_equal(
        examples[0].segment.latents[1],
        examples[0].segment.latents[1].astype(np.float16).astype(np.float32),
    )


def test_without_noise_it_paints_the_librarys_own_picture(case: Case) -> None:
    job = case.job(1, sampler=SamplerSpec(kind=case.sampler, noise_level=0.0))
    (painted,) = paint(case.directory, [job], case.call)
    picture = plain_picture(case, case.directory, job, painted.segment.latents[0], case.small.call)
    assert np.abs(painted.picture.astype(int) - picture.astype(int)).max() <= 1


def plain_picture(
    case: Case, directory: Path, job: PaintJob, latents: np.ndarray[Any, Any], call: Mapping[str, Any]
) -> Pixels:
    """What the plain library paints from the same initial latents by the checkpoint's deterministic sampler."""
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    class PlainDDIM(DDIMScheduler):  # type: ignore[misc]  # diffusers is untyped
        """DDIM to the next timestep of the schedule; the library's own assumes even ones, which linspace has not."""

        def step(self, prediction: Any, timestep: Any, sample: Any, **_: Any) -> tuple[torch.Tensor]:
            assert self.config.prediction_type == "epsilon"
            after = [t for t in self.timesteps.tolist() if t < int(timestep)]
            share = self.alphas_cumprod[int(timestep)]
            share_next = self.alphas_cumprod[max(after)] if after else torch.tensor(1.0)
            clean = (sample - (1 - share).sqrt() * prediction) / share.sqrt()
            return (share_next.sqrt() * clean + (1 - share_next).sqrt() * prediction,)

    pipe = load(directory)
    config = dict(pipe.scheduler.config)
    if case.sampler == "ddim":
        kind = PlainDDIM if config["timestep_spacing"] == "linspace" else DDIMScheduler
        pipe.scheduler = kind.from_config(config, clip_sample=False, set_alpha_to_one=True)
    elif not isinstance(pipe.scheduler, FlowMatchEulerDiscreteScheduler):
        pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=config["flow_shift"])
    arguments = {name: value for name, value in call.items() if value != "degraded"}
    pictures = {"image": Image.fromarray(job.pictures["degraded"])} if job.pictures else {}
    size = {"height": job.request.height_px, "width": job.request.size_px}
    if "height" not in case.files.parameters:
        size = {}
    image = pipe(
        prompt=job.request.words["text"],
        **pictures,
        **arguments,
        **size,
        num_inference_steps=NUM_STEPS,
        latents=torch.from_numpy(latents)[None],
        generator=[job.painting.generator],
        output_type="np",
    ).images[0]
    made: Pixels = (image * 255).round().astype(np.uint8)
    return made


def updated(policy: DenoisingPolicy, examples: list[Example], rate: float) -> list[str]:
    """Make one step of gradient ascent on the log-probs; return parameters without a gradient."""
    trained = [(n, p) for n, p in policy.net.named_parameters() if p.requires_grad]
    scored(policy, examples)[0].sum().backward()
    with torch.no_grad():
        for _, parameter in trained:
            if parameter.grad is not None:
                parameter.add_(parameter.grad / (parameter.grad.norm() + 1e-8), alpha=rate)
    return [name for name, parameter in trained if parameter.grad is None]


def take(worker: ImageRolloutWorker, version: int, tensors: Any) -> None:
    *buckets, manifest = pack("image", version, ((n, p.detach()) for n, p in tensors), 1 << 20)
    assert isinstance(manifest, Manifest)
    asyncio.run(worker.load_weights(manifest, *[b.data for b in buckets if isinstance(b, Bucket)]))


@pytest.mark.parametrize("lora", [False, True], ids=["weights", "adapters"])
def test_an_update_is_published_proved_and_exported(case: Case, lora: bool, tmp_path: Path) -> None:
    settings = with_targets(Adapter(rank=4, alpha=8), ("to_q", "to_k", "to_v", "to_out.0"))
    config = case.with_learner(lora=settings) if lora else case.config
    policy, worker = case.policy(), case.worker(config)
    if lora:
        add_adapter(policy.trained_net, settings, key="", seed=0)
    start = asyncio.run(worker.canary())
    with torch.no_grad():
        assert (torch.sub(*scored(policy, [start]))).abs().max() < 1e-5
    examples = paint_examples(case.directory, [case.job(0), case.job(1)], case.call)
    for _ in range(2 if lora else 1):  # the first moves B, without which A has no gradient
        updated(policy, examples, rate=0.3)
    take(worker, 1, adapters_only(policy.published()) if lora else policy.published())
    with torch.no_grad():
        assert (torch.sub(*scored(policy, [asyncio.run(worker.canary())]))).abs().max() < 1e-5
        assert (torch.sub(*scored(policy, [start]))).abs().max() > 1e-4
    worker.close()

    weights = {name: parameter.detach() for name, parameter in policy.published()}
    if lora:
        weights = export_adapter(tmp_path / "adapter", settings, weights, net_name=policy.net_name)
    policy.export(tmp_path / "model", weights)
    job = case.job(1, sampler=SamplerSpec(kind=case.sampler, noise_level=0.0))
    (painted,) = paint(tmp_path / "model", [job], case.call)
    picture = plain_picture(case, tmp_path / "model", job, painted.segment.latents[0], case.small.call)
    assert np.abs(painted.picture.astype(int) - picture.astype(int)).max() <= 1
    (before,) = paint(case.directory, [job], case.call)
    assert np.abs(painted.segment.latents[-1] - before.segment.latents[-1]).max() > 1e-3
