"""Mutation tests of the core."""
