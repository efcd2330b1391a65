"""``vlcot rewards``: what exists, what it is, whether it keeps its promises, and pictures by hand."""

import csv
import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from cluster.cli import build_parser, main
from cluster.commands.rewards import parse_options
from cluster.runtime.console import CONSOLE
from rewards.base import Failure, Missing, evaluate
from rewards.examples import example_chains
from rewards.experts.catalogue import catalogue
from rewards.http import HttpReward
from rewards.remote.wire import decode_answer, decode_request, describe, encode_picture, encode_request
from rewards.shipped import SHIPPED
from rewards.understanding import UnderstandingReward
from rl.data.images import resize
from rl.errors import ConfigError
from tests.reference.command import INTERRUPTIBLE, ROOT, interrupt
from tests.reference.rewards import picture

HERE = "tests.reference.rewards"


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setattr(CONSOLE, "_width", 300)


@pytest.fixture
def folders(tmp_path):
    """Restored pictures, their truths and the small photos."""
    for name, noise in (("a", 3.0), ("deep/b", 40.0)):
        truth = picture(1, 64, level=2.0)
        final = np.clip(truth + np.random.default_rng(0).normal(0, noise, truth.shape), 0, 255).astype(
            np.uint8
        )
        for folder, pixels in (("out", final), ("truth", truth), ("small", resize(truth, 16, 16))):
            path = tmp_path / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path


def run(capsys, *words: str, expect: int = 0) -> str:
    code = main(["rewards", *words])
    out, err = capsys.readouterr()
    assert code == expect, err
    assert err.count("\n") == (1 if expect else 0)
    return out + err


def test_list_has_every_reward_and_every_expert_with_its_needs(capsys):
    said = run(capsys, "list")
    for name in (*SHIPPED, *SHIPPED.values(), *catalogue()):
        assert name in said
    assert "realsr_r1  stands for topiq_nr, musiq, maniqa-pipal, clipiqa" in said
    (row,) = [line for line in said.splitlines() if line.startswith("│ musiq ")]
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        "musiq", "nothing", "larger", "~0, ~100", "RGB", "needed",
    ]  # fmt: skip


def test_list_is_quick_because_it_loads_no_framework():
    code = (
        "import sys\nfrom cluster.cli import main\nassert main(['rewards', 'list']) == 0\n"
        "sys.stderr.write(' '.join({'torch', 'pyiqa', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_info_of_a_reward_an_expert_and_a_users_own(capsys):
    said = run(capsys, "info", "understanding")
    assert "rewards.understanding:UnderstandingReward" in said
    assert "tags, text" in said
    assert "'rough_understand'" in said
    assert "required" in run(capsys, "info", "generation")
    assert "words" in run(capsys, "info", f"{HERE}:LossReward")
    assert "smaller" in run(capsys, "info", f"{HERE}:LossReward", "--options", "factor=2")
    said = run(capsys, "info", "ssim")
    assert "11 px (measured)" in said
    assert "luma (yiq)" in said
    said = run(capsys, "info", "niqe")
    assert "cannot be used: expert niqe wants to download" in said
    assert "not measured" in said


def test_check_prints_promise_by_promise(capsys):
    assert run(capsys, "check", "format").count(" kept ") == 11
    assert run(capsys, "check", "ssim").count(" kept ") == 11
    assert run(capsys, "check", f"{HERE}:trl_tags", "--options", "factor=2", "high=10").count(" kept ") == 11
    said = run(capsys, "check", f"{HERE}:FailureReward", expect=1)
    assert "promises broken: examples have no score: ['no idea', 'nothing there']" in said
    assert " not checked " in said
    assert " broken " in said


def test_every_command_of_the_documentation_is_one():
    text = (ROOT / "docs" / "rewards.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("vlcot ")]
    assert len(lines) > 8
    for line in lines:
        arguments = build_parser().parse_args(shlex.split(line, comments=True)[1:])
        if arguments.command == "rewards" and "options" in arguments:
            parse_options(arguments.options)


def test_the_schema_of_the_documentation_is_the_one_spoken():
    text = (ROOT / "docs" / "rewards.md").read_text()
    request, answer, description = (
        json.loads(part.partition("```")[0]) for part in text.split("```json\n")[1:]
    )
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    request["images"] = [encode_picture(pixels)] * 2
    (chain,) = decode_request(request)
    assert encode_request([chain])["chains"][0].keys() == request["chains"][0].keys()
    assert decode_answer(answer, 3) == [0.25, Missing("no final_picture"), Failure("out of memory")]
    assert describe(UnderstandingReward(), "u").keys() == description.keys()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["info", "fidelty"], "fidelty: no reward and no visual expert of this name; did you mean fidelity?"),
        (["check", "rewards.format:Nothing"], "target: rewards.format has no 'Nothing'"),
        (["check", "generation"], "options: missing a required argument: 'experts'"),
        (["check", "fidelity", "--options", "metrc=ssim"], "did you mean metric?"),
        (["check", "fidelity", "--options", "metric"], "--options metric: want key=value"),
        (["check", "niqe"], "expert niqe wants to download weights"),
        (["score", "ssim", "--images", "nowhere"], "this reward needs truth; give --truth DIR"),
        (["score", "piqe", "--images", "nowhere"], "nowhere: no such folder; set --images"),
        (["score", "consistency", "--images", "nowhere"], "this reward needs degraded; give --degraded DIR"),
        (
            ["score", "degradation", "--images", "nowhere"],
            "needs labels, which a folder of pictures does not have",
        ),
        (["serve", "format", "--token-env", "NOT_SET_ANYWHERE"], "no variable NOT_SET_ANYWHERE"),
        (["serve", "format", "--host", "192.0.2.1"], "cannot listen there"),
    ],
)
def test_a_mistake_costs_one_line(words, message, capsys):
    assert message in run(capsys, *words, expect=2)


def test_options_are_those_of_a_config():
    assert parse_options(["a.b=1", "a.c=[x, y]", "d=word"]) == {"a": {"b": 1, "c": ["x", "y"]}, "d": "word"}
    for wrong in ("a", "=1", "a..b=1", "a={"):
        with pytest.raises(ConfigError, match="--options"):
            parse_options([wrong])
    with pytest.raises(ConfigError, match="a is a value already"):
        parse_options(["a=1", "a.b=2"])


def test_a_folder_is_scored_by_hand(folders, capsys):
    table = folders / "scores.csv"
    words = ["--images", str(folders / "out"), "--truth", str(folders / "truth"), "--out", str(table)]
    said = run(capsys, "score", "psnr", *words)
    with table.open(newline="") as file:
        rows = {row["picture"]: float(row["score"]) for row in csv.DictReader(file)}
    assert set(rows) == {"a.png", "deep/b.png"}
    assert rows["a.png"] > rows["deep/b.png"]
    assert f"{rows['a.png']:.4f}" in said
    assert f"{sum(rows.values()) / 2:.4f}" in said
    said = run(capsys, "score", "consistency", *words[:2], "--degraded", str(folders / "small"))
    assert "dB, larger is better" in said
    run(capsys, "score", "piqe", *words[:2])


def test_a_picture_without_a_score_is_a_reason_and_exit_code_1(folders, capsys):
    Image.fromarray(picture(0, 48)).save(folders / "truth" / "a.png")
    words = ["--images", str(folders / "out"), "--truth", str(folders / "truth")]
    said = run(capsys, "score", "psnr", *words, expect=1)
    assert (
        "1 of 2 pictures have no score; a.png: ValueError: psnr: picture 0 is (64, 64, 3), its truth (48"
        in said
    )
    assert "mean of 1" in said
    (folders / "truth" / "a.png").unlink()
    assert "--truth: no picture a in it" in run(capsys, "score", "psnr", *words, expect=2)


def test_two_truths_of_one_name_are_refused_by_name(capsys, folders):
    Image.new("RGB", (64, 64)).save(folders / "truth" / "a.jpg")
    words = ["--images", str(folders / "out"), "--truth", str(folders / "truth")]
    said = run(capsys, "score", "psnr", *words, expect=2)
    assert f"{folders / 'truth' / 'a.jpg'} and {folders / 'truth' / 'a.png'} have the same name" in said


def test_the_text_that_restore_writes_is_judged_too(folders, capsys):
    for name in ("a", "deep/b"):
        (folders / "out" / f"{name}.json").write_text(json.dumps({"text": "two words", "block_text": {}}))
    assert "2.0000" in run(capsys, "score", f"{HERE}:LossReward", "--images", str(folders / "out"))
    (folders / "out" / "a.json").write_text("{}")
    assert "a.json: not a record" in run(
        capsys, "score", f"{HERE}:LossReward", "--images", str(folders / "out"), expect=2
    )


def test_serve_hosts_a_reward_until_it_is_interrupted():
    words = [*INTERRUPTIBLE, sys.executable, "-P", "-m", "cluster.cli"]
    words += ["rewards", "serve", "understanding", "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        declared = json.loads(process.stdout.readline().removeprefix("declares: "))
        url = process.stdout.readline().split()[-1]
        try:
            reward = HttpReward(url, declares=declared)
            reward.check()
            chains = example_chains()
            remote, direct = (evaluate(r, "u", chains).values for r in (reward, UnderstandingReward()))
            assert remote.tolist() == direct.tolist()
        finally:
            _, err = interrupt(process)
        assert process.returncode == 130
        assert err == "vlcot: interrupted\n"


def path(completions, **kwargs):
    raise FileNotFoundError("no weights in [/models/aesthetic]")


def test_brackets_of_messages_and_file_names_are_theirs(tmp_path, capsys):
    said = run(capsys, "check", f"{__name__}:path", expect=1)
    assert said.count("no weights in [/models/aesthetic]") >= 2
    names = ("set [old]/b [bold] c.png", "a[/d] e.png")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture(1, 64)).save(tmp_path / name)
    said = run(capsys, "score", "piqe", "--images", str(tmp_path))
    assert all(name.removesuffix(".png") in said for name in names)
