"""The policy loss: ratios, surrogates, KL, correction, aggregation."""
