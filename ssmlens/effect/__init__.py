"""Effects: what edits do to what a model says at the targets of prompts."""
