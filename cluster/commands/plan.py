"""``vlcot plan``: its words; the tables are in ``cluster.commands.plan_tables``."""

from cluster.commands.command import Command, add_config, on_config

COMMAND = Command(
    summary="print where every process of a run goes, what it holds, and what does not fit; starts nothing",
    example="vlcot plan qwen2_5_vl_8gpu policies.text.learner.zero_stage=2",
    add_arguments=add_config,
    run=on_config("cluster.commands.plan_tables:plan", announce=False),
)
