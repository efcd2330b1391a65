"""The chain runner as a real Ray actor between workers that follow a script: who is asked for what, and when."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import ray
from PIL import Image

from cluster.pools.chain_runner import ChainRunner, GroupRequest, Pools, TextContext
from cluster.pools.collector import GroupCollector, sampling_ahead
from cluster.pools.group_calls import GroupCalls
from cluster.pools.scoring import Scoring
from cluster.record.recorder import ChainRecorder
from cluster.record.run_data import load_run
from cluster.record.rundir import RunDir
from cluster.report.chains import chain_cards, held_out_strips
from cluster.run.evaluation import Evaluator
from cluster.runtime.calls import RayStore, Worker, gather
from cluster.runtime.spawn import spawn
from configs.load import load_config
from configs.methods import SlidingWindow
from configs.schema import BlockConfig, Config, PromptTable, RewardConfig
from rl.advantage.combine import RewardTerm
from rl.ahead import DataPosition
from rl.chain.grammar import ChainGrammar
from rl.data.pictures import decoded
from rl.data.source import prompt_source
from rl.restoration.names import restoration_prompt
from rl.types import (
    DenoisingSegment,
    Finish,
    FinishedChain,
    ImageReply,
    ImageRequest,
    Message,
    Pixels,
    Prompt,
    SamplerSpec,
    ScoredGroup,
    Scores,
    StepPlan,
    TextPart,
    TextReply,
    TextRequest,
    TokenStream,
)
from tests.reference.chain import PLACEHOLDER, VISION_END, VISION_START, WORDS, decode, vocabulary
from tests.reference.command import CALL_S
from tests.reference.policy_configs import policy_config

pytestmark = pytest.mark.ray

CONFIG = load_config("tiny")
NAMES = list(CONFIG.chain)
TAGS = vocabulary(NAMES)
LONE_TOKENS = 9
"""Bound of a text block that is a whole chain, by which the writer knows it."""
PROMPT = (VISION_START, PLACEHOLDER, VISION_END, WORDS[0])


class Writer:
    """Writes what the grammar wants; a chain whose index is 1 writes a wrong tag in its second block."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    async def generate(self, requests: Sequence[TextRequest], *pictures: Pixels) -> list[TextReply]:
        self.calls.append(len(requests))
        await asyncio.sleep(0.05)
        return [self._reply(request, pictures) for request in requests]

    def _reply(self, request: TextRequest, pictures: Sequence[Pixels]) -> TextReply:
        *_, index, block = request.request_id.split("/")
        assert request.tokens.tolist().count(PLACEHOLDER) == len(request.pictures)
        assert all(pictures[i].ndim == 3 for i in request.pictures)
        following = NAMES[NAMES.index(block) + 1]
        tokens = [TAGS.opening[block], WORDS[1], TAGS.closing[block]]
        if request.max_tokens != LONE_TOKENS and CONFIG.chain[following].kind == "image":
            tokens.append(TAGS.opening[following])
        if index == "1" and block == "rough_understand":
            tokens = [TAGS.closing[NAMES[-1]]]
        return TextReply(
            request_id=request.request_id,
            tokens=np.asarray(tokens, dtype=np.int32),
            logprobs=np.full(len(tokens), -0.5, dtype=np.float32),
            stopped=True,
            version=7,
        )

    async def seen(self) -> list[int]:
        return self.calls


class Painter:
    """Paints a plain square whose brightness says how many pictures it was given."""

    def __init__(self) -> None:
        self.requests: list[ImageRequest] = []

    async def asked(self) -> list[ImageRequest]:
        return self.requests

    async def generate(self, requests: Sequence[ImageRequest], *pictures: Pixels) -> tuple[Any, ...]:
        self.requests += requests
        made: list[Any] = []
        for request in requests:
            seen = {name: pictures[index] for name, index in request.pictures.items()}
            assert "degraded" not in seen or seen["degraded"].shape[0] == 16
            level = 1 + int(seen["previous"][0, 0, 0]) if "previous" in seen else 1
            picture = np.full((request.size_px, request.size_px, 3), level, dtype=np.uint8)
            made += [picture, self._segment(request), np.zeros(1, dtype=np.uint8)]
        replies = [
            ImageReply(request_id=r.request_id, steps=(0,), shape_key=(r.size_px, r.num_steps), version=3)
            for r in requests
        ]
        return replies, *made

    def _segment(self, request: ImageRequest) -> DenoisingSegment:
        num = request.num_steps
        return DenoisingSegment(
            block=request.block,
            latents=np.zeros((num + 1, 3, 2, 2), dtype=np.float32),
            timesteps=np.linspace(1000, 0, num, endpoint=False, dtype=np.float32),
            levels=np.linspace(1, 0, num + 1, dtype=np.float32),
            behaviour_logprobs=np.zeros(num, dtype=np.float32),
            action_mask=np.arange(num) < num - 1,
            pictures=tuple(request.pictures),
            size_px=request.size_px,
            height_px=request.height_px,
            seed=request.seed,
            sampler=SamplerSpec(),
        )


class Scorer:
    """Stands in for the scoring actor: a chain is worth the brightness of its last picture, 0 without one."""

    def __init__(self) -> None:
        self.when: dict[str, float] = {}

    async def score(self, chains: Sequence[FinishedChain[Any]]) -> list[dict[str, Scores]]:
        return [await self._score(chain) for chain in chains]

    async def _score(self, chain: FinishedChain[Any]) -> dict[str, Scores]:
        self.when[chain.chain_id] = time.monotonic()
        value = 0.0 if chain.final_picture is None else float((await chain.final_picture).mean())
        scores = Scores(
            name="bright",
            values=np.asarray([value], dtype=np.float32),
            valid=np.ones(1, dtype=np.bool_),
            missing=np.zeros(1, dtype=np.bool_),
            reasons=("",),
        )
        return {"bright": scores}

    async def times(self) -> dict[str, float]:
        return self.when


class Failing(Scorer):
    """A worker that cannot."""

    async def score(self, chains: Sequence[FinishedChain[Any]]) -> list[dict[str, Scores]]:
        raise ValueError("no such thing")


@pytest.fixture(scope="module")
def crew(ray_cluster: None) -> Iterator[dict[str, Worker]]:
    workers = {
        name: spawn(cls, f"{name}-0", num_cpus=0.1, max_concurrency=100, kwargs={})
        for name, cls in {"writer": Writer, "painter": Painter, "scorer": Scorer, "failing": Failing}.items()
    }
    yield workers
    for worker in workers.values():
        ray.kill(worker.actor)


def spawned_runner(
    crew: Mapping[str, Worker], config: Config, scorer: str = "scorer", ids: tuple[int, ...] = PROMPT
) -> Worker:
    context = TextContext(
        grammar=ChainGrammar(config.chain, TAGS),
        encode=lambda _: ids,
        forbidden_ids=(),
        decode=lambda ids: decode(list(ids), NAMES),
    )
    pools = Pools(rollouts={"text": [crew["writer"]], "image": [crew["painter"]]}, scoring=crew[scorer])
    kwargs = {"config": config, "context": context, "pools": pools}
    return spawn(ChainRunner, "runner-0", num_cpus=0.1, max_concurrency=100, kwargs=kwargs)


def photo(name: str) -> Prompt:
    return restoration_prompt(name, np.zeros((16, 16, 3), dtype=np.uint8))


def run(crew: dict[str, Worker], config: Config, scorer: str = "scorer", group: str = "photo") -> ScoredGroup:
    runner, prompt = spawned_runner(crew, config, scorer), photo(group)
    try:
        (scored,) = gather(
            [runner.call("run_group", GroupRequest(prompt=prompt, draw=0, num_chains=3))],
            deadline_s=CALL_S,
        )
    finally:
        ray.kill(runner.actor)
    assert isinstance(scored, ScoredGroup)
    return scored


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_group_is_written_painted_and_scored(crew: dict[str, Worker], deterministic: bool) -> None:
    group = run(crew, replace(CONFIG, deterministic=deterministic), group=f"photo-{deterministic}")
    assert [chain.finish for chain in group.chains] == [Finish.STOP, Finish.MALFORMED, Finish.STOP]
    assert [chain.index for chain in group.chains] == [0, 1, 2]
    whole, broken, _ = group.chains
    assert list(whole.pictures) == ["rough_image", "middle_image", "final_image"]
    assert not broken.pictures
    np.testing.assert_array_equal(group.scores["bright"].values, [3, 0, 3])
    assert whole.versions == {"text": (7, 7), "image": (3, 3)}
    assert whole.text.count("<|image|>") == 3
    assert whole.text.endswith("</final_image>")


def test_what_the_learner_gets_fits_together(crew: dict[str, Worker]) -> None:
    whole, broken, _ = run(crew, CONFIG, group="photo-segments").chains
    text, *painted = whole.segments
    assert text.policy == "text"
    assert [segment.blocks for segment in painted] == [("rough_image",), ("middle_image",), ("final_image",)]
    example, picture_example = RayStore(deadline_s=30).get([text.handle, painted[1].handle])
    stream = example.segment
    assert isinstance(stream, TokenStream)
    assert stream.pictures == ("degraded", "rough_image", "middle_image")
    assert [p.shape[0] for p in example.pictures] == [16, 16, 32]
    assert sum(text.num_actions.values()) == stream.action_mask.sum() == 4 * 3 + 3
    assert (stream.behaviour_logprobs[stream.action_mask] == np.float32(-0.5)).all()
    assert [p.shape[0] for p in picture_example.pictures] == [16, 16]
    assert [segment.policy for segment in broken.segments] == ["text"]


def test_what_the_text_encoders_said_is_kept_once_a_group_of_chains_without_text(
    crew: dict[str, Worker],
) -> None:
    config = replace(CONFIG, chain={"picture": CONFIG.chain["rough_image"]}, deterministic=False)
    groups = [run(crew, config, group=f"photo-told-{index}") for index in range(2)]
    kept = [{segment.handle.told for chain in group.chains for segment in chain.segments} for group in groups]
    assert [len(group.chains) for group in groups] == [3, 3]
    assert [len(refs) for refs in kept] == [1, 1]
    assert not kept[0] & kept[1]


def test_batches_are_fixed_only_where_numbers_must_repeat(crew: dict[str, Worker]) -> None:
    def asked(deterministic: bool) -> list[int]:
        (before,) = gather([crew["writer"].call("seen")], deadline_s=30)
        run(crew, replace(CONFIG, deterministic=deterministic), group=f"photo-batches-{deterministic}")
        (after,) = gather([crew["writer"].call("seen")], deadline_s=30)
        return list(after[len(before) :])

    assert asked(True) == [3, 3, 2, 2]
    assert set(asked(False)) == {1}


def test_a_groups_pictures_share_what_they_should_and_windows_move_with_the_data(
    crew: dict[str, Worker],
) -> None:
    long = {n: replace(b, num_steps=4) if b.kind == "image" else b for n, b in CONFIG.chain.items()}
    image = policy_config(
        "denoising",
        shared_noise=True,
        trained_steps=SlidingWindow(size=1, every=1, stride=1),
    )
    config = replace(
        CONFIG,
        chain=long,
        prompts_per_step=2,
        group_size=3,
        policies=CONFIG.policies | {"image": image},
        rewards={"bright": RewardConfig(target="none:Thing")},
    )
    runner = spawned_runner(crew, config)
    calls = GroupCalls([runner], deadline_s=config.deadline_s)
    collector = GroupCollector(
        config=config,
        terms={"bright": RewardTerm(weight=1.0, blocks=tuple(long))},
        versions=lambda: dict.fromkeys(config.policies, 0),
        make_prompt=lambda position: photo(f"window-{position}"),
        calls=calls,
        observe=lambda *_: None,
        ahead=sampling_ahead(config, step=0, start=DataPosition(position=2)),
    )
    try:
        collector.next()
        collector.next()
    finally:
        calls.close()
        ray.kill(runner.actor)
    (requests,) = gather([crew["painter"].call("asked")], deadline_s=30)
    by_block: dict[tuple[str, str], list[ImageRequest]] = {}
    for request in requests:
        name, _, rest = request.request_id.partition("#")
        if name.startswith("window-"):
            by_block.setdefault((name, rest.rpartition("/")[2]), []).append(request)
    assert len(by_block) == 4 * 3
    for (name, _), group in by_block.items():
        start = int(name.removeprefix("window-")) // 2
        assert {request.steps for request in group} == {StepPlan(random=(start,), trained=(start,))}
        assert len({request.source_seed for request in group}) == 1
        assert len({request.seed for request in group}) == len(group) == 2
    assert len({group[0].source_seed for group in by_block.values()}) == len(by_block)


def test_a_chain_is_scored_while_others_are_written(crew: dict[str, Worker]) -> None:
    run(crew, replace(CONFIG, deterministic=False), group="photo-times")
    (when,) = gather([crew["scorer"].call("times")], deadline_s=30)
    ended = {name.rpartition("/")[2]: at for name, at in when.items() if name.startswith("photo-times")}
    assert ended["1"] < min(ended["0"], ended["2"])


@contextmanager
def scoring_actor(config: Config) -> Iterator[Worker]:
    kwargs = {"config": config, "envs": {}}
    scoring = spawn(Scoring, "scoring-0", num_cpus=0.1, max_concurrency=100, kwargs=kwargs)
    try:
        gather([scoring.call("setup")], deadline_s=CALL_S)
        yield scoring
    finally:
        ray.kill(scoring.actor)


def scored_by_real_rewards(
    crew: Mapping[str, Worker],
    prompt: Prompt,
    chain: dict[str, BlockConfig],
    rewards: dict[str, RewardConfig],
) -> ScoredGroup:
    """Sample two chains for a prompt without pictures and have the scoring actor's own rewards judge them."""
    config = replace(CONFIG, chain=chain, rewards=rewards)
    with scoring_actor(config) as scoring:
        runner = spawned_runner({**crew, "real": scoring}, config, "real", ids=(WORDS[0],))
        try:
            job = GroupRequest(prompt=prompt, draw=0, num_chains=2)
            (scored,) = gather([runner.call("run_group", job)], deadline_s=CALL_S)
        finally:
            ray.kill(runner.actor)
    assert isinstance(scored, ScoredGroup)
    for name, scores in scored.scores.items():
        assert scores.valid.all(), (name, scores.reasons)
        assert not scores.missing.any(), (name, scores.reasons)
    return scored


def reward(target: str, **options: Any) -> RewardConfig:
    return RewardConfig(target=target, options=options)


HERE = "tests.reference.rewards"
QUESTION = Message(role="user", parts=(TextPart("how much is 2 + 2?"),))


def test_a_chain_of_one_text_block_needs_no_picture(crew: dict[str, Worker]) -> None:
    first = NAMES[0]
    chain = {first: replace(CONFIG.chain[first], max_tokens=LONE_TOKENS)}
    answer = f"<{first}>w61 </{first}>"
    prompt: Prompt = Prompt(prompt_id="sum/1", messages=(QUESTION,), reference={"ground_truth": answer})
    rewards = {
        "format": reward("rewards.format:FormatReward", blocks=[first]),
        "right": reward(f"{HERE}:verl_equal", low=0, high=1),
    }
    scored = scored_by_real_rewards(crew, prompt, chain, rewards)
    assert [written.text for written in scored.chains] == [answer] * 2
    assert [written.finish for written in scored.chains] == [Finish.STOP] * 2
    assert {name: scores.values.tolist() for name, scores in scored.scores.items()} == {
        "format": [1.0, 1.0],
        "right": [1.0, 1.0],
    }
    (segment,) = scored.chains[0].segments
    (example,) = RayStore(deadline_s=30).get([segment.handle])
    assert isinstance(example.segment, TokenStream)
    assert example.pictures == example.segment.pictures == ()
    assert example.segment.tokens[0] == WORDS[0]


def table_config(folder: Path) -> Config:
    """One text block on a file of questions with a picture each."""
    first = NAMES[0]
    Image.new("RGB", (8, 8), (200, 0, 0)).save(folder / "a.png")
    answer = f"<{first}>w61 </{first}>"
    rows = [{"prompt": f"<image>how much is 2 + {i}?", "answer": answer, "image": "a.png"} for i in range(6)]
    (folder / "asked.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return replace(
        CONFIG,
        chain={first: replace(CONFIG.chain[first], max_tokens=LONE_TOKENS)},
        rewards={"right": reward(f"{HERE}:verl_equal"), "seen": reward(f"{HERE}:trl_sees")},
        data=PromptTable(prompts=str(folder / "asked.jsonl"), holdout_frac=0.3),
        eval=replace(CONFIG.eval, metrics=[], num_prompts=1),
        prompts_per_step=1,
        group_size=2,
        max_refills=0,
    )


def test_prompts_of_a_file_go_by_runner_and_rewards_to_record_evaluation_and_report(
    crew: dict[str, Worker], tmp_path: Path
) -> None:
    config, run_dir = table_config(tmp_path), RunDir(tmp_path / "run")
    run_dir.path.mkdir()
    source = prompt_source(config)
    recorder = ChainRecorder(run_dir.path)
    evaluator = Evaluator(
        config=config,
        prompts=[decoded(prompt) for prompt in source.held_out(1)],
        runners=[],
        picture_metrics=None,
        recorder=recorder,
    )

    def record(step: int, requests: Sequence[GroupRequest], groups: Sequence[ScoredGroup]) -> None:
        scores = {name: float(one.values[0]) for name, one in groups[0].scores.items()}
        recorder.record(step, "train", "train", groups[0].chains[0], {}, requests[0].prompt, scores)

    with scoring_actor(config) as scoring:
        runner = spawned_runner({**crew, "real": scoring}, config, "real")
        calls = GroupCalls([runner], deadline_s=config.deadline_s)
        collector = GroupCollector(
            config=config,
            terms={name: RewardTerm(weight=1.0, blocks=tuple(config.chain)) for name in config.rewards},
            versions=lambda: dict.fromkeys(config.policies, 0),
            make_prompt=source.train,
            calls=calls,
            observe=record,
            ahead=sampling_ahead(config, step=0, start=DataPosition()),
        )
        try:
            _, metrics = collector.next()
            replace(evaluator, runners=[runner]).policies("now", step=0)
            summary = evaluator.write(run_dir)
        finally:
            calls.close()
            ray.kill(runner.actor)
    assert (metrics["reward/right/mean"], metrics["reward/seen/mean"]) == (1.0, 200.0 + 3)
    assert summary["rows"]["now"]["seen"]["mean"] == 203.0
    seen = load_run(run_dir.path)
    (chain,) = seen.training
    asked = source.train(0)
    assert chain.prompt_id == asked.prompt_id
    (card,) = chain_cards(seen)
    assert [column.title for column in card.columns] == ["image", "prompt", "answer", "known"]
    picture, question, answer, known = card.columns
    assert picture.picture is not None
    assert question.notes[0].spans[0].text == asked.reference["prompt"].removeprefix("<image>")
    assert "w61" in "".join(span.text for span in answer.notes[0].spans)
    assert [note.name for note in known.notes] == ["answer", "ground_truth"]
    (strip,) = held_out_strips(seen)
    assert strip.title == source.held_out(1)[0].prompt_id
    assert [column.title for column in strip.columns] == ["image", "prompt", "now", "known"]


def test_a_picture_that_does_not_decode_ends_the_group_with_file_and_row(
    crew: dict[str, Worker], tmp_path: Path
) -> None:
    config = table_config(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no picture")
    runner, prompt = spawned_runner(crew, config), prompt_source(config).train(0)
    try:
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - the group's type depends on how many failed
            gather(
                [runner.call("run_group", GroupRequest(prompt=prompt, draw=0, num_chains=1))],
                deadline_s=CALL_S,
            )
    finally:
        ray.kill(runner.actor)
    assert re.search(
        r"asked\.jsonl line \d: image \(.*a\.png\): not a picture", repr(caught.getrepr(style="short"))
    )


def test_token_ids_may_be_the_prompt(crew: dict[str, Worker]) -> None:
    first = NAMES[0]
    chain = {first: replace(CONFIG.chain[first], max_tokens=LONE_TOKENS)}
    prompt: Prompt = Prompt(prompt_id="ids/1", tokens=(WORDS[3], WORDS[4]))
    scored = scored_by_real_rewards(crew, prompt, chain, {"long": reward(f"{HERE}:LengthReward")})
    (example,) = RayStore(deadline_s=30).get([scored.chains[0].segments[0].handle])
    assert isinstance(example.segment, TokenStream)
    assert example.segment.tokens[:2].tolist() == [WORDS[3], WORDS[4]]


def test_a_chain_of_one_picture_block_needs_no_text_and_no_photograph(crew: dict[str, Worker]) -> None:
    last = NAMES[-1]
    prompt: Prompt = Prompt(prompt_id="draw/1", messages=(QUESTION,))
    scored = scored_by_real_rewards(
        crew, prompt, {last: CONFIG.chain[last]}, {"size": reward(f"{HERE}:PictureReward")}
    )
    assert scored.scores["size"].values.tolist() == [CONFIG.chain[last].size_px] * 2
    (segment,) = scored.chains[0].segments
    (example,) = RayStore(deadline_s=30).get([segment.handle])
    assert example.pictures == example.segment.pictures == ()
    assert list(scored.chains[0].pictures) == [last]


def test_a_chain_of_texts_and_pictures_needs_no_photograph(crew: dict[str, Worker]) -> None:
    prompt: Prompt = Prompt(prompt_id="story", messages=(QUESTION,))
    config = replace(CONFIG, deterministic=True)
    runner = spawned_runner(crew, config, ids=(WORDS[0],))
    try:
        job = GroupRequest(prompt=prompt, draw=0, num_chains=1)
        (scored,) = gather([runner.call("run_group", job)], deadline_s=CALL_S)
    finally:
        ray.kill(runner.actor)
    (whole,) = scored.chains
    assert whole.finish is Finish.STOP
    examples = RayStore(deadline_s=30).get([segment.handle for segment in whole.segments])
    assert [example.segment.pictures for example in examples] == [
        ("rough_image", "middle_image"),
        (),
        ("previous",),
        ("previous",),
    ]


def test_a_failing_worker_is_named(crew: dict[str, Worker]) -> None:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the group's type depends on how many failed
        run(crew, CONFIG, scorer="failing", group="photo-failing")
    assert "no such thing" in repr(caught.getrepr(style="short"))


def test_text_is_sampled_with_the_guidance_of_its_policy() -> None:
    guided = load_config("tiny", ["policies.text.rollout.guidance_scale=1.5"])
    context = TextContext(
        grammar=ChainGrammar(guided.chain, TAGS), encode=lambda _: PROMPT, forbidden_ids=(3,), decode=decode
    )
    pools = Pools(rollouts={}, scoring=cast(Worker, None))
    job = GroupRequest(prompt=photo("a"), draw=0, num_chains=1)
    for config, scale in ((CONFIG, 1.0), (guided, 1.5)):
        sampling = ChainRunner(config=config, context=context, pools=pools)._sampling(job, "text")
        assert sampling.guidance == scale
        assert sampling.forbidden_ids == (3,)
