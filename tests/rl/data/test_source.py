"""The registry of prompt sources: photographs, and a user's own by import path."""

from dataclasses import replace

import pytest

from configs.load import load_config
from configs.schema import OwnData
from rl.data.source import prompt_source
from rl.errors import ConfigError, DataError
from rl.restoration.prompts import PhotographSource

CONFIG = load_config("tiny")
HERE = "tests.reference.sums"


def own(target, **options):
    return replace(CONFIG, data=OwnData(target=f"{HERE}:{target}", options=options))


def test_photographs_are_the_shipped_source_and_bring_their_baseline():
    source = prompt_source(CONFIG)
    assert isinstance(source, PhotographSource)
    prompt = source.train(0)
    ((name, enlarged),) = source.baselines(prompt).items()
    assert (name, enlarged.shape) == ("bicubic", prompt.pictures["truth"].shape)


def test_a_users_own_is_made_with_its_options_and_the_runs_seed():
    source = prompt_source(own("Sums", most=5))
    assert (source.most, source.seed) == (5, CONFIG.seed)
    assert source.train(3).reference == {"ground_truth": str(3 + (3 + CONFIG.seed) % 5)}
    assert len({prompt.prompt_id for prompt in source.held_out(4)}) == 4
    assert (source.files(), source.training_texts(), source.baselines(source.train(0))) == ([], [], {})


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("Sum", {}, r"data\.target: tests\.reference\.sums has no 'Sum'; did you mean Sums\?"),
        ("Message", {}, r"data\.target: .*:Message is no subclass of rl\.data\.source\.PromptSource"),
        ("Lazy", {}, r"data\.target: .*:Lazy has no held_out\(\)"),
        ("Sums", {"mots": 3}, r"data\.options: .*'mots'.*did you mean most\?"),
    ],
)
def test_a_source_that_cannot_be_costs_one_line(target, options, message):
    with pytest.raises(ConfigError, match=rf"^{message}[^\n]*$"):
        prompt_source(own(target, **options))


def test_photographs_for_a_chain_that_paints_nothing_are_refused_with_the_remedy():
    text = {name: block for name, block in CONFIG.chain.items() if block.kind == "text"}
    with pytest.raises(DataError, match=r"this one does not; name a source of your own in data\.target$"):
        prompt_source(replace(CONFIG, chain=text))
