"""Files made for others become prompts unchanged; what is held out is never trained on; bad rows cost one line."""

import base64
import io
import json
import logging

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from configs.schema import PromptTable
from rl.data.once import say_once
from rl.data.pictures import decoded
from rl.data.prompt_table import TableSource
from rl.errors import DataError
from rl.types import PicturePart, TextPart


def png(level=9, size=(4, 6)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (level, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def lines(folder, *rows, name="asked.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def source(path, *, seed=3, **settings):
    return TableSource(PromptTable(prompts=str(path), **{"holdout_frac": 0.0} | settings), seed=seed)


def only(path, **settings):
    return source(path, **settings).train(0)


def said(prompt):
    """Roles and parts; a picture is its name in brackets."""
    return [
        (m.role, [p.text if isinstance(p, TextPart) else f"[{p.name}]" for p in m.parts])
        for m in prompt.messages
    ]


def levels(prompt):
    return {name: int(pixels[0, 0, 0]) for name, pixels in decoded(prompt).pictures.items()}


# ------------------------------------------------------------------------------- formats


def test_verl_parquet(tmp_path):
    rows = [
        {
            "data_source": "geometry",
            "prompt": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "<image>How long?<image>"},
            ],
            "images": [{"bytes": png(1), "path": None}, {"bytes": png(2), "path": "b.png"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "4"},
            "extra_info": {"split": "train", "index": 0},
        },
        {
            "data_source": "geometry",
            "prompt": [{"role": "user", "content": "1 + 1?"}],
            "images": [],
            "ability": "math",
            "reward_model": {"style": "model", "ground_truth": "2"},
            "extra_info": {"index": 1, "hint": "two"},
        },
    ]
    Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    made = source(tmp_path / "train.parquet")
    first, second = sorted((made.train(0), made.train(1)), key=lambda prompt: prompt.prompt_id)
    assert said(first) == [("system", ["be brief"]), ("user", ["[image_0]", "How long?", "[image_1]"])]
    assert (first.shown, levels(first)) == (("image_0", "image_1"), {"image_0": 1, "image_1": 2})
    assert said(second) == [("user", ["1 + 1?"])]
    assert second.reference == {
        "data_source": "geometry",
        "prompt": [{"role": "user", "content": "1 + 1?"}],
        "ability": "math",
        "reward_model": {"style": "model", "ground_truth": "2"},
        "extra_info": {"index": 1, "hint": "two"},  # the absent keys of its struct are gone
        "ground_truth": "2",
    }
    assert first.reference["extra_info"] == {"split": "train", "index": 0}


def test_trl_text_and_messages(tmp_path):
    text = only(lines(tmp_path, {"prompt": "how much?", "solution": 4, "level": None}))
    assert said(text) == [("user", ["how much?"])]
    assert text.reference == {"prompt": "how much?", "solution": 4, "level": None, "ground_truth": 4}
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what is it?"}]
    features = Features(
        {"prompt": List({"role": Value("string"), "content": Value("string")}), "image": ImageFeature()}
    )
    Dataset.from_list(
        [{"prompt": turns, "image": {"bytes": png(7), "path": None}}], features=features
    ).save_to_disk(tmp_path / "seen")
    seen = only(tmp_path / "seen")
    assert said(seen) == [("system", ["be brief"]), ("user", ["[image]", "what is it?"])]
    assert (levels(seen), seen.reference) == ({"image": 7}, {"prompt": turns})


def test_trl_typed_parts(tmp_path):
    (tmp_path / "a.png").write_bytes(png(5))
    parts = [{"type": "text", "text": "this:"}, {"type": "image"}, {"type": "text", "text": "or <image>?"}]
    typed = {"prompt": [{"role": "user", "content": parts}]}
    placed = only(lines(tmp_path, typed | {"images": ["a.png"]}))
    assert said(placed) == [("user", ["this:", "[image_0]", "or <image>?"])]
    parts[1] = {"type": "image", "image": "a.png"}
    inline = only(lines(tmp_path, {"prompt": [{"role": "user", "content": parts}]}, name="inline.jsonl"))
    assert (said(inline), levels(inline)) == (said(placed), {"image_0": 5})
    assert inline.reference["prompt"][0]["content"][1] == {"type": "image"}


def test_easyr1_with_a_split_a_template_and_paths(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(png(3))
    (tmp_path / "think.jinja").write_text("{{ content | trim }} Think first.\n")
    path = lines(tmp_path, {"problem": " <image>How far? ", "answer": "5 m", "images": ["a.png"]})
    prompt = only(
        f"{path}@train", image_dir=str(tmp_path / "pictures"), template=str(tmp_path / "think.jinja")
    )
    assert said(prompt) == [("user", ["[image_0]", "How far? Think first."])]
    assert prompt.reference == {
        "problem": " <image>How far? ", "prompt": " <image>How far? ", "answer": "5 m", "ground_truth": "5 m",
    }  # fmt: skip
    assert levels(prompt) == {"image_0": 3}


def test_plain_lines_and_objects(tmp_path):
    (tmp_path / "prompts.txt").write_text("a red cat\na blue dog\n")
    made = source(tmp_path / "prompts.txt")
    assert {said(made.train(i))[0][1][0] for i in range(2)} == {"a red cat", "a blue dog"}
    assert made.train(0).reference.keys() == {"text", "prompt"}
    (tmp_path / "truth.png").write_bytes(png(8))
    row = {
        "prompt": "a red cat",
        "tag": "color",
        "include": [{"class": "cat", "count": 1}],
        "truth": "truth.png",
    }
    drawn = only(lines(tmp_path, row), pictures=["truth"])
    assert drawn.reference == {key: row[key] for key in ("prompt", "tag", "include")}
    assert (drawn.shown, levels(drawn)) == ((), {"truth": 8})


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (
            {"data_source": "a", "prompt": "b", "ground_truth": "c"},
            "verl (prompt=prompt, ground_truth=ground_truth)",
        ),
        ({"problem": "b", "answer": "c"}, "easyr1 (prompt=problem, ground_truth=answer)"),
        ({"prompt": "b", "solution": "c"}, "trl (prompt=prompt, ground_truth=solution)"),
        ({"question": "b", "answer": "c"}, "plain (prompt=question, ground_truth=answer)"),
    ],
)
def test_the_format_is_told_by_column_names_and_said_once(tmp_path, caplog, row, told):
    say_once.cache_clear()
    path = lines(tmp_path, row, {**row, "prompt": "another"} if "prompt" in row else row)
    with caplog.at_level(logging.INFO):
        source(path), source(path)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "rl.data.once"]
    assert line == f"data.prompts: {path} is taken as {told}, 2 rows to train on, 0 held out"


def test_columns_may_be_named(tmp_path):
    path = lines(tmp_path, {"q": "a", "known": {"label": "4"}, "prompt": "not this", "photo": None})
    prompt = only(path, prompt="q", ground_truth="known.label", images="photo")
    assert said(prompt) == [("user", ["a"])]
    assert (prompt.reference["ground_truth"], prompt.reference["prompt"]) == ("4", "a")


def test_cells_of_other_types_are_told_as_json(tmp_path):
    import datetime

    day = datetime.datetime(2024, 5, 1, 12, 0)
    Dataset.from_list([{"prompt": "a", "at": day, "score": float("nan")}]).to_parquet(tmp_path / "a.parquet")
    assert only(tmp_path / "a.parquet").reference == {
        "prompt": "a",
        "at": "2024-05-01T12:00:00",
        "score": None,
    }


# ------------------------------------------------------------------------------- pictures


def test_a_picture_may_be_written_in_many_ways(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    url = "data:image/png;base64," + base64.b64encode(png(3)).decode()
    path = lines(tmp_path, {"prompt": "look", "images": ["a.png", str(tmp_path / "a.png"), url]})
    assert list(levels(only(path)).values()) == [1, 1, 3]
    Dataset.from_list([{"prompt": "look", "image": png(4), "truth": png(5)}]).to_parquet(
        tmp_path / "b.parquet"
    )
    raw = only(tmp_path / "b.parquet")
    assert (raw.shown, levels(raw)) == (("image",), {"image": 4, "truth": 5})


def test_a_picture_is_upright_and_rgb(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (6, 4), 90).save(tmp_path / "turned.jpg", exif=exif)
    (pixels,) = decoded(only(lines(tmp_path, {"prompt": "look", "image": "turned.jpg"}))).pictures.values()
    assert pixels.shape == (6, 4, 3)


# ------------------------------------------------------------------------------- order, held out


def questions(folder, num, name="asked.jsonl", first=0):
    return lines(
        folder, *({"prompt": f"{first + i} + 1 =", "answer": first + i + 1} for i in range(num)), name=name
    )


def asks(prompts):
    return [prompt.reference["prompt"] for prompt in prompts]


def test_an_epoch_is_every_row_once_in_an_order_of_its_own(tmp_path):
    path = questions(tmp_path, 20)
    made, again, other = source(path), source(path), source(path, seed=4)
    epochs = [asks(made.train(20 * epoch + i) for i in range(20)) for epoch in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(asks(other.train(i) for i in range(20)))
    assert epochs[0] != epochs[1] != asks(other.train(i) for i in range(20))
    assert [made.train(i) for i in (0, 19, 31)] == [again.train(i) for i in (0, 19, 31)]
    assert len({made.train(i).prompt_id for i in range(40)}) == 40
    assert made.num_train() == 20


def test_a_share_is_held_out_by_what_is_asked(tmp_path):
    path = questions(tmp_path, 200)
    made = source(path, holdout_frac=0.1)
    out = asks(made.held_out(1000))
    trained = asks(made.train(i) for i in range(made.num_train()))
    assert len(out) + len(trained) == 200
    assert not set(out) & set(trained)
    assert 8 <= len(out) <= 35
    assert asks(made.held_out(5)) == out[:5]
    assert asks(source(path, seed=9, holdout_frac=0.1).held_out(1000)) == out
    assert len({prompt.prompt_id for prompt in made.held_out(1000)}) == len(out)
    more = source(questions(tmp_path, 300, "more.jsonl"), holdout_frac=0.1)
    assert set(out) <= set(asks(more.held_out(1000)))


def test_rows_that_ask_the_same_are_held_out_together_and_evaluated_once(tmp_path):
    twice = [{"prompt": f"{i % 10} + 1 =", "answer": i} for i in range(40)]
    made = source(lines(tmp_path, *twice), holdout_frac=0.3)
    out, trained = asks(made.held_out(99)), asks(made.train(i) for i in range(made.num_train()))
    assert len(set(out)) == len(out) > 0
    assert not set(out) & set(trained)
    assert len(trained) == 4 * (10 - len(out))


def test_something_is_held_out_of_a_few_rows(tmp_path):
    made = source(questions(tmp_path, 3), holdout_frac=0.01)
    assert (len(made.held_out(9)), made.num_train()) == (1, 2)


def test_a_second_file_is_held_out_and_what_it_asks_is_not_trained_on(tmp_path, caplog):
    path, other = questions(tmp_path, 10), questions(tmp_path, 4, "test.jsonl", first=8)
    with caplog.at_level(logging.INFO):
        made = source(path, held_out=str(other))
    assert sorted(asks(made.held_out(9))) == sorted(asks(source(other).train(i) for i in range(4)))
    assert made.num_train() == 8
    assert f"{path}: 2 rows ask what {other} asks, and are not trained on" in caplog.text


def test_a_split_is_held_out(tmp_path):
    from datasets import DatasetDict

    rows = [{"prompt": f"{i}"} for i in range(5)]
    DatasetDict({"train": Dataset.from_list(rows[:3]), "test": Dataset.from_list(rows[3:])}).save_to_disk(
        tmp_path / "both"
    )
    made = source(tmp_path / "both", held_out=f"{tmp_path}/both@test")
    assert (sorted(asks(made.held_out(9))), made.num_train()) == (["3", "4"], 3)
    assert made.held_out(1)[0].prompt_id.startswith("both@test/")


def test_rows_with_pictures_are_held_out_row_by_row(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    rows = [{"prompt": "<image>what is it?", "images": ["a.png"], "answer": str(i)} for i in range(40)]
    made = source(lines(tmp_path, *rows), holdout_frac=0.2)
    out = {prompt.reference["answer"] for prompt in made.held_out(99)}
    trained = {made.train(i).reference["answer"] for i in range(made.num_train())}
    assert (len(out) + len(trained), out & trained) == (40, set())
    beside = source(lines(tmp_path, *rows), held_out=str(lines(tmp_path, *rows[:2], name="test.jsonl")))
    assert beside.num_train() == 40


def test_a_tokenizer_may_be_trained_on_what_is_asked_and_answered(tmp_path):
    assert sorted(source(questions(tmp_path, 2)).training_texts()) == ["0 + 1 =", "1", "1 + 1 =", "2"]


# ------------------------------------------------------------------------------- bad rows


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        ({"prompt": "a"}, {"prompt": "promt"}, r"{path}: no column 'promt' \(data\.prompt\); did you mean prompt\?"),
        ({"a": 1, "b": 2}, {}, r"{path}: no column prompt or text or .*; set data\.prompt to one of a, b"),
        ({"prompt": "a", "b": 1}, {"pictures": ["truth"]}, r"{path}: no column 'truth' .*; there are prompt, b"),
        ({"prompt": "a"}, {"format": "easyr1", "prompt": "problem"}, r"{path}: no column 'problem'"),
        ({"prompt": 4}, {}, r"{path} line 1: the prompt is a int, want text or messages"),
        ({"prompt": None}, {}, r"{path} line 1: no 'prompt'; fill it or remove the row"),
        ({"prompt": ""}, {}, r"{path} line 1: the prompt is empty; fill it or remove the row"),
        ({"prompt": ["a"]}, {}, r"{path} line 1: message 0 of the prompt is no {{role, content}}"),
        ({"prompt": [{"role": "user"}]}, {}, r"{path} line 1: message 0 of the prompt has no content"),
        (
            {"prompt": [{"role": "user", "content": [{"type": "audio"}]}]},
            {},
            r"{path} line 1: want parts of type text or image in the prompt, got .*audio",
        ),
        ({"prompt": "<image>", "images": []}, {}, r"{path} line 1: 1 places for 0 pictures; give every"),
        ({"prompt": "<image>", "images": ["x", "y"]}, {}, r"{path} line 1: image_0: .*x cannot be read \(no such"),
        ({"prompt": "a", "images": [4]}, {}, r"{path} line 1: image_0: holds a int in a picture's place"),
        ({"prompt": "a", "image": "http://a/b.png"}, {}, r"{path} line 1: image: http://a/b\.png is not fetched"),
        ({"prompt": "a", "image": "data:image/png,x"}, {}, r"{path} line 1: image: want data:image/\.\.\.;base64"),
        ({"prompt": "a", "image": "data:image/png;base64,%"}, {}, r"{path} line 1: image: the data URL is no base64"),
        ({"prompt": "a", "videos": ["a.mp4"]}, {}, r"{path} line 1: has videos, which no policy here takes in"),
        ({"prompt": "a", "b": float("inf")}, {}, r"{path} line 1: b: is inf, which no JSON holds"),
        ({"prompt": "a"}, {"template": "{{ contnt }}"}, r"data\.template: 'contnt' .*; did you mean content\?"),
        ({"prompt": "a"}, {"template": "{% if %}"}, r"data\.template: no Jinja template: "),
        ({"prompt": "a"}, {"template": "no/such.jinja"}, r"data\.template: no/such\.jinja cannot be read; give a file"),
        (
            {"prompt": [{"role": "user", "content": "a"}]},
            {"template": "{{ content }}!"},
            r"{path} line 1: the prompt is messages already; take data\.template out",
        ),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_a_prompt_costs_one_line(tmp_path, row, settings, message):
    path = lines(tmp_path, row)
    with pytest.raises(DataError, match=rf"^{message.format(path=path)}[^\n]*$"):
        only(path, **settings)


def test_more_pictures_than_places_is_refused_with_the_row(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    path = lines(tmp_path, {"prompt": "<image>?", "images": ["a.png", "a.png"]})
    with pytest.raises(
        DataError, match=rf"^{path} line 1: 1 places for 2 pictures; give every picture one place"
    ):
        only(path)


@pytest.mark.parametrize("content", [b"", b"no picture", png()[:45]], ids=["empty", "text", "cut"])
def test_a_picture_that_does_not_decode_is_named_with_its_row(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    path = lines(tmp_path, {"prompt": "look", "image": "a.png"})
    with pytest.raises(
        DataError, match=rf"^{path} line 1: image \({tmp_path}/a\.png\): [^\n]*(replace|convert)[^\n]*$"
    ):
        decoded(only(path))


@pytest.mark.parametrize(
    ("num", "settings", "message"),
    [
        (
            1,
            {"holdout_frac": 0.5},
            r".*: none of 1 rows asks something else than those held out; lower data\.holdout",
        ),
        (2, {"held_out": "same"}, r"data\.held_out: every prompt of .* is held out too; name another file"),
    ],
)
def test_what_leaves_nothing_to_train_on_is_refused(tmp_path, num, settings, message):
    path = questions(tmp_path, num)
    settings = {key: str(path) if value == "same" else value for key, value in settings.items()}
    with pytest.raises(DataError, match=f"^{message}"):
        source(path, **settings)


def test_nothing_held_out_is_said_where_something_is_evaluated(tmp_path):
    with pytest.raises(DataError, match=r"^nothing is held out; raise data\.holdout_frac, or name a file"):
        source(questions(tmp_path, 2)).held_out(1)


def test_places_of_pictures_are_parts(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    prompt = only(lines(tmp_path, {"prompt": "a<image>b", "images": ["a.png"]}))
    assert prompt.messages[0].parts == (TextPart("a"), PicturePart("image_0"), TextPart("b"))
    assert prompt.seed == only(tmp_path / "asked.jsonl").seed
    assert not np.any([isinstance(p, np.ndarray) for p in prompt.pictures.values()])  # decoded where needed
