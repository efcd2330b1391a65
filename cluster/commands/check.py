"""``vlcot check``: everything that can be found without starting a run."""

from cluster.commands.command import Command, add_config, on_config

COMMAND = Command(
    summary="check a configuration and its photographs, and print what follows; starts nothing",
    example="vlcot check demo policies.text.learner.num_ranks=2",
    add_arguments=add_config,
    run=on_config("cluster.run.preflight:check", announce=False),
)
