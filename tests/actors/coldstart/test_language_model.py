"""Cold start of a language model from a checkpoint that has no tags: what is added, what is learned, what is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from actors.coldstart.chains import ChainWriter
from actors.coldstart.supervised_chains import learner_spec
from actors.coldstart.task import ColdstartTask
from actors.policies.token.checkpoint import load_model
from actors.policies.token.policy import TokenPolicy
from actors.policies.token.tags import write_with_tags
from actors.policies.token.tokenizer import encode, load_tokenizer
from actors.policies.token.vocabulary import load_vocabulary
from configs.load import load_config
from configs.methods import Adapter, FullWeights
from configs.schema import BlockConfig, TokenPolicyConfig
from rl.chain.grammar import ChainGrammar
from rl.data.source import Answer
from rl.errors import DataError
from rl.types import Message, Prompt, TextPart, TokenStream
from tests.reference.language_jobs import Animals, exported, teach
from tests.reference.language_models import make
from tests.reference.policy_configs import policy_config
from tests.reference.ranks import run_ranks

BLOCKS = ("one", "many")
TAGS = ("<one>", "</one>", "<many>", "</many>")


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen3")
    make("qwen3", path)
    return path


# ------------------------------------------------------------------ tags


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_new_tags_start_as_the_mean_of_their_pieces_and_nothing_else_moves(
    family: str, tmp_path: Path
) -> None:
    make(family, tmp_path / "old")
    write_with_tags(tmp_path / "old", tmp_path / "new", BLOCKS, "float32")
    old, new = (load_model(tmp_path / name, "float32") for name in ("old", "new"))
    before, after = (load_tokenizer(tmp_path / name) for name in ("old", "new"))
    for matrix in ("get_input_embeddings", "get_output_embeddings"):
        rows, wanted = (getattr(model, matrix)().weight.detach() for model in (new, old))
        kept = len(before)
        assert torch.equal(rows[:kept], wanted[:kept])
        for tag in TAGS:
            assert tag not in before.get_vocab()
            pieces = encode(before, tag)
            assert len(pieces) > 1
            torch.testing.assert_close(rows[after.convert_tokens_to_ids(tag)], wanted[pieces].mean(0))
    others = dict(old.named_parameters())
    embeddings = ("embed_tokens.weight", "lm_head.weight")
    assert all(
        torch.equal(p, others[name]) for name, p in new.named_parameters() if not name.endswith(embeddings)
    )
    # llama's vocabulary has a hundred ids to spare, and is not made smaller or larger for four.
    num_ids = new.config.get_text_config().vocab_size
    assert num_ids == (old.config.vocab_size if family == "llama" else -(-len(after) // 64) * 64)
    assert load_vocabulary(tmp_path / "new", BLOCKS).tags.opening.keys() == set(BLOCKS)


def test_a_single_block_and_tags_that_are_there_change_nothing(qwen3: Path, tmp_path: Path) -> None:
    write_with_tags(qwen3, tmp_path / "single", ("answer",), "float32")
    assert len(load_tokenizer(tmp_path / "single")) == len(load_tokenizer(qwen3))
    write_with_tags(qwen3, tmp_path / "first", BLOCKS, "float32")
    write_with_tags(tmp_path / "first", tmp_path / "second", BLOCKS, "float32")
    first, second = (load_model(tmp_path / name, "float32") for name in ("first", "second"))
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two)


# ------------------------------------------------------------------ chains


def test_right_answers_are_what_the_policy_would_have_to_sample(qwen3: Path) -> None:
    """A single block: the answer, and the end token."""
    vocabulary, tokenizer = load_vocabulary(qwen3, ("answer",)), load_tokenizer(qwen3)
    blocks = {"answer": BlockConfig(kind="text", policy="text", max_tokens=8)}
    writer = ChainWriter(
        grammar=ChainGrammar(blocks, vocabulary.tags),
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        pictures=None,
    )
    prompt = Prompt(prompt_id="p", messages=(Message(role="user", parts=(TextPart("a cat"),)),))
    stream = writer.example(prompt, Answer(texts={"answer": "on a red chair"}, pictures={})).segment
    assert isinstance(stream, TokenStream)
    written = stream.tokens[stream.action_mask].tolist()
    assert written == [*encode(tokenizer, "on a red chair"), tokenizer.eos_token_id]
    assert tuple(stream.tokens[~stream.action_mask]) == vocabulary.encode(prompt.messages)
    with pytest.raises(
        DataError, match=r"p: <answer> takes \d+ tokens; raise chain\.answer\.max_tokens \(now 8\)"
    ):
        writer.example(prompt, Answer(texts={"answer": "red " * 9}, pictures={}))


# ------------------------------------------------------------------ learning


@pytest.mark.parametrize(("source", "kept"), [("coldstart", False), ("qwen3", True)])
def test_a_checkpoint_is_taught_through_its_adapters_and_a_model_made_from_nothing_whole(
    source: str, kept: bool, tmp_path: Path
) -> None:
    """Adapters of rank 4 on random weights learn nothing: a chain would not hold its format."""
    policy = policy_config(kind="token", source=source, lora=Adapter(rank=4))
    assert isinstance(policy, TokenPolicyConfig)
    task = ColdstartTask(
        config=load_config("arithmetic"),
        policy="text",
        directory=tmp_path,
        made=tmp_path,
        work=tmp_path,
        rank=0,
        world_size=1,
        report=lambda step, metrics: None,
        note=lambda _: None,
    )
    taught = learner_spec(task, policy, tmp_path).config
    assert isinstance(taught, TokenPolicyConfig)
    assert isinstance(taught.learner.lora, Adapter if kept else FullWeights)


@pytest.fixture(scope="module")
def whole(
    qwen3: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """One rank, all weights."""
    folder = tmp_path_factory.mktemp("whole")
    (result,) = run_ranks(teach, 1, qwen3, folder)
    return result["losses"], exported(folder)


@pytest.mark.engine
def test_it_learns_the_chain(whole: tuple[list[float], dict[str, torch.Tensor]]) -> None:
    losses, _ = whole
    assert len(losses) == 12
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.engine
@pytest.mark.parametrize(
    ("stage", "max_tokens"),
    [*(pytest.param(stage, 0, marks=pytest.mark.long) for stage in (1, 2, 3)), (3, 48)],
)
def test_two_ranks_of_any_stage_learn_the_same(
    stage: int,
    max_tokens: int,
    qwen3: Path,
    whole: tuple[list[float], dict[str, torch.Tensor]],
    tmp_path: Path,
) -> None:
    """Also where micro-batches are cut by tokens, which ranks have different numbers of."""
    keys = {"zero_stage": stage, "max_tokens": max_tokens}
    settings = [f"policies.text.learner.{key}={value}" for key, value in keys.items()]
    results = run_ranks(teach, 2, qwen3, tmp_path, *settings)
    wanted_losses, wanted = whole
    losses = torch.tensor([result["losses"] for result in results]).mean(0)
    torch.testing.assert_close(losses, torch.tensor(wanted_losses), atol=0.05, rtol=0)
    found = exported(tmp_path)
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], atol=2e-2, rtol=0)


@pytest.mark.engine
def test_adapters_and_rows_of_new_tags_are_trained_and_merged(qwen3: Path, tmp_path: Path) -> None:
    (result,) = run_ranks(teach, 1, qwen3, tmp_path, "policies.text.learner.lora={kind: adapter, rank: 4}")
    assert result["losses"][-1] < result["losses"][0]
    write_with_tags(qwen3, tmp_path / "start", BLOCKS, "float32")
    start = TokenPolicy.load(tmp_path / "start", policy_config(kind="token"), block_names=BLOCKS)
    changed = {
        name
        for (name, old), new in zip(start.published(), exported(tmp_path).values(), strict=True)
        if not torch.equal(old, new)
    }
    (embeddings,) = {name for name in changed if "_proj." not in name}
    assert len(changed) > 1
    old, new = (dict(of)[embeddings] for of in (start.published(), exported(tmp_path).items()))
    rows = torch.nonzero((old != new).any(-1))[:, 0].tolist()
    assert tuple(rows) == start.row_ids
    assert load_vocabulary(tmp_path / "made", BLOCKS).tags.opening.keys() == set(BLOCKS)


@pytest.mark.engine
@pytest.mark.long
def test_two_ranks_of_zero_3_train_the_same_adapters_and_rows(qwen3: Path, tmp_path: Path) -> None:
    adapters = "policies.text.learner.lora={kind: adapter, rank: 4}"
    run_ranks(teach, 1, qwen3, tmp_path / "one", adapters)
    run_ranks(teach, 2, qwen3, tmp_path / "two", adapters, "policies.text.learner.zero_stage=3")
    one, two = (exported(tmp_path / name) for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=2e-2, rtol=0)


@pytest.mark.engine
def test_no_steps_add_the_tags_alone(qwen3: Path, tmp_path: Path) -> None:
    (result,) = run_ranks(teach, 1, qwen3, tmp_path, "coldstart.text_steps=0")
    assert result["losses"] == []
    assert load_vocabulary(tmp_path / "made", BLOCKS).tags.closing.keys() == set(BLOCKS)


def test_a_source_without_answers_costs_one_line() -> None:
    class Mute(Animals):
        answer = Animals.__mro__[1].answer  # PromptSource's own

    source = Mute(seed=0)
    with pytest.raises(DataError, match="this source of prompts knows no answers, so nothing can be taught"):
        source.answer(source.train(0), {}, 0)
