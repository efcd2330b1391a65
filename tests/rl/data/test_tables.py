"""Files, folders and splits as rows: the same rows whatever holds them, and one line for what cannot be read."""

import gzip
import json

import pytest
from datasets import Dataset, DatasetDict

from rl.data.tables import open_table
from rl.errors import DataError

ROWS = [{"prompt": f"{i} + 1 =", "answer": str(i + 1)} for i in range(3)]


def table(path, split="train"):
    return open_table(str(path), split=split, key="data.prompts")


def rows_of(opened):
    return [opened.row(int(row)) for row in opened.rows]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pattern(path):
    for number, row in enumerate(ROWS):
        lines(path.parent / f"part-{number}.jsonl", [row])
    return path.parent / "part-*.jsonl"


def folder(path):
    path.mkdir()
    Dataset.from_list(ROWS).to_parquet(path / "train-0.parquet")


def packed(path):
    path.write_bytes(gzip.compress(lines(path.parent / "sums.jsonl", ROWS).read_bytes()))


SAVE = {
    "jsonl": lambda path: lines(path, ROWS),
    "json": lambda path: path.write_text(json.dumps(ROWS, indent=1)),
    "jsonl.gz": packed,
    "csv": lambda path: Dataset.from_list(ROWS).to_csv(path),
    "tsv": lambda path: Dataset.from_list(ROWS).to_csv(path, sep="\t"),
    "parquet": lambda path: Dataset.from_list(ROWS).to_parquet(path),
    "saved": lambda path: Dataset.from_list(ROWS).save_to_disk(path),
    "pattern": pattern,
    "folder": folder,
}


def save(place, kind):
    path = place / f"sums.{kind}"
    made = SAVE[kind](path)
    return made if kind == "pattern" else path


@pytest.mark.parametrize("kind", SAVE)
def test_rows_are_the_same_whatever_holds_them(tmp_path, kind):
    opened = table(save(tmp_path, kind))
    kept = [{name: str(value) for name, value in row.items()} for row in rows_of(opened)]
    assert kept == ROWS
    assert opened.columns == ("prompt", "answer")
    assert [str(cell) for cell in opened.column("answer")] == ["1", "2", "3"]


def test_a_split_is_named_by_its_key_or_behind_the_place(tmp_path):
    both = {"train": Dataset.from_list(ROWS[:2]), "test": Dataset.from_list(ROWS[2:])}
    DatasetDict(both).save_to_disk(tmp_path / "sums")
    assert rows_of(table(tmp_path / "sums")) == ROWS[:2]
    assert rows_of(table(tmp_path / "sums", "test")) == rows_of(table(f"{tmp_path}/sums@test")) == ROWS[2:]
    assert [table(tmp_path / "sums", split).label for split in both] == ["sums", "sums@test"]


def test_lines_of_json_stay_what_they_are(tmp_path):
    """Each of these the library's own JSON reader refuses, or changes."""
    written = [
        {"prompt": "a", "answer": 4},
        {"prompt": "b", "answer": "four"},
        {"prompt": "c", "answer": [4, None]},
    ]
    written += [{"prompt": "d", "day": "2024-01-01"}, {"prompt": "e", "day": {"of": "June", "at": None}}]
    opened = table(lines(tmp_path / "mixed.jsonl", written))
    assert rows_of(opened) == written
    assert list(opened.column("answer")) == [4, "four", [4, None], None, None]
    assert opened.columns == ("prompt", "answer", "day")


def test_blank_lines_are_no_rows_and_keep_their_numbers(tmp_path):
    (tmp_path / "asked.txt").write_text("a cat\n\n  \na dog\n")
    opened = table(tmp_path / "asked.txt")
    assert rows_of(opened) == [{"text": "a cat"}, {"text": "a dog"}]
    assert list(opened.column("text")) == ["a cat", "a dog"]
    assert opened.where(int(opened.rows[1])) == f"{tmp_path}/asked.txt line 4"


def test_pictures_stay_as_they_are_stored(tmp_path):
    from datasets import Features, Image, List, Value

    features = Features({"prompt": Value("string"), "images": List(Image())})
    data = Dataset.from_list(
        [{"prompt": "a", "images": [{"bytes": b"no picture", "path": None}]}], features=features
    )
    data.save_to_disk(tmp_path / "shown")
    assert rows_of(table(tmp_path / "shown"))[0]["images"] == [{"bytes": b"no picture", "path": None}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", "", r".*empty\.jsonl: the file is empty \(0 bytes\); fill it"),
        ("blank.txt", "\n \n", r".*blank\.txt: has nothing but blank lines"),
        ("none.json", "[]", r".*none\.json: has no row"),
        ("head.csv", "prompt,answer\n", r".*head\.csv: has no row"),
        ("cut.jsonl", '{"prompt": "a"}\n{"prom', r".*cut\.jsonl line 2: no JSON \(Unterminated string"),
        ("list.jsonl", "3\n", r".*list\.jsonl line 1: holds a int, want an object"),
        ("cut.json", '[{"prompt": ', r".*cut\.json: no JSON \(Expecting value"),
        ("cut.parquet", "PAR1", r".*cut\.parquet: cannot be read: .*; check the file"),
        ("ragged.csv", "a,b\n1,2\n1,2,3\n", r".*ragged\.csv: cannot be read: .*Expected 2 fields in line 3"),
        (
            "sums.xlsx",
            "x",
            r"data\.prompts: .*sums\.xlsx is no file we read; want a name that ends in \.jsonl",
        ),
    ],
)
def test_a_file_that_cannot_be_read_costs_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=rf"^{message}[^\n]*$"):
        rows_of(table(tmp_path / name))


def test_what_is_not_there_is_named_with_the_nearest(tmp_path):
    lines(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(
        DataError, match=r"^data\.prompts: no file, .*trian\.jsonl; did you mean train\.jsonl\?$"
    ):
        table(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match=r"^.*train\.jsonl: no split 'test'; there are train$"):
        table(f"{tmp_path}/train.jsonl@test")
    with pytest.raises(
        DataError, match=r"^somebody/nothing: cannot be read: [^\n]*; check the file, or the name$"
    ):
        table("somebody/nothing")
    DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS)}).save_to_disk(
        tmp_path / "two"
    )
    with pytest.raises(DataError, match=r"two: no split 'tset'; did you mean test\?$"):
        table(tmp_path / "two", "tset")
