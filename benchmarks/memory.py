"""The plan's memory estimates beside what is measured, for small models made in place.

    python -m benchmarks.memory                    # all models, learner rank and rollout worker of each
    python -m benchmarks.memory --models picture   # one of them
    python -m benchmarks.memory --parts            # also what was held after each stage
    KEYS=learner.gradient_checkpointing=true python -m benchmarks.memory   # with other settings of the policy

Measured is the peak of anonymous memory (``RssAnon``): what a process owns and the machine runs out of. Files that
are mapped (libraries, checkpoints being read) and the object store are shared or can be dropped, and are not in it.
Each worker is the real class in a process of its own, with one thread, given the largest batch of its configuration:
a learner rank makes two updates and publishes, a rollout worker fills its cache or paints a full batch and takes a
publication. A thread reads /proc every few milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from actors.policies.model_size import find_model
from configs.derive import denoising_policy
from configs.load import load_config
from configs.planning.memory import PARTS, Memory, learner_memory, rollout_memory
from configs.planning.models import Model
from configs.planning.workload import PROMPT_TOKENS, text_shape
from configs.schema import Config

ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20
TICK_S = 0.002
DEADLINE_S = 900.0
MODELS: Mapping[str, Mapping[str, Any]] = {
    "text-small": {"policy": "text", "hidden": 512, "inner": 1408, "layers": 8, "ids": 4096, "rows": 8},
    "text-large": {"policy": "text", "hidden": 768, "inner": 2304, "layers": 16, "ids": 8192, "rows": 4},
    "picture": {"policy": "image", "channels": (320, 448), "rows": 8},
    "text-unseen": {"policy": "text", "hidden": 640, "inner": 1792, "layers": 12, "ids": 6144, "rows": 6},
    "picture-unseen": {"policy": "image", "channels": (256, 384), "rows": 12},
}
"""Sizes of the models, and the rows of a micro-batch. Formulas and constants were fitted on the first three; the unseen
ones were measured after that."""
TEXTS = ("light blur, heavy noise", "a cat on a red chair", "a rocket before the sky")
ROLES = ("learner", "rollout")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=list(MODELS))
    parser.add_argument("--roles", nargs="+", choices=ROLES, default=ROLES)
    parser.add_argument(
        "--parts", action="store_true", help="print estimates by part and measurements by stage"
    )
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, role, directory = arguments.child
        print(json.dumps(measure(name, role, Path(directory))))
        return
    print("| model | parameters | process | estimate | measured | estimate / measured |")
    print("|---|---|---|---|---|---|")
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            build(name, Path(folder))
            for role in arguments.roles:
                row(name, role, Path(folder), with_parts=arguments.parts)


def row(name: str, role: str, directory: Path, *, with_parts: bool) -> None:
    """Print one line of the table, and its parts."""
    config = config_of(name, directory)
    model, memory = estimate(config, name, role)
    stages = run_child(name, role, directory)
    measured = max(stages.values())
    print(
        f"| {name} | {model.num_trained / 1e6:.1f} M | {role} | {memory.total / MIB:.0f} MiB "
        f"| {measured / MIB:.0f} MiB | {memory.total / measured:.2f} |",
        flush=True,
    )
    if with_parts:
        held = {part: getattr(memory, part) / MIB for part in PARTS if getattr(memory, part)}
        print(f"  estimate: {', '.join(f'{part} {mib:.0f}' for part, mib in held.items())}")
        print(
            f"  measured: {', '.join(f'{stage} {num / MIB:.0f}' for stage, num in stages.items())}",
            flush=True,
        )


def estimate(config: Config, name: str, role: str) -> tuple[Model, Memory]:
    """Return what the plan says."""
    policy = str(MODELS[name]["policy"])
    model = find_model(config, policy)
    assert model is not None
    made = learner_memory if role == "learner" else rollout_memory
    return model, made(config, policy, model)


def config_of(name: str, directory: Path) -> Config:
    """Return the demo with one model in the place of a cold start's."""
    spec = MODELS[name]
    policy, rows = spec["policy"], int(os.environ.get("ROWS", spec["rows"]))
    settings = [
        f"source={directory}",
        f"learner.micro_batch_size={rows}",
        *os.environ.get("KEYS", "").split(),
    ]
    return load_config("demo", [f"policies.{policy}.{setting}" for setting in settings])


def run_child(name: str, role: str, directory: Path) -> dict[str, int]:
    """Measure in a fresh process; return the peak of each stage, bytes."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", "--child", name, role, str(directory)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{name} {role}: {done.stderr[-2000:]}")
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


# --------------------------------------------------------------------------------- the models


def build(name: str, directory: Path) -> None:
    """Write a random checkpoint."""
    spec = MODELS[name]
    if spec["policy"] == "text":
        build_text(directory, spec)
    else:
        from actors.policies.restoration.small import build_image_policy

        build_image_policy(directory, texts=TEXTS, sizes=(16, 32, 64), seed=0, channels=spec["channels"])


def build_text(directory: Path, spec: Mapping[str, Any]) -> None:
    """Make the small Qwen2.5-VL, and the same again with more and wider layers."""
    import torch

    from actors.policies.token.qwen2_5_vl import build_text_policy

    blocks = list(load_config("demo").chain)
    build_text_policy(directory, texts=TEXTS, block_names=blocks, degraded_px=16, seed=0)
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    fields = json.loads((directory / "config.json").read_text())
    heads = spec["hidden"] // 64
    fields["text_config"] |= {
        "hidden_size": spec["hidden"],
        "intermediate_size": spec["inner"],
        "num_hidden_layers": spec["layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "vocab_size": spec["ids"],
        "layer_types": ["full_attention"] * spec["layers"],
    }
    fields["text_config"]["rope_parameters"]["mrope_section"] = [8, 12, 12]
    fields["vision_config"]["out_hidden_size"] = spec["hidden"]
    torch.manual_seed(0)
    Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**fields)).save_pretrained(directory)


# --------------------------------------------------------------------------------- in the child


@dataclass(slots=True)
class Watch:
    """The peak of this process's anonymous memory since the last mark."""

    peak: int = 0
    stages: dict[str, int] = field(default_factory=dict)
    is_over: bool = False

    def start(self) -> None:
        """Look from now on."""
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self.is_over:
            self.peak = max(self.peak, anonymous_bytes())
            time.sleep(TICK_S)

    def mark(self, stage: str) -> None:
        """Write down the peak of what was done, and begin anew."""
        self.stages[stage] = max(self.peak, anonymous_bytes())
        self.peak = 0


def anonymous_bytes() -> int:
    """Return what this process owns now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise RuntimeError("no RssAnon in /proc/self/status")


def measure(name: str, role: str, directory: Path) -> dict[str, int]:
    """Run one worker and return its peaks by stage."""
    config = config_of(name, directory)
    watch = Watch()
    watch.start()
    works: Mapping[str, Callable[[Config, str, Path, Watch], None]] = {"text": write_texts, "image": paint}
    work = learn if role == "learner" else works[MODELS[name]["policy"]]
    work(config, name, directory, watch)
    watch.is_over = True
    return watch.stages


@dataclass(slots=True)
class ListStore:
    """Handles are indexes."""

    examples: Sequence[Any]

    def get(self, handles: Sequence[object]) -> list[Any]:
        """Return the examples."""
        return [self.examples[handle] for handle in handles if isinstance(handle, int)]


def learn(config: Config, name: str, directory: Path, watch: Watch) -> None:
    """Make two updates of two micro-batches each, and publish."""
    import torch

    from actors.learner.rank import LearnerRank
    from actors.learner.spec import LearnerSpec
    from actors.policies.family import family_of
    from rl.advantage.batching import lay_out
    from rl.types import TrainItem

    policy = str(MODELS[name]["policy"])
    spec = config.policies[policy]
    rank = LearnerRank(
        LearnerSpec(
            policy_name=policy,
            family=family_of(policy, spec),
            config=spec,
            directory=directory,
            block_names=tuple(config.chain),
            bucket_bytes=config.bucket_mib << 20,
            num_optimizer_steps=2,
        )
    )
    examples = examples_of(config, name, directory, 2 * spec.learner.micro_batch_size)
    rank.setup("127.0.0.1", 0, ListStore(examples))
    watch.mark("setup")
    items = [
        TrainItem(
            item_id=str(index),
            handle=index,
            advantages=dict.fromkeys(range(len(config.chain)), 1.0 if index % 2 else -1.0),
            num_actions=int(example.segment.action_mask.sum()),
            num_scored=int(example.segment.action_mask.sum()),
            shape_key=(),
            length=100,
        )
        for index, example in enumerate(examples)
    ]
    batch = lay_out(policy, items, 1, spec.learner.micro_batch_size, max_actions=200)
    for update in range(2):
        rank.update([batch])
        watch.mark(f"update {update}")
    for part in rank.publish():
        del part
    watch.mark("publish")
    torch.distributed.destroy_process_group()


def examples_of(config: Config, name: str, directory: Path, number: int) -> list[Any]:
    """Return segments of the largest size that the configuration allows."""
    if MODELS[name]["policy"] == "text":
        return text_examples(config, name, directory, number)
    return [picture_example(config, seed) for seed in range(number)]


def text_examples(config: Config, name: str, directory: Path, number: int) -> list[Any]:
    """Three pictures in the context, and every block as long as it may be."""
    from actors.policies.token.vocabulary import load_vocabulary
    from rl.types import Example, TextSampling, TokenStream

    vocabulary = load_vocabulary(directory, tuple(config.chain))
    shape = text_shape(config, "text", find_known(config, "text"))
    rng = np.random.default_rng(0)
    placeholder = json.loads((directory / "config.json").read_text())["image_token_id"]
    sizes = (16, 16, 32)
    plain = shape.tokens - shape.patches - len(sizes) + len(sizes)
    made = []
    for _ in range(number):
        tokens = rng.integers(5, 200, plain).astype(np.int32)
        places = [1, PROMPT_TOKENS + 40, PROMPT_TOKENS + 80]
        tokens = np.insert(tokens, np.repeat(places, shape.patches // len(sizes)), placeholder)
        mask = np.zeros(len(tokens), dtype=np.bool_)
        mask[-shape.actions :] = True
        mask[tokens == placeholder] = False
        stream = TokenStream(
            tokens=tokens,
            pictures=("degraded", "rough_image", "middle_image"),
            action_mask=mask,
            behaviour_logprobs=np.where(mask, -5.0, 0.0).astype(np.float32),
            block_of=np.where(mask, 0, -1).astype(np.int8),
            sampling=TextSampling(temperature=1.0, forbidden_ids=vocabulary.forbidden_ids),
        )
        pictures = tuple(rng.integers(0, 256, (edge, edge, 3), dtype=np.uint8) for edge in sizes)
        made.append(Example(segment=stream, pictures=pictures))
    return made


def find_known(config: Config, policy: str) -> Model:
    """Return the model of a policy that is here."""
    model = find_model(config, policy)
    assert model is not None
    return model


def picture_example(config: Config, seed: int) -> Any:
    """A final picture of which every step but the last is trained."""
    from rl.denoising.step_selection import sampler_spec
    from rl.types import DenoisingSegment, Example

    block = config.chain["final_image"]
    rng = np.random.default_rng(seed)
    steps, edge = block.num_steps, block.size_px
    segment = DenoisingSegment(
        block="final_image",
        latents=rng.normal(0, 0.3, (steps + 1, 3, edge, edge)).astype(np.float32),
        timesteps=np.linspace(1000, 0, steps, endpoint=False).astype(np.float32),
        levels=np.linspace(1, 0, steps + 1).astype(np.float32),
        behaviour_logprobs=np.where(np.arange(steps) < steps - 1, -1.0, 0.0).astype(np.float32),
        action_mask=np.arange(steps) < steps - 1,
        pictures=("degraded", "previous"),
        size_px=edge,
        height_px=edge,
        seed=seed,
        sampler=sampler_spec(denoising_policy(config.policies["image"]).rollout),
    )
    pictures = tuple(rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for size in (16, 32))
    return Example(segment=segment, pictures=pictures)


def write_texts(config: Config, name: str, directory: Path, watch: Watch) -> None:
    """Fill the cache with long contexts, and take a publication."""
    from actors.policies.token.vocabulary import load_vocabulary
    from actors.rollout.text_worker import TextRolloutWorker
    from configs.planning.memory import CPU_CACHE_BYTES
    from configs.planning.workload import cache_bytes_a_token
    from rl.types import TextRequest, TextSampling

    worker = TextRolloutWorker(rollout_spec(config, "text", directory))
    worker.setup()
    watch.mark("setup")
    vocabulary = load_vocabulary(directory, tuple(config.chain))
    model = find_known(config, "text")
    length = 1500
    number = -(-CPU_CACHE_BYTES // (cache_bytes_a_token(model.fields, "float32") * length)) + 1
    rng = np.random.default_rng(0)
    requests = [
        TextRequest(
            request_id=str(index),
            tokens=rng.integers(5, 200, length).astype(np.int32),
            pictures=(),
            max_tokens=2,
            stop_ids=(),
            sampling=TextSampling(temperature=1.0, forbidden_ids=vocabulary.forbidden_ids),
            seed=index,
        )
        for index in range(number)
    ]
    asyncio.run(worker.generate(requests))
    watch.mark("generate")
    asyncio.run(worker.load_weights(*published(config, "text", directory)))
    watch.mark("load")
    worker.close()


def rollout_spec(config: Config, policy: str, directory: Path) -> Any:
    """Return what a rollout worker of a policy is made from."""
    from actors.policies.family import family_of
    from actors.rollout.worker import RolloutSpec

    spec = config.policies[policy]
    return RolloutSpec(
        directory=directory,
        config=spec,
        family=family_of(policy, spec),
        chain=config.chain,
        seed=0,
        deterministic=False,
    )


def paint(config: Config, name: str, directory: Path, watch: Watch) -> None:
    """Paint a full batch of the largest pictures, and take a publication."""
    from actors.rollout.image_worker import ImageRolloutWorker
    from rl.denoising.step_selection import sampler_spec
    from rl.types import ImageRequest

    spec, block = denoising_policy(config.policies["image"]), config.chain["final_image"]
    worker = ImageRolloutWorker(rollout_spec(config, "image", directory))
    worker.setup()
    watch.mark("setup")
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for size in (16, 32)]
    requests = [
        ImageRequest(
            request_id=str(index),
            block="final_image",
            size_px=block.size_px,
            height_px=block.size_px,
            num_steps=block.num_steps,
            sampler=sampler_spec(spec.rollout),
            pictures={"degraded": 0, "previous": 1},
            words={"text": "a cat", "question": ""},
            seed=index,
        )
        for index in range(spec.learner.micro_batch_size)
    ]
    asyncio.run(worker.generate(requests, *pictures))
    watch.mark("paint")
    asyncio.run(worker.load_weights(*published(config, "image", directory)))
    watch.mark("load")
    worker.close()


def published(config: Config, policy: str, directory: Path) -> tuple[Any, ...]:
    """Return a manifest and buckets in shared memory files, as the object store hands them out."""
    import torch
    from safetensors import safe_open

    from actors.weights.buckets import Bucket, pack

    net = directory if policy == "text" else directory / "unet"
    prefix = "" if policy == "text" else "unet."

    def tensors() -> Any:
        for path in sorted(net.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 - no mapping
                    yield prefix + name, torch.as_tensor(file.get_tensor(name))

    buckets, manifest = [], None
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    for part in pack(policy, 1, tensors(), config.bucket_mib << 20):
        if isinstance(part, Bucket):
            path = folder / f"{part.index}.bin"
            part.data.tofile(path)
            buckets.append(np.memmap(path, dtype=np.uint8, mode="r"))
            path.unlink()
        else:
            manifest = part
    folder.rmdir()
    return manifest, *buckets


if __name__ == "__main__":
    main()
