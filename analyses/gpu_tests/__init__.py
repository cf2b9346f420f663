"""The tests that need a GPU, or run on one where it is, and their last result."""
