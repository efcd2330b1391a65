"""Four kinds of data file, each with a reward function as its own framework's users write them: scores as there."""

import json
import re

import pytest
from datasets import Dataset

from configs.schema import PromptTable, RewardConfig
from rewards.base import evaluate
from rewards.load import load_reward
from rl.data.prompt_table import TableSource
from rl.types import Finish, FinishedChain
from tests.rl.data.test_prompt_table import png

HERE = "tests.rewards.plain.test_data_files"


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    """verl: dispatch on the data source, a key of the row's own extra_info."""
    if data_source != "openai/gsm8k":
        raise NotImplementedError(data_source)
    found = re.findall(r"#### (-?[0-9]+)", solution_str)
    return {"score": float(bool(found) and found[-1] == ground_truth), "split": extra_info["split"]}


def correct(prompts, completions, solution, level, completion_ids, **kwargs):
    """TRL, conversational: messages in and out, a column by name, None where it does not apply."""
    assert all(messages[-1]["role"] == "user" for messages in prompts)
    texts = [messages[0]["content"] for messages in completions]
    rows = zip(texts, solution, level, completion_ids, strict=True)
    return [
        None if hard == "unknown" else float(text == right) - 0.01 * len(ids)
        for text, right, hard, ids in rows
    ]


def plain_correct(prompts, completions, answer, **kwargs):
    """TRL, standard: texts in and out."""
    rows = zip(prompts, completions, answer, strict=True)
    return [float(text == right and asked.endswith("?")) for asked, text, right in rows]


def accuracy_and_format(reward_inputs, format_weight=0.1):
    """EasyR1: a batch of mappings, the overall score beside its parts."""
    scores = []
    for one in reward_inputs:
        is_formed = re.fullmatch(r"<think>.*</think>.*", one["response"], re.DOTALL) is not None
        is_right = one["response"].rpartition(">")[2].strip() == one["ground_truth"]
        overall = (1 - format_weight) * is_right + format_weight * is_formed
        scores.append({"overall": overall, "format": float(is_formed), "accuracy": float(is_right)})
    return scores


def mentions(prompts, completions, include, **kwargs):
    """Text-to-image metadata: how many of the things that were asked for are there."""
    return [
        sum(thing["class"] in text for thing in things) / len(things)
        for text, things in zip(completions, include, strict=True)
    ]


def chains(path, answers, **settings):
    """Answer the file's rows, in their order."""
    source = TableSource(PromptTable(prompts=str(path), holdout_frac=0.0, **settings), seed=0)
    prompts = {prompt.prompt_id.split("/")[1]: prompt for prompt in map(source.train, range(len(answers)))}
    return [
        FinishedChain(
            chain_id=f"{row}#0/0", group_id=f"{row}#0", prompt=prompts[str(row)], finish=Finish.STOP, text=text,
            block_text={}, pictures={}, final_block="", completion_ids=tuple(range(len(text.split()))),
        )
        for row, text in enumerate(answers)
    ]  # fmt: skip


def scores(function, views, **options):
    reward = load_reward("mine", RewardConfig(target=f"{HERE}:{function}", options=options))
    reward.check_prompt({*views[0].prompt.pictures, *views[0].prompt.reference})
    return evaluate(reward, "mine", views)


def test_verl(tmp_path):
    rows = [
        {
            "data_source": source,
            "prompt": [{"role": "user", "content": "6 times 7?"}],
            "reward_model": {"style": "rule", "ground_truth": "42"},
            "extra_info": {"split": "train", "index": index},
        }
        for index, source in enumerate(["openai/gsm8k", "openai/gsm8k", "another"])
    ]
    Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    made = scores("compute_score", chains(tmp_path / "train.parquet", ["so #### 42", "#### 41", "#### 42"]))
    assert made.values[:2].tolist() == [1.0, 0.0]
    assert made.valid.tolist() == [True, True, False]
    assert "NotImplementedError: another" in made.reasons[2]


def test_trl_conversational(tmp_path):
    rows = [
        {
            "prompt": [{"role": "user", "content": "6 times 7?"}],
            "solution": "42",
            "level": level,
            "image": picture,
        }
        for level, picture in (("easy", png(1)), ("unknown", png(2)))
    ]
    Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    made = scores("correct", chains(tmp_path / "train.parquet", ["42", "42"]))
    assert made.values.tolist() == pytest.approx([0.99, 0.0])
    assert made.missing.tolist() == [False, True]


def test_trl_standard(tmp_path):
    path = tmp_path / "train.csv"
    Dataset.from_list([{"prompt": "the capital of Italy?", "answer": "Rome"}] * 2).to_csv(path)
    assert scores("plain_correct", chains(path, ["Rome", "Paris"])).values.tolist() == [1.0, 0.0]


def test_easyr1(tmp_path):
    rows = [{"problem": "<image>How long?", "answer": "4", "images": [png()]}] * 2
    Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    views = chains(
        f"{tmp_path}/train.parquet@train", ["<think>a</think> 4", "4"], template="{{ content }} Think."
    )
    assert scores("accuracy_and_format", views).values.tolist() == pytest.approx([1.0, 0.9])
    assert scores("accuracy_and_format", views, format_weight=0.5).values.tolist() == pytest.approx(
        [1.0, 0.5]
    )


def test_text_to_image_metadata(tmp_path):
    rows = [
        {
            "prompt": "a cat and a dog",
            "tag": "two",
            "include": [{"class": "cat"}, {"class": "dog", "count": 1}],
        }
    ] * 2
    path = tmp_path / "metadata.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert scores("mentions", chains(path, ["a dog", "cat, dog"])).values.tolist() == [0.5, 1.0]
