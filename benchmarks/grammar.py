"""Cost of a chain's grammar in the text engine: none, a fixed mask, whole chains by their plan, and with guidance.

    python -m benchmarks.grammar

One checkpoint, a random Qwen3 of 4 layers of width 128 over words and 1,024 codes, is served by the engine of a rollout
worker (vLLM in this process, one thread): as a language model, and as the unified policy that it is. 32 requests at
once write the shipped chain of seven blocks, pictures of 16, 32 and 64 px at stride 4, with words that are given, so
that every chain is whole; the language model writes as many ids of any kind. Rounds follow each other; the table has
medians, and CPU seconds of this process, the honest measure where the machine has other work.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from actors.policies.family import PolicyFamily
from actors.policies.token.family import LANGUAGE_MODEL
from actors.policies.unified.family import UNIFIED
from actors.policies.unified.small import build_unified
from actors.policies.unified.vocabulary import TEXT_ROW, UnifiedVocabulary, load_unified_vocabulary
from actors.rollout.text_engine import TextEngine
from actors.rollout.vllm_requests import Written
from actors.rollout.worker import RolloutSpec
from configs.schema import (
    BlockConfig,
    PolicyConfig,
    TokenPolicyConfig,
    TokenRollout,
    UnifiedPolicyConfig,
)
from rl.chain.grammar import ChainGrammar
from rl.chain.plan import make_plan, walked
from rl.types import ChainPlan, TextRequest, TextSampling

TEXTS = ("light blur, heavy noise", "a cat on a red chair")
SIZES = {"rough": 16, "middle": 32, "final": 64}
CHAIN = {
    "degradation": BlockConfig(kind="text", policy="one", max_tokens=32),
    **{
        f"{name}_{kind}": BlockConfig(kind="text", policy="one", max_tokens=32)
        if kind == "understand"
        else BlockConfig(kind="image", policy="one", size_px=size)
        for name, size in SIZES.items()
        for kind in ("understand", "image")
    },
}
NUM_WORDS = 12
"""Ids of each text block."""
PROMPT_CODES = 16
"""Edge of the degraded photograph, codes."""
Make = Callable[[str, int], TextRequest]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| | ids/s | seconds of a step's chains | CPU ms an id |")
    print("|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        build_unified(
            directory,
            texts=TEXTS,
            block_names=list(CHAIN),
            num_codes=1024,
            stride_px=4,
            max_positions=2048,
            seed=0,
        )
        vocabulary = load_unified_vocabulary(directory, list(CHAIN))
        plan = whole_plan(vocabulary)
        plain = TokenPolicyConfig(source=folder)
        unified = UnifiedPolicyConfig(source=folder)
        guided = UnifiedPolicyConfig(source=folder, rollout=TokenRollout(guidance_scale=0.8))
        codes = tuple(np.flatnonzero(~vocabulary.masks[TEXT_ROW]).tolist())
        engines: list[tuple[PolicyConfig, PolicyFamily, dict[str, TextSampling], ChainPlan | None]] = [
            (
                plain,
                LANGUAGE_MODEL,
                {
                    "nothing is forbidden": TextSampling(),
                    "a fixed mask": TextSampling(forbidden_ids=codes),
                },
                None,
            ),
            (unified, UNIFIED, {"chains by their plan": TextSampling()}, plan),
            (guided, UNIFIED, {"chains by their plan, guided by 0.8": TextSampling(guidance=0.8)}, plan),
        ]
        for config, family, ways, its_plan in engines:
            engine = open_engine(directory, config, family)
            for name, sampling in ways.items():
                measure(engine, name, requests_of(vocabulary, plan, its_plan, sampling), arguments)
            engine.close()


def whole_plan(vocabulary: UnifiedVocabulary) -> ChainPlan:
    """Plan the chain with words that are given: weights that know nothing would leave its grammar."""
    texts = {name: range(20, 20 + NUM_WORDS) for name, block in CHAIN.items() if block.kind == "text"}
    return make_plan(ChainGrammar(CHAIN, vocabulary.tags), vocabulary.pictures).given(texts)


def open_engine(directory: Path, config: PolicyConfig, family: PolicyFamily) -> TextEngine:
    """Start the engine that a rollout worker has."""
    return TextEngine(
        RolloutSpec(
            directory=directory, config=config, family=family, chain=CHAIN, seed=0, deterministic=False
        )
    )


def requests_of(
    vocabulary: UnifiedVocabulary, whole: ChainPlan, plan: ChainPlan | None, sampling: TextSampling
) -> Make:
    """Return what makes a request: a photograph's codes, and as many ids behind them as a chain has."""

    def make(key: str, index: int) -> TextRequest:
        rng = np.random.default_rng(index)
        codes = rng.integers(0, 1024, (PROMPT_CODES, PROMPT_CODES), dtype=np.int32)
        return TextRequest(
            request_id=key,
            tokens=np.asarray(vocabulary.pictures.stream(codes), dtype=np.int32),
            pictures=(),
            max_tokens=whole.max_tokens - 1,
            stop_ids=(),
            sampling=sampling,
            seed=index,
            plan=plan,
        )

    return make


def measure(engine: TextEngine, name: str, make: Make, arguments: argparse.Namespace) -> None:
    """Print one row."""
    taken: list[tuple[int, float, float]] = []
    for turn in range(arguments.rounds + 1):
        requests = [make(f"{turn}/{name}/{i}", i) for i in range(arguments.requests)]
        row = sample(engine, requests)
        if turn:  # the first prepares kernels
            taken.append(row)
    num, wall, cpu = (statistics.median(values) for values in zip(*taken, strict=True))
    print(f"| {name} | {num / wall:.0f} | {wall:.1f} | {1e3 * cpu / num:.3f} |", flush=True)


def sample(engine: TextEngine, requests: Sequence[TextRequest]) -> tuple[int, float, float]:
    """Have all requests answered; return ids written, wall and CPU seconds."""
    engine.drop_caches()
    wall, cpu = time.perf_counter(), time.process_time()
    by_key = {request.request_id: request for request in requests}
    for key, request in by_key.items():
        engine.add(key, request, ())
    written: dict[str, Written] = {}
    while not engine.is_idle:
        written |= engine.step()
    seconds = time.perf_counter() - wall, time.process_time() - cpu
    for key, request in by_key.items():
        assert request.plan is None or walked(request.plan, written[key].ids).finish is not None
    num = sum(len(reply.ids) for reply in written.values())
    return num, *seconds


if __name__ == "__main__":
    main()
