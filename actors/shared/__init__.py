"""What learners and rollout workers share: DeepSpeed, adapters, network, GPU."""
