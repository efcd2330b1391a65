"""The parts of the learner that need no training, one rank at a time."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.learner.micro_batches import expand_advantages, inputs_on, make_actions
from actors.learner.model import load_policy
from actors.learner.spec import LearnerSpec
from actors.policies.base import PolicyBatch
from actors.shared.deepspeed_engine import start_process_group
from rl.errors import LearnerError
from rl.types import MicroBatch, TrainItem
from tests.reference.policy_configs import policy_config
from tests.reference.tiny_policy import BLOCKS, TINY, write_start

rows = st.lists(
    st.tuples(
        st.dictionaries(st.integers(0, 4), st.floats(-3, 3, width=32), max_size=5),
        st.lists(st.integers(-1, 4), min_size=6, max_size=6),
    ),
    min_size=1,
    max_size=5,
)


@settings(deadline=None, max_examples=60)
@given(rows)
def test_every_action_gets_the_advantage_of_its_block(rows):
    items = [
        TrainItem(
            item_id="",
            handle=None,
            advantages=advantages,
            num_actions=1,
            num_scored=1,
            shape_key=(),
            length=6,
        )
        for advantages, _ in rows
    ]
    micro = MicroBatch(items=tuple(items), weights=(1.0,) * len(items))
    block_of = torch.tensor([blocks for _, blocks in rows], dtype=torch.int8)
    got = expand_advantages(micro, block_of)
    want = [[advantages.get(block, 0.0) for block in blocks] for advantages, blocks in rows]
    assert torch.equal(got, torch.tensor(want))


@pytest.mark.parametrize("is_denoising", [False, True])
def test_actions_are_put_together_and_padding_rows_lose_their_mask(is_denoising):
    batch = PolicyBatch(
        inputs={},
        behaviour_logprobs=torch.tensor([[-1.0, -2.0], [-1.0, -2.0]]),
        action_mask=torch.tensor([[True, False], [True, True]]),
        block_of=torch.tensor([[0, -1], [0, 1]]),
        action_weights=torch.full((2, 2), 0.5) if is_denoising else None,
        behaviour_step_mean=torch.ones(2, 2, 3) if is_denoising else None,
    )
    item = TrainItem(
        item_id="", handle=0, advantages={0: 2.0}, num_actions=1, num_scored=1, shape_key=(), length=2
    )
    micro = MicroBatch(items=(item, item), weights=(1.0, 0.0))
    actions = make_actions(micro, batch, torch.device("cpu"))
    assert actions.mask.tolist() == [[True, False], [False, False]]
    assert actions.advantages.tolist() == [[2.0, 0.0], [2.0, 0.0]]
    assert torch.equal(actions.behaviour.logprobs, batch.behaviour_logprobs)
    assert actions.weights is batch.action_weights
    assert actions.behaviour.step_mean is batch.behaviour_step_mean


def test_all_ranks_make_logprobs_in_as_many_parts():
    batch = PolicyBatch(
        inputs={"num_chunks": torch.tensor(1)},
        behaviour_logprobs=torch.zeros(1, 1),
        action_mask=torch.ones(1, 1, dtype=torch.bool),
        block_of=torch.zeros(1, 1),
    )
    cpu = torch.device("cpu")
    assert int(inputs_on(cpu, batch)["num_chunks"]) == 1
    assert int(inputs_on(cpu, batch, num_chunks=3)["num_chunks"]) == 3
    assert inputs_on(cpu, replace(batch, inputs={}), num_chunks=3) == {}


def test_a_policy_that_zero_3_cannot_shard_is_refused(tmp_path):
    write_start(tmp_path)
    spec = LearnerSpec(
        policy_name="tiny",
        family=replace(TINY, learner="tests.reference.tiny_policy:BareParameterPolicy"),
        config=policy_config(zero_stage=3),
        directory=tmp_path,
        block_names=BLOCKS,
        bucket_bytes=100,
        num_optimizer_steps=1,
    )
    with pytest.raises(LearnerError, match=r"policies\.tiny\.learner\.zero_stage=2"):
        load_policy(spec)


def test_a_port_in_use_is_named(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(LearnerError, match=rf"127\.0\.0\.1:{port}.*free the port"):
            start_process_group(
                rank=0, world_size=2, master_addr="127.0.0.1", master_port=port, device=torch.device("cpu")
            )
