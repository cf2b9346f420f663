"""What edits do to the models that ship."""
