"""From prompts to layers to the store: hooks, proofs, capture."""
