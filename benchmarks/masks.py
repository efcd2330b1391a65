"""Cost of forbidden ids in the text engine: none, as a run sends them, and as vLLM's list of all that are allowed.

    python -m benchmarks.masks

One engine of the rollout worker (vLLM in this process, one thread) serves a random Qwen3 of 4 layers with the released
ones' vocabulary, 151,936 ids, of which a few hundred have no token and are forbidden; each round 32 requests sample 64
tokens each at once. The ways take turns; the table has medians over the rounds. CPU seconds are this process's: the
honest measure where the machine has other work.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from actors.policies.family import family_of
from actors.policies.token.tokenizer import train_tokenizer
from actors.rollout.text_engine import TextEngine
from actors.rollout.vllm_requests import asked_whole, sampling_params
from actors.rollout.worker import RolloutSpec
from configs.schema import BlockConfig, TokenPolicyConfig
from rl.compat.torchvision import ensure_torchvision
from rl.types import TextRequest, TextSampling

NUM_IDS = 151_936
NUM_FORBIDDEN = 267
"""Ids of Qwen3's vocabulary that no token of its tokenizer has."""
TEXTS = ("light blur, heavy noise", "a cat on a red chair")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64, help="sampled by each request")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        engine = open_engine(Path(folder))
        measure(engine, arguments.requests, arguments.tokens, arguments.rounds)
        engine.close()


def write_model(directory: Path) -> None:
    """Write a small random model with a large vocabulary."""
    ensure_torchvision()
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = train_tokenizer(TEXTS, ())
    config = Qwen3Config(
        vocab_size=NUM_IDS,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def open_engine(directory: Path) -> TextEngine:
    """Start the engine that a rollout worker has."""
    config = TokenPolicyConfig(source=str(directory))
    family = family_of("text", config)
    return TextEngine(
        RolloutSpec(
            directory=directory,
            config=config,
            family=family,
            chain={"answer": BlockConfig(policy="text", max_tokens=64)},
            seed=0,
            deterministic=False,
        )
    )


def measure(engine: TextEngine, num_requests: int, num_tokens: int, rounds: int) -> None:
    """Print one row a way."""
    allowed = list(range(NUM_IDS - NUM_FORBIDDEN))
    ways: dict[str, tuple[tuple[int, ...], list[int] | None]] = {
        "nothing is forbidden": ((), None),
        f"{NUM_FORBIDDEN} ids are forbidden": (tuple(range(NUM_IDS - NUM_FORBIDDEN, NUM_IDS)), None),
        "the others are vLLM's `allowed_token_ids`": ((), allowed),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, (forbidden, others) in ways.items():
            requests = [request(f"{turn}/{name}/{i}", i, num_tokens, forbidden) for i in range(num_requests)]
            taken = sample(engine, requests, others)
            if turn:  # the first prepares kernels
                seconds[name].append(taken)
    print("| | tokens/s | CPU ms a token | x the first |")
    print("|---|---:|---:|---:|")
    num, first = num_requests * num_tokens, 0.0
    for name, rows in seconds.items():
        wall = statistics.median(row[0] for row in rows)
        cpu = statistics.median(row[1] for row in rows)
        first = first or cpu
        print(f"| {name} | {num / wall:.0f} | {1e3 * cpu / num:.3f} | {cpu / first:.2f} |", flush=True)


def request(key: str, index: int, num_tokens: int, forbidden: tuple[int, ...]) -> TextRequest:
    """Return a request with a prompt of its own."""
    return TextRequest(
        request_id=key,
        tokens=np.arange(16, dtype=np.int32) + index,
        pictures=(),
        max_tokens=num_tokens,
        stop_ids=(),
        sampling=TextSampling(temperature=1.0, forbidden_ids=forbidden),
        seed=index,
    )


def sample(
    engine: TextEngine, requests: Sequence[TextRequest], allowed: list[int] | None
) -> tuple[float, float]:
    """Have all requests answered; return wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    for one in requests:
        made = sampling_params(asked_whole(one.request_id, one, ()))
        made.allowed_token_ids = allowed
        engine._engine.add_request(one.request_id, {"prompt_token_ids": one.tokens.tolist()}, made)
    while not engine.is_idle:
        engine.step()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
