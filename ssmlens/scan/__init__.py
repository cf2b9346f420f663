"""The mathematics of selective state spaces: tensors in, tensors out."""
