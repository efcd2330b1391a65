"""A step of ours against a step of TRL's `GRPOTrainer`: same checkpoint, prompts, reward, lengths and optimizer.

    pip install 'vlcot[versus]'
    python -m benchmarks.versus_trl --size 3M                # three rounds, runs in turn
    python -m benchmarks.versus_trl --size 25M --steps 6
    python -m benchmarks.versus_trl --size 3M --rounds 1 --steps 100     # learning curves

A random Qwen2 with a chat template answers 4 prompts 8 times with up to 64 tokens (it hardly ever ends by itself); the
reward is the share of an answer's characters that are one letter. No reference model, no gradient checkpointing, all in
float32 on two threads. Ways of ours: on-policy, with two threads for sampler and learner, which take turns; and
sampling a step ahead, with one each. The table has medians over rounds of each run's median step, its first two
left out, and the mean reward of a run's last tenth.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from actors.policies.token.tokenizer import train_tokenizer
from benchmarks.side_by_side import WARM_UP, Run, Way, in_turn, run_of, say, table, train_other, train_ours

PROMPTS, GROUP, TOKENS = 4, 8, 64
"""A step's prompts, answers to each, and most tokens of one."""
LEARNING_RATE = 1e-3
THREADS = 2
MODULE = "benchmarks.versus_trl"
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


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="3M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--other", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.other:
        train_with_trl(arguments.other, arguments.steps)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_work(folder, arguments.size)
        ways = [
            Way("TRL", lambda steps: train_other(MODULE, folder, steps, threads=THREADS)),
            Way("vlcot", lambda steps: run_ours(folder, steps, threads=THREADS, ahead=0)),
            Way("vlcot, a step ahead", lambda steps: run_ours(folder, steps, threads=1, ahead=1)),
        ]
        runs = in_turn(ways, rounds=arguments.rounds, steps=arguments.steps)
    print("\n".join(table(runs)))


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


# ---------------------------------------------------------------------------- ours


def run_ours(folder: Path, steps: int, *, threads: int, ahead: int) -> Run:
    """Train with ours."""
    config = {
        "num_steps": steps,
        "prompts_per_step": PROMPTS,
        "group_size": GROUP,
        "max_staleness": ahead,
        "save_every": steps,
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
    rows = train_ours(folder, config, threads=threads)
    return run_of(rows, reward="letters")


# ---------------------------------------------------------------------------- TRL's


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
    run = Run(
        step_s=step_s,
        parts={"sampling": sampling, "rest": statistics.median(step_s[WARM_UP:]) - sampling},
        rewards=[row["reward"] for row in trainer.state.log_history if "reward" in row],
    )
    say(folder, run)


if __name__ == "__main__":
    main()
