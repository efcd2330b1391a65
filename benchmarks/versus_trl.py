"""A step of ours against a step of TRL's `GRPOTrainer`: same checkpoint, prompts, reward, lengths and optimizer.

    pip install 'vlcot[versus]'
    python benchmarks/versus_trl.py --size 3M                # three rounds, runs in turn
    python benchmarks/versus_trl.py --size 25M --steps 6
    python benchmarks/versus_trl.py --size 3M --rounds 1 --steps 100     # learning curves

A random Qwen2 with a chat template answers 4 prompts 8 times with up to 64 tokens (it hardly ever ends by itself); the
reward is the share of an answer's characters that are one letter. No reference model, no gradient checkpointing, all in
float32 on two threads. Ways of ours: on-policy, with two threads for sampler and learner, which take turns; and
sampling a step ahead, with one each. The table has medians over rounds of each run's median step, its first two
left out, and the mean reward of a run's last tenth.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from actors.policies.token.tokenizer import train_tokenizer
from cluster.record.sinks import read_metrics
from rl.types import JsonDict

PROMPTS, GROUP, TOKENS = 4, 8, 64
"""A step's prompts, answers to each, and most tokens of one."""
LEARNING_RATE = 1e-3
THREADS = 2
WARM_UP = 2
"""First steps that are not timed."""
SIZES = {"3M": (256, 4, 688), "25M": (512, 8, 1408)}
"""Width, layers and width between."""
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
LETTERS = "abcdefghijklmnopqrstuvwxyz "
QUESTIONS = [f"Say something about {a} and {b}." for a in range(40) for b in range(40)]
REWARD = '''"""Reward of the benchmark, a function as TRL has them."""


def letters(completions, **columns):
    """Share of an answer's characters that are an e."""
    answers = [answer[0]["content"] for answer in completions]
    return [answer.count("e") / max(len(answer), 1) for answer in answers]
'''


@dataclass(frozen=True)
class Run:
    """What a training says of itself."""

    step_s: Sequence[float]
    parts: Mapping[str, float]
    """Medians, seconds."""
    rewards: Sequence[float]

    @property
    def median_s(self) -> float:
        """Seconds of a typical step."""
        return statistics.median(self.step_s[WARM_UP:])


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="3M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--trl", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.trl:
        train_with_trl(arguments.trl, arguments.steps)
        return
    ways: dict[str, Callable[[Path, int], Run]] = {
        "TRL": run_trl,
        "vlcot": lambda folder, steps: run_ours(folder, steps, threads=THREADS, ahead=0),
        "vlcot, a step ahead": lambda folder, steps: run_ours(folder, steps, threads=1, ahead=1),
    }
    with tempfile.TemporaryDirectory() as folder:
        make_work(Path(folder), arguments.size)
        runs: dict[str, list[Run]] = {name: [] for name in ways}
        for number in range(arguments.rounds):
            for name, run in ways.items():
                runs[name].append(run(Path(folder), arguments.steps))
                print(f"round {number}: {name}: {runs[name][-1].median_s:.3f} s a step", file=sys.stderr)
    print("\n".join(table(runs)))


def table(runs: Mapping[str, Sequence[Run]]) -> Iterable[str]:
    """Write the rows of the table."""
    yield "| | step, s | x TRL | parts, s | reward, first tenth | last tenth |"
    yield "|---|---:|---:|---|---:|---:|"
    first = statistics.median(run.median_s for run in next(iter(runs.values())))
    for name, found in runs.items():
        step = statistics.median(run.median_s for run in found)
        parts = {part: statistics.median(run.parts[part] for run in found) for part in found[0].parts}
        tenth = max(len(found[0].rewards) // 10, 1)
        begin = statistics.mean(reward for run in found for reward in run.rewards[:tenth])
        end = statistics.mean(reward for run in found for reward in run.rewards[-tenth:])
        said = ", ".join(f"{part} {seconds:.2f}" for part, seconds in parts.items())
        yield f"| {name} | {step:.2f} | {first / step:.2f} | {said} | {begin:.3f} | {end:.3f} |"


def make_work(folder: Path, size: str) -> None:
    """Write the checkpoint, the prompts and the reward."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = train_tokenizer([*QUESTIONS, TEMPLATE, *(f"{a}{b}" for a in LETTERS for b in LETTERS)], ())
    tokenizer.chat_template = TEMPLATE
    width, layers, between = SIZES[size]
    config = Qwen2Config(
        vocab_size=2048,
        hidden_size=width,
        intermediate_size=between,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 128,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        dtype="float32",
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters", file=sys.stderr)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = ({"prompt": [{"role": "user", "content": question}]} for question in QUESTIONS)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "letters.py").write_text(REWARD)


def environment(threads: int) -> dict[str, str]:
    """Return a process's environment."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}


# ---------------------------------------------------------------------------- ours


def run_ours(folder: Path, steps: int, *, threads: int, ahead: int) -> Run:
    """Train with ours."""
    name = f"ours-{time.monotonic_ns()}"
    config = {
        "name": name,
        "output_dir": str(folder),
        "num_steps": steps,
        "prompts_per_step": PROMPTS,
        "group_size": GROUP,
        "max_staleness": ahead,
        "save_every": steps,
        "plugins": [str(folder)],
        "chain": {"answer": {"kind": "text", "policy": "text", "max_tokens": TOKENS}},
        "policies": {
            "text": {
                "kind": "token",
                "source": str(folder / "model"),
                "num_threads": threads,
                "learner": {"learning_rate": LEARNING_RATE, "micro_batch_size": PROMPTS * GROUP},
            }
        },
        "rewards": {"letters": {"target": "letters:letters"}},
        "data": {"prompts": str(folder / "prompts.jsonl")},
        "eval": {"num_prompts": 8},
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config))
    words = [sys.executable, "-m", "cluster.cli", "train", str(file)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=environment(threads))
    rows = [row for row in read_metrics(folder / name / "metrics.jsonl") if "time/step_s" in row]
    parts = ("collect", "update", "publish")
    return Run(
        step_s=[row["time/step_s"] for row in rows],
        parts={p: statistics.median(row[f"time/{p}_s"] for row in rows[WARM_UP:]) for p in parts},
        rewards=[row["reward/letters/mean"] for row in rows],
    )


# ---------------------------------------------------------------------------- TRL's


def run_trl(folder: Path, steps: int) -> Run:
    """Train with TRL in a process of its own."""
    words = [sys.executable, __file__, "--trl", str(folder), "--steps", str(steps)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=environment(THREADS))
    said: JsonDict = json.loads((folder / "trl.json").read_text())
    return Run(**said)


def train_with_trl(folder: Path, steps: int) -> None:
    """Train with TRL in this process and write what it took."""
    import torch
    from datasets import load_dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(THREADS)
    sys.path.insert(0, str(folder))
    from letters import letters  # type: ignore[import-not-found]

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Notes the time between two ends of steps."""

        def __init__(self) -> None:
            self.last, self.step_s = time.perf_counter(), list[float]()

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not self.step_s:
                self.last = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            now = time.perf_counter()
            self.step_s.append(now - self.last)
            self.last = now

    class Timed(GRPOTrainer):  # type: ignore[misc]
        """Notes how long it samples."""

        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return super()._generate(*args, **kwargs)
            finally:
                sampling_s.append(time.perf_counter() - begin)

    sampling_s: list[float] = []
    clock = Clock()
    trainer = Timed(
        model=str(folder / "model"),
        reward_funcs=[letters],
        train_dataset=load_dataset("json", data_files=str(folder / "prompts.jsonl"), split="train"),
        callbacks=[clock],
        args=GRPOConfig(
            output_dir=str(folder / "trl"),
            max_steps=steps,
            per_device_train_batch_size=PROMPTS * GROUP,
            num_generations=GROUP,
            max_completion_length=TOKENS,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            gradient_checkpointing=False,
            use_cpu=True,
            bf16=False,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
    )
    trainer.train()
    step_s, sampling = clock.step_s, statistics.median(sampling_s[WARM_UP:])
    said = {
        "step_s": step_s,
        "parts": {"sampling": sampling, "rest": statistics.median(step_s[WARM_UP:]) - sampling},
        "rewards": [row["reward"] for row in trainer.state.log_history if "reward" in row],
    }
    (folder / "trl.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main()
