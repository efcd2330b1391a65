"""How buckets of weights travel from learner ranks to rollout workers; one file a way."""
