"""Pictures that a unified policy writes behind right texts: what the learned expert is fitted on."""

from __future__ import annotations

from collections.abc import Sequence

from actors.coldstart.task import ColdstartTask
from actors.policies.unified.vocabulary import load_unified_vocabulary
from actors.rollout.unified_worker import UnifiedRolloutWorker
from configs.derive import token_policy
from rl.chain.grammar import ChainGrammar
from rl.chain.plan import make_plan
from rl.chain.shown import seen, with_codes
from rl.chain.whole import DecodePictures, WholeChain
from rl.restoration.answers import true_texts
from rl.seeding import derive_seed
from rl.types import Pixels, Prompt, TextSampling

TEMPERATURES = (0.0, 0.5, 0.8, 1.0, 1.2)
"""Of the codes that the expert sees. Between them it learns what sampling looks like, as the noise levels of a
denoising policy teach it."""


async def write_pictures(
    worker: UnifiedRolloutWorker, task: ColdstartTask, prompts: Sequence[Prompt], temperature: float
) -> list[Pixels]:
    """Write every prompt's chain with its true texts and return the last pictures."""
    config = task.config
    policy = token_policy(config.policies[task.policy])
    vocabulary = load_unified_vocabulary(worker.spec.directory, tuple(config.chain), policy.chat_options)
    pictures, placeholder = vocabulary.pictures, vocabulary.tags.placeholder
    grammar = ChainGrammar(config.chain, vocabulary.tags, writer=task.policy)
    plan = make_plan(grammar, pictures)
    shown = [
        seen(prompt.pictures[name], config.chain, pictures.stride_px)
        for prompt in prompts
        for name in prompt.shown
    ]
    codes = iter(worker.codec.encode_batch(shown))
    chains, requests = [], []
    for prompt in prompts:
        texts = {
            name: vocabulary.encode.spell(text) for name, text in true_texts(prompt, config.chain).items()
        }
        of_prompt = [next(codes) for _ in prompt.shown]
        ids = with_codes(vocabulary.encode(prompt.messages), placeholder, of_prompt, pictures)
        chain = WholeChain(plan.given(texts), task.policy, pictures, ids)
        chains.append(chain)
        requests.append(
            chain.request(
                prompt.prompt_id,
                sampling=TextSampling(temperature=temperature, guidance=policy.rollout.guidance_scale),
                seed=derive_seed(config.seed, prompt.prompt_id, f"{temperature:.3f}"),
            )
        )
    last = []
    for chain, reply in zip(chains, await worker.generate(requests), strict=True):
        chain.chain_written(reply.tokens, reply.logprobs, version=reply.version)
        step = chain.next_step()
        assert isinstance(step, DecodePictures)
        last.append([*step.codes.values()][-1])
    return worker.codec.decode_batch(last)
