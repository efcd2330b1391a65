"""What must hold of every layout: nothing lost, nothing twice, all ranks alike."""

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from configs.derive import CHUNK_ACTIONS
from configs.schema import BlockConfig, Config
from rl.advantage.batching import build_train_batches, lay_out, max_actions, split_by_tokens, split_evenly
from rl.types import TrainItem
from tests.reference.groups import image_segment, make_group, make_scores, text_segment
from tests.reference.policy_configs import policy_config

quick = settings(deadline=None)


@st.composite
def item_lists(draw):
    shapes = draw(st.lists(st.sampled_from([(), (16, 4), (32, 4), (64, 6)]), min_size=1, max_size=25))
    return [
        TrainItem(
            item_id=str(i),
            handle=i,
            advantages={0: 1.0},
            num_actions=draw(st.integers(1, 9)),
            num_scored=draw(st.integers(9, 2000)),
            shape_key=shape,
            length=draw(st.integers(1, 40)),
        )
        for i, shape in enumerate(shapes)
    ]


@quick
@given(item_lists(), st.integers(1, 5), st.integers(1, 6))
def test_layout_invariants(items, num_ranks, micro_batch_size):
    batch = lay_out("p", items, num_ranks, micro_batch_size, max_actions=9)
    assert len(batch.micro_batches) == num_ranks
    assert len({len(rank) for rank in batch.micro_batches}) == 1
    rows = [
        (item, weight)
        for rank in batch.micro_batches
        for micro in rank
        for item, weight in zip(micro.items, micro.weights, strict=True)
    ]
    assert Counter(item.item_id for item, weight in rows if weight) == Counter(item.item_id for item in items)
    assert {weight for _, weight in rows} <= {0.0, 1.0}
    assert batch.num_actions == sum(item.num_actions for item in items)
    assert batch.num_sequences == len(items)
    assert batch.max_actions == 9
    scored = [sum(i.num_scored for i in micro.items) for rank in batch.micro_batches for micro in rank]
    assert max(scored) <= batch.num_chunks * CHUNK_ACTIONS
    assert batch.num_chunks == 1 or max(scored) > (batch.num_chunks - 1) * CHUNK_ACTIONS
    for position in zip(*batch.micro_batches, strict=True):
        assert len({item.shape_key for micro in position for item in micro.items}) == 1
    for rank in batch.micro_batches:
        assert all(1 <= len(micro.items) <= micro_batch_size for micro in rank)


@quick
@given(item_lists(), st.integers(1, 5), st.integers(1, 6))
def test_layout_is_balanced(items, num_ranks, micro_batch_size):
    batch = lay_out("p", items, num_ranks, micro_batch_size, max_actions=9)
    for position in zip(*batch.micro_batches, strict=True):
        sizes = [int(sum(micro.weights)) for micro in position]
        assert max(sizes) - min(sizes) <= 1
    least = sum(
        -(-count // (num_ranks * micro_batch_size)) for count in Counter(i.shape_key for i in items).values()
    )
    assert len(batch.micro_batches[0]) == least


def padded(micro):
    return len(micro.items) * max(item.length for item in micro.items)


@quick
@given(item_lists(), st.integers(1, 5), st.integers(1, 6), st.integers(1, 120))
def test_tokens_bound_a_micro_batch_and_nothing_is_lost(items, num_ranks, micro_batch_size, max_tokens):
    batch = lay_out("p", items, num_ranks, micro_batch_size, max_actions=9, max_tokens=max_tokens)
    assert batch == lay_out("p", items, num_ranks, micro_batch_size, max_actions=9, max_tokens=max_tokens)
    assert len({len(rank) for rank in batch.micro_batches}) == 1
    micros = [micro for rank in batch.micro_batches for micro in rank]
    for micro in micros:
        assert len(micro.items) == 1 or padded(micro) <= max_tokens
        assert 1 <= len(micro.items) <= micro_batch_size
    rows = [pair for micro in micros for pair in zip(micro.items, micro.weights, strict=True)]
    assert Counter(i.item_id for i, weight in rows if weight) == Counter(i.item_id for i in items)
    for position in zip(*batch.micro_batches, strict=True):
        assert len({item.shape_key for micro in position for item in micro.items}) == 1


def fewest(lengths, max_rows, max_tokens):
    """Fewest runs of lengths in falling order, by trying every first cut."""
    if not lengths:
        return 0
    fits = [
        n for n in range(1, max_rows + 1) if n <= len(lengths) and (n == 1 or n * lengths[0] <= max_tokens)
    ]
    return 1 + min(fewest(lengths[n:], max_rows, max_tokens) for n in fits)


@quick
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=9).map(lambda n: sorted(n, reverse=True)),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 120),
)
def test_there_are_as_few_micro_batches_as_can_be_and_then_small_ones(lengths, num_ranks, rows, max_tokens):
    items = [
        TrainItem(
            item_id=str(i), handle=i, advantages={}, num_actions=1, num_scored=1, shape_key=(), length=length
        )
        for i, length in enumerate(lengths)
    ]
    runs = split_by_tokens(items, num_ranks, rows, max_tokens)
    assert [item for run in runs for item in run] == items
    least = fewest(lengths, rows, max_tokens)
    assert len(runs) == num_ranks * -(-least // num_ranks)
    largest = max((len(run) * run[0].length for run in runs if len(run) > 1), default=0)
    assert not largest or fewest(lengths, rows, largest - 1) > len(runs)


def test_long_chains_do_not_make_micro_batches_of_short_ones_small():
    items = [
        TrainItem(
            item_id=str(i), handle=i, advantages={}, num_actions=1, num_scored=1, shape_key=(), length=n
        )
        for i, n in enumerate([900, 800, *[100] * 18])
    ]
    batch = lay_out("p", items, 2, 16, max_actions=9, max_tokens=1000)
    assert [[len(micro.items) for micro in rank] for rank in batch.micro_batches] == [[1, 9], [1, 9]]


def test_rows_of_a_micro_batch_have_like_lengths():
    items = [
        TrainItem(
            item_id=str(i), handle=i, advantages={}, num_actions=1, num_scored=1, shape_key=(), length=n
        )
        for i, n in enumerate([5, 90, 7, 95, 6, 91, 8, 94])
    ]
    batch = lay_out("p", items, 2, 2, max_actions=9)
    for rank in batch.micro_batches:
        for micro in rank:
            lengths = [item.length for item in micro.items]
            assert max(lengths) - min(lengths) < 10


@quick
@given(st.lists(st.integers(), max_size=20), st.integers(1, 7))
def test_split_evenly(things, num_parts):
    parts = split_evenly(things, num_parts)
    assert [thing for part in parts for thing in part] == things
    assert len(parts) == num_parts
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def make_config(**kwargs):
    return Config(
        chain={
            "words": BlockConfig(policy="text"),
            "picture": BlockConfig(kind="image", policy="image"),
        },
        policies={
            "text": policy_config(micro_batch_size=3, num_ranks=2),
            "image": policy_config(kind="denoising", micro_batch_size=2),
            "idle": policy_config(),
        },
        **kwargs,
    )


def make_groups(num_groups, size=4):
    return [
        make_group(
            f"g{g}",
            {"r": make_scores("r", list(range(size)))},
            segments=[
                [
                    text_segment({"words": 5}, length=10 + i),
                    image_segment("picture", num_actions=3 if i else 0),
                ]
                for i in range(size)
            ],
        )
        for g in range(num_groups)
    ]


def flat_advantages(groups):
    return {chain.chain_id: {0: 0.0, 1: float(chain.index)} for group in groups for chain in group.chains}


def item_ids(batch):
    return {
        item.item_id
        for rank in batch.micro_batches
        for micro in rank
        for item, weight in zip(micro.items, micro.weights, strict=True)
        if weight
    }


def test_one_batch_a_policy_with_its_own_blocks_and_actions():
    groups = make_groups(2)
    batches = build_train_batches(groups, flat_advantages(groups), make_config())
    assert set(batches) == {"text", "image"}
    (text,), (image,) = batches["text"], batches["image"]
    assert text.num_actions == 2 * 4 * 5
    assert image.num_actions == 2 * 3 * 3  # a picture without actions is no item
    assert item_ids(text) == {f"g{g}/{i}/words" for g in range(2) for i in range(4)}
    assert item_ids(image) == {f"g{g}/{i}/picture" for g in range(2) for i in range(1, 4)}
    for micro in image.micro_batches[0]:
        for item in micro.items:
            assert item.advantages == {1: float(item.item_id.split("/")[1])}


def test_most_actions_come_from_the_configuration():
    config = Config(
        chain={
            "words": BlockConfig(policy="text", max_tokens=20),
            "rough": BlockConfig(kind="image", policy="image", num_steps=4),
            "more_words": BlockConfig(policy="text", max_tokens=30),
            "picture": BlockConfig(kind="image", policy="image", num_steps=9),
        },
        policies={"text": policy_config(), "image": policy_config(kind="denoising")},
    )
    assert max_actions("text", config) == 50
    assert max_actions("image", config) == 8
    groups = make_groups(1)
    by_block = {chain.chain_id: {0: 1.0, 3: 1.0} for chain in groups[0].chains}
    batches = build_train_batches(groups, by_block, config)
    assert {name: batch.max_actions for name, (batch,) in batches.items()} == {"text": 50, "image": 8}
    assert {name: batch.num_sequences for name, (batch,) in batches.items()} == {"text": 4, "image": 3}


def test_updates_split_by_group():
    groups = make_groups(4)
    steps = build_train_batches(groups, flat_advantages(groups), make_config(updates_per_batch=2))["text"]
    assert [{i.split("/")[0] for i in item_ids(step)} for step in steps] == [{"g0", "g1"}, {"g2", "g3"}]
    assert [step.num_actions for step in steps] == [40, 40]
    more = build_train_batches(groups[:1], flat_advantages(groups), make_config(updates_per_batch=3))
    assert len(more["text"]) == 1


def test_a_token_policys_micro_batches_are_bounded_as_configured():
    groups, config = make_groups(2), make_config()
    token = replace(config.policies["text"], learner=replace(config.policies["text"].learner, max_tokens=12))
    bounded = replace(config, policies={**config.policies, "text": token})
    batches = build_train_batches(groups, flat_advantages(groups), bounded)
    micros = [micro for rank in batches["text"][0].micro_batches for micro in rank]
    assert [len(micro.items) for micro in micros] == [1] * 8  # lengths are 10 to 13
    plain = build_train_batches(groups, flat_advantages(groups), config)
    assert batches["image"] == plain["image"]
    assert max(len(micro.items) for rank in plain["text"][0].micro_batches for micro in rank) == 2


def test_chains_without_advantages_are_left_out():
    groups = make_groups(1)
    advantages = flat_advantages(groups)
    del advantages["g0/2"]
    (text,) = build_train_batches(groups, advantages, make_config())["text"]
    assert item_ids(text) == {"g0/0/words", "g0/1/words", "g0/3/words"}


def test_same_groups_same_batches():
    groups = make_groups(3)
    first, second = (build_train_batches(groups, flat_advantages(groups), make_config()) for _ in range(2))
    assert first == second
