"""Effects of edits on a model's predictions at the targets of prompts."""
