"""How fast and how lean ssmlens is, always as a ratio to something measured in the same run."""
