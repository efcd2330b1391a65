"""Adapters: where they go, what they change, and that merged weights compute the same."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from actors.shared.lora import (
    adapted_names,
    adapters_only,
    add_adapter,
    merged,
    scale_of,
    split,
    switched_off,
    write_adapter,
)
from configs.methods import Adapter
from rl.errors import ConfigError, WeightSyncError

LORA = Adapter(rank=2, alpha=6.0, targets=["first", "last"])
KEY = "policies.text.learner.lora"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.first = nn.Linear(4, 6)
        self.inner = nn.ModuleDict({"last": nn.Linear(6, 3, bias=False), "other": nn.Linear(6, 3)})

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.first(self.embed(ids)))
        return self.inner["last"](hidden) + self.inner["other"](hidden)


IDS = torch.arange(5)


def adapted(seed: int = 0, lora: Adapter = LORA) -> Net:
    torch.manual_seed(7)
    net = Net()
    add_adapter(net, lora, key=KEY, seed=seed)
    return net


def trained(net: Net) -> Net:
    torch.manual_seed(1)
    with torch.no_grad():
        for _, parameter in adapters_only(net.named_parameters()):
            parameter.normal_()
    return net


def test_adapters_begin_at_nothing_and_are_all_that_is_trained():
    net = adapted()
    torch.manual_seed(7)
    assert torch.equal(net(IDS), Net()(IDS))
    names = [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    assert names == [name for name, _ in net.named_parameters() if "lora_" in name]
    assert [name for name, _ in adapters_only(net.named_parameters())] == [
        "first.lora_A.weight",
        "first.lora_B.weight",
        "inner.last.lora_A.weight",
        "inner.last.lora_B.weight",
    ]


def test_ranks_that_share_a_seed_share_the_adapter_and_the_run_goes_on_drawing_as_before():
    first, state = adapted(seed=3), torch.get_rng_state()
    assert torch.equal(torch.get_rng_state(), state)
    again, other = adapted(seed=3), adapted(seed=4)
    a = [dict(adapters_only(net.named_parameters()))["first.lora_A.weight"] for net in (first, again, other)]
    assert torch.equal(a[0], a[1])
    assert not torch.equal(a[0], a[2])


def test_merged_weights_compute_what_the_adapter_does():
    net = trained(adapted())
    plain, adapters = split(dict(net.state_dict()))
    weights = dict(merged(plain.items(), adapters, scale_of(LORA)))
    changed = {name for name in plain if not torch.equal(plain[name], weights[name])}
    assert changed == adapted_names(adapters) == {"first.weight", "inner.last.weight"}
    alone = Net()
    alone.load_state_dict(weights)
    torch.testing.assert_close(alone(IDS), net(IDS))


def test_merging_writes_to_nothing_and_keeps_the_type():
    start = {"l.weight": torch.ones(3, 2, dtype=torch.bfloat16)}
    adapters = {"l.lora_A.weight": torch.ones(1, 2), "l.lora_B.weight": torch.ones(3, 1)}
    assert dict(merged(start.items(), adapters, 0.5))["l.weight"].tolist() == [[1.5, 1.5]] * 3
    assert start["l.weight"].tolist() == [[1.0, 1.0]] * 3


def test_an_adapter_without_its_weight_is_an_error():
    adapters = {"gone.lora_A.weight": torch.ones(1, 2), "gone.lora_B.weight": torch.ones(3, 1)}
    with pytest.raises(WeightSyncError, match=r"1 adapters belong to no weight .* gone\.weight"):
        dict(merged([("l.weight", torch.ones(3, 2))], adapters, 1.0))


def test_switched_off_is_the_starting_policy_and_gradients_come_back():
    net = trained(adapted())
    torch.manual_seed(7)
    with switched_off(net):
        assert torch.equal(net(IDS), Net()(IDS))
        assert all(parameter.requires_grad for _, parameter in adapters_only(net.named_parameters()))
    net(IDS).sum().backward()
    assert all(parameter.grad is not None for _, parameter in adapters_only(net.named_parameters()))


def test_peft_loads_what_is_written(tmp_path):
    net = trained(adapted())
    plain, adapters = split(dict(net.state_dict()))
    write_adapter(tmp_path / "adapter", LORA, adapters)
    described = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (described["r"], described["lora_alpha"]) == (2, 6.0)
    base = Net()
    base.load_state_dict(plain)
    from peft import PeftModel

    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
    torch.testing.assert_close(loaded(IDS), net(IDS), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "frist",
            r"policies\.text\.learner\.lora\.targets: the net has no layer 'frist'; linear layers end in first, last",
        ),
        (
            "embed",
            r"policies\.text\.learner\.lora\.targets: 'embed' is a Embedding, and only linear layers are adapted",
        ),
    ],
)
def test_a_target_that_cannot_be_is_named(target, message):
    with pytest.raises(ConfigError, match=message):
        add_adapter(Net(), Adapter(targets=["first", target]), key=KEY, seed=0)
