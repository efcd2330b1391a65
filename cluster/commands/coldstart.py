"""``vlcot coldstart``: the starting point of a run, made alone."""

from cluster.commands.command import Command, add_config, on_config

COMMAND = Command(
    summary="train both policies and the learned expert on examples, before GRPO",
    example="vlcot coldstart demo coldstart.text_steps=200",
    add_arguments=add_config,
    run=on_config("cluster.run.train:coldstart"),
)
