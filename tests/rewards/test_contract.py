"""The contract kit passes the four shipped rewards and says what is wrong with broken ones."""

import dataclasses
import itertools
import threading

import numpy as np
import pytest

from configs.schema import BlockConfig, RewardConfig
from rewards.base import Failure, Missing, Need, Reward
from rewards.consistency import ConsistencyReward
from rewards.contract import PROMISES, check_promises, check_reward
from rewards.degradation import DegradationReward
from rewards.examples import example_chains
from rewards.fidelity import FidelityReward
from rewards.format import FormatReward
from rewards.generation import GenerationReward
from rewards.load import load_reward
from rewards.understanding import UnderstandingReward
from rl.types import Prompt
from tests.reference.rewards import LengthReward, LossReward

SHIPPED = {
    "format": FormatReward(),
    "degradation": DegradationReward(),
    "understanding": UnderstandingReward(),
    "understanding-substring": UnderstandingReward(substring=True),
    "consistency": ConsistencyReward(),
    "fidelity": FidelityReward("ssim"),
    "fidelity-lower": FidelityReward("gmsd"),
    "generation": GenerationReward({"piqe": {}, "ssim": {"weight": 2.0}}),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_reward_keeps_the_contract(name):
    scores = check_reward(SHIPPED[name])
    assert scores.valid.all()
    assert np.ptp(scores.values) > 0  # the examples differ, so the checks mean something


@pytest.mark.parametrize("reward", [LengthReward(), LossReward()])
def test_a_users_reward_keeps_the_contract(reward):
    check_reward(reward)


def test_the_examples_are_whole_chains_and_a_broken_one():
    chains = example_chains()
    *whole, broken = check_reward(FormatReward(), chains).values.tolist()
    assert set(whole) == {1.0}
    assert broken == 0.0
    assert check_reward(SHIPPED["generation"], chains).missing.tolist() == [False] * 5 + [True]
    assert check_reward(DegradationReward(), chains).values == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0.4])


# --------------------------------------------------------------------------------- broken ones


class Unpicklable(LengthReward):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class EmptyRange(LengthReward):
    low = 1.0
    high = 1.0


class StrangeBlocks(LengthReward):
    def judged_blocks(self, chain):
        return ("answer",)


class MissingOutside(LengthReward):
    missing = -1.0


class InfiniteMissing(LossReward):
    high = np.inf


class Random(LengthReward):
    generator = np.random.default_rng(0)

    def score(self, chains):
        return [float(self.generator.uniform()) for _ in chains]


class Rank(LengthReward):
    """Compares the chains it happens to be given."""

    def score(self, chains):
        lengths = [len(c.text) for c in chains]
        return [float(sorted(lengths).index(n)) for n in lengths]


class ByPlace(LengthReward):
    def score(self, chains):
        return [float(i) for i, _ in enumerate(chains)]


class OutOfRange(LengthReward):
    high = 1.0


class OneShort(LengthReward):
    def score(self, chains):
        return super().score(chains)[1:]


class Nan(LengthReward):
    def score(self, chains):
        return [float("nan")] * len(chains)


class Gives(LengthReward):
    def score(self, chains):
        return [Failure("no idea")] * len(chains)


class WritesIntoPictures(LengthReward):
    needs = frozenset({Need.FINAL_PICTURE})

    def score(self, chains):
        for chain in chains:
            chain.final_picture[0] = 0
        return [0.0] * len(chains)


class WritesIntoText(LengthReward):
    def score(self, chains):
        for chain in chains:
            chain.block_text.pop("final_understand", None)
        return [0.0] * len(chains)


class WantsPictures(LengthReward):
    """Needs a picture, and does not say so."""

    def score(self, chains):
        return [float(c.pictures["rough_image"].mean() > 9) for c in chains]


class Counts(LengthReward):
    """Remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = itertools.count()

    def score(self, chains):
        return [float(next(self.calls))] * len(chains)


class TwoArgumentsError(Exception):
    """Pickles, and does not unpickle."""

    def __init__(self, what, where):
        super().__init__(f"{what} at {where}")


class RaisesTwoArguments(LengthReward):
    needs = frozenset({Need.FINAL_PICTURE})

    def score(self, chains):
        if any(c.final_picture is None for c in chains):
            raise TwoArgumentsError("no picture", chains[0].chain_id)
        return super().score(chains)


class ForgetsError(Exception):
    """Unpickles to another message."""

    def __init__(self, what=""):
        super().__init__("gone" if what else "empty")

    def __reduce__(self):
        return ForgetsError, ()


class RaisesForgets(RaisesTwoArguments):
    def score(self, chains):
        if any(c.final_picture is None for c in chains):
            raise ForgetsError("x")
        return LengthReward.score(self, chains)


class SilentlyMissing(LengthReward):
    def score(self, chains):
        return [Missing("")] * len(chains)


class SetupFails(LengthReward):
    def setup(self):
        raise OSError("no license server")


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        (Unpicklable, "must be picklable before setup"),
        (EmptyRange, "range 1.0 to 1.0 is empty"),
        (StrangeBlocks, r"judges blocks that are not in the chain: \['answer'\]"),
        (MissingOutside, "the missing value is outside the range"),
        (InfiniteMissing, "the missing value is inf"),
        (Random, "other scores when asked again"),
        (Counts, "other scores when asked again"),
        (ByPlace, "depend on the order"),
        (Rank, "depend on what else is in the batch"),
        (OutOfRange, "outside the declared range 0 to 1"),
        (OneShort, "5 scores for 6 chains"),
        (Nan, "score is nan"),
        (Gives, "no idea"),
        (WritesIntoPictures, "ValueError: assignment destination is read-only"),
        (WritesIntoText, r"score\(\) changed its input"),
        (WantsPictures, "KeyError: 'rough_image'"),
        (
            RaisesTwoArguments,
            "raises TwoArgumentsError, which does not survive pickling: .*give it one argument",
        ),
        (RaisesForgets, r"raises ForgetsError, .*it arrives as ForgetsError\(empty\)"),
        (SilentlyMissing, "as missing without a reason"),
        (SetupFails, "OSError: no license server"),
    ],
)
def test_a_broken_promise_is_named(broken, promise):
    with pytest.raises(AssertionError, match=promise):
        check_reward(broken())


def test_a_need_that_is_not_declared_is_found_although_the_examples_have_it():
    whole = example_chains()[:2]
    with pytest.raises(AssertionError, match="a chain without inputs is an error"):
        check_reward(WantsPictures(), whole)


def test_the_callers_chains_stay_as_they_were():
    chains = example_chains(3)
    before = [dict(chain.block_text) for chain in chains]
    with pytest.raises(AssertionError):
        check_reward(WritesIntoText(), chains)
    assert [dict(chain.block_text) for chain in chains] == before
    assert chains[0].pictures["final_image"].flags.writeable


def test_two_chains_are_the_least():
    with pytest.raises(AssertionError, match="at least two"):
        check_reward(LengthReward(), example_chains()[:1])


def test_a_chain_of_another_prompt_without_labels_is_no_trouble():
    chains = example_chains()
    bare = dataclasses.replace(
        chains[0], prompt=dataclasses.replace(chains[0].prompt, reference={"labels": []})
    )
    assert isinstance(DegradationReward(), Reward)
    assert check_reward(DegradationReward(), [*chains, bare]).missing[-1]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rewards.format:FormatReward", {"blocks": ["say"]}),
        ("tests.reference.rewards:verl_equal", {"low": 0, "high": 1}),
        ("tests.reference.rewards:trl_length", {}),
    ],
)
def test_chains_of_text_alone_are_ordinary(name, options):
    blocks = {"say": BlockConfig(kind="text", policy="text", max_tokens=9)}
    chains = example_chains(4, blocks=blocks)
    assert not any(chain.named_pictures for chain in chains)
    reward = load_reward("mine", RewardConfig(target=name, options=options))
    scores = check_reward(reward, chains, blocks=blocks)
    assert not scores.missing.any()


class Edge(Reward):
    needs = frozenset({Need.FINAL_PICTURE})
    unit = "pixels"
    high = 100.0

    def score(self, chains):
        return [float(chain.final_picture.shape[0]) for chain in chains]


def test_chains_of_a_picture_alone_are_ordinary():
    blocks = {"draw": BlockConfig(kind="image", policy="image", size_px=32, num_steps=2)}
    chains = example_chains(4, blocks=blocks)
    assert [chain.block_text for chain in chains] == [{}] * 4
    nameless = [dataclasses.replace(chain, prompt=Prompt(prompt_id="draw")) for chain in chains]
    scores = check_reward(Edge(), nameless, blocks=blocks)
    assert scores.values.tolist() == [32.0, 32.0, 32.0, 0.0]
    assert scores.missing.tolist() == [False, False, False, True]


class Sampled(Random):
    deterministic = False


def test_a_reward_that_says_it_samples_is_not_held_to_equal_scores():
    check_reward(Sampled())
    states = {promise.name: promise.state for promise in check_promises(Sampled())}
    assert [name for name, state in states.items() if state == "not checked"] == [
        "gives the same scores when asked again",
        "gives the same scores in another order",
        "gives the same scores in another batch",
    ]


def test_promise_by_promise_goes_on_behind_a_broken_one():
    found = {promise.name: promise for promise in check_promises(ByPlace())}
    assert list(found) == list(PROMISES)
    assert [p.name for p in found.values() if p.state == "broken"] == [
        "gives the same scores in another order",
        "gives the same scores in another batch",
    ]
    assert {p.state for p in check_promises(LengthReward())} == {"kept"}


def test_what_needs_the_scores_is_not_checked_without_them():
    found = {promise.name: promise for promise in check_promises(Nan())}
    assert found["gives every example one finite score in its range, or a reason"].state == "broken"
    last = found["raises only what survives pickling"]
    assert (last.state, last.detail.startswith("it does not keep: gives every example")) == (
        "not checked",
        True,
    )
