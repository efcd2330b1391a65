"""A configuration is read exactly, checked wholly, and every mistake is one line that helps."""

import dataclasses
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rl.errors
from configs.algorithms import ALGORITHMS
from configs.checks.validate import validate
from configs.derive import coldstart_directory, degraded_px, derived, num_gpus
from configs.errors import ConfigError, VlcotError
from configs.load import digest, find_config, load_config, shipped_names, to_yaml
from configs.methods import GSPO, PPO, DualClip, OnPolicy, Own
from configs.schema import BlockConfig, Config, OwnData, Photographs, PromptTable, RewardConfig
from configs.tree import leaves
from tests.reference.command import ROOT
from tests.reference.policy_configs import policy_config

SHIPPED = shipped_names()
ERRORS = sorted(
    (
        thing
        for thing in vars(rl.errors).values()
        if isinstance(thing, type) and issubclass(thing, VlcotError)
    ),
    key=lambda error: error.__name__,
)


def checked(name: str, overrides: list[str]) -> Config:
    config = load_config(name, overrides)
    validate(config)
    return config


def message(name: str, *overrides: str) -> str:
    """The one line that a mistake costs."""
    with pytest.raises(ConfigError) as caught:
        checked(name, list(overrides))
    text = str(caught.value)
    assert "\n" not in text
    return text


def file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return str(path)


# ------------------------------------------------------------------------------- shipped files


def test_the_shipped_files_are_those_the_readme_speaks_of():
    assert SHIPPED == [
        "arithmetic",
        "demo",
        "learning",
        "qwen2_5_vl_1gpu",
        "qwen2_5_vl_64gpu",
        "qwen2_5_vl_8gpu",
        "qwen3_vl_1gpu",
        "sd3_5_medium_1gpu",
        "text_to_image",
        "tiny",
        "unified",
    ]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_file_is_valid_and_named_after_itself(name):
    config = load_config(name)
    validate(config)
    assert config.name == name
    assert derived(config)


@pytest.mark.parametrize("name", SHIPPED)
def test_writing_and_reading_again_changes_nothing(name, tmp_path):
    config = load_config(name)
    assert load_config(file(tmp_path, to_yaml(config))) == config


def test_there_are_few_keys():
    assert 50 < len(list(leaves(Config))) < 140


def test_every_key_has_a_docstring():
    source = (ROOT / "configs" / "schema.py").read_text().splitlines()
    fields = [
        number
        for number, line in enumerate(source)
        if line.startswith("    ") and ": " in line and " = " in line
    ]
    assert len(fields) >= len(list(leaves(Config)))
    assert all(source[number + 1].startswith('    """') for number in fields)


def test_the_chain_keeps_its_order(tmp_path):
    assert list(load_config("demo").chain) == [
        "degradation", "rough_understand", "rough_image", "middle_understand", "middle_image",
        "final_understand", "final_image",
    ]  # fmt: skip
    changed = load_config("demo", ["chain.rough_image.num_steps=6"])
    assert list(changed.chain) == list(load_config("demo").chain)


def test_a_run_directory_stands_for_its_resolved_file(tmp_path):
    config = load_config("demo", ["seed=7"])
    (tmp_path / "resolved.yaml").write_text(to_yaml(config))
    assert load_config(str(tmp_path)) == config


# ------------------------------------------------------------------------------- overrides


def test_overrides_are_typed_and_the_last_wins():
    config = load_config(
        "demo",
        [
            "num_steps=3",
            "num_steps=5",
            "policies.image.learner.learning_rate=1e-4",
            "data.zoom=[1,2]",
            "name=12",
        ],
    )
    assert config.num_steps == 5
    assert config.policies["image"].learner.learning_rate == 1e-4
    assert config.policies["image"].loss.surrogate == PPO(clip_low=1e-4, clip_high=1e-4)
    assert config.data.zoom == [1.0, 2.0]
    assert config.name == "12"


def test_a_reward_can_be_added_on_purpose():
    config = load_config("demo", ["rewards.mine.weight=2", "rewards.mine.target=their_package.module:Mine"])
    validate(config)
    assert config.rewards["mine"] == RewardConfig(target="their_package.module:Mine", weight=2.0)


@settings(deadline=None, max_examples=12)
@given(
    steps=st.integers(1, 10**6),
    rate=st.floats(1e-9, 1.0),
    deterministic=st.booleans(),
    credit=st.sampled_from(["block", "chain"]),
    zoom=st.lists(st.floats(0.1, 9.0), min_size=2, max_size=2).map(sorted),
)
def test_what_was_overridden_survives_writing(tmp_path_factory, steps, rate, deterministic, credit, zoom):
    config = load_config(
        "tiny",
        [
            f"num_steps={steps}",
            f"policies.text.learner.learning_rate={rate!r}",
            f"deterministic={str(deterministic).lower()}",
            f"advantage.credit={credit}",
            f"data.zoom={zoom}",
        ],
    )
    assert (config.num_steps, config.policies["text"].learner.learning_rate) == (steps, rate)
    assert (config.deterministic, config.advantage.credit, config.data.zoom) == (deterministic, credit, zoom)
    path = tmp_path_factory.getbasetemp() / "again.yaml"
    path.write_text(to_yaml(config))
    assert load_config(str(path)) == config


# ------------------------------------------------------------------------------- methods


def test_a_method_is_named_or_spelt_out():
    config = load_config("demo", ["policies.text.loss.surrogate=gspo"])
    assert config.policies["text"].loss.surrogate == GSPO()
    config = load_config("demo", ["policies.text.loss.surrogate={kind: dual_clip, bound: 4}"])
    assert config.policies["text"].loss.surrogate == DualClip(bound=4.0)


def test_a_methods_constants_leave_with_it_and_stay_with_it():
    before = [
        "policies.text.loss.surrogate={kind: dual_clip, bound: 4}",
        "policies.text.loss.surrogate.clip_low=0.1",
    ]
    assert load_config("demo", before).policies["text"].loss.surrogate == DualClip(bound=4.0, clip_low=0.1)
    assert (
        load_config("demo", [*before, "policies.text.loss.surrogate=ppo"]).policies["text"].loss.surrogate
        == PPO()
    )
    same = [*before, "policies.text.loss.surrogate=dual_clip"]
    assert load_config("demo", same).policies["text"].loss.surrogate == DualClip(bound=4.0, clip_low=0.1)


def test_a_files_constant_and_an_override_of_another_come_together():
    config = load_config("demo", ["policies.image.loss.surrogate.clip_low=1e-3"])
    assert config.policies["image"].loss.surrogate == PPO(clip_low=1e-3, clip_high=1e-4)


# ------------------------------------------------------------------------------- algorithms


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_makes_a_valid_configuration_and_survives_writing(name, tmp_path):
    # The demo's pictures have three random steps.
    overrides = ["policies.image.rollout.trained_steps.size=2"] if name == "mix_grpo" else []
    config = checked("demo", [f"algorithm={name}", *overrides])
    assert config.algorithm == name
    assert ALGORITHMS[name].paper
    assert load_config(file(tmp_path, to_yaml(config))) == config


def test_an_algorithm_lies_under_the_file_that_names_it_and_over_one_that_does_not(tmp_path):
    text = find_config("demo").read_text() + "\nalgorithm: flow_grpo_fast\n"
    small = PPO(clip_low=1e-4, clip_high=1e-4)
    assert load_config(file(tmp_path, text)).policies["image"].loss.surrogate == small
    tiny = PPO(clip_low=1e-5, clip_high=1e-5)
    assert load_config("demo", ["algorithm=flow_grpo_fast"]).policies["image"].loss.surrogate == tiny
    single = ["algorithm=flow_grpo_fast", "policies.image.loss.surrogate.clip_low=2e-5"]
    assert load_config("demo", single).policies["image"].loss.surrogate == PPO(clip_low=2e-5, clip_high=1e-5)


def test_algorithms_join_and_the_later_name_wins():
    config = load_config("demo", ["algorithm=dapo+flow_grpo"])
    assert config.policies["text"].loss.surrogate == PPO(clip_low=0.2, clip_high=0.28)
    assert config.policies["image"].loss.kl_estimator == "step_mean"
    assert config.advantage.scale == "batch_std"
    assert load_config("demo", ["algorithm=flow_grpo+dapo"]).advantage.scale == "group_std"


def test_the_whole_run_methods_set_the_rewards_that_are_there():
    config = load_config("demo", ["algorithm=realsr_r1_code"])
    assert {name: reward.weight for name, reward in config.rewards.items()} == {
        "format": 1.0, "degradation": 0.0, "understanding": 1.0, "generation": 1.0, "fidelity": 0.0,
    }  # fmt: skip
    assert (config.advantage.credit, config.advantage.combine) == ("chain", "sum")
    assert config.policies["text"].loss.surrogate == OnPolicy()


def test_an_unknown_algorithm_names_the_nearest():
    assert "algorithm: no 'gsp'; did you mean gspo?" in message("demo", "algorithm=gsp")


SURROGATES = "ppo, dual_clip, gspo, cispo, gmpo, guard, on_policy, own"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("=gsp", f": want one of {SURROGATES}, got 'gsp'; did you mean gspo?"),
        ("={kind: x}", f": want one of {SURROGATES}, got 'x'"),
        ("={clip_lo: 1}", ".clip_lo: no such key; did you mean policies.text.loss.surrogate.clip_low?"),
        (".bound=2", ".bound: no such key of ppo; dual_clip has it: "
         "set policies.text.loss.surrogate.kind=dual_clip"),
        ("=null", f": want one of {SURROGATES}, got nothing"),
        (".clip_low=x", ".clip_low: want a number, got 'x'"),
    ],
)  # fmt: skip
def test_a_wrong_method_costs_one_line(override, expected):
    key = "policies.text.loss.surrogate"
    assert message("demo", key + override) == key + expected


# ------------------------------------------------------------------------------- misspelt, mistyped


@pytest.mark.parametrize(
    ("override", "key", "near"),
    [
        (
            "policies.image.lerning_rate=1",
            "policies.image.lerning_rate",
            "policies.image.learner.learning_rate",
        ),
        ("rewards.generation.wieght=1", "rewards.generation.wieght", "rewards.generation.weight"),
        ("rewards.generaton.weight=1", "rewards.generaton", "rewards.generation"),
        ("chain.rough_imag.num_steps=3", "chain.rough_imag", "chain.rough_image"),
        ("num_step=1", "num_step", "num_steps"),
        ("Group-Size=4", "Group-Size", "group_size"),
        (
            "policies.text.learning_rate=1",
            "policies.text.learning_rate",
            "policies.text.learner.learning_rate",
        ),
        (
            "policies.text.num_rollout_workers=2",
            "policies.text.num_rollout_workers",
            "policies.text.rollout.num_workers",
        ),
        ("policies.image.surrogate=gspo", "policies.image.surrogate", "policies.image.loss.surrogate"),
        ("policies.image.sampler=cps", "policies.image.sampler", "policies.image.rollout.sampler"),
        ("learning_rate=1", "learning_rate", "policies.<name>.learner.learning_rate"),
        ("dta.zoom=[1,2]", "dta", "data"),
        ("coldstart.text_step=3", "coldstart.text_step", "coldstart.text_steps"),
    ],
)
def test_a_misspelt_key_names_the_nearest_right_one(override, key, near):
    text = message("demo", override)
    assert text.startswith(f"{key}: no such ")
    assert f"did you mean {near}?" in text


def test_nothing_behind_the_equals_sign_is_empty_text():
    assert load_config("demo", ["ray_address=auto", "ray_address="]).ray_address == ""


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("num_steps=abc", "num_steps: want a whole number, got 'abc'"),
        ("num_steps=1.5", "num_steps: want a whole number, got 1.5"),
        ("num_steps=", "num_steps: want a whole number, got ''"),
        ("num_steps=null", "num_steps: want a whole number, got nothing"),
        ("resume=maybe", "resume: want true or false, got 'maybe'"),
        ("advantage.credit=blok", "advantage.credit: want one of block, chain, got 'blok'"),
        (
            "policies.text.learner.zero_stage=4",
            "policies.text.learner.zero_stage: want one of 1, 2, 3, got 4",
        ),
        ("rewards.format.weight=heavy", "rewards.format.weight: want a number, got 'heavy'"),
        ("data.zoom=3", "data.zoom: want a list, got 3"),
        ("data.zoom=[1,x]", "data.zoom[1]: want a number, got 'x'"),
        ("data=3", "data: want keys and values below it, got 3"),
        ("chain.rough_image=null", "chain.rough_image: want keys and values below it, got nothing"),
        ("rewards.format.options=3", "rewards.format.options: want keys and values, got 3"),
    ],
)
def test_a_wrong_type_names_key_want_and_got(override, expected):
    assert message("demo", override) == expected


@pytest.mark.parametrize("override", ["num_steps", "=3", ".=3", "a..b=3", "x=[1"])
def test_an_override_that_is_none(override):
    assert repr(override) in message("demo", override)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("num_step: 3", "num_step: no such key; did you mean num_steps?"),
        (
            "policies: {text: {kind: tokn}}",
            "policies.text.kind: want one of token, denoising, unified, got 'tokn'",
        ),
        ("policies:", "policies: want keys and values below it, got nothing"),
        ("policies: {1: {kind: token}}", "policies.1: names are text"),
        ("num_steps: 1\nnum_steps: 2", "run.yaml:2: not valid YAML"),
        ("a: [", "not valid YAML"),
        ("- 1", "want keys and values, got a list"),
        ("3", "cannot be read"),
    ],
)
def test_a_bad_file(text, expected, tmp_path):
    assert expected in message(file(tmp_path, text))


def test_a_name_that_is_none(tmp_path):
    assert "did you mean demo?" in message("dmeo")
    assert "no such configuration" in message(str(tmp_path / "nowhere.yaml"))
    assert "run directory" in message(str(tmp_path))
    assert find_config("demo").name == "demo.yaml"


# ------------------------------------------------------------------------------- values that do not fit

FAULTS = {
    "group_size=1": "group_size: want at least 2, got 1",
    "num_steps=0": "num_steps: want at least 1, got 0",
    "max_invalid_frac=1.5": "max_invalid_frac: want at least 0 and at most 1, got 1.5",
    "deadline_s=.inf": "deadline_s: want above 0 and at most 1e+07, got inf",
    "policies.text.learner.learning_rate=.nan": "policies.text.learner.learning_rate: want above 0 and at most 1, "
                                                "got nan",
    "policies.text.rollout.temperature=0": "policies.text.rollout.temperature: want above 0 and at most 10, got 0.0",
    "policies.image.rollout.noise_level=0": "policies.image.rollout.noise_level: want above 0",
    "policies.text.loss.surrogate.clip_low=1.5": "policies.text.loss.surrogate.clip_low: want above 0 and at most 1, "
                                                 "got 1.5",
    "policies.image.loss.kl_weight=-1": "policies.image.loss.kl_weight: want at least 0",
    "policies.text.num_threads=0": "policies.text.num_threads: want at least 1",
    "policies.text.num_gpus=1.5": "policies.text.num_gpus: above 1 want a whole number",
    "policies.text.source=./nowhere": "policies.text.source: no folder ./nowhere",
    "policies.text.source=''": "policies.text.source: is empty",
    "chain.degradation.max_tokens=4": "chain.degradation.max_tokens: want at least 8",
    "chain.degradation.num_steps=4": "chain.degradation.num_steps: has no meaning in a text block",
    "chain.rough_image.max_tokens=4": "chain.rough_image.max_tokens: has no meaning in a image block",
    "chain.rough_image.num_steps=1": "chain.rough_image.num_steps: want at least 2",
    "chain.rough_image.size_px=20": "chain.rough_image.size_px: want a multiple of 16, got 20",
    "chain.rough_image.height_px=20": "chain.rough_image.height_px: want a multiple of 16, got 20",
    "chain.degradation.height_px=16": "chain.degradation.height_px: has no meaning in a text block; take it out",
    "chain.rough_image.size_px=32": "chain.middle_image.size_px: want more than chain.rough_image's 32, got 32",
    "chain.middle_image.size_px=48": "chain.middle_image.size_px: want a divisor of chain.final_image's 64",
    "chain.degradation.policy=txt": "chain.degradation.policy: no policy 'txt'; policies are text, image",
    "chain.degradation.policy=image": "chain.degradation.policy: text is written by a token or unified policy",
    "policies.text.kind=denoising": "chain.degradation.policy: text is written by a token or unified policy",
    "policies.image.rollout.sampler=flow_grop": "policies.image.rollout.sampler: want one of flow_grpo, dance, cps, "
                                                "ddim, or package.module:SAMPLER, got 'flow_grop'; did you mean "
                                                "flow_grpo?",
    "advantage.baseline=gruop": "advantage.baseline: want one of group, leave_one_out, batch, or "
                                "package.module:function, got 'gruop'; did you mean group?",
    "scale=3": "scale: want a divisor of chain.final_image.size_px 64, got 3",
    "updates_per_batch=5": "updates_per_batch: a batch is split by group, so at most prompts_per_step (4)",
    "policies.text.learner.num_ranks=33": "policies.text.learner.num_ranks: 33 ranks for 32 chains",
    "rewards.format.blocks=[rough]": "rewards.format.blocks: the chain has no block 'rough'",
    "rewards.format.target=nothing": "rewards.format.target: want package.module:Class, got 'nothing'",
    "rewards.format.weight=-1": "rewards.format.weight: want at least 0",
    "rewards.format.on_failure=monitor_only": "rewards.format.on_failure: monitor_only needs weight 0",
    "rewards.format.num_gpus=1.5": "rewards.format.num_gpus: above 1 want a whole number",
    "rewards.format.deadline_s=-1": "rewards.format.deadline_s: want at least 0",
    "rewards.format.deadline_s=300": "rewards.format.deadline_s: 2 attempts of 300 s do not fit into the run's "
                                     "deadline_s 600; lower it, or raise deadline_s",
    "rewards.format.env={pop: [a]}": "rewards.format.env.pop: no such key; known here: pip, python, env_vars",
    "rewards.format.env={pip: [1]}": "rewards.format.env.pip: want a list of requirements or the path of a file",
    "rewards.format.env={pip: ./nowhere.txt}": "rewards.format.env.pip: no file ./nowhere.txt",
    "rewards.format.env={python: ./nowhere}": "rewards.format.env.python: no file ./nowhere",
    "rewards.format.env={python: [a]}": "rewards.format.env.python: want the path of an interpreter, got ['a']",
    "rewards.format.env={python: a, pip: [b]}": "rewards.format.env: pip and python exclude each other",
    "rewards.format.env={env_vars: [a]}": "rewards.format.env.env_vars: want names and values, got ['a']",
    "rewards.format.env={env_vars: {PYTHONPATH: a}}": "rewards.format.env.env_vars.PYTHONPATH: is ours; give the "
                                                      "folder in plugins",
    "plugins=[./nowhere]": "plugins: no folder ./nowhere; give one that holds your modules",
    "data.images=./nowhere": "data.images: no folder ./nowhere",
    "data={prompts: ''}": "data.prompts: is empty; give a file, a folder or a hub name",
    "data.pairs=./nowhere": "data.pairs: no folder ./nowhere",
    "data.zoom=[3,1]": "data.zoom: want 1 <= low <= high",
    "data.zoom=[0.5,2]": "data.zoom: want 1 <= low <= high",
    "data.zoom=[1]": "data.zoom: want two numbers",
    "data.zoom=[1,[2]]": "data.zoom[1]: want a number, got [2]",
    "data.holdout_frac=1": "data.holdout_frac: want at least 0 and at most 0.9",
    "coldstart.num_workers=5": "coldstart.text_batch_size: want a multiple of num_workers (5), got 48",
    "name=a/b": "name: 'a/b' is no plain folder name",
    "name=..": "name: '..' is no plain folder name",
    "output_dir=''": "output_dir: is empty",
    "output_dir=/dev/null/x": "output_dir: /dev/null/x",
}  # fmt: skip


@pytest.mark.parametrize("override", FAULTS)
def test_a_value_that_cannot_be(override):
    assert message("demo", override).startswith(FAULTS[override])


def test_a_photograph_folder_that_exists(tmp_path):
    config = load_config(
        "demo", [f"data.images={tmp_path}", f"data.pairs={tmp_path}", f"policies.text.source={tmp_path}"]
    )
    validate(config)
    assert degraded_px(config) == 16


def test_paths_can_be_left_unchecked():
    validate(load_config("demo", ["data.images=./nowhere"]), paths=False)


def edit(**changes) -> Config:
    return dataclasses.replace(load_config("demo"), **changes)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (edit(chain={}), "chain: has no block"),
        (edit(rewards={}), "rewards: none has a weight above 0"),
        (edit(rewards={"a": RewardConfig(target="a:B", weight=0)}), "rewards: none has a weight above 0"),
        (edit(rewards={"A b": RewardConfig(target="a:B")}), "rewards.A b: no usable name"),
        (edit(chain={"Big Tag": BlockConfig(max_tokens=9)}), "chain.Big Tag: no usable tag"),
        (edit(chain={"degraded": BlockConfig(max_tokens=9)}), "chain.degraded: no usable tag"),
        (edit(chain={"answer": BlockConfig(max_tokens=9)}), "policies.image: writes no block"),
    ],
)
def test_a_system_that_cannot_be(config, expected):
    with pytest.raises(ConfigError, match="^" + expected):
        validate(config)


def test_a_chain_of_one_block_is_a_chain():
    rewards = {name: dataclasses.replace(one, blocks=[]) for name, one in load_config("demo").rewards.items()}
    text = edit(
        rewards=rewards,
        chain={"answer": BlockConfig(max_tokens=64)},
        policies={"text": policy_config()},
    )
    validate(text)
    assert degraded_px(text) == 0
    assert "output" not in derived(text)
    image = edit(
        rewards=rewards,
        chain={"picture": BlockConfig(kind="image", policy="image", size_px=64, num_steps=10)},
        policies={"image": policy_config(kind="denoising")},
    )
    validate(image)
    assert derived(image)["trained denoising steps a chain"] == "9"


# ------------------------------------------------------------------------------- what follows


def test_what_follows_from_the_demo():
    config = load_config(
        "demo", ["group_size=4", "prompts_per_step=6", "updates_per_batch=2", "output_dir=none"]
    )
    facts = derived(config)
    assert facts["chains a step"] == "24 (6 prompts x 4)"
    assert facts["degraded photo"] == "16 px"
    assert facts["output"] == "64 px (4 x)"
    assert facts["policy text"].endswith("12 chains a rank and optimizer step")
    assert facts["cold start"] == f"{coldstart_directory(config)} (to be made)"
    assert num_gpus(load_config("qwen2_5_vl_8gpu")) == 8


def test_a_cold_start_of_an_older_version_is_pointed_out(tmp_path):
    def state() -> str:
        return derived(load_config("demo", [f"output_dir={tmp_path}"]))["cold start"]

    assert state().endswith("(to be made)")
    old = tmp_path / "coldstart-0123"
    old.mkdir()
    (old / "coldstart.json").write_text('{"digest": "0123"}')
    assert f"to be made; {old} is an older vlcot's: coldstart.directory takes it" in state()
    (old / "coldstart.json").write_text('{"format": 2, "digest": "0123"}')
    assert state().endswith("(to be made)")


# ------------------------------------------------------------------------------- digest


@pytest.mark.parametrize(
    "override",
    ["name=other", "num_steps=3", "policies.text.learner.learning_rate=1e-3", "coldstart.directory=x", "data.pairs=x",
     "rewards.format.weight=0", "eval.num_prompts=3", "group_size=4",
     "policies.image.call={guidance_scale: 2, degraded: {from: degraded, px: 64, by: bicubic}}"],
)  # fmt: skip
def test_the_cold_start_does_not_depend_on(override):
    assert digest(load_config("demo", [override])) == digest(load_config("demo"))


@pytest.mark.parametrize(
    "override",
    ["seed=1", "scale=2", "data.degradation=light", "chain.rough_image.num_steps=5", "policies.text.source=a/b",
     "policies.text.family=language_model",
     "policies.image.call={degraded: {from: degraded, px: 64, by: real_esrgan}}",
     "coldstart.text_steps=3"],
)  # fmt: skip
def test_the_cold_start_depends_on(override):
    assert digest(load_config("demo", [override])) != digest(load_config("demo"))


def test_the_order_of_blocks_counts_and_that_of_policies_does_not():
    config = load_config("demo")
    turned = dataclasses.replace(config, policies=dict(reversed(config.policies.items())))
    assert digest(turned) == digest(config)
    turned = dataclasses.replace(config, chain=dict(reversed(config.chain.items())))
    assert digest(turned) != digest(config)


def test_a_value_that_is_the_default_anyway_changes_no_digest():
    same = ["coldstart.image_steps=1600", "data.holdout_photos=2", "policies.text.family="]
    assert digest(load_config("demo", same)) == digest(load_config("demo"))


# ------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("error", ERRORS)
def test_errors_survive_a_trip_between_processes(error):
    original = error("learner-0: loss is not finite")
    original.add_note("actor: learner-0")
    copy = pickle.loads(pickle.dumps(original))
    assert type(copy) is error
    assert str(copy) == str(original)
    assert copy.__notes__ == original.__notes__


def test_the_family_of_errors():
    assert len(ERRORS) >= 10
    assert rl.errors.ConfigError is ConfigError
    assert issubclass(ConfigError, ValueError)
    assert issubclass(rl.errors.DataError, ConfigError)


# ------------------------------------------------------------------------------- the user's own


@pytest.mark.parametrize(
    ("overrides", "data"),
    [
        (["data.target=mine:Source"], OwnData(target="mine:Source")),
        (
            ["data.target=mine:Source", "data.options.path=x"],
            OwnData(target="mine:Source", options={"path": "x"}),
        ),
        (["data.target=mine:Source", "data={kind: photographs, zoom: [1, 2]}"], Photographs(zoom=[1.0, 2.0])),
        (["data.prompts=sums.jsonl"], PromptTable(prompts="sums.jsonl")),
        (["data.prompts=a.csv", "data.split=test", "data.images=seen"],
         PromptTable(prompts="a.csv", split="test", images="seen")),
        (["data.prompts=a.csv", "data.target=mine:Source"], OwnData(target="mine:Source")),
    ],
)  # fmt: skip
def test_a_key_that_says_enough_means_its_source(overrides, data):
    assert load_config("demo", overrides).data == data


def test_a_surrogate_of_ones_own_is_named_by_its_path_or_spelt_out():
    key = "policies.text.loss.surrogate"
    assert load_config("demo", [f"{key}=mine.losses:soft"]).policies["text"].loss.surrogate == Own(
        target="mine.losses:soft"
    )
    spelt = load_config("demo", [f"{key}={{target: 'mine:soft', options: {{tau: 2}}}}"])
    assert spelt.policies["text"].loss.surrogate == Own(target="mine:soft", options={"tau": 2})


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.image=x", "data.image: no such key; did you mean data.images?"),
        ("data.options={a: 1}", "data.options: has no meaning for data.kind=photographs; take it out"),
        (
            "data={kind: owm}",
            "data.kind: want one of photographs, own, prompts, got 'owm'; did you mean own?",
        ),
        ("data={prompts: a.csv, promt: b}", "data.promt: no such key; did you mean data.prompt?"),
        (
            "data={prompts: a.csv, zoom: [1, 2]}",
            "data.zoom: has no meaning for data.kind=prompts; take it out",
        ),
        (
            "data={prompts: a.csv, format: easy}",
            "data.format: want one of auto, verl, easyr1, trl, plain, got 'easy'",
        ),
        (
            "data={prompts: a.csv, holdout_frac: 1}",
            "data.holdout_frac: want at least 0 and at most 0.9, got 1.0",
        ),
        ("group_size='4'", "group_size: want a whole number, got '4'"),
        ("group_size=true", "group_size: want a whole number, got True"),
        ("gpu_gib='80'", "gpu_gib: want a number, got '80'"),
        ("deterministic=1", "deterministic: want true or false, got 1"),
        ("policies.text.num_gpus=true", "policies.text.num_gpus: want a number, got True"),
    ],
)
def test_what_is_refused_costs_one_line(override, expected):
    assert message("demo", override) == expected


def test_a_run_of_another_version_is_refused_in_one_line(tmp_path):
    text = to_yaml(load_config("demo")).replace("name: demo", "name: demo\nnum_rollouts: 3")
    (tmp_path / "resolved.yaml").write_text(text)
    assert message(str(tmp_path)).startswith(
        f"{tmp_path}: the run was made by another version of vlcot (num_rollouts: no such key; "
    )
    (tmp_path / "resolved.yaml").write_text(to_yaml(load_config("demo")))
    assert message(str(tmp_path), "num_rollouts=3").startswith("num_rollouts: no such key; ")


def test_null_takes_a_reward_out(tmp_path):
    before = load_config("tiny")
    after = load_config("tiny", ["rewards.generation=null"])
    assert set(before.rewards) - set(after.rewards) == {"generation"}
    validate(after)
    (tmp_path / "mine.yaml").write_text(
        to_yaml(before).replace("  generation:\n", "  generation: null\n  x:\n")
    )
    assert set(load_config(str(tmp_path / "mine.yaml")).rewards) == {*after.rewards, "x"}
    assert "did you mean rewards.generation?" in message("tiny", "rewards.genration=null")
