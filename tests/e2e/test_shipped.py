"""Every shipped GPU configuration makes its cold start and one step, from a checkpoint as a user has it.

What is changed, and nothing else: the sources are small random checkpoints of the same architectures, the text policy's
with the stock tokenizer's special tokens and no tag of ours; GPUs are CPUs; numbers of prompts, chains, ranks, workers,
threads, pixels and steps are brought down; the experts, whose weights would be fetched, are one that needs none; and a
reward of any text is added, because so small a policy earns none of the others. Each costs two to four minutes of a
core, so ``make test-hosts`` runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from actors.policies.token.vocabulary import load_vocabulary
from cluster.record.sinks import read_metrics
from configs.load import load_config
from rl.data.source import prompt_source
from tests.reference.command import vlcot
from tests.reference.language_models import qwen3_vl, stock_qwen2_5_vl
from tests.reference.pipelines import build_pipeline

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow, pytest.mark.long]

MAKERS: dict[str, Callable[[Path, Sequence[str]], None]] = {
    "qwen2_5_vl_1gpu": stock_qwen2_5_vl,
    "qwen2_5_vl_8gpu": stock_qwen2_5_vl,
    "qwen2_5_vl_64gpu": stock_qwen2_5_vl,
    "qwen3_vl_1gpu": qwen3_vl,
}
POLICY = ("num_gpus=0", "num_threads=1", "rollout.num_workers=1")
SMALL = (
    *(f"policies.{policy}.{setting}" for policy in ("text", "image") for setting in POLICY),
    *("colocate=false", "num_runners=1", "num_steps=1", "prompts_per_step=1", "group_size=2", "bucket_mib=1"),
    *(f"chain.{size}_image.num_steps=2" for size in ("rough", "middle", "final")),
    *("chain.rough_image.size_px=16", "chain.middle_image.size_px=32", "chain.final_image.size_px=64"),
    *(
        "coldstart.num_workers=1",
        "coldstart.num_examples=8",
        "coldstart.text_steps=2",
    ),
    *("coldstart.text_batch_size=2", "coldstart.expert_steps=0"),
    *("eval.num_prompts=2", "eval.every=0", "max_staleness=0"),
    *("rewards.generation.options.experts={piqe: {}}", "rewards.generation.num_workers=1"),
    *("rewards.generation.num_gpus=0", "rewards.generation.num_cpus=1"),
    *("rewards.variety.target=tests.reference.rewards:variety", "rewards.variety.blocks=[degradation]"),
)
RANKS = {"qwen2_5_vl_8gpu": 2, "qwen2_5_vl_64gpu": 2}
"""Learner ranks of the text policy, whose ZeRO stage is as shipped; the others have one of each."""


@pytest.mark.parametrize("name", MAKERS)
def test_it_makes_its_cold_start_and_one_step(name: str, tmp_path: Path) -> None:
    texts = prompt_source(load_config(name)).training_texts()
    MAKERS[name](tmp_path / "stock", texts)
    build_pipeline("stable_diffusion_upscale", tmp_path / "upscaler")
    source = [f"output_dir={tmp_path}", f"policies.text.source={tmp_path / 'stock'}"]
    source.append(f"policies.image.source={tmp_path / 'upscaler'}")
    ranks = [f"policies.text.learner.num_ranks={RANKS.get(name, 1)}", "policies.image.learner.num_ranks=1"]
    vlcot("train", name, *source, *SMALL, *ranks)
    (record,) = read_metrics(tmp_path / name / "metrics.jsonl")
    # So untaught a chain ends before its first picture: the painter starts, or its canary had stopped the run, and has
    # nothing to learn from.
    assert record["weights/image/version"] == 0
    assert record["weights/text/canary_nats/max"] < record["weights/text/canary_nats/tolerance"]
    assert record["weights/text/version"] == 1
    assert record["learner/text/grad_norm"] > 0
    assert record["policy/text/ratio_before_update/mean_dev"] < 0.05, "bfloat16"
    model = tmp_path / name / "checkpoints" / "step_000001" / "text" / "model"
    chain = load_config(name).chain
    assert load_vocabulary(model, tuple(chain)).tags.opening.keys() == set(chain)


def test_the_text_to_picture_configuration_makes_one_step(tmp_path: Path) -> None:
    build_pipeline("stable_diffusion_3", tmp_path / "painter")
    settings = (
        *(f"policies.image.{setting}" for setting in POLICY),
        *("colocate=false", "num_steps=1", "prompts_per_step=2", "group_size=2", "bucket_mib=1"),
        *("chain.picture.size_px=32", "chain.picture.num_steps=3", "eval.num_prompts=2", "eval.every=0"),
        "policies.image.call.max_sequence_length=64",
        f"policies.image.source={tmp_path / 'painter'}",
    )
    vlcot("train", "sd3_5_medium_1gpu", f"output_dir={tmp_path}", *settings)
    (record,) = read_metrics(tmp_path / "sd3_5_medium_1gpu" / "metrics.jsonl")
    assert record["weights/image/canary_nats/max"] < record["weights/image/canary_nats/tolerance"]
    assert record["learner/image/grad_norm"] > 0
    assert record["policy/image/ratio_before_update/max_dev"] < 1e-3, "bfloat16"
