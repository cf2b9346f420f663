"""Effects of layers, heads and tokens in the models that come with ssmlens."""
