"""Worker classes, plain Python: rollout, reward and learner. ``ray.remote`` is applied in ``cluster``."""
