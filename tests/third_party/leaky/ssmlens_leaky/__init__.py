"""A family, a score, a task and an init that come to ssmlens from outside."""
