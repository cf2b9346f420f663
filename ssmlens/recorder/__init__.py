"""From prompts to layers to the store: hooks, closure, capture."""
