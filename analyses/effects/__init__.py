"""What layers, heads and tokens do, in the models that come with ssmlens."""
