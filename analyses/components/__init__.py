"""How the sixteen combinations of the mimetic components learn to copy."""
