"""Whole chains by a real chain runner, between a writer that walks their plan and a scorer: who is asked for what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import ray

from cluster.pools.chain_runner import ChainRunner, GroupRequest, Pools, TextContext
from cluster.pools.whole_chains import WholeChains
from cluster.runtime.calls import RayStore, Worker, fetch, gather
from cluster.runtime.spawn import spawn
from configs.load import load_config
from configs.schema import BlockConfig, Config
from rl.chain.plan import CODES, TEXT, Walk, make_plan
from rl.types import (
    Finish,
    FinishedChain,
    Ints,
    Pixels,
    Prompt,
    ScoredGroup,
    Scores,
    TextReply,
    TextRequest,
    TokenStream,
)
from tests.reference.command import CALL_S
from tests.reference.policy_configs import policy_config
from tests.rl.chain.test_plan import BEGIN, PICTURES, SPACE, make_grammar

pytestmark = pytest.mark.ray

CHAIN = {
    "t0": BlockConfig(kind="text", policy="one", max_tokens=8),
    "i1": BlockConfig(kind="image", policy="one", size_px=32, height_px=16),
}
PROMPT = (1, BEGIN, 2)


class Writer:
    """Writes ``[opening] 5 [closing]`` and a picture of code 3; a chain whose index is 1 leaves its grammar at once."""

    def __init__(self) -> None:
        self.asked: list[TextRequest] = []
        self.shown: list[Pixels] = []

    async def encode(self, pictures: Sequence[Pixels]) -> list[Ints]:
        self.shown += pictures
        return [np.full((p.shape[0] // 16, p.shape[1] // 16), 7, dtype=np.int32) for p in pictures]

    async def decode(self, codes: Sequence[Ints]) -> list[Any]:
        return [
            len(codes),
            *(np.kron(c, np.ones((16, 16)))[..., None].repeat(3, 2).astype(np.uint8) for c in codes),
        ]

    async def generate(self, requests: Sequence[TextRequest], *pictures: Pixels) -> list[TextReply]:
        self.asked += requests
        return [self._reply(request) for request in requests]

    def _reply(self, request: TextRequest) -> TextReply:
        plan = request.plan
        assert plan is not None
        is_wrong = request.request_id.endswith("/1")
        text, image = plan.blocks
        words = iter([SPACE] if is_wrong else [text.opening, 5, text.closing, image.opening])
        walk, ids, logprobs = Walk(plan), [], []
        while walk.finish is None:
            token = {TEXT: None, CODES: PICTURES.code_ids[3]}.get(walk.allowed, walk.allowed)
            ids.append(next(words) if token is None else token)
            logprobs.append(-0.5 if walk.allowed < 0 else 0.0)
            walk.push(ids[-1])
        return TextReply(
            request_id=request.request_id,
            tokens=np.asarray(ids, dtype=np.int32),
            logprobs=np.asarray(logprobs, dtype=np.float32),
            stopped=True,
            version=4,
        )

    async def seen(self) -> tuple[list[TextRequest], list[Pixels]]:
        return self.asked, self.shown


class Scorer:
    """A chain is worth the value of its last picture, 0 without one."""

    async def score(self, chains: Sequence[FinishedChain[Any]]) -> list[dict[str, Scores]]:
        return [await self._score(chain) for chain in chains]

    async def _score(self, chain: FinishedChain[Any]) -> dict[str, Scores]:
        value = 0.0 if chain.final_picture is None else float((await chain.final_picture).mean())
        yes = np.ones(1, dtype=np.bool_)
        values = np.asarray([value], dtype=np.float32)
        return {"value": Scores(name="value", values=values, valid=yes, missing=~yes, reasons=("",))}


@pytest.fixture(scope="module")
def crew(ray_cluster: None) -> Iterator[dict[str, Worker]]:
    config, grammar = run_config(), make_grammar("ti")
    writer, scorer = (
        spawn(cls, f"{name}-0", num_cpus=0.1, max_concurrency=100, kwargs={})
        for name, cls in {"writer": Writer, "scorer": Scorer}.items()
    )
    context = TextContext(
        grammar=grammar,
        encode=lambda _: PROMPT,
        forbidden_ids=(),
        decode=lambda ids: "".join(f"[{i}]" for i in ids),
        whole=WholeChains(
            policy="one",
            plan=make_plan(grammar, PICTURES),
            pictures=PICTURES,
            placeholder=BEGIN,
            spell=lambda text: [int(text)],
        ),
    )
    pools = Pools(rollouts={"one": [writer]}, scoring=scorer)
    kwargs = {"config": config, "context": context, "pools": pools}
    runner = spawn(ChainRunner, "runner-0", num_cpus=0.1, max_concurrency=100, kwargs=kwargs)
    yield {"writer": writer, "runner": runner}
    for worker in (writer, scorer, runner):
        ray.kill(worker.actor)


def run_config() -> Config:
    config = load_config("tiny")
    return type(config)(
        chain=CHAIN, policies={"one": policy_config("unified")}, deadline_s=CALL_S, seed=config.seed
    )


def run(crew: dict[str, Worker], **keys: Any) -> tuple[ScoredGroup, list[TextRequest], list[Pixels]]:
    photo = np.zeros((4, 8, 3), dtype=np.uint8)
    name = "-".join(["p", *keys])
    prompt: Prompt[Any] = Prompt(prompt_id=name, messages=(), pictures={"photo": photo}, shown=("photo",))
    request = GroupRequest(prompt=prompt, draw=0, num_chains=2, **keys)
    (group,) = gather([crew["runner"].call("run_group", request)], deadline_s=CALL_S)
    ((asked, shown),) = gather([crew["writer"].call("seen")], deadline_s=CALL_S)
    return group, [request for request in asked if request.request_id.startswith(f"{name}#")], shown


def test_a_prompts_pictures_enter_once_a_group_as_codes_at_the_last_pictures_size(crew):
    _, asked, shown = run(crew, grpo_step=0)
    assert shown[-1].shape == (16, 32, 3)
    assert len(shown) == 1, "a group shares them"
    photo = PICTURES.stream(np.full((1, 2), 7))
    assert [request.tokens.tolist() for request in asked] == [[1, *photo, 2]] * 2
    assert len({request.seed for request in asked}) == 2


def test_a_chain_is_one_request_and_its_pictures_are_decoded_for_rewards_and_records(crew):
    group, _, _ = run(crew)
    whole, broken = group.chains
    assert group.scores["value"].values.tolist() == [3.0, 0.0]
    assert whole.finish is Finish.STOP
    assert whole.text == "[40][5][41][42]<|image|>[43]"
    assert whole.block_text == {"t0": "[5]"}
    (picture,) = fetch(dict(whole.pictures), deadline_s=CALL_S).values()
    assert picture.shape == (16, 32, 3)
    assert whole.versions == {"one": (4, 4)}
    assert (broken.finish, dict(broken.pictures)) == (Finish.MALFORMED, {})


def test_the_learner_gets_one_stream_a_chain_with_text_and_codes(crew):
    group, _, _ = run(crew)
    (segment,) = group.chains[0].segments
    assert (segment.policy, segment.blocks, dict(segment.num_actions)) == (
        "one",
        ("t0", "i1"),
        {"t0": 4, "i1": 2},
    )
    (example,) = RayStore(deadline_s=CALL_S).get([segment.handle])
    assert isinstance(example.segment, TokenStream)
    assert example.pictures == ()
    assert segment.length == len(example.segment.tokens)


def test_given_texts_are_not_written(crew):
    group, _, _ = run(crew, texts={"t0": "6"})
    chain = group.chains[0]
    assert chain.block_text == {"t0": "[6]"}
    assert dict(chain.segments[0].num_actions) == {"i1": 2}
    assert group.scores["value"].values.tolist() == [3.0, 3.0]
