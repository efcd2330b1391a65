"""The command line: instant help, one line for a mistake, the right exit code."""

import shlex
import subprocess
import sys
from types import ModuleType

import pytest

from cluster.cli import COMMANDS, build_parser, exit_code_of, main
from cluster.commands.command import load
from configs.load import load_config, to_yaml
from rl.errors import ConfigError, DataError, LearnerError, RewardError
from tests.reference.command import ROOT


def one_line(capsys) -> str:
    _, err = capsys.readouterr()
    assert err.startswith("vlcot: error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err


@pytest.mark.parametrize("argv", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_shows_an_example(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 0
    assert "example" in capsys.readouterr().out


def test_help_loads_no_framework_and_is_instant():
    code = (
        "import sys, time\n"
        "from cluster.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'numpy', 'vllm', 'yaml', 'omegaconf'} & set(sys.modules)\n"
        "sys.stderr.write(f'{time.process_time()} {sorted(heavy)}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, heavy = done.stderr.split(" ", 1)
    assert heavy == "[]"
    assert float(seconds) < 0.3


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["trian", "demo"], "did you mean train?"),
        (["frobnicate"], "commands are coldstart, train"),
        ([], "COMMAND"),
        (["restore", "demo"], "--out"),
        (["train"], "CONFIG"),
        (["train", "demo", "--steps", "3"], "--steps"),
    ],
)
def test_wrong_usage(argv, expected, capsys):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert expected in one_line(capsys)


@pytest.mark.parametrize("command", ["coldstart", "train", "eval", "check", "search"])
def test_a_wrong_configuration(command, capsys):
    assert main([command, "demo", "policies.image.lerning_rate=1"]) == 2
    assert "policies.image.learner.learning_rate" in one_line(capsys)
    assert main([command, "demo", "group_size=1"]) == 2
    assert "group_size" in one_line(capsys)


def test_photographs_and_runs_that_are_not_there(capsys, tmp_path):
    assert main(["restore", "demo", "nowhere.png", "--out", str(tmp_path)]) == 2
    assert "nowhere.png: no such photograph" in one_line(capsys)
    assert main(["report", str(tmp_path)]) == 2
    assert "no run here" in one_line(capsys)


def test_a_run_is_where_it_lies_now(tmp_path):
    (tmp_path / "resolved.yaml").write_text(to_yaml(load_config("demo", ["output_dir=elsewhere"])))
    config = load(str(tmp_path), [])
    assert (config.output_dir, config.name, config.resume) == (str(tmp_path.parent), tmp_path.name, True)
    copy = load(str(tmp_path), ["name=copy"])
    assert (copy.output_dir, copy.name, copy.resume) == ("elsewhere", "copy", False)


def fail(error: BaseException):
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("bad"), 2),
        (DataError("bad"), 2),
        (RewardError("bad"), 1),
        (LearnerError("bad\nmore\n"), 1),
    ],
)
def test_known_errors_cost_one_line(error, code, capsys):
    error.add_note("actor: reward-mine-0.score\nTraceback ...")
    assert exit_code_of(fail(error)) == code
    assert one_line(capsys) == "vlcot: error: bad [actor: reward-mine-0.score]\n"


def test_a_group_of_known_errors_costs_one_line(capsys):
    group = ExceptionGroup("2 calls", [ExceptionGroup("1", [LearnerError("first")]), RewardError("second")])
    assert exit_code_of(fail(group)) == 1
    assert one_line(capsys) == "vlcot: error: first\n"


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_code_of(fail(ZeroDivisionError()))
    mixed = ExceptionGroup("2 calls", [LearnerError("first"), ZeroDivisionError()])
    with pytest.raises(ExceptionGroup):
        exit_code_of(fail(mixed))


def test_interrupted(capsys):
    assert exit_code_of(fail(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_example_is_a_command(name):
    words = shlex.split(COMMANDS[name].example)
    assert words[0] == "vlcot"
    arguments = build_parser().parse_args(words[1:])
    assert arguments.command == name
    if getattr(arguments, "config", None) == "demo":
        load_config("demo", getattr(arguments, "overrides", []))


def readme_blocks(language: str) -> list[str]:
    parts = (ROOT / "README.md").read_text().split("```")[1::2]
    return [part.partition("\n")[2] for part in parts if part.partition("\n")[0] == language]


def test_every_command_of_the_readme_is_one():
    lines = [
        line for block in readme_blocks("sh") for line in block.splitlines() if line.startswith("vlcot ")
    ]
    assert len(lines) > 5
    for line in lines:
        arguments = build_parser().parse_args(shlex.split(line, comments=True)[1:])
        if arguments.command not in ("report", "rewards", "status"):
            given = getattr(arguments, "overrides", [])
            load_config(arguments.config.replace("runs/", ""), given)


def test_the_reward_of_the_readme_keeps_the_contract():
    from rewards.contract import check_reward

    (code,) = [block for block in readme_blocks("python") if "class Brightness" in block]
    module = ModuleType("my_rewards")
    sys.modules["my_rewards"] = module  # the kit pickles it
    try:
        exec(compile(code, "my_rewards.py", "exec"), module.__dict__)
        check_reward(module.Brightness())
    finally:
        del sys.modules["my_rewards"]
