"""Whether the tests of the core would notice a change of it."""
