"""Chains to judge, slow rules to judge them by, and rewards good and broken for the loader to find."""

import asyncio
import re
import threading

import numpy as np

from rewards.base import Failure, Missing, Need, Reward
from rl.restoration.names import restoration_prompt
from rl.types import ChainView, Finish, FinishedChain, indexed

BLOCKS = (
    "degradation",
    "rough_understand",
    "rough_image",
    "middle_understand",
    "middle_image",
    "final_understand",
    "final_image",
)
LABELS = ("light blur", "downsample", "medium noise", "light compression", "upsample")
WHOLE = (
    "<degradation>medium blur, downsample, heavy noise, light compression, upsample</degradation>\n"
    "<rough_understand>Two lions rest on a rock below the sky.</rough_understand>"
    "<rough_image><|image|></rough_image>"
    "<middle_understand>a lion and\n a lioness</middle_understand> <middle_image><|image|></middle_image>"
    "<final_understand>fur</final_understand><final_image><|image|></final_image>"
)


def picture(seed: int = 0, size_px: int = 64, level: float = 40.0) -> np.ndarray:
    """A smooth picture with noise on it."""
    rows, columns = np.mgrid[0:size_px, 0:size_px] / size_px
    waves = np.stack([np.sin(7 * rows + seed), np.cos(5 * columns - seed), np.sin(6 * rows * columns)], -1)
    noise = np.random.default_rng(seed).normal(0, level, waves.shape)
    return np.clip(128 + 70 * waves + noise, 0, 255).astype(np.uint8)


def make_view(
    text: str = WHOLE,
    *,
    finish: Finish = Finish.STOP,
    final: np.ndarray | None = None,
    truth: np.ndarray | None = None,
    degraded: np.ndarray | None = None,
    labels: tuple[str, ...] = LABELS,
    tags: tuple[str, ...] = ("lions", "rock", "sky", "clouds"),
    chain_id: str = "p#0/0",
) -> ChainView:
    bodies = {name: re.search(f"<{name}>(.*?)</{name}>", text, flags=re.DOTALL) for name in BLOCKS}
    return FinishedChain(
        chain_id=chain_id,
        group_id=chain_id.rpartition("/")[0],
        finish=finish,
        text=text,
        block_text={name: m[1] for name, m in bodies.items() if m and not name.endswith("image")},
        pictures={} if final is None else {"final_image": final},
        final_block="final_image",
        prompt=restoration_prompt(
            "p", picture(1, 16) if degraded is None else degraded, truth, labels=labels, tags=tags
        ),
    )


def make_request(view: ChainView) -> tuple[FinishedChain[int], list[np.ndarray]]:
    """The chain as a pool sends it."""
    (request,), pictures = indexed([view])
    return request, pictures


# --------------------------------------------------------------------------------- slow rules


def matches_grammar(text: str, blocks: tuple[str, ...]) -> bool:
    """Try every place where the first block could close."""
    opening, closing = f"<{blocks[0]}>", f"</{blocks[0]}>"
    if not text.startswith(opening):
        return False
    for end in range(len(opening), len(text) - len(closing) + 1):
        rest = text[end + len(closing) :]
        if text[end:].startswith(closing):
            if len(blocks) == 1:
                if rest == "":
                    return True
            elif matches_grammar(rest.lstrip(), blocks[1:]):
                return True
    return False


def slot_share(body: str, labels: tuple[str, ...]) -> float:
    words = [slot.split() for slot in body.lower().split(",")]
    right = 0
    for place, label in enumerate(labels):
        if place < len(words) and words[place] == label.lower().split():
            right += 1
    return right / len(labels)


def tag_share(body: str, tags: set[str]) -> float:
    """Look for each tag at each place, with no letter, digit or underscore beside it."""
    text = f" {' '.join(body.lower().split())} "
    found = set()
    for tag in tags:
        for start in range(1, len(text)):
            stop = start + len(tag)
            beside = text[start - 1] + text[stop : stop + 1]
            if text[start:stop] == tag and not any(c.isalnum() or c == "_" for c in beside):
                found.add(tag)
    return len(found) / len(tags)


# --------------------------------------------------------------------------------- rewards of users


class LengthReward(Reward):
    """Words written, to a hundred."""

    unit = "words"
    high = 100.0

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def score(self, chains):
        return [min(100.0, self.factor * len(c.text.split())) for c in chains]


class LossReward(LengthReward):
    """The same, where few words are good."""

    needs = frozenset({Need.TEXT, Need.FINAL_PICTURE})
    larger_is_better = False


class AnswerReward(Reward):
    """Answers whatever it is told to."""

    def __init__(self, answer) -> None:
        self.answer = answer

    def score(self, chains):
        return self.answer(chains)


class PoisonReward(LengthReward):
    """Cannot score chains that say 'poison'; says which thread it ran in and how large the batches were."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def score(self, chains):
        self.gate.wait(10)
        self.batches.append(len(chains))
        if any("poison" in c.text for c in chains):
            raise ValueError("poison\nin the text")
        return super().score(chains)


class PictureReward(PoisonReward):
    """Looks at the final picture, and remembers the sizes of each batch."""

    needs = frozenset({Need.FINAL_PICTURE})

    def score(self, chains):
        self.gate.wait(10)
        self.batches.append([c.final_picture.shape[0] for c in chains])
        return [float(c.final_picture.shape[0]) for c in chains]


class EndingReward(PoisonReward):
    """Ends its thread."""

    def score(self, chains):
        self.gate.wait(10)
        raise KeyboardInterrupt


class BadSetupReward(LengthReward):
    def setup(self) -> None:
        raise KeyError("license")


class FailureReward(Reward):
    def score(self, chains):
        return [Failure("no idea") if i % 2 else Missing("nothing there") for i, _ in enumerate(chains)]


NOT_A_REWARD = 3


class NotAReward:
    pass


def trl_length(completions, **kwargs):
    """As in TRL's documentation: longer is better."""
    return [float(len(completion)) for completion in completions]


def trl_tags(prompts, completions, tags, factor=1.0, **kwargs):
    """Uses a column and a constant; does not apply without tags."""
    rows = zip(completions, tags, strict=True)
    return [factor * sum(t in c for t in ts) if ts else None for c, ts in rows]


def narrow(completions):
    return [float(len(completion)) for completion in completions]


def needy(completions, answer):
    return [float(answer in completion) for completion in completions]


def needy_of_level(completions, answer, level=0):
    """Takes one column of the prompts that must be there and one that may."""
    assert set(answer) == {"42"}
    return [float(one) for one in level]


def verl_equal(data_source, solution_str, ground_truth, extra_info=None):
    """Exact match with the answer of the data file."""
    assert extra_info["ground_truth"] == ground_truth
    return float(solution_str == ground_truth)


async def trl_async(completions, log_extra, **kwargs):
    """Waits, and logs, as functions that ask a server do."""
    await asyncio.sleep(0)
    log_extra("lengths", [len(c) for c in completions])
    return [None if not c else float(len(c)) for c in completions]


def trl_chat(completions, **kwargs):
    """Conversational, as in TRL's documentation."""
    return [float(len(messages[0]["content"])) for messages in completions]


def trl_sees(prompts, images, completion_ids, answer, **kwargs):
    """Uses what was asked, the pictures that were shown, the token ids and a column of the data file."""
    assert all(text.startswith("<image>how much is 2 + ") for text in prompts)
    assert all("w61" in text for text in answer)
    return [float(seen[0][0, 0, 0]) + len(ids) for seen, ids in zip(images, completion_ids, strict=True)]


def easyr1_batch(reward_inputs, right=1.0):
    """As in EasyR1's examples: all chains of a batch, an overall score beside its parts."""
    hits = [float(told["response"] == told["ground_truth"]) for told in reward_inputs]
    return [{"overall": right * hit, "accuracy": hit} for hit in hits]


def easyr1_one(reward_input):
    answers = {"shrug": None, "nothing": {"accuracy": 0.0}}
    hit = float(reward_input["response"] == reward_input["ground_truth"])
    return answers.get(reward_input["response"], {"overall": hit})


def easyr1_length(reward_input):
    return reward_input["response_length"]


def trl_ids(completion_ids, trainer_state, **kwargs):
    """Counts tokens."""
    return [float(len(ids)) for ids in completion_ids]


def verl_tags(data_source, solution_str, ground_truth, extra_info=None):
    """As in verl's documentation: one answer, one number."""
    if "poison" in solution_str:
        raise ValueError("poison")
    return sum(tag in solution_str for tag in ground_truth)


async def verl_async(solution_str, ground_truth, *, scale=1.0, **kwargs):
    """A mapping with the score among other things."""
    await asyncio.sleep(0)
    return {"score": scale * len(solution_str), "labels": ground_truth["labels"], "told": sorted(kwargs)}


def verl_nothing(solution_str, ground_truth, extra_info):
    return {"acc": 1.0} if extra_info["final_picture"] is None else None


def neither(text, picture):
    return 0.0


def variety(completions: list[str], **columns: object) -> list[float]:
    """Share of an answer's characters that differ; of any text, so that a policy that knows nothing has a spread."""
    return [len(set(text)) / max(len(text), 1) for text in completions]
