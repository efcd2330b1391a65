"""Bundles, colocation and the configuration's own limits: pure functions, no Ray."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.runtime.placement_groups import _fits
from configs.checks.validate import validate
from configs.derive import num_gpus
from configs.errors import ConfigError
from configs.load import load_config, shipped_names
from configs.planning.placement import place

ON_GPU = ["policies.text.num_gpus=1", "policies.image.num_gpus=1"]


def test_a_run_without_gpus_is_one_group_with_a_bundle_a_process():
    placement = place(load_config("demo"))
    (node,) = placement.nodes
    assert placement.strategy == "SPREAD"
    assert [[p.name for p in b.processes] for b in node.bundles] == [
        ["rollout-text-0"],
        ["learner-text-0"],
        ["rollout-image-0"],
        ["learner-image-0"],
        ["reward-format-0"],
        ["reward-degradation-0"],
        ["reward-understanding-0"],
        ["reward-generation-0"],
        ["reward-fidelity-0"],
        ["scoring-0", "metrics-0", "runner-0"],
    ]


def test_evaluation_needs_no_learners():
    names = [process.name for process in place(load_config("demo"), learn=False).processes()]
    assert not [name for name in names if name.startswith("learner")]


def test_parts_of_a_gpu_share_one():
    config = load_config(
        "demo",
        [
            *ON_GPU,
            "rewards.generation.num_gpus=0.25",
            "rewards.generation.num_workers=5",
            "policies.image.num_gpus=0.5",
        ],
    )
    placement = place(config)
    gpus = [bundle for node in placement.nodes for bundle in node.bundles if bundle.num_gpus]
    assert [[p.name for p in b.processes] for b in gpus] == [
        ["rollout-text-0"],
        ["learner-text-0"],
        ["rollout-image-0", "learner-image-0"],
        ["reward-generation-0", "reward-generation-1", "reward-generation-2", "reward-generation-3"],
        ["reward-generation-4"],
    ]
    assert placement.strategy == "STRICT_PACK"


def test_colocated_processes_share_a_bundle_and_halve_its_gpu():
    config = load_config("demo", [*ON_GPU, "colocate=true"])
    validate(config)
    gpus = [bundle for bundle in place(config).nodes[0].bundles if bundle.num_gpus]
    assert [[(p.name, p.num_gpus) for p in bundle.processes] for bundle in gpus] == [
        [("rollout-text-0", 0.5), ("learner-text-0", 0.5)],
        [("rollout-image-0", 0.5), ("learner-image-0", 0.5)],
    ]
    assert [bundle.num_gpus for bundle in gpus] == [1, 1]
    alone = [bundle for bundle in place(config, learn=False).nodes[0].bundles if bundle.num_gpus]
    assert [bundle.processes[0].num_gpus for bundle in alone] == [1, 1]


TENSOR_PARALLEL = "policies.text.rollout.tensor_parallel=2"


def test_a_tensor_parallel_worker_has_a_gpu_for_each_of_its_processes():
    config = load_config("demo", [*ON_GPU, TENSOR_PARALLEL, "policies.text.rollout.num_workers=2"])
    validate(config)
    gpus = [bundle for node in place(config).nodes for bundle in node.bundles if bundle.num_gpus > 1]
    assert [[(p.name, p.num_gpus) for p in bundle.processes] for bundle in gpus] == [
        [("rollout-text-0", 2)],
        [("rollout-text-1", 2)],
    ]
    assert num_gpus(config) == 2 * 2 + 1 + 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*ON_GPU, "colocate=true"], r"tensor_parallel: a worker of several GPUs cannot take turns"),
        ([*ON_GPU, "policies.text.rollout.transport=ipc"], r"tensor_parallel: ipc gives weights to one GPU"),
        ([*ON_GPU, "policies.text.rollout.transport=nccl"], r"tensor_parallel: nccl gives weights to one"),
        (["policies.text.num_gpus=0.5"], r"tensor_parallel: each of its processes wants one GPU.* is 0\.5"),
        ([*ON_GPU, "gpus_per_node=1"], r"a process of 2 GPUs fits on no machine of gpus_per_node=1"),
    ],
)
def test_where_a_tensor_parallel_worker_cannot_be_it_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        validate(load_config("demo", [TENSOR_PARALLEL, *words]))


def test_machines_are_filled_in_order():
    config = load_config("demo", [*ON_GPU, "policies.text.rollout.num_workers=9", "gpus_per_node=4"])
    placement = place(config)
    assert [node.num_gpus for node in placement.nodes] == [4, 4, 4]
    assert [p.name for p in placement.nodes[1].bundles[1].processes] == ["rollout-text-5"]
    assert [placement.groups(node, 3) for node in placement.nodes] == [[n.bundles] for n in placement.nodes]


@pytest.mark.parametrize(("num_nodes", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (9, [5])])
def test_without_gpus_a_group_holds_workers_of_one_kind_and_no_more_than_there_are_machines(num_nodes, sizes):
    placement = place(load_config("demo", ["policies.text.rollout.num_workers=5"]))
    (node,) = placement.nodes
    groups = placement.groups(node, num_nodes)
    assert [bundle for group in groups for bundle in group] == list(node.bundles)
    rollouts = [group for group in groups if group[0].processes[0].name.startswith("rollout-text")]
    assert [len(group) for group in rollouts] == sizes
    for group in groups:
        assert len({(bundle.processes[0].role, bundle.processes[0].key) for bundle in group}) == 1


@settings(max_examples=60, deadline=None)
@given(
    workers=st.integers(1, 12),
    ranks=st.integers(1, 8),
    rewards=st.integers(1, 9),
    part=st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 1.0]),
    per_node=st.integers(1, 8),
)
def test_every_process_is_placed_once_and_nothing_is_overfull(workers, ranks, rewards, part, per_node):
    config = load_config(
        "demo",
        [
            *ON_GPU,
            f"policies.text.rollout.num_workers={workers}",
            f"policies.text.learner.num_ranks={ranks}",
            f"rewards.generation.num_workers={rewards}",
            f"rewards.generation.num_gpus={part}",
            f"gpus_per_node={per_node}",
        ],
    )
    placement = place(config)
    names = [process.name for process in placement.processes()]
    assert len(names) == len(set(names)) == workers + ranks + 2 + rewards + 4 + 3
    for node in placement.nodes:
        assert node.num_gpus <= per_node
        for bundle in node.bundles:
            used = sum(process.num_gpus for process in bundle.processes)
            assert used == pytest.approx(bundle.num_gpus, abs=1e-3)
            assert bundle.num_gpus <= 1
    assert placement == place(config)


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_configurations_use_the_gpus_they_are_named_for(name):
    named = re.search(r"_(\d+)gpu$", name)
    wanted = int(named[1]) if named else 0
    placement = place(load_config(name))
    assert sum(node.num_gpus for node in placement.nodes) == wanted
    assert len(placement.nodes) == max(1, wanted // 8)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["colocate=true"], "colocate: policies.text runs on the CPU"),
        ([*ON_GPU, "colocate=true", "max_staleness=1"], "set max_staleness=0 or colocate=false"),
        (
            [*ON_GPU, "colocate=true", "policies.text.learner.num_ranks=2"],
            "set num_ranks (2) equal to num_rollout_workers (1)",
        ),
        (["policies.text.num_gpus=16"], "raise gpus_per_node"),
        (["rewards.generation.num_gpus=9"], "rewards.generation.num_gpus"),
        (["storage_path=runs/far"], "storage_path: 'runs/far' is relative"),
        (["storage_path=s4://bucket/runs"], "no such scheme s4://"),
        (["storage_path=s3://"], "names no folder"),
    ],
)
def test_what_cannot_be_placed_is_one_line(overrides, said):
    with pytest.raises(ConfigError) as raised:
        validate(load_config("demo", overrides))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("wanted", "there", "fits"),
    [
        ([8, 8], [8, 8], True),
        ([8, 8], [16], True),
        ([8], [4, 4], False),
        ([4, 4, 2], [8, 2], True),
        ([], [], True),
    ],
)
def test_plans_machines_are_found_on_real_ones(wanted, there, fits):
    assert _fits(wanted, there) is fits
