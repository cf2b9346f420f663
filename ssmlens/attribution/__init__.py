"""A logit as an exact sum of the contributions of all modules."""
