"""``vlcot eval``: a run's newest weights on held-out prompts."""

from cluster.commands.command import Command, add_config, on_config

COMMAND = Command(
    summary="measure a run's newest weights on held-out photographs",
    example="vlcot eval runs/demo eval.num_prompts=96",
    add_arguments=add_config,
    run=on_config("cluster.run.train:evaluate"),
)
