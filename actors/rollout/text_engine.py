"""Text engine: one vLLM engine in this process, requests in, sampled ids and their log-probs out.

With ``vllm_*`` beside it the only file of the text policy that knows vLLM. Not thread-safe: one thread makes it and
does everything with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.policies.token.checkpoint import local_directory
from actors.policies.token.tokenizer import load_tokenizer, tag_ids
from actors.rollout.guided_chains import GuidedChain
from actors.rollout.row_queue import UNCONDITIONAL, Room, RowQueue, Rows
from actors.rollout.vllm_requests import (
    Asked,
    Written,
    asked_part,
    asked_whole,
    prompt_of,
    sampling_params,
    written_by,
)
from actors.rollout.worker import RolloutSpec
from actors.shared.lora import scale_of
from actors.weights.buckets import Received
from actors.weights.inbox import LoadTimes
from configs.derive import token_policy
from configs.methods import Adapter
from rl.compat.vllm import device_arguments, max_model_len, prepare, prepared_processes
from rl.errors import WeightSyncError
from rl.types import Manifest, Pixels, TextRequest

BATCHED_TOKENS = 8192
"""Most tokens in one step of the engine; at least the longest context."""
GPU_MEMORY_FRAC = 0.9
"""Share of its part of a GPU that the engine takes, weights and cache together."""
RECEIVER = "actors.rollout.vllm_extension.WeightReceiver"
MASKS = "actors.rollout.vllm_masks:ForbiddenIds"
GUIDANCE = "actors.rollout.vllm_guidance:PairGuidance"
GRAMMAR = "actors.rollout.vllm_grammar:PlanMasks"
BLOCK_NAMES = "block_names"
"""Key of vLLM's ``additional_config`` by which ``GRAMMAR`` is told the chain's blocks."""

ENVIRONMENT = {
    # The newer model runner, the default on GPUs, has another interface for what changes logits.
    "VLLM_USE_V2_MODEL_RUNNER": "0",
}


class TextEngine:
    """A vLLM engine that serves one checkpoint.

    With guidance a request is two rows of the engine, one with the pictures and one with grey ones; of a chain with
    pictures of its own these alone are two rows (``GuidedChain``).

    Args:
        spec: Of the worker; its seed is the engine's, every request has its own.
    """

    def __init__(self, spec: RolloutSpec) -> None:
        directory, rollout = local_directory(spec.directory), token_policy(spec.config).rollout
        config = spec.config
        is_guided = rollout.guidance_scale != 1
        self._is_planned = spec.family.kind == "unified"
        prepare(directory, ENVIRONMENT)
        from vllm import EngineArgs, LLMEngine

        length = max_model_len(directory, rollout.max_context)
        arguments = EngineArgs(
            model=str(directory),
            dtype=config.dtype,
            seed=spec.seed,
            tensor_parallel_size=rollout.tensor_parallel,
            # In a Ray actor vLLM would make Ray actors of its own, which have no place in the run's plan.
            distributed_executor_backend="mp" if rollout.tensor_parallel > 1 else None,
            max_model_len=length,
            max_num_batched_tokens=max(BATCHED_TOKENS, length),
            enable_prefix_caching=True,
            limit_mm_per_prompt={"video": 0, "audio": 0},
            # Log-probs of the distribution that was sampled: after guidance, forbidden ids and temperature.
            logprobs_mode="processed_logprobs",
            worker_extension_cls=RECEIVER,
            # So that it can give its memory back wherever it has to take turns with a learner.
            enable_sleep_mode=config.num_gpus > 0,
            # In this order. Forced ids must be so whatever guidance makes of their logits.
            logits_processors=[
                *([] if self._is_planned else [MASKS]),
                *([GUIDANCE] if is_guided else []),
                *([GRAMMAR] if self._is_planned else []),
            ],
            additional_config={BLOCK_NAMES: list(spec.chain)} if self._is_planned else {},
            # What a step wrote must be known before the next begins: plans go by it, and pairs are proved by it.
            async_scheduling=False if is_guided or self._is_planned else None,
            **device_arguments(
                on_gpu=config.num_gpus > 0,
                gpu_memory_frac=GPU_MEMORY_FRAC * min(1.0, config.num_gpus or 1.0),
            ),
        )
        self._length = length
        self._base = _base_of(spec, directory)
        with prepared_processes(directory):
            self._engine: Any = LLMEngine.from_engine_args(arguments)
        self._queue = RowQueue(self._room()) if is_guided else None
        self._chains: dict[str, GuidedChain] = {}
        """Guided ones under way, by key."""

    def _room(self) -> Room:
        """Read off vLLM's configuration what a step takes."""
        config = self._engine.vllm_config
        return Room(
            step_tokens=int(config.scheduler_config.max_num_batched_tokens),
            rows=int(config.scheduler_config.max_num_seqs),
            # vLLM keeps one block for itself.
            blocks=int(config.cache_config.num_gpu_blocks) - 1,
            block_tokens=int(config.cache_config.block_size),
        )

    @property
    def is_idle(self) -> bool:
        """Whether no request is unfinished."""
        is_waiting = self._queue is not None and self._queue.is_waiting
        return not is_waiting and not self._engine.has_unfinished_requests()

    @property
    def can_begin_again(self) -> bool:
        """Whether caches may be dropped while requests are unfinished: a guided pair would not stay in step."""
        return self._queue is None

    def add(self, key: str, request: TextRequest, pictures: Sequence[Pixels]) -> None:
        """Take a request in; it joins those that decode.

        Args:
            key: Unique among the unfinished.
            request: What to write.
            pictures: Those of its placeholders, in order.

        Raises:
            ValueError: If vLLM refuses it, e.g. because it is too long, or it wants a plan or guidance of an engine
                that was made without, or the other way round.
        """
        self._check(request)
        if self._queue is not None and request.plan is not None:
            chain = GuidedChain(request, request.plan)
            self._submit(asked_part(key, request, request.plan, chain.next_part()))
            self._chains[key] = chain
        else:
            self._submit(asked_whole(key, request, pictures))

    def _check(self, request: TextRequest) -> None:
        if (request.plan is not None) != self._is_planned:
            raise ValueError(
                f"{request.request_id}: a unified policy writes whole chains by a plan, others have none"
            )
        if request.plan is not None and len(request.tokens) + request.plan.max_tokens > self._length:
            raise ValueError(
                f"{request.request_id}: a prompt of {len(request.tokens)} tokens and a chain of up to "
                f"{request.plan.max_tokens} do not fit into {self._length}, the longest context"
            )
        if (self._queue is not None) != (request.sampling.guidance != 1):
            raise ValueError(
                f"{request.request_id}: guidance must be the engine's (policies.*.rollout.guidance_scale)"
            )

    def _submit(self, asked: Asked) -> None:
        """Give a request to vLLM; in a guided engine when there is room for all its rows, checked and expanded now."""
        if self._queue is None:
            ((tokens, pictures),) = asked.contexts
            self._engine.add_request(asked.key, prompt_of(tokens, pictures), sampling_params(asked))
            return
        keys = (asked.key, asked.key + UNCONDITIONAL)
        rows = tuple(
            self._engine.input_processor.process_inputs(
                key,
                prompt_of(tokens, pictures),
                sampling_params(asked, is_conditional=key is asked.key),
                self._engine.get_supported_tasks(),
            )
            for key, (tokens, pictures) in zip(keys, asked.contexts, strict=False)
        )
        self._queue.put(
            Rows(
                key=asked.key,
                name=asked.name,
                requests=rows,
                lengths=tuple(len(row.prompt_token_ids) for row in rows),
                max_tokens=asked.max_tokens,
            )
        )

    def step(self) -> dict[str, Written]:
        """Decode one token of every request; return what those wrote that are finished now, by key.

        Raises:
            RolloutError: If the two rows of a guided request did not keep in step.
        """
        for rows in self._queue.start() if self._queue is not None else ():
            for row_key, row in zip(rows.keys, rows.requests, strict=True):
                self._engine.add_request(row_key, row, row.params)
        finished = {output.request_id: output for output in self._engine.step() if output.finished}
        if self._queue is not None:
            finished = self._queue.finish(finished)
        written = {key: written_by(output) for key, output in finished.items()}
        return {key: whole for key, part in written.items() if (whole := self._joined(key, part)) is not None}

    def _joined(self, key: str, written: Written) -> Written | None:
        """Return all of a request; None where a guided chain goes on with its next part."""
        chain = self._chains.get(key)
        if chain is None:
            return written
        chain.add(written.ids, written.logprobs)
        if not chain.is_done:
            self._submit(asked_part(key, chain.request, chain.plan, chain.next_part()))
            return None
        del self._chains[key]
        return replace(written, ids=chain.ids, logprobs=chain.logprobs)

    def abort_all(self, keys: Sequence[str]) -> None:
        """Forget unfinished requests."""
        for key in keys:
            self._chains.pop(key, None)
        self._engine.abort_request(list(keys) if self._queue is None else self._queue.forget(keys))

    def load_weights(self, manifest: Manifest, buckets: Sequence[Received]) -> LoadTimes:
        """Load a publication; drop the caches next.

        Raises:
            WeightSyncError: If a bucket is damaged; nothing has changed then.
        """
        times: list[LoadTimes] = self._engine.collective_rpc(
            "receive_weights", args=(manifest, list(buckets), self._base)
        )
        return max(times, key=lambda taken: taken["check_s"] + taken["load_s"])

    def sleep(self) -> None:
        """Move the weights to the host and forget the caches; only while idle, on a GPU."""
        self.drop_caches()
        self._engine.sleep(level=1)

    def wake(self) -> None:
        """Come back with the weights as they were and empty caches."""
        self._engine.wake_up()

    def drop_caches(self) -> None:
        """Forget everything that was computed with the present weights.

        What is being written keeps its tokens and their log-probs, and begins again with a prefill of all it has.

        Raises:
            WeightSyncError: If the engine kept its prefix cache.
        """
        if not self._engine.reset_prefix_cache(reset_running_requests=self.can_begin_again):
            raise WeightSyncError("vLLM did not drop its prefix cache: a request still holds some of it")
        self.drop_picture_caches()

    def drop_picture_caches(self) -> None:
        """Forget the pictures' features, here and in the scheduler's books."""
        self._engine.reset_mm_cache()
        self._engine.reset_encoder_cache()

    def close(self) -> None:
        """Stop the engine."""
        self._engine.engine_core.shutdown()


def _base_of(spec: RolloutSpec, directory: Path) -> Any:
    """Describe what published adapters are added to; None where whole weights are published."""
    lora = spec.config.learner.lora
    if not isinstance(lora, Adapter):
        return None
    from actors.rollout.vllm_extension import Base

    row_ids = tag_ids(load_tokenizer(directory), tuple(spec.chain))
    return Base(directory=directory, scale=scale_of(lora), row_ids=row_ids)
