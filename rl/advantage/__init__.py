"""From scores to the batches of each policy: filters, combination, baselines, layout over ranks."""
