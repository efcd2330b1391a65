"""The text policy's cold start: true chains, their patches, the order of batches and the loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.coldstart.chains import ChainWriter
from actors.coldstart.restoration.text_data import (
    COLLATE_ROWS,
    NOT_AN_ACTION,
    TextDataset,
    batches,
    make_dataset,
)
from actors.coldstart.restoration.text_trainer import SupervisedTextModel
from actors.policies.token.qwen2_5_vl import build_text_policy
from actors.policies.token.vocabulary import TextVocabulary, load_vocabulary
from configs.schema import BlockConfig
from rl.chain.grammar import ChainGrammar, full_match
from rl.chain.state import Done
from rl.data.images import resize
from rl.data.source import Answer
from rl.errors import DataError
from rl.restoration.answers import right_answer
from rl.restoration.labels import all_degradation_texts, degradation_text
from rl.restoration.names import INSTRUCTION, restoration_prompt
from rl.types import Finish, Prompt, TextSampling, TokenStream

CHAIN = {
    "degradation": BlockConfig(kind="text", policy="text", max_tokens=32),
    "say": BlockConfig(kind="text", policy="text", max_tokens=16),
    "rough": BlockConfig(kind="image", policy="image", size_px=16, num_steps=2),
    "add": BlockConfig(kind="text", policy="text", max_tokens=16),
    "fine": BlockConfig(kind="image", policy="image", size_px=64, num_steps=2),
}
LABELS = ("light", "keep", "heavy", "medium", "upsample")
CAPTIONS = ("table: cup", "table: red cup")


def make_prompt(index: int = 0, **changes: object) -> Prompt:
    rng = np.random.default_rng(index)
    photo = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    known = {
        "degraded": resize(photo, 16, 16),
        "truth": photo,
        "labels": LABELS,
        "tags": ("cup",),
        "captions": CAPTIONS,
    } | changes
    return restoration_prompt(f"cup/{index}", **known)


@dataclass(frozen=True)
class School:
    directory: Path
    model: SupervisedTextModel
    vocabulary: TextVocabulary

    def dataset(self, prompts: list[Prompt], chain: dict[str, BlockConfig] = CHAIN) -> TextDataset:
        return make_dataset(
            prompts,
            grammar=ChainGrammar(chain, self.vocabulary.tags),
            vocabulary=self.vocabulary,
            tokenizer=self.model.tokenizer,
            policy=self.model.policy,
            seed=0,
        )

    @property
    def writer(self) -> ChainWriter:
        return ChainWriter(
            grammar=ChainGrammar(CHAIN, self.vocabulary.tags),
            vocabulary=self.vocabulary,
            tokenizer=self.model.tokenizer,
            pictures=self.model.policy.pictures,
        )


def answer(prompt: Prompt) -> Answer:
    return right_answer(prompt, CHAIN, 0)


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> School:
    directory = tmp_path_factory.mktemp("text-model")
    texts = [*all_degradation_texts(), *CAPTIONS, INSTRUCTION]
    build_text_policy(directory, texts=texts, block_names=tuple(CHAIN), degraded_px=16, seed=0)
    torch.manual_seed(0)
    return School(directory, SupervisedTextModel(directory), load_vocabulary(directory, tuple(CHAIN)))


# ------------------------------------------------------------------ chains


def test_chain_is_whole_and_true(school: School) -> None:
    state = school.writer.state(make_prompt(), answer(make_prompt()))
    assert state.next_step() == Done(finish=Finish.STOP)
    assert full_match(state.text(school.vocabulary.decode), CHAIN)
    assert state.block_text(school.vocabulary.decode) == {
        "degradation": degradation_text(LABELS),
        "say": CAPTIONS[0],
        "add": CAPTIONS[1],
    }
    assert state.pictures == ("degraded", "rough")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ()}, "needs degradation labels for <degradation>"),
        ({"captions": CAPTIONS[:1]}, "needs a caption for <add>"),
        ({"labels": ("light",) * 5}, "needs degradation labels"),
    ],
)
def test_what_is_not_known_is_named(school: School, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        school.dataset([make_prompt(3, **changes)])


def test_a_text_must_fit_its_block(school: School) -> None:
    tight = CHAIN | {"say": replace(CHAIN["say"], max_tokens=4)}
    with pytest.raises(DataError, match=r"raise chain\.say\.max_tokens \(now 4\)"):
        school.dataset([make_prompt()], tight)


def test_photos_must_have_one_size(school: School) -> None:
    other = make_prompt(1, degraded=np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="one size"):
        school.dataset([make_prompt(0), other])


def test_context_pictures_lie_between_truth_and_what_was_given(school: School) -> None:
    sharp = np.full((64, 64, 3), 200, np.uint8)
    values = set()
    for index in range(20):
        prompt = make_prompt(index, truth=sharp, degraded=np.full((16, 16, 3), 100, np.uint8))
        example = school.writer.example(prompt, answer(prompt))
        assert example.pictures[0] is prompt.pictures["degraded"]
        assert example.pictures[1].shape == (16, 16, 3)
        values |= set(np.unique(example.pictures[1]).tolist())
    assert min(values) >= 100
    assert max(values) <= 200
    assert len(values) > 10


# ------------------------------------------------------------------ batches


@pytest.fixture(scope="module")
def dataset(school: School) -> TextDataset:
    """More examples than are collated at a time, of different lengths."""
    prompts = [make_prompt(i, captions=("cup " * (1 + i % 5), CAPTIONS[1])) for i in range(COLLATE_ROWS + 6)]
    return school.dataset(prompts)


def test_targets_are_the_sampled_tokens(school: School, dataset: TextDataset) -> None:
    for index in (0, 3, COLLATE_ROWS + 4):
        prompt = make_prompt(index, captions=("cup " * (1 + index % 5), CAPTIONS[1]))
        stream = school.writer.example(prompt, answer(prompt)).segment
        assert isinstance(stream, TokenStream)
        targets = dataset.targets[index]
        assert targets[targets != NOT_AN_ACTION].tolist() == stream.tokens[stream.action_mask].tolist()
        places = torch.nonzero(targets != NOT_AN_ACTION).flatten()
        assert int(dataset.lengths[index]) == int(places.max()) + 1


def test_every_example_comes_once_before_any_comes_again(dataset: TextDataset) -> None:
    num = len(dataset.slots)
    marked = replace(dataset, slots=torch.arange(num)[:, None])
    seen = [
        row
        for batch in islice(batches(marked, batch_size=7, seed=1), num // 7)
        for row in batch["slots"].flatten().tolist()
    ]
    assert sorted(seen) == list(range(num))


def test_ranks_share_the_batch_of_one_worker(dataset: TextDataset) -> None:
    marked = replace(dataset, slots=torch.arange(len(dataset.slots))[:, None])

    def draw(**workers: int) -> list[set[int]]:
        stream = batches(marked, batch_size=6, seed=5, **workers)
        return [set(batch["slots"].flatten().tolist()) for batch in islice(stream, 20)]

    halves = zip(draw(rank=0, world=2), draw(rank=1, world=2), strict=True)
    assert [one | two for one, two in halves] == draw()
    assert draw() == draw()


def test_first_batches_hold_no_chains(dataset: TextDataset) -> None:
    first, second = islice(batches(dataset, batch_size=4, seed=0, head_batches=1), 2)
    assert "input_ids" not in first
    assert first["patches"].shape[1] == int(dataset.grids[0].prod())
    assert second["patches"].shape[1] == int(dataset.grids.prod(1).sum())
    assert second["input_ids"].shape[1] <= dataset.input_ids.shape[1]


# ------------------------------------------------------------------ model


def test_chain_loss_is_that_of_the_policy(school: School) -> None:
    """The model's shortcuts (patches made once, pictures by place) must not change what is learned."""
    prompts = [make_prompt(i, captions=("cup " * (1 + i), CAPTIONS[1])) for i in range(4)]
    dataset = school.dataset(prompts)
    batch = next(batches(dataset, batch_size=4, seed=0))
    model = school.model
    # Scored without the ids that GRPO forbids, as the shortcut is.
    examples = [
        replace(e, segment=replace(e.segment, sampling=TextSampling()))
        for e in (school.writer.example(p, answer(p)) for p in prompts)
    ]
    collated = model.policy.collate(examples)
    with torch.no_grad():
        loss, head_loss = model(batch), model({k: v for k, v in batch.items() if k != "targets"})
        wanted = -model.policy(collated.inputs).logprobs[collated.action_mask].mean()
    torch.testing.assert_close(loss - head_loss, wanted, atol=2e-3, rtol=0)


def test_the_head_alone_leaves_the_words_alone(school: School, dataset: TextDataset) -> None:
    batch = next(batches(dataset, batch_size=4, seed=0, head_batches=1))
    school.model.zero_grad(set_to_none=True)
    school.model(batch).backward()
    touched = {n for n, p in school.model.policy.published() if p.grad is not None}
    assert touched
    assert all("visual." in name for name in touched)


def learn(model: SupervisedTextModel, dataset: TextDataset, num: int) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for batch in islice(batches(dataset, batch_size=8, seed=0), num):
        loss = model(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_it_learns_and_exports(school: School, dataset: TextDataset, tmp_path: Path) -> None:
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = SupervisedTextModel(school.directory)
    losses = learn(model, dataset, 12)
    assert losses[-1] < 0.5 * losses[0]
    model.export(tmp_path / "out")
    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "out")
    for name, parameter in model.policy.model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter)
    assert "head.weight" not in dict(loaded.named_parameters())
    again = SupervisedTextModel(tmp_path / "out")
    assert again.tokenizer.get_vocab() == model.tokenizer.get_vocab()


def test_learning_is_reproducible(school: School, dataset: TextDataset) -> None:
    runs = []
    for _ in range(2):
        torch.manual_seed(1)
        runs.append(learn(SupervisedTextModel(school.directory), dataset, 3))
    assert runs[0] == runs[1]
