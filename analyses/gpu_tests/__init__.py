"""The tests that need a GPU or use one if present, and their last result."""
