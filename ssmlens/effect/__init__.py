"""What edits do to what a model says."""
