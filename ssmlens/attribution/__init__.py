"""A logit as an exact sum over what every module adds to it."""
