"""Does every algorithm learn? Two toy tasks, every named method, three seeds; one process, no Ray, no engine.

    python benchmarks/algorithms.py                       # a few minutes on two cores
    python benchmarks/algorithms.py gspo ddpo --seeds 0   # some methods, one seed

*Words*: a small network is given one of eight prompts and writes eight tokens; it is rewarded for the prompt's own
order of tokens, and for using many different ones. *Pictures*: a small flow model, first fitted to blobs of random
brightness, paints 16 px pictures in six steps; it is rewarded for bright right halves and for staying smooth.

Only the policies are toys. Advantages, batches, losses, samplers and step selection are the ones that runs use,
under the configuration that ``algorithm=NAME`` makes. Two optimizer steps a batch, so that ratios leave 1.

Exits with 1 unless every method raises its reward with every seed: the mean of the last ten steps above that of
the first five by at least ``MARGIN``. Writes a figure and the numbers behind it.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import matplotlib as mpl
import numpy as np
import torch
from torch import Tensor, nn

from actors.learner.micro_batches import make_actions
from actors.policies.base import PolicyBatch
from configs.algorithms import ALGORITHMS, algorithm_layer
from configs.build import build, merge
from configs.checks.validate import validate
from configs.derive import denoising_policy
from configs.schema import Config
from rl.advantage.assign import assign_advantages
from rl.advantage.batching import build_train_batches
from rl.advantage.combine import RewardTerm
from rl.advantage.scores import known
from rl.denoising.samplers import step_mean_std, unit_stds
from rl.denoising.step_selection import select_steps
from rl.denoising.steps import flow_sigmas, gaussian_logprob
from rl.loss.actions import ActionScores
from rl.loss.aggregation import divisor
from rl.loss.policy_loss import policy_loss
from rl.types import Chain, Finish, JsonDict, ScoredGroup, SegmentInfo

NUM_STEPS = {"words": 60, "pictures": 60}
"""Training steps, each of ``NUM_PROMPTS x GROUP_SIZE`` answers."""
MARGIN = 0.05
NUM_PROMPTS, GROUP_SIZE = 8, 8
NUM_WORDS = 8
SIZE_PX, NUM_DENOISING = 16, 6
LEARNING_RATE = {"words": 2e-2, "pictures": 3e-4}

OVERRIDES: Mapping[str, JsonDict] = {"mix_grpo": {"rollout": {"trained_steps": {"size": 2, "every": 10}}}}
"""Six steps have room for a window of two, and sixty steps of training for some moves."""


class Task(ABC):
    """A policy, what it answers, and what that is worth."""

    name: ClassVar[str]
    rewards: ClassVar[tuple[str, str]]
    chain: ClassVar[JsonDict]
    policy: ClassVar[JsonDict]

    def __init__(self, config: Config, seed: int) -> None:
        self.config = config
        self.generator = torch.Generator().manual_seed(seed)

    @property
    @abstractmethod
    def net(self) -> nn.Module:
        """What is trained."""

    @abstractmethod
    def sample(self, prompts: Tensor, step: int) -> tuple[PolicyBatch, Tensor]:
        """Answer ``[B]`` prompts: the batch of all answers, and their two rewards ``[2, B]``."""

    @abstractmethod
    def scores(self, net: nn.Module, batch: PolicyBatch) -> ActionScores:
        """Score a batch's actions."""


# --------------------------------------------------------------------------------- words


class WordNet(nn.Module):
    """Next-token logits from prompt, position and the token before."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt, self.place = nn.Embedding(NUM_PROMPTS, 32), nn.Embedding(NUM_WORDS, 32)
        self.before = nn.Embedding(NUM_WORDS + 1, 32)
        self.head = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, NUM_WORDS))

    def forward(self, prompts: Tensor, before: Tensor) -> Tensor:
        """Return logits ``[B, T, NUM_WORDS]`` for prompts ``[B]`` and the tokens before each place ``[B, T]``."""
        place = self.place(torch.arange(before.shape[1]))
        logits: Tensor = self.head(self.prompt(prompts)[:, None] + place + self.before(before))
        return logits


class Words(Task):
    """Write the prompt's own order of tokens."""

    name = "words"
    rewards = ("order", "variety")
    chain: ClassVar[JsonDict] = {"answer": {"kind": "text", "policy": "words", "max_tokens": NUM_WORDS}}
    policy: ClassVar[JsonDict] = {"kind": "token"}

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__(config, seed)
        torch.manual_seed(seed)
        self._net = WordNet()

    @property
    def net(self) -> nn.Module:
        """What is trained."""
        return self._net

    @torch.no_grad()
    def sample(self, prompts: Tensor, step: int) -> tuple[PolicyBatch, Tensor]:
        """Write eight tokens a prompt."""
        del step
        # The rollout "worker" computes in bfloat16, so that there is a mismatch to correct.
        worker = WordNet()
        worker.load_state_dict(self._net.state_dict())
        worker.bfloat16()
        tokens = torch.full((len(prompts), NUM_WORDS + 1), NUM_WORDS)
        logprobs = torch.zeros(len(prompts), NUM_WORDS)
        for place in range(NUM_WORDS):
            table = worker(prompts, tokens[:, : place + 1])[:, place].float().log_softmax(-1)
            chosen = torch.multinomial(table.exp(), 1, generator=self.generator)
            tokens[:, place + 1] = chosen[:, 0]
            logprobs[:, place] = table.gather(1, chosen)[:, 0]
        answer = tokens[:, 1:]
        wanted = (prompts[:, None] + torch.arange(NUM_WORDS)) % NUM_WORDS
        variety = nn.functional.one_hot(answer, NUM_WORDS).amax(1).sum(1) / NUM_WORDS
        rewards = torch.stack([(answer == wanted).float().mean(1), variety])
        return _batch(
            {"prompts": prompts, "tokens": tokens}, logprobs, torch.ones_like(answer).bool()
        ), rewards

    def scores(self, net: nn.Module, batch: PolicyBatch) -> ActionScores:
        """Score every token."""
        tokens = batch.inputs["tokens"]
        table = net(batch.inputs["prompts"], tokens[:, :-1]).log_softmax(-1)
        entropy = -(table.exp() * table).sum(-1)
        return ActionScores(logprobs=table.gather(2, tokens[:, 1:, None])[..., 0], entropy=entropy)


# --------------------------------------------------------------------------------- pictures


class PictureNet(nn.Module):
    """Predicts the clean picture from a noisy one, its noise level and the prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt = nn.Embedding(NUM_PROMPTS, 128)
        self.enter, self.level = nn.Linear(SIZE_PX**2, 128), nn.Linear(1, 128)
        self.leave = nn.Sequential(nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, SIZE_PX**2))

    def forward(self, x: Tensor, sigma: Tensor, prompts: Tensor) -> Tensor:
        """Return ``[B, 1, 16, 16]`` for latents of that shape at sigma ``[B]``."""
        hidden = self.enter(x.flatten(1)) + self.level(sigma[:, None]) + self.prompt(prompts)
        clean: Tensor = self.leave(hidden)
        return clean.reshape(x.shape)


def blobs(prompts: Tensor, generator: torch.Generator) -> Tensor:
    """Draw what the flow model is fitted to: a blob at the prompt's place, of random brightness, -1..1."""
    rows, columns = torch.meshgrid(*[torch.linspace(-1, 1, SIZE_PX)] * 2, indexing="ij")
    angle = prompts[:, None, None] * (2 * torch.pi / NUM_PROMPTS)
    distance = (rows - 0.5 * angle.sin()) ** 2 + (columns - 0.5 * angle.cos()) ** 2
    brightness = 0.5 * torch.randn(len(prompts), 2, 1, 1, generator=generator)
    return (brightness[:, 0] + (1 + brightness[:, 1]) * torch.exp(-4 * distance) - 0.3)[:, None]


@cache
def fitted(seed: int) -> PictureNet:
    """Fit the flow model; every method of a seed starts from a copy."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = PictureNet()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for _ in range(800):
        prompts = torch.randint(NUM_PROMPTS, (128,), generator=generator)
        clean, sigma = blobs(prompts, generator), torch.rand(128, generator=generator)
        level = sigma[:, None, None, None]
        noisy = (1 - level) * clean + level * torch.randn(clean.shape, generator=generator)
        loss = (net(noisy, sigma, prompts) - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


class Pictures(Task):
    """Paint with a bright right half."""

    name = "pictures"
    rewards = ("bright", "smooth")
    chain: ClassVar[JsonDict] = {
        "picture": {"kind": "image", "policy": "pictures", "size_px": SIZE_PX, "num_steps": NUM_DENOISING}
    }
    policy: ClassVar[JsonDict] = {
        "kind": "denoising",
        "loss": {"surrogate": {"clip_low": 1e-4, "clip_high": 1e-4}},
    }

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__(config, seed)
        self._net = copy.deepcopy(fitted(seed))
        self._settings = denoising_policy(config.policies[self.name])
        self._sigmas = flow_sigmas(NUM_DENOISING)

    @property
    def net(self) -> nn.Module:
        """What is trained."""
        return self._net

    @torch.no_grad()
    def sample(self, prompts: Tensor, step: int) -> tuple[PolicyBatch, Tensor]:
        """Paint a picture a prompt, with the noise where the configuration wants it."""
        num, settings = len(prompts), self._settings
        shape = (num, 1, SIZE_PX, SIZE_PX)
        noise = torch.randn((NUM_DENOISING, *shape), generator=self.generator)
        if settings.rollout.shared_noise:
            noise[0] = noise[0][::GROUP_SIZE].repeat_interleave(GROUP_SIZE, dim=0)
        seeds = torch.randint(2**31, (num,), generator=self.generator).tolist()
        plans = [
            select_steps(
                settings.rollout.trained_steps,
                NUM_DENOISING,
                picture_seed=seeds[row],
                group_seed=seeds[row - row % GROUP_SIZE],
                grpo_step=step,
            )
            for row in range(num)
        ]
        levels = torch.tensor(
            [
                [settings.rollout.noise_level * (k in plan.random) for k in range(NUM_DENOISING)]
                for plan in plans
            ]
        )
        trained = torch.tensor([[k in plan.trained for k in range(NUM_DENOISING)] for plan in plans])
        latents, logprobs, means = [noise[0]], [], []
        for k in range(NUM_DENOISING):
            mean, std = self._step(self._net, latents[-1], prompts, torch.full((num,), k), levels[:, k])
            following = mean + std * noise[k + 1] if k + 1 < NUM_DENOISING else mean
            logprobs.append(gaussian_logprob(following, mean, std))
            means.append(mean.flatten(1))
            latents.append(following)
        inputs = {
            "prompts": prompts,
            "latents": torch.stack(latents, 1),
            "levels": levels,
            "trained": trained,
        }
        weights = None
        if settings.loss.step_weighting == "noise":
            std = unit_stds(settings.rollout.sampler, self._sigmas.expand(num, -1), levels.amax(1)) * trained
            weights = std * trained.sum(1, keepdim=True) / std.sum(1, keepdim=True)
        batch = _batch(inputs, torch.stack(logprobs, 1) * trained, trained)
        return (
            PolicyBatch(
                inputs=batch.inputs,
                behaviour_logprobs=batch.behaviour_logprobs,
                action_mask=batch.action_mask,
                block_of=batch.block_of,
                action_weights=weights,
                behaviour_step_mean=torch.stack(means, 1),
            ),
            self._worth(latents[-1]),
        )

    def scores(self, net: nn.Module, batch: PolicyBatch) -> ActionScores:
        """Score the trained steps, and no others."""
        inputs, mask = batch.inputs, batch.inputs["trained"]
        row, step = torch.nonzero(mask, as_tuple=True)
        x, following = inputs["latents"][row, step], inputs["latents"][row, step + 1]
        mean, std = self._step(net, x, inputs["prompts"][row], step, inputs["levels"][row, step])
        blank, wide = torch.zeros(mask.shape), torch.zeros(*mask.shape, SIZE_PX**2)
        return ActionScores(
            logprobs=blank.index_put((row, step), gaussian_logprob(following, mean, std)),
            step_mean=wide.index_put((row, step), mean.flatten(1)),
            step_std=blank.index_put((row, step), std.flatten().detach()),
        )

    def _step(
        self, net: nn.Module, x: Tensor, prompts: Tensor, step: Tensor, level: Tensor
    ) -> tuple[Tensor, Tensor]:
        now, after = self._sigmas[step], self._sigmas[step + 1]
        return step_mean_std(self._settings.rollout.sampler, x, net(x, now, prompts), now, after, level)

    def _worth(self, pictures: Tensor) -> Tensor:
        """Brightness of the right half and smoothness, both 0..1."""
        bright = torch.sigmoid(4 * pictures[..., SIZE_PX // 2 :].mean(dim=(1, 2, 3)))
        rough = pictures.diff(dim=2).square().mean(dim=(1, 2, 3)) + pictures.diff(dim=3).square().mean(
            dim=(1, 2, 3)
        )
        return torch.stack([bright, torch.exp(-4 * rough)])


# --------------------------------------------------------------------------------- training


def train(task_type: type[Task], algorithm: str, seed: int) -> list[float]:
    """Train one method; return the mean total reward of each step's answers."""
    config = make_config(task_type, algorithm)
    task = task_type(config, seed)
    policy = config.policies[task.name]
    reference = type(task)(config, seed).net if policy.loss.kl_weight else None
    optimizer = torch.optim.AdamW(task.net.parameters(), lr=policy.learner.learning_rate, weight_decay=0.0)
    terms = {
        name: RewardTerm(weight=reward.weight, blocks=tuple(config.chain), best=1.0, missing=0.0)
        for name, reward in config.rewards.items()
    }
    curve = []
    for step in range(NUM_STEPS[task.name]):
        prompts = torch.arange(NUM_PROMPTS).repeat_interleave(GROUP_SIZE)
        batch, rewards = task.sample(prompts, step)
        groups = as_groups(task, batch, rewards)
        advantages = assign_advantages(groups, terms, tuple(config.chain), config.advantage)
        steps = build_train_batches(groups, advantages, config).get(task.name, [])
        rows = [[item.handle for item in micro.items] for one in steps for micro in one.micro_batches[0]]
        before = [task.scores(task.net, take(batch, each)).detached() for each in rows]
        for one, proximal in zip(steps, before, strict=True):
            (micro,) = one.micro_batches[0]
            mine = take(batch, [item.handle for item in micro.items])
            actions = make_actions(micro, mine, torch.device("cpu"))
            with torch.no_grad():
                frozen = None if reference is None else task.scores(reference, mine)
            now = task.scores(task.net, mine)
            loss = policy_loss(
                policy.loss, now, actions, max_actions=one.max_actions, reference=frozen, proximal=proximal
            ).loss / divisor(policy.loss.aggregation, one)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(task.net.parameters(), policy.learner.max_grad_norm)
            optimizer.step()
        curve.append(float(rewards.sum(0).mean()))
    return curve


def make_config(task: type[Task], algorithm: str) -> Config:
    """Build what a configuration file of the task with ``algorithm=NAME`` would be."""
    rows = NUM_PROMPTS * GROUP_SIZE
    own = {
        "learner": {"learning_rate": LEARNING_RATE[task.name], "micro_batch_size": rows},
        **OVERRIDES.get(algorithm, {}),
    }
    content: JsonDict = {
        "algorithm": algorithm,
        "chain": task.chain,
        "policies": {task.name: task.policy},
        "rewards": {name: {"target": "rewards.base:Reward"} for name in task.rewards},
    }
    tree: JsonDict = {}
    for layer in (content, algorithm_layer(content), {"policies": {task.name: own}}):
        tree = merge(tree, layer, Config)
    sizes = {"prompts_per_step": NUM_PROMPTS, "group_size": GROUP_SIZE, "updates_per_batch": 2, "scale": 1}
    config: Config = build(Config, tree | sizes)
    validate(config, paths=False)
    return config


def as_groups(task: Task, batch: PolicyBatch, rewards: Tensor) -> list[ScoredGroup]:
    """Dress rows as scored groups; a segment's handle is its row."""
    (block,) = task.chain
    counts = batch.action_mask.sum(1).tolist()
    groups = []
    for first in range(0, len(counts), GROUP_SIZE):
        rows = range(first, first + GROUP_SIZE)
        chains = tuple(
            Chain(
                chain_id=f"{first}/{row - first}",
                group_id=str(first),
                index=row - first,
                finish=Finish.STOP,
                error="",
                text="",
                segments=(
                    SegmentInfo(
                        policy=task.name,
                        handle=row,
                        blocks=(block,),
                        num_actions={block: counts[row]},
                        shape_key=(),
                        length=counts[row],
                    ),
                ),
                pictures={},
                versions={},
            )
            for row in rows
        )
        scores = {
            name: known(name, rewards[index, first : first + GROUP_SIZE].numpy())
            for index, name in enumerate(task.rewards)
        }
        groups.append(
            ScoredGroup(group_id=str(first), prompt_id=str(first), chains=chains, scores=scores, seconds={})
        )
    return groups


def take(batch: PolicyBatch, rows: Sequence[object]) -> PolicyBatch:
    """Return some rows of a batch."""
    index = torch.tensor([int(str(row)) for row in rows])

    def part(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[index]

    return PolicyBatch(
        inputs={name: values[index] for name, values in batch.inputs.items()},
        behaviour_logprobs=batch.behaviour_logprobs[index],
        action_mask=batch.action_mask[index],
        block_of=batch.block_of[index],
        action_weights=part(batch.action_weights),
        behaviour_step_mean=part(batch.behaviour_step_mean),
    )


def _batch(inputs: Mapping[str, Tensor], logprobs: Tensor, mask: Tensor) -> PolicyBatch:
    block_of = torch.where(mask, 0, -1)
    return PolicyBatch(inputs=inputs, behaviour_logprobs=logprobs, action_mask=mask, block_of=block_of)


# --------------------------------------------------------------------------------- results


@dataclass(frozen=True, slots=True)
class Result:
    """One method on one task."""

    algorithm: str
    task: str
    curves: list[list[float]]
    """By seed."""
    seconds: float

    @property
    def gains(self) -> list[float]:
        """Mean of the last ten steps minus that of the first five, by seed."""
        return [float(np.mean(curve[-10:]) - np.mean(curve[:5])) for curve in self.curves]


def tasks_of(algorithm: str) -> list[type[Task]]:
    """Return the tasks whose policies the method speaks of; both where it speaks of advantages alone."""
    method = ALGORITHMS[algorithm]
    found: list[type[Task]] = [Words] if method.token or not method.denoising else []
    return [*found, Pictures] if method.denoising or not method.token else found


def main() -> None:
    """Train everything, print the table, write figure and numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("algorithms", nargs="*", default=list(ALGORITHMS), metavar="ALGORITHM")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output-dir", type=Path, default=Path("runs/algorithms"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the nets are too small to share
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    results = []
    for algorithm in arguments.algorithms:
        for task in tasks_of(algorithm):
            begin = time.perf_counter()
            curves = [train(task, algorithm, seed) for seed in arguments.seeds]
            result = Result(algorithm, task.name, curves, time.perf_counter() - begin)
            results.append(result)
            gains = " ".join(f"{gain:+.3f}" for gain in result.gains)
            print(f"{algorithm:22} {task.name:9} gains {gains}  {result.seconds:5.1f} s", flush=True)
    draw(results, arguments.output_dir / "algorithms.png")
    rows = [{"algorithm": r.algorithm, "task": r.task, "gains": r.gains, "curves": r.curves} for r in results]
    (arguments.output_dir / "algorithms.json").write_text(json.dumps(rows) + "\n")
    lost = [f"{r.algorithm} ({r.task})" for r in results if min(r.gains) < MARGIN]
    sys.exit(f"no gain of {MARGIN} with every seed: {', '.join(lost)}" if lost else 0)


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw every method's curves, seeds as thin lines and their mean as a thick one."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    columns = 6
    num_rows = -(-len(results) // columns)
    figure, axes = plt.subplots(num_rows, columns, figsize=(2.1 * columns, 1.6 * num_rows), squeeze=False)
    for axis in axes.flat[len(results) :]:
        axis.axis("off")
    for axis, result in zip(axes.flat, results, strict=False):
        color = "tab:blue" if result.task == "words" else "tab:orange"
        for curve in result.curves:
            axis.plot(curve, color=color, linewidth=0.6, alpha=0.6)
        axis.plot(np.mean(result.curves, axis=0), color=color, linewidth=1.6)
        axis.set_title(f"{result.algorithm}: {result.task}", fontsize=7)
        axis.tick_params(labelsize=6)
    figure.supxlabel("training step", fontsize=8)
    figure.supylabel("total reward of sampled answers", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
