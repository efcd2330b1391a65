"""The grammar against a regular expression that knows nothing of states."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import BlockConfig
from rl.chain.grammar import ChainGrammar, TagVocabulary, full_match
from rl.chain.state import ChainState, Done, PaintImage, WriteText
from rl.errors import ConfigError, RolloutError
from rl.types import Finish, TextSampling
from tests.reference.chain import (
    END,
    PAD,
    PLACEHOLDER,
    SPACES,
    VISION_END,
    VISION_START,
    WORDS,
    chain_blocks,
    decode,
    legal_prefix,
    vocabulary,
)

PROMPT = [VISION_START, PLACEHOLDER, VISION_END, *WORDS[:2]]
SHOWN = ("photo",)
REALSR = ["text", "text", "image", "text", "image", "text", "image"]
quick = settings(deadline=None)

kinds_lists = st.one_of(
    st.just(REALSR),
    st.lists(st.sampled_from(["text", "image"]), min_size=1, max_size=6).filter(lambda k: "text" in k),
)


def build(kinds, *, max_tokens=1000):
    blocks = chain_blocks(kinds, max_tokens=max_tokens)
    return ChainGrammar(blocks, vocabulary(list(blocks)))


@st.composite
def legal_scripts(draw):
    """Kinds of a chain, and everything the text policy writes in a whole one."""
    kinds = draw(kinds_lists)
    names = [f"b{i}" for i in range(len(kinds))]
    tags = vocabulary(names)
    spaces = st.lists(st.sampled_from(SPACES), max_size=2)
    script: list[int] = []
    for i, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        if kind == "text":
            script += draw(spaces) if i else []
            body = draw(st.lists(st.sampled_from((*WORDS, *SPACES)), max_size=4))
            script += [tags.opening[name], *body, tags.closing[name]]
        elif i and kinds[i - 1] == "text":
            script += [*draw(spaces), tags.opening[name]]
    return kinds, script


@st.composite
def mutated_scripts(draw):
    kinds, script = draw(legal_scripts())
    tags = vocabulary([f"b{i}" for i in range(len(kinds))])
    alphabet = sorted(tags.reserved | tags.whitespace | set(WORDS))
    for _ in range(draw(st.integers(1, 3))):
        i = draw(st.integers(0, max(len(script) - 1, 0)))
        j = draw(st.integers(0, max(len(script) - 1, 0)))
        what = draw(st.sampled_from(["drop", "swap", "duplicate", "insert", "replace", "cut"]))
        if what == "insert" or not script:
            script.insert(i, draw(st.sampled_from(alphabet)))
        elif what == "drop":
            del script[i]
        elif what == "swap":
            script[i], script[j] = script[j], script[i]
        elif what == "duplicate":
            script.insert(i, script[i])
        elif what == "replace":
            script[i] = draw(st.sampled_from(alphabet))
        else:
            del script[i:]
    return kinds, script


def play(grammar, script, *, prompt=PROMPT):
    """Let an engine that stops at stop ids write ``script``; token k has log-prob -(k + 1) / 8."""
    state, position, version = ChainState(grammar, prompt, pictures=SHOWN), 0, 0
    for _ in range(100):
        step = state.next_step()
        assert state.next_step() == step
        version += 1
        if isinstance(step, Done):
            return state, step
        if isinstance(step, PaintImage):
            state.image_painted(step.block, version)
            continue
        end = position
        while end < len(script) and end - position < step.max_tokens:
            end += 1
            if script[end - 1] in step.stop_ids:
                break
        tokens = script[position:end]
        stopped = bool(tokens) and tokens[-1] in step.stop_ids
        state.text_written(
            tokens, [-(k + 1) / 8 for k in range(position, end)], stopped=stopped, version=version
        )
        position = end
    raise AssertionError("the chain does not end")


def check_stream(state, num_sampled, script):
    stream = state.stream(TextSampling())
    sampled = stream.tokens[stream.action_mask]
    assert sampled.tolist() == script[:num_sampled]
    assert stream.behaviour_logprobs[stream.action_mask].tolist() == [
        -(k + 1) / 8 for k in range(num_sampled)
    ]
    assert not stream.action_mask[: len(PROMPT)].any()
    assert (stream.block_of[: len(PROMPT)] == -1).all()
    assert ((stream.block_of >= 0) == stream.action_mask).all()
    assert (np.diff(stream.block_of[stream.action_mask]) >= 0).all()
    assert stream.tokens.tolist() == state.tokens.tolist()[: len(stream.tokens)]
    pictures = stream.tokens == PLACEHOLDER
    assert not (pictures & stream.action_mask)[:-1].any()  # the last token may be an offending one
    assert (pictures & ~stream.action_mask).sum() == len(stream.pictures)
    assert sum(state.num_actions().values()) == num_sampled
    kinds = [state.grammar.blocks[i].kind for i in stream.block_of[stream.action_mask]]
    assert set(kinds) <= {"text"}


@quick
@given(legal_scripts())
def test_every_legal_chain_is_accepted(case):
    kinds, script = case
    state, done = play(build(kinds), script)
    assert done == Done(finish=Finish.STOP)
    check_stream(state, len(script), script)
    names = list(state.grammar.names)
    text = state.text(lambda tokens: decode(tokens, names))
    assert full_match(text, names)
    assert text.count("<|image|>") == kinds.count("image")
    assert list(state.block_text(lambda t: "")) == [
        n for n, k in zip(names, kinds, strict=True) if k == "text"
    ]
    assert state.painted == tuple(n for n, k in zip(names, kinds, strict=True) if k == "image")
    in_context = [n for n in state.painted if n != names[-1]]
    assert state.pictures == (*SHOWN, *in_context)


@settings(max_examples=300, deadline=None)
@given(mutated_scripts())
def test_a_mutilated_chain_is_cut_where_the_reference_says(case):
    kinds, script = case
    grammar = build(kinds)
    legal, whole = legal_prefix(script, chain_blocks(kinds))
    state, done = play(grammar, script)
    if whole:
        assert done.finish is Finish.STOP
        check_stream(state, legal, script)
    elif legal == len(script):
        assert done.finish is Finish.LENGTH
        check_stream(state, legal, script)
    else:
        assert done.finish is Finish.MALFORMED
        check_stream(state, legal + 1, script)
        assert str(script[legal]) in done.error


@quick
@given(mutated_scripts())
def test_a_chain_that_has_ended_takes_nothing_more(case):
    kinds, script = case
    state, done = play(build(kinds), script)
    before = state.tokens.tolist()
    with pytest.raises(RolloutError, match="due"):
        state.text_written([WORDS[0]], [-1.0], stopped=False, version=1)
    for name in state.grammar.names:
        with pytest.raises(RolloutError, match="due"):
            state.image_painted(name, 1)
    assert state.next_step() == done
    assert state.tokens.tolist() == before


def test_the_paper_chain_step_by_step():
    grammar = build(REALSR)
    tags = grammar.tags
    state = ChainState(grammar, PROMPT, pictures=SHOWN)
    step = state.next_step()
    assert isinstance(step, WriteText)
    assert step.block == "b0"
    assert tags.closing["b0"] in step.stop_ids
    assert tags.opening["b0"] not in step.stop_ids
    state.text_written(
        [tags.opening["b0"], WORDS[0], tags.closing["b0"]], [-1.0, -2.0, -3.0], stopped=True, version=4
    )
    assert state.block_text(list) == {"b0": [WORDS[0]]}
    step = state.next_step()
    assert isinstance(step, WriteText)
    assert tags.closing["b1"] not in step.stop_ids
    assert tags.opening["b2"] in step.stop_ids
    second = [tags.opening["b1"], WORDS[1], tags.closing["b1"], SPACES[0], tags.opening["b2"]]
    state.text_written(second, [-1.0] * 5, stopped=True, version=5)
    assert state.next_step() == PaintImage(block="b2", size_px=16, num_steps=4, previous=None)
    state.image_painted("b2", 9)
    forced = [VISION_START, PLACEHOLDER, VISION_END, tags.closing["b2"]]
    assert state.tokens.tolist()[-9:] == [*second, *forced]
    assert state.versions == {"writer": (4, 5), "painter": (9, 9)}
    assert state.num_actions() == {"b0": 3, "b1": 5}
    stream = state.stream(TextSampling())
    assert stream.block_of.tolist()[-5:] == [1] * 5
    assert stream.pictures == SHOWN
    third = [tags.opening["b3"], tags.closing["b3"], tags.opening["b4"]]
    state.text_written(third, [-1.0] * 3, stopped=True, version=5)
    assert state.next_step() == PaintImage(block="b4", size_px=16, num_steps=4, previous="b2")


def test_the_last_picture_never_enters_the_context():
    grammar = build(["text", "image"])
    tags = grammar.tags
    script = [tags.opening["b0"], tags.closing["b0"], tags.opening["b1"]]
    state, done = play(grammar, script)
    assert done.finish is Finish.STOP
    assert state.tokens.tolist() == [*PROMPT, *script, tags.closing["b1"]]
    assert state.pictures == SHOWN
    assert state.stream(TextSampling()).tokens.tolist() == [*PROMPT, *script]


def test_an_image_only_chain_has_no_stream():
    state, done = play(ChainGrammar(chain_blocks(["image", "image"])), [], prompt=())
    assert done.finish is Finish.STOP
    assert state.stream(TextSampling()) is None
    assert state.num_actions() == {}
    assert state.painted == ("b0", "b1")
    assert state.text(lambda tokens: "") == "<|image|><|image|>"


def test_images_without_leading_text_are_opened_by_force():
    grammar = build(["image", "image", "text"])
    tags = grammar.tags
    state, done = play(grammar, [tags.opening["b2"], tags.closing["b2"]])
    picture = [VISION_START, PLACEHOLDER, VISION_END]
    assert done.finish is Finish.STOP
    assert state.tokens.tolist() == [
        *PROMPT,
        *(tags.opening["b0"], *picture, tags.closing["b0"]),
        *(tags.opening["b1"], *picture, tags.closing["b1"]),
        *(tags.opening["b2"], tags.closing["b2"]),
    ]
    assert state.stream(TextSampling()).action_mask.sum() == 2


def test_out_of_tokens_is_length():
    grammar = build(["text", "image"], max_tokens=4)
    tags = grammar.tags
    state, done = play(grammar, [tags.opening["b0"], *WORDS[:3], tags.closing["b0"]])
    assert done.finish is Finish.LENGTH
    assert "max_tokens=4" in done.error
    assert state.painted == ()


@pytest.mark.parametrize("token", [PAD, END, PLACEHOLDER, VISION_END])
def test_special_tokens_are_malformed_in_a_body(token):
    grammar = build(["text"])
    state, done = play(grammar, [grammar.tags.opening["b0"], WORDS[0], token])
    assert done.finish is Finish.MALFORMED
    assert state.tokens[-1] == token
    assert state.stream(TextSampling()).action_mask[-1]


@pytest.mark.parametrize("space", SPACES)
def test_whitespace_is_legal_between_blocks_only(space):
    grammar = build(["text", "text"])
    tags = grammar.tags
    script = [tags.opening["b0"], tags.closing["b0"], space, tags.opening["b1"], tags.closing["b1"]]
    assert play(grammar, script)[1].finish is Finish.STOP
    state, done = play(grammar, [space, *script])
    assert done.finish is Finish.MALFORMED
    assert state.num_actions() == {"b0": 1}


def test_text_stopped_without_its_tag_is_malformed():
    grammar = build(["text"])
    state = ChainState(grammar, PROMPT, pictures=SHOWN)
    state.text_written([grammar.tags.opening["b0"], WORDS[0]], [-1.0, -1.0], stopped=True, version=0)
    assert state.next_step().finish is Finish.MALFORMED


def test_bad_replies_are_refused():
    grammar = build(["text", "text"])
    tags = grammar.tags
    state = ChainState(grammar, PROMPT, pictures=SHOWN)
    with pytest.raises(RolloutError, match="finite"):
        state.text_written([WORDS[0]], [float("-inf")], stopped=False, version=0)
    with pytest.raises(RolloutError, match="finite"):
        state.text_written([WORDS[0]], [], stopped=False, version=0)
    with pytest.raises(RolloutError, match="ends the request"):
        state.text_written(
            [tags.opening["b0"], tags.closing["b0"], tags.opening["b1"]], [-1.0] * 3, stopped=True, version=0
        )
    with pytest.raises(RolloutError, match="due"):
        ChainState(grammar, PROMPT, pictures=SHOWN).image_painted("b0", 0)


def test_bad_grammars_are_refused():
    with pytest.raises(ConfigError, match="1 to 127"):
        ChainGrammar({})
    with pytest.raises(ConfigError, match="one policy"):
        ChainGrammar({"a": BlockConfig(policy="x"), "b": BlockConfig(policy="y")}, vocabulary(["a", "b"]))
    with pytest.raises(ConfigError, match="no token id"):
        ChainGrammar({"a": BlockConfig(), "b": BlockConfig()}, vocabulary(["a"]))
    blocks = chain_blocks(["text", "image", "text"])
    without_pictures = TagVocabulary(
        opening={name: i for i, name in enumerate(blocks)},
        closing={name: i + 9 for i, name in enumerate(blocks)},
    )
    with pytest.raises(ConfigError, match="stand for them"):
        ChainGrammar(blocks, without_pictures)
    with pytest.raises(ConfigError, match="of its own"):
        TagVocabulary(opening={"a": 1}, closing={"a": 1})
    with pytest.raises(ConfigError, match="once"):
        TagVocabulary(opening={"a": 1}, closing={"a": 2}, picture=(5, 6), placeholder=7)
    with pytest.raises(ConfigError, match="placeholder"):
        ChainState(build(["text"]), [WORDS[0]], pictures=SHOWN)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<a>x</a><b></b>", True),
        ("<a>x\ny</a> \n<b><|image|></b>", True),
        (" <a></a><b></b>", False),
        ("<a></a><b></b> ", False),
        ("<b></b><a></a>", False),
        ("<a></a>junk<b></b>", False),
        ("<a></a>", False),
    ],
)
def test_full_match(text, expected):
    assert full_match(text, ["a", "b"]) is expected


# --------------------------------------------------------------------------------- without tags


def plain(*, max_tokens=1000):
    return ChainGrammar(
        chain_blocks(["text"], max_tokens=max_tokens),
        TagVocabulary(opening={}, closing={}, end=frozenset({END, PAD})),
    )


@quick
@given(st.lists(st.sampled_from((*WORDS, *SPACES)), max_size=8), st.sampled_from([END, PAD, None]))
def test_a_single_text_block_without_tags_ends_with_an_end_token(body, end):
    grammar = plain(max_tokens=len(body) + 1 if end is not None else len(body))
    state = ChainState(grammar, WORDS[:2])
    step = state.next_step()
    assert isinstance(step, WriteText)
    assert step.stop_ids == (PAD, END)
    written = [*body, *([] if end is None else [end])]
    state.text_written(written, [-1.0] * len(written), stopped=end is not None, version=3)
    assert state.next_step().finish is (Finish.LENGTH if end is None else Finish.STOP)
    stream = state.stream(TextSampling())
    assert stream.tokens[stream.action_mask].tolist() == written  # the end is an action ...
    assert state.block_text(list) == ({"b0": body} if written else {})  # ... and no part of the answer
    assert state.num_actions() == ({"b0": len(written)} if written else {})


def test_several_blocks_need_tags():
    with pytest.raises(ConfigError, match="no token id for the tags of"):
        ChainGrammar(
            chain_blocks(["text", "text"]), TagVocabulary(opening={}, closing={}, end=frozenset({END}))
        )
    with pytest.raises(ConfigError, match="no token ends"):
        ChainGrammar(chain_blocks(["text"]), TagVocabulary(opening={}, closing={}))


# --------------------------------------------------------------------------------- expanded contexts


def expanded(tokens, sizes):
    """Each placeholder as many times as its picture costs."""
    left = iter(sizes)
    return np.asarray([t for token in tokens for t in [token] * (next(left) if token == PLACEHOLDER else 1)])


@quick
@given(legal_scripts(), st.lists(st.integers(1, 5), min_size=7, max_size=7))
def test_the_stream_is_what_the_engine_saw(case, sizes):
    kinds, script = case
    grammar = build(kinds)
    state, position = ChainState(grammar, PROMPT, pictures=SHOWN), 0
    while not isinstance(step := state.next_step(), Done):
        if isinstance(step, PaintImage):
            state.image_painted(step.block, 0)
            continue
        end = next(i for i in range(position, len(script)) if script[i] in step.stop_ids) + 1
        context = expanded(state.tokens, sizes)
        state.text_written(
            script[position:end], [-1.0] * (end - position), stopped=True, version=0, context=context
        )
        position = end
    stream = state.stream(TextSampling())
    assert stream.tokens.tolist() == expanded(state.tokens, sizes).tolist()[: len(stream.tokens)]
    assert stream.tokens[stream.action_mask].tolist() == script
    assert state.length == len(stream.tokens)


def test_an_engine_that_changes_what_was_written_is_refused():
    grammar = build(["text", "image", "text"])
    tags = grammar.tags
    state = ChainState(grammar, PROMPT, pictures=SHOWN)
    first = [tags.opening["b0"], tags.closing["b0"], SPACES[0], tags.opening["b1"]]
    state.text_written(first, [-1.0] * 4, stopped=True, version=0)
    state.image_painted("b1", 0)
    swallowed = state.tokens[state.tokens != SPACES[0]]
    with pytest.raises(RolloutError, match="cannot have pictures before a text block"):
        state.text_written([tags.opening["b2"]], [-1.0], stopped=False, version=0, context=swallowed)
